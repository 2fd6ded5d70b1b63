"""How far logprobs lie from the exact ones: of honest servers, by what they round, and of models that were made smaller.

The thresholds of the correctness gate rest on these figures. Each server writes greedy answers to the same prompts with the
logprobs of the chosen token and of the five likeliest; `transformers` in fp32 then reads prompt and answer in one pass. Per
answer: the mean distance of the chosen token's logprob and of the top five's, and KL(exact, server) over six outcomes, the
server's top five and all the rest (merging outcomes never raises a KL divergence, so the whole one is at least as large).

Honest: vLLM and `transformers` in bf16 (and vLLM in fp32), the stack's own decoder in each arithmetic. Smaller: weights of
linears rounded to int8 per output channel, int8 per tensor and int4 in groups of 64, and the last layer left out. These
compute in fp32, so nothing but the smaller weights shows: a real one also rounds its activations and lies farther off.

    python -m benchmarks.logprob_divergence [--checkpoint chain-52m] [--prompts 24] [--tokens 64]
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from sartor_skills.blocks.decoder import Segment
from sartor_skills.blocks.native_build import build
from sartor_skills.blocks.native_decoder import NativeDecoder
from sartor_skills.blocks.sampling import token_logprobs
from transformers import AutoModelForCausalLM

from benchmarks.decode_step import pages_of, specialise
from benchmarks.support.record import Bench, Row
from sartor_agents.baselines import VllmEngine
from sartor_agents.baselines.environment import existing_environment
from sartor_agents.baselines.find import engine_folders
from sartor_agents.baselines.grid import grid
from sartor_agents.checkpoints import SyntheticSource, cache_folder, resolve
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.run.servers import RunningServer, free_port
from sartor_agents.scenarios.text import open_text
from sartor_skills.blocks import spec

TOP = 5
PROMPT_TOKENS = 64
CHECKPOINTS = {
    "chain-52m": SyntheticSource("chain", "llama", "52m", 0, "bfloat16"),
    "trained-4m": SyntheticSource("tinyTrained", "llama", "4m", 0, "bfloat16"),
    "random-10m": SyntheticSource("random", "qwen3", "10m", 0, "bfloat16"),
}


@dataclass(frozen=True)
class Answer:
    """Greedy tokens of one prompt, with what the server said of each."""

    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]


Server = Callable[[Sequence[list[int]], int], list[Answer]]
"""Prompts of equal length, and how many tokens to write, to an answer for each."""


def by_model(model: Any) -> Server:
    @torch.inference_mode()
    def answer(prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
        found = [Answer([], [], []) for _ in prompts]
        step, cache = torch.tensor(prompts), None
        for _ in range(tokens):
            result = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logprobs = result.logits[:, -1].float().log_softmax(-1)
            best = logprobs.topk(TOP)
            step, cache = best.indices[:, :1], result.past_key_values
            for row, one in enumerate(found):
                top = list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
                one.tokens.append(top[0][0])
                one.logprobs.append(top[0][1])
                one.top.append(top)
        return found

    return answer


def by_decoder(decoder: NativeDecoder) -> Server:
    def answer(prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
        found = [Answer([], [], []) for _ in prompts]
        segments = [Segment(pages_of(i), 0, prompt, 1, True) for i, prompt in enumerate(prompts)]
        rows = np.concatenate([logits_of(decoder, [segment]) for segment in segments])
        for count in range(tokens):
            for one, row in zip(found, rows, strict=True):
                entry = token_logprobs(row, int(row.argmax()), TOP)
                one.tokens.append(entry.token)
                one.logprobs.append(entry.logprob)
                one.top.append(list(entry.top))
            after = PROMPT_TOKENS + count
            rows = logits_of(
                decoder, [Segment(pages_of(i), after, a.tokens[-1:], 1, True) for i, a in enumerate(found)]
            )
        return found

    return answer


def logits_of(decoder: NativeDecoder, segments: list[Segment]) -> NDArray[np.float32]:
    logits = decoder.forward(segments)[1]
    assert logits is not None
    return logits


def by_url(url: str) -> Server:
    """As the gate asks: token ids in, ids and logprobs out."""

    def answer(prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
        wish = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True, "logprobs": TOP}

        def one(prompt: list[int]) -> Answer:
            body = {"model": "model", "prompt": prompt, **wish, "return_tokens_as_token_ids": True}
            reply = client.post("/v1/completions", json=body)
            reply.raise_for_status()
            shown = reply.json()["choices"][0]["logprobs"]
            ids = [number(name) for name in shown["tokens"]]
            top = [[(number(name), value) for name, value in entry.items()] for entry in shown["top_logprobs"]]
            return Answer(ids, shown["token_logprobs"], top)

        with httpx.Client(base_url=url, timeout=600, trust_env=False) as client, ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, prompts))

    return answer


def number(name: str) -> int:
    return int(name.removeprefix("token_id:"))


def quantise(model: Any, bits: int, group: int | None) -> Any:
    """Round the weights of all linears to signed integers, to nearest: a scale for each `group` inputs of an output (0: for
    all inputs of it, None: one for the whole matrix). Weights stay fp32 tensors."""
    most = 2 ** (bits - 1) - 1
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        with torch.no_grad():
            weight = module.weight
            parts = weight.reshape(1, -1) if group is None else weight.reshape(-1, group or weight.shape[1])
            scale = parts.abs().amax(1, keepdim=True).clamp_min(1e-12) / most
            weight.copy_(((parts / scale).round() * scale).reshape(weight.shape))
    return model


def without_last_layer(model: Any) -> Any:
    model.model.layers = model.model.layers[:-1]
    model.config.num_hidden_layers -= 1
    return model


def servers(folder: Path, work: Path) -> Generator[tuple[str, str, Server]]:
    """Name, what it is, and the server, which ends when the next is asked for."""

    def load(dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    yield "transformers-bf16", "honest: weights, activations and logits in bf16", by_model(load(torch.bfloat16))
    for name, dtype, flags in (
        ("stack-bf16", "bfloat16", ("-march=native",)),
        ("stack-bf16-emulated-dot", "bfloat16", ("-march=native", "-DSARTOR_EMULATE_DPBF16")),
        ("stack-bf16-weights", "bfloat16", ("-mavx2", "-mfma")),
        ("stack-float32", "float32", ("-march=native",)),
    ):
        specialise(folder)
        spec.DTYPE = dtype
        decoder = NativeDecoder(folder, kv_pages=64 * 64, threads=1, library=build(work, flags))
        yield name, f"honest: {decoder.arithmetic}", by_decoder(decoder)
        decoder.close()
    yield "int8-per-channel", "smaller: int8 weights, a scale for each output", by_model(quantise(load(), 8, 0))
    yield "int8-per-tensor", "smaller: int8 weights, a scale for each matrix", by_model(quantise(load(), 8, None))
    yield "int4-groups-of-64", "smaller: int4 weights, a scale for each 64 inputs", by_model(quantise(load(), 4, 64))
    yield "without-last-layer", "smaller: the last layer left out", by_model(without_last_layer(load()))
    environment = existing_environment(cache_folder())
    if environment is None:
        raise SystemExit("vLLM's environment was not made; run: sartor baseline setup")
    for dtype in ("bfloat16", "float32"):
        setting = grid("chat", "documentedGrid", arguments=("--dtype", dtype), cores=1, native_bf16=True)[0]
        engine = VllmEngine(environment, folder, "model", 1024, [setting], *engine_folders())
        with RunningServer(engine.server(setting, free_port()), work / "vllm.log") as server:
            name = "vllm-bf16" if dtype == "bfloat16" else "vllm-float32"
            yield name, f"honest: vLLM {environment.version} in {dtype}", by_url(f"http://127.0.0.1:{server.spec.port}")


@dataclass(frozen=True)
class Divergence:
    """One answer against the exact logprobs; each list has an entry per token."""

    chosen: NDArray[np.float64]  # |server - exact| of the chosen token, nats
    top: NDArray[np.float64]  # its mean over the server's top five
    kl: NDArray[np.float64]  # nats, over six outcomes
    agrees: NDArray[np.bool_]


def exact_logprobs(model: Any, prompt: list[int], tokens: list[int]) -> NDArray[np.float64]:
    """float64 `[tokens, vocabulary]`, teacher-forced."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens[:-1]]]), logits_to_keep=len(tokens), use_cache=False).logits[0]
    return logits.double().log_softmax(-1).numpy()


def compare(exact: NDArray[np.float64], answer: Answer) -> Divergence:
    rows = np.arange(len(answer.tokens))
    chosen = np.abs(np.asarray(answer.logprobs) - exact[rows, answer.tokens])
    ids = np.asarray([[token for token, _ in top] for top in answer.top])
    values = np.asarray([[value for _, value in top] for top in answer.top])
    true = exact[rows[:, None], ids]
    p, q = (np.exp(part) for part in (true, values))
    rest_p, rest_q = (np.clip(1 - part.sum(1), 1e-12, None) for part in (p, q))
    kl = (p * (true - values)).sum(1) + rest_p * np.log(rest_p / rest_q)
    return Divergence(chosen, np.abs(values - true).mean(1), kl, exact.argmax(1) == np.asarray(answer.tokens))


def rows_of(prefix: str, what: str, answers: Sequence[Divergence]) -> list[Row]:
    """Means over answers, with bootstrap intervals over answers; the notes have what a threshold must leave room for."""
    columns = {
        "chosen": [a.chosen for a in answers],
        "top-5": [a.top for a in answers],
        "kl-6": [a.kl for a in answers],
        "disagreement": [~a.agrees for a in answers],
    }
    rows: list[Row] = []
    for name, found in columns.items():
        means = np.asarray([values.mean() for values in found])
        draws = np.random.default_rng(0).choice(means, (2000, len(means))).mean(1)
        low, high = np.quantile(draws, [0.025, 0.975])
        note = f"{what}; largest mean of an answer {means.max():.3g}, smallest {means.min():.3g}"
        if name != "disagreement":
            everything = np.concatenate(found)
            note += f"; of a token: 99th percentile {np.quantile(everything, 0.99):.3g}, most {everything.max():.3g}"
        unit = "share" if name == "disagreement" else "nat"
        rows.append(Row(f"{prefix}/{name}", unit, "lower", None, float(means.mean()), low, high, len(means), note))
    return rows


def measure(label: str, source: SyntheticSource, prompts: int, tokens: int, record: Bench, work: Path) -> None:
    folder = resolve(source, cache=cache_folder())
    text = open_text(folder, TokenCounter(folder))
    rng = np.random.default_rng(20)
    asked = [text.passage(rng, PROMPT_TOKENS) for _ in range(prompts)]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, what, server in servers(folder, work):
        answers = server(asked, tokens)
        found = [
            compare(exact_logprobs(reference, prompt, answer.tokens), answer)
            for prompt, answer in zip(asked, answers, strict=True)
        ]
        assert all(math.isfinite(value) for one in found for value in one.kl)
        record.add(*rows_of(f"gates/logprobs/{label}/{name}", what, found))


def main() -> None:
    parser = argparse.ArgumentParser(description="Logprobs of honest servers and of smaller models against exact ones.")
    parser.add_argument("--checkpoint", action="append", choices=list(CHECKPOINTS), help="repeatable; default all")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    record = Bench("logprob_divergence")
    with tempfile.TemporaryDirectory() as work:
        for label in arguments.checkpoint or CHECKPOINTS:
            measure(label, CHECKPOINTS[label], arguments.prompts, arguments.tokens, record, Path(work))


if __name__ == "__main__":
    main()
