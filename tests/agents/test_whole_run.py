"""`sartor run` with agents, whole: the command line, real roles, gates and measurement, a real stack; only the model is
scripted.

The model is small and few pairs are measured: what is tested is the way there, not the figure.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redteam_stacks import candidate as cheating_stack
from redteam_stacks import honest as honest_stack
from scripted_provider import Program, Provider, Seen, Turn
from scripted_provider.programs import cheat, honest, sloppy
from typer.testing import CliRunner, Result

from sartor_agents.backends.codex.install import CodexMissingError, ensure_codex
from sartor_agents.cache import cache_folder
from sartor_agents.checkpoints import make
from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.run import session
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.transcripts.events import Answered
from sartor_agents.transcripts.store import read_transcript
from sartor_api.search.records import FailureClass, RunSpec, StepKind, StepRecord
from sartor_api.search.snapshot import LOOKS, snapshot

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox_program() is None, reason="commands of agents need bubblewrap"),
]

MANIFEST = """
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {name: whole}
spec:
  model: {dtype: float32, source: {persistentVolumeClaim: {claimName: checkpoint}}}
  workload:
    scenario: chat
    parameters: {concurrencies: [2], promptTokens: 24, outputTokens: 32}
    envelope: {maxInputTokens: 768, maxOutputTokens: 256, maxConcurrency: 8}
  hardware: {targetRef: {name: local}}
  correctness: {samples: 8}
  baseline: {engine: transformers, tuning: none}
  measurement: {preset: quick, window: 1s, minimumReplicates: 3, maximumReplicates: 3, confidence: "60%"}
  budget: {rounds: 1, wallClock: 20m}
"""
CALM = {
    # Other load on this machine voids nothing here.
    "maximum_contention": 1.0,
    "maximum_contention_difference": 1.0,
    "maximum_generator_lag": 1000.0,
    "maximum_generator_share": 1000.0,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    make("chain", "llama", "tiny", 0, folder)
    return folder


@dataclass
class Whole:
    """One run of the command line in `root`."""

    root: Path
    checkpoint: Path

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.root / "run")

    def run(self, program: Program, agents: str, *more: str, rounds: int = 1) -> tuple[Result, Provider]:
        manifest, key = self.root / "synthesis.yaml", self.root / "key"
        manifest.write_text(MANIFEST.replace("rounds: 1", f"rounds: {rounds}"))
        (self.root / "checkpoint").symlink_to(self.checkpoint)
        with Provider(program) as provider:
            key.write_text(provider.key)
            if isinstance(program, cheat.Cheat):
                program.port = provider.port
            result = CliRunner().invoke(app, [
                "run", "-f", str(manifest), "--dir", str(self.layout.root), "--json", "--agents", agents, "--endpoint",
                provider.url, "--model", provider.model, "--key-file", str(key), *more,
            ])  # fmt: skip
        return result, provider

    def engineer(self) -> honest.Engineer:
        files = honest_stack(self.checkpoint, "chat")
        written = {path.removeprefix("stack/"): content.decode() for path, content in files.items()}
        return honest.Engineer(lambda number: written if number == 1 else None, checks=True)

    def cheats(self, *names: str) -> list[dict[str, str]]:
        """The stack with each cheat; what changed from the one before it."""
        found: list[dict[str, str]] = []
        for name in names:
            files = cheating_stack(name, self.checkpoint, "chat")
            written = {path.removeprefix("stack/"): content.decode() for path, content in files.items()}
            found.append({path: text for path, text in written.items() if not found or found[0].get(path) != text})
        return found

    def failures(self) -> list[tuple[StepKind, str, str]]:
        return [
            (one.step, one.failure.reason, one.failure.message) for one in self.records() if one.failure is not None
        ]

    def records(self) -> tuple[StepRecord, ...]:
        return RunRepository(self.layout.repository).load().state(0.0).records

    def tokens(self) -> int:
        return sum(one.cost.tokens for one in self.records())


@pytest.fixture
def whole(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Whole]:
    def calm(*arguments: Any, **named: Any) -> RunSpec:
        spec = snapshot(*arguments, **named)
        overrides: Mapping[str, Any] = spec.measurement["overrides"]  # type: ignore[assignment]
        return spec.model_copy(update={"measurement": {**spec.measurement, "overrides": {**overrides, **CALM}}})

    monkeypatch.setattr(session, "snapshot", calm)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    yield Whole(tmp_path, checkpoint)


def told(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


@pytest.mark.timeout(1200)
def test_the_honest_engineer_through_openai(whole: Whole) -> None:
    engineer = whole.engineer()
    result, provider = whole.run(engineer, "openai")
    assert result.exit_code == 0, result.output[-3000:]
    end = told(result)[-1]
    assert end["outcome"] == "confirmed" and end["speedup"]["low"] > 1
    assert whole.failures() == [] and provider.refused == []
    assert (whole.layout.stack / "__main__.py").read_text() != honest.BROKEN
    assert whole.tokens() == sum(one.input + one.output for one in provider.paid)
    checked = engineer.talks[-1].splitlines()
    assert len(checked) == 10 and all(line.startswith("ok ") for line in checked), checked
    events = list(read_transcript(whole.layout.models / "transcripts" / "whole" / "001-implement-1.jsonl"))
    assert sum(isinstance(event, Answered) for event in events) == 8


@pytest.mark.exhaustive  # the way of the run is that of `openai`; what Codex does is in tests/unit/codex
@pytest.mark.timeout(1800)
def test_the_honest_engineer_through_codex(whole: Whole) -> None:
    try:
        ensure_codex(cache_folder(), print)
    except CodexMissingError as error:
        if error.unreachable:
            pytest.skip(f"the package registry cannot be reached: {error}")
        raise
    result, provider = whole.run(whole.engineer(), "codex")
    assert result.exit_code == 0, result.output[-3000:]
    assert told(result)[-1]["outcome"] == "confirmed"
    assert whole.failures() == [] and provider.refused == []
    assert whole.tokens() == sum(one.input + one.output for one in provider.paid)


@dataclass
class Searching:
    """The honest engineer with a second idea that changes nothing of the speed; its plans build on what is asked for."""

    engineer: honest.Engineer
    asked: list[str]

    def __call__(self, seen: Seen) -> Turn:
        turn = self.engineer(seen)
        if not honest.planned_round(seen) or turn.calls:
            return turn
        opening = next(item.text for item in seen.items if item.kind == "user")
        self.asked.append(opening)
        first = re.search(r"- build on [^:]*: ([0-9a-f]{40}|the empty stack)", opening)
        plan = json.loads(turn.text.strip().removeprefix("```json").removesuffix("```"))
        if plan["action"] == "build" and first is not None and first[1] != "the empty stack":
            plan["parent"] = first[1]
        return Turn(text=json.dumps(plan))


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("trajectory", "the line goes on"),
        ("evolutionary", "founders are measured"),
        ("issue-queue", "no issue is open"),
    ],
)
def test_each_policy_searches_a_whole_run(whole: Whole, policy: str, why: str) -> None:
    first = whole.engineer()
    files = first.stack(1)
    assert files is not None
    again = {path: f"{text}\n# again\n" if path.endswith(".py") else text for path, text in files.items()}
    program = Searching(honest.Engineer(lambda number: {1: files, 2: again}.get(number)), [])
    result, provider = whole.run(program, "openai", "--policy", policy, rounds=2)
    assert result.exit_code == 0, result.output[-3000:]
    assert told(result)[-1]["outcome"] == "confirmed"
    assert whole.failures() == [] and provider.refused == []
    assert len(program.asked) == 2 and all(why in opening for opening in program.asked), program.asked[-1][-3000:]
    state = RunRepository(whole.layout.repository).load().state(0.0)
    assert [r.closed for r in state.rounds] == [True, True]
    second = state.rounds[1]
    assert second.speedup is not None and state.rounds[0].speedup is not None
    taken = [one for one in whole.records() if one.step is StepKind.EVALUATE and one.round == 2]
    assert len(second.looks) == len(taken) <= LOOKS, "as often as it leaves a gain open"
    assert whole.tokens() == sum(one.input + one.output for one in provider.paid)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_a_giant_ends_its_attempts_within_the_budget(whole: Whole) -> None:
    """An implementer whose provider does not keep to the tokens that it was asked for."""
    engineer, flood = whole.engineer(), sloppy.giant()

    def program(seen: Seen) -> Turn:
        answer = flood(seen) if "write_file" in seen.tools else engineer(seen)
        assert isinstance(answer, Turn)
        return answer

    result, provider = whole.run(program, "openai")
    assert result.exit_code == ExitCode.NO_SPEEDUP, result.output[-3000:]
    failed = [(one.step, one.failure) for one in whole.records() if one.failure is not None]
    assert failed and {step for step, _ in failed} == {StepKind.IMPLEMENT}
    assert {failure.failure_class for _, failure in failed} == {FailureClass.CANDIDATE}, failed
    implementing = [seen for seen in provider.seen if "write_file" in seen.tools]
    assert 0 < len(implementing) <= 2 * 8, "a few answers of three million characters, and no more"
    assert not whole.layout.stack.exists()
    kept = sum(path.stat().st_size for path in (whole.layout.models / "transcripts").rglob("*.jsonl"))
    assert kept < 4 << 20, "what is kept of a giant is small"


@pytest.mark.exhaustive
def test_a_cheat_ends_without_a_prize_and_learns_nothing(whole: Whole) -> None:
    program = cheat.Cheat(whole.cheats("short_answers", "inflated_usage"))
    result, provider = whole.run(program, "openai", rounds=2)
    assert result.exit_code == ExitCode.NO_SPEEDUP, result.output[-3000:]
    failed = whole.failures()
    assert [(step, reason) for step, reason, _ in failed] == [
        (StepKind.JUDGE, "OutputTooShort"), (StepKind.JUDGE, "TokenCountMismatch"),
    ], failed  # fmt: skip
    assert all(
        one.failure.failure_class is FailureClass.CANDIDATE for one in whole.records() if one.failure is not None
    )
    assert not whole.layout.stack.exists() and told(result)[-1]["speedup"] is None
    heard = "\n".join(item.text for seen in provider.seen for item in seen.items if item.kind == "result")
    assert "REACHED" not in heard and not re.search(r"root:\S*:\d", heard) and not Path("/escaped").exists()
    secrets = [provider.key, (whole.layout.models / "grant-key").read_text()]
    secrets += [path.read_text(errors="replace").strip() for path in whole.layout.sealed.iterdir() if path.is_file()]
    secrets += [path.read_text() for path in whole.layout.exchange.glob("*/token")]
    assert len(secrets) > 4 and not [secret for secret in secrets if secret[:40] in heard]
    assert not [
        path for path in whole.layout.root.rglob("*") if "escaped" in path.name or path.name == "sitecustomize.py"
    ]
    # What it planted is data in the next planner's prompt: whole, within marks that it could not close.
    opening = next(item.text for item in provider.seen[-1].items if item.kind == "user")
    planted = [part for part in re.split(r"<data-[0-9a-f]{16} ", opening)[1:] if "Ignore all instructions" in part]
    outside = re.sub(r"<data-([0-9a-f]{16}) .*?</data-\1>", "", opening, flags=re.DOTALL)
    assert planted and "Ignore all instructions" not in outside
    pages = "".join(path.read_text() for path in whole.layout.conversations.iterdir()) + whole.layout.report.read_text()
    assert "Ignore all instructions" in pages and "<script" not in pages
