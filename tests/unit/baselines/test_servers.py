"""Both engines as processes over HTTP: the fall-back always, real vLLM where it was set up."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
from aiohttp.test_utils import TestClient, TestServer
from tokenizers import Tokenizer

from sartor_agents.baselines import TransformersEngine, VllmEngine
from sartor_agents.baselines.environment import existing_environment
from sartor_agents.baselines.grid import grid
from sartor_agents.baselines.transformers_request import Call
from sartor_agents.baselines.transformers_server import WARM_UP_TOKENS, Generator, Server
from sartor_agents.checkpoints import ChainFacts, cache_folder, make
from sartor_agents.run.servers import RunningServer, ServerError, free_port


def post(server: RunningServer, path: str, body: Any) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.spec.port, timeout=120)
    try:
        raw = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", path, raw, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        streamed = answer.getheader("Content-Type", "").startswith("text/event-stream")
        return answer.status, content.decode() if streamed else json.loads(content)
    finally:
        connection.close()


def events(stream: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.fixture(scope="module", params=[0, 2048], ids=["growing cache", "static cache"])
def fallback(
    request: pytest.FixtureRequest, chain_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    home = tmp_path_factory.mktemp("fallback")
    engine = TransformersEngine(chain_model, "m", "float32", home, static_tokens=request.param)
    log = home / "server.log"
    with RunningServer(engine.server(engine.settings()[0], free_port()), log) as server:
        yield server


def test_the_fall_back_writes_the_chain(fallback: RunningServer, chain_model: Path) -> None:
    facts, tokenizer = ChainFacts.load(chain_model), Tokenizer.from_file(str(chain_model / "tokenizer.json"))
    prompt = [facts.first_word + 3]
    body = {"model": "m", "prompt": prompt, "max_tokens": 20, "temperature": 0, "ignore_eos": True}
    status, answer = post(fallback, "/v1/completions", body)
    expected = tokenizer.decode(facts.walk(prompt[-1], 20))
    assert (status, answer["choices"][0]["text"]) == (200, expected)
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": 20, "total_tokens": 21}
    status, stream = post(
        fallback, "/v1/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    *parts, last = events(stream)
    assert "".join(part["choices"][0]["text"] for part in parts) == expected
    assert parts[-1]["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 20


def test_the_fall_back_chats(fallback: RunningServer) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}
    status, answer = post(fallback, "/v1/chat/completions", body)
    assert status == 200 and answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", b"{", 400, "not JSON"),
        ("/v1/completions", [], 400, "JSON object"),
        ("/v1/completions", {"model": "other", "prompt": "a"}, 404, "does not exist"),
        ("/v1/completions", {"model": "m", "prompt": [1 << 40]}, 400, "out of the vocabulary"),
        ("/v1/completions", {"model": "m", "prompt": "a", "max_tokens": "9"}, 400, "max_tokens must be an integer"),
        ("/v1/completions", {"model": "m", "prompt": "a", "max_tokens": 9000}, 400, "maximum context length is 2048"),
        ("/v1/completions", {"model": "m"}, 400, "prompt must be"),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "elf", "content": "a"}]}, 400, "unknown role"),
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user"}]}, 400, "chat template"),
    ],
)
def test_the_fall_back_refuses_with_a_sentence(
    fallback: RunningServer, path: str, body: Any, status: int, message: str
) -> None:
    got, answer = post(fallback, path, body)
    assert (got, answer["error"]["code"]) == (status, status)
    assert message in answer["error"]["message"]


@pytest.mark.parametrize("compiled", [True, False])
def test_compiled_steps_are_compiled_before_anybody_is_served(compiled: bool) -> None:
    """Compiling 64 layers takes longer than a client waits for a token; its graphs belong to the thread that made them."""
    asked: list[tuple[list[int], int, str]] = []

    def tokens(prompt: list[int], call: Call) -> Iterator[int]:
        for number in range(call.max_tokens):
            asked.append((prompt, number, threading.current_thread().name))
            yield number

    generator = cast(Generator, SimpleNamespace(step=object() if compiled else None, tokens=tokens))

    async def healthy() -> int:
        async with TestServer(Server(generator, "m").app()) as server, TestClient(server) as client:
            before = len(asked)
            return before if (await client.get("/health")).status == 200 else -1

    assert asyncio.run(healthy()) == len(asked) == (WARM_UP_TOKENS if compiled else 0)
    assert {(tuple(prompt), thread) for prompt, _, thread in asked} <= {((0,), "generator_0")}


def test_a_free_port_is_none_that_the_system_gives_away_by_itself() -> None:
    found = {free_port() for _ in range(20)}
    assert len(found) > 10 and all(1024 < port < 32768 for port in found)


def test_a_port_in_use_is_said(fallback: RunningServer, chain_model: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(chain_model, "m", "float32", tmp_path / "home")
    with pytest.raises(ServerError, match="is in use") as caught:
        RunningServer(engine.server(engine.settings()[0], fallback.spec.port), tmp_path / "log")
    assert caught.value.reason == "PortInUse"


def test_a_server_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    engine = TransformersEngine(tmp_path, "m", "float32", tmp_path / "home")
    with pytest.raises(ServerError, match=r"ended before it was ready[\s\S]*config\.json") as caught:
        RunningServer(engine.server(engine.settings()[0], free_port()), tmp_path / "log")
    assert caught.value.reason == "Died"


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "point"), [("llama", "plain"), ("qwen3", "n-gram")])
def test_real_vllm_writes_the_chain_and_leaves_nothing(tmp_path: Path, architecture: str, point: str) -> None:
    environment = existing_environment(cache_folder())
    if environment is None:
        pytest.skip("vLLM's environment was not made (sartor baseline setup)")
    plain, *_, drafted = grid("code-edit", "documentedGrid", arguments=("--enforce-eager",), cores=1, native_bf16=True)
    model = make("chain", architecture, "tiny", 0, tmp_path / "model").path
    engine = VllmEngine(environment, model, "m", 512, [plain, drafted], tmp_path / "home", tmp_path / "cache")
    facts, tokenizer = ChainFacts.load(model), Tokenizer.from_file(str(model / "tokenizer.json"))
    walk = facts.walk(facts.first_word, 60)
    body = {"model": "m", "prompt": [*walk, facts.first_word], "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    with RunningServer(engine.server(plain if point == "plain" else drafted, free_port()), tmp_path / "log") as server:
        status, answer = post(server, "/v1/completions", body)
        tree = psutil.Process(server.process.pid).children(recursive=True)
    assert (status, answer["choices"][0]["text"]) == (200, tokenizer.decode(walk))
    assert len(tree) >= 3 and not any(process.is_running() for process in tree)
