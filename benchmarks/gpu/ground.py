"""The ground of `benchmarks.support.arms` on a GPU: the CUDA recipe, vLLM where it can be imported (else `transformers`),
the device's shares, and the judge's reference on the device. On a processor the same with reference kernels, for dry runs.
"""

import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.gpu.memory import shares
from benchmarks.gpu.models import Model
from benchmarks.gpu.remote import Opened
from benchmarks.support.arms import Envelope, Ground
from sartor_agents.baselines import TransformersEngine, VllmEngine
from sartor_agents.baselines.environment import VllmEnvironment
from sartor_agents.baselines.find import engine_folders
from sartor_agents.baselines.grid import cuda_grid
from sartor_agents.judge.reference_check import Checker
from sartor_agents.run.engines import Engine, Setting
from sartor_agents.run.process import DEVICES
from sartor_skills.catalog import Scalar

OUTPUT_ROWS = 600
"""Rows of logits that the stack keeps at most: its graphs' and those of its widest step."""
JUDGED = {"cuda": 12, "cpu": 4}
JUDGING_SECONDS = 300.0


@dataclass(frozen=True)
class Baseline:
    """Name, version, why it is not vLLM (or None), and its settings without and with n-gram speculation."""

    engine: Engine
    plain: tuple[Setting, ...]
    drafted: tuple[Setting, ...]

    @property
    def words(self) -> str:
        reason = self.engine.fallback_reason
        return f"{self.engine.name} {self.engine.version}" + (f" ({reason})" if reason else "")


def ground(
    model: Model, model_dir: Path, envelope: Envelope, device: torch.device, scenario: str, home: Path, total: int
) -> tuple[Ground, Baseline]:
    """What the servers stand on, and the baseline with its settings. `total`: bytes of the device's memory.

    Nothing here touches the device (see `remote`). Raises `TooSmallError`.
    """
    arguments: tuple[str, ...] = ()
    alone = False
    if device.type == "cuda":
        cache = envelope.concurrency * envelope.model_len * model.token_bytes
        found = shares(total, model.weight_bytes, cache, OUTPUT_ROWS * model.shape.vocab * 8)
        alone = found.judged_alone
        arguments = ("--gpu-memory-utilization", str(found.utilization), "--max-num-seqs", str(envelope.concurrency))
    baseline = _baseline(model_dir, envelope, device, scenario, arguments, home)
    opened = Opened(functools.partial(open_reference, device=device.type))
    always: Mapping[str, Mapping[str, Scalar]] = {"cuda-decoder": {"DEVICE": device.type}}
    made = Ground(
        "cuda", model_dir, baseline.engine, always, opened, alone, JUDGING_SECONDS, JUDGED[device.type], opened.release
    )  # fmt: skip
    return made, baseline


def open_reference(model_dir: Path, *, device: str) -> Checker:
    from sartor_agents.judge.reference_device import DeviceReference

    return DeviceReference(model_dir, device)


def _baseline(
    model_dir: Path, envelope: Envelope, device: torch.device, scenario: str, arguments: tuple[str, ...], home: Path
) -> Baseline:
    own = inherited()
    if device.type == "cuda" and find_spec("vllm") is not None:
        environment = VllmEnvironment(Path(sys.executable), _version("vllm"))
        engine = VllmEngine(environment, model_dir, "bench", envelope.model_len, (), *engine_folders())
        settings = [Setting(s.name, s.arguments, own) for s in cuda_grid(scenario, arguments=arguments)]
        drafted = tuple(s for s in settings if "--speculative-config" in s.arguments)
        return Baseline(engine, tuple(s for s in settings if s not in drafted), drafted)
    reason = "vLLM cannot be imported here" if device.type == "cuda" else "a dry run"
    fallback = TransformersEngine(
        model_dir, "bench", "bfloat16", home, reason, device.type, envelope.model_len, own
    )  # fmt: skip
    return Baseline(fallback, tuple(fallback.settings()), ())


def inherited() -> dict[str, str]:
    """The devices, and where this process finds its packages: a bare machine has nothing installed."""
    found = {name: os.environ[name] for name in DEVICES if name in os.environ}
    return {**found, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
