"""Requests that the candidate handed to the baseline, seen at the baseline.

A stack may hand what lies outside its envelope to vLLM. Inside the envelope that would be vLLM's work under the
stack's name, and the stack's own counter is a self-report. The evaluator owns the baseline and knows how many requests
it has sent there itself; whatever the baseline finished beyond that came from the candidate. Counting from the first
reading to the last needs no exact moment in between, so a counter that is a little late accuses nobody.
"""

import re

from .client import LoadClient

_FINISHED = re.compile(r"^vllm:request_success_total(?:\{[^}]*\})?\s+([0-9.eE+-]+)", re.MULTILINE)


def finished_requests(metrics: str) -> int | None:
    """Requests that a server says it finished, all reasons together; None if it has no such counter."""
    values = [float(value) for value in _FINISHED.findall(metrics)]
    return round(sum(values)) if values else None


class HandoverWatch:
    """Counts requests that reached the baseline without our sending them. Call `begin` once, `note_own` as they are sent."""

    def __init__(self, baseline: LoadClient) -> None:
        self._baseline = baseline
        self._origin: int | None = None
        self._own = 0

    async def begin(self) -> None:
        self._origin = await self._read()

    def note_own(self, requests: int) -> None:
        """`requests` of ours were answered by the baseline."""
        self._own += requests

    async def count(self) -> int | None:
        """Handed-over requests since `begin`; None when the baseline cannot tell."""
        now = await self._read()
        if now is None or self._origin is None:
            return None
        return max(0, now - self._origin - self._own)

    async def _read(self) -> int | None:
        exchange = await self._baseline.get("/metrics")
        if exchange.error is not None or exchange.status != 200:
            return None
        return finished_requests(exchange.body.decode("utf-8", errors="replace"))
