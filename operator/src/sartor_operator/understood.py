"""Objects as their types, and what to say of those that are none: the CRD that stored them is of another version.

A spec that is not understood is said to be so in the object's status. A status is derived: what of it cannot be read (a
newer version wrote it, and was taken back) counts as absent, and is written anew.
"""

from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)


class NotUnderstoodError(Exception):
    """A stored object does not fit the types of this version; the text says where, and what to do."""


def understood(model: type[M], data: Any, what: str) -> M:
    """`data` as a model. Raises `NotUnderstoodError`, naming `what` and the field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the object"
        raise NotUnderstoodError(
            f"{what}: {where}: {first['msg']}; this version of the operator does not understand that: change the field, "
            "or install the operator that the CRDs belong to"
        ) from error


def derived(model: type[M], data: Any) -> M:
    """A status; fields that cannot be read are left out, since they are written anew."""
    try:
        return model.model_validate(data or {})
    except ValidationError as error:
        unread = {problem["loc"][0] for problem in error.errors(include_url=False) if problem["loc"]}
    if not isinstance(data, dict):
        return model()
    known = {field: value for field, value in cast("dict[str, Any]", data).items() if field not in unread}
    try:
        return model.model_validate(known)
    except ValidationError:
        return model()
