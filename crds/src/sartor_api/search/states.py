"""Renders the state machine as a reference page: `python -m sartor_api.search.states > docs/reference/run-states.md`."""

import sys

from sartor_api.search.decide import TRANSITIONS
from sartor_api.search.reasons import MEANINGS, Phase, Reason


def render() -> str:
    """The page in Markdown, from the very table that `decide` walks."""
    lines = [
        "# States of a run",
        "",
        "Generated from `sartor_api.search.decide`; do not edit (`python -m sartor_api.search.states`).",
        "",
        "The phase is derived from the run's records. In a phase, the first row whose predicate holds decides what",
        "happens next; `-` stays in the phase. Every step has a deadline, after which `StepOverdue` ends it.",
        "",
    ]
    for phase in Phase:
        rows = [row for row in TRANSITIONS if row.phase is phase]
        if not rows:
            continue
        lines += [f"## {phase.value}", "", "| when | reason | next |", "|---|---|---|"]
        for row in rows:
            reasons = ", ".join(f"`{reason.value}`" for reason in row.reasons)
            lines.append(f"| {row.name} | {reasons} | {row.next} |")
        lines.append("")
    lines += ["## Reasons", "", "| reason | holds when |", "|---|---|"]
    lines += [f"| `{reason.value}` | {MEANINGS[reason]} |" for reason in Reason]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
