"""Caches of prompts may not show: hit or miss, and whoever else's prompt began alike.

A prefix cache keys its entries by blocks of tokens. What goes wrong there: a key that covers less than the prefix (its last
block, its length, a hash without its parent), a block that is taken as whole one token too early, an entry that is reused
while another request still writes it. So prompts are made that share exactly 0, 1 or a block's length ± 1 tokens and go on
differently, are sent at once in mixed order, twice: cold, and with everything in the cache.

On a checkpoint whose text rests on the last token alone (chain) a foreign prefix does not show in the text. Where the server
reports log-probabilities these requests ask for them, and each answer is held to the reference by both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sartor_agents.measurement.client import Sent
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.seeds import derive

from .accuracy import describe
from .divergence import answer_distance
from .logprobs import LogprobError, asking
from .metamorphic import broken, failure, first_failed, passed, short
from .opening import Bench
from .prompts import shown, text_of, with_length, with_text
from .shrink import shrink_pair

BLOCKS = (16, 64, 128, 256)
"""Tokens: vLLM's block sizes on GPUs (16) and CPUs (128), and the usual ones of others."""
POISONED = 4.0
"""How many times the mean limit one answer of `TOKENS` tokens may be from the reference: single answers scatter."""
TOKENS = 16
_SUFFIX = 8
_FEWEST_FAMILIES, _ANSWERS_PER_FAMILY = 4, 3


async def cache_hit_or_miss(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """The same prompt again, and once more kept out of caches (vLLM's `cache_salt`)."""
    name = "cache-hit-or-miss"
    request = short(requests[0])
    first = await bench.send(request)
    again = await bench.send(request)
    salted = await bench.send(request.with_body(cache_salt="apart"))
    if (failed := first_failed([first, again, salted])) is not None:
        return failure(name, failed, [request])
    for kind, other in (("again", again), ("cache_salt", salted)):
        if not bench.same(request, first.text, other.text):

            async def fails(smaller: GenerationRequest, kind: str = kind) -> bool:
                a = await bench.send(smaller)
                b = await bench.send(smaller.with_body(cache_salt="apart") if kind == "cache_salt" else smaller)
                return a.ok and b.ok and not bench.same(smaller, a.text, b.text)

            return await broken(bench, name, Reason.CACHE_CHANGED_OUTPUT, request, (first, other), fails, repeated=kind)
    return passed(name, 3)


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts around one boundary.

    `first` and `second` share `shared` tokens and end differently; `altered` ends as the first, and one early token differs.
    """

    shared: int
    first: GenerationRequest
    second: GenerationRequest
    altered: GenerationRequest

    @property
    def members(self) -> tuple[GenerationRequest, GenerationRequest, GenerationRequest]:
        return self.first, self.second, self.altered


def families(bench: Bench, requests: Sequence[GenerationRequest]) -> list[Family]:
    """Prompts of this scenario's own words around block boundaries; which boundaries, the seed draws."""
    counter, template = bench.counter, with_length(requests[0], TOKENS).with_body(prediction=None)
    words = [counter.encode(text) for request in requests if (text := text_of(request))]
    base = [token for ids in words for token in ids]
    before = _before(bench, template, base)
    ends = [ids[-_SUFFIX:] for ids in words]
    room = min(len(base), bench.scenario.envelope.input_tokens - _SUFFIX - before)
    lengths = [
        block + off for block in BLOCKS for off in (-1, 0, 1) if _before(bench, template, base) < block + off <= room
    ]
    rng = derive(bench.request.seed, "prefixes")
    wanted = max(_FEWEST_FAMILIES, bench.request.samples // 4)
    chosen = sorted(rng.choice(lengths, size=min(wanted, len(lengths)), replace=False).tolist()) if lengths else []
    made: list[Family] = []
    for number, shared in enumerate(chosen):
        own = shared - before
        other = [*base[:own]]
        at = int(rng.integers(0, max(1, own // 2)))
        other[at] = _unlike(other[at], base, rng)
        one, two = ends[number % len(ends)], ends[(number + 1) % len(ends)]
        texts = (base[:own] + one, base[:own] + two, other + one)
        first, second, altered = (with_text(template, counter.decode(ids), bench.scenario.prompt_ids) for ids in texts)
        made.append(Family(shared, _named(first, shared, 0), _named(second, shared, 1), _named(altered, shared, 2)))
    return made


def _named(request: GenerationRequest, shared: int, member: int) -> GenerationRequest:
    return GenerationRequest(
        f"prefix/{shared}/{member}", request.condition, request.path, request.body, request.prompt_ids,
        request.output_tokens,
    )  # fmt: skip


def _before(bench: Bench, template: GenerationRequest, base: Sequence[int]) -> int:
    """Tokens that the model is given before the first token of the prompt's text: a begin token, a chat's opening."""
    one, other = (
        with_text(template, bench.counter.decode([token]), bench.scenario.prompt_ids).prompt_ids
        for token in (base[0], _unlike(base[0], base, np.random.default_rng(0)))
    )
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)


def _unlike(token: int, base: Sequence[int], rng: np.random.Generator) -> int:
    others = [other for other in base if other != token]
    return others[int(rng.integers(len(others)))] if others else token


async def interleaved_prefixes(bench: Bench, requests: Sequence[GenerationRequest]) -> Check:
    """Prompts that share prefixes, all at once, cold and then cached: every answer as the reference has it."""
    name = "interleaved-prefixes"
    made = families(bench, requests)
    if not made:
        return passed(name, 0, "not applicable: the envelope holds no prompt of a block's length")
    members = [member for place in range(_ANSWERS_PER_FAMILY) for member in (f.members[place] for f in made)]
    wanted = [asking(member) for member in members] if bench.numbers_hold else members
    for visit, order in (("cold", wanted), ("cached", list(reversed(wanted)))):
        sent = await bench.load(order, len(order))
        samples = [one.sample("candidate", bench.counter) for one in sent]
        if (failed := first_failed(samples)) is not None:
            return failure(name, failed, wanted)
        for one, sample in zip(sent, samples, strict=True):
            problem = _wrong(bench, one, sample.text)
            if problem is not None:
                family = next(f for f in made if one.request.id in {member.id for member in f.members})
                return await _poisoned(bench, name, family, one.request, visit, problem)
    seen = "text and log-probabilities" if bench.numbers_hold else "text"
    return passed(name, 2 * len(wanted), f"{seen} at {len(made)} boundaries", boundaries=[f.shared for f in made])


def _wrong(bench: Bench, sent: Sent, text: str) -> str | None:
    """What is wrong with an answer, or None."""
    verdict = bench.check(sent.request, text)
    if not verdict.right:
        found = describe(verdict, bench.counter)
        return f"token {found['position']} is {found['text']!r} instead of {found['expected']!r}"
    if bench.numbers_hold and bench.limit is not None:
        try:
            distance = answer_distance(bench, sent)
        except LogprobError as error:
            return str(error)
        if distance is not None and distance > POISONED * bench.limit:
            return f"its log-probabilities are {distance:.4f} nats from the reference's (limit {POISONED * bench.limit:.4f})"
    return None


async def _poisoned(
    bench: Bench, name: str, family: Family, wrong: GenerationRequest, visit: str, problem: str
) -> Check:
    """The smallest pair of prompts, sent one after the other, of which the second is answered wrongly."""
    asked = asking if bench.numbers_hold else lambda request: request

    async def fails(before: GenerationRequest, after: GenerationRequest) -> bool:
        await bench.load([asked(before)], 1)
        sent = await bench.load([asked(after)], 1)
        sample = sent[0].sample("candidate", bench.counter)
        return sample.ok and _wrong(bench, sent[0], sample.text) is not None

    victim = next(member for member in family.members if member.id == wrong.id)
    pair = None
    for other in family.members:
        if other is not victim and await fails(other, victim):
            pair = await shrink_pair(other, victim, fails, bench.scenario.prompt_ids)
            break
    reproduce = shown(victim) if pair is None else {"first": shown(pair[0]), "then": shown(pair[1])}
    alone = "" if pair is not None else "; not again one after the other: only among the others at once"
    return Check(
        name=name,
        passed=False,
        reason=Reason.PREFIX_POISONED,
        message=f"{visit}, beside a prompt with the same first {family.shared} tokens: {problem}{alone}",
        reproduce=reproduce,
        evidence={"shared_tokens": family.shared, "visit": visit},
    )
