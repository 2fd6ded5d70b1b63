"""Requests that the candidate handed to the baseline, seen at the baseline.

A stack may hand what lies outside its envelope to vLLM. Inside the envelope that would be vLLM's work under the
stack's name, and the stack's own counter is a self-report. The evaluator owns the baseline and knows how many requests
it has sent there itself; whatever the baseline finished beyond that came from the candidate. Counting from the first
reading to the last needs no exact moment in between, so a counter that is a little late accuses nobody.

vLLM counts a request as finished only when its answer is: one that is broken off just before its end is in no such
count (vLLM issues 31503, 55634), though all of its work was done. Its prompt's tokens are counted when they are read, so
these have to be ours as well.
"""

import re
from collections.abc import Sequence

from .client import LoadClient
from .samples import Sample

_FINISHED = re.compile(r"^vllm:request_success_total(?:\{[^}]*\})?\s+([0-9.eE+-]+)", re.MULTILINE)

_PROMPT_TOKENS = re.compile(r"^vllm:prompt_tokens_total(?:\{[^}]*\})?\s+([0-9.eE+-]+)", re.MULTILINE)
_TOKENS_ALLOWED = 64
_TOKENS_SHARE = 0.01
"""What may stay unexplained: the engine's own warm-up, a prompt that is read again after it was pre-empted."""


def finished_requests(metrics: str) -> int | None:
    """Requests that a server says it finished, all reasons together; None if it has no such counter."""
    values = [float(value) for value in _FINISHED.findall(metrics)]
    return round(sum(values)) if values else None


def prompt_tokens(metrics: str) -> int | None:
    """Prompt tokens that a server says it read; None if it has no such counter."""
    values = [float(value) for value in _PROMPT_TOKENS.findall(metrics)]
    return round(sum(values)) if values else None


class HandoverWatch:
    """Counts requests that reached the baseline without our sending them. Call `begin` once, `note_own` as they are sent."""

    def __init__(self, baseline: LoadClient) -> None:
        self._baseline = baseline
        self._origin: tuple[int | None, int | None] = (None, None)
        self._own = 0
        self._own_tokens: int | None = 0
        self.unexplained_tokens = 0
        """Prompt tokens read by the baseline that no request of ours explains, at the last `count`."""

    async def begin(self) -> None:
        self._origin = await self._read()

    def note_own(self, requests: int) -> None:
        """`requests` of ours were answered by the baseline; how long their prompts were is not known."""
        self._own += requests
        if requests:
            self._own_tokens = None

    def note_samples(self, samples: Sequence[Sample]) -> None:
        """These requests of ours were answered, or failed, at the baseline."""
        self._own += len(samples)
        known = [sample.usage_prompt for sample in samples if sample.ok and sample.usage_prompt is not None]
        if self._own_tokens is not None:
            # A failed request may or may not have been read: nothing can be said after one.
            self._own_tokens = self._own_tokens + sum(known) if len(known) == len(samples) else None

    async def count(self) -> int | None:
        """Handed-over requests since `begin`, unfinished ones included as far as is known; None when it cannot tell."""
        (requests, tokens), (before, tokens_before) = await self._read(), self._origin
        if requests is None or before is None:
            return None
        finished = max(0, requests - before - self._own)
        self.unexplained_tokens = 0
        if tokens is not None and tokens_before is not None and self._own_tokens is not None:
            self.unexplained_tokens = max(0, tokens - tokens_before - self._own_tokens)
        allowed = max(_TOKENS_ALLOWED, _TOKENS_SHARE * (self._own_tokens or 0))
        return finished or (1 if self.unexplained_tokens > allowed else 0)

    async def _read(self) -> tuple[int | None, int | None]:
        exchange = await self._baseline.get("/metrics")
        if exchange.error is not None or exchange.status != 200:
            return None, None
        text = exchange.body.decode("utf-8", errors="replace")
        return finished_requests(text), prompt_tokens(text)
