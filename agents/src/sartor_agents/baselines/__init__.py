"""The engines that a stack has to beat: vLLM in an environment of its own, and `transformers` where vLLM cannot be had."""

from sartor_agents.baselines.environment import BaselineEnvironmentError, VllmEnvironment, ensure_environment
from sartor_agents.baselines.find import device_engine, find_engine
from sartor_agents.baselines.transformers_engine import TransformersEngine
from sartor_agents.baselines.vllm import VllmEngine

__all__ = [
    "BaselineEnvironmentError",
    "TransformersEngine",
    "VllmEngine",
    "VllmEnvironment",
    "device_engine",
    "ensure_environment",
    "find_engine",
]
