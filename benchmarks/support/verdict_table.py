"""The tables in `docs/rollouts/verdict.md`, from `benchmarks/results/rollout_verdict_*.json`:
`python -m benchmarks.support.verdict_table`."""

import json
from pathlib import Path
from typing import Any

from benchmarks.support.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "rollouts" / "verdict.md"
BEGIN = "<!-- rendered by `python -m benchmarks.support.verdict_table`; do not edit -->\n"
END = "<!-- end -->\n"
AREA = "rollout/verdict/"
PROMISES = {
    "aa-rolled-back": "the same engine twice is rolled back (unsteady machine)",
    "aa-rolled-back/steady": "the same on a steady machine",
    "p99-regression-promoted": "all times 10 % longer, default guardrails (10 % on p99) and steps: promoted",
    "p99-regression-promoted/hardest": "the same with one guardrail and one step of at least a minute",
    "error-rise-promoted": "errors one point more, default bounds and steps: promoted",
    "error-rise-promoted/at-the-bound-alone": "errors one point more, a bound of one point: promoted",
    "error-rise-promoted/at-the-bound-in-bursts": "the same, errors in bursts",
    "aa-rolled-back/textbook-tests-that-peek": "for comparison: the same engine twice, a z test at 1 % at every look",
    "aa-rolled-back/without-dispersion": "for comparison: these tests, requests taken as independent",
}
EFFECTS = {
    "all-fail": ("every request fails", "fail"),
    "errors+5": ("5 points more errors", "fail"),
    "errors+1": ("1 point more errors", "fail"),
    "times-x2": ("all times ×2", "fail"),
    "times-x1.5": ("all times ×1.5", "fail"),
    "times-x1.25": ("all times ×1.25", "fail"),
    "times-x0.5": ("all times ×0.5", "pass (errors bound 1 point)"),
    "times-x0.7": ("all times ×0.7", "pass (errors bound 1 point)"),
    "same": ("no difference", "pass (errors bound 1 point)"),
}
MACHINES = ("steady", "unsteady")
NOT_RUN = "The simulation has not been run, so there is no table.\n"


def tables(results: Path) -> str:
    """Both tables: promises, and time until a decision."""
    rows: dict[str, Any] = {}
    for path in sorted(results.glob("rollout_verdict_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows |= {row["bar"].removeprefix(AREA): row for row in content["rows"]}
    found = [_promises(rows), _effects(rows)]
    return "\n".join(one for one in found if one) or NOT_RUN


def _promises(rows: dict[str, Any]) -> str:
    known = [(words, rows[bar]) for bar, words in PROMISES.items() if bar in rows]
    if not known:
        return ""
    lines = ["| simulated | share | 95 % interval (Clopper-Pearson) | canaries | bar |", "|---|---|---|---|---|"]
    for words, row in known:
        bar = "" if row["target"] is None else f"at most {row['target']:.0%}: {'met' if row['met'] else '**not met**'}"
        interval = f"{row['low']:.2%} to {row['high']:.2%}"
        lines.append(f"| {words} | {row['value']:.2%} | {interval} | {row['n']:,} | {bar} |")
    return "\n".join([*lines, ""])


def _effects(rows: dict[str, Any]) -> str:
    """Minutes, and requests of the candidate, at half of the traffic, for each effect and machine."""
    if not any(bar.startswith("until-decision/") for bar in rows):
        return ""
    lines = [
        "Time until a step at half of 30 requests/s is decided: median, longest of those simulated where all were decided, "
        "and the candidate's requests at the median:",
        "",
        f"| candidate | becomes | {' | '.join(f'{machine} machine' for machine in MACHINES)} |",
        f"|---|---|{'---|' * len(MACHINES)}",
    ]
    for effect, (words, outcome) in EFFECTS.items():
        cells = [_cell(rows, f"until-decision/{effect}/{machine}") for machine in MACHINES]
        lines.append(f"| {words} | {outcome} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(rows: dict[str, Any], bar: str) -> str:
    if f"{bar}/undecided" in rows:
        return f"undecided after 2 hours in {rows[f'{bar}/undecided']['value']:.0%}"
    if f"{bar}/requests/p50" not in rows:
        return ""
    longest = f", {_minutes(rows[f'{bar}/s/p99'])}" if f"{bar}/s/p99" in rows else ""
    return f"{_minutes(rows[f'{bar}/s/p50'])}{longest} ({rows[f'{bar}/requests/p50']['value']:,.0f} requests)"


def _minutes(row: dict[str, Any]) -> str:
    return f"{row['value'] / 60:.0f} min"


def page(text: str, rendered: str) -> str:
    """The page with what is between the marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rendered}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), tables(RESULTS)), encoding="utf-8")
