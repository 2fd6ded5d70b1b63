"""The scripted provider speaks the real protocols: the official client reads it, and what the service refuses it refuses."""

import time
from typing import Any

import openai
import pytest
from scripted_provider import Call, Cut, Provider, Raw, Seen, Stall, Status, Turn
from scripted_provider.programs import outage, sloppy, spendthrift
from scripted_provider.wire import Item

TOOL = {"name": "read_file", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}
RESPONSES_TOOL: Any = {"type": "function", "strict": False, **TOOL}
CHAT_TOOL: Any = {"type": "function", "function": TOOL}
TWO = Turn(
    text="Let me look. " * 9,
    reasoning="two files",
    calls=(Call("read_file", {"path": "a.py"}), Call("read_file", {"path": "b.py"})),
)


def client(provider: Provider, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=provider.url, api_key=provider.key, max_retries=0, **more)


def ask(provider: Provider, **more: Any) -> Any:
    return client(provider).responses.create(model=provider.model, input="Go.", store=False, **more)


def chat(provider: Provider, **more: Any) -> Any:
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    return client(provider).chat.completions.create(model=provider.model, messages=messages, **more)


def test_responses_whole_and_streamed_say_the_same() -> None:
    with Provider(lambda seen: TWO) as provider:
        whole = ask(provider, tools=[RESPONSES_TOOL])
        events = list(ask(provider, tools=[RESPONSES_TOOL], stream=True))
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    assert whole.output_text == TWO.text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TWO.text
    last = events[-1].response
    assert [item.model_dump(exclude={"id", "call_id"}) for item in last.output] == [
        item.model_dump(exclude={"id", "call_id"}) for item in whole.output
    ]
    assert last.usage.total_tokens == last.usage.input_tokens + last.usage.output_tokens > 0
    assert last.output[2].arguments == '{"path": "a.py"}'


def test_the_clients_own_stream_helper_understands_it() -> None:
    with Provider(lambda seen: TWO) as provider:
        with client(provider).responses.stream(model=provider.model, input="Go.", store=False) as stream:
            final = stream.get_final_response()
        messages: Any = [{"role": "user", "content": "Go."}]
        with client(provider).chat.completions.stream(model=provider.model, messages=messages) as chunks:
            whole = chunks.get_final_completion()
    assert final.output_text == TWO.text
    assert whole.choices[0].message.content == TWO.text
    assert [c.function.name for c in whole.choices[0].message.tool_calls or []] == ["read_file", "read_file"]


def test_chat_completions_whole_and_streamed_say_the_same() -> None:
    with Provider(lambda seen: TWO) as provider:
        whole = chat(provider, tools=[CHAT_TOOL])
        chunks = list(chat(provider, tools=[CHAT_TOOL], stream=True, stream_options={"include_usage": True}))
    message = whole.choices[0].message
    assert (message.content, whole.choices[0].finish_reason) == (TWO.text, "tool_calls")
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == TWO.text
    calls = {0: "", 1: ""}
    for delta in deltas:
        for call in delta.tool_calls or []:
            calls[call.index] += call.function.arguments or ""
    assert list(calls.values()) == [call.function.arguments for call in message.tool_calls]
    assert chunks[-1].usage == whole.usage


def test_it_counts_what_a_prefix_cache_would_find() -> None:
    opening = "All about this model and its machine. " * 400
    with Provider(lambda seen: Turn(text="ok")) as provider:
        for question in ("one", "two"):
            response = client(provider).responses.create(
                model=provider.model, instructions=opening, input=question, store=False
            )
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 3712  # 29 steps of 128 of 15200/4 = 3800
    assert provider.paid[0].cached == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "No tool call found"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
            "No tool output found",
        ),
        ({"input": [{"role": "robot", "content": "x"}]}, "Invalid value: 'robot'"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]}, "Supported values"),
        ({"input": "x", "model": "gpt-nothing"}, "does not exist"),
        ({"input": "x", "extra_body": {"colour": "red"}}, "Unknown parameter: 'colour'"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "encrypted_content"),
        ({"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {}}]}, "must be of type"),
    ],
)
def test_what_the_real_service_refuses_is_refused(body: Any, told: str) -> None:
    with Provider(lambda seen: Turn(text="ok")) as provider:
        with pytest.raises(openai.BadRequestError, match=told):
            client(provider).responses.create(**{"model": provider.model, **body})
        assert provider.seen == []


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "tool", "tool_call_id": "c", "content": "x"}],
        [
            {"role": "assistant", "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "user", "content": "and?"},
        ],
        [{"role": "assistant", "content": None}],
    ],
)  # fmt: skip
def test_chat_calls_and_their_results_belong_together(messages: Any) -> None:
    with Provider(lambda seen: Turn(text="ok")) as provider, pytest.raises(openai.BadRequestError):
        client(provider).chat.completions.create(model=provider.model, messages=messages)


def test_a_wrong_key_is_refused() -> None:
    with Provider(lambda seen: Turn(text="ok")) as provider, pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=provider.url, api_key="sk-other").responses.create(model=provider.model, input="x")


def test_faults_look_like_the_real_ones() -> None:
    faults = [
        Status(429, "slow down", retry_after="3", error_code="rate_limit_exceeded"),
        Cut(Turn(text="x" * 400), after=6),
        Stall(30, after=2),
        Raw(b"data: {nonsense\n\n"),
    ]
    with Provider(lambda seen: faults[seen.number - 1]) as provider:
        with pytest.raises(openai.RateLimitError) as limited:
            ask(provider)
        assert limited.value.response.headers["retry-after"] == "3"
        assert limited.value.code == "rate_limit_exceeded"
        with pytest.raises(openai.APIConnectionError):
            list(ask(provider, stream=True))
        began = time.monotonic()
        with pytest.raises(openai.APITimeoutError):
            list(ask(provider, stream=True, timeout=0.3))
        assert time.monotonic() - began < 5
        with pytest.raises(ValueError, match="Expecting"):
            list(ask(provider, stream=True))


def test_programs_decide_by_what_they_see() -> None:
    with Provider(spendthrift.spender("read_file", tokens=9)) as provider:
        first = ask(provider, tools=[RESPONSES_TOOL])
        call = first.output[-1]
        given: Any = [
            {"role": "user", "content": "Go."},
            {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "sealed"},
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
            {"type": "function_call_output", "call_id": call.call_id, "output": "no such file"},
        ]
        second = client(provider).responses.create(model=provider.model, input=given, store=False)
    assert [r.output[-1].arguments for r in (first, second)] == [
        '{"path": "stack/attempt_0.py"}',
        '{"path": "stack/attempt_1.py"}',
    ]
    assert second.usage is not None
    assert second.usage.output_tokens == 9
    assert provider.seen[1].results[0].text == "no such file"


def test_an_outage_ends_and_a_sloppy_model_comes_to_its_answer() -> None:
    def seen(turns: int) -> Seen:
        items = tuple(Item(kind) for _ in range(turns) for kind in ("call", "result"))
        return Seen("chat", 1, "m", "", items, (), True, {})

    program = outage.Before(sloppy.bungles('{"action": "stop"}'), outage.TROUBLE[:2])
    assert [program(seen(0)) for _ in range(2)] == list(outage.TROUBLE[:2])
    assert program(seen(20)) == Turn(text='{"action": "stop"}')
    assert isinstance(program(seen(0)), Turn)
