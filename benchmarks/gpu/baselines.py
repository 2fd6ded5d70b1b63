"""What users would run instead, in the process: vLLM where it can be imported, else `transformers` with its static
cache.

Both get the very weights of the own decoder. vLLM runs with CUDA graphs, its default, and for code edits plain and
with n-gram speculation over a small grid, of which the best counts.
"""

import gc
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import ChainSource, chat_prompts, edit_prompts

NGRAMS = tuple({"num_speculative_tokens": count, "prompt_lookup_max": 4, "prompt_lookup_min": 2} for count in (16, 8))


def run_vllm(
    folder: Path,
    workload: str,
    *,
    edit: dict[str, int],
    chat: dict[str, int],
    concurrencies: Sequence[int],
    replicates: int,
) -> dict[str, Any]:
    """Plain decoding, or n-gram speculation on prompts that hold the text to come, or a closed loop of `LLM.generate`."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the model is then in this process and can be given its weights
    import vllm

    result: dict[str, Any] = {"version": vllm.__version__}
    if workload == "chat":
        result["chat"] = {}
        for concurrency in concurrencies:  # an engine each: so many at a time, all prompts waiting, is a closed loop
            prompts = chat_prompts(max(8, 3 * concurrency), 21 + concurrency, prompt=chat["prompt"])
            with _vllm(folder, max_num_seqs=concurrency) as engine:
                _seconds(engine, chat_prompts(concurrency, 99, prompt=64), 16)
                seconds = _seconds(engine, prompts, chat["output"])
            rate = len(prompts) * chat["output"] / seconds
            result["chat"][str(concurrency)] = {"output_tokens_per_second": rate}
        return result
    prompts = edit_prompts(replicates + 1, 31, **edit)
    with _vllm(folder, max_num_seqs=1) as engine:
        result["plain"] = _rates(engine, prompts, edit["output"])
    result["ngram"] = []
    for settings in NGRAMS:
        with _vllm(folder, max_num_seqs=1, speculative_config={"method": "ngram", **settings}) as engine:
            result["ngram"].append({**settings, "rates": _rates(engine, prompts, edit["output"])})
    return result


def run_transformers(folder: Path, *, edit: dict[str, int], replicates: int) -> dict[str, Any]:
    """Plain decoding at concurrency 1 with a static cache and a compiled forward."""
    import transformers

    from benchmarks.gpu.gate import reference_model

    device = torch.device("cuda")
    model = reference_model(folder, ChainSource(), device)
    rates: list[float] = []
    for prompt in edit_prompts(replicates + 1, 31, **edit):
        tokens = torch.tensor([prompt], device=device)
        seconds: list[float] = []
        for length in (1, edit["output"]):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=length, min_new_tokens=length,
                do_sample=False, cache_implementation="static", pad_token_id=0,
            )  # fmt: skip
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
        rates.append((edit["output"] - 1) / (seconds[1] - seconds[0]))
    return {"version": transformers.__version__, "plain": rates[1:], "cache": "static"}


@contextmanager
def _vllm(folder: Path, **options: Any) -> Generator[Any]:
    """An engine of vLLM with the weights of the chain, in this process; its memory is given back at the end."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine = LLM(
        model=str(folder), skip_tokenizer_init=True, load_format="dummy", dtype="bfloat16", max_model_len=4096,
        gpu_memory_utilization=0.92, enable_prefix_caching=False, **options,
    )  # fmt: skip

    def fill(model: Any) -> None:
        model.load_weights(ChainSource().all(torch.device("cuda")))

    engine.apply_model(fill)
    try:
        yield engine
    finally:
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()


def _rates(engine: Any, prompts: Sequence[list[int]], length: int) -> list[float]:
    """Tokens per second after the first, prompt by prompt; the first prompt warms up and is left out."""
    rates: list[float] = []
    for prompt in prompts:
        first, whole = (_seconds(engine, [prompt], count) for count in (1, length))
        rates.append((length - 1) / (whole - first))
    return rates[1:]


def _seconds(engine: Any, prompts: Sequence[list[int]], length: int) -> float:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=length, min_tokens=length, ignore_eos=True, detokenize=False)
    begun = time.perf_counter()
    engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False)
    return time.perf_counter() - begun
