"""The Responses protocol: requests checked as strictly as the real service does, answers as events or as one object."""

from typing import Any

from scripted_provider.wire import Counted, Item, Json, RefusedError, Turn, check_fields, need

FIELDS = frozenset({
    "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "store",
    "include", "reasoning", "text", "max_output_tokens", "prompt_cache_key", "temperature", "top_p", "metadata",
    "truncation", "service_tier", "safety_identifier", "user", "client_metadata",
})  # fmt: skip


def read(body: Json) -> tuple[str, tuple[Item, ...], tuple[str, ...]]:
    """Instructions, items and tool names of a request. Raises `RefusedError`."""
    check_fields(body, FIELDS)
    given = body.get("input")
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise RefusedError("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    items = tuple(item for place, one in enumerate(given) for item in _items(one, f"input[{place}]"))
    _check_pairs(items)
    for place, tool in enumerate(body.get("tools") or []):
        if tool.get("type") == "function":
            need(tool, "name", str)
            if need(tool, "parameters", dict).get("type") != "object":
                raise RefusedError(
                    f"Invalid schema for function '{tool['name']}': schema must be of type \"object\".",
                    f"tools[{place}].parameters", "invalid_function_parameters",
                )  # fmt: skip
    told = (body.get("text") or {}).get("format")
    if told and told.get("type") == "json_schema":
        need(told, "name", str)
        need(told, "schema", dict)
    names = tuple(str(tool.get("name") or tool.get("type")) for tool in body.get("tools") or [])
    return str(body.get("instructions") or ""), items, names


def _items(one: Json, where: str) -> list[Item]:
    match one.get("type", "message"):
        case "message":
            role = one.get("role")
            if role not in ("user", "assistant", "system", "developer"):
                raise RefusedError(f"Invalid value: '{role}' for {where}.role.", where, "invalid_value")
            content = one.get("content")
            kind = {"assistant": ("output_text", "refusal")}.get(role, ("input_text", "input_image"))
            if isinstance(content, list):
                for part in content:
                    if part.get("type") not in kind:
                        raise RefusedError(f"Invalid value: '{part.get('type')}'. Supported values are: {kind}.", where)
                content = "".join(str(part.get("text", part.get("refusal", ""))) for part in content)
            return [Item("assistant" if role == "assistant" else "user", str(content))]
        case "function_call" | "custom_tool_call":
            arguments = one.get("arguments", one.get("input"))
            if not one.get("call_id") or not one.get("name") or not isinstance(arguments, str):
                raise RefusedError(f"{where}: a call needs call_id, name and arguments.", where)
            return [Item("call", arguments, str(one["call_id"]), str(one["name"]))]
        case "local_shell_call":
            return [Item("call", str(one.get("action")), str(one["call_id"]), "local_shell")]
        case "function_call_output" | "custom_tool_call_output" | "local_shell_call_output":
            output = one.get("output")
            if not isinstance(output, str | list):
                raise RefusedError(f"{where}.output has to be text.", where)
            text = output if isinstance(output, str) else "".join(str(part.get("text", "")) for part in output)
            return [Item("result", text, str(one.get("call_id", "")))]
        case "reasoning":
            if not one.get("encrypted_content"):
                raise RefusedError(f"Item '{one.get('id')}' not found: with store=false send encrypted_content.", where)
            return [Item("reasoning", str(one["encrypted_content"]))]
        case other:
            raise RefusedError(f"Invalid value: '{other}' for {where}.type.", where, "invalid_value")


def _check_pairs(items: tuple[Item, ...]) -> None:
    calls = [item.id for item in items if item.kind == "call"]
    results = [item.id for item in items if item.kind == "result"]
    for one in results:
        if one not in calls:
            raise RefusedError(f"No tool call found for function call output with call_id {one}.", "input")
    for one in calls:
        if one not in results:
            raise RefusedError(f"No tool output found for function call {one}.", "input")
    if len(set(calls)) != len(calls) or len(set(results)) != len(results):
        raise RefusedError("Duplicate call_id.", "input")


def _usage(counted: Counted) -> Json:
    return {
        "input_tokens": counted.input,
        "input_tokens_details": {"cached_tokens": counted.cached, "cache_write_tokens": 0},
        "output_tokens": counted.output,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.input + counted.output,
    }


def _output(turn: Turn, number: int) -> list[Json]:
    done: list[Json] = []
    if turn.reasoning:
        done.append({
            "id": f"rs_{number}", "type": "reasoning", "summary": [], "encrypted_content": f"sealed:{turn.reasoning}",
        })  # fmt: skip
    if turn.text or turn.refusal or not turn.calls:
        part: Json = {"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}
        if turn.refusal:
            part = {"type": "refusal", "refusal": turn.refusal}
        done.append({
            "id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [part],
        })  # fmt: skip
    for place, call in enumerate(turn.calls):
        done.append({
            "id": f"fc_{number}_{place}", "type": "function_call", "status": "completed", "name": call.name,
            "call_id": f"call_{number}_{place}", "arguments": call.text,
        })  # fmt: skip
    return done


def answer(turn: Turn, number: int, model: str, counted: Counted) -> Json:
    """The whole answer as one object."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(turn.finish)
    return {
        "id": f"resp_{number}", "object": "response", "created_at": 1_750_000_000 + number, "model": model,
        "status": "incomplete" if reason else "completed", "error": None,
        "incomplete_details": {"reason": reason} if reason else None, "instructions": None, "metadata": {},
        "output": _output(turn, number), "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0,
        "tool_choice": "auto", "tools": [], "usage": _usage(counted) if turn.usage else None,
    }  # fmt: skip


def events(turn: Turn, number: int, model: str, counted: Counted) -> list[Json]:
    """The events of a streamed answer, in the order of the real service."""
    whole = answer(turn, number, model, counted)
    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    told: list[Json] = []

    def tell(kind: str, **values: Any) -> None:
        told.append({"type": kind, "sequence_number": len(told), **values})

    tell("response.created", response=begun)
    tell("response.in_progress", response=begun)
    for place, item in enumerate(whole["output"]):
        where = {"item_id": item["id"], "output_index": place}
        match item["type"]:
            case "message":
                part = item["content"][0]
                name, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
                inside = {**where, "content_index": 0}
                tell("response.output_item.added", output_index=place,
                     item={**item, "status": "in_progress", "content": []})  # fmt: skip
                tell("response.content_part.added", **inside, part={**part, key: ""})
                for piece in turn.pieces(part[key]):
                    tell(f"response.{name}.delta", **inside, delta=piece)
                tell(f"response.{name}.done", **inside, **{key: part[key]})
                tell("response.content_part.done", **inside, part=part)
            case "function_call":
                tell("response.output_item.added", output_index=place,
                     item={**item, "status": "in_progress", "arguments": ""})  # fmt: skip
                for piece in turn.pieces(item["arguments"]):
                    tell("response.function_call_arguments.delta", **where, delta=piece)
                tell("response.function_call_arguments.done", **where, name=item["name"], arguments=item["arguments"])
            case _:
                tell("response.output_item.added", output_index=place, item={**item, "encrypted_content": ""})
        tell("response.output_item.done", output_index=place, item=item)
    tell(f"response.{whole['status']}", response=whole)
    return told
