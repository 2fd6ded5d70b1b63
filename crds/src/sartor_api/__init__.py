"""Sartor's API: the one definition of its resources, and the pure decision core of a search."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sartor_api.agent_profile import AgentProfile as AgentProfile
    from sartor_api.agent_profile import AgentProfileSpec as AgentProfileSpec
    from sartor_api.base import API_VERSION as API_VERSION
    from sartor_api.base import GROUP as GROUP
    from sartor_api.base import VERSION as VERSION
    from sartor_api.base import broken_transitions as broken_transitions
    from sartor_api.conditions import ConditionType as ConditionType
    from sartor_api.conditions import Reason as Reason
    from sartor_api.hardware_target import LOCAL as LOCAL
    from sartor_api.hardware_target import HardwareTarget as HardwareTarget
    from sartor_api.hardware_target import HardwareTargetSpec as HardwareTargetSpec
    from sartor_api.load import KINDS as KINDS
    from sartor_api.load import LoadError as LoadError
    from sartor_api.load import dump_yaml as dump_yaml
    from sartor_api.load import load_file as load_file
    from sartor_api.load import load_text as load_text
    from sartor_api.meta import Condition as Condition
    from sartor_api.meta import ObjectMeta as ObjectMeta
    from sartor_api.meta import Resource as Resource
    from sartor_api.problems import Problem as Problem
    from sartor_api.quantities import DecimalString as DecimalString
    from sartor_api.quantities import Duration as Duration
    from sartor_api.quantities import Percentage as Percentage
    from sartor_api.quantities import Quantity as Quantity
    from sartor_api.quantities import Threshold as Threshold
    from sartor_api.serving_candidate import ServingCandidate as ServingCandidate
    from sartor_api.serving_candidate import ServingCandidateSpec as ServingCandidateSpec
    from sartor_api.serving_rollout import ServingRollout as ServingRollout
    from sartor_api.serving_rollout import ServingRolloutSpec as ServingRolloutSpec
    from sartor_api.serving_synthesis import ServingSynthesis as ServingSynthesis
    from sartor_api.serving_synthesis import ServingSynthesisSpec as ServingSynthesisSpec
    from sartor_api.synthesis_run import SynthesisRun as SynthesisRun
    from sartor_api.synthesis_run import SynthesisRunSpec as SynthesisRunSpec

_HOME = {
    "AgentProfile": "agent_profile",
    "AgentProfileSpec": "agent_profile",
    "API_VERSION": "base",
    "GROUP": "base",
    "VERSION": "base",
    "broken_transitions": "base",
    "ConditionType": "conditions",
    "Reason": "conditions",
    "LOCAL": "hardware_target",
    "HardwareTarget": "hardware_target",
    "HardwareTargetSpec": "hardware_target",
    "KINDS": "load",
    "LoadError": "load",
    "dump_yaml": "load",
    "load_file": "load",
    "load_text": "load",
    "Condition": "meta",
    "ObjectMeta": "meta",
    "Resource": "meta",
    "Problem": "problems",
    "DecimalString": "quantities",
    "Duration": "quantities",
    "Percentage": "quantities",
    "Quantity": "quantities",
    "Threshold": "quantities",
    "ServingCandidate": "serving_candidate",
    "ServingCandidateSpec": "serving_candidate",
    "ServingRollout": "serving_rollout",
    "ServingRolloutSpec": "serving_rollout",
    "ServingSynthesis": "serving_synthesis",
    "ServingSynthesisSpec": "serving_synthesis",
    "SynthesisRun": "synthesis_run",
    "SynthesisRunSpec": "synthesis_run",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first asked for: a role process that needs records only starts at once."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
