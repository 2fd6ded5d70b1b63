"""Kubernetes quantities (`500m`, `1Gi`, `1e3`) as exact numbers.

Specification: k8s.io/apimachinery/pkg/api/resource, `Quantity`.
"""

import re
from decimal import ROUND_CEILING, Decimal

_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_PATTERN = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[+-]?[0-9]+\.)(?:([KMGTPE]i)|[eE]([+-]?[0-9]+)|([numkMGTPE]?))")


def parse(text: str | int | float) -> Decimal:
    """The value of a quantity. Raises `ValueError` for what is none."""
    matched = _PATTERN.fullmatch(str(text).strip())
    if matched is None:
        raise ValueError(f"{text!r} is not a quantity; write it like 500m, 2 or 1Gi")
    number, binary, exponent, suffix = matched.groups()
    if binary:
        return Decimal(number) * _BINARY[binary]
    return Decimal(number).scaleb(int(exponent) if exponent else _DECIMAL[suffix])


def whole(text: str | int | float, divisor: str = "1") -> int:
    """The quantity in units of `divisor`, rounded up as the downward API does it (a divisor of 0 counts as 1)."""
    by = parse(divisor) or Decimal(1)
    return int((parse(text) / by).to_integral_value(ROUND_CEILING))
