"""Which requests are let through, and what they can cost at most. Pure.

An agent may ask a model and nothing else: whatever would make the provider fetch, run, store or look up something on the
agent's behalf is a way out of the sandbox, or a cost that no budget sees, and is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from decimal import ROUND_CEILING
from typing import Any, Literal, cast

from sartor_agents.backends.conversation.accounting import Price, TokenUse
from sartor_api.search.grants import Grant

Api = Literal["responses", "chat"]
PATHS: dict[str, Api] = {"/v1/responses": "responses", "/v1/chat/completions": "chat"}
LOCAL_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch", "namespace"})
"""Kinds of tool that the caller carries out itself."""
FORBIDDEN = {
    "background": "a call in the background ends outside of its budget",
    "previous_response_id": "a conversation that the provider keeps cannot be counted or recorded",
    "conversation": "a conversation that the provider keeps cannot be counted or recorded",
    "prompt": "a stored prompt cannot be recorded",
    "functions": "use tools",
    "web_search_options": "the provider would search the network for the agent",
    "audio": "only text is paid for",
    "prediction": "rejected tokens of a prediction are paid for beyond any limit",
    "modalities": "only text is paid for",
    "context_management": "the provider would change the conversation unrecorded",
}
TIERS = (None, "auto", "default", "flex")
"""Service tiers that cost no more than the price list says."""
FIRST_RATIO, LEAST_RATIO, MOST_RATIO, MARGIN = 0.5, 0.2, 1.0, 1.1
"""Tokens for a byte of a request: what is assumed before the provider has counted one, and between which bounds what it
counted is believed, with a margin on top."""


class RequestRefusedError(Exception):
    """The request is not let through; `param` is the field, the message says what to do."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Admitted:
    """A request as it is forwarded. `id` names the call within its run; `most_output` bounds the answer's tokens."""

    id: str
    api: Api
    model: str
    body: bytes
    stream: bool
    most_output: int


def admit(api: Api, raw: bytes, grant: Grant, *, call: str | None, most_output: int) -> Admitted:
    """Check a request, and bound what it may cost. Raises `RequestRefusedError`.

    `call` is the caller's name for it (`Sartor-Call`); without one the same bytes in the same step are the same call.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RequestRefusedError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestRefusedError("the body is no JSON object")
    content = cast(dict[str, Any], body)
    for name, why in FORBIDDEN.items():
        if content.get(name):
            raise RequestRefusedError(f"{name} is not let through: {why}; leave it out", name)
    model = content.get("model")
    if model not in grant.models:
        raise RequestRefusedError(f"model {model!r} is not granted; use {', '.join(grant.models)}", "model")
    if content.get("service_tier") not in TIERS:
        raise RequestRefusedError("service_tier: dearer tiers are not let through; leave it out", "service_tier")
    if content.get("n") not in (None, 1):
        raise RequestRefusedError("n: one answer at a time is let through; leave it out", "n")
    _check_tools(content.get("tools"))
    _check_fetching(content)
    if api == "responses":
        content["store"] = False
        limit = "max_output_tokens"
    else:
        content.pop("store", None)
        if "max_tokens" in content and "max_completion_tokens" in content:
            raise RequestRefusedError("max_tokens and max_completion_tokens: give one of the two", "max_tokens")
        limit = "max_tokens" if "max_tokens" in content else "max_completion_tokens"
        if content.get("stream"):
            options = content.get("stream_options")
            content["stream_options"] = {
                **(cast(dict[str, Any], options) if isinstance(options, dict) else {}),
                "include_usage": True,
            }
    wanted = content.get(limit)
    if wanted is not None and (not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1):
        raise RequestRefusedError(f"{limit} has to be a positive whole number", limit)
    allowed = min(wanted or most_output, most_output)
    content[limit] = allowed
    name = call if call else hashlib.sha256(raw).hexdigest()
    if len(name) > 300 or not name.isprintable():
        raise RequestRefusedError("Sartor-Call: a name of a call has at most 300 printable characters")
    return Admitted(
        id=f"{grant.step}|{name}",
        api=api,
        model=model,
        body=json.dumps(content).encode(),
        stream=bool(content.get("stream")),
        most_output=allowed,
    )


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    if not isinstance(tools, list):
        raise RequestRefusedError("tools has to be a list", "tools")
    for tool in cast(list[Any], tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in LOCAL_TOOLS:
            raise RequestRefusedError(
                f"tools: {kind!r} would be carried out by the provider, outside of the sandbox; use functions", "tools"
            )
        _check_tools(tool.get("tools"))


def _check_fetching(content: dict[str, Any]) -> None:
    """Images and files by address would make the provider send a request wherever an agent says."""
    entries: list[Any] = []
    for name in ("input", "messages"):
        if isinstance(content.get(name), list):
            entries += content[name]
    parts = [part for entry in entries if isinstance(entry, dict) for part in (entry, *_parts(entry))]
    for part in parts:
        if str(part.get("type")) in ("input_image", "image_url", "input_file", "file", "input_audio"):
            raise RequestRefusedError(f"{part.get('type')}: only text is let through", "input")
    for entry in entries:
        if isinstance(entry, dict) and entry.get("type") == "item_reference":
            raise RequestRefusedError("item_reference: send the item itself; nothing is kept at the provider", "input")


def _parts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = []
    for name in ("content", "output"):
        if isinstance(entry.get(name), list):
            found += entry[name]
    return [part for part in found if isinstance(part, dict)]


def most(admitted: Admitted, ratio: float) -> TokenUse:
    """What the call can use at most, at `ratio` tokens for a byte of the request."""
    return TokenUse(input=int(len(admitted.body) * ratio) + 16, output=admitted.most_output)


def learned(ratio: float | None, size: int, counted: int) -> float:
    """The ratio after a provider counted `counted` tokens in a request of `size` bytes: the largest seen, with a margin."""
    seen = min(MOST_RATIO, max(LEAST_RATIO, MARGIN * counted / max(1, size)))
    return seen if ratio is None else max(ratio, seen)


def nano(price: Price | None, use: TokenUse) -> int:
    """Money in thousand-millionths, rounded up, so that sums are exact; 0 where there is no price."""
    if price is None:
        return 0
    return int((price.of(use) * 1_000_000_000).to_integral_value(ROUND_CEILING))
