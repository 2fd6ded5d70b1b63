"""The command line: what it prints, what it exits with, and that no traceback reaches a user."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from rich.console import Console
from typer.testing import CliRunner, Result

from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.cli.views import Board, LiveView, PlainView, clock, plain
from sartor_agents.run import events, session
from sartor_agents.run.errors import StorageError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.lock import run_lock
from sartor_agents.run.repository import RunRepository
from sartor_api.search.decide import Begin
from sartor_api.search.records import (
    FailureClass,
    Implementation,
    Measurement,
    Plan,
    Speedup,
    StepKind,
    StepResult,
    Verdict,
)

from run_fakes import FakeSteps, speedup  # isort: skip

MANIFEST = """
apiVersion: sartor.dev/v1alpha1
kind: ServingSynthesis
metadata: {name: editor}
spec:
  model: {source: {persistentVolumeClaim: {claimName: checkpoint}}}
  workload: {scenario: code-edit}
  hardware: {targetRef: {name: local}}
  measurement: {preset: quick}
  budget: {rounds: 2}
"""


class Sartor:
    """The command line with fake steps: everything else is real."""

    steps: FakeSteps

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dir = root / "run"
        self.manifest = root / "editor.yaml"
        self.manifest.write_text(MANIFEST)
        self.results: Callable[[Begin], StepResult | None] = lambda _: None

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    def run(self, *more: str) -> Result:
        return self("run", "-f", str(self.manifest), "--dir", str(self.dir), *more)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sartor_agents.checkpoints import make

    folder = tmp_path_factory.mktemp("model") / "checkpoint"
    make("random", "llama", "tiny", 0, folder)
    return folder


@pytest.fixture
def sartor(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Sartor:
    cli = Sartor(tmp_path)
    (tmp_path / "checkpoint").symlink_to(checkpoint)

    def steps(_layout: RunLayout, repository: RunRepository, **_: object) -> FakeSteps:
        cli.steps = FakeSteps(repository, lambda begin: cli.results(begin))
        return cli.steps

    monkeypatch.setattr(session, "LocalSteps", steps)
    monkeypatch.setattr(session, "deliver", lambda *_: None)  # fake measurements have no samples to make evidence from
    monkeypatch.setattr("sartor_agents.cli.run.find_engine", lambda *_: None)
    monkeypatch.setattr("sartor_agents.run.session.SystemClock", _Clock)
    monkeypatch.chdir(tmp_path)
    return cli


class _Clock:
    """Time that passes only when somebody waits."""

    _time = 1_700_000_000.0

    def now(self) -> float:
        return _Clock._time

    def wait(self, seconds: float) -> None:
        _Clock._time += seconds


def failing(step: StepKind, failure: FailureClass) -> Callable[[Begin], StepResult | None]:
    bad = Verdict(gate="g", passed=False, reason="Broken", message="it is <b>broken</b>", failure_class=failure)
    return lambda begin: bad if begin.step is step else None


def assert_said(result: Result, code: ExitCode, *words: str) -> None:
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.output


def test_json_is_one_event_a_line_and_the_last_one_is_finished(sartor: Sartor) -> None:
    result = sartor.run("--json")
    assert result.exit_code == 0
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert told[0]["event"] == "started" and told[0]["eta_seconds"] > 0
    last = told[-1]
    assert (last["event"], last["outcome"], last["stack"]) == ("finished", "confirmed", "stack")
    assert set(last["speedup"]) == {"value", "low", "high", "n"}
    assert {e["event"] for e in told} >= {"step-started", "planned", "judged", "measured", "step-ended", "round"}


def test_without_a_terminal_it_prints_plain_lines(sartor: Sartor) -> None:
    result = sartor.run()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert re.match(r"\[0:00\] editor \(code-edit\) started in .*: up to 2 rounds, at most \d+:\d\d to go", lines[0])
    text = result.stdout
    assert "round 1: build: try <1>" in text and "gate greedy passed" in text
    assert "round 2: speed-up 1.44x [1.43, 1.45] (n=4)" in text and "\x1b" not in text
    assert "confirmed (RoundsSpent)" in text and "report: " in text


@pytest.mark.parametrize(
    ("results", "code"),
    [
        (failing(StepKind.JUDGE, FailureClass.CANDIDATE), ExitCode.NO_SPEEDUP),
        (failing(StepKind.BASELINE, FailureClass.INFRASTRUCTURE), ExitCode.FAILED),
        (
            lambda b: Measurement(metric="m", speedup=speedup(1.0)) if b.step is StepKind.CONFIRM else None,
            ExitCode.NOT_CONFIRMED,
        ),
    ],
)
def test_every_outcome_has_its_exit_code(sartor: Sartor, results, code: ExitCode) -> None:
    sartor.results = results
    result = sartor.run("--json")
    assert result.exit_code == code
    assert json.loads(result.stdout.splitlines()[-1])["event"] == "finished"


def test_the_report_is_self_contained_and_escaped(sartor: Sartor) -> None:
    sartor.results = lambda b: failing(StepKind.JUDGE, FailureClass.CANDIDATE)(b) if b.round == 1 else None
    assert sartor.run().exit_code == 0
    page = (sartor.dir / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|<script|<link|<img""", page)
    assert "try &lt;2&gt;" in page and "<2>" not in page and "<b>broken" not in page
    assert "&lt;b&gt;broken&lt;/b&gt;" in page and "<svg" in page
    assert sartor("report", str(sartor.dir)).stdout.strip() == str(sartor.dir / "report.html")


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (MANIFEST.replace("code-edit", "code-edti"), ["editor.yaml:7", "spec.workload.scenario", "code-edit"]),
        (MANIFEST + "  surprise: 1\n", ["spec.surprise"]),
        (MANIFEST.replace("claimName: checkpoint", "claimName: nowhere"), ["persistentVolumeClaim", "nowhere"]),
        (MANIFEST.replace("name: local", "name: big-gpu"), ["targetRef", "big-gpu", "local"]),
        (MANIFEST.replace("code-edit", "json-schema"), ["json-schema cannot be run yet"]),
        (MANIFEST + "  agents: {profileRef: {name: gpt}}\n", ["profileRef", "gpt"]),
        (MANIFEST + "  search: {parallelism: 40}\n", ["parallelism"]),
        ("", ["empty"]),
        ("kind: [", ["editor.yaml"]),
    ],
)
def test_a_bad_manifest_is_a_sentence_and_leaves_nothing(sartor: Sartor, manifest: str, words: list[str]) -> None:
    sartor.manifest.write_text(manifest)
    assert_said(sartor.run(), ExitCode.BAD_REQUEST, *words)
    assert not sartor.dir.exists()


def test_damaged_checkpoints_are_sentences(sartor: Sartor, checkpoint: Path) -> None:
    (sartor.root / "checkpoint").unlink()
    shutil.copytree(checkpoint, sartor.root / "checkpoint")
    weights = sartor.root / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert_said(sartor.run(), ExitCode.BAD_REQUEST, "persistentVolumeClaim", "model.safetensors")
    config = sartor.root / "checkpoint" / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "GPT2LMHeadModel"))
    assert_said(sartor.run(), ExitCode.BAD_REQUEST, "GPT2LMHeadModel")


def test_a_missing_file_and_wrong_options_are_sentences(sartor: Sartor) -> None:
    assert_said(sartor("run", "-f", "nowhere.yaml"), ExitCode.BAD_REQUEST, "nowhere.yaml: there is no such file")
    assert_said(sartor("run"), ExitCode.BAD_REQUEST, "-f is missing")
    assert_said(sartor("run", "--resume"), ExitCode.BAD_REQUEST, "--resume needs --dir")
    assert_said(sartor("run", "--resume", "--dir", "x", "--rounds", "3"), ExitCode.BAD_REQUEST, "--rounds")
    for command in ("status", "report", "serve"):
        assert_said(sartor(command, "nowhere"), ExitCode.NOT_POSSIBLE, "nowhere is no run")


def test_a_folder_in_use_is_left_alone(sartor: Sartor) -> None:
    assert sartor.run().exit_code == 0
    assert_said(sartor.run(), ExitCode.NOT_POSSIBLE, "holds a run already", "--resume")
    with run_lock(RunLayout(sartor.dir)):
        resumed = sartor("run", "--resume", "--dir", str(sartor.dir))
        assert_said(resumed, ExitCode.NOT_POSSIBLE, "is working on this run")
    sartor.dir = sartor.root / "full"
    sartor.dir.mkdir()
    (sartor.dir / "thesis.tex").touch()
    assert_said(sartor.run(), ExitCode.NOT_POSSIBLE, "is not empty (thesis.tex)")


def test_interrupted_it_says_how_to_go_on_and_goes_on(sartor: Sartor) -> None:
    def interrupted(begin: Begin) -> StepResult | None:
        if begin.step is StepKind.EVALUATE:
            raise KeyboardInterrupt
        return None

    sartor.results = interrupted
    result = sartor.run()
    assert result.exit_code == ExitCode.INTERRUPTED
    assert f"go on with: sartor run --resume --dir {sartor.dir}" in result.stdout
    status = sartor("status", str(sartor.dir))
    assert status.exit_code == 0 and "phase Evaluating" in status.stdout
    sartor.results = lambda _: None
    assert_said(
        sartor("run", "--resume", "--dir", str(sartor.dir), "-f", str(_changed(sartor))),
        ExitCode.BAD_REQUEST,
        "is not what this run was started with",
    )
    again = sartor("run", "--resume", "--dir", str(sartor.dir), "--json")
    assert again.exit_code == 0 and json.loads(again.stdout.splitlines()[0])["resumed"] is True


def test_a_resumed_run_shows_what_was_found_before(sartor: Sartor) -> None:
    def interrupted(begin: Begin) -> StepResult | None:
        if begin.step is StepKind.PLAN and begin.round == 2:
            raise KeyboardInterrupt
        return None

    sartor.results = interrupted
    assert sartor.run().exit_code == ExitCode.INTERRUPTED
    sartor.results = lambda _: None
    lines = sartor("run", "--resume", "--dir", str(sartor.dir)).stdout.splitlines()
    before = [line for line in lines if line.startswith("  before: round ")]
    assert len(before) == 1 and before[0].endswith("; kept") and "x [" in before[0]
    started = next(e for e in replayed(sartor) if isinstance(e, events.Started))
    board = Board()
    board.update(started)
    assert [line.number for line in board.rounds.values()] == [1, 2]
    assert board.best is not None and board.rounds[1].result == "kept" and board.rounds[1].speedup is not None


def replayed(sartor: Sartor) -> list[events.Event]:
    """The events of resuming a run that has ended already."""
    told = sartor("run", "--resume", "--dir", str(sartor.dir), "--json").stdout.splitlines()
    adapter: TypeAdapter[events.Event] = TypeAdapter(events.Event)
    return [adapter.validate_json(line) for line in told]


def _changed(sartor: Sartor) -> Path:
    path = sartor.root / "changed.yaml"
    path.write_text(MANIFEST.replace("rounds: 2", "rounds: 3"))
    return path


def test_a_defect_is_a_sentence_and_a_log_file(sartor: Sartor) -> None:
    def broken(_: Begin) -> StepResult | None:
        raise ZeroDivisionError("seven by zero")

    sartor.results = broken
    result = sartor.run()
    assert_said(result, ExitCode.CRASHED, "ZeroDivisionError: seven by zero")
    match = re.search(r"the details are in (\S+)", result.stderr)
    assert match is not None
    log = Path(match[1])
    assert "Traceback" in log.read_text()
    log.unlink()


def test_a_full_disk_has_its_exit_code(sartor: Sartor) -> None:
    def full(_: Begin) -> StepResult | None:
        raise StorageError("no space left for x", "free some space")

    sartor.results = full
    assert_said(sartor.run(), ExitCode.STORAGE, "no space left", "free some space")


def test_a_damaged_repository_says_the_way_back(sartor: Sartor) -> None:
    assert sartor.run().exit_code == 0
    repository = RunRepository(sartor.dir / "repository")
    repository._commit("main", repository._tip("main"), {"ledger.json": b"{"}, "x", 5.0)  # pyright: ignore[reportPrivateUsage]
    for command in (["run", "--resume", "--dir"], ["status"], ["report"]):
        assert_said(sartor(*command, str(sartor.dir)), ExitCode.DAMAGED, "ledger.json", "update-ref refs/heads/main")


def test_status_tells_the_whole_run(sartor: Sartor) -> None:
    assert sartor.run("--rounds", "3").exit_code == 0
    text = sartor("status", str(sartor.dir)).stdout
    for words in (
        "editor",
        "confirmed (RoundsSpent)",
        "baseline: vllm 1, plain",
        "try <1>",
        "best: round 3",
        "rounds 3/3",
    ):
        assert words in text


def test_a_run_without_a_winner_cannot_be_served(sartor: Sartor) -> None:
    sartor.results = failing(StepKind.JUDGE, FailureClass.CANDIDATE)
    sartor.run()
    assert_said(sartor("serve", str(sartor.dir)), ExitCode.NOT_POSSIBLE, "has no confirmed stack", "sartor status")


def test_the_live_table_shows_hypothesis_gates_interval_and_what_is_left() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    view = LiveView(console, now=lambda: 70.0)
    ratio = Speedup(value=2.0, low=1.9, high=2.1, n=5)
    for event in (
        events.Started(
            at=0, name="editor", scenario="chat", run="r", resumed=False, rounds=3, eta_seconds=500, left_seconds=600,
            step_seconds={},
        ),
        events.Planned(at=1, round=1, action="build", hypothesis="use [bold]caches[/]", forecast_speedup=2.0),
        events.Judged(at=2, round=1, gate="greedy", passed=True, reason="Passed", message=""),
        events.Measured(at=3, round=1, speedup=ratio, confirmation=False),
        events.RoundClosed(
            at=4, round=1, kept=True, speedup=ratio, best_round=1, best_speedup=ratio, eta_seconds=100, left_seconds=300
        ),
        events.Judged(at=5, round=2, gate="greedy", passed=False, reason="OutputDiverged", message="m"),
        events.StepStarted(
            at=65, id="i", step=StepKind.JUDGE, round=2, attempt=1, reason="x", expected_seconds=5, eta_seconds=90,
            left_seconds=240,
        ),
    ):  # fmt: skip
        view(event)
    console.print(view.live.get_renderable())
    text = console.export_text()
    for words in (
        "editor  chat   1:10 used, at most 1:30 to go, budget left 4:00",
        "use [bold]caches[/]",
        "1 passed",
        "OutputDiverged",
        "2.00x [1.90, 2.10] (n=5)",
        "kept",
        "best so far",
        "round 2: judge",
    ):
        assert words in text
    view(events.Interrupted(at=71, run="r"))
    assert "sartor run --resume --dir r" in console.export_text(), "a terminal is told how to go on, too"


def test_what_models_and_candidates_write_moves_no_terminal() -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\x9bfine\u202e\u200b[red]"
    step = events.StepStarted(
        at=0,
        id="i",
        step=StepKind.PLAN,
        round=1,
        attempt=1,
        reason="x",
        expected_seconds=5,
        eta_seconds=9,
        left_seconds=9,
    )
    told = [
        events.Planned(at=1, round=1, action="build", hypothesis=hostile, forecast_speedup=2.0),
        events.Judged(at=2, round=1, gate="greedy", passed=False, reason=hostile, message=hostile),
        events.StepEnded(at=3, id="j", step=StepKind.JUDGE, round=1, seconds=1.0,
                         failure_class=FailureClass.CANDIDATE, reason=hostile, message=hostile),
        step,
        events.Progress(at=4, id="i", step=StepKind.PLAN, round=1, message=hostile),
    ]  # fmt: skip
    line, screen = io.StringIO(), Console(width=300, file=io.StringIO(), force_terminal=True, color_system=None)
    plain, live = PlainView(line), LiveView(screen, now=lambda: 5.0)
    for event in told:
        plain(event)
        live(event)
    screen.print(live.live.get_renderable())
    assert isinstance(screen.file, io.StringIO)
    for text in (line.getvalue(), screen.file.getvalue()):
        assert text.count("fine[red]") >= 3
        assert not [c for c in "\x1b\x07\x9b\u202e\u200b" if c in text]


def test_every_event_has_a_line_or_none_and_clocks_read_well(tmp_path: Path) -> None:
    assert plain(events.Waiting(at=0, seconds=8, reason="BackingOff")) == "waiting 8 s: BackingOff"
    assert [clock(s) for s in (0, 61, 3600 + 62)] == ["0:00", "1:01", "1:01:02"]
    with (tmp_path / "out").open("w") as out:
        PlainView(out)(events.Interrupted(at=0, run="r"))
    assert "sartor run --resume --dir r" in (tmp_path / "out").read_text()


# --- how a search is led ---------------------------------------------------------------------------------------------


def test_the_policy_of_the_command_line_is_the_runs(sartor: Sartor) -> None:
    assert sartor.run("--policy", "issue-queue").exit_code == ExitCode.CONFIRMED
    stored = session.open_run(sartor.dir)[1].load()
    assert stored.spec.policy.kind == "issue-queue"
    refused = sartor("run", "--resume", "--dir", str(sartor.dir), "--policy", "evolutionary")
    assert refused.exit_code == ExitCode.BAD_REQUEST and "--policy" in refused.stderr
    assert "trajectory" in sartor.run("--policy", "luck").output


def test_several_seeds_are_several_runs_and_their_spread(sartor: Sartor) -> None:
    def results(begin: Begin) -> StepResult | None:
        seeds.append(begin.id)
        if begin.step is StepKind.CONFIRM and seeds.count("000/confirm/1/1") == 2:
            return Measurement(metric="tok/s", speedup=speedup(1.0))
        return None

    seeds: list[str] = []
    sartor.results = results
    done = sartor.run("--seeds", "3")
    assert done.exit_code == ExitCode.CONFIRMED, done.output
    assert "3 seeds: 3 confirmed" in done.output or "3 seeds: 2 confirmed" in done.output
    spread = json.loads((sartor.dir / "spread.json").read_text())
    assert [one["seed"] for one in spread["runs"]] == [0, 1, 2] and spread["seeds"] == 3
    assert spread["lowest"] <= spread["median"] <= spread["highest"]
    stored = [session.open_run(sartor.dir / f"seed-{n:04d}")[1].load().spec.seed for n in range(3)]
    assert stored == [0, 1, 2]
    begun = len(seeds)
    assert sartor.run("--seeds", "3").exit_code == ExitCode.CONFIRMED
    assert len(seeds) == begun, "the same command goes on, and there was nothing left to do"


def test_steer_says_what_stands_and_refuses_what_makes_no_sense(sartor: Sartor) -> None:
    session.create(sartor.manifest, sartor.dir, session.Options())
    said = sartor("steer", str(sartor.dir), "--message", "try 8 threads", "--stop-after-round")
    assert said.exit_code == 0 and said.stdout == "not paused; ends after the round; message: try 8 threads\n"
    assert sartor("steer", str(sartor.dir), "--pause", "--message", "").stdout == "paused; ends after the round\n"
    assert "--pause" in sartor("steer", str(sartor.dir)).stderr
    assert sartor("steer", str(sartor.dir), "--message", "x" * 5000).exit_code == ExitCode.BAD_REQUEST
    sartor("steer", str(sartor.dir), "--resume")
    assert sartor("run", "--resume", "--dir", str(sartor.dir)).exit_code == ExitCode.NO_SPEEDUP, "no round was begun"
    ended = sartor("steer", str(sartor.dir), "--pause")
    assert ended.exit_code == ExitCode.BAD_REQUEST and "has ended" in ended.stderr


def test_a_control_file_that_says_nothing_is_refused_with_a_way_out(sartor: Sartor) -> None:
    session.create(sartor.manifest, sartor.dir, session.Options())
    (sartor.dir / "control.json").write_text("{ no")
    refused = sartor("run", "--resume", "--dir", str(sartor.dir))
    assert refused.exit_code == ExitCode.BAD_REQUEST and "sartor steer" in refused.stderr
    assert "Traceback" not in refused.stderr


PRICED = """
---
apiVersion: sartor.dev/v1alpha1
kind: HardwareTarget
metadata: {name: box}
spec: {platform: cpu, pricePerHour: {amount: "3600", currency: EUR}}
"""


def test_a_run_that_cannot_pay_says_so_and_does_not_start_where_that_is_wanted(sartor: Sartor) -> None:
    payback = '  payback: {outputTokensPerDay: "86400", within: 1m, policy: require}\n'
    sartor.manifest.write_text(MANIFEST.replace("name: local", "name: box") + payback + PRICED)
    sartor.manifest.write_text(
        sartor.manifest.read_text().replace("{rounds: 2}", '{rounds: 2, money: {amount: "900", currency: EUR}}')
    )
    refused = sartor.run()
    assert refused.exit_code == ExitCode.BAD_REQUEST and "it cannot pay" in refused.stderr
    assert not sartor.dir.exists()
    sartor.manifest.write_text(sartor.manifest.read_text().replace("policy: require", "policy: warn"))
    warned = sartor.run()
    assert (
        warned.exit_code == ExitCode.CONFIRMED
        and "payback: at most" in warned.output
        and "it cannot pay" in warned.output
    )
    assert "/900.00 EUR" in sartor("status", str(sartor.dir)).stdout


def test_prices_in_two_currencies_are_refused(sartor: Sartor) -> None:
    money = MANIFEST.replace("name: local", "name: box").replace("{rounds: 2}", '{rounds: 2, money: {amount: "5"}}')
    sartor.manifest.write_text(money + PRICED)
    refused = sartor.run()
    assert refused.exit_code == ExitCode.BAD_REQUEST and "one currency" in refused.stderr


# --- skills -----------------------------------------------------------------------------------------------------------


def test_skills_are_listed_as_they_apply_and_with_what_they_were_worth_in_runs(sartor: Sartor) -> None:
    every = sartor("skills").output
    assert "mlx-decode" in every and "native-decoder" in every
    here = sartor("skills", "--platform", "cpu", "--scenario", "chat").output
    assert "native-decoder" in here and "mlx-decode" not in here and "predicted-outputs" not in here

    def results(begin: Begin) -> StepResult | None:
        run = sartor.steps.repository
        if begin.step is StepKind.PLAN and begin.round == 2:
            first = run.load().state(0.0).rounds[0].implementation
            assert first is not None
            return Plan(
                round=2, action="build", parent=first.commit, hypothesis="add it", skills_consulted=("roofline",)
            )
        if begin.step is StepKind.IMPLEMENT:
            used = ("serving-core",) if begin.round == 1 else ("serving-core", "native-decoder")
            files = {"stack/__main__.py": b"%d" % begin.round}
            return run.save_candidate(begin.round, None, files, Implementation(skills_used=used), 1000.0)
        return None

    sartor.results = results
    assert sartor.run().exit_code == ExitCode.CONFIRMED
    lines = {line.split()[0]: line.split()[1:] for line in sartor("skills", str(sartor.dir)).output.splitlines()[1:]}
    assert lines["native-decoder"] == ["0", "1", "0", "1.20x", "[1.18,", "1.22]"]
    assert lines["roofline"] == ["1", "0", "0", "-"] and lines["serving-core"] == ["0", "2", "0", "-"]
    twice = sartor("skills", str(sartor.dir), str(sartor.dir)).output
    assert "native-decoder" in twice and "1.20x" in twice and " 2 " in twice
    assert_said(sartor("skills", str(sartor.root)), ExitCode.NOT_POSSIBLE, "is no run")
