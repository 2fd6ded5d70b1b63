"""One step laid out as the arrays that kernels read, filled on the host and copied to the device at once.

Rows of all segments lie one behind the other. *Narrow* segments (decoding, verifying a draft, the end of a prompt) are cut
into *tiles* of a few rows that the paged attention kernel takes; *wide* ones (chunks of a prompt) go to PyTorch's own
attention. In a graph the sizes are fixed: what is left over are rows that write into a page of nobody, and empty tiles.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import spec
from .decoder import Segment
from .decoder_errors import DecoderError
from .kv_pages import pages_for

NARROW_ROWS = 64


class Wide(NamedTuple):
    """A wide segment: its rows, and the cache slots of positions 0 up to its last row (int64, on the device)."""

    first: int
    end: int
    slots: Tensor


class Step(NamedTuple):
    """A step on the device; int32. `tiles` and `tables` are as in `kernels_reference.attend`.

    `drafts` is as in `kernels_reference.accept_drafts`, among the rows whose results are wanted: `outputs` (int64), or None
    for all rows. `mixed`: where attention's results go, or None.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    tiles: Tensor
    drafts: Tensor
    tables: Tensor
    splits: int
    wide: Sequence[Wide] = ()
    outputs: Tensor | None = None
    mixed: Tensor | None = None


class _Arrays(NamedTuple):
    tokens: Any
    positions: Any
    slots: Any
    tiles: Any
    drafts: Any


class Batch:
    """Host and device memory for steps of up to `STEP_TOKENS` rows. `scratch_page` belongs to no sequence."""

    def __init__(self, device: torch.device, *, kv_pages: int, scratch_page: int, tile_rows: int) -> None:
        self._kv_pages = kv_pages
        self._scratch = scratch_page * spec.PAGE_TOKENS
        self._tile_rows = tile_rows
        pinned = device.type == "cuda"
        words = 3 * _aligned(spec.STEP_TOKENS) + 4 * spec.STEP_TOKENS + 2 * spec.MAX_SEQUENCES
        self._sent = torch.zeros(words, dtype=torch.int32, pin_memory=pinned)
        self._words = torch.zeros(words, dtype=torch.int32, device=device)
        widest = pages_for(spec.MAX_MODEL_LEN)
        self._sent_tables = torch.zeros((spec.MAX_SEQUENCES, widest), dtype=torch.int32, pin_memory=pinned)
        self.tables = torch.zeros((spec.MAX_SEQUENCES, widest), dtype=torch.int32, device=device)
        # What each row of `tables` is a copy of.
        self._held: list[NDArray[np.int32] | None] = [None] * spec.MAX_SEQUENCES
        self._numbers = np.arange(spec.MAX_MODEL_LEN, dtype=np.int32)

    def tiles_of(self, rows: int, sequences: int) -> int:
        """How many tiles up to `sequences` narrow segments of `rows` rows together may need."""
        return min(rows, rows // self._tile_rows + sequences)

    def arrays(self, rows: int, tiles: int, sequences: int) -> _Arrays:
        """The device's arrays for a step of this size. They start at multiples of 16 bytes, which kernels make use of."""
        return _cut(self._words, rows, tiles, sequences)

    def fill(
        self,
        segments: Sequence[Segment],
        rows: int,
        tiles: int,
        sequences: int,
        firsts: Sequence[int],
    ) -> None:
        """Lay `segments` out, pad to `rows`, `tiles` and `sequences`, and send it all to the device. `firsts`: where the
        results of each segment that wants some begin.

        Raises `DecoderError` for a step that is refused; the device has then not been touched.
        """
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        cut: list[tuple[int, int, int, int]] = []
        row = 0
        changed = self._take_pages(segments)
        for index, segment in enumerate(segments):
            count, start = len(segment.tokens), segment.start
            tokens += segment.tokens
            if count == 1:
                page = int(segment.pages[start // spec.PAGE_TOKENS])
                positions.append(start)
                slots.append(page * spec.PAGE_TOKENS + start % spec.PAGE_TOKENS)
                cut.append((row, 1, index, start))
            else:
                new = self._numbers[start : start + count]
                positions += new.tolist()
                at = segment.pages[new // spec.PAGE_TOKENS] * spec.PAGE_TOKENS + new % spec.PAGE_TOKENS
                slots += at.tolist()
                if count <= NARROW_ROWS:
                    most = self._tile_rows
                    cuts = range(0, count, most)
                    cut += [(row + done, min(most, count - done), index, start + done) for done in cuts]
            row += count
        host = _cut(self._sent.numpy(), rows, tiles, sequences)
        for array, values, padding in (
            (host.tokens, tokens, 0),
            (host.positions, positions, 0),
            (host.slots, slots, self._scratch),
        ):
            array[:row] = values
            array[row:] = padding
        if cut:
            host.tiles[:, : len(cut)] = np.array(cut, np.int32).T
        host.tiles[:, len(cut) :] = 0
        host.drafts[0, : len(firsts)] = firsts
        host.drafts[1, : len(firsts)] = [segment.outputs for segment in segments if segment.outputs]
        host.drafts[:, len(firsts) :] = 0
        used = 3 * _aligned(rows) + 4 * tiles + 2 * sequences
        self._words[:used].copy_(self._sent[:used], non_blocking=True)
        if changed:
            self.tables[:changed].copy_(self._sent_tables[:changed], non_blocking=True)

    def tiles_in(self, segments: Sequence[Segment]) -> int:
        """How many tiles the narrow ones of `segments` make."""
        return sum(-(-len(s.tokens) // self._tile_rows) for s in segments if len(s.tokens) <= NARROW_ROWS)

    def wide(self, segments: Sequence[Segment]) -> list[Wide]:
        """The wide ones of `segments`; after `fill`."""
        found: list[Wide] = []
        row = 0
        for index, segment in enumerate(segments):
            count = len(segment.tokens)
            if count > NARROW_ROWS:
                at = torch.arange(segment.start + count, device=self.tables.device)
                pages = self.tables[index].long()[at // spec.PAGE_TOKENS]
                found.append(Wide(row, row + count, pages * spec.PAGE_TOKENS + at % spec.PAGE_TOKENS))
            row += count
        return found

    def _take_pages(self, segments: Sequence[Segment]) -> int:
        """Check every segment, then copy new pages to the host's tables; how many rows of these have to be sent."""
        for index, segment in enumerate(segments):
            problem = self._problem(segment, known=self._held[index] is segment.pages)
            if problem:
                raise DecoderError(f"segment {index}: {problem}")
        changed = 0
        tables = self._sent_tables.numpy()
        for index, (pages, *_) in enumerate(segments):
            if self._held[index] is not pages:
                known = pages[: tables.shape[1]]
                tables[index, : len(known)] = known
                # A page table makes another view of itself whenever it changes, so the same object has the same pages.
                self._held[index] = pages
                changed = index + 1
        return changed

    def _problem(self, segment: Segment, *, known: bool) -> str | None:
        pages, start, tokens, outputs, _ = segment
        end = start + len(tokens)
        if not tokens or not 0 <= outputs <= len(tokens):
            return "it has no tokens, or wants more outputs than it has tokens"
        if start < 0 or end > spec.MAX_MODEL_LEN:
            return f"its positions do not lie within 0 and MAX_MODEL_LEN = {spec.MAX_MODEL_LEN}"
        if len(pages) < pages_for(end) or not (known or (pages.min() >= 0 and pages.max() < self._kv_pages)):
            return "its pages are too few for its positions, or not pages of the cache"
        if min(tokens) < 0 or max(tokens) >= spec.VOCAB_SIZE:
            return f"a token is not within the vocabulary of {spec.VOCAB_SIZE}"
        return None


def _aligned(words: int) -> int:
    return -(-words // 4) * 4


def _cut(words: Any, rows: int, tiles: int, sequences: int) -> _Arrays:
    step = _aligned(rows)
    at = 3 * step
    drafts = at + 4 * tiles
    return _Arrays(
        words[:rows],
        words[step : step + rows],
        words[2 * step : 2 * step + rows],
        words[at : at + 4 * tiles].reshape(4, tiles),
        words[drafts : drafts + 2 * sequences].reshape(2, sequences),
    )
