"""One step in a process of its own: `python -m benchmarks.gpu.step NAME --out FILE`. Writes what was measured as JSON.

Names are `WHAT-SIZE[-WORKLOAD]` as in `plan.STEPS`. A step ends with a message and exit code 1 when it cannot be run here.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.models import ChainSource, chat_prompts, edit_prompts, follow, specialise, write_config

MATCHES = (95, 0, 90, 50)
EDIT = {"prompt": 2048, "output": 400}
CHAT = {"prompt": 512, "output": 256}
CONCURRENCIES = (1, 64, 128)
REPLICATES = 5


class CannotRunError(Exception):
    """The step cannot be run on this machine; the message says why."""


def device_step(size: str, folder: Path) -> dict[str, Any]:
    from benchmarks.gpu.roofline import device_rates

    return device_rates(torch.device("cuda"))


def kernels_step(size: str, folder: Path) -> dict[str, Any]:
    from benchmarks.gpu.roofline import checks, measure

    specialise(folder, MAX_MODEL_LEN=16384)
    device = torch.device("cuda")
    found: list[dict[str, Any]] = []
    for case in (
        {"rows": 64, "context": 2048, "drafts": 0, "splits": 1},
        {"rows": 1, "context": 8192, "drafts": 16, "splits": 16},
    ):
        for block_tokens in (32, 64, 128):
            found += [
                {
                    "kernel": check.name, **case, "block_tokens": block_tokens, "error": check.error(),
                    "moved": check.moved, "bytes_per_second": measure(check, device),
                }
                for check in checks(device, block_tokens=block_tokens, **case)
                if block_tokens == 64 or check.name == "attention"
            ]  # fmt: skip
            torch.cuda.empty_cache()
    return {"kernels": found}


def gate_step(size: str, folder: Path, *, where: str = "cuda") -> dict[str, Any]:
    specialise(
        folder, MAX_MODEL_LEN=1024, MAX_SEQUENCES=16, KV_PAGES=2048, SPECULATION="prediction", STEP_TOKENS=1024,
        GRAPH_ROWS=32,
    )  # fmt: skip
    from sartor_skills.blocks.cuda_decoder import CudaDecoder

    from benchmarks.gpu.engine_runs import Run, prediction, run_requests
    from benchmarks.gpu.gate import compare, reference_model

    device, source = torch.device(where), ChainSource()
    decoder = CudaDecoder(folder, kv_pages=2048, source=source, device=where)
    alone = [Run(tokens, 64) for tokens in chat_prompts(8, 11, prompt=200)]
    run_requests(decoder, alone, 1)
    batched = [Run(run.prompt, run.length) for run in alone]
    run_requests(decoder, batched, 8)
    rng = np.random.default_rng(5)
    drafted = [
        Run(run.prompt, run.length, prediction(run.tokens, match, rng))
        for run, match in zip(alone, (100, 95, 90, 50, 0, 100, 90, 0), strict=True)
    ]
    run_requests(decoder, drafted, 1)
    arithmetic = decoder.arithmetic
    decoder.close()
    del decoder
    torch.cuda.empty_cache()
    model = reference_model(folder, source, device)
    return {
        "arithmetic": arithmetic,
        "chain": sum(run.tokens == follow(run.prompt[-1], run.length) for run in alone),
        "alone": compare(model, alone, device),
        "batched": compare(model, batched, device),
        "drafted": compare(model, drafted, device),
        "drafted_equal": sum(one.tokens == other.tokens for one, other in zip(alone, drafted, strict=True)),
        "accepted": [run.accepted for run in drafted],
        "requests": len(alone),
    }


def own_step(size: str, folder: Path, workload: str) -> dict[str, Any]:
    speculation = "prediction" if workload == "edit" else "none"
    sequences = max(CONCURRENCIES) if workload == "chat" else 1
    specialise(
        folder, MAX_MODEL_LEN=4096, MAX_SEQUENCES=sequences, SPECULATION=speculation, STEP_TOKENS=2048, PREFILL_CHUNK=512,
        GRAPH_ROWS=32 if workload == "edit" else 8,
    )  # fmt: skip
    from sartor_skills.blocks.cuda_decoder import CudaDecoder
    from sartor_skills.blocks.cuda_weights import weight_bytes

    from benchmarks.gpu.engine_runs import Run, prediction, run_requests, summary

    decoder = CudaDecoder(folder, kv_pages=sequences * 256, source=ChainSource())
    result: dict[str, Any] = {"arithmetic": decoder.arithmetic, "weight_bytes": weight_bytes(), "pages": decoder.pages}
    if workload == "chat":
        result["chat"] = {}
        for concurrency in CONCURRENCIES:
            run_requests(decoder, [Run(tokens, 16) for tokens in chat_prompts(concurrency, 99, prompt=64)], concurrency)
            prompts = chat_prompts(max(8, 3 * concurrency), 21 + concurrency, prompt=CHAT["prompt"])
            runs = [Run(tokens, CHAT["output"]) for tokens in prompts]
            result["chat"][str(concurrency)] = summary(runs, run_requests(decoder, runs, concurrency))
        return result
    plain = [Run(tokens, EDIT["output"]) for tokens in edit_prompts(REPLICATES + 1, 31, **EDIT)]
    run_requests(decoder, plain, 1)
    result["plain"] = [run.rate for run in plain[1:]]  # the first warms up
    if workload == "edit":
        result["edit"] = {}
        for match in MATCHES:
            rng = np.random.default_rng(match)
            runs = [Run(run.prompt, run.length, prediction(run.tokens, match, rng)) for run in plain]
            run_requests(decoder, runs, 1)
            result["edit"][str(match)] = {
                "rates": [run.rate for run in runs[1:]],
                "accepted": [run.accepted for run in runs[1:]],
                "equal": sum(one.tokens == other.tokens for one, other in zip(plain, runs, strict=True)),
            }
    return result


def vllm_step(size: str, folder: Path, workload: str) -> dict[str, Any]:
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise CannotRunError(f"vLLM cannot be imported here: {error}") from None
    specialise(folder, MAX_MODEL_LEN=4096)
    from benchmarks.gpu.baselines import run_vllm

    return run_vllm(folder, workload, edit=EDIT, chat=CHAT, concurrencies=CONCURRENCIES, replicates=REPLICATES)


def transformers_step(size: str, folder: Path, workload: str) -> dict[str, Any]:
    specialise(folder, MAX_MODEL_LEN=4096)
    from benchmarks.gpu.baselines import run_transformers

    return run_transformers(folder, edit=EDIT, replicates=REPLICATES)


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "device": device_step, "kernels": kernels_step, "gate": gate_step, "own": own_step, "vllm": vllm_step,
    "transformers": transformers_step,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.step", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    what, size, *workload = ("device", "1b") if options.name == "device" else options.name.split("-")
    if not torch.cuda.is_available():
        print(f"error: PyTorch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        folder = write_config(size, Path(name) / "model")
        try:
            result = STEPS[what](size, folder, *workload)
        except CannotRunError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
