"""The smallest request that still shows a failure: what an implementer can read and try.

Delta debugging in its simplest form (Zeller & Hildebrandt, TSE 28, 2002): cut the answer off behind the failure, then drop
parts of the prompt while it still fails, within a bounded number of tries.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.tokens import TokenCounter

Fails = Callable[[GenerationRequest], Awaitable[bool]]

TRIES = 10


def with_prompt(request: GenerationRequest, prompt: str, counter: TokenCounter) -> GenerationRequest:
    """The same request over another text prompt."""
    return replace(
        request,
        id=f"{request.id}/shrunk",
        body={**request.body, "prompt": prompt},
        prompt_ids=tuple(counter.tokenizer.encode(prompt).ids),
    )


def with_length(request: GenerationRequest, tokens: int) -> GenerationRequest:
    """The same request for `tokens` tokens."""
    return replace(request, body={**request.body, "max_tokens": tokens}, output_tokens=tokens)


async def shrink(
    request: GenerationRequest, fails: Fails, counter: TokenCounter, *, tokens: int | None = None
) -> GenerationRequest:
    """A smaller request for which `fails` holds; `request` itself where nothing smaller was found.

    `tokens`: the failure lies within so many tokens. At most `TRIES` requests (more precisely, calls of `fails`) are made.
    """
    left = TRIES
    best = request
    if tokens is not None and 0 < tokens < best.output_tokens:
        left -= 1
        shorter = with_length(best, tokens)
        if await fails(shorter):
            best = shorter
    if "prediction" in best.body:
        left -= 1
        bare = best.with_body(prediction=None)
        if await fails(bare):
            best = bare
    prompt: Any = best.body.get("prompt")
    if not isinstance(prompt, str):
        return best
    parts = 2
    while left > 0 and len(prompt) >= 2 * parts:
        for cut in range(parts):
            size = len(prompt) // parts
            shorter_prompt = prompt[: cut * size] + prompt[(cut + 1) * size if cut < parts - 1 else len(prompt) :]
            if not shorter_prompt.strip() or left == 0:
                continue
            left -= 1
            candidate = with_prompt(best, shorter_prompt, counter)
            if await fails(candidate):
                best, prompt, parts = candidate, shorter_prompt, 2
                break
        else:
            parts *= 2
    return best
