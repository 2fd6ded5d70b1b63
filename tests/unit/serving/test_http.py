"""The HTTP surface over a real socket: answers, streams, errors, and what bad clients can do (nothing)."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from . import toy
from .serve import Running, serving, write_text_side

TEXT = toy.make_tokenizer()


def ids(text: str) -> list[int]:
    return TEXT.encode(text).ids


def expected(prompt: list[int], count: int) -> str:
    return TEXT.decode(toy.plain(prompt, toy.scattered, count))


def raw(running: Running, data: bytes, *, close: bool = False) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(running.url.rsplit(":", 1)[1])), timeout=20)
    connection.sendall(data)
    if close:
        connection.close()
    return connection


def until_event(connection: socket.socket) -> None:
    """Read until an event of a stream has come; the head comes before it, alone or with it."""
    answer = b""
    while b"data:" not in answer:
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece


def post(body: bytes) -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_completion(server: Running) -> None:
    answer = server.completion(max_tokens=9).json()
    choice = answer["choices"][0]
    assert choice["text"] == expected(ids("the quick"), 9)
    assert (choice["finish_reason"], choice["stop_reason"], choice["index"]) == ("length", None, 0)
    assert answer["object"] == "text_completion"
    assert answer["usage"]["prompt_tokens"] == len(ids("the quick"))
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["usage"]["total_tokens"] == 9 + len(ids("the quick"))


def test_every_form_of_prompt_and_their_order(server: Running) -> None:
    a, b = ids("the lazy"), ids("dog")
    forms: list[tuple[Any, list[list[int]]]] = [
        ("the lazy", [a]),
        (["the lazy", "dog"], [a, b]),
        (a, [a]),
        ([b, a], [b, a]),
    ]
    for prompt, tokens in forms:
        choices = server.completion(prompt=prompt, max_tokens=6).json()["choices"]
        assert [choice["text"] for choice in choices] == [expected(t, 6) for t in tokens]
        events = server.events("/v1/completions", prompt=prompt, max_tokens=6)
        texts = [""] * len(tokens)
        for event in events:
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        assert texts == [expected(t, 6) for t in tokens]


def test_streams_end_with_a_reason_and_usage_when_asked(server: Running) -> None:
    body: dict[str, Any] = {"prompt": "the quick", "max_tokens": 12}
    events = server.events("/v1/completions", **body, stream_options={"include_usage": True})
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 12
    assert [e["choices"][0]["finish_reason"] for e in events[:-1]].count("length") == 1
    assert len({e["id"] for e in events}) == 1
    assert not any("usage" in e for e in events[:-1])
    continuous = server.events(
        "/v1/completions", **body, stream_options={"include_usage": True, "continuous_usage_stats": True}
    )
    counts = [e["usage"]["completion_tokens"] for e in continuous]
    assert counts == sorted(counts)
    assert counts[-1] == 12
    assert "usage" not in server.events("/v1/completions", **body)[-1]


def test_prediction_right_wrong_or_absent_gives_one_text(server: Running) -> None:
    # The prediction is text, so the output must survive being tokenised again: take one that does.
    for start in range(40):
        prompt = [1, 60 + start]
        text = expected(prompt, 24)
        if TEXT.encode(text, add_special_tokens=False).ids == toy.plain(prompt, toy.scattered, 24):
            break
    usages = []
    for content in (None, text, text[::-1], text[3:] + text):
        wish = {} if content is None else {"prediction": {"type": "content", "content": content}}
        answer = server.completion(prompt=prompt, max_tokens=24, **wish).json()
        assert answer["choices"][0]["text"] == text
        usages.append(answer["usage"]["completion_tokens_details"])
    assert usages[0] == {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    parts = server.completion(
        prompt=prompt, max_tokens=24, prediction={"type": "content", "content": [{"type": "text", "text": text}]}
    )
    assert parts.json()["choices"][0]["text"] == text
    assert server.metric("vllm:spec_decode_num_draft_tokens_total") > 0


def test_chat_renders_the_template_and_announces_the_role(server: Running) -> None:
    prompt = TEXT.encode("<user>hello<assistant>", add_special_tokens=False).ids
    answer = server.chat(max_tokens=7).json()
    assert answer["choices"][0]["message"]["content"] == expected(prompt, 7)
    assert answer["object"] == "chat.completion"
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    events = server.events("/v1/chat/completions", messages=messages, max_completion_tokens=7)
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(e["choices"][0]["delta"]["content"] for e in events) == expected(prompt, 7)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_the_openai_client(server: Running) -> None:
    client = OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    assert client.models.list().data[0].id == "model"
    assert client.models.retrieve("model").id == "model"
    whole = client.completions.create(model="model", prompt="fox", max_tokens=8, temperature=0)
    parts = client.completions.create(model="model", prompt="fox", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in parts) == whole.choices[0].text == expected(ids("fox"), 8)
    chat = client.chat.completions.create(
        model="model",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=5,
        logprobs=True,
        top_logprobs=2,
        prediction={"type": "content", "content": "anything"},
        n=2,
        temperature=1.0,
        seed=4,
    )
    assert len(chat.choices) == 2
    assert chat.choices[0].logprobs is not None
    assert len(chat.choices[0].logprobs.content or []) == 5


def test_a_seed_gives_the_same_text_and_n_gives_different_ones(server: Running) -> None:
    body = {"temperature": 1.0, "seed": 9, "max_tokens": 16}
    first, second = server.completion(**body).json(), server.completion(**body, n=3).json()
    texts = [choice["text"] for choice in second["choices"]]
    assert texts[0] == first["choices"][0]["text"]
    assert len(set(texts)) == 3


def test_echo_and_token_ids(server: Running) -> None:
    answer = server.completion(max_tokens=4, echo=True).json()["choices"][0]
    assert answer["text"] == "the quick" + expected(ids("the quick"), 4)
    answer = server.completion(max_tokens=4, return_token_ids=True).json()["choices"][0]
    assert answer["token_ids"] == toy.plain(ids("the quick"), toy.scattered, 4)
    assert answer["prompt_token_ids"] == ids("the quick")
    events = server.events("/v1/completions", prompt="the quick", max_tokens=4, return_token_ids=True)
    assert [t for e in events for t in e["choices"][0]["token_ids"]] == toy.plain(ids("the quick"), toy.scattered, 4)


BAD: list[tuple[Any, int, str]] = [
    ({"max_tokens": "many"}, 400, "max_tokens"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": -3}, 400, "max_tokens"),
    ({"max_tokens": 1.5}, 400, "max_tokens"),
    ({"max_tokens": True}, 400, "max_tokens"),
    ({"max_tokens": 10**30}, 400, "max_tokens"),
    ({"max_tokens": 1500}, 400, "max_tokens"),
    ({"prompt": []}, 400, "prompt"),
    ({"prompt": [[]]}, 400, "prompt"),
    ({"prompt": None}, 400, "prompt"),
    ({"prompt": {"a": 1}}, 400, "prompt"),
    ({"prompt": [1, "a"]}, 400, "prompt"),
    ({"prompt": [[1], 2]}, 400, "prompt"),
    ({"prompt": [True]}, 400, "prompt"),
    ({"prompt": [-1]}, 400, "prompt"),
    ({"prompt": [toy.VOCAB]}, 400, "prompt"),
    ({"prompt": "a b " * 4000}, 400, "input_tokens"),
    ({"prompt": "\ud800"}, 400, "prompt"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"temperature": [1]}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"top_p": 1.1}, 400, "top_p"),
    ({"top_k": -2}, 400, "top_k"),
    ({"min_p": 2}, 400, "min_p"),
    ({"presence_penalty": 3}, 400, "presence_penalty"),
    ({"repetition_penalty": 0}, 400, "repetition_penalty"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, 400, "logit_bias"),
    ({"logit_bias": [1]}, 400, "logit_bias"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": [1]}, 400, "stop"),
    ({"stop_token_ids": ["a"]}, 400, "stop_token_ids"),
    ({"logprobs": 21}, 400, "logprobs"),
    ({"logprobs": -1}, 400, "logprobs"),
    ({"logprobs": -2}, 400, "logprobs"),
    ({"logprobs": "3"}, 400, "logprobs"),
    ({"logprobs": 1.5}, 400, "logprobs"),
    ({"n": 0}, 400, "n"),
    ({"n": 2}, 400, "n"),
    ({"n": 10**6, "temperature": 1}, 400, "n"),
    ({"min_tokens": 99}, 400, "min_tokens"),
    ({"seed": 2**70}, 400, "seed"),
    ({"stream": "yes"}, 400, "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"prediction": "text"}, 400, "prediction"),
    ({"prediction": {"type": "content"}}, 400, "prediction.content"),
    ({"prediction": {"type": "other", "content": "x"}}, 400, "prediction"),
    ({"model": "another"}, 404, "model"),
    ({"model": 7}, 400, "model"),
    ({"response_format": {"type": "json_object"}}, 501, "response_format"),
    ({"suffix": "end"}, 501, "suffix"),
    ({"use_beam_search": True}, 501, "use_beam_search"),
    ({"prompt_logprobs": 0}, 501, "prompt_logprobs"),
    ({"echo": True, "logprobs": 1}, 501, "prompt_logprobs"),
    ({"logprobs": 1, "logprob_token_ids": [3]}, 501, "logprob_token_ids"),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD, ids=lambda value: str(value)[:40])
def test_bad_values_are_refused_in_vllms_shape(server: Running, body: Any, status: int, param: str) -> None:
    data = json.dumps({"prompt": "the quick", "temperature": 0, **body}).encode()
    answer = server.http.post("/v1/completions", content=data)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, status)
    assert error["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'{"prompt": "a", "temperature": NaN}', b'\xff\xfe{"prompt"', b"[" * 100_000]
)
def test_bodies_that_are_no_request(server: Running, body: bytes) -> None:
    answer = server.http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "BadRequestError"


def test_chat_errors(server: Running) -> None:
    def status(**body: Any) -> tuple[int, str]:
        answer = server.http.post("/v1/chat/completions", json=body)
        return answer.status_code, answer.json()["error"]["param"]

    user = [{"role": "user", "content": "x"}]
    assert status() == (400, "messages")
    assert status(messages=[]) == (400, "messages")
    assert status(messages=["x"]) == (400, "messages")
    assert status(messages=[{"content": "x"}]) == (400, "messages.role")
    assert status(messages=[{"role": "user", "content": 5}]) == (400, "messages.content")
    assert status(messages=[{"role": "alien", "content": "x"}]) == (400, "messages")
    assert status(messages=user, top_logprobs=2) == (400, "top_logprobs")
    assert status(messages=user, tools=[{"type": "function"}]) == (501, "tools")
    assert status(messages=user, tool_choice="auto") == (400, "tool_choice")
    assert server.http.post("/v1/chat/completions", json={"messages": user, "tool_choice": "none"}).status_code == 200
    assert status(messages=[{"role": "user", "content": None}]) == (400, "messages.content")
    assert status(messages=[{"role": "user"}]) == (501, "messages without content")
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert status(messages=image) == (501, "multimodal")


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    write_text_side(tmp_path, template=None)
    with serving(tmp_path, toy.stack()) as running:
        assert "no chat template" in running.chat().json()["error"]["message"]


def test_a_template_cannot_reach_out_of_its_sandbox(tmp_path: Path) -> None:
    write_text_side(tmp_path, template="{{ messages.__class__.__mro__ }}")
    with serving(tmp_path, toy.stack()) as running:
        answer = running.chat()
        assert answer.status_code == 400
        assert "unsafe" in answer.json()["error"]["message"]


def test_unknown_fields_are_ignored_and_null_means_absent(server: Running) -> None:
    answer = server.completion(
        max_tokens=3, user="me", metadata={"a": 1}, no_such_field=[1], stop=None, seed=None, n=None
    )
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 3


def test_other_routes(server: Running) -> None:
    assert server.http.get("/health").status_code == 200
    assert server.http.get("/ping").status_code == 200
    assert server.http.get("/version").json()["version"]
    assert server.http.get("/nothing").json()["error"]["code"] == 404
    assert server.http.get("/v1/completions").json()["error"]["code"] == 405
    assert server.http.get("/v1/models/other").status_code == 404
    tokens = server.http.post("/tokenize", json={"prompt": "the lazy dog"}).json()
    assert tokens["tokens"] == ids("the lazy dog")
    assert tokens["count"] == len(tokens["tokens"])
    assert server.http.post("/detokenize", json={"tokens": tokens["tokens"][1:]}).json() == {"prompt": "the lazy dog"}
    assert server.http.post("/detokenize", json={"tokens": [10**9]}).status_code == 400


def test_metrics_count_under_vllms_names(server: Running) -> None:
    names = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:time_to_first_token_seconds_count")
    before = [server.metric(name) for name in names]
    server.completion(max_tokens=11)
    gained = [server.metric(name) - old for name, old in zip(names, before, strict=True)]
    assert gained == [11, len(ids("the quick")), 1]
    assert server.metric("sartor:requests_total") > 0
    text = server.http.get("/metrics").text
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="model"}' in text
    assert "vllm:num_requests_running" in text


def test_too_large_a_body_is_refused_before_it_is_read(server: Running) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    with raw(server, head) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_hundreds_of_idle_connections_hold_up_nobody(server: Running) -> None:
    idle = [raw(server, b"") for _ in range(150)] + [raw(server, b"POST /v1/comp") for _ in range(150)]
    assert server.completion(max_tokens=2).status_code == 200
    for connection in idle:
        connection.close()
    assert server.completion(max_tokens=2).status_code == 200


def test_a_client_that_hangs_up_cancels_its_work(text_folder: Path) -> None:
    made = toy.stack(MAX_SEQUENCES=1)
    with serving(text_folder, made) as running:
        reached, resume = threading.Event(), threading.Event()

        def pause() -> None:
            if len(running.decoder.steps) == 5:
                reached.set()
                assert resume.wait(20)

        running.decoder.before = pause
        body = json.dumps({"prompt": "the quick", "max_tokens": 1000, "stream": True, "temperature": 0}).encode()
        connection = raw(running, post(body))
        assert reached.wait(20)
        until_event(connection)
        connection.close()
        answers: list[Any] = []
        follower = threading.Thread(target=lambda: answers.append(running.completion(max_tokens=3)))
        follower.start()
        resume.set()
        follower.join(20)
        assert answers[0].json()["choices"][0]["text"] == expected(ids("the quick"), 3)
        assert running.metric('vllm:request_success_total{engine="0",finished_reason="abort",model_name="model"}') == 1
        assert len(running.decoder.steps) < 900
        assert running.app.engine.pool.free == running.app.engine.pool.total


def test_a_reader_that_never_reads_holds_up_nobody(server: Running) -> None:
    body = json.dumps({"prompt": "the quick", "max_tokens": 1000, "stream": True, "temperature": 0}).encode()
    lazy = [raw(server, post(body)) for _ in range(3)]
    answer = server.completion(max_tokens=30)
    assert answer.json()["choices"][0]["text"] == expected(ids("the quick"), 30)
    for connection in lazy:
        data = b""
        while b"[DONE]" not in data:
            data += connection.recv(1 << 20)
        connection.close()
        texts = [
            json.loads(line[6:])["choices"][0]["text"]
            for line in data.decode().splitlines()
            if line.startswith("data: {")
        ]
        assert "".join(texts) == expected(ids("the quick"), 1000)


def test_a_dead_decoder_answers_500_then_unhealthy_and_503(text_folder: Path) -> None:
    with serving(text_folder, toy.stack()) as running:
        running.decoder.fail_at = 4
        answer = running.completion(max_tokens=50)
        assert answer.status_code == 500
        assert "planted failure" in answer.json()["error"]["message"]
        assert running.http.get("/health").status_code == 503
        refused = running.completion()
        assert refused.status_code == 503
        assert refused.json()["error"]["type"] == "ServiceUnavailableError"


def test_a_decoder_that_dies_within_a_stream_ends_it_with_an_error_event(text_folder: Path) -> None:
    with serving(text_folder, toy.stack()) as running:
        first = threading.Event()
        running.decoder.before = lambda: len(running.decoder.steps) != 3 or (first.wait(20) and None)
        running.decoder.fail_at = 4
        body = {"prompt": "the quick", "max_tokens": 50, "stream": True, "temperature": 0}
        with running.http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {")
            first.set()
            rest = [line for line in lines if line]
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == 500
        assert rest[-1] == "data: [DONE]"


def test_a_full_queue_answers_503_with_a_time_to_come_back(text_folder: Path) -> None:
    with serving(text_folder, toy.stack(MAX_SEQUENCES=1, MAX_WAITING=1)) as running:
        assert running.completion(prompt=["a", "b"]).status_code == 400
        busy, resume = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert resume.wait(20)

        running.decoder.before = hold
        body = json.dumps({"prompt": "a", "max_tokens": 2}).encode()
        first = raw(running, post(body))
        assert busy.wait(20)
        second = raw(running, post(body))
        until = time.monotonic() + 15
        while not running.app.engine._schedule._inbox:  # /metrics counts it once in a step
            assert time.monotonic() < until, "the second request did not get into the queue"
            time.sleep(0.01)
        assert running.http.get("/health").status_code == 200
        refused = running.completion(prompt="a")
        resume.set()
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        for connection in (first, second):
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.close()
