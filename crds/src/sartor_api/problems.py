"""From a validation error to sentences: where, what is wrong, what is allowed, and what was probably meant."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sartor_api.base import RULE_ERROR, Rule

Path = tuple[str | int, ...]


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong with a file. ``line`` counts from 1 and is 0 where the file as a whole is meant."""

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


def dotted(path: Sequence[str | int]) -> str:
    """``("spec", "steps", 0, "weight")`` as ``spec.steps[0].weight``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[tuple[Path, str]]:
    """(path, sentence) for everything in ``error``, which came from validating ``model``."""
    details = error.errors(include_url=False)
    for detail in details:
        path: Path = tuple(detail["loc"])
        if detail["type"] == "too_short" and any(_inside(other["loc"], path) for other in details):
            continue  # pydantic does not count elements that are wrong themselves; those are reported anyway
        if detail["type"] == RULE_ERROR:
            for rule in cast(list[Rule], detail.get("ctx", {})["broken"]):
                yield (*path, *(part for part in rule.field.split(".") if part)), rule.message
        else:
            yield path, _sentence(detail, path, model)


def _inside(path: Path, around: Path) -> bool:
    return len(path) > len(around) and path[: len(around)] == around


def _sentence(detail: ErrorDetails, path: Path, model: type[BaseModel]) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    match kind:
        case "missing":
            return f"is required{_described(path, model)}"
        case "extra_forbidden":
            return _unknown_field(str(path[-1]), _model_at(path[:-1], model))
        case "literal_error" | "enum":
            return _not_allowed(value, _allowed(path, model) or [str(context["expected"])])
        case "greater_than_equal":
            return f"must be at least {context['ge']}, is {value}"
        case "less_than_equal":
            return f"must be at most {context['le']}, is {value}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"has {len(str(value))} characters; at most {context['max_length']} are allowed"
        case "too_short":
            return f"must have at least {_elements(context['min_length'])}, has {context['actual_length']}"
        case "too_long" if "max_length" in context:
            return f"may have at most {_elements(context['max_length'])}"
        case _ if kind in _WANTED:
            return _wrong_type(_WANTED[kind], value)
        case _:
            return _wrong_type(detail["msg"], value) if kind == "quantity_type" else detail["msg"]


_WANTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "datetime_type": "must be a time such as 2026-01-31T12:00:00Z",
    "datetime_parsing": "must be a time such as 2026-01-31T12:00:00Z",
    "datetime_from_date_parsing": "must be a time such as 2026-01-31T12:00:00Z",
}


def _wrong_type(wanted: str, value: object) -> str:
    match value:
        case None:
            return f"{wanted}, is empty; give it a value or remove it"
        case bool():
            hint = f'; write it in quotes: "{str(value).lower()}"' if "text" in wanted else ""
            return f"{wanted}, is {str(value).lower()}{hint}"
        case int() | float():
            hint = f'; write it in quotes: "{value}"' if "text" in wanted else ""
            return f"{wanted}, is the number {value}{hint}"
        case str():
            hint = "; remove the quotes" if "number" in wanted and value.isdecimal() else ""
            return f'{wanted}, is the text "{_shortened(value)}"{hint}'
        case list():
            return f"{wanted}, is a list"
        case dict():
            return f"{wanted}, is a mapping"
        case _:
            return wanted


def _elements(count: int) -> str:
    return f"{count} element{'' if count == 1 else 's'}"


def _shortened(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _unknown_field(name: str, model: type[BaseModel] | None) -> str:
    known = [field.alias or key for key, field in model.model_fields.items()] if model else []
    return f"unknown field{did_you_mean(name, known)}; known here: {', '.join(known)}"


def _not_allowed(value: object, allowed: Sequence[str]) -> str:
    shown = f'"{_shortened(value)}"' if isinstance(value, str) else _plain(value)
    return f"{shown} is not allowed; allowed: {', '.join(allowed)}{did_you_mean(value, allowed)}"


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return "a list or mapping" if isinstance(value, list | dict) else str(value)


def did_you_mean(value: object, known: Sequence[str]) -> str:
    """``; did you mean "x"?`` for the known word that is closest to ``value``, if one is close."""
    if not isinstance(value, str):
        return ""
    by_folded = {word.lower(): word for word in known}
    close = get_close_matches(value.lower(), list(by_folded), n=1, cutoff=0.6)
    return f'; did you mean "{by_folded[close[0]]}"?' if close else ""


def _described(path: Path, model: type[BaseModel]) -> str:
    owner = _model_at(path[:-1], model)
    field = next((f for k, f in owner.model_fields.items() if path[-1] in (f.alias, k)), None) if owner else None
    description = (field.description or "").split(". ")[0].rstrip(".").replace("\n", " ") if field else ""
    return f" ({description[0].lower()}{description[1:]})" if description else ""


def _allowed(path: Path, model: type[BaseModel]) -> list[str]:
    """The words that the field at ``path`` takes, if it is one of a closed set."""
    return [str(word) for word in _literals(_annotation_at(path, model))]


def _literals(annotation: Any) -> list[Any]:
    arguments = get_args(annotation)
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return [member.value for member in cast(Any, annotation)]
    if str(get_origin(annotation)) == "typing.Literal":
        return list(arguments)
    return [word for argument in arguments for word in _literals(argument)]


def _model_at(path: Path, model: type[BaseModel]) -> type[BaseModel] | None:
    return _model_in(_annotation_at(path, model))


def _annotation_at(path: Path, model: type[BaseModel]) -> Any:
    annotation: Any = model
    for part in path:
        if isinstance(part, int):
            continue
        owner = _model_in(annotation)
        fields = owner.model_fields if owner else {}
        field = next((f for k, f in fields.items() if part in (f.alias, k)), None)
        if field is None:
            return None
        annotation = field.annotation
    return annotation


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for a in get_args(annotation) if (found := _model_in(a))), None)
