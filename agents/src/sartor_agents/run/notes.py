"""`roadmap.md` and `issues/`: the run's history in words, rendered from its records.

They are written in the same commit as the record that changes them, for planners that read and for people who look.
"""

from sartor_api.search.records import Speedup
from sartor_api.search.state import Round, RunState


def interval(speedup: Speedup | None) -> str:
    """`2.31x [2.24, 2.38] (n=12)`, or a dash."""
    if speedup is None:
        return "-"
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] (n={speedup.n})"


def outcome(current: Round) -> str:
    """What became of a round, in a few words."""
    if current.kept:
        return "kept"
    if current.plan is not None and current.plan.action != "build":
        return {"return": "returned", "stop": "stopped"}[current.plan.action]
    if current.measurement is not None:
        return "dropped: no gain over the incumbent"
    if current.failure is not None:
        return f"rejected: {current.failure.reason}"
    return "open"


def roadmap(run: RunState) -> str:
    """The page that a planner reads first."""
    best = run.best
    lines = [
        "# Roadmap",
        "",
        f"Best so far: {f'round {best.round}, {interval(best.speedup)}' if best else 'none'}.",
        "",
        "| round | hypothesis | result | speed-up over the baseline |",
        "|---|---|---|---|",
    ]
    for current in run.rounds:
        hypothesis = _cell(current.plan.hypothesis) if current.plan else "-"
        lines.append(f"| {current.number} | {hypothesis} | {outcome(current)} | {interval(current.speedup)} |")
    return "\n".join(lines) + "\n"


def issues(run: RunState) -> dict[str, str]:
    """One file for each round whose candidate a gate rejected: what failed and how to see it."""
    files: dict[str, str] = {}
    for current in run.rounds:
        for attempt in current.attempts:
            if attempt.failure is None:
                continue
            lines = [f"# Round {current.number}, attempt {attempt.number}: {attempt.failure.reason}", ""]
            for verdict in attempt.feedback:
                lines += [f"## {verdict.gate}: {verdict.reason}", "", verdict.message or "(no message)", ""]
            files[f"issues/{current.number:03d}-{attempt.number}.md"] = "\n".join(lines)
    return files


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
