"""One step in a process of its own: `python -m benchmarks.gpu.step NAME --out FILE`. Writes what was measured as JSON.

Names are `WHAT-SIZE` as in `plan.STEPS`. A step ends with a message and exit code 1 when it cannot be run here.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import MODELS, checkpoint, folder_with_room
from benchmarks.gpu.plan import CannotRunError
from benchmarks.support.record import ROOT

ENDING_SECONDS = 30.0
"""Kept back of a step's time: ending the servers, and what was imported before the step began to count."""
KERNEL_CASES = {
    "cuda": (
        {"rows": 64, "context": 2048, "drafts": 0, "splits": 1},
        {"rows": 1, "context": 8192, "drafts": 16, "splits": 16},
    ),
    "cpu": ({"rows": 2, "context": 40, "drafts": 1, "splits": 2},),
}


@dataclass(frozen=True)
class Job:
    """What a step is given: the size of its model, where it works, and the seconds that it has."""

    size: str
    folder: Path
    device: torch.device
    places: tuple[Path, ...]
    seconds: float

    def model_dir(self) -> Path:
        model = MODELS[self.size]
        return checkpoint(model, folder_with_room(model.weight_bytes, self.places, [self._name]), self.device)

    @property
    def _name(self) -> str:
        return f"chain-{self.size}-{self.device.type}"

    def site(self) -> Any:
        from benchmarks.gpu.served import Site

        begun = time.monotonic()
        # Made elsewhere if it is gone: who serves and measures stays off the device (`remote`).
        context = multiprocessing.get_context("spawn")
        making = context.Process(target=self.model_dir)
        making.start()
        making.join()
        if making.exitcode:
            raise CannotRunError(
                f"the checkpoint could not be made (exit code {making.exitcode}); the lines above say why"
            )
        return Site(self.folder, self.device, self.size, self.model_dir(), begun + self.seconds - ENDING_SECONDS)


def device_step(job: Job) -> dict[str, Any]:
    if job.device.type == "cpu":
        # Rates that no device has: what is derived from them shows at once that it is nothing.
        return {
            "name": "a processor (dry run)", "torch": torch.__version__, "cuda": None, "read_bytes_per_second": 1.0,
            "copy_bytes_per_second": 1.0, "bfloat16_flops": 1.0, "launch_seconds": 1.0,
        }  # fmt: skip
    from sartor_agents.measurement.device_probe import device_rates

    return {**device_rates(job.device), "triton": version("triton")}


def kernels_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.choice import unusable
    from benchmarks.gpu.roofline import compare

    found = compare(MODELS[job.size], job.device, KERNEL_CASES[job.device.type])
    if lost := unusable(found):
        raise CannotRunError(f"these kernels differ from their references, and PyTorch has none: {'; '.join(lost)}")
    return {"kernels": found}


def checkpoint_step(job: Job) -> dict[str, Any]:
    begun = time.perf_counter()
    place = job.model_dir()
    return {"path": str(place), "weight_bytes": MODELS[job.size].weight_bytes, "made_in": time.perf_counter() - begun}


def decode_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.decode import decode

    return {**decode(job.model_dir(), job.device), "step_bytes": MODELS[job.size].step_bytes}


def gate_edit_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.served import judged

    return judged(job.site(), "code-edit")


def gate_chat_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.served import judged

    return judged(job.site(), "chat")


def edit_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.served import edit

    return edit(job.site())


def ngram_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.served import edit

    return edit(job.site(), drafted=True)


def chat_step(job: Job) -> dict[str, Any]:
    from benchmarks.gpu.served import chat

    return chat(job.site())


STEPS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "device": device_step, "kernels": kernels_step, "checkpoint": checkpoint_step, "decode": decode_step,
    "gate_edit": gate_edit_step, "gate_chat": gate_chat_step, "edit": edit_step, "ngram": ngram_step, "chat": chat_step,
}  # fmt: skip


def places(given: Path | None) -> tuple[Path, ...]:
    """Where checkpoints may lie, the best first: in memory they load fastest and need no disk."""
    if given is not None:
        return (given,)
    return Path("/dev/shm/sartor-bench"), ROOT / "runs" / "bench-models", Path("/tmp/sartor-bench")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.step", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args(arguments)
    what, _, size = options.name.partition("-")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"error: PyTorch {torch.__version__} sees no CUDA device here", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    job = Job(size, options.folder, device, places(options.models), options.seconds)
    try:
        result = STEPS[what](job)
    except ImportError as error:
        print(f"error: {error}; see docs/gpu.md for the packages that serving needs", file=sys.stderr)
        return 1
    except CannotRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    part = options.out.with_suffix(".part")
    part.write_text(json.dumps(result) + "\n", encoding="utf-8")
    part.replace(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
