"""Reading one JSON object with an answer for every wrong type: the message names the field and what it should be.

As lenient as vLLM's own models: unknown fields are ignored, null means absent, and numbers may come as strings.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

from .errors import BadRequestError


def as_object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequestError(f"`{name}` must be an object, got {_kind(value)}.", name)
    return cast("dict[str, Any]", value)


def as_list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequestError(f"`{name}` must be a list, got {_kind(value)}.", name)
    return cast("list[Any]", value)


def as_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadRequestError(f"`{name}` must be a string, got {_kind(value)}.", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequestError(f"`{name}` has a lone surrogate, which is no Unicode text.", name) from None
    return value


class Fields:
    """Typed access to the fields of one object."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
        self._values = values
        self._defaults = defaults or {}

    def raw(self, name: str) -> Any:
        value = self._values.get(name)
        return self._defaults.get(name) if value is None else value

    def given(self, name: str) -> bool:
        """Whether the field is there and says anything: null, false, empty and zero do not."""
        return bool(self._values.get(name))

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise BadRequestError(f"`{name}` must be true or false, got {_kind(value)}.", name)

    def text(self, name: str) -> str | None:
        value = self.raw(name)
        return None if value is None else as_text(value, name)

    def integer(self, name: str, default: int, *, low: int | None = None, high: int | None = None) -> int:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise BadRequestError(f"`{name}` must be an integer, got {value[:40]!r}.", name) from None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadRequestError(f"`{name}` must be an integer, got {_kind(value)}.", name)
        _check_range(name, value, low, high)
        return value

    def number(self, name: str, default: float, *, low: float | None = None, high: float | None = None) -> float:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, str | int) and not isinstance(value, bool):
            try:
                value = float(value)
            except (ValueError, OverflowError):
                raise BadRequestError(f"`{name}` must be a number, got {str(value)[:40]!r}.", name) from None
        if not isinstance(value, float) or not math.isfinite(value):
            raise BadRequestError(f"`{name}` must be a finite number, got {_kind(value)}.", name)
        _check_range(name, value, low, high)
        return value


def _check_range(name: str, value: float, low: float | None, high: float | None) -> None:
    if low is not None and value < low and high is None:
        raise BadRequestError(f"{name} must be at least {low}, got {value}.", name)
    if (low is not None and value < low) or (high is not None and value > high):
        raise BadRequestError(f"{name} must be in [{low}, {high}], got {value}.", name)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value}"
    names: dict[type, str] = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
