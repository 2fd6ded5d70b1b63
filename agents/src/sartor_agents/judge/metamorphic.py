"""Metamorphic relations: changes of a request that may not change its answer.

They need no reference to be *broken*, only to tell a break from a tie. Each relation is one function that returns one check;
a broken one names the smallest request that shows it. Batches, speculation, streaming and cancellation are where a serving
engine keeps state, and so where one request's answer can come to depend on another's.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample

from .shrink import shrink, with_length

Same = Callable[[GenerationRequest, str, str], bool]
"""Whether two answers to a request are equal up to a tie of the reference."""

_TOKENS = 64  # long enough for every draft width, short enough to be cheap
_DISCONNECTS = 4


@dataclass(frozen=True, slots=True)
class Relations:
    """Checks relations on one server. `requests` (at least two) come from the scenario's own stream."""

    client: LoadClient
    same: Same
    requests: Sequence[GenerationRequest]
    timeout: float

    async def all(self, *, predictions: bool) -> list[Check]:
        """Every relation that applies, in order. Stops at a request that fails outright."""
        relations: list[Callable[[], Awaitable[Check]]] = [self.alone_or_batched, self.streamed_or_not]
        if predictions:
            relations.append(self.prediction)
        relations.append(self.after_disconnect)
        checks: list[Check] = []
        for relation in relations:
            begun = self.client.clock()
            check = await relation()
            checks.append(check.model_copy(update={"seconds": self.client.clock() - begun}))
            if check.reason is Reason.REQUEST_FAILED:
                break
        return checks

    async def alone_or_batched(self) -> Check:
        """The same text alone and among other requests."""
        name = "alone-or-batched"
        requests = [with_length(r, min(_TOKENS, r.output_tokens)) for r in self.requests]
        alone = [await self._send(request) for request in requests]
        batched = await asyncio.gather(*(self._send(request) for request in requests))
        if (failed := _failed([*alone, *batched])) is not None:
            return _failure(name, failed, requests)
        for request, one, other in zip(requests, alone, batched, strict=True):
            if not self.same(request, one.text, other.text):
                others = [r for r in requests if r is not request]

                async def fails(smaller: GenerationRequest, others: Sequence[GenerationRequest] = others) -> bool:
                    single = await self._send(smaller)
                    together, *_ = await asyncio.gather(self._send(smaller), *(self._send(r) for r in others))
                    return single.ok and together.ok and not self.same(smaller, single.text, together.text)

                return await self._broken(name, Reason.BATCH_VARIANT, request, one, other, fails, among=len(others))
        return _passed(name, 2 * len(requests))

    async def streamed_or_not(self) -> Check:
        """The same text as one JSON object and as a stream."""
        name = "streamed-or-not"
        request = with_length(self.requests[0], min(_TOKENS, self.requests[0].output_tokens))
        one, other = await self._send(request), await self._send(request, stream=False)
        if (failed := _failed([one, other])) is not None:
            return _failure(name, failed, [request])
        if not self.same(request, one.text, other.text):

            async def fails(smaller: GenerationRequest) -> bool:
                a, b = await self._send(smaller), await self._send(smaller, stream=False)
                return a.ok and b.ok and not self.same(smaller, a.text, b.text)

            return await self._broken(name, Reason.STREAMING_CHANGED_OUTPUT, request, one, other, fails)
        return _passed(name, 2)

    async def prediction(self) -> Check:
        """The same text with a right, a wrong, a half right and no prediction: speculation is lossless."""
        name = "prediction"
        request = with_length(self.requests[0], min(_TOKENS, self.requests[0].output_tokens)).with_body(prediction=None)
        foreign = await self._send(with_length(self.requests[1], request.output_tokens).with_body(prediction=None))
        plain = await self._send(request)
        if (failed := _failed([plain, foreign])) is not None:
            return _failure(name, failed, [request])
        half = plain.text[: len(plain.text) // 2] + foreign.text[len(foreign.text) // 2 :]
        for kind, content in (("right", plain.text), ("wrong", foreign.text), ("half right", half)):
            predicted = request.with_body(prediction={"type": "content", "content": content})
            sample = await self._send(predicted)
            if not sample.ok:
                return _failure(name, sample, [predicted])
            if not self.same(request, plain.text, sample.text):

                async def fails(smaller: GenerationRequest, content: str = content) -> bool:
                    bare = smaller.with_body(prediction=None)
                    told = smaller.with_body(prediction={"type": "content", "content": content})
                    a, b = await self._send(bare), await self._send(told)
                    return a.ok and b.ok and not self.same(bare, a.text, b.text)

                check = await self._broken(name, Reason.PREDICTION_CHANGED_OUTPUT, request, plain, sample, fails)
                body = {**(check.reproduce or {}), "prediction": predicted.body["prediction"]}
                return check.model_copy(update={"reproduce": body, "evidence": {**check.evidence, "kind": kind}})
        return _passed(name, 5)

    async def after_disconnect(self) -> Check:
        """The same text after other clients went away in the middle of their answers."""
        name = "after-disconnect"
        request = with_length(self.requests[0], min(_TOKENS, self.requests[0].output_tokens))
        before = await self._send(request)
        for other in itertools.islice(itertools.cycle(self.requests[1:]), _DISCONNECTS):
            await self._leave(other)
        after = await self._send(request)
        if (failed := _failed([before, after])) is not None:
            return _failure(name, failed, [request])
        if not self.same(request, before.text, after.text):

            async def fails(smaller: GenerationRequest) -> bool:
                a = await self._send(smaller)
                await self._leave(self.requests[1])
                b = await self._send(smaller)
                return a.ok and b.ok and not self.same(smaller, a.text, b.text)

            return await self._broken(name, Reason.DISCONNECT_CHANGED_OUTPUT, request, before, after, fails)
        return _passed(name, 2 + _DISCONNECTS)

    async def _send(self, request: GenerationRequest, *, stream: bool = True) -> Sample:
        return await self.client.send(request, stream=stream, timeout=self.timeout)

    async def _leave(self, request: GenerationRequest) -> None:
        try:
            connection = await self.client.connect()
        except (OSError, TimeoutError):
            return  # the request that follows will say that the server is gone
        await connection.leave_early(self.client.encode(request), timeout=self.timeout)

    async def _broken(
        self,
        name: str,
        reason: Reason,
        request: GenerationRequest,
        one: Sample,
        other: Sample,
        fails: Callable[[GenerationRequest], Awaitable[bool]],
        **evidence: Any,
    ) -> Check:
        same = next((i for i, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b), None)
        at = min(len(one.text), len(other.text)) if same is None else same
        tokens = self.client.counter.count(one.text[: at + 1])
        smallest = await shrink(request, fails, self.client.counter, tokens=tokens + 1)
        return Check(
            name=name,
            passed=False,
            reason=reason,
            message=f"texts differ at character {at}: {one.text[at : at + 40]!r} and {other.text[at : at + 40]!r}",
            reproduce={"path": smallest.path, **smallest.body},
            evidence={"character": at, "token": tokens, **evidence},
        )


def _failed(samples: Sequence[Sample]) -> Sample | None:
    return next((sample for sample in samples if not sample.ok), None)


def _failure(name: str, sample: Sample, requests: Sequence[GenerationRequest]) -> Check:
    request = next((r for r in requests if r.id == sample.request_id), requests[0])
    return Check(
        name=name,
        passed=False,
        reason=Reason.REQUEST_FAILED,
        message=f"{sample.error}: {sample.detail}",
        reproduce={"path": request.path, **request.body},
    )


def _passed(name: str, requests: int) -> Check:
    return Check(name=name, passed=True, reason=Reason.PASSED, message="", requests=requests)
