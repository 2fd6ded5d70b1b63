"""What a scenario is: stages to run, a stream of fresh requests, and what they are worth.

A scenario decides *what* is sent and which number is its objective; how it is sent, timed and compared is the business of
`sartor_agents.measurement`. Judge and evaluator draw from the same streams, so that a server cannot tell them apart.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sartor_agents.measurement.samples import GenerationRequest, Purpose

Metric = Literal["requestTokensPerSecond", "outputTokensPerSecond"]
"""`requestTokensPerSecond`: median over requests of tokens ÷ latency. `outputTokensPerSecond`: tokens that arrived in the
scored part of a window ÷ its length."""

Oracle = Callable[[Sequence[GenerationRequest]], Awaitable[list[str]]]
"""Greedy answers of a trusted server, in the order of the requests."""


Arrival = tuple[float, GenerationRequest, Purpose]
"""When a request is due, in seconds from the begin of the window, and why it is sent."""

Replay = Callable[[int, float, float], list[Arrival]]
"""(window, seconds of warm-up, seconds in all) → the requests of that window; those due in the warm-up are not scored."""


class ScenarioError(ValueError):
    """The scenario cannot be run as asked (model folder, parameters, trace); the message says what to change."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One load pattern of a window. Closed loop at `concurrency`, or open loop: Poisson arrivals at `request_rate` per
    second, or the schedule that `replay` gives, `request_rate` per second on average.

    A *counted* stage sends a fixed number of requests of each condition, in turn, and times each; a *timed* stage keeps the
    load up for a fixed time. Conditions of a stage that is not `in_objective` are reported and do not choose.
    """

    name: str
    kind: Literal["counted", "timed"]
    conditions: tuple[str, ...]
    concurrency: int = 1
    request_rate: float | None = None
    replay: Replay | None = None
    in_objective: bool = True

    @property
    def is_open(self) -> bool:
        """Whether requests leave on a schedule, whatever the server does."""
        return self.request_rate is not None


@dataclass(frozen=True, slots=True)
class Envelope:
    """Largest prompt and answer of the workload, in tokens: what a stack must take itself at the least."""

    input_tokens: int
    output_tokens: int
    concurrency: int


class Scenario(Protocol):
    """A workload. Streams are endless, deterministic in (seed, stage, purpose, window) and never repeat a prompt."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> Metric: ...

    @property
    def stages(self) -> tuple[Stage, ...]: ...

    @property
    def envelope(self) -> Envelope: ...

    @property
    def count_tolerance(self) -> float:
        """How far an own token count may differ from `usage` (share); 0 where the tokenizer is canonical."""
        ...

    @property
    def sweep(self) -> Callable[[int], Stage] | None:
        """The closed-loop stage at a concurrency, where the scenario was asked to find the sustainable peak."""
        ...

    def stream(self, stage: Stage, purpose: Purpose, window: int) -> Iterator[GenerationRequest]:
        """Fresh requests, conditions in turn. Warm-up requests are plain and short."""
        ...

    def prompt_ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        """Token ids that a server gives the model for the `prompt` or `messages` of a body in this scenario's contract."""
        ...

    async def prepare(self, requests: Sequence[GenerationRequest], oracle: Oracle) -> list[GenerationRequest]:
        """Add to the requests what depends on the model's own answers (predictions), where it is not known beforehand."""
        ...
