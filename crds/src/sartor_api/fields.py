"""Kinds of text and lists that many objects use: names, references, bounded and keyed lists.

Every string, list and map of the API has an upper bound. It keeps objects small, and the API server refuses CEL
rules whose worst-case cost over unbounded data is too high.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sartor_api.base import WORDS, ApiModel
from sartor_api.quantities import DecimalString


@dataclass(frozen=True)
class Pattern:
    """Text of a form: a regular expression (read alike by Python and RE2) with the words that say what it wants."""

    expression: str
    wanted: str
    longest: int

    def check(self, value: str) -> str:
        if len(value) > self.longest:
            raise PydanticCustomError(
                "too_long",
                "has {count} characters; at most {longest} are allowed",
                {"count": len(value), "longest": self.longest},
            )
        if not re.fullmatch(self.expression, value, re.ASCII):
            raise PydanticCustomError("pattern", '"{value}" is not {wanted}', {"value": value, "wanted": self.wanted})
        return value

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        shape = {"pattern": f"^(?:{self.expression})$", "maxLength": self.longest}
        return handler(schema) | shape | {WORDS: f"is not {self.wanted}"}


@dataclass(frozen=True)
class ListMap:
    """A list whose elements are told apart by some of their fields: server-side apply merges it element by element."""

    keys: tuple[str, ...]

    def check(self, values: tuple[ApiModel, ...]) -> tuple[ApiModel, ...]:
        attributes = ["".join(f"_{c.lower()}" if c.isupper() else c for c in key) for key in self.keys]
        _refuse_repeated(
            [tuple(str(getattr(value, name)) for name in attributes) for value in values], ", ".join(self.keys)
        )
        return values

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(self.keys),
        }


@dataclass(frozen=True)
class ListSet:
    """A list of scalars without repetition, merged by server-side apply value by value."""

    def check(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        _refuse_repeated([(str(value),) for value in values], "value")
        return values

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "set"}


def _refuse_repeated(keys: Sequence[tuple[str, ...]], what: str) -> None:
    repeated = next((key for index, key in enumerate(keys) if key in keys[:index]), None)
    if repeated is not None:
        raise PydanticCustomError(
            "repeated",
            'has two elements with the same {what}, "{key}"; keep one',
            {"what": what, "key": ", ".join(repeated)},
        )


Name = Annotated[
    str,
    Pattern(
        r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        "a Kubernetes name (lower-case letters, digits, '-' and '.')",
        253,
    ),
]
Label = Annotated[
    str,
    Pattern(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "a DNS label (lower-case letters, digits and inner '-')", 63),
]
Hostname = Annotated[
    str,
    Pattern(
        r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        "a host name such as editor.example.com or *.example.com",
        253,
    ),
]
Commit = Annotated[str, Pattern(r"[0-9a-f]{40}", "a full git commit (40 lower-case hexadecimal digits)", 128)]
Digest = Annotated[str, Pattern(r"sha256:[0-9a-f]{64}", "a digest (sha256: and 64 hexadecimal digits)", 128)]
Url = Annotated[str, Pattern(r"https?://[^\s/?#]+[^\s]*", "an http:// or https:// address", 2048)]
RelativePath = Annotated[
    str,
    Pattern(
        r"[^/\s.][^/\s]*(/[^/\s.][^/\s]*)*",
        "a relative path (no leading '/', no '..', no hidden parts, no spaces)",
        1024,
    ),
]
AbsolutePath = Annotated[
    str,
    Pattern(
        r"(/([^/\s.]|\.[^/\s.]|\.\.[^/\s])[^/\s]*)+",
        "an absolute path (a leading '/', no '.' or '..' as a part, no spaces)",
        1024,
    ),
]
Image = Annotated[
    str,
    Pattern(r"[a-zA-Z0-9][\w.:/@-]*", "an image reference such as registry.example.com/sartor/stack:v1", 512),
]
ShortText = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=4096)]
Percent = Annotated[int, Field(ge=0, le=100)]
Tokens = Annotated[int, Field(ge=1, le=16_777_216)]
Concurrency = Annotated[int, Field(ge=1, le=65_536)]
Count = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]
"""A counter; bounded by 2^53 - 1, up to which every JSON reader is exact."""
LabelMap = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]],
    Field(max_length=64),
]
AnnotationMap = Annotated[
    dict[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=262_144)]],
    Field(max_length=256),
]


class LocalReference(ApiModel):
    """An object in the same namespace (or without one, for a kind that is cluster-scoped)."""

    name: Name
    """Its name."""


class KeyReference(ApiModel):
    """One key of a Secret or ConfigMap in the same namespace."""

    name: Name
    """Name of the Secret or ConfigMap."""
    key: Annotated[str, Pattern(r"[-._a-zA-Z0-9]+", "a key (letters, digits, '-', '_' and '.')", 253)] | None = None
    """The key; by default the only key there is."""


class Money(ApiModel):
    """An amount of money."""

    amount: DecimalString
    """The amount, as a decimal number in quotes."""
    currency: Annotated[str, Pattern(r"[A-Z]{3}", "an ISO 4217 currency code such as USD", 16)] = "USD"
    """ISO 4217 code."""


class ObjectReference(ApiModel):
    """An object of a known kind in the same namespace, with the identity that it had when it was referred to."""

    name: Name
    """Its name."""
    uid: ShortText | None = None
    """Its uid; a later object of the same name is another object."""
    generation: Count | None = None
    """The generation of its spec."""
