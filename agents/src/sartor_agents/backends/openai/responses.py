"""The Responses protocol: a request from a conversation, and an answer from a stream of events."""

from collections.abc import Iterable
from typing import Any

from pydantic import JsonValue

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.messages import Answer, Call, End, Item, Result, Said
from sartor_agents.backends.openai.errors import TOO_LONG_ANSWER, TransientError, failed_answer
from sartor_agents.backends.openai.wire import LONGEST_STREAM, Json, Params, plain, sendable, with_ids

PATH = "/responses"
SENT_BACK = frozenset({"message", "function_call", "reasoning"})
"""Kinds of output that a next request repeats."""


def parameters(params: Params) -> Json:
    """What `POST /responses` takes: what never changes first, then the conversation, which only grows at its end."""
    request, settings = params.request, params.settings
    body: Json = {"model": settings.model, "instructions": request.instructions, "stream": True}
    if params.wants("store"):
        body["store"] = False
    if request.tools:
        body["tools"] = [
            {"type": "function", "name": t.name, "description": t.description, "parameters": t.schema, "strict": False}
            for t in request.tools
        ]
        body["tool_choice"] = "auto" if request.may_call else "none"
        if params.wants("parallel"):
            body["parallel_tool_calls"] = True
    if params.wants("reasoning_content"):
        body["include"] = ["reasoning.encrypted_content"]
    if settings.effort is not None and params.wants("effort"):
        body["reasoning"] = {"effort": settings.effort}
    if settings.cache_key and params.wants("cache_key"):
        body["prompt_cache_key"] = settings.cache_key
    if request.maximum_output_tokens is not None:
        body["max_output_tokens"] = request.maximum_output_tokens
    if params.schema_due and request.schema is not None:
        told = {"type": "json_schema", "name": request.schema.name, "schema": request.schema.schema, "strict": False}
        body["text"] = {"format": told}
    body["input"] = [one for item in request.items for one in _sent(item)]
    return body


def _sent(item: Item) -> list[Json]:
    match item:
        case Said():
            return [_message("user", "input_text", item.text)]
        case Result():
            return [{"type": "function_call_output", "call_id": item.call, "output": item.text}]
        case Answer():
            answer = sendable(item)
            if answer.native:
                return [dict(one) for one in answer.native]
            said = [_message("assistant", "output_text", answer.text)] if answer.text else []
            made = [
                {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
                for call in answer.calls
            ]
            return [*said, *made]


def _message(role: str, kind: str, text: str) -> Json:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def answer(events: Iterable[Any], number: str) -> Answer:
    """The answer that the events make. Raises `TransientError` for a stream without its end, and what errors mean."""
    done: list[Any] = []
    heard = 0
    for event in events:
        heard += len(getattr(event, "delta", "") or "")
        if heard > LONGEST_STREAM:
            raise failed_answer(TOO_LONG_ANSWER, f"an answer of more than {LONGEST_STREAM >> 20} MiB")
        match event.type:
            case "response.output_item.done":
                done.append(event.item)
            case "response.completed" | "response.incomplete":
                return _whole(event.response, done, number)
            case "response.failed":
                error = event.response.error
                raise failed_answer(error.code if error else "", error.message if error else "no reason was given")
            case "error":
                raise failed_answer(event.code or "", event.message)
            case _:
                pass
    raise TransientError("the provider's answer ended before its end")


def _whole(response: Any, done: list[Any], number: str) -> Answer:
    output = done or list(response.output or ())
    texts: list[str] = []
    refusals: list[str] = []
    calls: list[Call] = []
    native: list[dict[str, JsonValue]] = []
    for item in output:
        match item.type:
            case "message":
                for part in item.content or ():
                    (refusals if part.type == "refusal" else texts).append(getattr(part, "text", "") or _refusal(part))
            case "function_call":
                calls.append(Call(item.call_id or "", item.name or "", item.arguments or ""))
            case _:
                pass
        if item.type in SENT_BACK and _readable(item):
            native.append(plain(item))
    details = response.incomplete_details
    end = End.DONE
    if refusals:
        end = End.REFUSED
    elif details is not None:
        end = End.FILTERED if details.reason == "content_filter" else End.CUT
    made = with_ids(calls, number)
    return Answer(
        text="".join(texts) or "".join(refusals),
        calls=made,
        end=end,
        use=_use(response.usage),
        native=tuple(native) if made == tuple(calls) else (),
    )


def _refusal(part: Any) -> str:
    return str(getattr(part, "refusal", "") or "")


def _readable(item: Any) -> bool:
    """Reasoning of which neither text nor the sealed form came along means nothing to a service that keeps nothing."""
    return item.type != "reasoning" or bool(item.encrypted_content or item.content)


def _use(usage: Any) -> TokenUse:
    if usage is None:
        return TokenUse()
    return TokenUse.reported(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cached=getattr(usage.input_tokens_details, "cached_tokens", 0),
        reasoning=getattr(usage.output_tokens_details, "reasoning_tokens", 0),
    )
