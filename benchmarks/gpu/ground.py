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

from benchmarks.gpu.models import Model
from benchmarks.gpu.plan import CannotRunError
from benchmarks.gpu.remote import Opened
from benchmarks.support.arms import Envelope, Ground
from benchmarks.support.record import ROOT
from sartor_agents.baselines.environment import VllmEnvironment
from sartor_agents.baselines.find import OnDevice, device_engine
from sartor_agents.baselines.find import inherited as devices_here
from sartor_agents.baselines.grid import cuda_grid
from sartor_agents.judge.reference_check import Checker
from sartor_agents.run.candidates import ready_seconds
from sartor_agents.run.device import AS_IT_IS, Access
from sartor_agents.run.device_share import Needs, Shares, TooSmallError, shares, vllm_arguments
from sartor_agents.run.engines import Engine, Setting
from sartor_agents.run.sandbox import sandbox_program
from sartor_skills.catalog import Scalar

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

    Nothing here touches the device (see `remote`). Raises `CannotRunError` where both servers do not fit.
    """
    arguments: tuple[str, ...] = ()
    found: Shares | None = None
    if device.type == "cuda":
        needs = Needs.of(
            model.weight_bytes, tokens=envelope.concurrency * envelope.model_len, token_bytes=model.token_bytes,
            vocabulary=model.shape.vocab,
        )  # fmt: skip
        try:
            found = shares(total, needs)
        except TooSmallError as error:
            raise CannotRunError(str(error)) from error
        arguments = vllm_arguments(found, envelope.concurrency)
    baseline = _baseline(model_dir, envelope, device, scenario, arguments, home)
    opened = Opened(functools.partial(open_reference, device=device.type))
    always: Mapping[str, Mapping[str, Scalar]] = {"cuda-decoder": {"DEVICE": device.type}}
    made = Ground(
        "cuda", model_dir, baseline.engine, always, opened, found is not None and found.judged_alone, JUDGING_SECONDS,
        JUDGED[device.type], None if found is None else found.cache, stack_access(home.parent),
        ready_seconds(model.weight_bytes), opened.release,
    )  # fmt: skip
    return made, baseline


def stack_access(folder: Path) -> Access:
    """What a stack finds besides its own: packages that were brought to this machine and not installed, and kernels that
    another stack has compiled. A sandbox shows neither; there a stack has what is installed, and compiles for itself."""
    if sandbox_program() is not None:
        return AS_IT_IS
    brought = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    ours = [path for path in brought if not Path(path).resolve().is_relative_to(ROOT)]  # a stack imports nothing of it
    found = {"PYTHONPATH": os.pathsep.join(ours)} if ours else {}
    return Access(None, {**found, "TRITON_CACHE_DIR": str(folder.parent / "triton")})


def open_reference(model_dir: Path, *, device: str) -> Checker:
    """As a run has it on a device, also on the processor in a dry run."""
    from sartor_agents.judge.reference_device import DeviceReference

    return DeviceReference(model_dir, device)


def _baseline(
    model_dir: Path, envelope: Envelope, device: torch.device, scenario: str, arguments: tuple[str, ...], home: Path
) -> Baseline:
    settings = cuda_grid(scenario, arguments=arguments)
    on = OnDevice("bench", envelope.model_len, settings, inherited(), home=home, device=device.type)
    environment: VllmEnvironment | None = None
    reason: str | None = "a dry run"
    if device.type == "cuda":
        reason = "vLLM cannot be imported here"
        if find_spec("vllm") is not None:
            environment, reason = VllmEnvironment(Path(sys.executable), _version("vllm")), None
    engine = device_engine(on, model_dir, environment, reason)
    drafted = tuple(s for s in engine.settings() if "--speculative-config" in s.arguments)
    return Baseline(engine, tuple(s for s in engine.settings() if s not in drafted), drafted)


def inherited() -> dict[str, str]:
    """The devices, and where this process finds its packages: a bare machine has nothing installed."""
    return {**devices_here(), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
