"""The smallest request, or pair of requests, that still shows a failure: what an implementer can read and try.

Delta debugging in its simplest form (Zeller & Hildebrandt, TSE 28, 2002): cut the answer off behind the failure, drop fields
and earlier messages, then parts of the prompt while it still fails, within a bounded number of tries.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sartor_agents.measurement.samples import GenerationRequest

from .prompts import PromptIds, text_of, with_changes, with_length, with_text

Fails = Callable[[GenerationRequest], Awaitable[bool]]
PairFails = Callable[[GenerationRequest, GenerationRequest], Awaitable[bool]]

TRIES = 12


@dataclass
class _Tries:
    left: int = TRIES

    def spend(self) -> bool:
        """Whether there was one left."""
        self.left -= 1
        return self.left >= 0


async def shrink(
    request: GenerationRequest, fails: Fails, ids_of: PromptIds, *, tokens: int | None = None
) -> GenerationRequest:
    """A smaller request for which `fails` holds; `request` itself where nothing smaller was found.

    `tokens`: the failure lies within so many tokens. At most `TRIES` calls of `fails` are made.
    """
    tries = _Tries()
    best = request
    for smaller in _simpler(request, tokens, ids_of):
        attempt = smaller(best)
        if attempt is not None and tries.spend() and await fails(attempt):
            best = attempt
    text = text_of(best)
    if text is None:
        return best

    async def still(shorter: str) -> bool:
        return await fails(with_text(best, shorter, ids_of))

    return with_text(best, shortest, ids_of) if (shortest := await _minimise(text, still, tries)) != text else best


async def shrink_pair(
    first: GenerationRequest, second: GenerationRequest, fails: PairFails, ids_of: PromptIds
) -> tuple[GenerationRequest, GenerationRequest]:
    """A smaller pair for which `fails` holds: first parts of their common beginning, then of their ends."""
    one, other = text_of(first), text_of(second)
    if one is None or other is None:
        return first, second
    tries = _Tries()
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    shared, ends = one[:same], (one[same:], other[same:])

    def pair(prefix: str, one_end: str, other_end: str) -> tuple[GenerationRequest, GenerationRequest]:
        return with_text(first, prefix + one_end, ids_of), with_text(second, prefix + other_end, ids_of)

    async def prefix_fails(prefix: str) -> bool:
        return await fails(*pair(prefix, *ends))

    shared = await _minimise(shared, prefix_fails, tries)
    for place in (0, 1):

        async def end_fails(end: str, place: int = place, ends: tuple[str, str] = ends, prefix: str = shared) -> bool:
            return await fails(*pair(prefix, *_replaced(ends, place, end)))

        ends = _replaced(ends, place, await _minimise(ends[place], end_fails, tries))
    return pair(shared, *ends)


def _replaced(ends: tuple[str, str], place: int, end: str) -> tuple[str, str]:
    return (end, ends[1]) if place == 0 else (ends[0], end)


def _simpler(
    request: GenerationRequest, tokens: int | None, ids_of: PromptIds
) -> list[Callable[[GenerationRequest], GenerationRequest | None]]:
    def shorter(best: GenerationRequest) -> GenerationRequest | None:
        return with_length(best, tokens) if tokens is not None and 0 < tokens < best.output_tokens else None

    def bare(best: GenerationRequest) -> GenerationRequest | None:
        return best.with_body(prediction=None) if "prediction" in best.body else None

    def alone(best: GenerationRequest) -> GenerationRequest | None:
        messages = best.body.get("messages") or ()
        return with_changes(best, {"messages": [messages[-1]]}, ids_of) if len(messages) > 1 else None

    return [shorter, bare, alone]


async def _minimise(text: str, fails: Callable[[str], Awaitable[bool]], tries: _Tries) -> str:
    """`text` without the parts that the failure does not need."""
    parts = 2
    while len(text) >= 2 * parts:
        for cut in range(parts):
            size = len(text) // parts
            shorter = text[: cut * size] + text[(cut + 1) * size if cut < parts - 1 else len(text) :]
            if not shorter.strip():
                continue
            if not tries.spend():
                return text
            if await fails(shorter):
                text, parts = shorter, 2
                break
        else:
            parts *= 2
    return text
