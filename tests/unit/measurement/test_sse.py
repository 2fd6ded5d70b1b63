"""The event stream is read the same however the network cut it, and every defect has a reason."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.measurement.sse import StreamError, events, parse_stream, parse_whole

TEXTS = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=8)


def stream(texts: list[str], *, end: str = "\n", done: bool = True) -> bytes:
    lines = [json.dumps({"choices": [{"text": t}]}, ensure_ascii=False) for t in texts]
    lines.append(json.dumps({"choices": [{"text": "", "finish_reason": "length"}]}))
    lines.append(json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": len(texts)}}))
    if done:
        lines.append("[DONE]")
    return "".join(f"data: {line}{end}{end}" for line in lines).encode("utf-8", "surrogatepass")


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(1, 400), max_size=30),
)
def test_text_does_not_depend_on_where_the_stream_was_cut(texts: list[str], end: str, cuts: list[int]) -> None:
    data = stream(texts, end=end)
    at = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    pieces = [(float(i), data[a:b]) for i, (a, b) in enumerate(itertools.pairwise(at))]
    answer = parse_stream(pieces)
    assert answer.text == "".join(texts)
    assert answer.finish_reason == "length"
    assert answer.usage_completion == len(texts)
    times = [time for time, _ in answer.parts]
    assert times == sorted(times)


def test_an_event_is_dated_by_the_piece_that_completed_it() -> None:
    data = stream(["a", "b"])
    middle = data.index(b"\n\n") + 1
    answer = parse_stream([(1.0, data[:middle]), (2.0, data[middle:])])
    assert answer.parts == [(2.0, "a"), (2.0, "b")]


def test_comments_and_several_data_lines() -> None:
    assert list(events([(1.0, b": ping\n\ndata: a\ndata:b\nid: 7\n\n")])) == [(1.0, b"a\nb")]


def test_a_line_end_that_was_cut_in_two_is_one() -> None:
    assert list(events([(1.0, b"data: a\r"), (2.0, b"\ndata: b\r"), (3.0, b""), (4.0, b"\n\r\n")])) == [(4.0, b"a\nb")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (stream(["a"], done=False), "without \\[DONE\\]"),
        (b"", "without \\[DONE\\]"),
        (b'data: {"choices": [\n\n', "not JSON"),
        (b"data: \xff\xfe\n\n", "not UTF-8"),
        (b'data: {"error": {"message": "boom"}}\n\n', "boom"),
        (b"data: 7\n\n", "not a JSON object"),
        (b'data: {"choices": [{"text": 5}]}\n\n', "not a string"),
        (b'data: {"choices": [7]}\n\n', "unexpected shape"),
        (b"data: {}\n\n", "no `choices`"),
        (b"data: [DONE]\n\ndata: {}\n\n", "after \\[DONE\\]"),
    ],
)
def test_a_defect_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        parse_stream([(0.0, data)])


def test_chat_deltas_and_whole_messages() -> None:
    data = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\ndata: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
    assert parse_stream([(0.0, data + b"data: [DONE]\n\n")]).text == "hi"
    body = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()
    answer = parse_whole([(0.0, body[:9]), (1.0, body[9:])])
    assert answer.parts == [(1.0, "hi")] and answer.finish_reason == "stop"
    with pytest.raises(StreamError, match="body is not JSON"):
        parse_whole([])
