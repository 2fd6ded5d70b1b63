"""Quantities as Kubernetes writes them: durations, resource quantities, decimals, percentages.

Each type keeps the text that was written (so that a resource goes through Sartor unchanged) beside its value,
compares by value, and states one regular expression that pydantic, the CRD and the reference page share. The
expressions stay inside what Python's ``re`` and Go's RE2 read alike.

Numbers with a fraction are text in the API, as the Kubernetes API conventions ask: a float does not survive
every JSON reader unchanged.
"""

import re
from datetime import timedelta
from decimal import Decimal
from functools import total_ordering
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from sartor_api.base import WORDS


@total_ordering
class _Quantity:
    """Text with a value: immutable, ordered and hashed by ``number``; subclasses say what the text may be."""

    pattern: ClassVar[str]
    example: ClassVar[str]
    noun: ClassVar[str]
    max_length: ClassVar[int] = 32
    int_or_string: ClassVar[bool] = False
    format: ClassVar[str] = ""

    __slots__ = ("bare", "number", "text")
    text: str
    number: Decimal
    bare: bool
    """Written as a YAML integer rather than as text."""

    def __init__(self, text: str) -> None:
        if len(text) > self.max_length or not re.fullmatch(self.pattern, text):
            raise ValueError(f'"{text}" is not {self.noun}; write it like {self.example}')
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "number", self._parse(text))
        object.__setattr__(self, "bare", False)

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        raise NotImplementedError

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"

    def __float__(self) -> float:
        return float(self.number)

    def __eq__(self, other: object) -> bool:
        return self.number == other.number if isinstance(other, type(self)) else NotImplemented

    def __lt__(self, other: Self) -> bool:
        return self.number < other.number

    def __hash__(self) -> int:
        return hash((type(self), self.number))

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.text,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(cls._written)
        )

    @classmethod
    def _validate(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        bare = cls.int_or_string and isinstance(value, int) and not isinstance(value, bool)
        if not bare and not isinstance(value, str):
            raise PydanticCustomError(
                "quantity_type",
                "must be {noun} written as text, like {example}",
                {"noun": cls.noun, "example": cls.example},
            )
        try:
            quantity = cls(str(value))
        except ValueError as error:
            raise PydanticCustomError("quantity", "{reason}", {"reason": str(error)}) from error
        object.__setattr__(quantity, "bare", bare)
        return quantity

    def _written(self) -> str | int:
        return int(self.text) if self.bare else self.text

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        shape: dict[str, Any] = {"pattern": f"^(?:{cls.pattern})$", "maxLength": cls.max_length}
        shape |= {WORDS: f"is not {cls.noun}; write it like {cls.example}"}
        shape |= {"x-kubernetes-int-or-string": True} if cls.int_or_string else {"type": "string"}
        return shape | ({"format": cls.format} if cls.format else {})

    @classmethod
    def cel_form(cls, path: str) -> str:
        """CEL: the text at `path` has this form. A rule that computes with it asks first: of other text the schema
        complains already, and CEL would complain of the rule."""
        return f"{path}.matches(r'^(?:{cls.pattern})$')"


class Duration(_Quantity):
    """A length of time: ``800ms``, ``10m``, ``1h30m``, ``7d``.

    The syntax of GEP-2257 (whole numbers, units from the largest to the smallest) with ``d`` for 24 hours. Five
    digits a unit keep the sum inside the 292 years that an int64 of nanoseconds holds.
    """

    pattern = (
        r"0|([0-9]{1,5}d)([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,5}s)?([0-9]{1,5}ms)?"
        r"|([0-9]{1,5}h)([0-9]{1,5}m)?([0-9]{1,5}s)?([0-9]{1,5}ms)?"
        r"|([0-9]{1,5}m)([0-9]{1,5}s)?([0-9]{1,5}ms)?|([0-9]{1,5}s)([0-9]{1,5}ms)?|([0-9]{1,5}ms)"
    )
    example = "10m, 1h30m, 800ms or 7d"
    noun = "a duration"
    format = "duration"
    __slots__ = ()

    _SECONDS: ClassVar[dict[str, Decimal]] = {
        "d": Decimal(86400),
        "h": Decimal(3600),
        "m": Decimal(60),
        "s": Decimal(1),
        "ms": Decimal("0.001"),
    }

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        parts = re.findall(r"([0-9]+)(ms|d|h|m|s)", text)
        return sum((Decimal(count) * cls._SECONDS[unit] for count, unit in parts), Decimal(0))

    @property
    def seconds(self) -> float:
        return float(self.number)

    @property
    def timedelta(self) -> timedelta:
        return timedelta(seconds=self.seconds)

    @classmethod
    def cel_at_least(cls, path: str, least: str) -> str:
        """CEL: the duration at `path` is `least` (an hour at most) or more; text of another form is left to the schema.

        CEL's own durations end at hours. A day that counts as an hour is on the same side of such a bound, and costs less
        to estimate than taking the text apart.
        """
        return f"!{cls.cel_form(path)} || duration({path}.replace('d', 'h')) >= duration('{least}')"

    @classmethod
    def of(cls, seconds: float) -> Self:
        """The duration of this many seconds, to the millisecond, in the fewest units: ``of(5400)`` is 1h30m."""
        if seconds < 0:
            raise ValueError(f"a duration cannot be negative: {seconds} s")
        left = round(seconds * 1000)
        text = ""
        for unit, milliseconds in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
            count, left = divmod(left, milliseconds)
            text += f"{count}{unit}" if count else ""
        return cls(text or "0s")


class Quantity(_Quantity):
    """A Kubernetes resource quantity without sign: ``20M``, ``16Gi``, ``500m``, ``4`` (a bare integer is taken too)."""

    pattern = r"[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?"
    example = "20M, 16Gi, 500m or 4"
    noun = "a quantity"
    int_or_string = True
    __slots__ = ()

    _FACTOR: ClassVar[dict[str, Decimal]] = {
        "": Decimal(1),
        "m": Decimal("0.001"),
        **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTP", start=1)},
        **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTP", start=1)},
    }

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        digits = text.rstrip("mkKMGTPi")
        return Decimal(digits) * cls._FACTOR[text[len(digits) :]]

    def __int__(self) -> int:
        return int(self.number)


class DecimalString(_Quantity):
    """A decimal number written as text: ``"1.2"``."""

    pattern = r"[0-9]{1,15}(\.[0-9]{1,9})?"
    example = '"1.2"'
    noun = "a decimal number"
    __slots__ = ()

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        return Decimal(text)


class Percentage(_Quantity):
    """A share of 100: ``"0.1%"``; its number is the fraction (0.001)."""

    pattern = r"(100(\.0{1,4})?|[0-9]{1,2}(\.[0-9]{1,4})?)%"
    example = '"0.1%"'
    noun = "a percentage from 0% to 100%"
    __slots__ = ()

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        return Decimal(text.removesuffix("%")) / 100


class Threshold(_Quantity):
    """A bound on a metric: a duration (``800ms``) for latencies, a percentage (``"0.1%"``) for shares, a decimal
    (``"120"``) for rates. Its number is in seconds, as a fraction, or plain."""

    pattern = f"{Duration.pattern}|{Percentage.pattern}|{DecimalString.pattern}"
    example = '800ms, "0.1%" or "120"'
    noun = "a bound"
    __slots__ = ()

    @classmethod
    def _parse(cls, text: str) -> Decimal:
        kinds = (Percentage, DecimalString, Duration)
        return next(kind(text).number for kind in kinds if re.fullmatch(kind.pattern, text))

    @property
    def unit(self) -> str:
        """``duration``, ``percentage`` or ``number``."""
        if self.text.endswith("%"):
            return "percentage"
        return "number" if re.fullmatch(DecimalString.pattern, self.text) else "duration"
