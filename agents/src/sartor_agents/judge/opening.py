"""What every check of the judge works with: both servers, the scenario, the reference, and what is known so far."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sartor_agents.measurement.client import LoadClient, Sent
from sartor_agents.measurement.connect import NotUpError, connect
from sartor_agents.measurement.handover import HandoverWatch
from sartor_agents.measurement.messages import Endpoint, FailureClass, JudgeRequest, Reason
from sartor_agents.measurement.progress import Progress
from sartor_agents.measurement.samples import GenerationRequest, Purpose, Sample
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.scenarios import Scenario, ScenarioError, open_scenario

from .accuracy import AnswerVerdict, check_answer, check_ids, same_answer
from .logprobs import Divergence
from .reference_check import Checker, ReferenceCheck, reference_failed

OpenReference = Callable[[Path], Checker]
"""Opens the reference of a model folder; called once, after the candidate was found to be up."""

_DEFAULT_MAX_LEN = 4096
_T = TypeVar("_T")


class JudgingError(Exception):
    """The judge cannot judge; reason and class become the only verdict."""

    def __init__(self, reason: Reason, failure_class: FailureClass, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.failure_class = failure_class


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per token of one request without `logprobs` and of the same one with."""

    condition: str
    plain: float
    asked: float

    @property
    def ratio(self) -> float:
        return self.asked / max(self.plain, 1e-9)


@dataclass
class Bench:
    """One judging. Methods that ask the reference are synchronous: call them when nothing is in flight.

    Raises `JudgingError` wherever the reference fails, which is never the candidate's fault.
    """

    request: JudgeRequest
    scenario: Scenario
    counter: TokenCounter
    client: LoadClient
    baseline: LoadClient | None
    watch: HandoverWatch | None
    progress: Progress
    _reference: Checker
    answers: list[AnswerVerdict] = field(default_factory=list[AnswerVerdict])
    """Verdicts on the accuracy sample."""
    texts: dict[str, str] = field(default_factory=dict[str, str])
    """Text of those answers that are right, by the request's id."""
    logprobs_offered: bool = False
    coarse: bool = False
    """The candidate rounds its logits to bfloat16."""
    divergence: Divergence = field(default_factory=Divergence)
    """Of the candidate's log-probabilities, on the requests drawn for them."""
    limit: float | None = None
    """What the mean distance may be, nats."""
    costs: list[Cost] = field(default_factory=list[Cost])
    _time_limit: asyncio.Timeout | None = None
    _begun: float = field(default_factory=time.monotonic)
    _referring: float = 0.0

    @classmethod
    async def open(cls, request: JudgeRequest, open_reference: OpenReference, progress: Progress) -> "Bench":
        """Connect, and load the reference. Raises `ScenarioError` or `JudgingError`."""
        scenario, counter = open_scenario(request.scenario, request.model_dir, request.seed, trace=request.trace)
        client = await _connect(request, request.candidate, "candidate", counter)
        baseline = watch = None
        if request.baseline is not None:
            baseline = await _connect(request, request.baseline, "baseline", counter)
            watch = HandoverWatch(baseline)
            await watch.begin()
        progress("reference", message="loading the reference")
        try:
            reference = open_reference(request.model_dir)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgingError(
                Reason.INTERNAL,
                FailureClass.INFRASTRUCTURE,
                f"the reference cannot load {request.model_dir.name}: {error}",
            ) from error
        return cls(request, scenario, counter, client, baseline, watch, progress, reference)

    @property
    def numbers_hold(self) -> bool:
        """Whether single answers can be judged by their log-probabilities: they are reported, and right on the whole."""
        return self.logprobs_offered and self.limit is not None and self.divergence.mean_distance <= self.limit

    # --- time ---------------------------------------------------------------------------------------------------------

    def limited(self, seconds: float) -> asyncio.Timeout:
        """A time limit for what servers do; what the reference takes meanwhile is added to it."""
        self._time_limit = asyncio.timeout(seconds)
        return self._time_limit

    def left(self) -> float:
        """Seconds that the servers may still take in all: what the reference took is not theirs."""
        return max(0.0, self.request.wall_clock - (time.monotonic() - self._begun - self._referring))

    def _refer(self, ask: Callable[[Checker], _T]) -> _T:
        begun = time.monotonic()
        try:
            return ask(self._reference)
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise JudgingError(Reason.INTERNAL, FailureClass.INFRASTRUCTURE, reference_failed(error)) from error
        finally:
            taken = time.monotonic() - begun
            self._referring += taken
            limit = self._time_limit
            if limit is not None and not limit.expired() and (when := limit.when()) is not None:
                limit.reschedule(when + taken)

    # --- the reference ------------------------------------------------------------------------------------------------

    def check(self, request: GenerationRequest, text: str) -> AnswerVerdict:
        """The verdict on one answer."""
        tolerance = self.request.tie_tolerance
        return self._refer(lambda it: check_answer(it, request, text, self.counter, tolerance=tolerance))

    def check_ids(self, request: GenerationRequest, ids: Sequence[int]) -> AnswerVerdict:
        """The verdict on an answer whose token ids are known."""
        tolerance = self.request.tie_tolerance
        return self._refer(lambda it: check_ids(it, request, ids, tolerance=tolerance))

    def read(
        self, request: GenerationRequest, ids: Sequence[int], *, layers: bool = False, logits: bool = False
    ) -> ReferenceCheck:
        """The reference's reading of an answer in fp32; its layers, or its logits, rounded to bfloat16."""
        if not (layers or logits):
            return self._refer(lambda it: it.check(request.prompt_ids, ids))
        return self._refer(lambda it: it.rounded(request.prompt_ids, ids, layers=layers, logits=logits))

    def read_products(self, request: GenerationRequest, ids: Sequence[int]) -> ReferenceCheck:
        """The reference's reading with bfloat16 operands of matrix products."""
        return self._refer(lambda it: it.products(request.prompt_ids, ids))

    def rest(self, verdict: AnswerVerdict) -> str:
        """The text that a right answer lacks: what the reference writes behind it, up to the length that was asked for.

        Empty for a complete answer, also where its last tokens show no text (special tokens, a character begun).
        """
        missing = verdict.request.output_tokens - len(verdict.output_ids)
        if missing <= 0:
            return ""
        before = [*verdict.request.prompt_ids, *verdict.output_ids]
        ids = self._refer(lambda it: it.generate(before, missing))
        return self.counter.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")

    def same(self, request: GenerationRequest, one: str, other: str) -> bool:
        """Whether two answers to a request are equal up to a tie of the reference."""
        if one == other:
            return True
        tolerance = self.request.tie_tolerance
        return self._refer(lambda it: same_answer(it, request, one, other, self.counter, tolerance=tolerance))

    # --- the candidate ------------------------------------------------------------------------------------------------

    async def send(self, request: GenerationRequest, *, stream: bool = True) -> Sample:
        """One request to the candidate, on a connection of its own."""
        return await self.client.send(request, stream=stream, timeout=self.request.request_timeout)

    async def load(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Sent]:
        """The candidate under closed-loop load; nothing more is sent once a request failed."""
        return await load(self.client, requests, concurrency)

    async def leave(self, request: GenerationRequest) -> None:
        """A client that goes away in the middle of its answer."""
        try:
            connection = await self.client.connect()
        except (OSError, TimeoutError):
            return  # the request that follows will say that the server is gone
        await connection.leave_early(self.client.encode(request), timeout=self.request.request_timeout)

    async def oracle(self, wanted: Sequence[GenerationRequest]) -> list[str]:
        """Answers that predictions are made from: the baseline's, else the candidate's own (they are checked anyway)."""
        trusted = self.baseline or self.client
        answers: list[str] = []
        for one in wanted:
            answers.append((await trusted.send(one.with_body(cache_salt=f"oracle-{one.id}"))).text)
            self.note_baseline(1)
        return answers

    def note_baseline(self, requests: int) -> None:
        """`requests` of ours were answered by the baseline."""
        if self.watch is not None:
            self.watch.note_own(requests)

    def max_model_len(self) -> int:
        """Tokens of prompt and answer that the model takes."""
        if self.request.max_model_len is not None:
            return self.request.max_model_len
        path = self.request.model_dir / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return int(config.get("max_position_embeddings", _DEFAULT_MAX_LEN))
        except (OSError, ValueError, TypeError) as error:
            raise ScenarioError(f"{path} cannot be read: {error}") from None


async def load(client: LoadClient, requests: Sequence[GenerationRequest], concurrency: int) -> list[Sent]:
    """Closed-loop load through the benchmark's client; nothing more is sent once a request failed.

    So a server that hangs costs one request's time limit, not one per request.
    """
    shared: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "accuracy") for request in requests)
    return await client.closed_loop(
        [shared] * min(concurrency, max(1, len(requests))),
        enough=lambda sent: sent.exchange.error is not None or sent.exchange.status != 200,
    )


async def _connect(request: JudgeRequest, endpoint: Endpoint, name: str, counter: TokenCounter) -> LoadClient:
    try:
        return await connect(endpoint, name, counter, request)
    except NotUpError as error:
        raise JudgingError(error.reason, error.failure_class, str(error)) from None
