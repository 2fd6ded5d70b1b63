"""Scenarios: contract, workload, objective, correctness, envelope. `open_scenario` makes the one that is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from sartor_agents.measurement.messages import ChatScenario, CodeEditScenario, ScenarioSpec
from sartor_agents.measurement.tokens import TokenCounter, TokenizerMissingError

from .base import Envelope, Metric, Oracle, Scenario, ScenarioError, Stage
from .chat import Chat, ChatTemplate
from .code_edit import CodeEdit
from .text import open_text
from .trace import read_trace

__all__ = [
    "Envelope",
    "Metric",
    "Oracle",
    "Scenario",
    "ScenarioError",
    "Stage",
    "open_scenario",
    "scenario_spec",
]

_SPEC: TypeAdapter[ChatScenario | CodeEditScenario] = TypeAdapter(ScenarioSpec)
NAMES = ("chat", "code-edit")


def scenario_spec(name: str, parameters: Mapping[str, Any]) -> ChatScenario | CodeEditScenario:
    """The typed scenario from its name and parameters in either spelling; parameters that are None keep their default.

    Raises `ScenarioError` naming the field and what is allowed.
    """
    if name not in NAMES:
        raise ScenarioError(f"scenario {name!r} cannot be measured yet; there are {', '.join(NAMES)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    if name == "code-edit":
        for field in ("request_rates", "find_peak", "replay_speed"):
            spelled = to_camel(field)
            if given.pop(field, None) or given.pop(spelled, None):
                raise ScenarioError(f"code-edit has no {spelled}; its objective is timed request by request")
    try:
        return _SPEC.validate_python({"name": name, "parameters": given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        raise ScenarioError(f"{where}: {first['msg']} (got {first['input']!r})") from None


def open_scenario(
    spec: ChatScenario | CodeEditScenario, model_dir: Path, seed: str, *, trace: Path | None = None
) -> tuple[Scenario, TokenCounter]:
    """The scenario over the text of `model_dir`, and the token counter that fits it. Raises `ScenarioError`."""
    try:
        counter = TokenCounter(model_dir)
    except TokenizerMissingError as error:
        raise ScenarioError(str(error)) from None
    text = open_text(model_dir, counter, trace=trace)
    scenario: Scenario
    match spec:
        case ChatScenario(parameters=chat):
            if chat.replay_speed is not None and trace is None:
                raise ScenarioError("replaySpeed needs a trace (workload.traceRef); remove it or give one")
            replayed = read_trace(trace) if trace is not None and chat.replay_speed is not None else ()
            wanted = chat.api == "chat" or any(request.messages for request in replayed)
            scenario = Chat(chat, text, seed, ChatTemplate.load(model_dir, text) if wanted else None, replayed)
        case CodeEditScenario(parameters=edit):
            scenario = CodeEdit(edit, text, seed)
    counter.tolerance = scenario.count_tolerance
    return scenario, counter
