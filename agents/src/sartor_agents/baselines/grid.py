"""The documented grid over which vLLM is tuned; its best point is the baseline that a stack has to beat.

Dimensions, and why they are in it (vLLM 0.32 on a CPU):

- *threads*: by default one OpenMP thread and a core kept for the API server; `VLLM_CPU_OMP_THREADS_BIND=0-N` uses all cores.
- *dtype*: on a CPU without native bf16 arithmetic one request at a time decodes faster in bfloat16, which reads half the
  bytes; batches, prompts and the verification of drafts are faster in float32 (same weights), whose products need no
  conversion. Where bf16 is native it is the only point.
- *n-gram speculation* (`code-edit`): the engine's own answer to predicted outputs; width and lookup range.

`quick` keeps one point without speculation and one with it, both on all cores: those that were fastest where the whole grid
was measured (`run/code-edit` in the figures). `none` is the owner's arguments alone.
"""

import json
from collections.abc import Sequence
from typing import Literal

from sartor_agents.run.engines import Setting

Tuning = Literal["documentedGrid", "quick", "none"]

NGRAM: tuple[tuple[int, int, int], ...] = ((8, 4, 2), (16, 4, 2), (16, 8, 2))
"""num_speculative_tokens, prompt_lookup_max, prompt_lookup_min."""


def grid(scenario: str, tuning: Tuning, *, arguments: Sequence[str], cores: int, native_bf16: bool) -> list[Setting]:
    """The settings to measure, the one to fall back on first. `arguments` are in every one."""
    if tuning == "none":
        return [Setting("as given", tuple(arguments))]
    batched, alone = ("bfloat16", "bfloat16") if native_bf16 else ("float32", "bfloat16")
    if "--dtype" in arguments:
        batched = alone = ""
    first = alone if scenario == "code-edit" else batched
    drafts = NGRAM if scenario == "code-edit" else ()
    if tuning == "quick":
        return [_setting(arguments, first, cores, None), *(_setting(arguments, batched, cores, n) for n in drafts[1:2])]
    threads = sorted({1, cores}, reverse=True)
    dtypes = dict.fromkeys((first, alone, batched))
    plain = [_setting(arguments, dtype, number, None) for dtype in dtypes for number in threads]
    # Drafts are verified as a batch is, many rows at once.
    return plain + [_setting(arguments, batched, number, ngram) for ngram in drafts for number in threads]


def cuda_grid(scenario: str, tuning: Tuning = "documentedGrid", *, arguments: Sequence[str]) -> list[Setting]:
    """On an NVIDIA device threads and dtype are no dimensions: bfloat16 with CUDA graphs (vLLM's default), and n-gram
    speculation as on a CPU for `code-edit`, of which `quick` keeps the middle one."""
    if tuning == "none":
        return [Setting("as given", tuple(arguments))]
    given = "--dtype" in arguments
    common, dtype = (tuple(arguments), "dtype as given") if given else ((*arguments, "--dtype", "bfloat16"), "bfloat16")
    plain = [Setting(f"{dtype}, no speculation", common)]
    if scenario != "code-edit":
        return plain
    return plain + [
        Setting(f"{dtype}, {_ngram_words(ngram)}", (*common, "--speculative-config", json.dumps(_ngram_config(ngram))))
        for ngram in (NGRAM[1:2] if tuning == "quick" else NGRAM)
    ]


def _ngram_config(ngram: tuple[int, int, int]) -> dict[str, str | int]:
    width, longest, shortest = ngram
    return {
        "method": "ngram",
        "num_speculative_tokens": width,
        "prompt_lookup_max": longest,
        "prompt_lookup_min": shortest,
    }


def _ngram_words(ngram: tuple[int, int, int]) -> str:
    width, longest, shortest = ngram
    return f"n-gram {width} ({shortest}–{longest})"


def _setting(arguments: Sequence[str], dtype: str, threads: int, ngram: tuple[int, int, int] | None) -> Setting:
    extra: list[str] = ["--dtype", dtype] if dtype else []
    words = [f"{threads} thread{'s' if threads > 1 else ''}", dtype or "dtype as given"]
    if ngram is not None:
        extra += ["--speculative-config", json.dumps(_ngram_config(ngram))]
        words.append(_ngram_words(ngram))
    else:
        words.append("no speculation")
    environment = {"VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"} if threads > 1 else {}
    return Setting(", ".join(words), (*arguments, *extra), environment)


def render(scenarios: Sequence[str], *, cores: int) -> str:
    """The grid as Markdown, for the documentation."""
    rows = ["| scenario | native bf16 | setting | arguments | environment |", "|---|---|---|---|---|"]
    for scenario in scenarios:
        for native in (True, False):
            for point in grid(scenario, "documentedGrid", arguments=(), cores=cores, native_bf16=native):
                environment = " ".join(f"{k}={v}" for k, v in point.environment.items())
                rows.append(
                    f"| {scenario} | {'yes' if native else 'no'} | {point.name} | "
                    f"`{' '.join(point.arguments)}` | {f'`{environment}`' if environment else ''} |"
                )
    return "\n".join(rows) + "\n"
