"""`roadmap.md`, `issues/`, `rounds/NNN/round.md` and `autopsies/`: the run's history, rendered from its records.

They are written in the same commit as the record that changes them. Being derived, they cannot disagree with the records,
however often a step was repeated and whoever is killed meanwhile.
"""

from collections.abc import Sequence

from sartor_agents.memory.quoting import block, inline
from sartor_agents.run.notes import interval, outcome
from sartor_api.search.comparison import flat, gain
from sartor_api.search.issues import Issue, issues, queue
from sartor_api.search.measured import Speedup
from sartor_api.search.policies import next_directive
from sartor_api.search.skill_effects import skill_effects
from sartor_api.search.state import Round, RunState


def memory_files(run: RunState) -> dict[str, str]:
    """All files by path."""
    known = issues(run)
    files = {"roadmap.md": roadmap(run, known), "skills.md": skills(run)}
    files |= {f"issues/{one.id}.md": issue_page(one) for one in known}
    for current in run.rounds:
        files[f"rounds/{current.number:03d}/round.md"] = round_page(current, run)
        if abandoned(current):
            files[f"autopsies/{current.number:03d}.md"] = autopsy(current, run)
    return files


def roadmap(run: RunState, known: Sequence[Issue]) -> str:
    """The page that is read first: where the search stands, what comes next, what was tried."""
    best = run.best
    directive = next_directive(run, len(run.rounds) + 1)
    lines = [
        "# Roadmap",
        "",
        f"Best so far: {f'round {best.round}, {interval(best.speedup)}' if best else 'none'}.",
        f"Search policy: {run.spec.policy.kind}; next: {directive.mode.value} ({directive.why}).",
        "",
        "| round | hypothesis | result | speed-up over the baseline |",
        "|---|---|---|---|",
    ]
    for current in run.rounds:
        hypothesis = inline(current.plan.hypothesis) if current.plan else "-"
        lines.append(f"| {current.number} | {hypothesis} | {outcome(current)} | {interval(current.speedup)} |")
    waiting = queue(known)
    lines += ["", f"## Open issues ({len(waiting)})", ""]
    lines += [
        f"- {one.id} ({one.kind.value}, expects {one.forecast_gain:.2f}x): {inline(one.title)}" for one in waiting
    ]
    return "\n".join(lines).rstrip() + "\n"


def issue_page(issue: Issue) -> str:
    """One issue with its state."""
    tried = ", ".join(str(number) for number in issue.tries) or "none"
    lines = [
        f"# {issue.id}: {inline(issue.title)}",
        "",
        f"kind: {issue.kind.value} · state: {issue.state.value} · expects {issue.forecast_gain:.2f}x over the incumbent · "
        f"rounds: {tried}",
    ]
    lines += ["", block(issue.detail, "issue")] if issue.detail else []
    return "\n".join(lines) + "\n"


def found(current: Round, run: RunState) -> str:
    """What a round showed, against what was expected of it."""
    plan, speedup = current.plan, current.speedup
    expected = f", expected {plan.forecast_speedup:.2f}x" if plan and plan.forecast_speedup else ""
    if speedup is None:
        return f"nothing was measured{expected}"
    return f"{interval(speedup)} over the baseline{expected}; {over_incumbent(current, run)}"


def incumbent_of(current: Round, run: RunState) -> Speedup | None:
    """What the round had to beat."""
    before = run.incumbent_before(current)
    return before.speedup if before is not None else None


def over_incumbent(current: Round, run: RunState) -> str:
    """The gain in words."""
    speedup, before = current.speedup, incumbent_of(current, run)
    assert speedup is not None, "only a measured round has a gain"
    worth = speedup if before is None else gain(speedup, before)
    what = "the baseline" if before is None else "the incumbent of its time"
    told = f"{worth.value:.3f}x [{worth.low:.3f}, {worth.high:.3f}] over {what}"
    if current.kept:
        return f"{told}: kept"
    shown = flat(speedup, before, run.spec.policy.minimum_effect)
    return f"{told}: {'shown to be no gain worth having' if shown else 'not shown either way'}"


def round_page(current: Round, run: RunState) -> str:
    """Everything of one round in words."""
    plan = current.plan
    lines = [f"# Round {current.number}: {outcome(current)}", ""]
    if plan is not None:
        lines += [f"Result: {found(current, run)}.", "", "## Hypothesis", "", block(plan.hypothesis, "planner"), ""]
        for title, text in (
            ("Changes", "\n".join(f"- {one}" for one in plan.changes)),
            ("Shows that it is active", plan.evidence_active),
            ("Refuted by", plan.refuted_by),
        ):
            lines += [f"## {title}", "", block(text, "planner"), ""] if text else []
    for attempt in current.attempts:
        if attempt.failure is None:
            continue
        lines += [f"## Attempt {attempt.number}: {attempt.failure.reason}", ""]
        for verdict in attempt.feedback:
            said = verdict.message or "(no message)"
            lines += [f"### {verdict.gate}: {verdict.reason}", "", block(said, f"gate {verdict.gate}"), ""]
    if current.measurement is not None:
        lines += ["## Conditions", ""]
        lines += [f"- {inline(one.name)}: {interval(one.ratio)}" for one in current.measurement.conditions]
    return "\n".join(lines).rstrip() + "\n"


def abandoned(current: Round) -> bool:
    """Whether the round built something, and nothing came of it."""
    return current.closed and not current.kept and current.plan is not None and current.plan.action == "build"


def autopsy(current: Round, run: RunState) -> str:
    """Why an idea was given up, and what would speak for another look."""
    plan = current.plan
    assert plan is not None, "an abandoned round had a plan"
    lines = [f"# Autopsy of round {current.number}", "", f"Found: {found(current, run)}.", ""]
    lines += ["## Idea", "", block(plan.hypothesis, "planner"), ""]
    failure = current.failure
    if failure is not None:
        tries = len(current.attempts)
        lines += [f"## Cause: {failure.gate} said {failure.reason} (attempt {tries})", ""]
        lines += [block(failure.message or "(no message)", f"gate {failure.gate}"), ""]
        lines += ["Worth another look when that gate's finding can be answered; the speed of the idea is unknown."]
    elif current.speedup is not None and flat(
        current.speedup, incumbent_of(current, run), run.spec.policy.minimum_effect
    ):
        lines += ["## Cause: refuted", "", "Worth another look only on top of another stack, or under another load."]
    else:
        lines += ["## Cause: not shown", "", "The interval allows a gain. Worth another look with something that adds."]
    return "\n".join(lines).rstrip() + "\n"


def skills(run: RunState) -> str:
    """What each skill was worth in this run."""
    lines = ["# Skills", "", "| skill | read | used | rejected | gain over the parent |", "|---|---|---|---|---|"]
    for one in skill_effects(run):
        effect = "-" if one.gain is None else f"{one.gain.value:.3f}x [{one.gain.low:.3f}, {one.gain.high:.3f}]"
        lines.append(f"| {inline(one.name, 80)} | {one.consulted} | {one.used} | {one.rejected} | {effect} |")
    return "\n".join(lines) + "\n"
