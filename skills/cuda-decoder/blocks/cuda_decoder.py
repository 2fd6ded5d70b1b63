"""The decoder step for an NVIDIA GPU: PyTorch's matrix products, Triton kernels between them, CUDA graphs around both.

A step is laid out on the host (`cuda_batch`), sent in one copy, and runs without waiting for the host until the chosen
tokens, eight bytes a sequence, come back; the next one may be begun meanwhile, with tokens that stay on the device. Steps
of few rows are padded to a bucket and replayed as a graph (`cuda_graphs`); steps with chunks of prompts run as they come,
with PyTorch's FlashAttention for the chunks.

Within one bucket a row has the same bits whatever else is in the step: matrix products have one shape, attention adds up in
a fixed order (`kernels_attention`). Between buckets, and between chunks of a prompt, rows agree up to rounding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from . import spec
from .cuda_batch import NARROW_ROWS, Batch, Sizes, Step, Wide
from .cuda_device import cache_pages, require_device
from .cuda_graphs import FEW, Graphs, Results, Size, buckets
from .cuda_kernels import kernels_on
from .cuda_weights import CheckpointSource, Layer, Source, fused, model_dtype, vector, weight_bytes
from .decoder import Outcome, Segment
from .decoder_errors import DecoderError, StepMemoryError
from .model_config import check_against_spec, read_config, rope_tables
from .weights import Weights

if spec.WEIGHTS == "fp8":
    from .cuda_fp8 import linear


class CudaDecoder:
    """`Decoder` on a CUDA device. Not safe for concurrent calls."""

    def __init__(
        self,
        model_dir: Path,
        *,
        kv_pages: int,
        device: str = "cuda",
        source: Source | None = None,
        operations: Any = None,
    ) -> None:
        """Load the weights of `model_dir` to `device`, reserve up to `kv_pages` pages, and record the graphs.

        `device` "cpu" runs the same steps with the reference kernels and without graphs, for tests. `source` gives the
        weights in place of files, `operations` other kernels.

        Raises `ModelError` for a checkpoint that is not the one of `spec`, and `DecoderError` where the device is
        missing, too old or too small.
        """
        if kv_pages < 1:
            raise DecoderError(f"kv_pages {kv_pages} must be positive")
        check_against_spec(read_config(model_dir), model_dir)
        self._device = torch.device(device)
        self._closed = True  # until everything is there
        self._name, self.pages, processors = "the CPU", kv_pages, 1
        if self._device.type == "cuda":
            self._name = require_device()
            # cuDNN, which PyTorch 2.11 prefers on Hopper, makes a plan for every length of a prompt: up to half a second.
            torch.backends.cuda.enable_cudnn_sdp(False)
            self.pages = cache_pages(kv_pages, weight_bytes())
            processors = torch.cuda.get_device_properties(self._device).multi_processor_count
        self._operations = operations or kernels_on(self._device)
        # How attention cuts contexts for few sequences and for many: two kernels to compile, whatever comes.
        few = _splits(1, processors)
        self._splits = few, few if spec.MAX_SEQUENCES <= FEW else _splits(spec.MAX_SEQUENCES, processors)
        try:
            self._load(source or CheckpointSource(Weights(model_dir)))
            self._record()
        except torch.OutOfMemoryError as error:
            raise DecoderError(
                f"{self._name} has no memory left for the weights, {self.pages} KV pages and a step of {spec.STEP_TOKENS} "
                f"rows; something else may use it too (nvidia-smi). Lower KV_PAGES or STEP_TOKENS. {_first_line(error)}"
            ) from error
        except RuntimeError as error:
            _raise_driver_error(error)
        self._closed = False

    @property
    def arithmetic(self) -> str:
        """Number format, device and kernels, for the log."""
        weights = ", weights in FP8" if spec.WEIGHTS == "fp8" else ""
        return f"{spec.DTYPE}{weights}, PyTorch {torch.__version__} on {self._name}, {self._graphs.count} graphs"

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
        """See `decoder.Decoder.forward`.

        Raises `DecoderError` for a step that is refused, `StepMemoryError` for one that is too large for the memory left
        (nothing is lost: the same rows may be written again), and `DecoderError` when the driver reports an error, after
        which the process cannot use the device any more.
        """
        if not segments:
            return np.empty(0, np.int32), None
        computed = self._try(segments)
        try:
            return computed.chosen.cpu().numpy()[computed.places], self._logits(computed)
        except RuntimeError as error:
            _raise_driver_error(error)

    @torch.inference_mode()
    def launch(self, segments: Sequence[Segment]) -> "Launched":
        """See `decoder.Decoder.launch`. Raises what `forward` raises, but what the driver finds later: `wait` has that."""
        computed = self._try(segments)
        back, done = computed.accepted, None
        if self._device.type == "cuda":
            self._returns.reverse()  # in turns: the step before may still be on its way
            buffer, done = self._returns[0]
            # Whole and without gaps: only then the copy is the device's business alone.
            back = buffer[: computed.accepted.numel()].view(computed.accepted.shape)
            back.copy_(computed.accepted, non_blocking=True)
            done.record()
        return Launched(self, computed, back, done, len([s for s in segments if s.outputs]))

    @torch.inference_mode()
    def finish(self, launched: "Launched") -> Outcome:
        """The outcome of a step once the device has done it."""
        try:
            if launched.done is not None:
                launched.done.synchronize()  # other threads run meanwhile
            accepted, chosen = launched.back[:, : launched.count].tolist()
            return Outcome(accepted, chosen, self._logits(launched.computed))
        except RuntimeError as error:
            _raise_driver_error(error)

    def _try(self, segments: Sequence[Segment]) -> "_Computed":
        """Begin a step, a second time where memory was short."""
        if self._closed:
            raise DecoderError("the decoder was closed")
        rows = sum(len(segment.tokens) for segment in segments)
        if rows > spec.STEP_TOKENS:
            raise DecoderError(f"the step has more than STEP_TOKENS = {spec.STEP_TOKENS} rows")
        if len(segments) > spec.MAX_SEQUENCES:
            raise DecoderError(f"the step has more than MAX_SEQUENCES = {spec.MAX_SEQUENCES} segments")
        try:
            return self._forward(segments, rows)
        except torch.OutOfMemoryError:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # what is cached in pieces may be enough in one
        except RuntimeError as error:
            _raise_driver_error(error)
        try:
            return self._forward(segments, rows)
        except torch.OutOfMemoryError as error:
            raise StepMemoryError(
                f"{self._name} has no memory for a step of {rows} rows of {len(segments)} sequences. {_first_line(error)}"
            ) from error

    def _logits(self, computed: "_Computed") -> NDArray[np.float32] | None:
        if not computed.asked:
            return None
        return computed.logits[torch.tensor(computed.asked, device=self._device)].cpu().numpy()

    def close(self) -> None:
        """Release weights, cache and graphs; idempotent."""
        self._closed = True
        self._graphs.clear()
        self._layers = []
        self._keys = self._values = ()
        self._embeddings = self._head = torch.empty(0)

    @torch.inference_mode()
    def _load(self, source: Source) -> None:
        device = self._device
        self._embeddings = fused(source, ["model.embed_tokens.weight"], device)
        self._head = self._embeddings if spec.TIED_EMBEDDINGS else fused(source, ["lm_head.weight"], device)
        self._final_norm = vector(source, "model.norm.weight", device)
        self._layers = [Layer(source, index, device) for index in range(spec.LAYERS)]
        tables = rope_tables(spec.MAX_MODEL_LEN)
        self._cosines, self._sines = (torch.from_numpy(table).to(device) for table in tables)
        # One page more: rows that only fill up a bucket write there, and nobody reads it.
        slots = (self.pages + 1) * spec.PAGE_TOKENS
        shape = (2, spec.LAYERS, slots, spec.KV_HEADS, spec.HEAD_DIM)
        self._keys, self._values = (
            part.unbind(0) for part in torch.zeros(shape, dtype=model_dtype(), device=device).unbind(0)
        )

    @torch.inference_mode()
    def _record(self) -> None:
        """Make every bucket's step, and run the largest step once: what does not fit shows now and not in service."""
        group = spec.HEADS // spec.KV_HEADS
        # Rows that share a product of the attention kernel; with drafts the same tile serves one row and all of them.
        self._tile_rows = max(1, (16 if spec.SPECULATION == "none" else 64) // group)
        self._batch = Batch(self._device, kv_pages=self.pages, scratch_page=self.pages, tile_rows=self._tile_rows)
        if self._device.type == "cuda":
            self._returns = [
                (torch.zeros(2 * spec.MAX_SEQUENCES, dtype=torch.int32, pin_memory=True), torch.cuda.Event())
                for _ in range(2)
            ]
        self._graphs = Graphs(self._device)
        self._buckets = buckets()
        for rows in reversed(self._buckets):
            for size in {self._size(rows, spec.MAX_SEQUENCES), self._size(rows, 1)}:
                step = self._bucket_step(size)
                self._graphs.add(size, lambda step=step: self._compute(step))
        if self._device.type == "cuda":
            length = min(spec.STEP_TOKENS, spec.MAX_MODEL_LEN)
            pages = np.arange(-(-spec.MAX_MODEL_LEN // spec.PAGE_TOKENS), dtype=np.int32)
            self._forward([Segment(pages, spec.MAX_MODEL_LEN - length, [0] * length, 1, True)], length)

    def _size(self, rows: int, sequences: int) -> Size:
        """The step that a bucket has for so many sequences."""
        few = sequences <= FEW
        most = min(FEW if few else rows, spec.MAX_SEQUENCES, rows)
        return Size(rows, self._batch.tiles_of(rows, most), self._splits[0 if few else 1], most)

    def _bucket_step(self, size: Size) -> Step:
        arrays = self._batch.arrays(_all_rows(size))
        shape = (size.rows, spec.HEADS, spec.HEAD_DIM)
        mixed = torch.zeros(shape, dtype=model_dtype(), device=self._device)  # rows that only pad stay zero
        return Step(*arrays[:-1], tables=self._batch.tables, splits=size.splits, mixed=mixed)

    def _forward(self, segments: Sequence[Segment], rows: int) -> "_Computed":
        batch = self._batch
        ends = np.cumsum([len(s.tokens) for s in segments]).tolist()
        bucket = next((size for size in self._buckets if size >= rows), None)
        wanted = [row for s, end in zip(segments, ends, strict=True) for row in range(end - s.outputs, end)]
        asked = [segment.logits for segment in segments for _ in range(segment.outputs)]
        if bucket is not None and all(len(s.tokens) <= NARROW_ROWS for s in segments):
            size = self._size(bucket, len(segments))
            firsts = [end - s.outputs for s, end in zip(segments, ends, strict=True) if s.outputs]
            batch.fill(segments, _all_rows(size), firsts)
            chosen, accepted, logits = self._graphs.run(size)
            places = wanted
        else:
            starts = np.cumsum([0, *(s.outputs for s in segments if s.outputs)]).tolist()[:-1]
            sizes = Sizes(rows, batch.tiles_in(segments), len(starts), len(wanted))
            batch.fill(segments, sizes, starts, wanted)
            arrays = batch.arrays(sizes)
            step = Step(
                *arrays[:-1],
                tables=batch.tables,
                splits=self._splits[1],
                wide=batch.wide(segments),
                outputs=arrays.outputs,
            )
            chosen, accepted, logits = self._compute(step)
            places = list(range(len(wanted)))
        return _Computed(
            chosen, accepted, logits, places, [at for at, wants in zip(places, asked, strict=True) if wants]
        )

    def _compute(self, step: Step) -> Results:
        """(int32 [outputs], int32 [2, segments] as `accept_drafts`, float32 [outputs, VOCAB_SIZE]): one walk through the
        layers, nothing of it on the host."""
        run, dtype, eps = self._operations, model_dtype(), spec.RMS_EPS
        tokens = step.known.index_select(0, step.sources)
        hidden = functional.embedding(tokens, self._embeddings).float()
        delta: Tensor | None = None
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            normed = run.add_rms_norm(hidden, delta, layer.attention_norm, eps, dtype)
            q = run.rotate_and_store(
                self._linear(normed, layer.qkv, layer.qkv_bias),
                step.positions,
                step.slots,
                self._cosines,
                self._sines,
                keys,
                values,
                layer.norms,
                eps,
            )
            mixed = self._attend(q, keys, values, step).flatten(1)
            delta = self._linear(mixed, layer.out, layer.out_bias)
            normed = run.add_rms_norm(hidden, delta, layer.mlp_norm, eps, dtype)
            delta = self._linear(run.swiglu(self._linear(normed, layer.gate_up)), layer.down)
        if step.outputs is not None:
            if not len(step.outputs):
                empty = torch.empty(0, dtype=torch.int32)
                return empty, torch.empty((2, 0), dtype=torch.int32), torch.empty(0)
            hidden, tokens = hidden[step.outputs], tokens[step.outputs]
            delta = delta[step.outputs] if delta is not None else None
        logits = self._project(run.add_rms_norm(hidden, delta, self._final_norm, eps, dtype))
        chosen = run.choose(logits)
        run.draw(logits, chosen, step.wishes)
        found = run.accept_drafts(chosen, tokens, step.drafts)
        # For the step behind this one; what is no number (−1) would be no token either, and its row is nobody's.
        torch.clamp(found[1], min=0, out=self._batch.previous[: found.shape[1]])
        return chosen, found, logits

    def _linear(self, x: Tensor, weight: Any, bias: Tensor | None = None) -> Tensor:
        if spec.WEIGHTS == "fp8":
            return linear(self._operations, x, weight, bias)
        else:  # noqa: RET505 - one of the branches is all that a composed stack has
            return functional.linear(x, weight, bias)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
        mixed = torch.empty_like(q) if step.mixed is None else step.mixed
        if step.tiles.shape[1]:
            self._operations.attend(
                q,
                keys,
                values,
                step.tiles,
                step.tables,
                mixed,
                page_tokens=spec.PAGE_TOKENS,
                tile_rows=self._tile_rows,
                splits=step.splits,
                block_tokens=spec.ATTENTION_BLOCK,
            )
        for wide in step.wide:
            mixed[wide.first : wide.end] = _attend_wide(q[wide.first : wide.end], keys, values, wide)
        return mixed

    def _project(self, normed: Tensor) -> Tensor:
        """Logits in float32; on a CUDA device without rounding them to the weights' format first."""
        if self._device.type == "cuda" and normed.dtype != torch.float32:
            return torch.mm(normed, self._head.t(), out_dtype=torch.float32)
        return functional.linear(normed, self._head).float()


class _Computed(NamedTuple):
    """A step's results on the device. `places`: the rows of the outputs; `asked`: those whose logits are wanted."""

    chosen: Tensor
    accepted: Tensor
    logits: Tensor
    places: list[int]
    asked: list[int]


class Launched(NamedTuple):
    """See `decoder.Launched`. `back`: where the device writes what `accept_drafts` found, for `count` segments; it has
    when `done`."""

    decoder: CudaDecoder
    computed: _Computed
    back: Tensor
    done: Any
    count: int

    def wait(self) -> Outcome:
        return self.decoder.finish(self)


def _all_rows(size: Size) -> Sizes:
    """In a bucket every row has a result."""
    return Sizes(size.rows, size.tiles, size.sequences, size.rows)


def _splits(sequences: int, processors: int) -> int:
    """Into how many parts attention cuts contexts, so that so many sequences keep all processors of the device busy."""
    splits = 1
    while splits < 16 and splits * sequences * spec.KV_HEADS < processors:
        splits *= 2
    return splits


def _attend_wide(q: Tensor, keys: Tensor, values: Tensor, wide: Wide) -> Tensor:
    """Causal attention of a chunk of a prompt over its slots: [rows, Q, D] → the same, by FlashAttention where it is."""
    end = len(wide.slots)
    mixed = functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        keys[wide.slots].transpose(0, 1)[None],
        values[wide.slots].transpose(0, 1)[None],
        attn_mask=causal_lower_right(len(q), end),
        enable_gqa=True,
    )
    return mixed[0].transpose(0, 1)


def _raise_driver_error(error: RuntimeError) -> NoReturn:
    """What CUDA reports becomes a `DecoderError`; anything else is a mistake in the code and stays what it is."""
    if "CUDA" not in str(error):
        raise error
    raise DecoderError(
        f"the device or its driver failed: {_first_line(error)}. This process cannot use it any more: restart it, and see "
        "the driver's report (Xid, in dmesg) if it comes again"
    ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
