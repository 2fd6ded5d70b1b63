"""`make bench-gpu ARGS="--minutes 25"`, or `python -m benchmarks.gpu`: see the package."""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import STEPS, Ledger, Status, Step, run_all
from benchmarks.gpu.report import write
from benchmarks.support.record import ROOT, describe

_REPORT_SECONDS = 20.0  # kept back from the time given, for the last file


def run_step(
    step: Step, seconds: float, folder: Path, argv: list[str] | None = None
) -> tuple[Status, Mapping[str, Any]]:
    """Run a step as a process of its own; what it printed last is kept when it fails. `argv`: another command, for tests."""
    out = folder / f".out-{step.name}.json"
    out.unlink(missing_ok=True)
    log = folder / f"{step.name}.log"
    command = argv or [sys.executable, "-m", "benchmarks.gpu.step", step.name]
    print(f"{step.name}: up to {seconds:.0f} s", flush=True)
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, "--out", str(out)], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
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
        "--out", type=Path, default=ROOT / "runs" / "bench-gpu", help="results; a second run goes on there"
    )
    parser.add_argument(
        "--steps", nargs="*", default=None, help=f"only these: {', '.join(step.name for step in STEPS)}"
    )
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/gpu.json as well")
    options = parser.parse_args(arguments)
    names = {step.name for step in STEPS}
    unknown = sorted(set(options.steps or ()) - names)
    if unknown:
        parser.error(f"no step {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
    steps = [step for step in STEPS if options.steps is None or step.name in options.steps]
    begun = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(options.out)
    tried = run_all(
        steps,
        ledger,
        lambda step, seconds: run_step(step, seconds, options.out),
        seconds=60 * options.minutes - _REPORT_SECONDS,
        clock=time.monotonic,
    )
    command = shlex.join(["python", "-m", "benchmarks.gpu", *(sys.argv[1:] if arguments is None else arguments)])
    for row in write(
        ledger.results, options.out, seconds=time.monotonic() - begun, command=command, record=options.record
    ):
        print(describe(row), flush=True)
    for step in steps:
        print(f"{step.name:24} {ledger.status(step.name) or 'not run'}")
    return 0 if all(ledger.status(name) == "done" for name in tried) else 1


if __name__ == "__main__":
    sys.exit(main())
