"""Every client gets its own answer: many at once, streamed and whole, while others go away in mid-answer.

The canary is the answer itself: each client sends a prompt whose right answer is known from the accuracy sample, and is no
other client's. A wrong one is searched for among the others' answers, and whose it is is said.
"""

import asyncio
import itertools
from collections.abc import Sequence

from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample

from .metamorphic import failure, first_failed, passed
from .opening import Bench
from .prompts import shown, with_length

NAME = "cross-talk"
CLIENTS = 12
_TOKENS = 32
_CANARY = 12
"""Characters that are enough to know an answer by."""


async def cross_talk(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """`CLIENTS` at once with known answers, and a third as many that leave. `requests` are those that leave."""
    known = [answer.request for answer in bench.answers if answer.request.id in bench.texts][:CLIENTS]
    if len(known) < 2:
        return passed(NAME, 0, "not applicable: fewer than two right answers are known")
    asked = [with_length(request, min(_TOKENS, request.output_tokens)) for request in known]
    leaving = itertools.islice(itertools.cycle(requests), len(asked) // 3)
    answers, _ = await asyncio.gather(
        asyncio.gather(*(bench.send(request, stream=place % 3 != 0) for place, request in enumerate(asked))),
        asyncio.gather(*(bench.leave(request) for request in leaving)),
    )
    if (failed := first_failed(answers)) is not None:
        return failure(NAME, failed, asked)
    for request, sample in zip(asked, answers, strict=True):
        expected = _first(bench, bench.texts[request.id], request.output_tokens)
        if not bench.same(request, expected, sample.text) and not bench.check(request, sample.text).right:
            return _confused(bench, asked, request, expected, sample)
    return passed(NAME, len(asked), f"{len(asked)} clients")


def _first(bench: Bench, text: str, tokens: int) -> str:
    return bench.counter.decode(bench.counter.encode(text)[:tokens])


def _confused(
    bench: Bench, asked: Sequence[GenerationRequest], request: GenerationRequest, expected: str, sample: Sample
) -> Check:
    at = next((i for i, (a, b) in enumerate(zip(expected, sample.text, strict=False)) if a != b), 0)
    foreign = sample.text[at : at + _CANARY].strip()
    owner = next((r for r in asked if r is not request and foreign and foreign in bench.texts[r.id]), None)
    whose = f"as in the answer of the client beside it ({owner.id})" if owner is not None else "which is nobody's"
    return Check(
        name=NAME,
        passed=False,
        reason=Reason.CROSS_TALK if owner is not None else Reason.BATCH_VARIANT,
        message=f"{len(asked)} clients at once, at character {at}: {sample.text[at : at + 40]!r} instead of "
        f"{expected[at : at + 40]!r}, {whose}",
        reproduce=shown(request)
        if owner is None
        else {"at_once": [shown(request), shown(with_length(owner, request.output_tokens))]},
        evidence={"character": at, "clients": len(asked)},
    )
