"""Which engine a run measures against, on this machine."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sartor_agents.baselines import grid as grids
from sartor_agents.baselines.environment import (
    BaselineEnvironmentError,
    Platform,
    VllmEnvironment,
    existing_environment,
)
from sartor_agents.baselines.transformers_engine import TransformersEngine
from sartor_agents.baselines.vllm import VllmEngine
from sartor_agents.cache import cache_folder
from sartor_agents.run.engines import Engine, Setting
from sartor_agents.run.hardware import local_hardware
from sartor_agents.run.placement import Placement
from sartor_agents.run.process import DEVICES
from sartor_api.search.records import RunSpec


def find_engine(spec: RunSpec, model_dir: Path, placement: Placement | None = None) -> Engine:
    """vLLM when its environment is there and the run asks for it, else `transformers` with the reason in the record.

    `placement`: the device that the engine shares with the stack. On platform `cuda` without one (a pod) it has the device
    that this process sees for itself.
    """
    environment, reason = _environment(spec, "cuda" if spec.platform == "cuda" else "cpu")
    if spec.platform == "cuda":
        return device_engine(_on_device(spec, model_dir, placement), model_dir, environment, reason)
    served_name = str(spec.model.get("name", model_dir.name))
    home, cache = engine_folders()
    if environment is None:
        return TransformersEngine(model_dir, served_name, spec.dtype, home, reason)
    hardware = local_hardware()
    settings = grids.grid(
        spec.scenario,
        _tuning(spec),
        arguments=_arguments(spec),
        cores=hardware.cores,
        native_bf16=any("avx512_bf16" in flag or "amx_bf16" in flag or flag == "bf16" for flag in hardware.cpu_flags),
    )
    return VllmEngine(
        environment=environment,
        model_dir=model_dir,
        served_name=served_name,
        max_model_len=spec.envelope.max_model_len,
        grid=settings,
        home=home,
        cache=cache,
    )


@dataclass(frozen=True)
class OnDevice:
    """How an engine is started on a device: for a run, or for a bench. `machine` is added to its environment."""

    served_name: str
    max_model_len: int
    settings: Sequence[Setting]
    machine: Mapping[str, str]
    dtype: str = "bfloat16"
    home: Path | None = None
    device: str = "cuda"


def device_engine(
    on: OnDevice, model_dir: Path, environment: VllmEnvironment | None, reason: str | None
) -> VllmEngine | TransformersEngine:
    """vLLM where there is an environment, else `transformers` on the device: a static cache, and steps that are compiled."""
    home, cache = engine_folders()
    if environment is None:
        return TransformersEngine(
            model_dir, on.served_name, on.dtype, on.home or home, reason, on.device, on.max_model_len, on.machine
        )
    return VllmEngine(
        environment=environment,
        model_dir=model_dir,
        served_name=on.served_name,
        max_model_len=on.max_model_len,
        grid=on.settings,
        home=home,
        cache=cache,
        machine=on.machine,
    )


def _environment(spec: RunSpec, platform: Platform) -> tuple[VllmEnvironment | None, str | None]:
    """vLLM's environment, or why there is none; neither where `transformers` was asked for."""
    if str(spec.baseline.get("engine", "vllm")) == "transformers":
        return None, None
    flag = "" if platform == "cpu" else f" --platform {platform}"
    try:
        found = existing_environment(cache_folder(), platform)
    except BaselineEnvironmentError as error:
        return None, str(error)
    return found, None if found is not None else f"vLLM's environment was not made (sartor baseline setup{flag})"


def _on_device(spec: RunSpec, model_dir: Path, placement: Placement | None) -> OnDevice:
    own = placement.vllm_arguments if placement is not None else ()
    return OnDevice(
        served_name=str(spec.model.get("name", model_dir.name)),
        max_model_len=spec.envelope.max_model_len,
        settings=grids.cuda_grid(spec.scenario, _tuning(spec), arguments=[*_arguments(spec), *own]),
        machine=inherited() | (dict(placement.access.environment) if placement is not None else {}),
        dtype=spec.dtype,
    )


def inherited() -> dict[str, str]:
    """What says which devices there are and where their libraries lie, as this process has it."""
    return {name: os.environ[name] for name in DEVICES if name in os.environ}


def _tuning(spec: RunSpec) -> grids.Tuning:
    return cast(grids.Tuning, spec.baseline.get("tuning", "documentedGrid"))


def _arguments(spec: RunSpec) -> list[str]:
    return [str(argument) for argument in cast(list[object], spec.baseline.get("arguments", ()))]


def engine_folders() -> tuple[Path, Path]:
    """(home, folder of what was compiled) of an engine. In a pod `$SARTOR_ENGINE_CACHE` may outlive it, a home does not."""
    if given := os.environ.get("SARTOR_ENGINE_CACHE"):
        return Path(tempfile.gettempdir()) / "engine", Path(given)
    home = cache_folder() / "baseline-home"
    return home, home / ".cache"
