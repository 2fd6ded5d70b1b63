"""The Chat Completions protocol: a request from a conversation, and an answer from a stream of chunks."""

from collections.abc import Iterable
from typing import Any

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.messages import Answer, Call, End, Item, Result, Said
from sartor_agents.backends.openai.errors import TOO_LONG_ANSWER, TransientError, failed_answer
from sartor_agents.backends.openai.wire import LONGEST_STREAM, Json, Params, sendable, with_ids

PATH = "/chat/completions"
MOST_CALLS = 1024
"""Calls of one answer, beyond which it is broken off: an index may be any number."""


def parameters(params: Params) -> Json:
    """What `POST /chat/completions` takes: what never changes first, then the conversation, which only grows at its end."""
    request, settings = params.request, params.settings
    body: Json = {"model": settings.model, "stream": True}
    if params.wants("usage"):
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.schema}}
            for t in request.tools
        ]
        body["tool_choice"] = "auto" if request.may_call else "none"
        if params.wants("parallel"):
            body["parallel_tool_calls"] = True
    if settings.effort is not None and params.wants("effort"):
        body["reasoning_effort"] = settings.effort
    if settings.cache_key and params.wants("cache_key"):
        body["prompt_cache_key"] = settings.cache_key
    if request.maximum_output_tokens is not None:
        # The newer name is the only one that reasoning models take, the older one all that some servers know.
        name = "max_completion_tokens" if params.wants("completion_tokens") else "max_tokens"
        body[name] = request.maximum_output_tokens
    if params.schema_due and request.schema is not None:
        told = {"name": request.schema.name, "schema": request.schema.schema, "strict": False}
        body["response_format"] = {"type": "json_schema", "json_schema": told}
    body["messages"] = [
        {"role": "system", "content": request.instructions},
        *(message for item in request.items for message in _sent(item)),
    ]
    return body


def _sent(item: Item) -> list[Json]:
    match item:
        case Said():
            return [{"role": "user", "content": item.text}]
        case Result():
            return [{"role": "tool", "tool_call_id": item.call, "content": item.text}]
        case Answer():
            answer = sendable(item)
            message: Json = {"role": "assistant", "content": answer.text or None}
            if answer.calls:
                message["tool_calls"] = [
                    {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                    for call in answer.calls
                ]
            return [message]


def answer(chunks: Iterable[Any], number: str) -> Answer:
    """The answer that the chunks make. Raises `TransientError` for a stream without its end, and what errors mean."""
    text: list[str] = []
    refusal: list[str] = []
    ids: dict[int, str] = {}
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    finish: str | None = None
    use = TokenUse()
    heard = 0
    for chunk in chunks:
        if getattr(chunk, "usage", None) is not None:
            use = _use(chunk.usage)
        for choice in chunk.choices or ():
            if choice.index:
                continue
            delta = choice.delta
            if delta is not None:
                text.append(delta.content or "")
                refusal.append(getattr(delta, "refusal", None) or "")
                for call in delta.tool_calls or ():
                    place = call.index if isinstance(call.index, int) else len(ids)
                    ids[place] = ids.get(place) or call.id or ""
                    if call.function is not None:
                        names[place] = names.get(place, "") or call.function.name or ""
                        arguments.setdefault(place, []).append(call.function.arguments or "")
                        heard += len(call.function.arguments or "")
                heard += len(text[-1]) + len(refusal[-1])
            finish = choice.finish_reason or finish
        if heard > LONGEST_STREAM or len(ids) > MOST_CALLS:
            raise failed_answer(TOO_LONG_ANSWER, f"an answer of more than {LONGEST_STREAM >> 20} MiB")
    if finish is None:
        raise TransientError("the provider's answer ended before its end")
    calls = [Call(ids[place], names.get(place, ""), "".join(arguments.get(place, ()))) for place in sorted(ids)]
    refused = "".join(refusal)
    return Answer(
        text="".join(text) or refused,
        calls=with_ids(calls, number),
        end=End.REFUSED if refused else {"length": End.CUT, "content_filter": End.FILTERED}.get(finish, End.DONE),
        use=use,
    )


def _use(usage: Any) -> TokenUse:
    return TokenUse.reported(
        input=usage.prompt_tokens,
        output=usage.completion_tokens,
        cached=getattr(usage.prompt_tokens_details, "cached_tokens", 0),
        reasoning=getattr(usage.completion_tokens_details, "reasoning_tokens", 0),
    )
