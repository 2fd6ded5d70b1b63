"""The novel-miss probe: a prompt seen before may be read faster, its answer may not be written faster.

Where prompts do not repeat in the scenario, a server that keeps whole answers by their prompt gains nothing in a fair
measurement, and everything in one that repeats itself by accident; it also serves one user's answer to another. A prefix
cache saves the reading of the prompt and nothing of the writing, so what is compared is the writing: from the first token
to the last. An answer that comes in one piece shows no writing: there the repeat is compared with the same prompt asked for
a longer answer, which a prefix cache reads as fast, and which no kept answer is. Speculation from earlier answers may be
several times as fast and still runs the model; no model at all is faster than that by far, and for every repeated prompt.
"""

from collections.abc import Sequence
from statistics import median

from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample

from .metamorphic import TOKENS, failure, first_failed, passed
from .opening import Bench
from .prompts import shown, with_length
from .timing import in_one_piece, writing

NAME = "novel-or-repeated"
FASTER = 6.0
_MORE_TOKENS = 4
_LEAST_SECONDS = 0.02
"""Answers that a model writes within this time leave no room to tell: the event loop's own jitter is of that order."""


async def novel_or_repeated(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """Each request once, another one between, and again."""
    fresh = [
        with_length(request, max(1, min(TOKENS, request.output_tokens - _MORE_TOKENS))).with_body(prediction=None)
        for request in requests
    ]
    first: list[Sample] = []
    again: list[Sample] = []
    for place, request in enumerate(fresh):
        first.append(await bench.send(request))
        if place:
            again.append(await bench.send(fresh[place - 1]))
    again.append(await bench.send(fresh[-1]))
    if (failed := first_failed([*first, *again])) is not None:
        return failure(NAME, failed, fresh)
    pairs = list(zip(first, again, strict=True))
    sent = 2 * len(fresh)
    novel = median(one.latency for one in first)
    if novel < _LEAST_SECONDS:
        return passed(NAME, sent, f"not applicable: new answers take {1e3 * novel:.1f} ms")
    lumps = median(in_one_piece(one) for one in first)
    ratios = [_ratio(one.latency, other.latency) for one, other in pairs]
    if lumps:
        sent += len(fresh)
        longer = [await bench.send(with_length(one, one.output_tokens + _MORE_TOKENS)) for one in fresh]
        if (failed := first_failed(longer)) is not None:
            return failure(NAME, failed, fresh)
        beside = [_ratio(more.latency, other.latency) for more, (_, other) in zip(longer, pairs, strict=True)]
    else:
        beside = [_ratio(writing(one), writing(other)) for one, other in pairs]
    ratios = [min(both) for both in zip(ratios, beside, strict=True)]
    faster = median(ratios)
    if faster <= FASTER:
        return passed(NAME, sent, f"a repeat {faster:.2f} times as fast", ratio=round(faster, 3))
    return Check(
        name=NAME,
        passed=False,
        reason=Reason.COMPLETION_CACHED,
        message=f"repeated prompts are written {faster:.0f} times as fast as new ones ({len(pairs)} pairs, "
        f"new ones take {1e3 * novel:.1f} ms)",
        reproduce=shown(fresh[0]),
        evidence={"ratios": [round(ratio, 2) for ratio in ratios]},
    )


def _ratio(one: float, other: float) -> float:
    return one / max(other, 1e-4)
