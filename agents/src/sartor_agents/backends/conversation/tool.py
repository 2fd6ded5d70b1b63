"""What a model may do: the protocol of a tool, and how a call that a model wrote reaches it.

A model writes calls as text, so anything can be wrong with one: a tool that does not exist, arguments that are no JSON or
not what the tool takes. That is the model's own making and a normal part of working: the model reads what was wrong, and
what would be right, as the result of its call. Exceptions are left for what the model cannot mend (a full disk, a defect).
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from sartor_agents.text import is_legible

Parameters = TypeVar("Parameters", bound=BaseModel)

MOST_PROBLEMS = 5
"""Problems of one call's arguments that are told; more do not help to mend them."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class ToolResult:
    """What a model reads of its call. `failed`: the call did not do what it says, and `text` tells why."""

    text: str
    failed: bool = False


class Tool(Protocol[Parameters]):
    """One thing that a model may do.

    `name` is what the model calls it by: letters, digits, `_` and `-`, at most 64. `description` tells the model what it
    does, when to use it and what it gives back. The JSON schema of `parameters` is shown to the model, the descriptions of
    its fields included; give it `extra="forbid"`, so that a misspelt argument is not taken for an absent one.
    """

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> type[Parameters]: ...

    def call(self, parameters: Parameters, /) -> ToolResult:
        """Do it, within the tool's own limits of time and output.

        What the model can mend (a path that is not there, a command that fails, a limit that was reached) is a result
        with `failed` set. Exceptions end the step: they are for a full disk, a sandbox that cannot be made, a defect.
        Calls come one after the other, in the order in which the model wrote them.
        """
        ...


AnyTool = Tool[Any]
"""A tool whatever its parameters, as a collection holds it."""


@dataclass(frozen=True)
class ToolDefinition:
    """A tool as a provider is told of it. `schema` is a JSON schema of an object."""

    name: str
    description: str
    schema: dict[str, JsonValue]


def toolbox(tools: Sequence[AnyTool]) -> Mapping[str, AnyTool]:
    """Tools by name, in their order. Raises `ValueError` for a name that is used twice or that providers refuse."""
    found: dict[str, AnyTool] = {}
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise ValueError(f"tool name {tool.name!r}: use letters, digits, _ and -, at most 64")
        if tool.name in found:
            raise ValueError(f"two tools are called {tool.name}")
        found[tool.name] = tool
    return found


def definition(tool: AnyTool) -> ToolDefinition:
    """How the tool is described to a provider: always the same text for the same tool, so that it can be cached."""
    schema = tool.parameters.model_json_schema()
    return ToolDefinition(tool.name, tool.description, {"type": "object", "properties": {}} | schema)


def call_tool(tools: Mapping[str, AnyTool], name: str, arguments: str) -> ToolResult:
    """Carry out a call as a model wrote it: `arguments` is meant to be a JSON object. Empty text is an empty object."""
    tool = tools.get(name)
    if tool is None:
        near = difflib.get_close_matches(name, tools, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return ToolResult(
            f"There is no tool {name[:64]!r}.{hint} The tools are: {', '.join(tools) or 'none'}.", failed=True
        )
    try:
        content = json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError) as error:
        return ToolResult(
            f"The arguments of {name} are no valid JSON ({error}). Nothing was done; call it again with one JSON object.",
            failed=True,
        )
    if not is_legible(content):
        return ToolResult(f"The arguments of {name} hold half of a surrogate pair; nothing was done.", failed=True)
    try:
        parameters = tool.parameters.model_validate(content)
    except ValidationError as error:
        return ToolResult(f"The arguments of {name} are not valid; nothing was done.\n{problems(error)}", failed=True)
    return tool.call(parameters)


def problems(error: ValidationError) -> str:
    """What is wrong with an object, a line for each problem: place and kind, without the value that was found there."""
    found = error.errors(include_url=False, include_input=False)
    lines = [f"- {'.'.join(str(part) for part in one['loc']) or 'content'}: {one['msg']}" for one in found]
    more = len(lines) - MOST_PROBLEMS
    return "\n".join(lines[:MOST_PROBLEMS] + ([f"- and {more} more"] if more > 0 else []))
