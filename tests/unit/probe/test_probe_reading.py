"""An answer is read the same however the network cut it, and nothing that an arm sends makes the reader fail."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_world import chunk, sse

from sartor_agents.probe.reading import AnswerReader

USAGE: dict[str, Any] = {"choices": [], "usage": {"completion_tokens": 3}}
WHOLE = sse(chunk("on"), chunk("ce "), chunk("ü", finish_reason="length"), USAGE, "[DONE]")


def read(*pieces: bytes) -> AnswerReader:
    reader = AnswerReader()
    for time, piece in enumerate(pieces):
        reader.take(float(time), piece)
    return reader


def delta(**content: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": None}]}


@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_what_is_read_does_not_depend_on_where_it_was_cut(cuts: list[int]) -> None:
    at = sorted({0, len(WHOLE), *cuts})
    reader = read(*(WHOLE[a:b] for a, b in itertools.pairwise(at)))
    assert (reader.fault, reader.done, reader.tokens, reader.stopped) == ("", True, 3, False)
    assert reader.texts() == {(0, "text"): "once ü"}
    assert [size for _, size in reader.arrivals] == [2, 3, 2], "bytes, not characters"


def test_text_is_dated_by_the_piece_that_completed_its_event() -> None:
    first, second = sse(chunk("a")), sse(chunk("b"))
    assert read(first[:5], first[5:] + second[:9], second[9:]).arrivals == [(1.0, 1), (2.0, 1)]


def test_an_event_without_text_is_no_token() -> None:
    reader = read(sse(delta(role="assistant", content="")), sse(delta(content="hi")), sse(delta(content=None)))
    assert reader.arrivals == [(1.0, 2)]
    assert reader.began


def test_chat_reasoning_refusals_and_tool_calls_are_text() -> None:
    reader = read(
        sse(
            delta(content="con"),
            delta(content="tent"),
            delta(reasoning="why", reasoning_content="why"),
            delta(reasoning_content="!"),
            delta(refusal="no"),
            delta(tool_calls=[{"index": 1, "id": "drawn-1", "function": {"name": "f", "arguments": ""}}]),
            delta(tool_calls=[{"index": 1, "function": {"arguments": '{"a":'}}]),
            delta(tool_calls=[{"index": 1, "function": {"arguments": "1}"}}]),
            delta(function_call={"name": "old"}),
        )
    )
    assert reader.texts() == {
        (0, "content"): "content",
        (0, "reasoning"): "why!",
        (0, "refusal"): "no",
        (0, "tool 1 name"): "f",
        (0, "tool 1 arguments"): '{"a":1}',
        (0, "tool 0 name"): "old",
    }
    assert len(reader.arrivals) == 9
    assert reader.choices == 1


def test_choices_are_kept_apart() -> None:
    reader = read(sse(chunk("a"), chunk("b", index=1), chunk("c")))
    assert reader.texts() == {(0, "text"): "ac", (1, "text"): "b"}
    assert reader.choices == 2


def test_a_model_that_ends_by_itself_is_noticed() -> None:
    assert read(sse(chunk("", finish_reason="stop"))).stopped


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"data: {\n\n", "stream"),
        (b"data: \xff\xfe\n\n", "stream"),
        (b"data: 7\n\n", "stream"),
        (b"data: {}\n\n", "stream"),
        (b'data: {"choices": {}}\n\n', "stream"),
        (b'data: {"choices": [7]}\n\n', "stream"),
        (b'data: {"choices": [{"text": 7}]}\n\n', "stream"),
        (b'data: {"choices": [{"delta": "x"}]}\n\n', "stream"),
        (b'data: {"choices": [{"index": "x", "text": "a"}]}\n\n', "stream"),
        (b'data: {"choices": [{"delta": {"content": ["a"]}}]}\n\n', "stream"),
        (b'data: {"choices": [{"delta": {"tool_calls": 5}}]}\n\n', "stream"),
        (b'data: {"choices": [{"delta": {"tool_calls": [5]}}]}\n\n', "stream"),
        (b'data: {"choices": [{"delta": {"function_call": 5, "tool_calls": 6}}]}\n\n', "stream"),
        (sse("[DONE]", USAGE), "stream"),
        (b"data: " + b"[" * 200_000 + b"\n\n", "stream"),
        (b'data: {"error": {"message": "boom"}, "choices": []}\n\n', "error"),
        (b'data: {"error": "boom"}\n\ndata: [DONE]\n\n', "error"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_defect_has_a_kind_and_ends_the_reading(data: bytes, fault: str) -> None:
    reader = read(data, sse(chunk("late"), "[DONE]"))
    assert reader.fault == fault
    assert reader.arrivals == []


@pytest.mark.parametrize("usage", [None, [], 5, {}, {"completion_tokens": "3"}, {"completion_tokens": True},
                                   {"completion_tokens": -1}, {"completion_tokens": 2.5}])  # fmt: skip
def test_usage_that_is_no_count_is_none(usage: object) -> None:
    reader = read(sse({"choices": [], "usage": usage}))
    assert (reader.fault, reader.tokens) == ("", None)


def test_half_a_character_is_text_like_any_other() -> None:
    reader = read(b'data: {"choices": [{"text": "\\ud83d"}]}\n\n')
    assert (reader.fault, reader.arrivals) == ("", [(0.0, 3)])


@given(
    st.lists(
        st.one_of(st.binary(max_size=40), st.sampled_from([WHOLE, b"data: ", b"\n\n", b"{}", b"[DONE]"])), max_size=9
    )
)
def test_garbage_is_read_without_an_error(pieces: list[bytes]) -> None:
    reader = read(*pieces)
    assert reader.fault in ("", "stream", "error")
    json.dumps([str(channel) for channel in reader.texts()])


def test_an_endless_line_costs_linear_work() -> None:
    """16 MB without a line's end, in pieces of 256 bytes: copying what is held at each piece would be 500 GB."""
    reader = read(*(b"x" * 256 for _ in range(65_536)))
    assert not reader.began
