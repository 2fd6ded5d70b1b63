"""The border between the search and whoever writes code: one small protocol, one file per backend.

A backend is asked twice per round, each time in a fresh process with a fresh context: `plan` picks one falsifiable
hypothesis, `implement` turns it into files. It measures nothing and decides nothing: what it returns is a declaration that
gates check. Everything that it may know is in the context; everything that it may write is `stack/` in the worktree.

A backend that cannot go on raises `BackendError`; its failure class says whether asking again can help.
"""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from sartor_api.search.directive import Directive
from sartor_api.search.issues import Issue
from sartor_api.search.records import (
    BaselineRecord,
    Cost,
    FailureClass,
    Implementation,
    Plan,
    RunSpec,
    Verdict,
)
from sartor_api.search.state import Round


class HardwareFacts(BaseModel):
    """The machine that candidates run on, as far as a planner can use it. Bytes; bandwidth in bytes per second, of the
    accelerators where there are any; `matrix_rate` in bfloat16 operations per second.

    `accelerators` are names; `accelerator_uuids` say which devices of a machine with more of them they are.
    `accelerator_bytes`, `capability` and `driver` are those of one accelerator. `stack_bytes`: what of its memory a stack
    may hold, and `cache_bytes`: what of that as keys and values, where it shares the device with the baseline (None: all).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    platform: str
    machine: str = ""
    cpu_model: str = ""
    cores: int = Field(ge=1)
    cpu_flags: tuple[str, ...] = ()
    memory_bytes: int = Field(ge=0)
    accelerators: tuple[str, ...] = ()
    accelerator_uuids: tuple[str, ...] = ()
    accelerator_bytes: int | None = None
    capability: str = ""
    driver: str = ""
    stack_bytes: int | None = None
    cache_bytes: int | None = None
    read_bandwidth: float | None = None
    matrix_rate: float | None = None

    @property
    def accelerator_words(self) -> str:
        """The accelerators in words; empty where there are none."""
        if not self.accelerators:
            return ""
        told = [
            *([f"{self.accelerator_bytes / 2**30:.1f} GiB"] if self.accelerator_bytes is not None else []),
            *([f"compute capability {self.capability}"] if self.capability else []),
            *([f"driver {self.driver}"] if self.driver else []),
        ]
        if self.stack_bytes is not None:
            told.append(f"of which a stack may hold {self.stack_bytes / 2**30:.1f} GiB beside the baseline")
        return ", ".join(self.accelerators) + (f" ({', '.join(told)})" if told else "")


class PlanContext(BaseModel):
    """What a planner sees: the run so far and the skills, never prompts, seeds or checker.

    `model_dir` holds the model's configuration files only (no weights). `rounds` are all closed rounds in order, with
    their plans, verdicts and measurements, `in_work` those that are under way beside this one (with `parallelism`);
    `incumbent` is the number of the round whose candidate is the best so far and `head` the commit that a `return` plan
    made the base (None: the incumbent, or an empty stack). `skills_root` is None when the run goes without skills.
    `roadmap` is the run's history in words. `directive` is what the plan has to keep to (`sartor_api.search.plans` refuses
    another), `issues` all issues of the run with their states, `message` a word of a human, `refused` why earlier plans of
    this round were refused, `allowance` what this call may cost at most (zero of something: that is not budgeted).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    round: int = Field(ge=1)
    model_dir: Path
    hardware: HardwareFacts
    baseline: BaselineRecord
    rounds: tuple[Round, ...] = ()
    in_work: tuple[Round, ...] = ()
    incumbent: int | None = None
    head: str | None = None
    skills_root: Path | None = None
    roadmap: str = ""
    directive: Directive = Directive()
    issues: tuple[Issue, ...] = ()
    message: str = ""
    refused: tuple[Verdict, ...] = ()
    allowance: Cost = Cost()

    @property
    def scenario(self) -> str:
        return self.run.scenario


class ImplementContext(BaseModel):
    """What an implementer sees: the plan, the parent's files, the skills, and what the gates said to its last try.

    `worktree` holds `stack/` as the plan's parent left it (absent for a first candidate). With `attempt` 2 it holds the
    failed try, and `feedback` what the gates said to it. `run.envelope` is what the stack must serve itself. `allowance` is
    what this call may cost at most (zero of something: that is not budgeted).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    plan: Plan
    attempt: int = Field(ge=1)
    worktree: Path
    model_dir: Path
    hardware: HardwareFacts
    skills_root: Path | None = None
    feedback: tuple[Verdict, ...] = ()
    allowance: Cost = Cost()

    @property
    def scenario(self) -> str:
        return self.run.scenario


class ReviewContext(BaseModel):
    """What a reviewer sees: the candidate's files in `worktree`, and those that it was made from in `before` (None: it was
    made from nothing). Both hold `stack/`, and nothing in them is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunSpec
    round: int = Field(ge=0)
    attempt: int = Field(ge=1)
    worktree: Path
    before: Path | None = None


class Usage(BaseModel):
    """What one call of a backend used of paid things."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int = Field(default=0, ge=0)
    money: float = Field(default=0.0, ge=0)


class BackendError(Exception):
    """A backend could not do what it was asked.

    `reason` is a CamelCase constant, the message a sentence for people. PROVIDER and INFRASTRUCTURE are asked again
    later; CANDIDATE means that this plan cannot be implemented, which costs the attempt.
    """

    def __init__(self, reason: str, message: str, failure_class: FailureClass = FailureClass.PROVIDER) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.failure_class = failure_class


class Backend(Protocol):
    """Who writes code. Implementations are named in `sartor_agents.backends.load_backend`."""

    def plan(self, context: PlanContext) -> Plan:
        """The next hypothesis. Same context, same plan, for a deterministic backend. Raises `BackendError`."""
        ...

    def implement(self, context: ImplementContext) -> Implementation:
        """Write `stack/` into `context.worktree`.

        May be called again with the same context after it was killed half-way, so it starts by clearing what it writes.
        `commit` and `content_hash` of the result are left empty. Raises `BackendError`.
        """
        ...

    def usage(self) -> Usage:
        """What this backend used so far in this process; zero for one that pays nothing."""
        ...
