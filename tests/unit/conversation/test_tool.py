"""A call that a model wrote: whatever is wrong with it comes back to the model as a result that it can mend it by."""

from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sartor_agents.backends.conversation.tool import AnyTool, ToolResult, call_tool, definition, toolbox


class Where(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="below stack/", max_length=100)
    lines: int = Field(default=10, ge=1)


@dataclass
class Read:
    """Reads nothing, and notes what it was asked."""

    name: str = "read_file"
    description: str = "Reads a file."
    parameters: type[Where] = Where
    asked: list[Where] = field(default_factory=list[Where])

    def call(self, parameters: Where, /) -> ToolResult:
        self.asked.append(parameters)
        return ToolResult(f"{parameters.path}: empty")


def test_a_call_reaches_its_tool_with_typed_parameters() -> None:
    read = Read()
    assert call_tool(toolbox([read]), "read_file", '{"path": "stack/a.py"}') == ToolResult("stack/a.py: empty")
    assert read.asked == [Where(path="stack/a.py", lines=10)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"path": "a"', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('["a"]', "content: Input should be a valid dictionary"),
        ('{"path": 3, "lines": 0, "colour": "red"}', "- colour: Extra inputs are not permitted"),
        ("", "- path: Field required"),
        ('{"path": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_wrong_arguments_are_told_and_nothing_is_done(arguments: str, told: str) -> None:
    read = Read()
    result = call_tool(toolbox([read]), "read_file", arguments)
    assert result.failed
    assert told in result.text
    assert read.asked == []
    assert len(result.text) < 1000


def test_an_unknown_tool_is_answered_with_those_that_there_are() -> None:
    result = call_tool(toolbox([Read()]), "readfile", "{}")
    assert result.failed
    assert "Did you mean read_file?" in result.text
    assert len(call_tool({}, "x" * 100_000, "{}").text) < 300


def test_what_a_tool_raises_is_not_the_models_to_read() -> None:
    class Full(Read):
        def call(self, parameters: Where, /) -> ToolResult:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        call_tool(toolbox([Full()]), "read_file", '{"path": "a"}')


def test_a_provider_is_told_the_schema_with_its_descriptions() -> None:
    told = definition(Read())
    assert (told.name, told.description) == ("read_file", "Reads a file.")
    assert told.schema["type"] == "object"
    properties = told.schema["properties"]
    assert isinstance(properties, dict)
    assert properties["path"] == {
        "description": "below stack/",
        "maxLength": 100,
        "title": "Path",
        "type": "string",
    }
    assert told.schema["additionalProperties"] is False


@pytest.mark.parametrize("names", [["read_file", "read_file"], ["read file"], ["x" * 65], [""]])
def test_names_that_providers_refuse_are_a_defect(names: list[str]) -> None:
    tools: list[AnyTool] = [Read(name=name) for name in names]
    with pytest.raises(ValueError, match=r"tool name|two tools"):
        toolbox(tools)
