"""The run's history for one planner call: newest and most relevant first, within a token budget.

What is told comes in order of how much a plan depends on it, and each part is there whole or in a line or not at all; what
was left out is counted, with the place where it can be read. Foreign text is quoted as data (`quoting`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sartor_agents.memory.files import abandoned, autopsy, found, issue_page
from sartor_agents.memory.quoting import RULE, block, inline
from sartor_agents.run.notes import interval, outcome
from sartor_api.search.directive import Directive
from sartor_api.search.issues import Issue, issues, queue
from sartor_api.search.records import Plan
from sartor_api.search.skill_effects import skill_effects
from sartor_api.search.state import Round, RunState

BRIEF_TOKENS = 8000
"""Tokens that a planner's history may take unless a backend says otherwise."""
BYTES_PER_TOKEN = 3
"""Fewer than any common tokenizer's average on prose or code, so that the estimate is an upper one."""
QUOTED = 1500
"""Characters of one quoted text."""

_SECTIONS = ("Where the search stands", "What is asked for", "A word of the owner", "The incumbent", "What failed last",
             "Issues", "Rounds, newest first", "Given up", "Skills so far")  # fmt: skip


def tokens(text: str) -> int:
    """An upper estimate of the tokens of a text."""
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


@dataclass(frozen=True)
class _Part:
    """A piece of a section, with what stands for it where it does not fit, and where it can be read whole."""

    section: str
    text: str
    short: str = ""
    where: str = ""


def brief(run: RunState, directive: Directive, *, message: str = "", budget: int = BRIEF_TOKENS) -> str:
    """The history as Markdown of at most `budget` tokens (as `tokens` counts them). `message` is a word of a human.

    Raises `ValueError` for a budget in which not even the numbers fit.
    """
    head = f"# The run so far\n\n{RULE}\n"
    chosen: list[_Part] = []
    left_out: dict[str, list[str]] = {}
    # A section's title and its line of what was left out are paid for beforehand.
    used = tokens(head) + sum(tokens(f"\n## {name}\n\n") + 30 for name in _SECTIONS)
    for part in _parts(run, directive, message):
        for text in (part.text, part.short):
            if text and used + tokens(text + "\n") <= budget:
                used += tokens(text + "\n")
                chosen.append(_Part(part.section, text))
                break
        else:
            left_out.setdefault(part.section, []).append(part.where)
    if not any(part.section == _SECTIONS[0] for part in chosen):
        raise ValueError(f"a budget of {budget} tokens does not hold the numbers of a run; give {used + 200} or more")
    return head + "".join(_section(name, chosen, left_out.get(name, [])) for name in _SECTIONS)


def _section(name: str, chosen: list[_Part], left_out: list[str]) -> str:
    texts = [part.text for part in chosen if part.section == name]
    if left_out:
        texts.append(f"({len(left_out)} more: see {left_out[0]})")
    return f"\n## {name}\n\n" + "\n".join(texts) + "\n" if texts else ""


def _parts(run: RunState, directive: Directive, message: str) -> Iterator[_Part]:
    """Everything there is to tell, in order of importance."""
    stands, wanted, word, incumbent, failed, listed, rounds, given_up, skills = _SECTIONS
    yield _Part(stands, _numbers(run))
    yield _Part(wanted, asked(directive))
    if message:
        # A human of this run speaks to the planner: an instruction, but its text stays within its marks.
        yield _Part(word, block(message, "owner of this run", 4000), block(message, "owner of this run", 300))
    if (best := run.best) is not None:
        current = next(r for r in run.rounds if r.number == best.round)
        yield _Part(incumbent, _told(current, run), _line(current), f"rounds/{current.number:03d}/round.md")
    if (last := next((r for r in reversed(run.rounds) if r.failure is not None), None)) is not None:
        yield _failure(failed, last)
    known = issues(run)
    taken = next((one for one in known if one.id == directive.issue), None)
    if taken is not None:
        yield _Part(listed, issue_page(taken), _issue_line(taken), f"issues/{taken.id}.md")
    newest = [r for r in reversed(run.rounds) if r.plan is not None and (best is None or r.number != best.round)]
    for current in newest[:3]:
        yield _round(rounds, current, run)
    for one in queue(known):
        if one is not taken:
            yield _Part(listed, _issue_line(one), where="issues/")
    gone = [r for r in newest if abandoned(r)]
    for current in sorted(gone, key=lambda r: (-_kinship(r, taken, run), -r.number)):
        yield _Part(given_up, autopsy(current, run), where="autopsies/")
    for current in newest[3:]:
        yield _round(rounds, current, run)
    for effect in skill_effects(run):
        worth = f"{effect.gain.value:.2f}x where it came in" if effect.gain is not None else "no gain known"
        yield _Part(
            skills, f"- {inline(effect.name, 80)}: used {effect.used}, rejected {effect.rejected}, {worth}",
            where="skills.md",
        )  # fmt: skip


def _numbers(run: RunState) -> str:
    spec, spent = run.spec, run.ledger.spent
    done = len(run.closed_rounds)
    target = spec.policy.target_speedup
    lines = [
        f"- {spec.scenario}, metric {spec.metric}, platform {spec.platform}",
        f"- {done} rounds done, {spec.budget.rounds - done} left",
        f"- a stack is delivered from {spec.policy.minimum_speedup:.2f}x on"
        + (f", the search ends at {target:.2f}x" if target else ""),
        f"- a change counts from {spec.policy.minimum_effect:.1%} on; best so far: "
        + (f"round {run.best.round}, {interval(run.best.speedup)}" if run.best else "none"),
    ]
    if beside := [str(one.number) for one in run.open_rounds if one.plan is not None]:
        lines.append(f"- in work beside this one, not to be planned again: round {', '.join(beside)} (see below)")
    if spec.budget.tokens is not None:
        lines.append(f"- tokens: {spent.tokens} of {spec.budget.tokens} spent")
    if (base := run.baseline) is not None:
        lines.append(f"- baseline: {inline(base.engine)} {inline(base.version)}, {inline(base.chosen or 'default')}")
    return "\n".join(lines)


def asked(directive: Directive) -> str:
    """What the next plan has to keep to, as a list. A backend that quotes the brief as data says it outside of it too."""
    lines = [f"- mode: {directive.mode.value} ({inline(directive.why)})"]
    if directive.parents:
        names = ", ".join("the empty stack" if one is None else one for one in directive.parents[:6])
        lines.append(f"- build on (the first unless there is a reason): {names}")
    if directive.partner is not None:
        lines.append(f"- bring in what makes {directive.partner} good")
    if directive.issue is not None:
        lines.append(f"- take issue {directive.issue}, or withdraw it")
    return "\n".join(lines)


def _failure(section: str, current: Round) -> _Part:
    failure = current.failure
    assert failure is not None, "the round was chosen for its failure"
    head = f"Round {current.number}, {failure.gate}: {failure.reason}"
    said = "\n".join(f"{v.gate}: {v.reason}: {v.message}" for v in current.attempts[-1].feedback)
    return _Part(section, f"{head}\n{block(said, 'gates', QUOTED)}", head, f"rounds/{current.number:03d}/round.md")


def _round(section: str, current: Round, run: RunState) -> _Part:
    return _Part(section, _told(current, run), _line(current), "rounds/")


def _told(current: Round, run: RunState) -> str:
    plan = current.plan
    assert plan is not None, "only planned rounds are told"
    commit = current.implementation.commit if current.implementation is not None else "nothing"
    built = f"built {commit} on {plan.parent or 'the empty stack'}" if plan.action == "build" else plan.action
    lines = [f"### Round {current.number}: {outcome(current)}", f"- {built}", f"- {found(current, run)}"]
    if current.measurement is not None:
        each = ", ".join(f"{inline(c.name, 60)} {c.ratio.value:.2f}x" for c in current.measurement.conditions[:12])
        lines += [f"- conditions: {each}"] if each else []
    text = "\n".join((plan.hypothesis, *(f"- {one}" for one in plan.changes)))
    return "\n".join((*lines, block(text, "planner", QUOTED)))


def _line(current: Round) -> str:
    hypothesis = inline(current.plan.hypothesis, 100) if current.plan is not None else "-"
    return f"- round {current.number}: {outcome(current)}, {interval(current.speedup)}: {hypothesis}"


def _issue_line(issue: Issue) -> str:
    tried = f", tried {len(issue.tries)}x" if issue.tries else ""
    return f"- {issue.id} ({issue.kind.value}, expects {issue.forecast_gain:.2f}x{tried}): {inline(issue.title, 120)}"


def _kinship(current: Round, taken: Issue | None, run: RunState) -> int:
    """How much an idea that was given up has to do with what comes next: recipes and skills in common."""
    best = run.best
    incumbent = next((r.plan for r in run.rounds if best is not None and r.number == best.round), None)
    near = {one.name for one in taken.recipes} if taken is not None else _names(incumbent)
    return len(near & _names(current.plan))


def _names(plan: Plan | None) -> set[str]:
    return set() if plan is None else {*(one.name for one in plan.recipes), *plan.skills_consulted}
