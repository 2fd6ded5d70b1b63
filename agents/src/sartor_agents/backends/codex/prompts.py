"""What Codex is told, and the forms of its answers.

Everything that comes from logs, gates, models or earlier rounds is quoted as data (`memory.quoting`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sartor_agents.backends.protocol import ImplementContext, PlanContext
from sartor_agents.memory.brief import asked
from sartor_agents.memory.quoting import RULE, block, clean
from sartor_agents.run.sandbox.command import CommandSandbox
from sartor_agents.tools.commands import surroundings
from sartor_api.search.directive import MOST_ISSUES, IssueKind
from sartor_api.search.records import Plan, Verdict

LONGEST_QUOTED = 24_000


class IssueForm(BaseModel):
    """An idea that is left for a later round."""

    model_config = ConfigDict(extra="forbid")

    kind: IssueKind = Field(description="idea, bottleneck, defect or question.")
    title: str = Field(max_length=120, description="One line.")
    detail: str = Field(max_length=2000, description="What a planner must know that was not here.")
    forecast_gain: float | None = Field(description="What you expect over the incumbent, 1.1 for 10 %.")


class PlanForm(BaseModel):
    """One plan, as a model writes it. All fields are required, as strict JSON schemas want it; null says nothing."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["build", "return", "stop"] = Field(
        description="build a candidate, return to an earlier commit, or stop."
    )
    parent: str | None = Field(description="Commit to build from or to return to; null: from nothing.")
    hypothesis: str = Field(description="One falsifiable sentence: what is changed and why it is faster.")
    changes: list[str] = Field(description="What will be changed, file by file.")
    evidence_active: str = Field(description="What shows that the change is active.")
    refuted_by: str = Field(description="What result would refute the hypothesis.")
    forecast_speedup: float | None = Field(description="What you expect over the baseline.")
    threshold_speedup: float | None = Field(description="Below this the hypothesis counts as refuted.")
    partner: str | None = Field(description="Commit of the candidate that a recombination takes from; else null.")
    issue: str | None = Field(description="Issue that this plan takes, if it takes one: its number such as 003-1.")
    issues: list[IssueForm] = Field(max_length=MOST_ISSUES, description="Ideas for later rounds that no issue names.")
    withdrawn: list[str] = Field(description="Open issues that are no longer worth a round.")

    def plan(self, round_number: int) -> Plan:
        """As it is recorded. Raises `ValidationError` for one that contradicts itself."""
        return Plan.model_validate({**self.model_dump(), "round": round_number})


class WorkForm(BaseModel):
    """What an implementer says of its work."""

    model_config = ConfigDict(extra="forbid")

    summary: str = Field(description="What was changed and how it was checked, in a few sentences.")
    skills_used: list[str] = Field(description="Names of the skills that were used.")


def schema_of(form: type[BaseModel]) -> dict[str, Any]:
    """A strict JSON schema: an object without further properties, all of them required."""
    schema = form.model_json_schema()
    return {**schema, "required": list(schema["properties"])}


@dataclass(frozen=True)
class Place:
    """Where Codex finds what it is told of: as it sees it. `surroundings` are sentences about what is special there."""

    skills: str = "/skills"
    model: str = "/model"
    surroundings: str = ""

    @classmethod
    def of(cls, sandbox: CommandSandbox) -> "Place":
        return cls(sandbox.shown("/skills"), sandbox.shown("/model"), surroundings(sandbox))


ELSEWHERE = Place()
"""Outside of pods."""


def plan_prompt(
    context: PlanContext, looked_up: Mapping[str, str], place: Place = ELSEWHERE, complaint: str | None = None
) -> str:
    """`looked_up`: what the planner's tools say, by name. `complaint`: what was wrong with the last answer."""
    run = context.run
    parts = [
        f"You plan round {context.round} of a search for a faster serving stack for one model, one workload, one machine. "
        "A stack is a folder `stack/` that `python -m stack serve` runs; it speaks vLLM's HTTP contract. Gates check it for "
        "exact greedy answers before its speed is measured against vLLM, paired and on sealed prompts. Nothing that anybody "
        "reports counts, only what is measured.",
        "Choose ONE falsifiable hypothesis for the next candidate, or return to an earlier commit, or stop when nothing is "
        "left that could gain. A plan that builds on another commit than is asked for below, or leaves the issue that is "
        "named there, is refused. The workspace holds nothing to change: answer with the plan alone. "
        f"Skills are under {place.skills}, the model's configuration under {place.model}.{place.surroundings}",
        RULE,
        f"Scenario {run.scenario}, parameters {json.dumps(run.parameters)}; metric {run.metric}; platform {run.platform}; "
        f"envelope {run.envelope.max_input_tokens} input and {run.envelope.max_output_tokens} output tokens.",
        f"What is asked for:\n{asked(context.directive)}",
        *([f"The owner of this run says, to be followed:\n{clean(context.message, 4000)}"] if context.message else []),
        block(context.roadmap, "records of the run", LONGEST_QUOTED),
        *(block(text, name, LONGEST_QUOTED) for name, text in looked_up.items()),
        *(["Earlier plans of this round came to nothing:", _said(context.refused)] if context.refused else []),
    ]
    return _joined(parts, complaint)


def implement_prompt(context: ImplementContext, place: Place = ELSEWHERE, complaint: str | None = None) -> str:
    run, plan = context.run, context.plan
    parts = [
        "You write a serving stack for one model, one workload and one machine: the folder `stack/` in this workspace, "
        "served by `python -m stack serve --model DIR --host HOST --port PORT [--baseline URL]`, built once by "
        "`python -m stack build` (its output belongs into stack/build). It speaks vLLM's HTTP contract: /v1/completions, "
        "/v1/chat/completions, /v1/models, /health, /metrics with vLLM's names; requests outside its envelope go to the "
        "baseline.",
        "Only changes below stack/ are kept; no links, no files elsewhere. There is no network. Greedy answers must be the "
        "model's own, token for token: no caches of answers, no shortened outputs, no recognising of who asks. Check your "
        f"work by running it before you end.{place.surroundings}",
        RULE,
        f"Scenario {run.scenario}, parameters {json.dumps(run.parameters)}; metric {run.metric}; platform {run.platform}; "
        f"envelope {run.envelope.max_input_tokens} input and {run.envelope.max_output_tokens} output tokens. "
        f"{context.hardware.cores} cores{', ' + context.hardware.cpu_model if context.hardware.cpu_model else ''}"
        f"{', ' + context.hardware.accelerator_words if context.hardware.accelerators else ''}. "
        f"The model's configuration is under {place.model}, skills with tested building blocks are under {place.skills}: "
        f"read {place.skills}/NAME/SKILL.md first.",
        f"Carry out the plan of round {plan.round}, attempt {context.attempt}:",
        block(_planned(plan), "the planner", LONGEST_QUOTED),
    ]
    if context.feedback:
        parts += ["The last attempt was rejected by these gates; repair what they found:", _said(context.feedback)]
    return _joined(parts, complaint)


def _said(verdicts: Sequence[Verdict]) -> str:
    return block("\n".join(f"{one.gate}: {one.reason}: {one.message}" for one in verdicts), "gates", LONGEST_QUOTED)


def _planned(plan: Plan) -> str:
    active = [f"It is active when: {plan.evidence_active}"] if plan.evidence_active else []
    return "\n".join((plan.hypothesis, *(f"- {change}" for change in plan.changes), *active))


def _joined(parts: Sequence[str], complaint: str | None) -> str:
    if complaint is not None:
        parts = [*parts, f"Your last answer could not be used: {complaint} Answer again."]
    return "\n\n".join(parts)
