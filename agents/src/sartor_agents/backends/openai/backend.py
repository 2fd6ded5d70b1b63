"""The conversations of a planner and of an implementer, as a `Backend`."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from sartor_agents.backends.access import agents_of, command_limits, isolation, model_access
from sartor_agents.backends.conversation.accounting import Price, TokenUse
from sartor_agents.backends.conversation.form import Form
from sartor_agents.backends.conversation.loop import OWN_FAULTS, Conversation, StepLimits, Task
from sartor_agents.backends.openai.model import OpenAIModel, Patience
from sartor_agents.backends.openai.prompts import (
    IMPLEMENTER,
    PLANNER,
    REVIEWER,
    implement_opening,
    plan_opening,
    review_opening,
)
from sartor_agents.backends.openai.wire import ModelSettings
from sartor_agents.backends.protocol import ImplementContext, PlanContext, ReviewContext, Usage
from sartor_agents.measurement.progress import JsonLines
from sartor_agents.run.content import snapshot
from sartor_agents.run.device import shown
from sartor_agents.tools.review import Review
from sartor_agents.tools.roles import implementer_tools, planner_tools, review_tools
from sartor_api.search import plans
from sartor_api.search.agents import RoleName
from sartor_api.search.records import Implementation, Plan, RunSpec

R = TypeVar("R", bound=BaseModel)

LONGEST_SUMMARY = 4000
ENDED = OWN_FAULTS | {"PlanInvalid"}
"""Why a plan came to nothing though the conversation about it came to its end. After an outage it is taken up again."""


class OpenAIBackend:
    """See the package. One object serves one step; `usage` is what that paid for."""

    def __init__(
        self,
        *,
        environment: Mapping[str, str] = os.environ,
        patience: Patience | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._environment, self._patience = environment, patience
        self._clock, self._sleep = clock, sleep
        self._say = say or _progress(JsonLines(sys.stderr))
        self._use = TokenUse()
        self._price: Price | None = None

    def plan(self, context: PlanContext) -> Plan:
        """See `Backend.plan`."""
        tools = planner_tools(context)
        commits = {
            attempt.implementation.commit
            for one in context.rounds
            for attempt in one.attempts
            if attempt.implementation is not None
        }

        form = Form(
            "plan",
            Plan,
            {"kind": "plan", "round": context.round, "recipes": [], "skills_consulted": []},
            lambda plan: plans.problem(plan, round_number=context.round, directive=context.directive, known=commits),
        )
        # A conversation that came to its end is not held again: its answers are recorded, and would be the same.
        held = [one for one in context.refused if one.reason in ENDED]
        name = f"{context.round:03d}/plan/{1 + len(held)}"
        task = Task(name, PLANNER, plan_opening(context, held), form, tools.tools)
        plan = self._hold("planner", context.run, task)
        return plan.model_copy(update={"skills_consulted": tuple(sorted(tools.skills_used))})

    def implement(self, context: ImplementContext) -> Implementation:
        """See `Backend.implement`."""
        fixed = {"kind": "implementation", "commit": "", "content_hash": "", "lines": None, "skills_used": []}
        form = Form("implementation", Implementation, fixed)
        name = f"{context.plan.round:03d}/implement/{context.attempt}"
        scratch = Path.cwd() / "scratch"
        scratch.mkdir(exist_ok=True)
        checkpoint = self._checkpoint(context.run)
        agents, _ = agents_of(context.run, "implementer")
        with implementer_tools(
            context,
            scratch=scratch,
            checkpoint=checkpoint,
            limits=command_limits(agents, self._environment),
            isolation=isolation(self._environment),
            access=shown(self._environment),
        ) as tools:
            opening = implement_opening(context)
            done = self._hold("implementer", context.run, Task(name, IMPLEMENTER, opening, form, tools.tools))
            used = tuple(sorted(tools.skills_used))
        return done.model_copy(update={"skills_used": used, "summary": done.summary[:LONGEST_SUMMARY]})

    def review(self, context: ReviewContext) -> Review:
        """What a model says of a candidate's source; what of it counts is decided by others. Raises `BackendError`."""
        after = snapshot(context.worktree)
        before = snapshot(context.before) if context.before is not None else {}
        tools = review_tools(context.worktree, before, after)
        name = f"{context.round:03d}/judge/{context.attempt}"
        form = Form("review", Review)
        return self._hold("judge", context.run, Task(name, REVIEWER, review_opening(context), form, tools))

    def usage(self) -> Usage:
        """See `Backend.usage`; without a price for the model, no money."""
        money = float(self._price.of(self._use)) if self._price is not None else 0.0
        return Usage(tokens=self._use.total, money=money)

    def _hold(self, role: RoleName, run: RunSpec, task: Task[R]) -> R:
        agents, settings = agents_of(run, role)
        price = agents.prices.get(settings.model)
        self._price = None if price is None else Price(**price.model_dump())
        model = OpenAIModel(
            model_access(self._environment),
            ModelSettings(settings.model, agents.api, settings.effort, f"{run.name}/{role}"[:64]),
            patience=self._patience,
            say=self._say,
            clock=self._clock,
            sleep=self._sleep,
        )
        limits = StepLimits(
            turns=agents.turns_per_step,
            tokens=agents.tokens_per_step,
            deadline=self._clock() + agents.step_seconds,
            seconds=agents.step_seconds,
            context_tokens=settings.context_tokens,
            maximum_output_tokens=settings.maximum_output_tokens,
        )
        conversation = Conversation(model, task, limits, clock=self._clock, say=self._say)
        try:
            return conversation.run()
        finally:
            self._use = self._use + conversation.use

    def _checkpoint(self, run: RunSpec) -> Path | None:
        """The model's folder with its weights, where this process has it; pods may have its configuration alone."""
        folder = Path(self._environment.get("SARTOR_MODEL") or str(run.model.get("folder", "")))
        return folder if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")) else None


def _progress(lines: JsonLines) -> Callable[[str], None]:
    return lambda message: lines("turn", message=message)
