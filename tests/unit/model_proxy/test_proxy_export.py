"""What an exported answer holds no more: secrets, whole or in pieces."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import Call, Turn, chat, responses
from scripted_provider.wire import Counted

from sartor_agents.model_proxy.exported import redacted
from sartor_agents.transcripts.redact import REDACTED, Redactor

KNOWN = "the-providers-own-key-0123456789"
FORMED = "sk-abcdefghijklmnopqrstuvwxyz"
REDACT = Redactor([KNOWN])


def stream(api: str, turn: Turn) -> str:
    counted = Counted(1, 0, 1)
    if api == "responses":
        events = responses.events(turn, 1, "scripted-1", counted)
    else:
        events = chat.chunks(turn, 1, "scripted-1", counted, with_usage=True)
    return "".join(f"data: {json.dumps(one)}\n\n" for one in events)


def joined(answer: str) -> str:
    """Every text of the answer in its order, by the name of its field: how a reader would put it together."""
    found: dict[str, list[str]] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                walk(one, key)
        elif isinstance(value, list):
            for one in value:
                walk(one, name)
        elif isinstance(value, str):
            found.setdefault(name, []).append(value)

    for line in answer.splitlines():
        if line.startswith("data: {"):
            walk(json.loads(line.removeprefix("data: ")), "")
    return "\n".join("".join(parts) for parts in found.values())


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("secret", [KNOWN, FORMED])
@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
def test_a_secret_that_came_in_pieces_is_in_none_of_them(api: str, secret: str, piece: int) -> None:
    called = Call("write_file", {"path": "a", "content": f"key = '{secret}'"})
    before = stream(api, Turn(text=f"I found {secret} there, and go on.", calls=(called,), piece=piece))
    assert secret in joined(before), "this is what it is about"
    after = redacted(before, REDACT)
    assert secret not in joined(after) and secret not in after
    assert REDACTED in after
    assert "go on." in joined(after), "the rest is there"
    assert after.count("data: ") == before.count("data: "), "and every event"


def test_texts_of_several_calls_are_kept_apart() -> None:
    """Two calls that come by turns: put together in the order of events neither would be found."""
    half, rest = FORMED[:9], FORMED[9:]
    chunks = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": n, "function": {"arguments": text}}]}}]}
        for n, text in ((0, half), (1, "other "), (0, rest), (1, "words"))
    ]
    after = redacted("".join(f"data: {json.dumps(one)}\n\n" for one in chunks), REDACT)
    said = [json.loads(line[6:])["choices"][0]["delta"]["tool_calls"][0] for line in after.split("\n\n") if line]
    assert [one["function"]["arguments"] for one in said] == [REDACTED, "other ", "", "words"]


def test_a_body_and_lines_that_are_no_events_are_redacted_as_they_are() -> None:
    assert json.loads(redacted(json.dumps({"text": FORMED}), REDACT)) == {"text": REDACTED}
    assert (
        redacted(f": {FORMED}\ndata: [DONE]\ndata: {{{KNOWN}", REDACT)
        == f": {REDACTED}\ndata: [DONE]\ndata: {{{REDACTED}"
    )


texts = st.text(alphabet="ab \n", max_size=12)


@given(texts, st.sampled_from([KNOWN, FORMED]), texts, st.lists(st.integers(0, 60), max_size=6))
def test_however_it_is_cut_the_pieces_are_those_of_the_redacted_text(
    before: str, secret: str, after: str, cuts: list[int]
) -> None:
    text = f"{before} {secret} {after}"
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(places)]
    made = REDACT.pieces(parts)
    assert len(made) == len(parts)
    assert "".join(made) == REDACT(text) == f"{before} {REDACTED} {after}"
