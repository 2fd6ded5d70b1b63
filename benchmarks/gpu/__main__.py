"""`make bench-gpu ARGS="--minutes 25"`, or `python -m benchmarks.gpu`: see the package."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import DRY_STEPS, STEPS, Ledger, OtherDeviceError, Status, Step, run_all
from benchmarks.gpu.report import write
from benchmarks.support.record import ROOT, describe

_REPORT_SECONDS = 20.0  # kept back from the time given, for the last file


PACKAGES = {
    "aiohttp": "aiohttp", "httptools": "httptools", "jinja2": "jinja2", "libcst": "libcst", "numpy": "numpy",
    "prometheus_client": "prometheus-client", "psutil": "psutil", "pyarrow": "pyarrow", "pydantic": "pydantic",
    "ruff": "ruff", "safetensors": "safetensors", "scipy": "scipy", "tokenizers": "tokenizers", "tomli_w": "tomli-w",
    "torch": "torch", "transformers": "transformers", "triton": "triton", "uvicorn": "uvicorn", "uvloop": "uvloop",
    "yaml": "pyyaml",
}  # fmt: skip
"""What is imported on the way, and the distributions that have it. Without those of serving kernels are measured still."""


def missing(found: Callable[[str], object] = find_spec) -> list[str]:
    """Distributions that this Python lacks."""
    return [name for module, name in PACKAGES.items() if found(module) is None]


def run_step(
    step: Step, seconds: float, folder: Path, argv: list[str] | None = None, *, extra: Sequence[str] = ()
) -> tuple[Status, Mapping[str, Any]]:
    """Run a step as a process of its own; what it printed last is kept when it fails. `argv`: another command, for tests;
    `extra`: more arguments of the real one."""
    out = folder / f".out-{step.name}.json"
    out.unlink(missing_ok=True)
    log = folder / f"{step.name}.log"
    command = argv
    environment = dict(os.environ)
    if command is None:
        work = folder / f"work-{step.name}"
        command = [sys.executable, "-m", "benchmarks.gpu.step", step.name, "--folder", str(work), *extra]
        command += ["--seconds", f"{seconds:.0f}"]
        if "cpu" in extra:
            environment["TRITON_INTERPRET"] = "1"  # before Triton is imported, or never
    print(f"{step.name}: up to {seconds:.0f} s", flush=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, "--out", str(out)], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment,
        )  # fmt: skip
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return "timeout", {"message": f"did not end within {seconds:.0f} s", "log": _tail(log)}
        except BaseException:
            _end(process)
            raise
    if code != 0 or not out.is_file():
        tail = _tail(log)
        print(f"{step.name}: failed with exit code {code}: {tail[-1] if tail else ''}", flush=True)
        return "failed", {"message": f"exit code {code}", "log": tail}
    content = json.loads(out.read_text(encoding="utf-8"))
    out.unlink()
    return "done", content


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the step and everything that it started: they have a process group of their own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when every step that was tried has succeeded, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="proves and times the CUDA path")
    parser.add_argument("--minutes", type=float, default=30.0, help="ends by itself within this time (default 30)")
    parser.add_argument(
        "--out", type=Path, default=None, help="results (default runs/bench-gpu); a second run goes on there"
    )
    parser.add_argument(
        "--models", type=Path, default=None, help="where checkpoints are kept (default: where there is room)"
    )
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda",
        help="cpu: a dry run of the same path with a tiny model and reference kernels; it measures no device",
    )  # fmt: skip
    parser.add_argument(
        "--steps", nargs="*", default=None, help=f"only these: {', '.join(step.name for step in (*STEPS, *DRY_STEPS))}"
    )
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/gpu.json as well")
    options = parser.parse_args(arguments)
    dry = options.device == "cpu"
    plan = DRY_STEPS if dry else STEPS
    if dry and options.record:
        parser.error("--record is for measurements on a GPU; a dry run measures nothing")
    out: Path = options.out or ROOT / "runs" / ("bench-gpu-dry" if dry else "bench-gpu")
    names = {step.name for step in plan}
    unknown = sorted(set(options.steps or ()) - names)
    if unknown:
        parser.error(f"no step {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
    steps = [step for step in plan if options.steps is None or step.name in options.steps]
    if lacking := missing():
        print(
            f"this Python lacks {', '.join(lacking)}; steps that need them will say so. Where there is a network: "
            f"pip download -d wheels {' '.join(lacking)}; here: pip install --no-index --find-links wheels …",
            flush=True,
        )
    begun = time.monotonic()
    try:
        ledger = Ledger.open(out, options.device)
    except OtherDeviceError as error:
        parser.error(str(error))
    extra = ["--device", options.device]
    if options.models is not None:
        extra += ["--models", str(options.models.resolve())]
    tried = run_all(
        steps,
        ledger,
        lambda step, seconds: run_step(step, seconds, out, extra=extra),
        seconds=60 * options.minutes - _REPORT_SECONDS,
        clock=time.monotonic,
    )
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
    seconds = time.monotonic() - begun
    for row in write(ledger.results, out, seconds=seconds, command=command, record=options.record, dry=dry):
        print(describe(row), flush=True)
    for step in steps:
        print(f"{step.name:24} {ledger.status(step.name) or 'not run'}")
    return 0 if all(ledger.status(name) == "done" for name in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
