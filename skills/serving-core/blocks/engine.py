"""The scheduler: which rows of which sequences go into the next step, and what to make of the result.

Continuous batching (Orca, OSDI 2022) with chunked prefill mixed into decode steps (Sarathi-Serve, OSDI 2024) over a
paged cache. First come, first served: sequences are admitted in order of arrival while pages and `MAX_SEQUENCES`
last, and prompts are computed in order of admission. Pages are taken as a sequence grows; when none is left, the
sequence that was admitted last goes back to the head of the queue and is computed again later, with the same text:
its tokens are kept, and rows do not depend on how they were chunked.

The engine runs on a thread of its own, so that HTTP work overlaps with arithmetic (the decoder releases the GIL).
Other threads call only `submit`, `cancel` and `stop`. One step makes at most one call of `deliver`, with the deltas
of all sequences.

Where a device computes (`Decoder.launch`), texts and statistics of a step are made while it is busy with the next one.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import spec
from .decoder import Decoder, Outcome, Segment, accept
from .decoder_errors import StepMemoryError
from .kv_pages import PagePool, pages_for
from .metrics import EngineStats
from .outbox import NOT_A_NUMBER, Deliver, Made, Outbox
from .sampling import TokenLogprobs, token_logprobs
from .sequence import Delta, FinishReason, Sequence

if spec.PREFIX_REUSE:
    from .prefix_pages import PrefixPool
if spec.SPECULATION != "none":
    from .draft_width import DraftWidth
if spec.SPECULATION == "prediction":
    from .predicted_outputs import make_drafter
if spec.SPECULATION == "prompt-lookup":
    from .prompt_lookup import make_drafter

log = logging.getLogger("stack.engine")

_NO_DRAFT: list[int] = []


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
        if spec.PREFIX_REUSE:
            self.pool = PrefixPool(decoder.pages)
        else:
            self.pool = PagePool(decoder.pages)
        self._rows = spec.STEP_TOKENS  # of a step; fewer for a while after one was too large for the device's memory
        self._inbox: deque[Sequence] = deque()
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failure: str | None = None
        if spec.SPECULATION != "none":
            self._width = DraftWidth(spec.DRAFT_WIDTH, adaptive=spec.DRAFT_ADAPTIVE, step_tokens=spec.STEP_TOKENS)

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
        if len(self._inbox) + len(self._waiting) + len(sequences) > spec.MAX_WAITING:
            raise QueueFullError(
                f"{len(self._waiting)} requests are waiting and at most {spec.MAX_WAITING} may; try again later"
            )
        now = self._clock()
        for sequence in sequences:
            sequence.arrived = now
        self._inbox.extend(sequences)
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
        return not (self._inbox or self._waiting or self._running or self._outbox)

    # The engine thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                worked = self.step()
            except Exception as error:
                log.exception("the engine failed; the server is unhealthy from now on")
                self._fail_all(f"{type(error).__name__}: {error}")
                return
            if not worked:
                self._wake.wait()
                self._wake.clear()
        self._outbox.send()

    def _fail_all(self, failure: str) -> None:
        self.failure = failure
        self._outbox.send()
        sequences = [*self._running, *self._waiting, *self._inbox]
        self._running.clear()
        self._waiting.clear()
        self._inbox.clear()
        for sequence in sequences:
            self.pool.release(sequence.pages)
        self._deliver([(s, Delta([], "", [], "error", failure, 0, 0)) for s in sequences if not s.cancelled])

    def step(self) -> bool:
        """One step; False when there was nothing to do. Public so that tests can drive it without a thread."""
        self._sweep()
        self._admit()
        if not self._running:
            self._outbox.send()
            self._publish()
            return False
        started = self._clock()
        batch, segments = self._plan()
        try:
            outcome = self._compute(segments)
        except StepMemoryError as error:
            self._outbox.send()
            self._shed(batch[0][0], sum(len(segment.tokens) for segment in segments), error)
            return True
        finished = self._clock()
        rows = sum(len(segment.tokens) for segment in segments)
        if spec.SPECULATION != "none":
            self._width.observe(rows, finished - started)
        self._absorb(batch, segments, outcome, finished)
        if spec.DECODER != "cuda":
            self._outbox.send()
        self.stats.step(rows, finished - started)
        self._publish()
        return True

    def _compute(self, segments: list[Segment]) -> Outcome:
        """One step of the decoder. A device gets its work first, and the last step's texts are made meanwhile."""
        if spec.DECODER == "cuda":
            launched = self._decoder.launch(segments)
            self._outbox.send()
            return launched.wait()
        else:  # noqa: RET505 - one of the branches is all that a composed stack has
            return accept(segments, *self._decoder.forward(segments))

    def _publish(self) -> None:
        stats = self.stats
        stats.running = len(self._running)
        stats.waiting = len(self._waiting) + len(self._inbox)
        stats.cache_usage = self.pool.usage

    def _sweep(self) -> None:
        """Take in what was submitted, drop what was cancelled."""
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        if any(s.cancelled for s in self._running):
            for sequence in self._running:
                if sequence.cancelled:
                    self.pool.release(sequence.pages)
                    self.stats.finished(sequence, "abort", self._clock())
            self._running = [s for s in self._running if not s.cancelled]
        if any(s.cancelled for s in self._waiting):
            for sequence in self._waiting:
                if sequence.cancelled:
                    self.stats.finished(sequence, "abort", self._clock())
            self._waiting = deque(s for s in self._waiting if not s.cancelled)

    def _admit(self) -> None:
        # Every running sequence may need one more page at the next step; admitting into those would only preempt at once.
        while self._waiting and len(self._running) < min(spec.MAX_SEQUENCES, self._rows):
            sequence = self._waiting[0]
            needed = pages_for(len(sequence.tokens) + 1) + len(self._running)
            if needed > self.pool.free and self._running:
                return
            self._waiting.popleft()
            if spec.PREFIX_REUSE:
                sequence.computed = self.pool.attach(sequence.pages, sequence.tokens)
                self.stats.prefix(len(sequence.tokens), sequence.computed)
            if sequence.admitted is None:
                sequence.admitted = self._clock()
                if spec.SPECULATION != "none":
                    sequence.drafter = make_drafter(sequence.prompt, sequence.prediction)
            self._running.append(sequence)

    def _plan(self) -> tuple[list[tuple[Sequence, list[int]]], list[Segment]]:
        """The next step: (sequence, its draft) and its segment, in order of admission."""
        decoding = [s for s in self._running if s.decoding]
        step_rows = self._rows
        rows_left = step_rows - len(decoding)
        # While others decode, prompts are cut so that no step keeps them waiting for long.
        prefill_left = min(rows_left, spec.PREFILL_CHUNK) if decoding else rows_left
        chunks: dict[int, int] = {}
        for sequence in self._running:
            if not sequence.decoding and prefill_left > 0:
                size = min(len(sequence.tokens) - sequence.computed, prefill_left)
                chunks[id(sequence)] = size
                prefill_left -= size
                rows_left -= size
        if spec.SPECULATION != "none":
            rows = step_rows - rows_left
            self._width.begin(rows, len(decoding))

        batch: list[tuple[Sequence, list[int]]] = []
        segments: list[Segment] = []
        for sequence in list(self._running):
            tokens, start = sequence.tokens, sequence.computed
            size = 1 if sequence.decoding else chunks.get(id(sequence), 0)
            if size == 0 or not self._reserve(sequence, start + size):
                continue
            draft = _NO_DRAFT
            outputs = 1 if start + size == len(tokens) else 0
            if spec.SPECULATION != "none":
                if outputs:
                    draft = self._draft(sequence, start + size, rows_left)
                outputs += len(draft)
                rows_left -= len(draft)
            new = tokens[start : start + size] + draft
            batch.append((sequence, draft))
            segments.append(Segment(sequence.pages.view, start, new, outputs, outputs > 0 and sequence.needs_logits))
        return batch, segments

    def _draft(self, sequence: Sequence, tokens: int, rows: int) -> list[int]:
        """What to verify beyond `tokens` positions: as much as pays, and no row or page that somebody else needs."""
        drafter = sequence.drafter
        if drafter is None or self.pool.free < len(self._running):
            return _NO_DRAFT
        draft = drafter.propose(self._width.choose(drafter.outlook, min(rows, sequence.budget - 1)))
        return draft if self.pool.grow(sequence.pages, tokens + len(draft)) else _NO_DRAFT

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for `tokens` positions, from the youngest sequences if need be; False if `sequence` itself gave way."""
        while sequence in self._running:
            if self.pool.grow(sequence.pages, tokens):
                return True
            self._put_back()
        return False

    def _put_back(self) -> None:
        """The sequence that was admitted last waits again; what it has computed is forgotten, its tokens are kept."""
        youngest = self._running.pop()
        self.pool.release(youngest.pages)
        youngest.computed = 0
        self._waiting.appendleft(youngest)
        self.stats.preemptions += 1

    def _shed(self, first: Sequence, rows: int, error: StepMemoryError) -> None:
        """Go on with half as many rows a step; every sequence that ends gives some back. A row alone that fails, fails."""
        if rows == 1:
            self._fail(first, str(error), self._clock())
            self._outbox.send()
            return
        self._rows = rows // 2
        log.warning("%s Going on with steps of %d rows", error, self._rows)
        while len(self._running) > self._rows:
            self._put_back()

    def _fail(self, sequence: Sequence, failure: str, now: float) -> None:
        """End one sequence with an error; the others go on."""
        log.error("a request failed: %s", failure)
        if spec.PREFIX_REUSE:
            self.pool.forget(sequence.pages)
        self.pool.release(sequence.pages)
        self._running.remove(sequence)
        self._outbox.append(Made(sequence, [], "", [], "error", failure, 0, 0, now))

    def _absorb(
        self, batch: list[tuple[Sequence, list[int]]], segments: list[Segment], outcome: Outcome, now: float
    ) -> None:
        """Turn the results of a step into tokens; the outbox delivers them."""
        number = logits_row = 0
        for (sequence, draft), segment in zip(batch, segments, strict=True):
            count = segment.outputs
            sequence.computed = segment.start + len(segment.tokens) - len(draft)
            if spec.PREFIX_REUSE:
                self.pool.remember(sequence.pages, sequence.tokens, sequence.computed)
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
            made = self._extend(sequence, draft, right, chosen, rows, now)
            self._outbox.append(made)
            if made.finish is not None:
                self.pool.release(sequence.pages)
                self._running.remove(sequence)
                self._rows = min(self._rows + 1 + self._rows // 4, spec.STEP_TOKENS)

    def _extend(
        self,
        sequence: Sequence,
        draft: list[int],
        right: int,
        chosen: int,
        rows: NDArray[np.float32] | None,
        now: float,
    ) -> Made:
        """Take the model's choice row by row for as long as the draft foretold it: what plain decoding would give.

        `right` and `chosen` say what that is in greedy decoding; from `rows`, where they are there, it is sampled.
        """
        params = sequence.params
        tokens: list[int] = []
        # A stop string ends a sequence by its text; without one the text can wait.
        text = None if sequence.stops is None else ""
        logprobs: list[TokenLogprobs] = []
        finish: FinishReason | None = None
        reason: str | int | None = None
        accepted = 0
        for i in range(len(draft) + 1):
            if rows is None:
                token = draft[i] if i < right else chosen
            else:
                token = -1 if np.isnan(rows[i]).any() else sequence.sampler.choose(rows[i], sequence.generated)
            if token < 0:
                break  # not a number: the next step computes this row again, alone, and fails with it
            if rows is not None and params.logprobs is not None:
                logprobs.append(token_logprobs(rows[i], token, params.logprobs))
            tokens.append(token)
            if text is None:
                finish, reason = sequence.take(token)
            else:
                piece, finish, reason = sequence.append(token)
                text += piece
            if i < len(draft) and draft[i] == token:
                accepted += 1
                if finish is None:
                    continue
            break
        sequence.computed += min(accepted, len(tokens) - 1)
        if spec.SPECULATION != "none":
            drafter = sequence.drafter
            if drafter is not None:
                drafter.observe(tokens)
        return Made(sequence, tokens, text, logprobs, finish, reason, accepted, len(draft) - accepted, now)
