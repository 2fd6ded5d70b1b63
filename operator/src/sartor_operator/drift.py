"""Whether what is in the cluster is what is wanted, whatever the API server added to it."""

from typing import Any, cast

from sartor_api.quantities import Quantity


def covers(wanted: Any, there: Any) -> bool:
    """Whether everything that is wanted is there; what the API server added does not matter.

    Quantities are compared by value, since the API server rewrites them (`0.5` becomes `500m`).
    """
    if there is None:
        return not wanted
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            covers(value, cast("dict[str, Any]", there).get(key))
            for key, value in cast("dict[str, Any]", wanted).items()
        )
    if isinstance(wanted, list):
        ours, theirs = cast("list[Any]", wanted), cast("list[Any]", there or [])
        return len(ours) == len(theirs) and all(covers(a, b) for a, b in zip(ours, theirs, strict=True))
    if wanted == there:
        return True
    return isinstance(wanted, str) and isinstance(there, str) and _same_amount(wanted, there)


def _same_amount(one: str, other: str) -> bool:
    try:
        return Quantity(one) == Quantity(other)
    except ValueError:
        return False
