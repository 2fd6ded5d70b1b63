"""Bad input: requests that vLLM refuses, or that it takes though one would not think so.

What the right answer to each is stands in `vllm_answers.json`, recorded from real vLLM by
`tools/record-vllm-answers`. A case is named
by what is wrong with it; the names are the keys of that table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sartor_agents.measurement.http1 import encode_request
from sartor_agents.measurement.samples import GenerationRequest

Api = Literal["completions", "chat"]
TOKENS = 16
_LINE = 64 << 10


@dataclass(frozen=True, slots=True)
class Case:
    """One bad request as bytes; `reproduce` is its JSON body where it has one. A stream is left when it begins.

    `either`: what it means is clear, though it is not as it should be said. To serve it and to refuse it are both right, and
    vLLM's answer is its libraries' choice; only survival counts.
    """

    name: str
    payload: bytes
    reproduce: Mapping[str, Any] | None = None
    either: bool = False

    @property
    def streamed(self) -> bool:
        return self.reproduce is not None and self.reproduce.get("stream") is True


def api_of(request: GenerationRequest) -> Api:
    return "chat" if request.path.endswith("chat/completions") else "completions"


def bodies(request: GenerationRequest, *, authority: str, model: str, max_model_len: int) -> list[Case]:
    """Well-formed HTTP with a bad body, built around one well-formed request of either API."""
    path, key = request.path, "messages" if api_of(request) == "chat" else "prompt"
    good: dict[str, Any] = {"model": model, **request.body, "max_tokens": TOKENS, "stream": False}
    good.pop("prediction", None)

    def post(name: str, body: bytes | Mapping[str, Any]) -> Case:
        shown = None if isinstance(body, bytes) else {"path": path, **body}
        return Case(name, encode_request("POST", authority, path, body), shown)

    def altered(name: str, /, **changes: Any) -> Case:
        return post(name, {**good, **changes})

    encoded = json.dumps(good).encode()
    return _either(
        "UTF-16",
        "byte order mark",
        "NaN as temperature",
        "infinite temperature",
        "booleans as token ids",
        "best_of below n",
        cases=[
            post("empty body", b""),
            post("malformed JSON", encoded[: len(encoded) // 2]),
            post("text behind the JSON", encoded + b"}{"),
            post("JSON that is not an object", b"[1, 2, 3]"),
            post("JSON null", b"null"),
            post("no fields", b"{}"),
            post("invalid UTF-8", encoded.replace(b'"model"', b'"mod\xff\xfeel"', 1)),
            post("half a UTF-8 character", encoded[:-1] + b', "user": "\xe2\x82"}'),
            post("UTF-16", json.dumps(good).encode("utf-16")),
            post("byte order mark", b"\xef\xbb\xbf" + encoded),
            post("deeply nested JSON", b"[" * 100_000),
            post("deeply nested field", encoded[:-1] + b', "user": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
            post("NaN as temperature", encoded[:-1] + b', "temperature": NaN}'),
            post("infinite temperature", encoded[:-1] + b', "temperature": Infinity}'),
            post("a number of 10,000 digits", encoded[:-1] + b', "max_tokens": ' + b"9" * 10_000 + b"}"),
            post("duplicate keys", encoded[:-1] + b', "max_tokens": 3, "max_tokens": 4}'),
            altered("wrong type of the prompt", **{key: {"not": "a prompt"}}),
            altered("prompt null", **{key: None}),
            altered("wrong type of max_tokens", max_tokens="many"),
            altered("fractional max_tokens", max_tokens=2.5),
            altered("wrong type of temperature", temperature="hot"),
            altered("wrong type of stream", stream={"yes": 1}),
            altered("wrong type of stop", stop=[1, 2]),
            altered("wrong type of logit_bias", logit_bias=[1]),
            altered("wrong type of seed", seed="lucky"),
            altered("wrong type of the model", model=7),
            altered("negative max_tokens", max_tokens=-5),
            altered("max_tokens zero", max_tokens=0),
            altered("huge max_tokens", max_tokens=10**9, stream=True),
            altered("max_tokens beyond 64 bits", max_tokens=10**30),
            altered("negative temperature", temperature=-1),
            altered("top_p above one", top_p=5),
            altered("top_p zero", top_p=0),
            altered("top_k below -1", top_k=-7),
            altered("min_tokens above max_tokens", min_tokens=TOKENS + 1),
            altered("presence_penalty out of range", presence_penalty=17),
            altered("repetition_penalty zero", repetition_penalty=0),
            altered("no answers asked", n=0),
            altered("several greedy answers", n=3),
            altered("logprobs beyond the limit", **_logprobs(key, 1000)),
            altered("negative logprobs", **_logprobs(key, -3)),
            altered("logit_bias of no token", logit_bias={"abc": 1}),
            altered("logit_bias out of the vocabulary", logit_bias={"999999999": 1}),
            altered("stream_options without a stream", stream_options={"include_usage": True}),
            altered("unknown response_format", response_format={"type": "sonnet"}),
            altered("unknown model", model="no-such-model"),
            altered("empty model name", model=""),
            altered("over-long prompt", **{key: _long(key, max_model_len)}),
            altered("unknown fields", no_such_field=[1, {"a": None}]),
            altered("null in every option", temperature=None, top_p=None, stop=None, seed=None),
            altered("empty stop", stop=""),
            *(_of_completions(altered) if key == "prompt" else _of_chat(altered)),
        ],
    )


def _either(*names: str, cases: list[Case]) -> list[Case]:
    return [replace(case, either=case.name in names) for case in cases]


def _logprobs(key: str, count: int) -> dict[str, Any]:
    return {"logprobs": count} if key == "prompt" else {"logprobs": True, "top_logprobs": count}


def _long(key: str, max_model_len: int) -> Any:
    text = "x " * (2 * max_model_len)
    return text if key == "prompt" else [{"role": "user", "content": text}]


def _of_completions(altered: Any) -> list[Case]:
    return [
        altered("empty prompt", prompt=""),
        altered("empty list of prompts", prompt=[]),
        altered("empty list of token ids", prompt=[[]]),
        altered("token ids that are no tokens", prompt=[1, 10**9]),
        altered("negative token ids", prompt=[-1]),
        altered("token ids beyond 64 bits", prompt=[10**30]),
        altered("token ids of mixed types", prompt=[1, "two", None]),
        altered("prompts of mixed types", prompt=["one", [2]]),
        altered("booleans as token ids", prompt=[True, False]),
        altered("NUL and lone surrogate", prompt="a\x00b\ud800c"),
        altered("echo of another type", echo="loud"),
        altered("best_of below n", best_of=0),
    ]


def _of_chat(altered: Any) -> list[Case]:
    user = {"role": "user", "content": "hello"}
    return [
        altered("empty messages", messages=[]),
        altered("role of another type", messages=[{"role": 5, "content": "hello"}]),
        altered("unknown role", messages=[{"role": "no-such-role", "content": "hello"}]),
        altered("no role", messages=[{"content": "hello"}]),
        altered("no content", messages=[{"role": "user"}]),
        altered("content null", messages=[{"role": "user", "content": None}]),
        altered("content of another type", messages=[{"role": "user", "content": 5}]),
        altered("content part of an unknown type", messages=[{"role": "user", "content": [{"type": "smell"}]}]),
        altered("NUL and lone surrogate", messages=[{"role": "user", "content": "a\x00b\ud800c"}]),
        altered("messages and garbage", messages=[user, 7]),
        altered("top_logprobs without logprobs", top_logprobs=3),
        altered("tool_choice without tools", tool_choice="auto"),
        altered("tools of another type", tools="hammer"),
    ]


def wire(request: GenerationRequest, *, authority: str, model: str) -> list[Case]:
    """Requests that are bad HTTP, or unusual HTTP."""
    path = request.path
    good = {"model": model, **request.body, "max_tokens": TOKENS, "stream": False}
    good.pop("prediction", None)
    body = json.dumps(good).encode()

    def raw(name: str, head: str, content: bytes = b"") -> Case:
        return Case(name, head.encode("latin-1") + b"\r\n\r\n" + content)

    line = f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json"
    many = "".join(f"\r\nX-{n}: {'y' * 40}" for n in range(1000))
    chunked = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    return _either(
        "another content type",
        "no content type",
        "compressed content that is none",
        cases=[
            Case("unknown path", encode_request("GET", authority, "/v1/no-such-path")),
            Case("wrong method", encode_request("DELETE", authority, path)),
            Case("unknown method", encode_request("BREW", authority, path)),
            Case("path with NUL", encode_request("GET", authority, "/v1/\x00")),
            Case("path of 64 KiB", encode_request("GET", authority, "/" + "a" * _LINE)),
            Case("another content type", _typed(authority, path, "text/plain", body)),
            Case("no content type", _typed(authority, path, None, body)),
            Case(
                "compressed content that is none",
                _typed(authority, path, "application/json\r\nContent-Encoding: gzip", body),
            ),
            raw("chunked body", f"{line}\r\nTransfer-Encoding: chunked", chunked),
            raw(
                "chunk size that is none", f"{line}\r\nTransfer-Encoding: chunked", b"zz\r\n" + body + b"\r\n0\r\n\r\n"
            ),
            raw("length and chunks", f"{line}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", chunked),
            raw("two lengths", f"{line}\r\nContent-Length: {len(body)}\r\nContent-Length: 3", body),
            raw("negative length", f"{line}\r\nContent-Length: -1", body),
            raw("length that is none", f"{line}\r\nContent-Length: many", body),
            raw("header without a colon", f"{line}\r\nContent-Length: {len(body)}\r\nno colon here", body),
            raw("a thousand headers", f"{line}{many}\r\nContent-Length: {len(body)}", body),
            raw("a header of 64 KiB", f"{line}\r\nX-Long: {'y' * _LINE}\r\nContent-Length: {len(body)}", body),
            raw(
                "HTTP/1.0",
                f"POST {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}",
                body,
            ),
            raw("HTTP/9.9", f"POST {path} HTTP/9.9\r\nHost: {authority}\r\nContent-Length: {len(body)}", body),
            Case("no HTTP at all", b"\x00\xff\xfe hello \r\n\r\n"),
            Case("a TLS handshake", bytes.fromhex("16030100050100000100") + b"\x00" * 64 + b"\r\n\r\n"),
        ],
    )


def _typed(authority: str, path: str, kind: str | None, body: bytes) -> bytes:
    content = "" if kind is None else f"Content-Type: {kind}\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: {authority}\r\n{content}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
