"""The Chat Completions protocol: requests checked as strictly as the real service does, answers as chunks or whole."""

from scripted_provider.wire import Counted, Item, Json, RefusedError, Turn, check_fields, need

FIELDS = frozenset({
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "store",
    "reasoning_effort", "response_format", "max_completion_tokens", "max_tokens", "prompt_cache_key", "temperature", "top_p",
    "metadata", "service_tier", "user", "n", "seed", "stop",
})  # fmt: skip


def read(body: Json) -> tuple[str, tuple[Item, ...], tuple[str, ...]]:
    """Instructions, items and tool names of a request. Raises `RefusedError`."""
    check_fields(body, FIELDS)
    instructions: list[str] = []
    items: list[Item] = []
    waiting: list[str] = []
    for place, message in enumerate(need(body, "messages", list)):
        where = f"messages[{place}]"
        role, text = message.get("role"), _text(message.get("content"))
        if role != "tool" and waiting:
            raise RefusedError(
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following did not have response messages: {', '.join(waiting)}",
                where,
            )
        match role:
            case "system" | "developer":
                instructions.append(text)
            case "user":
                items.append(Item("user", text))
            case "assistant":
                calls = message.get("tool_calls") or []
                if not text and not calls:
                    raise RefusedError("Invalid value for 'content': expected a string, got null.", where)
                if text:
                    items.append(Item("assistant", text))
                for call in calls:
                    function = call.get("function") or {}
                    if not call.get("id") or not isinstance(function.get("arguments"), str):
                        raise RefusedError(f"{where}: a tool call needs an id and arguments.", where)
                    items.append(Item("call", function["arguments"], call["id"], function["name"]))
                    waiting.append(call["id"])
            case "tool":
                if message.get("tool_call_id") not in waiting:
                    raise RefusedError(
                        "messages with role 'tool' must be a response to a preceding 'tool_calls'.", where
                    )
                waiting.remove(message["tool_call_id"])
                items.append(Item("result", text, message["tool_call_id"]))
            case _:
                raise RefusedError(f"Invalid value: '{role}' for {where}.role.", where, "invalid_value")
    if waiting:
        raise RefusedError(f"No tool output for {', '.join(waiting)}.", "messages")
    for place, tool in enumerate(body.get("tools") or []):
        function = need(tool, "function", dict)
        if need(function, "parameters", dict).get("type") != "object":
            raise RefusedError('schema must be of type "object".', f"tools[{place}].function.parameters")
    names = tuple(tool["function"]["name"] for tool in body.get("tools") or [])
    return "\n".join(instructions), tuple(items), names


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)


def _usage(counted: Counted) -> Json:
    return {
        "prompt_tokens": counted.input,
        "completion_tokens": counted.output,
        "total_tokens": counted.input + counted.output,
        "prompt_tokens_details": {"cached_tokens": counted.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counted.reasoning},
    }


def _calls(turn: Turn, number: int) -> list[Json]:
    return [
        {"id": f"call_{number}_{place}", "type": "function", "function": {"name": call.name, "arguments": call.text}}
        for place, call in enumerate(turn.calls)
    ]


def _finish(turn: Turn) -> str:
    return "tool_calls" if turn.finish == "stop" and turn.calls else turn.finish


def answer(turn: Turn, number: int, model: str, counted: Counted) -> Json:
    """The whole answer as one object."""
    message: Json = {"role": "assistant", "content": turn.text or None, "refusal": turn.refusal or None}
    if turn.calls:
        message["tool_calls"] = _calls(turn, number)
    return {
        "id": f"chatcmpl-{number}", "object": "chat.completion", "created": 1_750_000_000 + number, "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(turn)}],
        **({"usage": _usage(counted)} if turn.usage else {}),
    }  # fmt: skip


def chunks(turn: Turn, number: int, model: str, counted: Counted, *, with_usage: bool) -> list[Json]:
    """The chunks of a streamed answer, without the closing `[DONE]`."""
    told: list[Json] = []

    def tell(delta: Json, finish: str | None = None) -> None:
        told.append({
            "id": f"chatcmpl-{number}", "object": "chat.completion.chunk", "created": 1_750_000_000 + number,
            "model": model, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        })  # fmt: skip

    tell({"role": "assistant", "content": "" if turn.text else None})
    for piece in turn.pieces(turn.text):
        tell({"content": piece})
    for piece in turn.pieces(turn.refusal):
        tell({"refusal": piece})
    for place, call in enumerate(_calls(turn, number)):
        function = call["function"]
        tell({"tool_calls": [{"index": place, **call, "function": {**function, "arguments": ""}}]})
        for piece in turn.pieces(function["arguments"]):
            tell({"tool_calls": [{"index": place, "function": {"arguments": piece}}]})
    tell({}, _finish(turn))
    if with_usage and turn.usage:
        told.append({**told[0], "choices": [], "usage": _usage(counted)})
    return told
