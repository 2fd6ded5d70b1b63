"""How long a decode step of the decoder itself takes, without a server: what is held against bytes ÷ bandwidth."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

CONTEXT = {"cuda": 2048, "cpu": 48}
STEPS = {"cuda": 200, "cpu": 8}
WARM_UP = 8


def specialise(folder: Path, **values: Any) -> None:
    """Set `spec` to the model in `folder` and to `values`; before the engine is imported, which decides on `spec`."""
    from sartor_skills.blocks.model_config import read_config

    from sartor_skills.blocks import spec

    wanted = {**read_config(folder).as_spec(), "DECODER": "cuda", "DTYPE": "bfloat16", "EOS_TOKEN_IDS": (), **values}
    for name, value in wanted.items():
        if not hasattr(spec, name):
            raise KeyError(f"spec has no {name}")
        setattr(spec, name, value)


def decode(folder: Path, device: torch.device) -> dict[str, Any]:
    """Seconds of steps of one row from a context of `CONTEXT` on, and what loading took.

    `step_seconds`: from one step's end to the next one's, each begun before the last one was waited for, as the engine does
    it. `alone_seconds`: nothing begun before the last token is here, so that the host's part shows.
    """
    context, steps = CONTEXT[device.type], STEPS[device.type]
    specialise(folder, MAX_MODEL_LEN=4096, MAX_SEQUENCES=1, STEP_TOKENS=2048, GRAPH_ROWS=8)
    from sartor_skills.blocks.cuda_decoder import CudaDecoder
    from sartor_skills.blocks.cuda_weights import weight_bytes
    from sartor_skills.blocks.decoder import Segment

    from sartor_skills.blocks import spec

    begun = time.perf_counter()
    decoder = CudaDecoder(folder, kv_pages=256, device=device.type)
    loaded = time.perf_counter() - begun
    pages = np.arange(256, dtype=np.int32)
    prompt = np.random.default_rng(3).integers(0, spec.VOCAB_SIZE, context).tolist()
    (token,), _ = decoder.forward([Segment(pages, 0, prompt, 1, False)])
    clock = time.perf_counter
    alone: list[float] = []
    for step in range(WARM_UP + steps):
        started = clock()
        (token,), _ = decoder.forward([Segment(pages, context + step, [int(token)], 1, False)])
        alone.append(clock() - started)
    at = context + len(alone)
    ends: list[float] = []
    ahead = decoder.launch([Segment(pages, at, [int(token)], 1, False)])
    for step in range(1, WARM_UP + steps + 1):
        behind = decoder.launch([Segment(pages, at + step, [0], 1, False, follows=0)])
        ahead.wait()
        ends.append(clock())
        ahead = behind
    ahead.wait()
    result = {
        "arithmetic": decoder.arithmetic,
        "weight_bytes": weight_bytes(),
        "load_seconds": loaded,
        "context": context,
        "step_seconds": np.diff(ends[WARM_UP - 1 :]).tolist(),
        "alone_seconds": alone[WARM_UP:],
    }
    decoder.close()
    return result
