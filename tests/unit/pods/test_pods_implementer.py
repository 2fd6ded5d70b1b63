"""The implementer's three containers: what the agent may leave behind, and what becomes of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pods_world import PodWorld, pod_world

from sartor_api.search.records import FailureClass, Implementation, Plan, StepKind, Verdict
from sartor_api.search.wire import StepBegin

GOOD = {"implementation": {"summary": "made", "skills_used": []}}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        yield made


def first(world: PodWorld) -> StepBegin:
    plan = Plan(round=1, action="build", hypothesis="h")
    return world.begin(StepKind.IMPLEMENT, plan=plan, branch="candidate/001")


def left_behind(world: PodWorld, begin: StepBegin, answer: object = GOOD) -> Path:
    """A worktree as an agent might leave it; returns it."""
    world.environment(begin, "committer")
    tree = world.work(begin) / "tree"
    (tree / "stack").mkdir(parents=True)
    (tree / "stack/__main__.py").write_text("print()\n")
    (world.work(begin) / "answer.json").write_text(answer if isinstance(answer, str) else json.dumps(answer))
    return tree


def committed(world: PodWorld, begin: StepBegin) -> Verdict | Implementation:
    assert world.run(begin, "committer") == 0, world.said(begin)
    result = world.report(begin).result
    assert isinstance(result, Verdict | Implementation)
    return result


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        (lambda t: (t / "stack/link").symlink_to("/etc/passwd"), "LinkInStack", "stack/link"),
        (lambda t: (t / "notes.txt").write_text("x"), "WroteOutsideStack", "notes.txt"),
        (lambda t: (t / "stack/__main__.py").unlink(), "StackIncomplete", "__main__.py is missing"),
        (lambda t: (t / "stack/-rf").write_text("x"), "PushRefused", "begins with a dash"),
        (lambda t: (t / "stack/.gitattributes").write_text("x"), "PushRefused", "git keeps for itself"),
        (lambda t: t.rename(t.with_name("gone")), "StackIncomplete", "the worktree is gone"),
    ],
    ids=["link", "outside", "incomplete", "name", "git", "gone"],
)  # fmt: skip
def test_what_no_candidate_may_be_costs_the_attempt(
    world: PodWorld, spoil: Callable[[Path], object], reason: str, words: str
) -> None:
    begin = first(world)
    spoil(left_behind(world, begin))
    result = committed(world, begin)
    assert isinstance(result, Verdict)
    assert (result.reason, result.failure_class) == (reason, FailureClass.CANDIDATE)
    assert words in result.message
    assert "candidate" not in world.git.ok("operator", "ls-remote", world.git.address())


def test_a_worktree_that_is_a_link_is_not_followed(world: PodWorld, tmp_path: Path) -> None:
    begin = first(world)
    tree = left_behind(world, begin)
    tree.rename(tmp_path / "elsewhere")
    tree.symlink_to(tmp_path / "elsewhere")
    result = committed(world, begin)
    assert isinstance(result, Verdict) and result.reason == "LinkInStack"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("{ not json", "RoleAnsweredGarbage"),
        ("[" * 100_000, "RoleAnsweredGarbage"),
        ({"implementation": {"summary": 7}}, "RoleAnsweredGarbage"),
        ({}, "RoleAnsweredGarbage"),
        ('{"x": "' + "y" * (2 << 20) + '"}', "RoleAnsweredGarbage"),
    ],
    ids=["text", "deep", "type", "empty", "large"],
)
def test_an_answer_that_is_none_is_the_infrastructure_s_failure(world: PodWorld, answer: object, reason: str) -> None:
    begin = first(world)
    left_behind(world, begin, answer)
    result = committed(world, begin)
    assert isinstance(result, Verdict)
    assert (result.reason, result.failure_class) == (reason, FailureClass.INFRASTRUCTURE)


def test_an_answer_that_is_a_link_to_a_secret_tells_nothing_of_it(world: PodWorld) -> None:
    begin = first(world)
    left_behind(world, begin)
    answer = world.work(begin) / "answer.json"
    answer.unlink()
    answer.symlink_to(world.environment(begin, "committer")["SARTOR_TOKEN_FILE"])
    result = committed(world, begin)
    assert isinstance(result, Verdict) and result.reason == "RoleAnsweredGarbage"
    assert "secret-token" not in world.said(begin)
    answer.unlink()
    elsewhere = answer.with_name("elsewhere.json")
    elsewhere.write_text(json.dumps({"implementation": {"summary": "what another wrote"}}))
    answer.symlink_to(elsewhere)
    result = committed(world, begin)
    assert isinstance(result, Verdict) and "no plain file" in result.message, "not even to an answer"
    answer.unlink()
    result = committed(world, begin)
    assert isinstance(result, Verdict) and result.reason == "RoleGaveNothing"


def test_what_the_backend_said_of_itself_is_reported_as_it_is(world: PodWorld) -> None:
    begin = first(world)
    failure = {
        "gate": "implement",
        "passed": False,
        "reason": "RateLimited",
        "message": "m",
        "failure_class": "provider",
    }
    left_behind(world, begin, {"failure": failure, "usage": {"tokens": 700, "money": 0.5}})
    result = committed(world, begin)
    assert isinstance(result, Verdict)
    assert (result.reason, result.failure_class) == ("RateLimited", FailureClass.PROVIDER)
    assert world.report(begin).cost.tokens == 700


def test_commit_and_hash_that_an_agent_claims_are_overwritten(world: PodWorld) -> None:
    begin = first(world)
    claimed = {"summary": "made", "commit": "f" * 40, "content_hash": "e" * 64, "lines": 1_000_000}
    left_behind(world, begin, {"implementation": claimed})
    result = committed(world, begin)
    assert isinstance(result, Implementation)
    assert (
        result.commit
        == world.git.ok("operator", "ls-remote", world.git.address(), "refs/heads/candidate/001").split()[0]
    )
    assert result.content_hash != "e" * 64 and result.lines == 1


def test_what_an_agent_says_of_itself_cannot_break_the_record(world: PodWorld) -> None:
    begin = first(world)
    nasty = "a\u2028b\x00c\x1b[2J\nSartor-Step: 009/implement/1/1\n" + "y" * 9000
    left_behind(world, begin, {"implementation": {"summary": nasty, "skills_used": ["s" * 500] * 500}})
    result = committed(world, begin)
    assert isinstance(result, Implementation) and len(result.skills_used) == 32
    report = world.report(begin)
    (world.work(begin) / "answer.json").unlink()
    assert world.run(begin, "committer") == 0 and world.report(begin) == report, "its own push is recognised"
    said = [line for line in message_of(world, result.commit).split("\n") if line.startswith("Sartor-Step: ")]
    assert said == ["Sartor-Step: 001/implement/1/1"]


def message_of(world: PodWorld, commit: str) -> str:
    vault = world.git.root / "team-a/editor-1/open.git"
    return world.git.ok(None, f"--git-dir={vault}", "log", "-1", "--format=%B", commit)


@pytest.mark.parametrize(
    "failure",
    [
        {"gate": "implement", "passed": True, "reason": "Passed"},
        {"gate": "g" * 9000, "passed": False, "reason": "R" * 9000, "failure_class": "provider"},
    ],
)
def test_a_failure_that_is_none_is_garbage(world: PodWorld, failure: dict[str, object]) -> None:
    begin = first(world)
    left_behind(world, begin, {"failure": failure})
    result = committed(world, begin)
    assert isinstance(result, Verdict) and result.reason == "RoleAnsweredGarbage"


def test_a_repair_starts_from_the_failed_try_and_goes_on_from_it(world: PodWorld) -> None:
    one = world.done(first(world))
    plan = Plan(round=1, action="build", hypothesis="h")
    begin = world.begin(StepKind.IMPLEMENT, attempt=2, plan=plan, branch="candidate/001", source=one.commit)
    assert world.run(begin, "source") == 0
    assert (world.work(begin) / "tree/stack/__main__.py").is_file()
    two = world.done(begin)
    vault = world.git.root / "team-a/editor-1/open.git"
    parents = world.git.ok(None, f"--git-dir={vault}", "rev-list", "--parents", "-1", str(two.commit)).split()
    assert parents == [two.commit, one.commit]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_sigkill_around_the_push_makes_one_commit(world: PodWorld, tmp_path: Path, moment: str) -> None:
    begin = first(world)
    left_behind(world, begin)
    real, spy = shutil.which("git"), tmp_path / "bin"
    spy.mkdir()
    push = {"before": "kill -9 $PPID; exit 1", "after": f'{real} "$@"; kill -9 $PPID'}[moment]
    (spy / "git").write_text(f'#!/bin/sh\n[ "$1" = push ] && {{ {push}; }}\nexec {real} "$@"\n')
    (spy / "git").chmod(0o755)
    values = world.environment(begin, "committer") | {"PATH": f"{spy}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "sartor_agents.pods", "committer"]
    assert subprocess.run(command, env=values, check=False, timeout=60).returncode == -signal.SIGKILL
    assert world.said(begin) == ""
    result = committed(world, begin)
    assert isinstance(result, Implementation)
    vault = world.git.root / "team-a/editor-1/open.git"
    commits = world.git.ok(None, f"--git-dir={vault}", "rev-list", "refs/heads/candidate/001").split()
    assert commits == [result.commit]


def test_a_candidate_on_top_of_another_round_s(world: PodWorld) -> None:
    one = world.done(first(world))
    plan = Plan(round=2, action="build", hypothesis="h", parent=one.commit)
    two = world.done(world.begin(StepKind.IMPLEMENT, 2, plan=plan, source=one.commit))
    vault = world.git.root / "team-a/editor-1/open.git"
    assert one.commit in world.git.ok(None, f"--git-dir={vault}", "rev-list", str(two.commit)).split()
    assert "# round 2" in world.stored(two.commit, "stack/__main__.py").decode()


def test_without_the_source_the_agent_does_not_begin(world: PodWorld) -> None:
    plan = Plan(round=1, action="build", hypothesis="h")
    begin = world.begin(StepKind.IMPLEMENT, plan=plan, source="a" * 40)
    assert world.run(begin, "implementer") == 2
    assert "run the container `source`" in world.said(begin, "implementer")
    assert world.run(begin, "source") == 3
    assert world.said(begin, "source")


def test_an_agent_that_falls_over_leaves_an_answer_that_says_so(world: PodWorld) -> None:
    world.behaviours["implementer"] = "crash"
    begin = first(world)
    assert world.run(begin, "source") == 0 and world.run(begin, "implementer") == 0
    result = committed(world, begin)
    assert isinstance(result, Verdict)
    assert (result.reason, result.failure_class) == ("RoleFailed", FailureClass.INFRASTRUCTURE)
