"""The decoder step in C++, compiled for this model's very shapes.

Python hands a step over as plain arrays through `ctypes`, which releases the GIL for as long as it runs. See `native/` for
the arithmetic and its promise: a row's result is the same bits alone, in a batch, in any chunk and with any thread count.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import spec
from .decoder import Segment
from .decoder_errors import DecoderError
from .memory_limit import require_memory
from .model_config import check_against_spec, read_config, rope_tables
from .native_build import build
from .weights import Weights

_INT32 = ctypes.POINTER(ctypes.c_int32)
_FLOAT = ctypes.POINTER(ctypes.c_float)

_OUT_OF_MEMORY, _NO_THREAD, _NO_TILES = 6, 7, 10  # of `Status` in native/step.h; the others are refusals of a step


class _Request(ctypes.Structure):
    """`Request` in native/step.h."""

    _fields_ = (
        ("segments", ctypes.c_int32),
        ("page_counts", _INT32),
        ("starts", _INT32),
        ("token_counts", _INT32),
        ("outputs", _INT32),
        ("wants_logits", _INT32),
        ("pages", _INT32),
        ("tokens", _INT32),
        ("argmax", _INT32),
        ("logits", _FLOAT),
    )


class NativeDecoder:
    """`Decoder` over the compiled step. Not safe for concurrent calls; the calling thread computes with the others."""

    def __init__(self, model_dir: Path, *, kv_pages: int, threads: int, library: Path | None = None) -> None:
        """Load the weights of `model_dir` into packed panels, and reserve `kv_pages` pages of keys and values.

        `library` is what `build` returned; without it the decoder is built or found beside this file. Cache pages take
        memory when they are first written. Raises `ModelError` for a checkpoint that is not the one of `spec`, `BuildError`,
        and `DecoderError` when memory or threads cannot be had.
        """
        if kv_pages < 1 or threads < 1:
            raise DecoderError(f"kv_pages {kv_pages} and threads {threads} must be positive")
        check_against_spec(read_config(model_dir), model_dir)
        weights = Weights(model_dir)
        self.pages = kv_pages
        self._handle = ctypes.c_void_p()
        self._library = _open(library or build())
        require_memory(self._library.sartor_memory(kv_pages, threads), kv_pages)
        status = self._library.sartor_create(kv_pages, threads, ctypes.byref(self._handle))
        if status == _OUT_OF_MEMORY:
            raise DecoderError(f"the system refuses memory for the weights and {kv_pages} KV pages: lower KV_PAGES")
        if status == _NO_THREAD:
            raise DecoderError(f"the system refuses to start {threads} threads: lower THREADS or raise the limit")
        if status == _NO_TILES:
            raise DecoderError(
                "the library was compiled for matrix tiles (AMX), and the system refuses them here: delete its build folder "
                "and build again where it runs"
            )
        self._load(weights)
        self._reserve()

    @property
    def arithmetic(self) -> str:
        """What was compiled, for the log: number formats and instruction set."""
        return self._library.sartor_arithmetic().decode()

    def forward(self, segments: Sequence[Segment]) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
        """See `decoder.Decoder.forward`. Raises `DecoderError` for a step that is refused; nothing is then written."""
        if not self._handle:
            raise DecoderError("the decoder was closed")
        meta = self._meta
        if len(segments) > spec.STEP_TOKENS:
            raise DecoderError(f"{len(segments)} segments: {_refusal(9)}")
        row = page = output = logit = 0
        for index, (pages, start, tokens, outputs, logits, *_) in enumerate(segments):
            count = len(tokens)
            needed = min(len(pages), max(0, -(-(start + count) // spec.PAGE_TOKENS)))
            if row + count > spec.STEP_TOKENS:
                raise DecoderError(f"segment {index} with {count} tokens: {_refusal(1)}")
            if page + needed > len(self._pages):
                self._grow_pages(page + needed)
            meta[:, index] = needed, start, count, outputs, logits
            try:
                self._tokens[row : row + count] = tokens
            except OverflowError:
                raise DecoderError(f"segment {index}: {_refusal(5)}") from None
            self._pages[page : page + needed] = pages[:needed]
            row += count
            page += needed
            output += outputs
            logit += outputs if logits else 0
        found = np.empty((logit, spec.VOCAB_SIZE), np.float32) if logit > 0 else None
        request = self._request
        request.segments = len(segments)
        request.logits = found.ctypes.data_as(_FLOAT) if found is not None else None
        status = self._library.sartor_forward(self._handle, self._request_at, self._refused_at)
        if status != 0:
            raise DecoderError(f"segment {self._refused.value}: {_refusal(status)}")
        return self._argmax[:output], found

    def close(self) -> None:
        """Release memory and threads; idempotent."""
        if self._handle:
            self._library.sartor_destroy(self._handle)
            self._handle = ctypes.c_void_p()

    def __del__(self) -> None:
        # `_handle` is missing when the constructor failed before it.
        if getattr(self, "_handle", None):
            self.close()

    def _load(self, weights: Weights) -> None:
        def matrix(kind: str, layer: int, name: str) -> None:
            data = weights[name].in_dtype()
            self._check(
                self._library.sartor_load_matrix(
                    self._handle, kind.encode(), layer, data.ctypes.data_as(ctypes.c_void_p), *data.shape
                ),
                name,
            )

        def vector(kind: str, layer: int, name: str, values: NDArray[np.float32]) -> None:
            data = np.ascontiguousarray(values, np.float32)
            pointer = data.ctypes.data_as(_FLOAT)
            self._check(self._library.sartor_load_vector(self._handle, kind.encode(), layer, pointer, data.size), name)

        embeddings = "model.embed_tokens.weight"
        if not spec.TIED_EMBEDDINGS:
            matrix("embed_tokens", 0, embeddings)
        matrix("lm_head", 0, embeddings if spec.TIED_EMBEDDINGS else "lm_head.weight")
        vector("norm", 0, "model.norm.weight", weights["model.norm.weight"].as_float32())
        cosines, sines = rope_tables(spec.MAX_MODEL_LEN)
        vector("cosines", 0, "cosines", cosines)
        vector("sines", 0, "sines", sines)
        for layer in range(spec.LAYERS):
            prefix = f"model.layers.{layer}."
            for kind in ("input_layernorm", "post_attention_layernorm"):
                name = f"{prefix}{kind}.weight"
                vector(kind, layer, name, weights[name].as_float32())
            for kind in ("q_proj", "k_proj", "v_proj", "o_proj"):
                matrix(kind, layer, f"{prefix}self_attn.{kind}.weight")
                if spec.ATTENTION_BIAS:
                    name = f"{prefix}self_attn.{kind}.bias"
                    vector(f"{kind}.bias", layer, name, weights[name].as_float32())
            if spec.QK_NORM:
                for kind in ("q_norm", "k_norm"):
                    name = f"{prefix}self_attn.{kind}.weight"
                    vector(kind, layer, name, weights[name].as_float32())
            for kind in ("gate_proj", "up_proj", "down_proj"):
                matrix(kind, layer, f"{prefix}mlp.{kind}.weight")

    def _check(self, status: int, name: str) -> None:
        if status != 0:
            raise DecoderError(
                f"tensor {name} does not fit the compiled decoder; delete its build folder and build again"
            )

    def _reserve(self) -> None:
        """Arrays that every call fills, so that a step allocates nothing but logits."""
        self._meta = np.zeros((5, spec.STEP_TOKENS), np.int32)
        self._tokens = np.zeros(spec.STEP_TOKENS, np.int32)
        self._argmax = np.zeros(spec.STEP_TOKENS, np.int32)
        self._refused = ctypes.c_int32()
        self._refused_at = ctypes.byref(self._refused)
        rows = [row.ctypes.data_as(_INT32) for row in self._meta]
        self._request = _Request(0, *rows, None, _at(self._tokens), _at(self._argmax), None)
        self._request_at = ctypes.byref(self._request)
        self._pages = np.zeros(0, np.int32)
        self._grow_pages(spec.MAX_SEQUENCES * -(-spec.MAX_MODEL_LEN // spec.PAGE_TOKENS))

    def _grow_pages(self, count: int) -> None:
        grown = np.zeros(max(count, 2 * len(self._pages)), np.int32)
        grown[: len(self._pages)] = self._pages
        self._pages = grown
        self._request.pages = _at(grown)


def _refusal(status: int) -> str:
    match status:
        case 1:
            return f"the step has more than STEP_TOKENS = {spec.STEP_TOKENS} rows"
        case 2:
            return "it has no tokens, or wants more outputs than it has tokens"
        case 3:
            return f"its positions do not lie within 0 and MAX_MODEL_LEN = {spec.MAX_MODEL_LEN}"
        case 4:
            return "its pages are too few for its positions, or not pages of the cache"
        case 5:
            return f"a token is not within the vocabulary of {spec.VOCAB_SIZE}"
        case 9:
            return f"the step has more than STEP_TOKENS = {spec.STEP_TOKENS} segments"
        case _:
            return f"the compiled decoder refused it with status {status}"


def _at(array: NDArray[np.int32]) -> Any:
    return array.ctypes.data_as(_INT32)


def _open(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DecoderError(f"{path}: cannot be loaded: {error}; delete it and build again") from error
    pointer, integer, wide, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_char_p
    for name, result, arguments in (
        ("sartor_arithmetic", text, []),
        ("sartor_memory", ctypes.c_uint64, [integer, integer]),
        ("sartor_create", integer, [integer, integer, ctypes.POINTER(pointer)]),
        ("sartor_destroy", None, [pointer]),
        ("sartor_load_matrix", integer, [pointer, text, integer, pointer, wide, wide]),
        ("sartor_load_vector", integer, [pointer, text, integer, _FLOAT, wide]),
        ("sartor_forward", integer, [pointer, ctypes.POINTER(_Request), _INT32]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library
