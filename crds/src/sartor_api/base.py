"""What every object of the API has in common: strictness, camelCase on the wire, and rules that are written once.

A *rule* is a condition over several fields. The API server enforces it as a CEL expression, everything that reads
YAML without a cluster enforces it as a Python predicate; a ``Rule`` holds both beside the one message that both
show, and the tests run the same good and bad objects through the two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

GROUP = "sartor.dev"
VERSION = "v1alpha1"
API_VERSION: Literal["sartor.dev/v1alpha1"] = "sartor.dev/v1alpha1"

RULE_ERROR = "sartor_rules"
"""The pydantic error type under which broken rules are reported; its context holds them as ``broken``."""

WORDS = "x-sartor-words"
"""In the JSON schema of text that has a form: what is said of text that has another."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A condition on one object.

    ``cel`` is evaluated with ``self`` bound to the object, ``holds`` is called with the model; both true means good.
    ``message`` says what to change. ``field`` is the path (``.steps``) below the object that is to blame, if one is.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]
    field: str = ""


@dataclass(frozen=True, kw_only=True)
class TransitionRule:
    """A condition on an update: ``cel`` speaks of ``self`` and ``oldSelf``, ``holds`` is called as (new, old)."""

    cel: str
    message: str
    holds: Callable[[Any, Any], bool]
    field: str = ""


def immutable(field: str, advice: str) -> TransitionRule:
    """The rule that ``field`` (camelCase) keeps its value, set or unset, for the object's life."""
    attribute = _snake(field)
    return TransitionRule(
        cel=f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        message=f"{field} cannot be changed; {advice}",
        holds=lambda new, old: bool(getattr(new, attribute) == getattr(old, attribute)),
        field=f".{field}",
    )


def exactly_one(*fields: str, noun: str) -> Rule:
    """The rule that exactly one of ``fields`` (camelCase, all optional) is set."""
    attributes = [_snake(field) for field in fields]
    return Rule(
        cel=f"[{', '.join(f'has(self.{field})' for field in fields)}].exists_one(set, set)",
        message=f"set exactly one {noun}: {', '.join(fields[:-1])} or {fields[-1]}",
        holds=lambda model: sum(getattr(model, attribute) is not None for attribute in attributes) == 1,
    )


def _snake(camel: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in camel)


class ApiModel(BaseModel):
    """Base of every object: immutable, no unknown fields, camelCase on the wire and snake_case in Python.

    Docstrings under the fields are their descriptions in the CRD and in the reference.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[TransitionRule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule for rule in self.rules if not rule.holds(self)]
        if broken:
            reasons = "; ".join(rule.message for rule in broken)
            raise PydanticCustomError(RULE_ERROR, "{reasons}", {"reasons": reasons, "broken": broken})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        shape = handler.resolve_ref_schema(handler(schema))
        validations = [_validation(rule) for rule in (*cls.rules, *cls.transitions)]
        if validations:
            shape["x-kubernetes-validations"] = validations
        return shape

    def to_dict(self, *, defaults: bool = False) -> dict[str, Any]:
        """Plain JSON data in camelCase without absent fields; ``defaults`` adds what was not said."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=not defaults)


def _validation(rule: Rule | TransitionRule) -> dict[str, str]:
    validation = {"rule": rule.cel, "message": rule.message}
    # A CRD's schema does not hold the fields of metadata, so that fieldPath cannot name them.
    return validation | ({"fieldPath": rule.field} if rule.field and not rule.field.startswith(".metadata") else {})


def broken_transitions(new: BaseModel, old: BaseModel, path: str = "") -> list[tuple[str, str]]:
    """(field path, message) of every transition rule that an update from ``old`` to ``new`` breaks.

    As in the API server, a rule inside a list is not checked (elements have no identity across an update), and one
    inside an object that is absent on either side does not apply.
    """
    broken: list[tuple[str, str]] = []
    if isinstance(new, ApiModel):
        broken += [
            (f"{path}{rule.field}".lstrip("."), rule.message) for rule in new.transitions if not rule.holds(new, old)
        ]
    for name, field in type(new).model_fields.items():
        below, before = getattr(new, name), getattr(old, name)
        if isinstance(below, BaseModel) and isinstance(before, BaseModel):
            broken += broken_transitions(below, before, f"{path}.{field.alias or name}")
    return broken
