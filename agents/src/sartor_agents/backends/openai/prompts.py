"""What planner and implementer are told. What does not change from call to call comes first, for the provider's cache.

`instructions` are the same for all steps of a role; openings go from what is the same in a whole run to what is of
this step. Text that others wrote (gates, logs, earlier plans, people) is quoted as data.
"""

import json
from collections.abc import Sequence

from sartor_agents.backends.protocol import HardwareFacts, ImplementContext, PlanContext, ReviewContext
from sartor_agents.memory.brief import asked
from sartor_agents.memory.quoting import RULE, block, clean
from sartor_agents.tools.review import INSTRUCTIONS
from sartor_api.search.records import RunSpec, Verdict

LONGEST_ROADMAP, LONGEST_VERDICT = 60_000, 6_000

_STACK = """\
A stack is a folder `stack/`, a Python package that serves one model for one workload on one machine, without the
generality of an engine for everything. It has `stack.toml` (contract, model, envelope, provenance) and small,
readable modules.

- `python -m stack build` makes what has to be made once (compiled code, converted weights); its output belongs into
  `stack/build` and is no part of the stack. It ends with exit code 0.
- `python -m stack serve --model DIR --host HOST --port PORT [--baseline URL]` serves. It speaks vLLM's HTTP contract:
  `/v1/completions`, `/v1/chat/completions` (streamed and not), `/v1/models`, `/health`, `/metrics` with vLLM's metric
  names.
- A request outside of the envelope is handed to the baseline, streaming included, and counted. It is never an error to the
  user, and never counts as the stack's own success.
- There is no network but those two addresses, the file system is read-only but for an empty home, and nothing lasts from one
  start to the next."""

_GATES = """\
Gates decide, by what the stack does over HTTP; nothing that anybody says of it counts.

- Greedy answers are the model's own, token for token, alone and under load, whatever else is in the batch or in a cache.
- Every answer is computed for its request. Caches of answers, shortened or padded outputs, answers that depend on who asks,
  work done when nobody measures: each is looked for, and ends the candidate.
- Malformed, oversized or hostile requests get a clear 4xx as vLLM gives it, or go to the baseline. Never a crash, never a
  hang, never another user's text.
- Then speed is measured, paired with the tuned baseline, with prompts that nobody has seen."""

PLANNER = f"""\
You plan one round of a search for a faster serving stack. You do not write code: another agent carries your plan out,
with a fresh context, seeing nothing of this conversation but the plan.

# What is built

{_STACK}

# What decides

{_GATES}

# How to plan

Choose ONE falsifiable hypothesis for the next candidate. Say what is changed, file by file where you can; what shows
that the change is active; what result would refute it. Keep what you expect (`forecast_speedup`) apart from the value
below which it counts as refuted (`threshold_speedup`); both are ratios over the baseline and neither ever chooses
anything.

Begin with what limits: measurements, profile and roofline say where the time goes and what the machine allows at most.
Build on the best candidate unless you have a reason (`parent` is its commit; null is an empty stack). Do not repeat what was
refuted; return to an earlier commit when a line has run dry; stop when nothing is left that could gain, and say why.

# Data

{RULE}"""

IMPLEMENTER = f"""\
You write a serving stack: one candidate, after the plan that you are given. Only files below `stack/` are yours to
write, and only they are kept.

# What is built

{_STACK}

# What decides

{_GATES}

# How to work

Look before you write: at `stack/` as it is, at the model's configuration (/model), at the skills (/skills) that fit
the plan. Skills hold tested building blocks; copy and change them rather than writing the same anew. Work in small
steps and check each: run it, start the candidate, send it requests, use the smoke check before you end. When
something fails, find out why before you change anything else. Write large files in several calls.

Do what the plan says. If it cannot work, do what comes closest to it, and say so in the summary. The summary is for
the next planner: what was changed, what shows that it is active, what was checked with which result, what is left.

# Data

{RULE}"""


REVIEWER = f"""\
{INSTRUCTIONS}

Read the checklist first, then the changes, then every file of `stack/` that serves requests. A finding is `certain` only
where the quoted text alone makes the stack a cheat; what merely looks odd is not.

# Data

{RULE}"""


def review_opening(context: ReviewContext) -> str:
    """The reviewer's first message: where the material is, and nothing of it."""
    run = context.run
    return _joined([
        f"Review the candidate of round {context.round}. It serves {run.model.get('name')} for the scenario "
        f"{run.scenario} on {run.platform}.",
        "It was made from nothing: `diff` shows all of it." if context.before is None else
        "`diff` shows what was changed against the stack that it was made from.",
    ])  # fmt: skip


def plan_opening(context: PlanContext, refused: Sequence[Verdict] = ()) -> str:
    """The planner's first message. `refused`: what ended earlier conversations about this plan."""
    run = context.run
    base = context.baseline
    return _joined([
        "# The run",
        _facts(run, context.hardware),
        f"Baseline: {base.engine} {base.version}, tuned to {base.chosen or 'its defaults'}.",
        "# What happened so far",
        block(context.roadmap, "records of the run", LONGEST_ROADMAP) if context.roadmap.strip() else "Nothing yet.",
        "# Now",
        _standing(context),
        f"What is asked for, or the plan is refused:\n{asked(context.directive)}",
        *([f"The owner of this run says, to be followed:\n{clean(context.message, 4000)}"] if context.message else []),
        *(["Earlier plans of this round came to nothing:", *_verdicts(refused)] if refused else []),
        f"Plan round {context.round}.",
    ])  # fmt: skip


def implement_opening(context: ImplementContext) -> str:
    """The implementer's first message; it holds the plan, and stays when the conversation is compacted."""
    plan = context.plan
    wanted = plan.model_dump(mode="json", exclude={"kind", "recipes", "skills_consulted"}, exclude_none=True)
    there = any((context.worktree / "stack").glob("*")) if (context.worktree / "stack").is_dir() else False
    parts = [
        "# The run",
        _facts(context.run, context.hardware),
        "# The plan",
        block(json.dumps(wanted, indent=1, ensure_ascii=False), "the planner", 20_000),
    ]
    if context.attempt > 1:
        parts += [
            "# What was wrong",
            f"This is attempt {context.attempt}. `stack/` holds the one before it, which these gates rejected. Repair it; "
            "do not begin anew unless nothing of it is sound.",
            *_verdicts(context.feedback),
        ]
    else:
        held = "holds the parent's files" if there else "is empty"
        parts += ["# Now", f"`stack/` {held}. Carry the plan out."]
    return _joined(parts)


def _facts(run: RunSpec, hardware: HardwareFacts) -> str:
    envelope = run.envelope
    processor = f"{hardware.cores} cores{f' of {hardware.cpu_model}' if hardware.cpu_model else ''}"
    lines = [
        f"- model: {run.model.get('name')} in {run.dtype} (configuration: /model)",
        f"- workload: {run.scenario}, {json.dumps(run.parameters, sort_keys=True)}",
        f"- envelope: up to {envelope.max_input_tokens} input and {envelope.max_output_tokens} output tokens",
        f"- metric: {run.metric}; a candidate has to be at least {run.policy.minimum_speedup:g} times the baseline to be "
        "delivered",
        f"- machine: {run.platform}, {processor}, {hardware.memory_bytes >> 30} GiB"
        + (f", {hardware.accelerator_words}" if hardware.accelerators else ""),
    ]
    if run.guardrails:
        told = [one.model_dump(mode="json", exclude_none=True) for one in run.guardrails]
        lines.append(f"- guardrails: {json.dumps(told, sort_keys=True)}")
    return "\n".join(lines)


def _standing(context: PlanContext) -> str:
    left = max(0, context.run.budget.rounds - len(context.rounds))
    best = f"round {context.incumbent}" if context.incumbent is not None else "none yet"
    base = f" A plan returned to commit {context.head}: build on it." if context.head is not None else ""
    commits = [
        f"round {one.number}: {one.implementation.commit}" for one in context.rounds if one.implementation is not None
    ]
    known = f"\nCommits that can be built on:\n{_listed(commits)}" if commits else ""
    return f"Best candidate: {best}. Rounds left, this one included: {left}.{base}{known}"


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    return [
        block(
            f"{one.gate}: {one.reason}\n{one.message}"
            + (f"\n{json.dumps(one.evidence, ensure_ascii=False, default=str)}" if one.evidence else ""),
            "a gate",
            LONGEST_VERDICT,
        )
        for one in verdicts
        if not one.passed
    ]


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part)
