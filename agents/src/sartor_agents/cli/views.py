"""What `sartor run` shows: a live table in a terminal, plain lines elsewhere, one JSON event a line for machines."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from sartor_agents.memory.quoting import printable
from sartor_agents.run import events
from sartor_agents.run.driver import Emit
from sartor_agents.run.notes import interval
from sartor_api.search.records import Speedup, StepKind
from sartor_api.search.spending import Standing


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def budgets(standing: Sequence[events.Budgeted | Standing]) -> str:
    """`tokens 12000+4000/2000000, money 1.20/5.00 USD`: spent, what is reserved, the limit."""
    parts: list[str] = []
    for one in standing:

        def number(value: float, unit: str = one.unit) -> str:
            return clock(value) if unit == "s" else f"{value:.2f}" if unit else f"{value:.0f}"

        more = f"+{number(one.reserved)}" if one.reserved else ""
        limit = f"/{number(one.limit)}" if one.limit is not None else ""
        unit = f" {one.unit}" if one.unit not in ("", "s") else ""
        parts.append(f"{one.name} {number(one.spent)}{more}{limit}{unit}")
    return ", ".join(parts)


@dataclass
class RoundLine:
    """What the table shows of one round."""

    number: int
    hypothesis: str = ""
    passed: int = 0
    failed: str = ""
    speedup: Speedup | None = None
    result: str = ""


@dataclass
class Board:
    """The state of the screen, from the events so far."""

    name: str = ""
    scenario: str = ""
    run: str = ""
    rounds_planned: int = 0
    started: float = 0.0
    now: float = 0.0
    eta: float = 0.0
    left: float = 0.0
    steps: dict[str, tuple[int, StepKind, str]] = field(default_factory=dict[str, tuple[int, StepKind, str]])
    """The steps in flight by id: round, kind, last progress."""
    waiting: str = ""
    best: Speedup | None = None
    baseline: str = ""
    confirmation: str = ""
    budgets: str = ""
    payback: str = ""
    rounds: dict[int, RoundLine] = field(default_factory=dict[int, RoundLine])

    def update(self, event: events.Event) -> None:
        self.now = event.at
        match event:
            case events.Started():
                self.name, self.scenario, self.run = event.name, event.scenario, event.run
                self.rounds_planned, self.started = event.rounds, event.at
                self.eta, self.left = event.eta_seconds, event.left_seconds
                self.best = event.best
                for past in event.past:
                    result = "kept" if past.kept else past.failure or "dropped"
                    line = RoundLine(past.round, past.hypothesis, failed=past.failure, speedup=past.speedup)
                    line.result = result
                    self.rounds[past.round] = line
            case events.StepStarted():
                self.steps[event.id], self.waiting = (event.round, event.step, ""), ""
                self.eta, self.left = event.eta_seconds, event.left_seconds
                self.budgets = budgets(event.budgets)
            case events.Progress():
                self.steps[event.id] = (event.round, event.step, event.message)
            case events.Planned():
                self._line(event.round).hypothesis = event.hypothesis
            case events.Judged():
                line = self._line(event.round)
                if event.passed:
                    line.passed += 1
                else:
                    line.failed = line.failed or event.reason
            case events.Measured():
                if event.confirmation:
                    self.confirmation = interval(event.speedup)
                else:
                    self._line(event.round).speedup = event.speedup
            case events.StepEnded():
                self._ended(event)
            case events.RoundClosed():
                line = self._line(event.round)
                line.result = "kept" if event.kept else "dropped" if event.speedup else line.result or "closed"
                self.best = event.best_speedup
                self.eta, self.left = event.eta_seconds, event.left_seconds
                self.budgets = budgets(event.budgets)
            case events.Payback():
                self.payback = event.message
            case events.Waiting():
                self.waiting = f"waiting {event.seconds:.0f} s ({event.reason})"
            case events.RunFinished() | events.Interrupted():
                self.steps, self.waiting = {}, ""

    def _ended(self, event: events.StepEnded) -> None:
        self.steps.pop(event.id, None)
        if event.step is StepKind.BASELINE and not event.failure_class:
            self.baseline = f"measured in {clock(event.seconds)}"
        if event.failure_class is not None and event.round:
            self._line(event.round).result = f"{event.reason} ({event.failure_class.value})"

    def _line(self, number: int) -> RoundLine:
        return self.rounds.setdefault(number, RoundLine(number))


class View(Protocol):
    def __call__(self, event: events.Event) -> None: ...


class JsonView:
    """One event a line on standard output, flushed at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: events.Event) -> None:
        self._out.write(event.model_dump_json() + "\n")
        self._out.flush()


class PlainView:
    """One line for what matters, for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._board = Board()

    def __call__(self, event: events.Event) -> None:
        self._board.update(event)
        if (text := plain(event)) is not None:
            self._out.write(f"[{clock(event.at - self._board.started)}] {printable(text)}\n")
            self._out.flush()


def plain(event: events.Event) -> str | None:
    """An event in a line, or None for what a log does not need."""
    match event:
        case events.Started():
            what = "resumed" if event.resumed else "started"
            lines = [
                f"{event.name} ({event.scenario}) {what} in {event.run}: up to {event.rounds} rounds, "
                f"at most {clock(event.eta_seconds)} to go, budget left {clock(event.left_seconds)}"
            ]
            for past in event.past:
                found = interval(past.speedup) if past.speedup else past.failure
                kept = "kept" if past.kept else "not kept"
                lines.append(f"  before: round {past.round}: {past.hypothesis}: {found or 'not measured'}; {kept}")
            return "\n".join(lines)
        case events.StepStarted():
            where = f"round {event.round}: " if event.round else ""
            return (
                f"{where}{event.step.value} (about {clock(event.expected_seconds)}; "
                f"at most {clock(event.eta_seconds)} to go)"
            )
        case events.Progress():
            return f"  {f'round {event.round}: ' if event.round else ''}{event.message}"
        case events.Planned():
            return f"round {event.round}: {event.action}: {event.hypothesis}"
        case events.Judged():
            result = "passed" if event.passed else f"FAILED {event.reason}: {event.message}"
            return f"round {event.round}: gate {event.gate} {result}"
        case events.Measured():
            what = "confirmation" if event.confirmation else f"round {event.round}: speed-up"
            return f"{what} {interval(event.speedup)}"
        case events.StepEnded():
            if event.failure_class is None:
                return None
            blamed = event.failure_class.value
            return f"{event.step.value} failed ({blamed}): {event.reason}: {event.message}"
        case events.RoundClosed():
            best = (
                f"best is round {event.best_round}, {interval(event.best_speedup)}"
                if event.best_round
                else "no best yet"
            )
            told = f"; spent: {said}" if (said := budgets(event.budgets)) else ""
            return f"round {event.round} {'kept' if event.kept else 'not kept'}; {best}{told}"
        case events.Payback():
            return f"payback: {event.message}" + ("; the search ends" if event.ends else "")
        case events.Waiting():
            return f"waiting {event.seconds:.0f} s: {event.reason}"
        case events.RunFinished():
            return summary(event)
        case events.Interrupted():
            return f"interrupted; go on with: sartor run --resume --dir {event.run}"


def summary(event: events.RunFinished) -> str:
    """The end of a run in a few lines."""
    lines = [f"{event.outcome.value} ({event.reason}): {event.message}"]
    if event.speedup is not None:
        s = event.speedup
        lines.append(f"speed-up over the baseline: {s.value:.2f}x [{s.low:.2f}, {s.high:.2f}], n={s.n}")
    if event.stack is not None:
        lines.append(f"stack:  {event.stack}")
    if event.evidence is not None:
        lines.append(f"evidence: {event.evidence}")
    if event.report is not None:
        lines.append(f"report: {event.report}")
    return "\n".join(lines)


class LiveView:
    """A table that is redrawn in place; the time used goes on between events. `now` gives Unix seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.time) -> None:
        self._console, self._now = console, now
        self._spinner = Spinner("dots")
        self.board = Board()
        self.live = Live(console=console, refresh_per_second=8, get_renderable=self._screen)

    def __call__(self, event: events.Event) -> None:
        self.board.update(event)
        if isinstance(event, events.RunFinished | events.Interrupted):
            self.live.stop()
            self._console.print(_safe(plain(event) or ""), highlight=False)

    def _screen(self) -> RenderableType:
        if self.board.steps or self.board.waiting:
            self.board.now = self._now()
        return render(self.board, self._spinner)


def render(board: Board, spinner: Spinner) -> RenderableType:
    """The screen."""
    head = Text.assemble(
        (board.name or "sartor", "bold"),
        f"  {board.scenario}   {clock(board.now - board.started)} used, at most {clock(board.eta)} to go, "
        f"budget left {clock(board.left)}",
    )
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("round", no_wrap=True)
    table.add_column("hypothesis", ratio=1, overflow="fold")
    table.add_column("gates", no_wrap=True)
    table.add_column("speed-up", no_wrap=True)
    table.add_column("result", max_width=40, overflow="fold")
    for line in board.rounds.values():
        gates = f"[red]{_safe(line.failed)}[/]" if line.failed else f"{line.passed} passed" if line.passed else ""
        style = "green" if line.result == "kept" else ""
        table.add_row(
            str(line.number),
            _safe(line.hypothesis),
            gates,
            interval(line.speedup) if line.speedup else "",
            _safe(line.result),
            style=style,
        )
    parts: list[RenderableType] = [head]
    if board.baseline:
        parts.append(Text(f"baseline {board.baseline}"))
    if board.rounds:
        parts.append(table)
    if board.best is not None:
        parts.append(Text(f"best so far: {interval(board.best)}", style="bold"))
    if board.confirmation:
        parts.append(Text(f"confirmation: {board.confirmation}", style="bold"))
    for name, text in (("spent", board.budgets), ("payback", board.payback)):
        if text:
            parts.append(Text(f"{name}: {text}"))
    at_work = [f"{f'round {n}: ' if n else ''}{kind.value}  {said}" for n, kind, said in board.steps.values()]
    if board.waiting and not at_work:
        at_work = [board.waiting]
    if at_work:
        spinner.update(text=Text(printable("\n".join(at_work))))
        parts.append(spinner)
    return Group(*parts)


def _safe(text: str) -> str:
    """Text that models and candidates wrote: neither the terminal nor rich acts on it."""
    return escape(printable(text))


@contextlib.contextmanager
def view(*, json_lines: bool) -> Generator[Emit]:
    """The right view for this output."""
    if json_lines:
        yield JsonView(sys.stdout)
        return
    console = Console()
    if not console.is_terminal:
        yield PlainView(sys.stdout)
        return
    shown = LiveView(console)
    with shown.live:
        yield shown
