"""Metamorphic relations: changes of a request, or of its company, that may not change its answer.

They need no reference to be *broken*, only to tell a break from a tie. Each relation is one function that returns one check;
a broken one names the smallest request that shows it. Batches, speculation, streaming and cancellation are where a serving
engine keeps state, and so where one request's answer can come to depend on another's. Caches are `prefixes`' business.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample

from .accuracy import reason_of
from .opening import Bench
from .prompts import shown, with_length
from .shrink import shrink

TOKENS = 64
"""Longest answers compared: enough for every draft width, short enough to be cheap."""
_DISCONNECTS = 4

Relation = Callable[[Bench, Sequence[GenerationRequest]], Awaitable[Check]]
"""Takes fresh requests of the scenario's own stream, at least two."""


async def alone_or_batched(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """The same text alone and among other requests."""
    name = "alone-or-batched"
    requests = [short(request) for request in requests]
    alone = [await bench.send(request) for request in requests]
    batched = await asyncio.gather(*(bench.send(request) for request in requests))
    if (failed := first_failed([*alone, *batched])) is not None:
        return failure(name, failed, requests)
    for request, one, other in zip(requests, alone, batched, strict=True):
        if not bench.same(request, one.text, other.text):
            others = [r for r in requests if r is not request]

            async def fails(smaller: GenerationRequest, others: Sequence[GenerationRequest] = others) -> bool:
                single = await bench.send(smaller)
                together, *_ = await asyncio.gather(bench.send(smaller), *(bench.send(r) for r in others))
                return single.ok and together.ok and not bench.same(smaller, single.text, together.text)

            return await broken(bench, name, Reason.BATCH_VARIANT, request, (one, other), fails, among=len(others))
    return passed(name, 2 * len(requests))


async def streamed_or_not(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """The same text as one JSON object and as a stream."""
    name = "streamed-or-not"
    request = short(requests[0])
    one, other = await bench.send(request), await bench.send(request, stream=False)
    if (failed := first_failed([one, other])) is not None:
        return failure(name, failed, [request])
    if not bench.same(request, one.text, other.text):

        async def fails(smaller: GenerationRequest) -> bool:
            a, b = await bench.send(smaller), await bench.send(smaller, stream=False)
            return a.ok and b.ok and not bench.same(smaller, a.text, b.text)

        return await broken(bench, name, Reason.STREAMING_CHANGED_OUTPUT, request, (one, other), fails)
    return passed(name, 2)


async def prediction(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """The same text with a right, a wrong, a half right and no prediction: speculation is lossless."""
    name = "prediction"
    request = short(requests[0]).with_body(prediction=None)
    foreign = await bench.send(with_length(requests[1], request.output_tokens).with_body(prediction=None))
    plain = await bench.send(request)
    if (failed := first_failed([plain, foreign])) is not None:
        return failure(name, failed, [request])
    half = plain.text[: len(plain.text) // 2] + foreign.text[len(foreign.text) // 2 :]
    for kind, content in (("right", plain.text), ("wrong", foreign.text), ("half right", half)):
        predicted = request.with_body(prediction={"type": "content", "content": content})
        sample = await bench.send(predicted)
        if not sample.ok:
            return failure(name, sample, [predicted])
        if not bench.same(request, plain.text, sample.text):

            async def fails(smaller: GenerationRequest, content: str = content) -> bool:
                bare = smaller.with_body(prediction=None)
                told = smaller.with_body(prediction={"type": "content", "content": content})
                a, b = await bench.send(bare), await bench.send(told)
                return a.ok and b.ok and not bench.same(bare, a.text, b.text)

            check = await broken(bench, name, Reason.PREDICTION_CHANGED_OUTPUT, request, (plain, sample), fails)
            body = {**(check.reproduce or {}), "prediction": predicted.body["prediction"]}
            return check.model_copy(update={"reproduce": body, "evidence": {**check.evidence, "kind": kind}})
    return passed(name, 5)


async def after_disconnect(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """The same text after other clients went away in the middle of their answers."""
    name = "after-disconnect"
    request = short(requests[0])
    before = await bench.send(request)
    for other in itertools.islice(itertools.cycle(requests[1:]), _DISCONNECTS):
        await bench.leave(other)
    after = await bench.send(request)
    if (failed := first_failed([before, after])) is not None:
        return failure(name, failed, [request])
    if not bench.same(request, before.text, after.text):

        async def fails(smaller: GenerationRequest) -> bool:
            a = await bench.send(smaller)
            await bench.leave(requests[1])
            b = await bench.send(smaller)
            return a.ok and b.ok and not bench.same(smaller, a.text, b.text)

        return await broken(bench, name, Reason.DISCONNECT_CHANGED_OUTPUT, request, (before, after), fails)
    return passed(name, 2 + _DISCONNECTS)


# --- what relations share -------------------------------------------------------------------------------------------


def short(request: GenerationRequest) -> GenerationRequest:
    """The request for at most `TOKENS` tokens."""
    return with_length(request, min(TOKENS, request.output_tokens))


async def broken(
    bench: Bench,
    name: str,
    reason: Reason,
    request: GenerationRequest,
    answers: tuple[Sample, Sample],
    fails: Callable[[GenerationRequest], Awaitable[bool]],
    **evidence: Any,
) -> Check:
    """The check of a relation that two answers broke, with the smallest request for which `fails` holds."""
    one, other = answers[0].text, answers[1].text
    at = split(one, other)
    tokens = bench.counter.count(one[: at + 1])
    smallest = await shrink(request, fails, bench.scenario.prompt_ids, tokens=tokens + 1)
    return Check(
        name=name,
        passed=False,
        reason=reason,
        message=f"texts differ at character {at}: {one[at : at + 40]!r} and {other[at : at + 40]!r}",
        reproduce=shown(smallest),
        evidence={"character": at, "token": tokens, **evidence},
    )


def split(one: str, other: str) -> int:
    """The first character where two texts differ."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def first_failed(samples: Sequence[Sample]) -> Sample | None:
    return next((sample for sample in samples if not sample.ok), None)


def failure(name: str, sample: Sample, requests: Sequence[GenerationRequest]) -> Check:
    """The check of a relation whose request was not answered."""
    request = next((r for r in requests if r.id == sample.request_id), requests[0])
    return Check(
        name=name,
        passed=False,
        reason=reason_of(sample, request),
        message=f"{sample.error}: {sample.detail}",
        reproduce=shown(request),
    )


def passed(name: str, requests: int, message: str = "", **evidence: Any) -> Check:
    return Check(name=name, passed=True, reason=Reason.PASSED, message=message, requests=requests, evidence=evidence)
