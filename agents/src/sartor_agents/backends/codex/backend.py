"""Codex as a `Backend`: one invocation for a plan, one for an implementation, one more where an answer is no answer."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from sartor_agents.backends.access import agents_of, command_limits, isolation, model_access
from sartor_agents.backends.codex.events import Event
from sartor_agents.backends.codex.install import VERSION, Codex, CodexMissingError, find_codex
from sartor_agents.backends.codex.prompts import Place, PlanForm, WorkForm, implement_prompt, plan_prompt, schema_of
from sartor_agents.backends.codex.relay import Endpoint
from sartor_agents.backends.codex.session import CodexLimits, SessionResult, run_session
from sartor_agents.backends.conversation.accounting import Price, TokenUse
from sartor_agents.backends.protocol import BackendError, ImplementContext, PlanContext, Usage
from sartor_agents.cache import cache_folder
from sartor_agents.run.device import shown
from sartor_agents.run.sandbox.command import CommandSandbox, Isolation
from sartor_agents.run.sandbox.errors import SandboxError
from sartor_agents.run.sandbox.limits import Limits
from sartor_agents.tools.roles import planner_tools
from sartor_api.search.agents import RoleName
from sartor_api.search.records import FailureClass, Implementation, Plan, RunSpec

Answer = TypeVar("Answer")

_TOLD = ("history", "issues", "roofline")
"""What a planner would look up with tools is told at once: Codex has its own tools."""
ENDED = frozenset({"AnswerInvalid", "CodexTimedOut", "CodexTokensExhausted", "PlanInvalid"})
"""Why a plan came to nothing though the conversation about it came to its end. After an outage it is taken up again."""
_CLASS = {"ProviderFailed": FailureClass.PROVIDER, "CodexFailed": FailureClass.INFRASTRUCTURE}


@dataclass(frozen=True)
class CodexSettings:
    """`endpoint` is the model proxy, or a provider. Limits are those of one step. Without a `price` no money is counted."""

    endpoint: Endpoint
    model: str
    effort: str | None = None
    version: str = VERSION
    seconds: float = 3600.0
    tokens: int | None = 2_000_000
    limits: Limits | None = None
    isolation: Isolation = Isolation.BUBBLEWRAP
    price: Price | None = None

    @classmethod
    def of(cls, run: RunSpec, role: RoleName, environment: Mapping[str, str] = os.environ) -> "CodexSettings":
        """From a run's `agents` and the step's environment. Raises `BackendError`."""
        agents, settings = agents_of(run, role)
        access = model_access(environment)
        price = agents.prices.get(settings.model)
        return cls(
            endpoint=Endpoint(access.url, access.token),
            model=settings.model,
            effort=settings.effort,
            version=agents.codex_version or VERSION,
            seconds=agents.step_seconds,
            tokens=agents.tokens_per_step,
            price=None if price is None else Price(**price.model_dump()),
            limits=command_limits(agents, environment),
            isolation=isolation(environment),
        )

    def named(self, conversation: str, complaint: str | None) -> "CodexSettings":
        """For one conversation: the first about its task, or the one that repairs its answer."""
        name = f"{conversation}/{'first' if complaint is None else 'repair'}"
        return replace(self, endpoint=replace(self.endpoint, conversation=name))


class CodexBackend:
    """See the package. `settings` None: from the run. `codex` None: the pinned version, found."""

    def __init__(
        self,
        settings: CodexSettings | None = None,
        *,
        codex: Codex | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._codex = codex
        self._on_event = on_event
        self._use = TokenUse()
        self._price: Price | None = None

    def plan(self, context: PlanContext) -> Plan:
        settings = self._settings or CodexSettings.of(context.run, "planner")
        tools = {tool.name: tool for tool in planner_tools(context).tools if tool.name in _TOLD}
        told = {name: tool.call(tool.parameters.model_validate({})).text for name, tool in tools.items()}
        with tempfile.TemporaryDirectory(prefix="sartor-plan-") as folder:
            worktree = Path(folder) / "worktree"
            worktree.mkdir()
            box = self._sandbox(settings, worktree, Path(folder) / "scratch", context)

            # A conversation that came to its end is not held again: its answers are recorded, and would be the same.
            held = sum(one.reason in ENDED for one in context.refused)

            def ask(complaint: str | None, left: CodexSettings) -> SessionResult:
                left = left.named(f"plan/{1 + held}", complaint)
                return self._run(left, box, plan_prompt(context, told, Place.of(box), complaint), PlanForm, keep=False)

            return self._answered(settings, ask, lambda text: PlanForm.model_validate_json(text).plan(context.round))

    def implement(self, context: ImplementContext) -> Implementation:
        settings = self._settings or CodexSettings.of(context.run, "implementer")
        with tempfile.TemporaryDirectory(prefix=".codex-", dir=context.worktree.parent) as folder:
            box = self._sandbox(settings, context.worktree, Path(folder), context)

            def ask(complaint: str | None, left: CodexSettings) -> SessionResult:
                left = left.named(f"implement/{context.attempt}", complaint)
                return self._run(left, box, implement_prompt(context, Place.of(box), complaint), WorkForm, keep=True)

            work = self._answered(settings, ask, WorkForm.model_validate_json)
        return Implementation(summary=work.summary[:4000], skills_used=tuple(dict.fromkeys(work.skills_used))[:32])

    def usage(self) -> Usage:
        money = float(self._price.of(self._use)) if self._price is not None else 0.0
        return Usage(tokens=self._use.total, money=money)

    def _sandbox(
        self, settings: CodexSettings, worktree: Path, scratch: Path, context: PlanContext | ImplementContext
    ) -> CommandSandbox:
        scratch.mkdir(exist_ok=True)
        readable = {"/skills": context.skills_root} if context.skills_root is not None else {}
        access = shown()
        return CommandSandbox(
            worktree, scratch, settings.limits or Limits(), settings.isolation, readable, model_dir=context.model_dir,
            environment=access.environment, nodes=access.nodes,
        )  # fmt: skip

    def _run(
        self, settings: CodexSettings, box: CommandSandbox, prompt: str, form: type[BaseModel], *, keep: bool
    ) -> SessionResult:
        try:
            codex = self._codex or find_codex(cache_folder(), settings.version)
            result = run_session(
                codex,
                settings.endpoint,
                box,
                prompt,
                model=settings.model,
                effort=settings.effort,
                limits=CodexLimits(settings.seconds, settings.tokens),
                schema=schema_of(form),
                keep=keep,
                on_event=self._on_event,
            )
        except CodexMissingError as error:
            raise BackendError("CodexMissing", str(error), FailureClass.INFRASTRUCTURE) from error
        except SandboxError as error:
            raise BackendError(error.reason, error.message, FailureClass.INFRASTRUCTURE) from error
        used = result.tokens
        self._use += TokenUse(used.input, min(used.cached, used.input), used.output, min(used.reasoning, used.output))
        self._price = settings.price
        return result

    def _answered(
        self,
        settings: CodexSettings,
        ask: Callable[[str | None, CodexSettings], SessionResult],
        read: Callable[[str], Answer],
    ) -> Answer:
        """The answer that `read` takes, after one repair at most. Both invocations share the step's time and tokens."""
        complaint, left = None, settings
        for last in (False, True):
            result = ask(complaint, left)
            if result.problem is not None:
                blamed = _CLASS.get(result.problem, FailureClass.CANDIDATE)
                raise BackendError(_reason(result.problem), f"the Codex CLI: {result.message}", blamed)
            try:
                return read(result.answer)
            except ValidationError as error:
                first = error.errors(include_input=False, include_url=False)[0]
                complaint = f"{'.'.join(map(str, first['loc'])) or 'the answer'}: {first['msg']}."
            left = replace(
                left,
                seconds=max(1.0, left.seconds - result.seconds),
                tokens=None if left.tokens is None else max(1, left.tokens - result.tokens.total),
            )
            if last:
                break
        raise BackendError(
            "AnswerInvalid",
            f"the Codex CLI answered twice without the form that was asked for: {complaint}",
            FailureClass.CANDIDATE,
        )


def _reason(problem: str) -> str:
    return problem if problem.startswith("Codex") else f"Codex{problem}"
