"""How far logprobs lie from the exact ones: of honest servers, by what they round, and of models that were made smaller.

The thresholds of the correctness gate rest on these figures. Each server writes greedy answers to the same prompts with the
logprobs of the chosen token and of the five likeliest; `transformers` in fp32 then reads prompt and answer in one pass.
Distances are those of `sartor_agents.judge.logprobs.compare`, per answer: of the chosen token's logprob, of the
alternatives', and the KL divergence over the alternatives and all the rest (merging outcomes never raises it, so the whole
one is at least as large).

Honest: vLLM and `transformers` in bf16 (and vLLM in fp32), `transformers` in bf16 with an fp32 head, the stack's own
decoder in each arithmetic. Smaller: weights of linears rounded to int8 per output channel, int8 per tensor and int4 in
groups of 64, and the last layer left out. These compute in fp32, so nothing but the smaller weights shows; the first also
in bf16, as engines do.

`vs-limit` is what the gate decides by (`sartor_agents/judge/divergence.py`): a server whose logits are rounded to bf16 is
compared with the exact logits rounded likewise, and held to what vLLM in bf16, the baseline, shows (vLLM itself, and in
`vs-limit-without-vllm` all of them: to the reference in bf16); others are held to the reference with bf16 operands of its
products. An honest server has to lie below 1, a smaller model above; one that keeps its residual stream in bf16 behind an
fp32 head is taken for a smaller one, as the gate's page says.

    python -m benchmarks.logprob_divergence [--checkpoint chain-52m] [--prompts 24] [--tokens 64]

Writes `benchmarks/results/logprob_divergence_CHECKPOINT.json`.
"""

import argparse
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
from sartor_agents.judge.divergence import limit
from sartor_agents.judge.logprobs import Divergence, TokenReport, compare, from_reading, read_reports, rounded_logits
from sartor_agents.judge.reference import Reference
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
    reports: list[TokenReport]


HONEST, SMALLER, REFUSED = "honest", "smaller", "honest, and refused"
BASELINE = "vllm-bf16"
Server = Callable[[Sequence[list[int]], int], list[Answer]]
"""Prompts of equal length, and how many tokens to write, to an answer for each."""


def by_model(model: Any, head: Any = None) -> Server:
    """`head` computes the logits in its own precision from the model's last hidden states; None: the model's own."""

    @torch.inference_mode()
    def answer(prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
        found = [Answer([], []) for _ in prompts]
        step, cache = torch.tensor(prompts), None
        for _ in range(tokens):
            if head is None:
                result = model(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits = result.logits[:, -1]
            else:
                result = model.base_model(step, past_key_values=cache, use_cache=True)
                logits = head(result.last_hidden_state[:, -1].to(head.weight.dtype))
            logprobs = logits.float().log_softmax(-1)
            best = logprobs.topk(TOP)
            step, cache = best.indices[:, :1], result.past_key_values
            for row, one in enumerate(found):
                top = tuple(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True))
                one.tokens.append(top[0][0])
                one.reports.append(TokenReport(*top[0], top))
        return found

    return answer


def by_decoder(decoder: NativeDecoder) -> Server:
    def answer(prompts: Sequence[list[int]], tokens: int) -> list[Answer]:
        found = [Answer([], []) for _ in prompts]
        segments = [Segment(pages_of(i), 0, prompt, 1, True) for i, prompt in enumerate(prompts)]
        rows = np.concatenate([logits_of(decoder, [segment]) for segment in segments])
        for count in range(tokens):
            for one, row in zip(found, rows, strict=True):
                entry = token_logprobs(row, int(row.argmax()), TOP)
                one.tokens.append(entry.token)
                one.reports.append(TokenReport(entry.token, entry.logprob, entry.top))
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
            reports = read_reports([(0.0, reply.content)], streamed=False)
            return Answer([report.token for report in reports if report.token is not None], reports)

        with httpx.Client(base_url=url, timeout=600, trust_env=False) as client, ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, prompts))

    return answer


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
    """Name, what it is (`HONEST`, `SMALLER` or `REFUSED` first), and the server, which ends when the next is asked for."""

    def load(dtype: torch.dtype = torch.float32) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    yield "transformers-bf16", f"{HONEST}: weights, activations and logits in bf16", by_model(load(torch.bfloat16))
    head = load().get_output_embeddings()
    yield (
        "transformers-bf16-fp32-head",
        f"{HONEST}: weights and activations in bf16",
        by_model(load(torch.bfloat16), head),
    )
    for name, dtype, flags in (
        ("stack-bf16", "bfloat16", ("-march=native",)),
        ("stack-bf16-emulated-dot", "bfloat16", ("-march=native", "-DSARTOR_EMULATE_DPBF16")),
        ("stack-bf16-weights", "bfloat16", ("-mavx2", "-mfma")),
        ("stack-float32", "float32", ("-march=native",)),
    ):
        specialise(folder)
        spec.DTYPE = dtype
        decoder = NativeDecoder(folder, kv_pages=64 * 64, threads=1, library=build(work, flags))
        yield name, f"{HONEST}: {decoder.arithmetic}", by_decoder(decoder)
        decoder.close()
    int8 = f"{SMALLER}: int8 weights, a scale for each output"
    yield "int8-per-channel", int8, by_model(quantise(load(), 8, 0))
    yield "int8-per-channel-bf16", f"{int8}, the rest in bf16", by_model(quantise(load(), 8, 0).to(torch.bfloat16))
    yield "int8-per-tensor", f"{SMALLER}: int8 weights, a scale for each matrix", by_model(quantise(load(), 8, None))
    yield "int4-groups-of-64", f"{SMALLER}: int4 weights, a scale for each 64 inputs", by_model(quantise(load(), 4, 64))
    yield "without-last-layer", f"{SMALLER}: the last layer left out", by_model(without_last_layer(load()))
    environment = existing_environment(cache_folder())
    if environment is None:
        raise SystemExit("vLLM's environment was not made; run: sartor baseline setup")
    for dtype in ("bfloat16", "float32"):
        setting = grid("chat", "documentedGrid", arguments=("--dtype", dtype), cores=1, native_bf16=True)[0]
        engine = VllmEngine(environment, folder, "model", 1024, [setting], *engine_folders())
        with RunningServer(engine.server(setting, free_port()), work / "vllm.log") as server:
            name = BASELINE if dtype == "bfloat16" else "vllm-float32"
            yield (
                name,
                f"{HONEST}: vLLM {environment.version} in {dtype}",
                by_url(f"http://127.0.0.1:{server.spec.port}"),
            )


@dataclass(frozen=True)
class Measured:
    """Distances of one server, an entry per answer: from the exact logprobs, and as the gate compares them."""

    what: str
    coarse: bool
    exact: list[Divergence]
    gate: list[Divergence]
    noise: list[Divergence]
    """What the reference shows along the same answers: in bf16 where logits are rounded, else with bf16 products."""


def held(what: str, prompts: Sequence[list[int]], answers: Sequence[Answer], reference: Reference) -> Measured:
    coarse = rounded_logits([report for answer in answers for report in answer.reports])
    measured = Measured(what, coarse, [], [], [])
    for prompt, answer in zip(prompts, answers, strict=True):
        exact = reference.check(prompt, answer.tokens)
        likewise = reference.rounded(prompt, answer.tokens, layers=False, logits=True) if coarse else exact
        if coarse:
            inexact = reference.rounded(prompt, answer.tokens, layers=True, logits=True)
        else:
            inexact = reference.products(prompt, answer.tokens)
        measured.exact.append(compare(answer.reports, exact))
        measured.gate.append(compare(answer.reports, likewise))
        measured.noise.append(compare(from_reading(inexact), likewise))
    return measured


def rows_of(prefix: str, measured: Measured) -> list[Row]:
    """Means over answers, with bootstrap intervals over answers; the notes have what a threshold must leave room for."""
    columns: dict[str, list[Sequence[float]]] = {
        "chosen": [a.distance for a in measured.exact],
        "alternatives": [a.alternatives for a in measured.exact],
        "kl": [a.divergence for a in measured.exact],
        "disagreement": [[float(not same) for same in a.agrees] for a in measured.exact],
    }
    rows: list[Row] = []
    for name, found in columns.items():
        means = np.asarray([np.mean(values) for values in found])
        low, high = np.quantile(means[drawn(len(means))].mean(1), [0.025, 0.975])
        note = f"{measured.what}; largest mean of an answer {means.max():.3g}, smallest {means.min():.3g}"
        if name != "disagreement":
            everything = np.concatenate(found)
            note += f"; of a token: 99th percentile {np.quantile(everything, 0.99):.3g}, most {everything.max():.3g}"
        unit = "share" if name == "disagreement" else "nat"
        rows.append(Row(f"{prefix}/{name}", unit, "lower", None, float(means.mean()), low, high, len(means), note))
    return rows


def drawn(answers: int) -> NDArray[np.intp]:
    """`[2000, answers]`: places of a bootstrap."""
    return np.random.default_rng(0).choice(answers, (2000, answers))


def against_limit(bar: str, measured: Measured, noise: Sequence[Divergence], note: str) -> Row:
    """The larger of the two distances over its limit; the bootstrap draws prompts, which both answered."""
    pairs = [
        (np.asarray([getattr(one, name) for one in measured.gate]), np.asarray([getattr(one, name) for one in noise]))
        for name in ("distance", "alternatives")
    ]

    def ratio(places: NDArray[np.intp]) -> float:
        return max(
            float(ours[places].mean()) / limit(theirs[places].ravel().tolist(), ours[places].size)
            for ours, theirs in pairs
        )

    count = len(measured.gate)
    low, high = np.quantile([ratio(places) for places in drawn(count)], [0.025, 0.975])
    better = "lower" if measured.what.startswith(HONEST) else "higher"
    target = None if measured.what.startswith(REFUSED) else 1.0
    note = f"{measured.what}; logits {'' if measured.coarse else 'not '}rounded to bf16; {note}"
    return Row(bar, "ratio", better, target, ratio(np.arange(count)), float(low), float(high), count, note)


def measure(label: str, prompts: int, tokens: int, work: Path) -> None:
    record = Bench("logprob_divergence", label)
    folder = resolve(CHECKPOINTS[label], cache=cache_folder())
    text = open_text(folder, TokenCounter(folder))
    rng = np.random.default_rng(20)
    asked = [text.passage(rng, PROMPT_TOKENS) for _ in range(prompts)]
    reference = Reference(folder)
    known: dict[str, Measured] = {}
    for name, what, server in servers(folder, work):
        known[name] = held(what, asked, server(asked, tokens), reference)
        record.add(*rows_of(f"gates/logprobs/{label}/{name}", known[name]))
    for name, measured in known.items():
        bar = f"gates/logprobs/{label}/{name}/vs-limit"
        if not measured.coarse:
            record.add(against_limit(bar, measured, measured.noise, "limit by the reference with bf16 products"))
            continue
        if name != BASELINE:
            record.add(against_limit(bar, measured, known[BASELINE].gate, "limit by vLLM in bf16"))
        record.add(against_limit(f"{bar}-without-vllm", measured, measured.noise, "limit by the reference in bf16"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Logprobs of honest servers and of smaller models against exact ones.")
    parser.add_argument("--checkpoint", action="append", choices=list(CHECKPOINTS), help="repeatable; default all")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as work:
        for label in arguments.checkpoint or CHECKPOINTS:
            measure(label, arguments.prompts, arguments.tokens, Path(work))


if __name__ == "__main__":
    main()
