"""Tokens and money, from what providers report of each call."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

MILLION = 1_000_000


@dataclass(frozen=True)
class TokenUse:
    """Tokens of one or more calls. `cached_input` is the part of `input` that came from the provider's cache, and
    `reasoning` the part of `output` that was not shown."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output

    def __add__(self, other: "TokenUse") -> "TokenUse":
        return TokenUse(
            self.input + other.input,
            self.cached_input + other.cached_input,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )

    @classmethod
    def reported(cls, *, input: object, output: object, cached: object = 0, reasoning: object = 0) -> Self:
        """From numbers that a provider sent, which may be absent or nonsense: never negative, parts never above wholes."""
        whole_in, whole_out = _count(input), _count(output)
        return cls(whole_in, min(_count(cached), whole_in), whole_out, min(_count(reasoning), whole_out))


def _count(number: object) -> int:
    return max(0, int(number)) if isinstance(number, int | float) and number == number and abs(number) < 1e15 else 0


class Price(BaseModel):
    """Money for a million tokens; without `cached_input`, cached tokens cost what others do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached_input: Decimal | None = Field(default=None, ge=0)

    def of(self, use: TokenUse) -> Decimal:
        """What `use` costs."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = use.input - use.cached_input
        return (self.input * fresh + cached * use.cached_input + self.output * use.output) / MILLION
