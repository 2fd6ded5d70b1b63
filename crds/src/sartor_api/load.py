"""Reads resources from YAML files, as strictly as the API server would take them.

Everything that is wrong with a file is said at once, each with file, line, field and what is allowed::

    synthesis.yaml:7: spec.workload.scenario: "chta" is not allowed; allowed: chat, code-edit, …; did you mean "chat"?
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from sartor_api.agent_profile import AgentProfile
from sartor_api.base import API_VERSION
from sartor_api.hardware_target import HardwareTarget
from sartor_api.meta import Resource
from sartor_api.problems import Problem, did_you_mean, dotted, explain
from sartor_api.serving_candidate import ServingCandidate
from sartor_api.serving_rollout import ServingRollout
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_api.synthesis_run import SynthesisRun
from sartor_api.yaml_source import Document, InvalidYamlError, parse

KINDS: Mapping[str, type[Resource]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            ServingSynthesis,
            HardwareTarget,
            AgentProfile,
            SynthesisRun,
            ServingCandidate,
            ServingRollout,
        )
    }
)
"""The kinds of `sartor.dev/v1alpha1` by name."""

LARGEST_FILE = 4 * 1024 * 1024
"""Bytes; the API server takes no object above about 1.5 MiB."""


class LoadError(Exception):
    """A file could not be used; ``problems`` has everything that is wrong with it, in the order of its lines."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load_file(path: str | Path) -> list[Resource]:
    """The resources in a YAML file, in its order. Raises ``LoadError`` for whatever is wrong, reading included."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise LoadError([Problem(name, 0, "", "there is no such file")]) from None
    except IsADirectoryError:
        raise LoadError([Problem(name, 0, "", "is a folder; name a YAML file in it")]) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise LoadError([Problem(name, 0, "", f"cannot be read: {reason}")]) from error
    if len(content) > LARGEST_FILE:
        raise LoadError([Problem(name, 0, "", f"is larger than {LARGEST_FILE >> 20} MiB; no manifest is")])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise LoadError([Problem(name, line, "", "is not UTF-8 text; is it a YAML file?")]) from None
    return load_text(text, name)


def load_text(text: str, name: str = "<text>") -> list[Resource]:
    """The resources in YAML text; ``name`` stands for the file in messages. Raises ``LoadError``."""
    control = next((index for index, letter in enumerate(text) if letter < " " and letter not in "\t\n\r"), None)
    if control is not None:
        line = text.count("\n", 0, control) + 1
        raise LoadError(
            [Problem(name, line, "", f"has the control character U+{ord(text[control]):04X}; is it a YAML file?")]
        )
    resources: list[Resource] = []
    problems: list[Problem] = []
    try:
        for document in parse(text):
            resource = _resource(document, name, problems)
            if resource is not None:
                resources.append(resource)
    except InvalidYamlError as error:
        problems.append(Problem(name, error.line, "", error.reason))
    if not resources and not problems:
        problems.append(Problem(name, 0, "", "is empty; it should hold at least one resource of sartor.dev"))
    if problems:
        raise LoadError(sorted(problems))
    return resources


def _resource(document: Document, name: str, problems: list[Problem]) -> Resource | None:
    """The resource in a document; None, with its problems noted, if it is not a good one."""
    kind = _kind(document, name, problems)
    if kind is None:
        return None
    try:
        return kind.model_validate_json(json.dumps(document.data), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        problems.extend(
            Problem(name, document.line_of(path), dotted(path), message) for path, message in explain(error, kind)
        )
        return None


def _kind(document: Document, name: str, problems: list[Problem]) -> type[Resource] | None:
    def problem(path: str, message: str) -> None:
        problems.append(Problem(name, document.line_of((path,) if path else ()), path, message))

    data: Any = document.data
    if not isinstance(data, dict):
        what = "a list" if isinstance(data, list) else "a single value"
        problem("", f"is {what}; a resource is a mapping with apiVersion, kind, metadata and spec")
        return None
    version, kind = data.get("apiVersion"), data.get("kind")
    if version is None or kind is None:
        missing = " and ".join(key for key in ("apiVersion", "kind") if data.get(key) is None)
        problem("", f"{missing} missing; a resource of Sartor begins with apiVersion: {API_VERSION} and kind")
        return None
    if version != API_VERSION:
        problem("apiVersion", f'"{version}" is not a version of Sartor\'s API; write {API_VERSION}')
        return None
    if not isinstance(kind, str) or kind not in KINDS:
        problem(
            "kind",
            f'"{kind}" is not a kind of {API_VERSION}; kinds: {", ".join(KINDS)}{did_you_mean(kind, list(KINDS))}',
        )
        return None
    return KINDS[kind]


def dump_yaml(resource: Resource, *, defaults: bool = False) -> str:
    """The resource as YAML: what was written, or with ``defaults`` everything that holds. ``load_text`` reads it back."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 110
    writer.representer.sort_base_mapping_type_on_output = False
    head = {"apiVersion": resource.api_version, "kind": type(resource).__name__}
    stream = io.StringIO()
    writer.dump(head | resource.to_dict(defaults=defaults), stream)
    return stream.getvalue()
