"""The judge over real servers: who passes, by how much, how long each gate takes; smaller models behind the same stack.

Honest are the stack that the playbook composes and vLLM itself, each beside vLLM as the baseline. Smaller models are the
same stack, or vLLM, over another checkpoint, judged by the right one: weights of the layers' linears rounded to int8 with a
scale for each output (`int8`: the head stays; `int8-all`: the head too), or the last layer left out. They compute in bf16
as the honest ones do. vLLM rounds its logits to bf16, so vLLM over int8 weights is the smaller model that is hardest to see.

Each is judged with fresh seeds, as the quick preset does it (12 answers). An interval is that of the rounds' median.

    python -m benchmarks.gates_judge [--workload chain-52m] [--rounds 3] [--only NAME ...]
"""

import argparse
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvloop
from transformers import AutoModelForCausalLM

from benchmarks.support.arms import Workbench
from benchmarks.support.record import Bench, Row, median_row
from sartor_agents.checkpoints import SyntheticSource, cache_folder, resolve
from sartor_agents.judge.gate import judge
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    CodeEditParameters,
    CodeEditScenario,
    Endpoint,
    JudgeRequest,
    JudgeResponse,
    ScenarioSpec,
)
from sartor_agents.roles.judge import open_reference
from sartor_agents.run.engines import Setting
from sartor_agents.run.servers import RunningServer

SAMPLES = 12
STACK: Mapping[str, Mapping[str, Any]] = {"serving-core": {}, "model-loading": {}, "native-decoder": {"THREADS": 1}}
SECONDS = 60.0
"""What the judge may take of a quick run on two cores."""


@dataclass(frozen=True)
class Workload:
    """A checkpoint, what is asked of it, and what the stack for it is composed of."""

    source: SyntheticSource
    scenario: ScenarioSpec
    recipes: Mapping[str, Mapping[str, Any]]


WORKLOADS = {
    "chain-52m": Workload(
        SyntheticSource("chain", "llama", "52m", 0, "bfloat16"),
        CodeEditScenario(parameters=CodeEditParameters(file_tokens=128)),
        {**STACK, "predicted-outputs": {}},
    ),
    "trained-4m": Workload(
        SyntheticSource("tinyTrained", "llama", "4m", 0, "bfloat16"),
        ChatScenario(parameters=ChatParameters(concurrencies=(4,), output_tokens=96)),
        STACK,
    ),
}
"""The quickstart's, whose best token leads by far everywhere; and text as models write it, with near-ties."""


def int8(model: Any, *, head: bool) -> None:
    """Round weights to nearest, in place: signed 8 bits, one scale for each output."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and (head or "lm_head" not in name):
            weight = module.weight.data
            scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            weight.copy_((weight / scale).round() * scale)


def without_last_layer(model: Any) -> None:
    model.model.layers = model.model.layers[:-1]
    model.config.num_hidden_layers -= 1
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:-1]


SMALLER: Mapping[str, Callable[[Any], None]] = {
    "int8": lambda model: int8(model, head=False),
    "int8-all": lambda model: int8(model, head=True),
    "fewer-layers": without_last_layer,
}


def smaller(model_dir: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A checkpoint with the same tokenizer and other weights."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.no_grad():
        change(model)
    model.bfloat16().save_pretrained(folder)
    for path in model_dir.iterdir():
        if path.is_file() and not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    return folder


class Range:
    """Servers to judge, by name."""

    def __init__(self, folder: Path, workload: Workload) -> None:
        self._folder, self.workload = folder, workload
        self.honest = self._bench("honest", resolve(workload.source, cache=cache_folder()))

    def names(self) -> list[str]:
        return ["stack", "vllm", *(f"stack-{name}" for name in SMALLER), "vllm-int8"]

    @contextmanager
    def server(self, name: str) -> Generator[RunningServer]:
        engine, _, change = name.partition("-")
        work = self.honest
        if change:
            checkpoint = self._folder / change / "checkpoint"
            if not checkpoint.exists():
                smaller(self.honest.model_dir, checkpoint, SMALLER[change])
            work = self._bench(change, checkpoint)
        scenario, recipes = self.workload.scenario.name, self.workload.recipes
        with work.baseline(Setting("default")) if engine == "vllm" else work.stack(scenario, recipes) as running:
            yield running

    def _bench(self, name: str, model_dir: Path) -> Workbench:
        work = Workbench(self._folder / name, "52m")
        work.model_dir = model_dir
        return work

    def judge(self, server: RunningServer, baseline: RunningServer, *, stack: bool) -> JudgeResponse:
        output = self._folder / "out" / secrets.token_hex(4)
        output.mkdir(parents=True)
        request = JudgeRequest(
            candidate=Endpoint(name="candidate", url=server.url, pid=server.process.pid, accepts_prediction=stack),
            baseline=Endpoint(name="baseline", url=baseline.url, accepts_prediction=False),
            model_dir=self.honest.model_dir, scenario=self.workload.scenario, seed=secrets.token_hex(32), output_dir=output,
            samples=SAMPLES,
        )  # fmt: skip
        return uvloop.run(judge(request, open_reference=open_reference))


def rows(bar: str, name: str, honest: bool, responses: list[JudgeResponse]) -> list[Row]:
    """Whether it was judged rightly, its log-probabilities over their limit, and the seconds of each check."""
    made: list[Row] = []
    passed = [float(response.judgement.passed) for response in responses]
    reasons = sorted({v.reason for r in responses for v in r.judgement.verdicts if not v.passed})
    made.append(
        median_row(
            f"{bar}/{name}/passed", "share", "higher" if honest else "lower", passed, 1.0 if honest else 0.0,
            ", ".join(reasons) or "every gate",
        )
    )  # fmt: skip
    measured = [r for r in responses if r.logprob_distance is not None and r.logprob_limit]
    if measured:
        distances = [r.logprob_distance or 0.0 for r in measured]
        over = [(r.logprob_distance or 0.0) / (r.logprob_limit or 1.0) for r in measured]
        limits = [r.logprob_limit or 0.0 for r in measured]
        made += [
            median_row(f"{bar}/{name}/logprob-distance", "nat", "lower", distances, None),
            median_row(f"{bar}/{name}/logprob-limit", "nat", "lower", limits, None),
            median_row(
                f"{bar}/{name}/logprob-distance-over-limit", "ratio", "lower" if honest else "higher", over, 1.0
            ),
        ]
    if honest:
        made.append(median_row(f"{bar}/{name}/seconds", "s", "lower", [r.seconds for r in responses], SECONDS))
        for check in responses[0].checks:
            seconds = [c.seconds for r in responses for c in r.checks if c.name == check.name]
            made.append(median_row(f"{bar}/{name}/seconds/{check.name}", "s", "lower", seconds, None))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS), help="repeatable; default: every one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", help="repeatable; default: every server")
    options = parser.parse_args()
    torch.set_num_threads(2)
    for name in options.workload or WORKLOADS:
        bench(name, options.rounds, options.only)


def bench(workload: str, rounds: int, only: list[str] | None) -> None:
    """One workload into a file of its own."""
    record = Bench("gates_judge", workload)
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        found = Range(Path(folder), WORKLOADS[workload])
        with found.honest.baseline(Setting("default")) as baseline:
            for name in only or found.names():
                with found.server(name) as server:
                    responses: list[JudgeResponse] = []
                    for _ in range(rounds):
                        responses.append(found.judge(server, baseline, stack=name.startswith("stack")))
                        for check in responses[-1].checks:
                            told = f"{check.reason.value:24} {check.seconds:6.2f} s  {check.message}"
                            print(f"  {name} {check.name:22} {told}", flush=True)
                honest = name in ("stack", "vllm")
                record.add(*rows(f"gates/judge/{workload}", name, honest, responses))


if __name__ == "__main__":
    main()
