"""Driving engine and decoder in the process: requests in, tokens with their times out.

`spec` must be set (`models.specialise`) before this module is imported.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from sartor_skills.blocks.decoder import Decoder
from sartor_skills.blocks.engine import Engine
from sartor_skills.blocks.metrics import EngineStats
from sartor_skills.blocks.sampling import SamplingParams
from sartor_skills.blocks.sequence import Delta
from sartor_skills.blocks.sequence import Sequence as Request

from sartor_skills.blocks import spec


class _NoText:
    """Tokens are what is compared and counted here."""

    def push(self, token: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


@dataclass
class Run:
    """One request and what came of it: `times[i]` is when token i was there (seconds)."""

    prompt: list[int]
    length: int
    prediction: list[int] | None = None
    tokens: list[int] = field(default_factory=list[int])
    times: list[float] = field(default_factory=list[float])
    accepted: int = 0
    begun: float = 0.0
    failure: str | None = None

    @property
    def rate(self) -> float:
        """Tokens per second after the first."""
        return (len(self.tokens) - 1) / (self.times[-1] - self.times[0])


def run_requests(
    decoder: Decoder, runs: Sequence[Run], concurrency: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Run everything greedily, `concurrency` at a time (closed loop); seconds from the first request to the last token.

    Raises `RuntimeError` when a request fails.
    """
    waiting = iter(runs)
    open_ = 0

    def deliver(events: list[tuple[Request, Delta]]) -> None:
        for request, delta in events:
            request.receive(delta)

    engine = Engine(decoder, deliver, EngineStats(), clock=clock)

    def submit(run: Run) -> None:
        def receive(delta: Delta) -> None:
            nonlocal open_
            now = clock()
            run.tokens += delta.tokens
            run.times += [now] * len(delta.tokens)
            run.accepted += delta.accepted
            if delta.finish is not None:
                open_ -= 1
            if delta.finish == "error":
                run.failure = str(delta.stop_reason)

        params = SamplingParams(max_tokens=run.length, temperature=0.0, ignore_eos=True)
        run.begun = clock()
        engine.submit([Request(run.prompt, params, _NoText(), receive, run.prediction)])

    begun = clock()
    for run in islice(waiting, concurrency):
        open_ += 1
        submit(run)
    while open_:
        engine.step()
        for run in islice(waiting, concurrency - open_):
            open_ += 1
            submit(run)
    failures = [run.failure for run in runs if run.failure]
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(runs)} requests failed: {failures[0]}")
    return clock() - begun


def prediction(text: Sequence[int], match: int, rng: np.random.Generator) -> list[int]:
    """`text` with so many per cent of its tokens right, the others replaced, in places that the seed chooses."""
    made = list(text)
    wrong = rng.permutation(len(made))[: round(len(made) * (100 - match) / 100)]
    for place in wrong:
        made[place] = (made[place] + int(rng.integers(2, spec.VOCAB_SIZE - 2))) % spec.VOCAB_SIZE
    return made


def summary(runs: Sequence[Run], seconds: float) -> dict[str, Any]:
    """Throughput and latencies of a closed loop, with the raw numbers."""
    gaps = [later - earlier for run in runs for earlier, later in zip(run.times, run.times[1:], strict=False)]
    return {
        "output_tokens_per_second": sum(len(run.tokens) for run in runs) / seconds,
        "ttft_p99": float(np.quantile([run.times[0] - run.begun for run in runs], 0.99)),
        "gap_p99": float(np.quantile(gaps, 0.99)) if gaps else 0.0,
        "requests": [
            {"ttft": run.times[0] - run.begun, "seconds": run.times[-1] - run.begun, "tokens": len(run.tokens)}
            for run in runs
        ],
    }
