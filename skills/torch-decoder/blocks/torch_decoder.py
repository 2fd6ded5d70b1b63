"""The decoder step in plain PyTorch: the readable reference for the native one, and what serves where no compiler is.

Weights are fused as in the native decoder (query, key and value; gate and up), keys and values live in pages. A row's result
depends on its own sequence only, up to rounding: PyTorch picks another kernel, with another order of summation, for another
number of rows, so unlike the native decoder results are equal across batch shapes in value but not in every bit.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from . import spec
from .decoder import Segment
from .decoder_errors import DecoderError
from .memory_limit import require_memory
from .model_config import check_against_spec, read_config, rope_tables
from .weights import Weights


class _Layer:
    """The tensors of one layer; a linear is `[outputs, inputs]` as PyTorch keeps it."""

    def __init__(self, weights: Weights, index: int, device: torch.device) -> None:
        prefix = f"model.layers.{index}."
        attention = prefix + "self_attn."

        def fused(names: Sequence[str]) -> Tensor:
            return _tensor(np.concatenate([weights[name].in_dtype() for name in names]), device)

        def vector(name: str) -> Tensor:
            return torch.from_numpy(weights[name].as_float32().copy()).to(device)

        projections = [f"{attention}{kind}_proj" for kind in ("q", "k", "v")]
        self.attention_norm = vector(prefix + "input_layernorm.weight")
        self.qkv = fused([f"{name}.weight" for name in projections])
        self.out = fused([attention + "o_proj.weight"])
        self.mlp_norm = vector(prefix + "post_attention_layernorm.weight")
        self.gate_up = fused([prefix + "mlp.gate_proj.weight", prefix + "mlp.up_proj.weight"])
        self.down = fused([prefix + "mlp.down_proj.weight"])
        self.q_norm = self.k_norm = self.qkv_bias = self.out_bias = None
        if spec.QK_NORM:
            self.q_norm, self.k_norm = vector(attention + "q_norm.weight"), vector(attention + "k_norm.weight")
        if spec.ATTENTION_BIAS:
            self.qkv_bias = fused([f"{name}.bias" for name in projections])
            self.out_bias = fused([attention + "o_proj.bias"])


class TorchDecoder:
    """`Decoder` in PyTorch, on any device that it has. Not safe for concurrent calls."""

    def __init__(self, model_dir: Path, *, kv_pages: int, threads: int, device: str = "cpu") -> None:
        """Load the weights of `model_dir` to `device` in `spec.DTYPE` and reserve `kv_pages` pages.

        `threads` becomes PyTorch's own number of threads, for the whole process. Raises `ModelError` for a checkpoint that
        is not the one of `spec`, and `DecoderError` when memory cannot be had.
        """
        if kv_pages < 1 or threads < 1:
            raise DecoderError(f"kv_pages {kv_pages} and threads {threads} must be positive")
        check_against_spec(read_config(model_dir), model_dir)
        torch.set_num_threads(threads)
        weights = Weights(model_dir)
        self._device = torch.device(device)
        dtype = torch.bfloat16 if spec.DTYPE == "bfloat16" else torch.float32
        shape = (2, spec.LAYERS, kv_pages * spec.PAGE_TOKENS, spec.KV_HEADS, spec.HEAD_DIM)
        if self._device.type == "cpu":
            parameters = sum(int(np.prod(weights[name].data.shape)) for name in weights.names())
            require_memory((parameters + int(np.prod(shape))) * dtype.itemsize, kv_pages)
        try:
            self._embeddings = _tensor(weights["model.embed_tokens.weight"].in_dtype(), self._device)
            self._head = (
                self._embeddings
                if spec.TIED_EMBEDDINGS
                else _tensor(weights["lm_head.weight"].in_dtype(), self._device)
            )
            self._final_norm = torch.from_numpy(weights["model.norm.weight"].as_float32().copy()).to(self._device)
            self._layers = [_Layer(weights, index, self._device) for index in range(spec.LAYERS)]
            # Zeroed so that a page's unwritten tail is a number; on Linux zeroed memory costs nothing until it is written.
            self._keys, self._values = torch.zeros(shape, dtype=dtype, device=self._device).unbind(0)
        except (RuntimeError, MemoryError) as error:  # torch reports a failed allocation as RuntimeError
            raise DecoderError(f"no memory for the weights and {kv_pages} KV pages: {error}") from error
        self.pages = kv_pages
        tables = rope_tables(spec.MAX_MODEL_LEN)
        self._cosines, self._sines = (torch.from_numpy(table).to(self._device) for table in tables)
        self._closed = False

    @property
    def arithmetic(self) -> str:
        """Number format and device, for the log."""
        return f"{spec.DTYPE}, PyTorch {torch.__version__} on {self._device}"

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
        """See `decoder.Decoder.forward`. Raises `DecoderError` for a step that is refused; nothing is then written."""
        if self._closed:
            raise DecoderError("the decoder was closed")
        self._check(segments)
        if not segments:
            return np.empty(0, np.int32), None
        slots = [self._slots(segment) for segment in segments]
        positions = torch.cat([torch.arange(s.start, s.start + len(s.tokens)) for s in segments]).to(self._device)
        written = torch.cat([slot[s.start :] for slot, s in zip(slots, segments, strict=True)])
        tokens = torch.tensor([token for s in segments for token in s.tokens], device=self._device)
        cosines, sines = self._cosines[positions, None], self._sines[positions, None]
        hidden = functional.embedding(tokens, self._embeddings).float()
        for layer, keys, values in zip(self._layers, self._keys, self._values, strict=True):
            normed = _rms_norm(hidden, layer.attention_norm).to(keys.dtype)
            qkv = functional.linear(normed, layer.qkv, layer.qkv_bias).float()
            q, k, v = qkv.unflatten(1, (-1, spec.HEAD_DIM)).split([spec.HEADS, spec.KV_HEADS, spec.KV_HEADS], 1)
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = _rms_norm(q, layer.q_norm), _rms_norm(k, layer.k_norm)
            keys[written] = _rotate(k, cosines, sines).to(keys.dtype)
            values[written] = v.to(values.dtype)
            mixed = _attend(_rotate(q, cosines, sines).to(keys.dtype), keys, values, segments, slots)
            hidden = hidden + functional.linear(mixed, layer.out, layer.out_bias).float()
            normed = _rms_norm(hidden, layer.mlp_norm).to(keys.dtype)
            gate, up = functional.linear(normed, layer.gate_up).chunk(2, 1)
            hidden = hidden + functional.linear(functional.silu(gate) * up, layer.down).float()
        return self._results(hidden, segments)

    def close(self) -> None:
        """Release weights and cache; idempotent."""
        self._closed = True
        self._layers = []
        self._keys = self._values = ()
        self._embeddings = self._head = torch.empty(0)

    def _results(
        self, hidden: Tensor, segments: Sequence[Segment]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
        ends = np.cumsum([len(s.tokens) for s in segments])
        rows = [row for s, end in zip(segments, ends, strict=True) for row in range(end - s.outputs, end)]
        wanted = [s.logits for s in segments for _ in range(s.outputs)]
        final = _rms_norm(hidden[rows], self._final_norm).to(self._head.dtype)
        logits = functional.linear(final, self._head).float().cpu().numpy()
        argmax = logits.argmax(1).astype(np.int32)
        return argmax, np.ascontiguousarray(logits[wanted]) if any(wanted) else None

    def _slots(self, segment: Segment) -> Tensor:
        """Where in the cache positions 0 … of this sequence lie, up to its last new token: int64 `[positions]`."""
        positions = torch.arange(segment.start + len(segment.tokens))
        pages = torch.from_numpy(np.asarray(segment.pages, np.int64))
        return (pages[positions // spec.PAGE_TOKENS] * spec.PAGE_TOKENS + positions % spec.PAGE_TOKENS).to(self._device)

    def _check(self, segments: Sequence[Segment]) -> None:
        if sum(len(s.tokens) for s in segments) > spec.STEP_TOKENS:
            raise DecoderError(f"the step has more than STEP_TOKENS = {spec.STEP_TOKENS} rows")
        for index, (pages, start, tokens, outputs, *_) in enumerate(segments):
            end = start + len(tokens)
            used = pages[: -(-end // spec.PAGE_TOKENS)]
            problem = None
            if not tokens or not 0 <= outputs <= len(tokens):
                problem = "it has no tokens, or wants more outputs than it has tokens"
            elif start < 0 or end > spec.MAX_MODEL_LEN:
                problem = f"its positions do not lie within 0 and MAX_MODEL_LEN = {spec.MAX_MODEL_LEN}"
            elif len(used) * spec.PAGE_TOKENS < end or min(used) < 0 or max(used) >= self.pages:
                problem = "its pages are too few for its positions, or not pages of the cache"
            elif min(tokens) < 0 or max(tokens) >= spec.VOCAB_SIZE:
                problem = f"a token is not within the vocabulary of {spec.VOCAB_SIZE}"
            if problem:
                raise DecoderError(f"segment {index}: {problem}")


def _attend(q: Tensor, keys: Tensor, values: Tensor, segments: Sequence[Segment], slots: Sequence[Tensor]) -> Tensor:
    """Causal attention of each segment over its own slots: q `[rows, HEADS, HEAD_DIM]` → `[rows, HEADS * HEAD_DIM]`."""
    outputs: list[Tensor] = []
    parts = q.split([len(segment.tokens) for segment in segments])
    for queries, segment, slot in zip(parts, segments, slots, strict=True):
        seen = (
            torch.arange(len(slot), device=q.device) <= torch.arange(segment.start, len(slot), device=q.device)[:, None]
        )
        mixed = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            keys[slot].transpose(0, 1)[None],
            values[slot].transpose(0, 1)[None],
            attn_mask=seen,
            enable_gqa=True,
        )
        outputs.append(mixed[0].transpose(0, 1).flatten(1))
    return torch.cat(outputs)


def _rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """RMSNorm over the last dimension, in float32 (Zhang and Sennrich, arXiv 1910.07467)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + spec.RMS_EPS) * weight


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary embedding of `[rows, heads, HEAD_DIM]`: the first half with the second half, as Hugging Face lays it out."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


def _tensor(data: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy (the data may be a read-only file) on the device; bits of bfloat16 become bfloat16."""
    tensor = torch.from_numpy(data.copy())
    return (tensor.view(torch.bfloat16) if spec.DTYPE == "bfloat16" else tensor).to(device)
