"""What Sartor takes around a model's own time, for each step of planner and implementer.

Runs are driven with real role processes, the real model proxy, tools and sandbox, and a scripted model that answers after
`THINKS` seconds; judge, evaluator and servers are small programs. The time of a step, less what the model thought, is
Sartor's: starting the role, the proxy, the conversation, its tools (the implementer writes files and runs two commands).

    python -m benchmarks.agents_overhead [--runs 6]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.record import ROOT, Bench, median_row

sys.path.insert(0, str(ROOT / "tests" / "provider"))
sys.path.insert(0, str(ROOT / "tests" / "unit" / "run"))
sys.path.insert(0, str(ROOT / "tests" / "unit" / "openai_backend"))

from model_run import ModelRun, served
from scripted_provider import Provider, Seen, Turn
from scripted_provider.programs import honest

from sartor_agents.run.driver import SystemClock
from sartor_api.search.records import Outcome, StepKind

THINKS = 0.5
"""Seconds for each answer."""
LIMIT = 2.0
ROLES = {StepKind.PLAN: "planner", StepKind.IMPLEMENT: "implementer"}


class Thinker:
    """`program`, with a delay; `answers` are the times at which it was asked."""

    def __init__(self, program: Callable[[Seen], Turn]) -> None:
        self._program = program
        self.answers: list[float] = []

    def __call__(self, seen: Seen) -> Any:
        said = self._program(seen)
        self.answers.append(time.time())
        return replace(said, delay=THINKS)


def overhead(backend: str, runs: int) -> dict[StepKind, list[float]]:
    """Seconds of each step without the model's own, by step."""
    found: dict[StepKind, list[float]] = {kind: [] for kind in ROLES}
    for number in range(runs):
        thinker = Thinker(honest.Engineer(served))
        with tempfile.TemporaryDirectory() as folder, Provider(thinker) as provider:
            run = ModelRun(Path(folder), provider, settings={"backend": backend}, clock=SystemClock(), processes=True)
            finished = run.drive()
            assert finished.outcome is Outcome.CONFIRMED, f"run {number}: {finished.reason}: {finished.message}"
            for record in run.records():
                if record.step in found:
                    thought = sum(record.started <= at <= record.finished for at in thinker.answers) * THINKS
                    found[record.step].append(record.finished - record.started - thought)
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents_overhead", description=__doc__)
    parser.add_argument("--runs", type=int, default=6, help="runs of two rounds for each backend")
    options = parser.parse_args(arguments)
    record = Bench("agents_overhead")
    for backend in ("openai", "codex"):
        for kind, values in overhead(backend, options.runs).items():
            note = f"a step of the {ROLES[kind]} without the model's own time, its tools included"
            record.add(median_row(f"agents/overhead/{backend}/{ROLES[kind]}", "s", "lower", values, LIMIT, note))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
