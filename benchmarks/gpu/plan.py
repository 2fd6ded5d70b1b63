"""What is run in which order within a time given, and what a later run has left to do. Nothing here knows of GPUs."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "failed", "timeout"]


@dataclass(frozen=True)
class Step:
    """A process to run: `python -m benchmarks.gpu.step NAME`. `seconds` is what it is expected to take at most.

    It is left out while one of `after` has not succeeded.
    """

    name: str
    seconds: float
    after: tuple[str, ...] = ()


STEPS = (
    Step("device", 60),
    Step("kernels-8b", 150, ("device",)),
    Step("checkpoint-1b", 60, ("device",)),
    Step("gate_edit-1b", 120, ("checkpoint-1b",)),
    Step("gate_chat-1b", 120, ("checkpoint-1b",)),
    Step("checkpoint-32b", 240, ("device",)),
    Step("decode-32b", 120, ("checkpoint-32b",)),
    Step("edit-32b", 600, ("gate_edit-1b", "checkpoint-32b")),
    Step("checkpoint-8b", 90, ("device",)),
    Step("decode-8b", 60, ("checkpoint-8b",)),
    Step("chat-8b", 480, ("gate_chat-1b", "checkpoint-8b")),
    Step("ngram-32b", 600, ("edit-32b",)),
    Step("kernels-32b", 150, ("device",)),
)
"""The most valuable first: are the kernels right, is the stack right, then the headline figures against their baselines."""

DRY_STEPS = (
    Step("device", 60),
    Step("checkpoint-tiny", 120, ("device",)),
    Step("kernels-tiny", 400, ("device",)),
    Step("decode-tiny", 120, ("checkpoint-tiny",)),
    Step("gate_edit-tiny", 200, ("checkpoint-tiny",)),
    Step("gate_chat-tiny", 200, ("checkpoint-tiny",)),
    Step("edit-tiny", 400, ("gate_edit-tiny",)),
    Step("chat-tiny", 400, ("gate_chat-tiny",)),
)
"""The same path on a processor, with a tiny checkpoint: what it gives says nothing about any device."""


class OtherDeviceError(Exception):
    """The folder of results belongs to another kind of device."""


class CannotRunError(Exception):
    """A step cannot be run on this machine; the message says why."""


@dataclass
class Ledger:
    """What has been run, one JSON file a step in `folder`. A step that failed is tried again by the next run."""

    folder: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    @classmethod
    def open(cls, folder: Path, device: str) -> "Ledger":
        """Read what earlier runs left. A file that was cut off by a crash counts as not there.

        Raises `OtherDeviceError` for a folder of another kind of device: a dry run and a measurement never meet.
        """
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / ".device"
        if not mark.is_file():
            if any(folder.glob("step-*.json")):
                raise OtherDeviceError(f"{folder} holds steps and does not say of which device; give another --out")
            mark.write_text(device + "\n", encoding="utf-8")
        kept = mark.read_text(encoding="utf-8").strip()
        if kept != device:
            raise OtherDeviceError(f"{folder} holds results of --device {kept}, this is {device}; give another --out")
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("step-*.json")):
            try:
                found[path.stem.removeprefix("step-")] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue
        return cls(folder, found)

    def status(self, name: str) -> Status | None:
        return self.results[name]["status"] if name in self.results else None

    def keep(self, name: str, status: Status, seconds: float, content: Mapping[str, Any]) -> None:
        """Write the result of a step, whole or not at all."""
        self.results[name] = {"status": status, "seconds": round(seconds, 1), **content}
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".step-{name}.json"
        part.write_text(json.dumps(self.results[name], indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / f"step-{name}.json")


def next_step(steps: Iterable[Step], ledger: Ledger, tried: Sequence[str], left: float) -> Step | None:
    """The first step that is not done, may be run, and is expected to end within `left` seconds; None at the end.

    `tried`: steps of this run, none of which is repeated in it.
    """
    for step in steps:
        if ledger.status(step.name) == "done" or step.name in tried or step.seconds > left:
            continue
        if any(ledger.status(name) != "done" for name in step.after):
            continue
        return step
    return None


Runner = Callable[[Step, float], tuple[Status, Mapping[str, Any]]]
"""Runs one step within so many seconds."""


def run_all(
    steps: Sequence[Step], ledger: Ledger, run: Runner, *, seconds: float, clock: Callable[[], float]
) -> list[str]:
    """Run what fits into `seconds`; the names of the steps that were tried. Every result is kept as soon as it is there."""
    begun = clock()
    tried: list[str] = []
    while (step := next_step(steps, ledger, tried, seconds - (clock() - begun))) is not None:
        tried.append(step.name)
        started = clock()
        status, content = run(step, min(1.5 * step.seconds, seconds - (started - begun)))
        ledger.keep(step.name, status, clock() - started, content)
    return tried
