"""The way from the first user to the end of the rollout, what is shown of it, and what it amounts to."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from sartor_api.load import load_file
from sartor_demo import stage as stage_module
from sartor_demo.board import EVERY, Board, PlainView, plain, render, totals, what_next
from sartor_demo.cli import (
    GATEWAY_PARTS,
    LEFT_OUT,
    MANIFESTS,
    NO_WINNER,
    OTHERWISE,
    PROBLEM,
    WORKS,
    parser,
    summary,
    verdict,
)
from sartor_demo.errors import DemoError
from sartor_demo.installing import LOG_FOLDER, fitted
from sartor_demo.load import Seen
from sartor_demo.node import ROOT, SLOW_COMMAND
from sartor_demo.stage import STAYS, Ending, Stage, Users, accepted, ended
from sartor_demo.traffic import Outcome
from sartor_devcluster.components import CONSEQUENCES
from sartor_operator.cli import parser as operator_parser

STEPS = [{"weight": 20, "hold": "20s"}, {"weight": 50, "hold": "20s"}]
SERVICES = {"baseline": "editor-baseline", "candidate": "editor-stack"}
NOW = "2026-01-01T00:00:00Z"


def rollout(phase: str, step: int = 0, *, weight: int = 0, wanted: int | None = None, **status: Any) -> dict[str, Any]:
    arms = {
        name: {"weight": share, "wantedWeight": share if wanted is None else asked, "readyReplicas": 1, "samples": 30}
        for name, share, asked in (
            ("baseline", 100 - weight, 100 - (wanted or 0)),
            ("candidate", weight, wanted or 0),
        )
    }
    return {
        "kind": "ServingRollout",
        "metadata": {"name": "editor-1", "creationTimestamp": NOW},
        "spec": {**{arm: {"service": name} for arm, name in SERVICES.items()}, "policy": {"steps": STEPS}},
        "status": {"phase": phase, **({"step": step} if step else {}), **arms, **status},
    }


def synthesis(phase: str, **conditions: str) -> dict[str, Any]:
    found = [{"type": kind, "status": value} for kind, value in conditions.items()]
    return {
        "kind": "ServingSynthesis",
        "metadata": {"name": "editor", "namespace": "team-a", "generation": 1},
        "spec": {"rollout": {"parentRefs": [{"name": "inference"}], "hostnames": ["editor.example.com"]}},
        "status": {"phase": phase, "observedGeneration": 1, "conditions": found, "message": "why"},
    }


PROMOTED = rollout("Promoted", 2, weight=100, promotedAt=NOW)
ROLLED_BACK = rollout("RolledBack", 2, finishedAt=NOW, message="a guardrail failed")


# --- the story ------------------------------------------------------------------------------------------------------


@dataclass
class Script:
    """What the cluster says, one thing at a look; the clock moves a second with each."""

    pages: list[dict[str, Any] | None]
    now: float = 0.0
    said: list[str] = field(default_factory=list[str])
    begun: list[str] = field(default_factory=list[str])
    braked: list[tuple[float, bool]] = field(default_factory=list[tuple[float, bool]])

    def clock(self) -> float:
        return self.now


class FakeCluster:
    def step_back(self, nice: int) -> None:
        raise PermissionError

    def gateway_address(self) -> tuple[str, int]:
        return "10.240.0.3", 8080


class FakeLoad:
    def __init__(self, script: Script) -> None:
        self.seen, self._script, self.stopped = Seen({}), script, False

    def look(self) -> None:
        return

    def failed(self) -> bool:
        return False

    def stop(self) -> None:
        self.stopped = True
        self._script.said.append("users gone")

    def settle(self) -> None:
        return


@pytest.fixture
def brake(tmp_path: Path) -> Path:
    return tmp_path / "slow"


def played(
    monkeypatch: pytest.MonkeyPatch, pages: list[dict[str, Any] | None], brake: Path | None, seconds: float = 100.0
) -> tuple[Ending, Script]:
    script = Script(pages)

    class News:
        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> "News":
            return self

        def __exit__(self, *_: object) -> None: ...

        def put(self, _: object) -> None: ...

        def rest(self) -> Iterator[dict[str, Any]]:
            return iter(())

        def get(self, seconds: float) -> dict[str, Any] | None:
            if not seconds:
                return None
            script.now += 1.0
            return script.pages.pop(0) if script.pages else None

    class View:
        def say(self, text: str) -> None:
            script.said.append(text)

        def look(self, _: Board) -> None:
            if brake is not None:
                script.braked.append((script.now, brake.exists()))

    def load(_cluster: object, plan: Any, _arms: object, _tell: object) -> FakeLoad:
        script.begun.append(plan.host)
        return FakeLoad(script)

    monkeypatch.setattr(stage_module, "News", News)
    monkeypatch.setattr(stage_module, "Load", load)
    monkeypatch.setattr(stage_module.show, "model", lambda *_: "m")
    monkeypatch.setattr(stage_module.show, "edits", lambda *_: [("def 0:", " x")])
    cluster: Any = FakeCluster()
    made = Stage(cluster, synthesis("Pending"), View(), Users(), brake=brake, clock=script.clock)
    return made.play(since=0.0, seconds=seconds), script


def test_users_come_when_the_gateway_has_the_route_once_and_stay_beyond_the_promotion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nothing = rollout("Pending")
    nothing["status"]["baseline"]["weight"] = 0
    pages = [
        synthesis("RollingOut"), nothing, rollout("Pending"), rollout("Progressing", 1, weight=20),
        rollout("Progressing", 2, weight=50), PROMOTED, synthesis("Serving", Ready="True"),
    ]  # fmt: skip
    ending, script = played(monkeypatch, list(pages), None)
    assert (ending.outcome, script.begun) == ("Promoted", ["editor.example.com"])
    assert script.now >= len(pages) - 1 + STAYS, "what serves after the promotion is seen serving"
    assert script.said[-1] == "users gone"
    assert not accepted(nothing) and accepted(rollout("Pending"))


def test_the_planted_stack_is_slow_from_half_of_the_traffic_until_the_end(
    monkeypatch: pytest.MonkeyPatch, brake: Path
) -> None:
    pages = [
        rollout("Progressing", 1, weight=20), rollout("Progressing", 2, weight=20, wanted=50),
        rollout("Progressing", 2, weight=50), rollout("RollingBack", 2, weight=50, wanted=0), ROLLED_BACK,
    ]  # fmt: skip
    ending, script = played(monkeypatch, list(pages), brake)
    assert ending.outcome == "RolledBack"
    assert [there for _, there in script.braked[:4]] == [False, False, True, True], "accepted, not only wanted"
    assert sum("PLANTED" in line for line in script.said) == 1 and not brake.exists()


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (synthesis("NoGain"), "NoGain"),
        (synthesis("Searching", Stalled="True"), "Searching"),
    ],
)
def test_a_search_without_a_winner_ends_without_users(
    monkeypatch: pytest.MonkeyPatch, last: dict[str, Any], outcome: str
) -> None:
    ending, script = played(monkeypatch, [synthesis("Searching"), last], None)
    assert (ending.outcome, ending.load, script.begun) == (outcome, None, [])


def test_what_is_lacking_for_a_moment_only_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator may see the synthesis before the HardwareTarget that was applied with it."""
    pages = [synthesis("Pending", Stalled="True"), None, synthesis("Searching"), *[None] * 30, synthesis("NoGain")]
    ending, script = played(monkeypatch, pages, None)
    assert ending.outcome == "NoGain" and script.now > 30


def test_a_synthesis_that_serves_is_not_the_end_before_its_rollout_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at again when all is over: the rollout comes after the synthesis, and users come for a while."""
    ending, script = played(monkeypatch, [synthesis("Serving", Ready="True"), None, PROMOTED], None)
    assert ending.outcome == "Promoted" and len(script.begun) == 1


def test_what_takes_too_long_is_said_and_the_users_are_sent_home(monkeypatch: pytest.MonkeyPatch, brake: Path) -> None:
    ending, script = played(monkeypatch, [rollout("Progressing", 2, weight=50)], brake, seconds=5.0)
    assert ending.outcome == "Error" and "not done after 0 minutes" in ending.problem
    assert script.said[-1] == "users gone" and not brake.exists()
    assert ending.load is not None, "what they got until then is counted"
    assert summary(ending, seconds=5)["message"] == ending.problem


def test_only_what_is_stored_for_good_is_an_end() -> None:
    assert ended(rollout("Promoted", 2, weight=100)) is None and ended(rollout("RolledBack")) is None
    assert (ended(PROMOTED), ended(ROLLED_BACK), ended({})) == ("Promoted", "RolledBack", None)


# --- what clients and the gateway saw ---------------------------------------------------------------------------------


def outcome(identity: str, result: Any = "answered", **fields: Any) -> Outcome:
    return Outcome(identity, 0, False, result, **fields)


def line(identity: str, service: str, **fields: Any) -> bytes:
    found = {"start_time": "1700000000.5", "request_id": identity, "upstream_cluster": f"team-a_{service}_8000"}
    return json.dumps({**found, "response_code": 200, "upstream_request_attempt_count": 1, **fields}).encode()


def test_requests_and_lines_are_joined_in_either_order() -> None:
    seen = Seen({name: arm for arm, name in SERVICES.items()})
    seen.line(line("a", "editor-stack"))
    seen.outcome(outcome("a", seconds=0.25, first=0.05))
    seen.outcome(outcome("b", "failed", detail="HTTP 503"))
    assert seen.unlogged == 1
    seen.line(line("b", "editor-baseline"))
    seen.line(line("else", "editor-stack"))
    candidate, baseline = seen.arms["candidate"], seen.arms["baseline"]
    assert (candidate.requests, candidate.lost, list(candidate.whole)) == (1, 0, [0.25])
    assert (baseline.requests, baseline.lost, list(baseline.whole)) == (1, 1, []), "a failure has no time"
    assert (seen.counts["sent"], seen.counts["failed"], seen.unlogged, seen.duplicated) == (2, 1, 0, 0)
    assert candidate.figures()["latencyP50Ms"] == 250.0 and list(seen.problems) == ["HTTP 503"]


@pytest.mark.parametrize(
    ("lines", "more"),
    [
        ([line("a", "editor-stack"), line("a", "editor-baseline")], 1),
        ([line("a", "editor-stack", upstream_request_attempt_count=3)], 2),
        ([line("a", "editor-stack"), line("x", "editor-stack"), line("x", "editor-stack"), b"no record"], 0),
    ],
    ids=["came twice", "was tried again", "another client's"],
)
def test_a_request_that_was_carried_out_again_is_counted(lines: list[bytes], more: int) -> None:
    seen = Seen({})
    seen.outcome(outcome("a"))
    for one in lines:
        seen.line(one)
    assert seen.duplicated == more


# --- what is shown ----------------------------------------------------------------------------------------------------


def board() -> Board:
    verdict = {"outcome": "inconclusive", "message": "30 of 60 requests"}
    shown = Board(rollout("Progressing", 1, weight=20, wanted=50, verdict=verdict), Seen({"editor-stack": "candidate"}))
    shown.seen.outcome(outcome("a", seconds=0.123))
    shown.seen.line(line("a", "editor-stack"))
    return shown


def test_a_line_has_both_arms_the_verdict_and_the_counts() -> None:
    text = plain(board())
    assert text.startswith("step 1 of 2 (20 %), Progressing | baseline 80 % (wanted 50 %), 1 ready, 30 samples")
    assert "candidate 20 % (wanted 50 %)" in text and "answer 123 ms" in text
    assert "verdict inconclusive | next: step 2: 50 %" in text
    assert text.endswith("requests: 1 sent, 1 answered, 0 failed, 0 cut, 0 duplicated")


def test_the_screen_has_the_same_and_what_comes_next() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(render(board()))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in (
        "editor-1",
        "candidate",
        "20 %",
        "50 %",
        "123 ms",
        "30 of 60 requests",
        "next     step 2: 50 %",
        "1 sent",
    ):
        assert part in text, part
    console.print(render(Board()))  # before there is a rollout


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (rollout("Pending"), "step 1: 20 %"),
        (rollout("Progressing", 2, weight=50), "promotion: all traffic to the candidate"),
        (rollout("Promoting", 2, weight=50), "promoted: all traffic on the candidate"),
        (rollout("RollingBack", 2, weight=50), "everything on the baseline"),
        (PROMOTED, ""),
    ],
)
def test_what_comes_next(found: dict[str, Any], text: str) -> None:
    assert what_next(found) == text


def test_without_a_terminal_a_line_comes_with_every_change_and_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    view, shown = PlainView(out, lambda: "00:00", lambda: now[0]), board()
    view.look(Board())
    for _ in range(5):
        view.look(shown)
    assert out.getvalue().count("\n") == 1
    now[0] = EVERY + 1
    view.look(shown)
    shown.rollout = rollout("Progressing", 2, weight=50)
    view.look(shown)
    assert out.getvalue().count("\n") == 3


# --- what it amounts to -----------------------------------------------------------------------------------------------


@dataclass
class Done:
    seen: Seen


def test_the_summary_for_machines() -> None:
    seen = Seen({"editor-stack": "candidate"})
    seen.outcome(outcome("a", seconds=0.2))
    seen.line(line("a", "editor-stack"))
    seen.outcome(outcome("b", "cut"))
    won = synthesis("Serving")
    won["status"]["best"] = {"speedup": {"value": "3.3", "low": "2.9", "high": "3.8", "replicates": 3}}
    load: Any = Done(seen)
    found = summary(Ending("Promoted", won, PROMOTED, load), seconds=12.3)
    assert json.loads(json.dumps(found)) == found
    assert (found["requests"], found["answered"], found["failed"], found["cut"]) == (2, 1, 0, 1)
    assert (found["outcome"], found["duplicated"], found["speedup"]["low"]) == ("Promoted", 0, 2.9)
    assert found["arms"]["candidate"]["requests"] == 1
    none = summary(Ending("NoGain", synthesis("NoGain"), {}, None), seconds=1)
    assert (none["requests"], none["outcome"], none["arms"]) == (0, "NoGain", {})
    assert totals(seen.counts, 0) == "requests: 2 sent, 1 answered, 0 failed, 1 cut, 0 duplicated"


@pytest.mark.parametrize(
    ("ended_as", "lost", "rollback", "code"),
    [
        ("Promoted", 0, False, WORKS),
        ("Serving", 0, False, WORKS),
        ("RolledBack", 0, True, WORKS),
        ("RolledBack", 0, False, OTHERWISE),
        ("Promoted", 0, True, OTHERWISE),
        ("Promoted", 1, False, OTHERWISE),
        ("NoGain", 0, False, NO_WINNER),
        ("Error", 0, True, PROBLEM),
    ],
)
def test_the_exit_code_says_whether_it_went_as_it_should(ended_as: str, lost: int, rollback: bool, code: int) -> None:
    assert verdict(ended_as, {"failed": 0, "cut": lost, "duplicated": 0}, rollback=rollback) == code


# --- what is installed ------------------------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    folder = ROOT / "operator" / "manifests"
    return [
        d
        for file in ("deployment.yaml", "role.yaml", "namespace.yaml")
        for d in YAML(typ="safe").load_all(folder / file)
    ]


def test_the_operator_reads_the_gateways_log_and_takes_its_options() -> None:
    log = Path("/cluster/gateway/access.log")
    found = fitted(manifests(), access_log=log, stack_command=SLOW_COMMAND)
    pod = found[0]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volume = next(v for v in pod["volumes"] if v["name"] == "gateway-log")
    mount = next(m for m in container["volumeMounts"] if m["name"] == "gateway-log")
    assert volume["hostPath"]["path"] == "/cluster/gateway" and mount["readOnly"] is True
    program, *arguments = container["command"]
    assert program == "sartor-operator"
    given = operator_parser().parse_args(arguments)
    assert [str(path) for path in given.access_log] == [f"{LOG_FOLDER}/access.log"]
    assert given.stack_command == SLOW_COMMAND and given.metrics_port == 9090
    assert found[1:-1] == manifests()[1:-1]
    labels = found[-1]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged", "no other standard has volumes of the host"


def test_without_a_gateway_nothing_is_changed() -> None:
    assert fitted(manifests(), access_log=None, stack_command=None) == manifests()
    with pytest.raises(DemoError, match="0 Deployments sartor-operator"):
        fitted(manifests()[1:], access_log=None, stack_command=None)


def test_the_example_rolls_out_within_a_demonstration() -> None:
    (wanted,) = load_file(MANIFESTS / "live-traffic.yaml")
    policy = wanted.spec.rollout
    assert policy.parent_refs is not None and policy.analysis.sources == ("gatewayAccessLog",)
    seen_at_the_gateway = {"errorRate", "handoverRate", "endToEndLatencyP50", "endToEndLatencyP99"}
    assert {guardrail.metric for guardrail in wanted.spec.objective.guardrails} <= seen_at_the_gateway
    assert policy.steps[-1].weight == stage_module.SLOW_AT, "the planted stack is slow in the last step"
    assert parser().parse_args(["up"]).synthesis == MANIFESTS / "live-traffic.yaml"
    assert {*GATEWAY_PARTS, *LEFT_OUT} <= set(CONSEQUENCES), "words that DevCluster.up knows"
