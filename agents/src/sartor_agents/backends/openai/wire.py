"""What both protocols share: the settings of a call, and an answer in a form that every endpoint takes back."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from pydantic import JsonValue

from sartor_agents.backends.conversation.messages import Answer, Call, Request
from sartor_agents.text import legible, legible_json

Json = dict[str, Any]
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
UNNAMED = "invalid_name"
LONGEST_STREAM = 8 << 20
"""Characters of one answer, beyond which it is broken off."""


@dataclass(frozen=True)
class ModelSettings:
    """`cache_key` groups the calls that share a beginning, for providers that route by it."""

    model: str
    api: Literal["responses", "chatCompletions"] = "responses"
    effort: str | None = None
    cache_key: str = ""


@dataclass(frozen=True)
class Params:
    """One request as the SDK takes it. `features` are the names in `errors.FEATURES` that are sent."""

    settings: ModelSettings
    request: Request
    features: frozenset[str]

    def wants(self, feature: str) -> bool:
        return feature in self.features

    @property
    def schema_due(self) -> bool:
        """Only where no tool can be called: some servers let a schema keep the model from calling any."""
        free = not self.request.may_call or not self.request.tools
        return free and self.request.schema is not None and self.wants("schema")


def sendable(answer: Answer) -> Answer:
    """The answer as it can be sent back to any endpoint.

    Models write calls without a name, twice the same id, or arguments that are no JSON; services refuse a conversation in
    which such a call stands, and templates of open models fall over it. The result of the call says what was wrong.
    """
    ids = [call.id for call in answer.calls]
    sound = all(NAME.fullmatch(call.name) and call.id and _is_object(call.arguments) for call in answer.calls)
    if sound and len(set(ids)) == len(ids):
        return answer
    mended = tuple(
        Call(
            id=call.id,
            name=call.name if NAME.fullmatch(call.name) else UNNAMED,
            arguments=call.arguments if _is_object(call.arguments) else json.dumps({"malformed": call.arguments[:200]}),
        )
        for call in answer.calls
    )
    return replace(answer, calls=mended, native=())


def written(answer: Answer) -> Answer:
    """The answer as it can be written down, and sent back."""
    return replace(
        answer,
        text=legible(answer.text),
        calls=tuple(Call(*map(legible, (call.id, call.name, call.arguments))) for call in answer.calls),
        native=tuple(cast(dict[str, JsonValue], legible_json(item)) for item in answer.native),
    )


def with_ids(calls: Sequence[Call], number: str) -> tuple[Call, ...]:
    """The calls with ids that are there and differ; whoever sent them may have left them out or repeated one."""
    ids = [call.id for call in calls]
    if all(ids) and len(set(ids)) == len(ids):
        return tuple(calls)
    return tuple(replace(call, id=f"call_{number}_{place}") for place, call in enumerate(calls))


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


class Told:
    """An object that a provider sent: its fields are attributes, None where they are not there, and nothing is checked.

    The SDK's types would check nothing either, and to make them takes every step of a role a third of a second.
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Json) -> None:
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        return told(self.fields.get(name))


def told(value: Any) -> Any:
    """A value of a provider's JSON, with `Told` for the objects in it."""
    match value:
        case dict():
            return Told(cast(Json, value))
        case list():
            return [told(one) for one in cast(list[Any], value)]
        case _:
            return value


def plain(value: Told) -> dict[str, JsonValue]:
    """What was told as JSON, without what is absent."""
    return cast(dict[str, JsonValue], _without_none(value.fields))


def _without_none(value: Any) -> Any:
    match value:
        case dict():
            return {name: _without_none(one) for name, one in cast(Json, value).items() if one is not None}
        case list():
            return [_without_none(one) for one in cast(list[Any], value)]
        case _:
            return value
