"""Both arms of a rollout on one screen: a table that is redrawn in a terminal, plain lines elsewhere.

What the operator says (weights, readiness, samples, verdict) comes from the rollout's status, what clients see from the load
generator; neither is computed from the other.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sartor_demo.follow import Json
from sartor_demo.load import ArmSeen, Seen

ARMS = ("baseline", "candidate")
EVERY = 15.0
"""Seconds between two plain lines while nothing changes."""


def step_words(step: Json) -> str:
    """A step of the policy in words."""
    if "weight" in step:
        return f"{step['weight']} %"
    if "mirror" in step:
        return f"mirror {step['mirror']} %"
    if "headerOptIn" in step:
        return "opt-in by header"
    duration = (step.get("pause") or {}).get("duration")
    return f"pause {duration}" if duration else "pause until somebody goes on"


def what_next(rollout: Json) -> str:
    """What the rollout does when all goes well from here."""
    status, policy = rollout.get("status") or {}, rollout["spec"]["policy"]
    phase, steps = status.get("phase", "Pending"), policy["steps"]
    if phase in ("Promoted", "RolledBack", "Failed"):
        return ""
    if phase == "RollingBack":
        return "everything on the baseline"
    if phase == "Promoting":
        return "promoted: all traffic on the candidate"
    number = int(status.get("step") or 0)
    if number < len(steps):
        return f"step {number + 1}: {step_words(steps[number])}"
    return "somebody promotes it" if policy.get("promotion") == "manual" else "promotion: all traffic to the candidate"


@dataclass
class Board:
    """The state of the screen. `rollout` is the newest manifest, `seen` what the load generator saw."""

    rollout: Json = field(default_factory=dict[str, Any])
    seen: Seen = field(default_factory=lambda: Seen({}))

    @property
    def shown(self) -> bool:
        """Whether there is anything to show yet."""
        return bool(self.rollout)

    @property
    def status(self) -> Json:
        return self.rollout.get("status") or {}

    def arm(self, name: str) -> Json:
        return self.status.get(name) or {}

    def head(self) -> str:
        """Where it stands, in a few words."""
        steps = self.rollout["spec"]["policy"]["steps"]
        number, phase = int(self.status.get("step") or 0), self.status.get("phase", "Pending")
        return f"step {number} of {len(steps)} ({step_words(steps[number - 1])}), {phase}" if number else str(phase)

    def verdict(self) -> tuple[str, str]:
        """Outcome and why; empty before the first."""
        found = self.status.get("verdict") or {}
        return str(found.get("outcome", "")), str(found.get("message", ""))

    def news(self) -> tuple[object, ...]:
        """What is worth a line when it changes."""
        weights = [self.arm(name).get(key, 0) for name in ARMS for key in ("weight", "wantedWeight", "readyReplicas")]
        return (self.status.get("phase"), self.status.get("step"), *weights, self.verdict()[0])


def totals(counts: Mapping[str, int], duplicated: int) -> str:
    """The line that counts."""
    words = ", ".join(f"{counts.get(result, 0)} {result}" for result in ("sent", "answered", "failed", "cut"))
    return f"requests: {words}, {duplicated} duplicated"


def _median(values: "deque[float]") -> str:
    return f"{1000 * median(values):.0f} ms" if values else "-"


def milliseconds(arm: ArmSeen) -> tuple[str, str]:
    """Medians of time to first token and of whole answers."""
    return _median(arm.first), _median(arm.whole)


def plain(board: Board) -> str:
    """Everything in a line."""
    parts: list[str] = []
    for name in ARMS:
        arm, seen = board.arm(name), board.seen.arms[name]
        weight, wanted = arm.get("weight", 0), arm.get("wantedWeight", 0)
        share = f"{weight} %" if weight == wanted else f"{weight} % (wanted {wanted} %)"
        first, whole = milliseconds(seen)
        parts.append(
            f"{name} {share}, {arm.get('readyReplicas', 0)} ready, {arm.get('samples', 0)} samples, "
            f"{arm.get('errors', 0)} errors, first token {first}, answer {whole}"
        )
    outcome, _ = board.verdict()
    said = f" | verdict {outcome}" if outcome else ""
    said += f" | next: {following}" if (following := what_next(board.rollout)) else ""
    return f"{board.head()} | {' | '.join(parts)}{said} | {totals(board.seen.counts, board.seen.duplicated)}"


def render(board: Board) -> RenderableType:
    """The screen."""
    if not board.shown:
        return Text("")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits into 80 columns
    for title in (
        "arm",
        "weight",
        "wanted",
        "ready",
        "samples",
        "errors",
        "handover",
        "answers",
        "lost",
        "first",
        "whole",
    ):
        table.add_column(title, no_wrap=True, justify="left" if title == "arm" else "right")
    for name in ARMS:
        arm, seen = board.arm(name), board.seen.arms[name]
        cells = [f"{arm.get('weight', 0)} %", f"{arm.get('wantedWeight', 0)} %"]
        cells += [str(arm.get(key, 0)) for key in ("readyReplicas", "samples", "errors", "handovers")]
        table.add_row(name, *cells, str(seen.requests), str(seen.lost), *milliseconds(seen))
    outcome, why = board.verdict()
    style = {"pass": "green", "fail": "red", "error": "yellow"}.get(outcome, "")
    parts: list[RenderableType] = [
        Text.assemble((str(board.rollout["metadata"]["name"]), "bold"), f"  {board.head()}"),
        table,
        Text(f"verdict  {outcome or '-'}  {why}", style=style),
    ]
    if following := what_next(board.rollout):
        parts.append(Text(f"next     {following}"))
    parts.append(Text(totals(board.seen.counts, board.seen.duplicated)))
    return Group(*parts)


class View(Protocol):
    """Lines of the log, and the board under them."""

    def say(self, text: str) -> None: ...

    def look(self, board: Board) -> None:
        """The board may have changed; called as often as one likes."""
        ...


class PlainView:
    """A line for each thing that happens, and one for the board when it changes or `EVERY` seconds have passed."""

    def __init__(self, out: TextIO, stamp: Callable[[], str], clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._stamp, self._clock = out, stamp, clock
        self._news: tuple[object, ...] | None = None
        self._last = float("-inf")

    def say(self, text: str) -> None:
        self._out.write(f"[{self._stamp()}] {text}\n")
        self._out.flush()

    def look(self, board: Board) -> None:
        if not board.shown:
            return
        news, now = board.news(), self._clock()
        if news == self._news and now - self._last < EVERY:
            return
        self._news, self._last = news, now
        self.say(f"  {plain(board)}")


class LiveView:
    """A table that stays at the bottom; the log goes by above it."""

    def __init__(self, console: Console, stamp: Callable[[], str]) -> None:
        self._console, self._stamp = console, stamp
        self._shown: RenderableType = Text("")
        self.live = Live(console=console, refresh_per_second=4, get_renderable=lambda: self._shown)

    def say(self, text: str) -> None:
        self._console.print(escape(f"[{self._stamp()}] {text}"), highlight=False, soft_wrap=True)

    def look(self, board: Board) -> None:
        self._shown = render(board)  # now: the board may change while another thread draws


@contextmanager
def view(stamp: Callable[[], str]) -> Generator[View]:
    """The right view for this output. `stamp`: the time since the start, in words."""
    console = Console()
    if not console.is_terminal:
        yield PlainView(sys.stdout, stamp)
        return
    shown = LiveView(console, stamp)
    with shown.live:
        yield shown
