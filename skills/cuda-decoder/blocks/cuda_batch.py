"""One step laid out as the arrays that kernels read, filled on the host and copied to the device at once.

Rows of all segments lie one behind the other. *Narrow* segments (decoding, verifying a draft, the end of a prompt) are cut
into *tiles* of a few rows that the paged attention kernel takes; *wide* ones (chunks of a prompt) go to PyTorch's own
attention. In a graph the sizes are fixed: what is left over are rows that write into a page of nobody, and empty tiles.

A row's token may be one that the host does not know yet: what the step before chose lies on the device, ahead of what the
host sends, and every row says which of these numbers is its token.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import spec
from .decoder import Draw, Segment
from .decoder_errors import DecoderError
from .kv_pages import pages_for
from .sampling import uniform

NARROW_ROWS = 64


class Wide(NamedTuple):
    """A wide segment: its rows, and the cache slots of positions 0 up to its last row (int64, on the device)."""

    first: int
    end: int
    slots: Tensor


class Step(NamedTuple):
    """A step of R rows on the device; int32 but for `wishes`.

    `known` [MAX_SEQUENCES + R]: what the step before chose for its segments with outputs, then the tokens that were sent;
    `sources` [R]: where among these each row's token stands. `tiles` and `tables` are as in `kernels_reference.attend`.
    `drafts` is as in `kernels_reference.accept_drafts` and `wishes` as in `kernels_reference.draw`, both for the rows whose
    results are wanted: `outputs`, or None for all rows. `mixed`: where attention's results go, or None.
    """

    known: Tensor
    sources: Tensor
    positions: Tensor
    slots: Tensor
    tiles: Tensor
    drafts: Tensor
    wishes: Tensor
    tables: Tensor
    splits: int
    wide: Sequence[Wide] = ()
    outputs: Tensor | None = None
    mixed: Tensor | None = None


class _Arrays(NamedTuple):
    known: Any
    sources: Any
    positions: Any
    slots: Any
    tiles: Any
    drafts: Any
    wishes: Any
    outputs: Any


class Sizes(NamedTuple):
    """Rows of a step, tiles, segments with outputs, and rows with outputs."""

    rows: int
    tiles: int
    sequences: int
    outputs: int


class _Stage:
    """The host's side of what is sent for one step, `words` and tables of `widest` pages, and when it has left."""

    def __init__(self, words: int, widest: int, pinned: bool) -> None:
        self.words = torch.zeros(words, dtype=torch.int32, pin_memory=pinned)
        self.tables = torch.zeros((spec.MAX_SEQUENCES, widest), dtype=torch.int32, pin_memory=pinned)
        self.held: list[NDArray[np.int32] | None] = [None] * spec.MAX_SEQUENCES
        self.left = torch.cuda.Event() if pinned else None


class Batch:
    """Host and device memory for steps of up to `STEP_TOKENS` rows. `scratch_page` belongs to no sequence."""

    def __init__(self, device: torch.device, *, kv_pages: int, scratch_page: int, tile_rows: int) -> None:
        self._kv_pages = kv_pages
        self._scratch = scratch_page * spec.PAGE_TOKENS
        self._tile_rows = tile_rows
        pinned = device.type == "cuda"
        words = _cut(None, Sizes(spec.STEP_TOKENS, spec.STEP_TOKENS, spec.MAX_SEQUENCES, spec.STEP_TOKENS))
        self._words = torch.zeros(words, dtype=torch.int32, device=device)
        self.previous = self._words[: spec.MAX_SEQUENCES]
        widest = pages_for(spec.MAX_MODEL_LEN)
        self.tables = torch.zeros((spec.MAX_SEQUENCES, widest), dtype=torch.int32, device=device)
        # What each row of `tables` is a copy of.
        self._held: list[NDArray[np.int32] | None] = [None] * spec.MAX_SEQUENCES
        # In turns: what one step sends is on its way while the next one is laid out.
        self._stages = [_Stage(words, widest, pinned), _Stage(words, widest, pinned)]
        self._numbers = np.arange(spec.MAX_MODEL_LEN, dtype=np.int32)

    def tiles_of(self, rows: int, sequences: int) -> int:
        """How many tiles up to `sequences` narrow segments of `rows` rows together may need."""
        return min(rows, rows // self._tile_rows + sequences)

    def arrays(self, sizes: Sizes) -> _Arrays:
        """The device's arrays for a step of this size. They start at multiples of 16 bytes, which kernels make use of."""
        return _cut(self._words, sizes)

    def fill(
        self, segments: Sequence[Segment], sizes: Sizes, firsts: Sequence[int], outputs: Sequence[int] = ()
    ) -> None:
        """Lay `segments` out, pad to `sizes`, and send it all to the device. `firsts`: where the results of each segment
        that wants some begin among all results; `outputs`: the rows that results are wanted of, where not all have them.

        Raises `DecoderError` for a step that is refused; the device has then not been touched.
        """
        self._check(segments)
        self._stages.reverse()
        stage = self._stages[0]
        if stage.left is not None:
            stage.left.synchronize()  # the step before the last one: it has long left
        tokens: list[int] = []
        sources: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        cut: list[tuple[int, int, int, int]] = []
        row, sent = 0, len(self.previous)  # where among all tokens the host's own begin
        for index, segment in enumerate(segments):
            count, start = len(segment.tokens), segment.start
            tokens += segment.tokens
            sources += [segment.follows] if segment.follows >= 0 else range(sent + row, sent + row + count)
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
        host = _cut(stage.words.numpy(), sizes)
        for array, values, padding in (
            (host.known[sent:], tokens, 0),
            (host.sources, sources, sent),
            (host.positions, positions, 0),
            (host.slots, slots, self._scratch),
        ):
            array[:row] = values
            array[row:] = padding
        if cut:
            host.tiles[:, : len(cut)] = np.array(cut, np.int32).T
        host.tiles[:, len(cut) :] = 0
        wanted = [segment for segment in segments if segment.outputs]
        host.drafts[0, : len(firsts)] = firsts
        host.drafts[1, : len(firsts)] = [segment.outputs for segment in wanted]
        host.drafts[:, len(firsts) :] = 0
        host.wishes[0] = 0.0
        for first, segment in zip(firsts, wanted, strict=True):
            if segment.draw is not None:
                _write_wishes(host.wishes[:, first : first + segment.outputs], segment.draw)
        host.outputs[: len(outputs)] = outputs
        used = _cut(None, sizes)
        self._words[sent:used].copy_(stage.words[sent:used], non_blocking=True)
        if changed := self._take_pages(segments, stage):
            self.tables[:changed].copy_(stage.tables[:changed], non_blocking=True)
        if stage.left is not None:
            stage.left.record()

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

    def _check(self, segments: Sequence[Segment]) -> None:
        for index, segment in enumerate(segments):
            problem = self._problem(segment, known=self._held[index] is segment.pages)
            if problem:
                raise DecoderError(f"segment {index}: {problem}")

    def _take_pages(self, segments: Sequence[Segment], stage: _Stage) -> int:
        """Copy pages that the device does not have to `stage`; how many rows of its tables have to be sent."""
        changed = 0
        for index, segment in enumerate(segments):
            # A page table makes another view of itself whenever it changes, so the same object has the same pages.
            if self._held[index] is not segment.pages:
                self._held[index] = segment.pages
                changed = index + 1
        tables = stage.tables.numpy()
        for index, (pages, *_) in enumerate(segments[:changed]):
            if stage.held[index] is not pages:
                known = pages[: tables.shape[1]]
                tables[index, : len(known)] = known
                stage.held[index] = pages
        return changed

    def _problem(self, segment: Segment, *, known: bool) -> str | None:
        pages, start, tokens, outputs, _, follows, _ = segment
        end = start + len(tokens)
        if not tokens or not 0 <= outputs <= len(tokens):
            return "it has no tokens, or wants more outputs than it has tokens"
        if start < 0 or end > spec.MAX_MODEL_LEN:
            return f"its positions do not lie within 0 and MAX_MODEL_LEN = {spec.MAX_MODEL_LEN}"
        if len(pages) < pages_for(end) or not (known or (pages.min() >= 0 and pages.max() < self._kv_pages)):
            return "its pages are too few for its positions, or not pages of the cache"
        if min(tokens) < 0 or max(tokens) >= spec.VOCAB_SIZE:
            return f"a token is not within the vocabulary of {spec.VOCAB_SIZE}"
        if follows >= spec.MAX_SEQUENCES or (follows >= 0 and len(tokens) > 1):
            return "what it follows is no output of a step, or it has more rows than the one that follows"
        return None


def _write_wishes(wishes: NDArray[np.float32], draw: Draw) -> None:
    """How the rows of one segment are drawn, [6, rows]: each with the number of its own output token."""
    wishes[:4] = np.array([[draw.temperature], [draw.top_k], [draw.top_p], [draw.min_p]])
    for row in range(wishes.shape[1]):
        number = uniform(draw.seed, draw.index + row)
        wishes[4, row] = number
        # One float32 alone would give unlikely tokens no share of the numbers.
        wishes[5, row] = number - float(wishes[4, row])


def _aligned(words: int) -> int:
    return -(-words // 4) * 4


def _cut(words: Any, sizes: Sizes) -> Any:
    """The arrays of a step in `words`, one behind the other; without words, how many they take."""
    rows, tiles, sequences, outputs = sizes
    shapes = (
        (spec.MAX_SEQUENCES + rows,),
        (rows,),
        (rows,),
        (rows,),
        (4, tiles),
        (2, sequences),
        (6, outputs),
        (outputs,),
    )
    at = 0
    cut: list[Any] = []
    for shape in shapes:
        size = prod(shape)
        if words is not None:
            cut.append(words[at : at + size].reshape(shape))
        at += _aligned(size)
    if words is None:
        return at
    arrays = _Arrays(*cut)
    return arrays._replace(wishes=arrays.wishes.view(torch.float32 if isinstance(words, Tensor) else np.float32))
