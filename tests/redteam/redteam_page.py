"""docs/measurement/red-team.md from the registry and from what was last seen: `redteam_page.py --write|--check`.

`make redteam` and `redteam_play.py` write what they saw to seen.json beside this file; a cheat without an entry was not seen
to end as it should, and the page says so.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from redteam_registry import CHEATS, NOT_PLAYED, Cheat, Denied, Rejected

HERE = Path(__file__).parent
SEEN = HERE / "seen.json"
PAGE = HERE.parents[1] / "docs" / "measurement" / "red-team.md"
INTRODUCTION = HERE / "page.md"


Where = Literal["process", "processes", "cluster"]
"""Where the gates ran: in the test's process, in processes of their own as in a run, in pods of a cluster."""

Trial = TypeVar("Trial", bound="Outcome")


class Outcome(Protocol):
    @property
    def outcome(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def seconds(self) -> float: ...


def watched(cheat: str, side: str, trial: Callable[[], Trial], *, where: Where) -> Trial:
    """Run a trial and keep what was seen of a cheat or its twin, also when it did not end as it should. Raises what the
    trial raises."""
    begun = time.monotonic()
    try:
        seen = trial()
    except AssertionError as error:
        first = (str(error).splitlines() or ["no message"])[0]
        _record(cheat, side, f"NOT as it should: {first[:160]}", time.monotonic() - begun, where)
        raise
    _record(cheat, side, seen.outcome, seen.seconds, where)
    return seen


def _record(cheat: str, side: str, outcome: str, seconds: float, where: Where) -> None:
    """Runs are one after the other, so the file has one writer."""
    content = _seen()
    content.setdefault(cheat, {})[f"{side} in a cluster" if where == "cluster" else side] = {
        "outcome": outcome,
        "seconds": round(seconds, 1),
        "at": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "where": where,
    }
    text = json.dumps(dict(sorted(content.items())), indent=1) + "\n"
    partial = SEEN.with_suffix(f".{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(SEEN)


def _commit() -> str:
    """The commit that was run, with a + where files differed from it; empty outside of a clone."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--exclude=*", "--dirty=+"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def render() -> str:
    """The whole page."""
    seen = _seen()
    table = [
        "| cheat | what it does | what catches it | ends as | seen | honest twin | in a cluster | its twin in a cluster |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(cheat, seen.get(cheat.name, {})) for cheat in CHEATS if cheat.rows),
    ]
    found = [*table[:2], *(_row(cheat, seen.get(cheat.name, {})) for cheat in CHEATS if not cheat.rows)]
    through = [f"- **{cheat.name}**: {cheat.open}" for cheat in CHEATS if cheat.open]
    missing = [f"- line {row}, {why}." for row, why in NOT_PLAYED.items()]
    return INTRODUCTION.read_text(encoding="utf-8").format(
        table="\n".join(table),
        found="\n".join(found),
        through="\n".join(through) or "None that is known.",
        missing="\n".join(missing),
    )


def _row(cheat: Cheat, seen: dict[str, Any]) -> str:
    lines = f" ({', '.join(map(str, cheat.rows))})" if cheat.rows else ""
    match cheat.meets:
        case Rejected(reason):
            ends = f"`{reason}` ({cheat.gate})"
        case Denied(reason):
            ends = "denied" + (f", and `{reason}`" if reason else ", and no gain")
        case _:
            ends = "measured: no gain"
    if cheat.sooner:
        ends += f"; in a cluster `{cheat.sooner}` may come sooner"
    return (
        f"| {cheat.name}{lines} | {cheat.does} | {cheat.caught_by} | {ends} | {_cell(seen.get('cheat'))} | "
        f"{_cell(seen.get('twin'))} | {_cluster_cells(cheat, seen)} |"
    )


def _cluster_cells(cheat: Cheat, seen: dict[str, Any]) -> str:
    if cheat.local_only:
        return f"not played: {cheat.local_only} | not played"
    return f"{_cell(seen.get('cheat in a cluster'))} | {_cell(seen.get('twin in a cluster'))}"


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return "not run"
    return (
        f"{entry['outcome']}, {entry['seconds']:g} s ({entry['at']}, {entry.get('commit') or 'commit not kept'}"
        f"{', in process' if entry['where'] == 'process' else ''})"
    )


def _seen() -> dict[str, dict[str, Any]]:
    return json.loads(SEEN.read_text(encoding="utf-8")) if SEEN.exists() else {}


def main(arguments: list[str]) -> int:
    """Exit code 1 when the page on disk is not what would be written."""
    made = render()
    if arguments == ["--write"]:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(made, encoding="utf-8")
        return 0
    if arguments != ["--check"]:
        sys.stderr.write("usage: python tests/redteam/redteam_page.py --write|--check\n")
        return 2
    if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        sys.stderr.write(f"{PAGE.relative_to(HERE.parents[1])} is not what tests/redteam says; run `make generate`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
