"""`sartor status` and `sartor report`: look at a run, whether it is under way or over."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartor_agents.cli.exits import user_errors
from sartor_agents.cli.views import budgets, clock
from sartor_agents.memory.quoting import printable
from sartor_agents.report.build import write_report
from sartor_agents.run import session
from sartor_agents.run.notes import interval, outcome
from sartor_agents.run.placement import device_hardware
from sartor_api.search.decide import Finish, Wait, decide, phase
from sartor_api.search.spending import standing
from sartor_api.search.state import RunState

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="folder of the run")]


def _state(directory: Path) -> RunState:
    """The run as if it went on now; time since its last step is not charged."""
    _, repository = session.open_run(directory)
    return repository.load().state(time.time())


@user_errors
def status(directory: RunFolder) -> None:
    """Say where a run stands: phase, rounds, best so far, what was spent, what comes next."""
    run = _state(directory)
    now = run.session_started
    console = Console()
    console.print(f"[bold]{escape(run.spec.name)}[/]  {run.spec.scenario}  {directory}", highlight=False)
    if run.finished is not None:
        said = escape(printable(run.finished.message))
        console.print(f"{run.finished.outcome.value} ({run.finished.reason}): {said}", highlight=False)
    else:
        console.print(f"phase {phase(run, now).value}; next: {_next(run, now)}", highlight=False)
    if run.baseline is not None:
        base = run.baseline
        console.print(f"baseline: {base.engine} {base.version}, {base.chosen}", highlight=False)
    if run.rounds:
        table = Table(box=None, pad_edge=False)
        for name in ("round", "hypothesis", "speed-up over the baseline", "result"):
            table.add_column(name, overflow="fold")
        for current in run.rounds:
            table.add_row(
                str(current.number),
                escape(printable(current.plan.hypothesis if current.plan else "")),
                interval(current.speedup),
                escape(outcome(current)),
            )
        console.print(table)
    if run.best is not None:
        console.print(f"best: round {run.best.round}, {interval(run.best.speedup)}", highlight=False)
    budget = run.spec.budget
    parts = [
        f"rounds {len(run.closed_rounds)}/{budget.rounds}",
        f"time {clock(run.elapsed(now))}/{clock(budget.wall_clock_seconds)}",
    ]
    if others := budgets(standing(run)):
        parts.append(others)
    console.print("spent: " + ", ".join(parts), highlight=False)


def _next(run: RunState, now: float) -> str:
    match decide(run, now):
        case Finish() as action:
            return f"finish ({action.reason.value})"
        case Wait() as action:
            return f"wait ({action.reason.value})"
        case action:
            return f"{action.id} ({action.reason.value})"


@user_errors
def report(directory: RunFolder) -> None:
    """Write report.html anew from the run's records, and print its path."""
    layout, repository = session.open_run(directory)
    print(write_report(_state(directory), layout, device_hardware(session.recorded_device(repository))))
