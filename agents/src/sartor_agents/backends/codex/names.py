"""The name of a call that the Codex CLI makes, so that the model proxy knows it again when its step is done again.

Codex names neither its calls nor, from one invocation to the next, anything in them alike: threads and items have new ids,
its prompt tells what was spent so far, outputs tell how long a command took. So a name is made of what the conversation is
(`conversation`), and of what was said and done in it since: the model's words and calls, and how its commands ended.
"""

import hashlib
import json
import re
from typing import Any, cast

_ENDED = re.compile(r"exited with code (-?\d+)")


def call_name(conversation: str, body: bytes) -> str | None:
    """None for a request that is none of the Responses protocol; the provider will say what is wrong with it."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    request = cast(dict[str, Any], content)
    given = request.get("input")
    items = cast(list[Any], given) if isinstance(given, list) else []
    said = [
        mark for item in items if isinstance(item, dict) and (mark := _mark(cast(dict[str, Any], item))) is not None
    ]
    told = json.dumps([request.get("model"), request.get("tools"), said], sort_keys=True)
    return f"{conversation}/{len(said):04d}/{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _mark(item: dict[str, Any]) -> list[object] | None:
    """What of an item makes its conversation another one. Not what Codex and Sartor told the model to begin with."""
    kind = str(item.get("type", "message"))
    if kind == "message":
        return ["said", _text(item.get("content"))] if item.get("role") == "assistant" else None
    if kind.endswith("_output"):
        ended = _ENDED.search(_text(item.get("output")))
        return ["ended", ended[1] if ended else ""]
    if kind.endswith("_call"):
        return ["called", item.get("name"), item.get("arguments", item.get("input", item.get("action")))]
    return None


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _text(cast(dict[str, Any], content).get("content") or cast(dict[str, Any], content).get("text"))
    if isinstance(content, list):
        return "".join(map(_text, cast(list[Any], content)))
    return ""
