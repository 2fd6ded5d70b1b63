"""The final answer as a typed record: the schema that the model is shown, and the reading of what it wrote."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from pydantic import BaseModel, JsonValue, ValidationError

from sartor_agents.backends.conversation.messages import Schema
from sartor_agents.backends.conversation.tool import problems
from sartor_agents.text import is_legible

R = TypeVar("R", bound=BaseModel)

MOST_STARTS = 200
"""Places in a text where an object is looked for."""


class FormError(Exception):
    """The answer is not what was asked for; the message tells the model what to mend."""


@dataclass(frozen=True)
class Form(Generic[R]):
    """A record whose fields the model fills in, but those in `fixed`, which are set for it whatever it writes.

    `check` says what is wrong with a record that is valid by itself (a commit that does not exist), or None.
    """

    name: str
    record: type[R]
    fixed: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    check: Callable[[R], str | None] = lambda _: None

    def schema(self) -> Schema:
        """What the model is shown: the record's own JSON schema without the fixed fields."""
        whole = self.record.model_json_schema()
        fields = {name: one for name, one in whole.get("properties", {}).items() if name not in self.fixed}
        needed = [name for name in whole.get("required", []) if name not in self.fixed]
        return Schema(self.name, {**whole, "properties": fields, "required": needed, "additionalProperties": False})

    def wanted(self) -> str:
        """The paragraph of the instructions that asks for it. Not every provider can be made to keep to a schema."""
        schema = json.dumps(self.schema().schema, sort_keys=True)
        return (
            "# Your final answer\n\nWhen you are done, answer without calling a tool, with one JSON object "
            f"({self.name}) and nothing else. It has to be valid under this JSON schema:\n\n{schema}"
        )

    def read(self, text: str) -> R:
        """The record in an answer, which may have words or a code fence around it. Raises `FormError`."""
        content = {name: one for name, one in _object(text).items() if name not in self.fixed}
        if not is_legible(content):
            raise FormError("The answer holds half of a surrogate pair, which is no text.")
        try:
            record = self.record.model_validate({**content, **self.fixed})
        except ValidationError as error:
            raise FormError(f"The answer is no valid {self.name}:\n{problems(error)}") from error
        wrong = self.check(record)
        if wrong is not None:
            raise FormError(f"The answer cannot be used: {wrong}")
        return record


def _object(text: str) -> dict[str, JsonValue]:
    """The answer itself if it is one JSON object, else the last one that stands in it. Raises `FormError`."""
    if not text.strip():
        raise FormError("The answer is empty. Answer with one JSON object.")
    decoder = json.JSONDecoder()
    found: dict[str, JsonValue] | None = None
    problem = ""
    at = text.find("{")
    for _ in range(MOST_STARTS):
        if at < 0:
            break
        try:
            content, end = decoder.raw_decode(text, at)
            found = cast(dict[str, JsonValue], content)
        except (ValueError, RecursionError) as error:
            problem = problem or f" ({error})"
            end = at + 1
        at = text.find("{", end)
    if found is None:
        raise FormError(
            f"There is no valid JSON object in the answer{problem}. Answer with one JSON object, nothing else."
        )
    return found
