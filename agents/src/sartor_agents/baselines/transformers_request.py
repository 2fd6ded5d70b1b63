"""The part of an OpenAI request that the fall-back server understands, checked as strictly as it is used."""

import json
from typing import Any, cast


class BadRequestError(Exception):
    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Call:
    """One generation. `prompt` is text or token ids; for a chat it is None and `messages` is set."""

    def __init__(self, body: dict[str, Any], *, chat: bool) -> None:
        self.prompt: str | list[int] | None = None if chat else _prompt(body.get("prompt"))
        self.messages = _messages(body.get("messages")) if chat else None
        self.max_tokens = _integer(body, "max_tokens", body.get("max_completion_tokens", 16), low=1, high=1 << 20)
        self.temperature = _number(body, "temperature", 1.0, low=0.0, high=2.0)
        self.seed = None if body.get("seed") is None else _integer(body, "seed", 0, low=0, high=1 << 62)
        self.ignore_eos = bool(body.get("ignore_eos", False))
        self.stream = bool(body.get("stream", False))
        options = body.get("stream_options")
        self.include_usage = isinstance(options, dict) and bool(cast(dict[str, Any], options).get("include_usage"))


def parse(raw: bytes, *, chat: bool, model: str) -> Call:
    """Raises `BadRequestError` with the sentence for the client."""
    try:
        body = json.loads(raw)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    fields = cast(dict[str, Any], body)
    if fields.get("model", model) != model:
        raise BadRequestError(f"the model `{fields['model']}` does not exist", 404)
    if fields.get("n", 1) != 1:
        raise BadRequestError("n other than 1 is not supported by this fall-back server")
    return Call(fields, chat=chat)


def _prompt(value: Any) -> str | list[int]:
    if isinstance(value, str):
        return value
    items = cast(list[Any], value) if isinstance(value, list) else []
    if items and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return cast(list[int], items)
    if len(items) == 1 and isinstance(items[0], (str, list)):
        return _prompt(items[0])
    raise BadRequestError("prompt must be a string or a list of token ids")


def _messages(value: Any) -> list[dict[str, Any]]:
    items = cast(list[Any], value) if isinstance(value, list) else []
    if not items or not all(isinstance(item, dict) and "role" in item for item in items):
        raise BadRequestError("messages must be a list of objects with role and content")
    return cast(list[dict[str, Any]], items)


def _integer(body: dict[str, Any], name: str, default: int, *, low: int, high: int) -> int:
    value = body.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequestError(f"{name} must be an integer from {low} to {high}")
    return value


def _number(body: dict[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    value = body.get(name)
    value = default if value is None else value
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequestError(f"{name} must be a number from {low} to {high}")
    return float(value)
