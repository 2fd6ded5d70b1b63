"""Which rows of which sequences go into the next step.

Continuous batching (Orca, OSDI 2022) with chunked prefill mixed into decode steps (Sarathi-Serve, OSDI 2024) over a
paged cache. First come, first served: sequences are admitted in order of arrival while pages and `MAX_SEQUENCES`
last, and prompts are computed in order of admission. Pages are taken as a sequence grows; when none is left, the
sequence that was admitted last goes back to the head of the queue and is computed again later, with the same text:
its tokens are kept, and rows do not depend on how they were chunked.
"""

from collections import deque
from collections.abc import Callable

from . import spec
from .decoder import Segment
from .kv_pages import PagePool, pages_for
from .metrics import EngineStats
from .sequence import Sequence

if spec.PREFIX_REUSE:
    from .prefix_pages import PrefixPool
if spec.SPECULATION != "none":
    from .draft_width import DraftWidth
if spec.SPECULATION == "prediction":
    from .predicted_outputs import make_drafter
if spec.SPECULATION == "prompt-lookup":
    from .prompt_lookup import make_drafter

_NO_DRAFT: list[int] = []

Batch = list[tuple[Sequence, list[int]]]
"""The sequences of a step, each with its draft."""


class Scheduler:
    """Owned by the engine thread; only `arrive` may be called from others. `clock` gives seconds, for statistics."""

    def __init__(self, pages: int, stats: EngineStats, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._stats = stats
        if spec.PREFIX_REUSE:
            self.pool = PrefixPool(pages)
        else:
            self.pool = PagePool(pages)
        self._rows = spec.STEP_TOKENS  # of a step; fewer for a while after one was too large for the device's memory
        self._inbox: deque[Sequence] = deque()
        self._waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        if spec.SPECULATION != "none":
            self.width = DraftWidth(spec.DRAFT_WIDTH, adaptive=spec.DRAFT_ADAPTIVE, step_tokens=spec.STEP_TOKENS)

    def arrive(self, sequences: list[Sequence]) -> None:
        self._inbox.extend(sequences)

    @property
    def waiting(self) -> int:
        return len(self._inbox) + len(self._waiting)

    def admit(self) -> None:
        """Take in who came and drop who was cancelled, then let in whom there is room for."""
        self._sweep()
        # Every running sequence may need one more page at the next step; admitting into those would only preempt at once.
        while self._waiting and len(self.running) < min(spec.MAX_SEQUENCES, self._rows):
            sequence = self._waiting[0]
            needed = pages_for(len(sequence.tokens) + 1) + len(self.running)
            if needed > self.pool.free and self.running:
                return
            self._waiting.popleft()
            if spec.PREFIX_REUSE:
                sequence.computed = self.pool.attach(sequence.pages, sequence.tokens)
                self._stats.prefix(len(sequence.tokens), sequence.computed)
            if sequence.admitted is None:
                sequence.admitted = self._clock()
                if spec.SPECULATION != "none":
                    sequence.drafter = make_drafter(sequence.prompt, sequence.prediction)
            self.running.append(sequence)

    def _sweep(self) -> None:
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        if any(s.cancelled for s in self.running):
            for sequence in self.running:
                if sequence.cancelled:
                    self.pool.release(sequence.pages)
                    self._stats.finished(sequence, "abort", self._clock())
            self.running = [s for s in self.running if not s.cancelled]
        if any(s.cancelled for s in self._waiting):
            for sequence in self._waiting:
                if sequence.cancelled:
                    self._stats.finished(sequence, "abort", self._clock())
            self._waiting = deque(s for s in self._waiting if not s.cancelled)

    def plan(self, *, ahead: bool = False) -> tuple[Batch, list[Segment]]:
        """The next step: (sequence, its draft) and its segment, in order of admission.

        From here on what it computes counts as computed: no later step comes before it. `ahead` of the results of the
        step on its way nobody gives way for want of pages; then there is no plan yet.
        """
        running = self.running
        if spec.DECODER == "cuda" and ahead:
            running = [s for s in running if s.awaited < 0 or s.budget > 1]
        decoding = [s for s in running if s.decoding]
        step_rows = self._rows
        rows_left = step_rows - len(decoding)
        # While others decode, prompts are cut so that no step keeps them waiting for long.
        prefill_left = min(rows_left, spec.PREFILL_CHUNK) if decoding else rows_left
        chunks: dict[int, int] = {}
        for sequence in running:
            if not sequence.decoding and prefill_left > 0:
                size = min(len(sequence.tokens) - sequence.computed, prefill_left)
                chunks[id(sequence)] = size
                prefill_left -= size
                rows_left -= size
        if spec.SPECULATION != "none":
            rows = step_rows - rows_left
            self.width.begin(rows, len(decoding))

        batch: Batch = []
        segments: list[Segment] = []
        for sequence in list(running):
            tokens, start = sequence.tokens, sequence.computed
            size = 1 if sequence.decoding else chunks.get(id(sequence), 0)
            if size == 0:
                continue
            if spec.DECODER == "cuda" and ahead:
                if not self.pool.grow(sequence.pages, start + size):
                    take_back(batch, segments)
                    return [], []
            elif not self._reserve(sequence, start + size):
                continue
            draft = _NO_DRAFT
            outputs = 1 if start + size >= len(tokens) else 0
            if spec.SPECULATION != "none":
                if outputs:  # whose newest token is not known yet has no drafter (`Flight.foreseeable`)
                    draft = self._draft(sequence, start + size, rows_left)
                outputs += len(draft)
                rows_left -= len(draft)
            new = (tokens[start : start + size] or [0]) + draft
            wants = outputs > 0 and sequence.needs_logits
            batch.append((sequence, draft))
            if spec.DECODER == "cuda":
                follows = sequence.awaited if start == len(tokens) else -1
                segments.append(Segment(sequence.pages.view, start, new, outputs, wants, follows, sequence.draw))
            else:
                segments.append(Segment(sequence.pages.view, start, new, outputs, wants))
            sequence.computed = start + size
        return batch, segments

    def _draft(self, sequence: Sequence, tokens: int, rows: int) -> list[int]:
        """What to verify beyond `tokens` positions: as much as pays, and no row or page that somebody else needs."""
        drafter = sequence.drafter
        if drafter is None or self.pool.free < len(self.running):
            return _NO_DRAFT
        draft = drafter.propose(self.width.choose(drafter.outlook, min(rows, sequence.budget - 1)))
        return draft if self.pool.grow(sequence.pages, tokens + len(draft)) else _NO_DRAFT

    def _reserve(self, sequence: Sequence, tokens: int) -> bool:
        """Pages for `tokens` positions, from the youngest sequences if need be; False if `sequence` itself gave way."""
        while sequence in self.running:
            if self.pool.grow(sequence.pages, tokens):
                return True
            self._put_back()
        return False

    def _put_back(self) -> None:
        """The sequence that was admitted last waits again; what it has computed is forgotten, its tokens are kept."""
        youngest = self.running.pop()
        self.pool.release(youngest.pages)
        youngest.computed = 0
        self._waiting.appendleft(youngest)
        self._stats.preemptions += 1

    def shed(self, rows: int) -> None:
        """A step of so many rows was too large: go on with half as many."""
        self._rows = rows // 2
        while len(self.running) > self._rows:
            self._put_back()

    def leave(self, sequence: Sequence) -> None:
        """It has ended; what it held is free."""
        self.pool.release(sequence.pages)
        self.running.remove(sequence)

    def recover(self) -> None:
        """A sequence has ended in good order: steps may be wider again."""
        self._rows = min(self._rows + 1 + self._rows // 4, spec.STEP_TOKENS)

    def clear(self) -> list[Sequence]:
        """Everybody leaves: who they were."""
        sequences = [*self.running, *self._waiting, *self._inbox]
        self.running.clear()
        self._waiting.clear()
        self._inbox.clear()
        for sequence in sequences:
            self.pool.release(sequence.pages)
        return sequences


def take_back(batch: Batch, segments: list[Segment]) -> None:
    """A planned step is not computed after all."""
    for (sequence, _), segment in zip(batch, segments, strict=True):
        sequence.computed = segment.start
