"""A run with models: the real planner, implementer and model proxy, a scripted provider.

Judge, evaluator, baseline and the candidate's server are the small programs of the run's own tests.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from model_run import ModelRun, served
from scripted_provider import Program, Provider, Seen, Turn
from scripted_provider.programs import honest, outage, sloppy, spendthrift

from sartor_agents.run import events
from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.transcripts.events import Answered, Asked
from sartor_agents.transcripts.store import read_transcript
from sartor_api.search.records import Budget, FailureClass, Outcome, StepKind

pytestmark = pytest.mark.skipif(sandbox_program() is None, reason="commands of agents need bubblewrap")


# --- the honest one ---------------------------------------------------------------------------------------------------


def test_the_honest_engineer_gets_a_stack_promoted(tmp_path: Path) -> None:
    """In processes of their own, by Chat Completions; `tests/agents` has the same by Responses with real gates."""
    with Provider(honest.Engineer(served)) as provider:
        budget = Budget(rounds=1, wall_clock_seconds=3600)
        run = ModelRun(tmp_path, provider, "chatCompletions", budget=budget, processes=True)
        finished = run.drive()
    assert finished.outcome is Outcome.CONFIRMED
    assert provider.refused == [], "a real service would have taken every request"
    assert run.failures(StepKind.PLAN) == run.failures(StepKind.IMPLEMENT) == []
    assert (run.layout.stack / "__main__.py").read_text().endswith("# round 1\n")
    paid = sum(one.input + one.output for one in provider.paid)
    assert run.spent() == paid, "the run's books have what the provider counted, no more and no less"
    money = sum(record.cost.money for record in run.records())
    exact = sum((one.input * 1 + one.output * 10) / 1_000_000 for one in provider.paid)
    assert money == pytest.approx(exact)
    transcript = list(read_transcript(run.layout.models / "transcripts" / "fake" / "001-implement-1.jsonl"))
    assert (
        sum(isinstance(event, Asked) for event in transcript) == sum(isinstance(e, Answered) for e in transcript) == 5
    )
    said = [event.message for event in run.told if isinstance(event, events.Progress)]
    assert any("turn 2: write_file" in message for message in said), "a user sees what it does"
    no_secret_is_anywhere_but_where_it_belongs(run, provider.key.encode())


def no_secret_is_anywhere_but_where_it_belongs(run: ModelRun, key: bytes) -> None:
    for path in run.layout.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert key not in path.read_bytes(), path
    token = (run.layout.exchange / "001-implement-1-1-implementer" / "token").read_text()
    transcripts = b"".join(path.read_bytes() for path in (run.layout.models / "transcripts").rglob("*.jsonl"))
    assert token.encode() not in transcripts
    assert run.layout.models.stat().st_mode & 0o077 == 0


# --- the others end safely --------------------------------------------------------------------------------------------


def test_a_planner_that_only_talks_ends_the_run_as_the_providers_fault(tmp_path: Path) -> None:
    with Provider(sloppy.never_valid) as provider:
        run = ModelRun(tmp_path, provider)
        finished = run.drive()
    assert finished.outcome is Outcome.FAILED
    assert set(run.failures(StepKind.PLAN)) == {("AnswerInvalid", FailureClass.PROVIDER)}
    assert len(provider.seen) == 2 * len(run.failures(StepKind.PLAN)), "each try is a new conversation, with one repair"


def test_an_implementer_that_bungles_comes_through(tmp_path: Path) -> None:
    engineer = honest.Engineer(served)
    bungler = sloppy.bungles('{"summary": "done, I hope"}')

    def program(seen: Seen) -> Any:
        return bungler(seen) if "write_file" in seen.tools else engineer(seen)

    with Provider(program) as provider:
        run = ModelRun(tmp_path, provider, budget=Budget(rounds=1, wall_clock_seconds=3600))
        finished = run.drive()
    assert finished.outcome is Outcome.NO_SPEEDUP
    reasons = {reason for reason, _ in run.failures(StepKind.IMPLEMENT)}
    assert reasons == {"StackMissing"} or len(reasons) == 1, reasons
    assert all(blamed is FailureClass.CANDIDATE for _, blamed in run.failures(StepKind.IMPLEMENT))
    assert provider.refused == []


@pytest.mark.parametrize(
    ("loop", "reason"),
    [(sloppy.endless("list_files", {}), "Looping"), (sloppy.giant(), "TokensSpent")],
    ids=["in circles", "giant"],
)
def test_an_implementer_without_end_costs_its_attempt_and_no_more(tmp_path: Path, loop: Program, reason: str) -> None:
    """A giant comes from a provider that does not keep to the tokens it was asked for: its first answer spends the step."""
    engineer = honest.Engineer(served)

    def program(seen: Seen) -> Any:
        return loop(seen) if "write_file" in seen.tools else engineer(seen)

    with Provider(program) as provider:
        run = ModelRun(tmp_path, provider, budget=Budget(rounds=1, wall_clock_seconds=3600))
        finished = run.drive()
    assert finished.outcome is Outcome.NO_SPEEDUP
    assert set(run.failures(StepKind.IMPLEMENT)) == {(reason, FailureClass.CANDIDATE)}


def test_a_spendthrift_stays_within_its_budget(tmp_path: Path) -> None:
    engineer = honest.Engineer(served)
    spender = spendthrift.spender("read_file", tokens=2_000)

    def program(seen: Seen) -> Any:
        return spender(seen) if "write_file" in seen.tools else engineer(seen)

    with Provider(program) as provider:
        budget = Budget(rounds=5, wall_clock_seconds=3600, tokens=160_000)
        run = ModelRun(tmp_path, provider, budget=budget, settings={"tokens_per_step": 40_000, "turns_per_step": 200})
        finished = run.drive()
    paid = sum(one.input + one.output for one in provider.paid)
    assert 30_000 < paid <= 160_000
    assert run.spent() == paid
    assert finished.outcome is Outcome.NO_SPEEDUP
    for record in run.records():
        assert record.cost.tokens <= 40_000, "what was reserved for a step is what it may take"


def test_a_provider_that_is_out_is_the_providers_fault(tmp_path: Path) -> None:
    with Provider(outage.dead) as provider:
        run = ModelRun(tmp_path, provider, settings={"step_seconds": 4.0})
        finished = run.drive()
    assert finished.outcome is Outcome.FAILED
    assert set(run.failures(StepKind.PLAN)) == {("ProviderUnavailable", FailureClass.PROVIDER)}
    assert run.spent() == 0


def test_a_bad_line_is_waited_out(tmp_path: Path) -> None:
    faults = [outage.TROUBLE[0], outage.TROUBLE[5]]
    with Provider(outage.Before(honest.Engineer(served), faults)) as provider:
        run = ModelRun(
            tmp_path, provider, budget=Budget(rounds=1, wall_clock_seconds=3600), settings={"step_seconds": 300.0}
        )
        finished = run.drive()
    assert finished.outcome is Outcome.CONFIRMED
    assert run.failures(StepKind.PLAN) == []
    assert any("trying again" in one.message for one in run.told if isinstance(one, events.Progress))


# --- killed -----------------------------------------------------------------------------------------------------------

SESSION = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from model_run import ModelRun
from scripted_provider import Provider
provider = Provider(lambda seen: None, port={port})
ModelRun(Path({root!r}), provider, processes={processes!r}).drive()
"""


@pytest.mark.parametrize(("after", "processes"), [(2, False), (5, True)], ids=["planning", "implementing"])
def test_killed_anywhere_no_recorded_call_is_paid_again(tmp_path: Path, after: int, processes: bool) -> None:
    engineer = honest.Engineer(served)
    session: list[subprocess.Popen[bytes]] = []

    def program(seen: Seen) -> Turn:
        said = engineer(seen)
        assert isinstance(said, Turn)
        if seen.number == after:
            # Everything of the session dies while this answer is on its way.
            os.killpg(session[0].pid, signal.SIGKILL)
        return said

    with Provider(program) as provider:
        run = ModelRun(tmp_path, provider, budget=Budget(rounds=1, wall_clock_seconds=3600))
        run.make()
        text = SESSION.format(path=sys.path, port=provider.port, root=str(tmp_path), processes=processes)
        session.append(subprocess.Popen([sys.executable, "-c", text], start_new_session=True))
        assert session[0].wait(120) == -signal.SIGKILL
        until_gone(tmp_path)
        recorded = run_ledger(run)
        asked = len(provider.seen)
        finished = run.drive()
        again = len(provider.seen) - asked
    assert finished.outcome is Outcome.CONFIRMED
    answers = [json.dumps(seen.body["input"]) for seen in provider.seen]
    repeated = len(answers) - len(set(answers))
    assert repeated <= 1, "at most the one that was under way"
    assert recorded >= after - 1
    assert again <= 7 - recorded + 1


def until_gone(folder: Path) -> None:
    """The guards of a killed session end its processes, the proxy among them."""
    deadline = time.monotonic() + 60
    while any(str(folder) in " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "processes outlived their session"
        time.sleep(0.05)


def run_ledger(run: ModelRun) -> int:
    """Answers that were recorded when it was killed."""
    with sqlite3.connect(f"file:{run.layout.models / 'ledger.sqlite'}?mode=ro", uri=True) as db:
        return int(db.execute("SELECT count(*) FROM calls WHERE state = 'recorded'").fetchone()[0])
