"""Start-up time and memory of a stack against vLLM, at the same capacity of the key/value cache.

Each server is started alone, in turns, from a warm page cache: seconds from the start of the process to the first 200 of
`/health`. Memory is the proportional set size of the whole process tree after 16 requests at once. vLLM fills its cache with
zeros when it starts; the stack's grows as it is used, so a second row charges the stack with its whole cache on top.

    python -m benchmarks.start_up [--size 52m] [--rounds 3]
"""

import argparse
import tempfile
from pathlib import Path

import psutil

from benchmarks.support.arms import Envelope, Workbench, vllm_settings
from benchmarks.support.record import Bench, median_row
from sartor_agents.backends.playbook import facts
from sartor_agents.measurement.messages import ChatParameters, ChatScenario
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.run.servers import RunningServer

START_SHARE, MEMORY_SHARE = 0.2, 1 / 3
KV_GIB = 1
BF16_BYTES = 2
LOAD = ChatScenario(parameters=ChatParameters(concurrencies=(16,), output_tokens=32))


def tree_bytes(server: RunningServer) -> int:
    """Proportional set size of the server's process tree, without the guard above it."""
    return sum(p.memory_full_info().pss for p in psutil.Process(server.process.pid).children(recursive=True))


def bench(record: Bench, folder: Path, size: str, rounds: int) -> None:
    model_len = 2048
    probe = Workbench(folder, size)
    model = facts.model_spec(probe.model_dir)
    token_bytes = 2 * model["LAYERS"] * model["KV_HEADS"] * model["HEAD_DIM"] * BF16_BYTES
    sequences = (KV_GIB << 30) // (token_bytes * model_len)
    work = Workbench(folder, size, Envelope(model_len=model_len, concurrency=sequences))
    cache_bytes = sequences * model_len * token_bytes
    load = MeasurementPolicy.quick(window_seconds=2.0, maximum_contention=0.95)
    setting = next(s for s in vllm_settings("chat")[0] if s.environment == {})
    recipes = {"serving-core": {"STEP_TOKENS": 512}, "model-loading": {}, "native-decoder": {"THREADS": 1}}
    work.compose("chat", recipes)
    starts: dict[str, list[float]] = {"stack": [], "vllm": []}
    memory: dict[str, list[float]] = {"stack": [], "vllm": []}
    full: dict[str, list[float]] = {"stack": [], "vllm": []}
    for number in range(rounds + 1):
        for name, server in (("stack", work.stack("chat", recipes)), ("vllm", work.baseline(setting, kv_gib=KV_GIB))):
            with server as running:
                work.alone(running, LOAD, load)
                used = tree_bytes(running)
                print(f"  {name}: ready in {running.start_seconds:.1f} s, {used / 2**30:.2f} GiB", flush=True)
                if number:  # the first round fills caches
                    starts[name].append(running.start_seconds)
                    memory[name].append(used / 2**30)
                    full[name].append((used + (cache_bytes if name == "stack" else 0)) / 2**30)
    for what, unit, values, target, note in (
        ("ready", "s", starts, START_SHARE, "to the first 200 of /health"),
        ("memory", "GiB", memory, MEMORY_SHARE, f"room for a cache of {KV_GIB} GiB, 16 requests at once"),
        (
            "memory-cache-full",
            "GiB",
            full,
            MEMORY_SHARE,
            f"{cache_bytes / 2**30:.2f} GiB of cache added to the stack's",
        ),
    ):
        ratios = [mine / theirs for mine, theirs in zip(values["stack"], values["vllm"], strict=True)]
        record.add(
            median_row(f"run/{what}/{size}/vs-vllm", "ratio", "lower", ratios, target, f"{note}; {setting.name}")
        )
        for name, seen in values.items():
            record.add(median_row(f"run/{what}/{size}/{name}", unit, "lower", seen, None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=("52m", "500m"), help="repeatable; default: both")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sartor-bench-") as folder:
        for size in options.size or ("52m", "500m"):
            bench(Bench("start_up", size), Path(folder), size, options.rounds)


if __name__ == "__main__":
    main()
