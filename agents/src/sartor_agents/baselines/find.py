"""Which engine a run measures against, on this machine."""

import os
import tempfile
from pathlib import Path
from typing import cast

from sartor_agents.baselines import grid as grids
from sartor_agents.baselines.environment import BaselineEnvironmentError, existing_environment
from sartor_agents.baselines.transformers_engine import TransformersEngine
from sartor_agents.baselines.vllm import VllmEngine
from sartor_agents.cache import cache_folder
from sartor_agents.run.engines import Engine
from sartor_agents.run.hardware import local_hardware
from sartor_api.search.records import RunSpec


def find_engine(spec: RunSpec, model_dir: Path) -> Engine:
    """vLLM when its environment is there and the run asks for it, else `transformers` with the reason in the record."""
    served_name = str(spec.model.get("name", model_dir.name))
    hardware = local_hardware()
    home, cache = engine_folders()
    wanted = str(spec.baseline.get("engine", "vllm"))
    if wanted == "transformers":
        return TransformersEngine(model_dir, served_name, spec.dtype, home)
    try:
        environment = existing_environment(cache_folder())
        reason = "vLLM's environment was not made (sartor baseline setup)"
    except BaselineEnvironmentError as error:
        environment, reason = None, str(error)
    if environment is None:
        return TransformersEngine(model_dir, served_name, spec.dtype, home, reason)
    arguments = spec.baseline.get("arguments", ())
    settings = grids.grid(
        spec.scenario,
        cast(grids.Tuning, spec.baseline.get("tuning", "documentedGrid")),
        arguments=[str(argument) for argument in cast(list[object], arguments)],
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


def engine_folders() -> tuple[Path, Path]:
    """(home, folder of what was compiled) of an engine. In a pod `$SARTOR_ENGINE_CACHE` may outlive it, a home does not."""
    if given := os.environ.get("SARTOR_ENGINE_CACHE"):
        return Path(tempfile.gettempdir()) / "engine", Path(given)
    home = cache_folder() / "baseline-home"
    return home, home / ".cache"
