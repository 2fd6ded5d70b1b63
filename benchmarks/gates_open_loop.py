"""Open loop and sustainable peak on real vLLM: Poisson arrivals, a replayed trace, and the sweep, over the 52 M checkpoint.

No comparison: one server, measured as the evaluator measures a baseline, to show that the ways of loading it agree with each
other. At a low rate the time to the first token is about that of one request alone; a rate above what the closed loop
reached at its peak must not be attained. The trace is made here, bursty on purpose (gaps with a coefficient of variation
of 2) with prompts and lengths of its own, in the format in which an owner's trace would come.

    python -m benchmarks.gates_open_loop --window 15
"""

import argparse
import json
import secrets
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.support.arms import Workbench
from benchmarks.support.record import Bench, Row, median_row
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import (
    ChatParameters,
    ChatScenario,
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.sample_file import read_samples
from sartor_agents.measurement.samples import Sample
from sartor_agents.measurement.slo import ServiceLevel
from sartor_agents.run.engines import Setting
from sartor_agents.run.servers import RunningServer
from sartor_agents.scenarios import open_scenario

LEVEL = ServiceLevel(ttft=0.5, inter_token=0.05, end_to_end=5.0)
RATES = (2.0, 6.0, 40.0)
SPREAD = 2.0  # coefficient of variation of the trace's gaps


def trace(model_dir: Path, path: Path, seconds: float, rate: float) -> None:
    """Requests over `seconds`: gamma gaps, prompts of the chain's own words, answers of 8 to 128 tokens."""
    rng = np.random.default_rng(7)
    text, _ = open_scenario(ChatScenario(parameters=ChatParameters(spread=0.8)), model_dir, "00" * 32)
    at = 0.0
    lines: list[str] = []
    for request in islice(text.stream(text.stages[0], "accuracy", 99), round(seconds * rate)):
        at += float(rng.gamma(1 / SPREAD**2, SPREAD**2 / rate))
        body = {"prompt": request.body["prompt"], "max_tokens": int(rng.integers(8, 129))}
        lines.append(json.dumps({"at": round(at, 4), "body": body}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(
    server: RunningServer, model_dir: Path, folder: Path, parameters: ChatParameters, policy: MeasurementPolicy,
    path: Path | None = None,
) -> tuple[EvaluateResponse, list[Sample]]:  # fmt: skip
    request = EvaluateRequest(
        mode="single", candidate=Endpoint(url=server.url, pid=server.process.pid, accepts_prediction=False),
        model_dir=model_dir, scenario=ChatScenario(parameters=parameters), policy=policy, seed=secrets.token_hex(32),
        output_dir=folder / secrets.token_hex(4), trace=path,
    )  # fmt: skip

    def say(event: str, **fields: object) -> None:
        print(f"  {event}: {fields.get('message', '')}", flush=True)

    response = uvloop.run(evaluate(request, verify=lambda *_: None, progress=say))
    if response.objective is None or response.samples is None:
        raise SystemExit(f"could not be measured: {response.reason.value}: {response.message}")
    return response, list(read_samples(response.samples))


def rows(response: EvaluateResponse, samples: list[Sample], condition: str) -> list[Row]:
    """Figures of one open-loop condition."""
    scored = [s for s in samples if s.condition == condition and s.purpose == "scored"]
    arm = response.arms[condition]
    late = sorted(s.sent - s.scheduled for s in scored)
    assert arm.attainment is not None and arm.goodput is not None
    note = (
        f"{len(scored)} requests in {len(response.rates[condition]['baseline'])} windows; within the service level "
        f"(ttft {LEVEL.ttft} s, mean gap {LEVEL.inter_token} s, end {LEVEL.end_to_end} s) {arm.attainment:.1%}, goodput "
        f"{arm.goodput:.2f} requests/s; requests left at most {late[-1] * 1e3:.1f} ms after they were due"
    )
    bar = f"gates/open-loop/vllm-52m/{condition}"
    return [
        median_row(f"{bar}/ttft", "ms", "lower", [1e3 * s.ttft for s in scored if s.ok], None, note),
        median_row(f"{bar}/end-to-end", "ms", "lower", [1e3 * s.latency for s in scored if s.ok], None),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Open loop and peak on vLLM.")
    parser.add_argument("--window", type=float, default=15.0)
    arguments = parser.parse_args()
    bench = Bench("gates_open_loop")
    policy = MeasurementPolicy(
        single_windows=2, window_seconds=arguments.window, service_level=LEVEL, maximum_contention=1.0
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = Workbench(folder, "52m")
        with work.baseline(Setting("default", (), {})) as server:
            alone = ChatParameters(concurrencies=(1,), request_rates=RATES)
            response, samples = measure(server, work.model_dir, folder, alone, policy)
            bench.add(*(row for rate in RATES for row in rows(response, samples, f"rate{rate:g}")))
            path = folder / "trace.jsonl"
            trace(work.model_dir, path, 4 * arguments.window, 4.0)
            replayed = ChatParameters(concurrencies=(1,), replay_speed=1.0)
            response, samples = measure(server, work.model_dir, folder, replayed, policy, path)
            bench.add(*rows(response, samples, "replay"))
            short = policy.model_copy(update={"window_seconds": 3.0})
            swept = ChatParameters(concurrencies=(1,), find_peak=True)
            response, _ = measure(server, work.model_dir, folder, swept, short)
    peak = response.peaks["baseline"]
    found = next(condition for condition in response.arms if condition.startswith("peak-"))
    note = f"limited by {peak.limited_by}; {response.arms[found].metric:.0f} tokens/s there"
    low = high = float(peak.concurrency)
    bench.add(
        Row("gates/peak/vllm-52m/concurrency", "requests", "higher", None, low, low, high, 1, note),
        median_row(
            "gates/peak/vllm-52m/tokens", "tokens/s", "higher", list(response.rates[found]["baseline"]), None,
            f"at concurrency {peak.concurrency}; at 1: {response.arms['c1'].metric:.0f}",
        ),
    )  # fmt: skip


if __name__ == "__main__":
    main()
