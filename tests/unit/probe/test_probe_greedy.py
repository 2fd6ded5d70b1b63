"""The copy is the user's request, made greedy and streamed, and nothing else of it changes."""

import json
from typing import Any

import pytest

from sartor_agents.probe.greedy import UnfitError, encode_copy, greedy_body


def greedy(request: dict[str, Any]) -> dict[str, Any]:
    return json.loads(greedy_body(json.dumps(request).encode(), "salt"))


def test_sampling_becomes_greedy_and_the_answer_a_stream() -> None:
    made = greedy({"prompt": "p", "temperature": 0.7, "n": 3, "best_of": 5, "stream": False})
    assert (made["temperature"], made["n"], made["best_of"], made["stream"]) == (0, 1, 1, True)
    assert made["stream_options"] == {"include_usage": True}
    assert "best_of" not in greedy({"prompt": "p"})


def test_all_other_fields_go_through() -> None:
    request: dict[str, Any] = {
        "model": "m", "messages": [{"role": "user", "content": "ü \ud800"}], "max_tokens": 7, "top_p": 0.3, "seed": 5,
        "prediction": {"type": "content", "content": "x" * 100}, "tools": [{"type": "function"}],
        "unknown": {"a": [1.5, None]},
        "stream_options": {"include_usage": False, "continuous_usage_stats": True},
    }  # fmt: skip
    made = greedy(request)
    changed = {"temperature", "n", "stream", "stream_options", "cache_salt"}
    assert {k: v for k, v in made.items() if k not in changed} == {k: v for k, v in request.items() if k not in changed}
    assert made["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


@pytest.mark.parametrize("options", [None, 5, [], "x"])
def test_stream_options_of_a_wrong_type_are_replaced(options: object) -> None:
    assert greedy({"prompt": "p", "stream_options": options})["stream_options"] == {"include_usage": True}


def test_copies_share_a_salt_and_keep_the_users_apart() -> None:
    plain, one, two = (greedy({"cache_salt": theirs})["cache_salt"] for theirs in (None, "one", "two"))
    assert plain == greedy({})["cache_salt"] == "salt"
    assert len({plain, one, two}) == 3
    assert one == greedy({"cache_salt": "one"})["cache_salt"]
    assert "one" not in one
    assert len(one) <= 128, "vLLM takes no more"


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[1]", b'"x"', b"\xff\xfe\x00", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 10_000,
        b'{"prompt": "p", "use_beam_search": true}',
    ],
    ids=["nothing", "cut", "list", "text", "no text", "deep list", "deep object", "long number", "beam search"],
)  # fmt: skip
def test_what_cannot_be_made_greedy_is_unfit(body: bytes) -> None:
    with pytest.raises(UnfitError) as error:
        greedy_body(body, "salt")
    assert len(str(error.value)) < 40, "its content is not repeated"


def lines(*headers: tuple[bytes, bytes], target: str = "/v1/completions") -> list[bytes]:
    made = encode_copy("http://arm:80", target, headers, b"{}", request_id="new")
    head, body = made.split(b"\r\n\r\n", 1)
    assert body == b"{}"
    return head.split(b"\r\n")


def test_the_copy_is_addressed_anew() -> None:
    made = lines(
        (b"Host", b"users"), (b"Content-Length", b"99"), (b"X-Request-Id", b"old"), target="/v1/completions?a=b"
    )
    assert made[0] == b"POST /v1/completions?a=b HTTP/1.1"
    assert sorted(made[1:]) == [b"content-length: 2", b"host: arm:80", b"x-request-id: new"]


def test_headers_of_the_user_go_through_and_those_of_the_hop_do_not() -> None:
    made = lines(
        (b"Authorization", b"Bearer k"), (b"Content-Type", b"application/json"), (b"X-Tenant", b"\xc3\xbc"),
        (b"Connection", b"keep-alive, X-Hop"), (b"X-Hop", b"1"), (b"Transfer-Encoding", b"chunked"), (b"TE", b"trailers"),
        (b"Expect", b"100-continue"), (b"Accept-Encoding", b"gzip"),
    )  # fmt: skip
    given = set(made[1:]) - {b"content-length: 2", b"host: arm:80", b"x-request-id: new"}
    assert given == {b"authorization: Bearer k", b"content-type: application/json", b"x-tenant: \xc3\xbc"}
