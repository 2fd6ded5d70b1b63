"""Runs the scheduled steps, and makes tokens of their results.

The engine runs on a thread of its own, so that HTTP work overlaps with arithmetic (the decoder releases the GIL).
Other threads call only `submit`, `cancel` and `stop`. One step makes at most one call of `deliver`, with the deltas
of all sequences.

Where a device computes (`Decoder.launch`), the next step is begun before the last one's tokens are known, as long as nothing
but these tokens is missing: a row takes its token on the device (`Segment.follows`). What turns out to have ended meanwhile
has computed one row for nothing. Tokens, texts and statistics of a step are made while the device is busy with the next.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import spec
from .decoder import Decoder, Launched, Outcome, Segment, accept
from .decoder_errors import StepMemoryError
from .kv_pages import pages_for
from .metrics import EngineStats
from .outbox import NOT_A_NUMBER, Deliver, Made, Outbox, extend
from .scheduler import Batch, Scheduler, take_back
from .sequence import Delta, Sequence

log = logging.getLogger("stack.engine")


class Flight(NamedTuple):
    """A step that a device has been given, and since when (seconds)."""

    batch: Batch
    segments: list[Segment]
    launched: Launched
    started: float

    @property
    def foreseeable(self) -> bool:
        """Whether its outputs are single tokens that the device has chosen itself: then a step may follow unseen."""
        drafting = spec.SPECULATION != "none" and any(s.drafter is not None for s, _ in self.batch)
        return not drafting and not any(segment.logits for segment in self.segments)

    def expect(self, awaited: bool) -> None:
        """Let its sequences be planned as if they had their next tokens, or no more."""
        place = 0
        for (sequence, _), segment in zip(self.batch, self.segments, strict=True):
            if segment.outputs:
                sequence.awaited = place if awaited else -1
                place += 1


class EngineDeadError(RuntimeError):
    """The decoder failed earlier; nothing can be generated any more."""


class QueueFullError(RuntimeError):
    """`MAX_WAITING` sequences are waiting already."""


class Engine:
    """`deliver` is called on the engine thread and must hand over to the event loop without blocking.

    `clock` gives monotonic seconds; it decides nothing but statistics and draft widths.
    """

    def __init__(
        self,
        decoder: Decoder,
        deliver: Deliver,
        stats: EngineStats,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if spec.MAX_SEQUENCES > spec.STEP_TOKENS:
            raise ValueError(f"MAX_SEQUENCES {spec.MAX_SEQUENCES} exceeds STEP_TOKENS {spec.STEP_TOKENS}")
        self._decoder = decoder
        self._deliver = deliver
        self._clock = clock
        self.stats = stats
        self._outbox = Outbox(deliver, stats)
        self._schedule = Scheduler(decoder.pages, stats, clock)
        self.pool = self._schedule.pool
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        self._finished = 0.0  # when the last step was
        if spec.DECODER == "cuda":
            self._flight: Flight | None = None

    # Called from other threads.

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> bool:
        """End the thread after the step in flight; whether it ended within `timeout` seconds.

        Sequences that have not ended get no further delta. While the thread lives the decoder is in use.
        """
        self._stopping = True
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences, all or none. Raises `EngineDeadError`, `QueueFullError`, or `ValueError` for one that can
        never fit."""
        for sequence in sequences:
            longest = len(sequence.prompt) + sequence.params.max_tokens
            if not sequence.prompt or pages_for(longest) > self.pool.total:
                raise ValueError(
                    f"a sequence of {len(sequence.prompt)} prompt tokens and up to {sequence.params.max_tokens} more does "
                    f"not fit {self.pool.total} pages of {spec.PAGE_TOKENS} tokens"
                )
        if self.failure is not None:
            raise EngineDeadError(self.failure)
        if self._schedule.waiting + len(sequences) > spec.MAX_WAITING:
            raise QueueFullError(
                f"{self._schedule.waiting} requests are waiting and at most {spec.MAX_WAITING} may; try again later"
            )
        now = self._clock()
        for sequence in sequences:
            sequence.arrived = now
        self._schedule.arrive(sequences)
        self._wake.set()
        if self.failure is not None:  # died in between: the thread may have emptied its inbox just before
            self._fail_all(self.failure)

    def cancel(self, sequences: list[Sequence]) -> None:
        """Forget sequences; their pages are free after the step in flight, and they get no further delta.
        Idempotent."""
        for sequence in sequences:
            sequence.cancelled = True
        self._wake.set()

    @property
    def idle(self) -> bool:
        return not (self._schedule.waiting or self._schedule.running or self._outbox)

    # The engine thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                if not self.step():
                    self._wake.wait()
                    self._wake.clear()
            if spec.DECODER == "cuda" and self._flight is not None:
                self._flight.launched.wait()  # it reads and writes what is freed after this
        except Exception as error:
            log.exception("the engine failed; the server is unhealthy from now on")
            self._fail_all(f"{type(error).__name__}: {error}")
            return
        self._outbox.send()

    def _fail_all(self, failure: str) -> None:
        self.failure = failure
        self._outbox.send()
        sequences = self._schedule.clear()
        self._deliver([(s, Delta([], "", [], "error", failure, 0, 0)) for s in sequences if not s.cancelled])

    def step(self) -> bool:
        """One step, or a step's beginning; False when there was nothing to do. Public so that tests can drive it
        without a thread."""
        self._schedule.admit()
        if spec.DECODER == "cuda":
            worked = self._step_on_device()
        else:
            worked = bool(self._schedule.running)
            if worked:
                self._step_here()
            self._outbox.send()
        self._publish()
        return worked

    def _step_here(self) -> None:
        batch, segments = self._schedule.plan()
        started = self._clock()
        try:
            outcome = accept(segments, *self._decoder.forward(segments))
        except StepMemoryError as error:
            self._shed(batch, segments, error)
            return
        self._settle(batch, segments, outcome, started)

    def _step_on_device(self) -> bool:
        """Begin the next step where it can be planned, make the last texts, and wait for the step that was on its way."""
        flight, self._flight = self._flight, None
        worked = bool(self._schedule.running)
        begun: Flight | None = None
        if flight is None:
            begun = self._begin()
        elif flight.foreseeable:
            flight.expect(True)
            begun = self._begin(behind=flight)
            flight.expect(False)
        self._outbox.send()
        if flight is not None:
            self._settle(flight.batch, flight.segments, flight.launched.wait(), flight.started)
        self._flight = begun
        return worked

    def _begin(self, behind: Flight | None = None) -> Flight | None:
        """Give the device a step; None where there is none, or none that can be planned before `behind` is done."""
        started = self._clock()
        batch, segments = self._schedule.plan(ahead=behind is not None)
        if not batch:
            return None
        try:
            return Flight(batch, segments, self._decoder.launch(segments), started)
        except StepMemoryError as error:
            if behind is None:
                self._shed(batch, segments, error)
            else:  # planned anew when nothing else is on its way
                take_back(batch, segments)
            return None

    def _settle(self, batch: Batch, segments: list[Segment], outcome: Outcome, started: float) -> None:
        """A step is done."""
        # Behind another one, a step begins when that ends.
        started, finished = max(started, self._finished), self._clock()
        self._finished = finished
        rows = sum(len(segment.tokens) for segment in segments)
        if spec.SPECULATION != "none":
            self._schedule.width.observe(rows, finished - started)
        self._absorb(batch, segments, outcome, finished)
        self.stats.step(rows, finished - started)

    def _publish(self) -> None:
        stats = self.stats
        stats.running = len(self._schedule.running)
        stats.waiting = self._schedule.waiting
        stats.cache_usage = self.pool.usage

    def _shed(self, batch: Batch, segments: list[Segment], error: StepMemoryError) -> None:
        """Go on with half as many rows a step; every sequence that ends gives some back. A row alone that fails, fails."""
        take_back(batch, segments)
        self._outbox.send()
        rows = sum(len(segment.tokens) for segment in segments)
        if rows == 1:
            self._fail(batch[0][0], str(error), self._clock())
            self._outbox.send()
            return
        log.warning("%s Going on with steps of %d rows", error, rows // 2)
        self._schedule.shed(rows)

    def _fail(self, sequence: Sequence, failure: str, now: float) -> None:
        """End one sequence with an error; the others go on."""
        log.error("a request failed: %s", failure)
        if spec.PREFIX_REUSE:
            self.pool.forget(sequence.pages)
        self._schedule.leave(sequence)
        self._outbox.append(Made(sequence, [], "", [], "error", failure, 0, 0, now))

    def _absorb(self, batch: Batch, segments: list[Segment], outcome: Outcome, now: float) -> None:
        """Turn the results of a step into tokens; the outbox delivers them."""
        number = logits_row = 0
        for (sequence, draft), segment in zip(batch, segments, strict=True):
            count = segment.outputs
            if spec.DECODER == "cuda" and not sequence.pages.count:
                number += count > 0  # it ended, or was dropped, when this step was on its way
                logits_row += count if segment.logits else 0
                continue
            if spec.PREFIX_REUSE:
                computed = segment.start + len(segment.tokens) - len(draft)
                self.pool.remember(sequence.pages, sequence.tokens, computed)
            if count == 0:
                continue
            right, chosen = outcome.accepted[number], outcome.chosen[number]
            number += 1
            rows: NDArray[np.float32] | None = None
            if segment.logits and outcome.logits is not None:
                rows = outcome.logits[logits_row : logits_row + count]
                logits_row += count
            if right == 0 and chosen < 0:
                self._fail(sequence, NOT_A_NUMBER, now)
                continue
            made = extend(sequence, draft, right, chosen, rows, now)
            self._outbox.append(made)
            if made.finish is not None:
                self._schedule.leave(sequence)
                self._schedule.recover()
