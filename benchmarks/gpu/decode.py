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
    """Seconds of steps of one row at a context of `CONTEXT`, one by one, and what loading took."""
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
    seconds: list[float] = []
    for step in range(WARM_UP + steps):
        started = time.perf_counter()
        (token,), _ = decoder.forward([Segment(pages, context + step, [int(token)], 1, False)])
        seconds.append(time.perf_counter() - started)
    result = {
        "arithmetic": decoder.arithmetic,
        "weight_bytes": weight_bytes(),
        "load_seconds": loaded,
        "context": context,
        "step_seconds": seconds[WARM_UP:],
    }
    decoder.close()
    return result
