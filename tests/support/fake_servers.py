"""Servers for tests of measurement and judge: an honest one over a chain checkpoint, and many ways to be something else.

They speak just enough HTTP/1.1 and OpenAI for the client under test, in the test's own event loop, with times that the
test sets. `Behaviour` lists what can be wrong; everything it does not name is as a good server would do it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sartor_agents.checkpoints import ChainFacts
from sartor_agents.measurement.tokens import TokenCounter

MODEL = "fake"


@dataclass
class Behaviour:
    """What the server does; times in seconds."""

    token_seconds: float = 0.0
    predicted_token_seconds: float | None = None  # per token of a request that has a prediction
    first_seconds: float = 0.0
    tokens_per_chunk: int = 1
    split_bytes: int | None = None  # write the stream in pieces of so many bytes
    max_tokens: int | None = None  # answers are cut to so many tokens
    usage_offset: int = 0
    usage: bool = True
    done: bool = True
    bad_json_at: int | None = None  # chunk that is not JSON
    stall_at: int | None = None  # chunk before which it falls silent for good
    reset_at: int | None = None  # chunk before which it closes the connection
    status: int = 200  # of generations
    wrong_token_at: int | None = None
    wrong_when_busy: bool = False  # wrong_token_at only while other requests run
    wrong_when_predicted: bool = False
    wrong_when_whole: bool = False  # not streamed
    wrong_after_disconnect: bool = False
    wrong_when_repeated: bool = False  # a prompt seen before
    echo_prediction: bool = False
    accept_anything: bool = False  # 200 to bad input
    crash_on: str | None = None  # a request whose body holds this text: closes, and is unhealthy from then on
    server_error_on: str | None = None
    hand_over_to: str | None = None  # URL
    dies_after: int | None = None  # generations, after which it refuses everything
    logprobs: bool = True  # else 400 to who asks for them
    logprobs_of_every_prompt: bool = True  # else answers to `left_bare` prompts come without
    logprobs_by_id: bool = True  # names tokens by id where that is asked for
    logprob_error: float = 0.0  # nats, up and down in turn
    coarse_logits: bool = False  # in steps of 2⁻⁷, as rounding to bfloat16 makes them
    logprob_seconds: float = 0.0  # per token, more, where they are asked for
    slow_after_logprobs: float | None = None  # seconds per token of all answers once somebody asked for them
    wrong_with_logprobs: bool = False
    hand_over_logprobs: bool = False  # with hand_over_to: only those
    finish_reason: str = "length"
    extra_tokens: int = 0  # written beyond max_tokens
    caches_answers: bool = False  # a request seen before costs no time
    prompt_seconds: float = 0.0  # to read a prompt not seen before
    poison_prefix: int | None = None  # after so many tokens alike, the state of the first such prompt is used
    poison_silently: bool = False  # it shows in the log-probabilities only
    swaps_when_running: int | None = None  # with so many at once, the text of another one's prompt
    counter: bool = True  # /metrics with vLLM's counter
    ready_after: float = 0.0  # /health is 503 until then
    reject_every: int | None = None  # each so many-th generation gets 429 at once
    extra_events: tuple[bytes, ...] = ()  # sent before [DONE]
    raw_at: tuple[int, bytes] | None = None  # (chunk, bytes that are sent as the data of its event)
    buffered: bool = False  # computes first, then sends all chunks at once
    batch: int | None = None  # so many generations run at once, others wait


@dataclass
class FakeServer:
    """State of one server; `requests` are the bodies of generations in the order in which they came."""

    facts: ChainFacts
    counter: TokenCounter
    behaviour: Behaviour
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    finished: int = 0
    prompt_tokens: int | None = None  # /metrics with vLLM's counter
    running: int = 0
    most_running: int = 0
    disconnected: bool = False
    dead: bool = False
    ready_at: float = 0.0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])
    asked_for_logprobs: bool = False
    seen: set[str] = field(default_factory=set[str])
    prefixes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict[tuple[int, ...], tuple[int, ...]])
    now: list[int] = field(default_factory=list[int])  # last prompt tokens of what runs

    def __post_init__(self) -> None:
        self._turns = asyncio.Semaphore(self.behaviour.batch or 1_000_000)

    # --- HTTP ---------------------------------------------------------------------------------------------------

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                if self.dead:
                    break
                if not await self._answer(*request, writer):
                    break
        except ValueError:
            await _write(writer, 400, b"Invalid HTTP request received.", kind="text/plain")
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _answer(self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        match method, path:
            case "GET", "/health" if asyncio.get_running_loop().time() < self.ready_at:
                return await _write(writer, 503, b"{}")
            case "GET", "/health":
                return await _write(writer, 200, b"{}")
            case "GET", "/v1/models":
                return await _write(writer, 200, json.dumps({"data": [{"id": MODEL}]}).encode())
            case "GET", "/metrics" if self.behaviour.counter:
                text = f'vllm:request_success_total{{finished_reason="length"}} {self.finished}.0\n'
                text += "" if self.prompt_tokens is None else f"vllm:prompt_tokens_total {self.prompt_tokens}.0\n"
                return await _write(writer, 200, text.encode(), kind="text/plain")
            case "POST", "/v1/completions" | "/v1/chat/completions":
                return await self._generate(path, body, writer)
            case _:
                return await _write(writer, 404 if path != "/v1/completions" else 405, b'{"detail":"Not Found"}')

    async def _generate(self, path: str, raw: bytes, writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviour
        if behaviour.crash_on is not None and behaviour.crash_on.encode() in raw:
            self.dead = True
            return False
        if behaviour.server_error_on is not None and behaviour.server_error_on.encode() in raw:
            return await _write(writer, 500, b"Internal Server Error", kind="text/plain")
        problem, body = _validate(raw)
        if problem is not None and not behaviour.accept_anything:
            status, message = problem
            return await _write(writer, status, json.dumps({"error": {"message": message, "code": status}}).encode())
        if problem is not None:
            return await _write(writer, 200, b"{}")
        if behaviour.dies_after is not None and len(self.requests) >= behaviour.dies_after:
            self.dead = True
            return False
        self.requests.append(body)
        if behaviour.status != 200:
            return await _write(writer, behaviour.status, b'{"error":{"message":"no"}}')
        if behaviour.reject_every is not None and len(self.requests) % behaviour.reject_every == 0:
            return await _write(writer, 429, b'{"error":{"message":"too many requests"}}')
        asked = body.get("logprobs") is not None
        if asked and not behaviour.logprobs:
            return await _write(writer, 400, b'{"error":{"message":"logprobs are not supported"}}')
        if behaviour.hand_over_to is not None and (asked or not behaviour.hand_over_logprobs):
            return await _proxy(behaviour.hand_over_to, path, raw, writer)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        last = self.prompt_ids(body)[-1]
        self.now.append(last)
        try:
            async with self._turns:
                return await self._stream(path, body, writer)
        except ConnectionError:
            self.disconnected = True
            raise
        finally:
            self.running -= 1
            self.finished += 1
            self.now.remove(last)

    # --- text ---------------------------------------------------------------------------------------------------

    def prompt_ids(self, body: Mapping[str, Any]) -> list[int]:
        """Token ids; of a chat its last ones."""
        messages = body.get("messages")
        prompt = body["prompt"] if messages is None else f"{messages[-1]['content']}<|close|><|assistant|>"
        return self.counter.tokenizer.encode(prompt).ids

    def poisoned(self, ids: list[int]) -> int:
        """The prompt token that the answer goes on from."""
        size = self.behaviour.poison_prefix
        if size is None or len(ids) < size:
            return ids[-1]
        first = self.prefixes.setdefault(tuple(ids[:size]), tuple(ids))
        return first[-1]

    def answer_ids(self, body: Mapping[str, Any]) -> list[int]:
        """What this server answers, wrong or right."""
        behaviour = self.behaviour
        ids = self.prompt_ids(body)
        tokens = min(body.get("max_tokens") or 16, 512)
        most = tokens if behaviour.max_tokens is None else behaviour.max_tokens
        last = ids[-1] if behaviour.poison_silently else self.poisoned(ids)
        if behaviour.swaps_when_running is not None and self.running >= behaviour.swaps_when_running:
            last = self.now[(self.now.index(last) + 1) % len(self.now)]
        answer = self.facts.walk(last, min(tokens, most) + behaviour.extra_tokens)
        predicted = "prediction" in body
        if behaviour.echo_prediction and predicted:
            answer = self.counter.encode(body["prediction"]["content"])[: len(answer)]
        at = behaviour.wrong_token_at
        conditional = (
            (behaviour.wrong_when_busy, self.running > 1),
            (behaviour.wrong_when_predicted, predicted),
            (behaviour.wrong_when_whole, not body.get("stream")),
            (behaviour.wrong_with_logprobs, body.get("logprobs") is not None),
            (behaviour.wrong_after_disconnect, self.disconnected),
            (behaviour.wrong_when_repeated, _prompt(body) in self.seen),
        )
        applies = not any(asked for asked, _ in conditional) or any(asked and true for asked, true in conditional)
        if at is not None and applies and at < len(answer):
            answer[at] = self.facts.first_word + (answer[at] - self.facts.first_word + 7) % len(self.facts.words)
        return answer

    def reports(self, body: Mapping[str, Any], answer: list[int]) -> list[list[tuple[str, float]]]:
        """Per token of the answer: itself and the best tokens, with log-probabilities."""
        ids = self.prompt_ids(body)
        behaviour = self.behaviour
        shift = 0.5 if behaviour.poison_silently and self.poisoned(ids) != ids[-1] else behaviour.logprob_error
        named = behaviour.logprobs_by_id and body.get("return_tokens_as_token_ids")
        rows: list[list[tuple[str, float]]] = []
        for place, token in enumerate(answer):
            before = answer[place - 1] if place else ids[-1]
            best = likely(self.facts, before)[:5]
            # What it writes it believes in, if only by a little.
            less = 0.0 if token == best[0][0] else 0.001
            rest = [(t, v - less) for t, v in best if t != token]
            row = [(token, best[0][1]), *rest]
            if behaviour.coarse_logits:
                row = [(t, round(v * 128) / 128) for t, v in row]
            sign = shift if place % 2 else -shift
            rows.append(
                [
                    (f"token_id:{t}" if named else self.counter.decode([t]), round(v - abs(sign) + sign, 6))
                    for t, v in row
                ]
            )
        return rows

    async def _stream(self, path: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviour
        await asyncio.sleep(behaviour.first_seconds)
        chat = path.endswith("chat/completions")
        prompt_tokens = 1
        answer = self.answer_ids(body)
        seconds = behaviour.token_seconds
        if "prediction" in body and behaviour.predicted_token_seconds is not None:
            seconds = behaviour.predicted_token_seconds
        bare = not behaviour.logprobs_of_every_prompt and left_bare(str(body.get("prompt")))
        reports = self.reports(body, answer) if body.get("logprobs") is not None and not bare else None
        if reports is not None:
            seconds += behaviour.logprob_seconds
            self.asked_for_logprobs = True
        if behaviour.slow_after_logprobs is not None and self.asked_for_logprobs:
            seconds = behaviour.slow_after_logprobs
        prompt = _prompt(body)
        if prompt not in self.seen:
            await asyncio.sleep(behaviour.prompt_seconds)
            self.seen.add(prompt)
        key = f"{prompt} {body.get('max_tokens')}"
        if behaviour.caches_answers and key in self.seen:
            seconds = 0.0
        self.seen.add(key)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(answer) + behaviour.usage_offset}
        if not body.get("stream"):
            await asyncio.sleep(seconds * len(answer))
            text = self.counter.decode(answer)
            choice = {"message": {"content": text}} if chat else {"text": text}
            choice["logprobs"] = _block(reports, chat=chat)
            content = {"choices": [{**choice, "finish_reason": behaviour.finish_reason}], "usage": usage}
            return await _write(writer, 200, json.dumps(content).encode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        size = behaviour.tokens_per_chunk
        if behaviour.buffered:
            await asyncio.sleep(seconds * len(answer))
            seconds = 0.0
        for index, start in enumerate(range(0, len(answer), size)):
            part = answer[start : start + size]
            if seconds:
                await asyncio.sleep(seconds * len(part))
            if behaviour.stall_at == index:
                await asyncio.Event().wait()
            if behaviour.reset_at == index:
                return False
            text = self.counter.decode(part)
            choice = {"delta": {"content": text}} if chat else {"text": text}
            choice["logprobs"] = _block(reports and reports[start : start + size], chat=chat)
            event = json.dumps({"choices": [choice]}, ensure_ascii=False).encode()
            if behaviour.bad_json_at == index:
                event = event[:-5]
            if behaviour.raw_at is not None and behaviour.raw_at[0] == index:
                event = behaviour.raw_at[1]
            await self._event(writer, event)
            # What a real server does; a reader that went away shows only when we yield.
            if writer.is_closing():
                raise ConnectionResetError
            await asyncio.sleep(0)
        await self._event(
            writer, json.dumps({"choices": [{"text": "", "finish_reason": behaviour.finish_reason}]}).encode()
        )
        if behaviour.usage and body.get("stream_options", {}).get("include_usage"):
            await self._event(writer, json.dumps({"choices": [], "usage": usage}).encode())
        for extra in behaviour.extra_events:
            await self._event(writer, extra)
        if behaviour.done:
            await self._event(writer, b"[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _event(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        size = self.behaviour.split_bytes or len(event)
        for start in range(0, len(event), size):
            piece = event[start : start + size]
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            if self.behaviour.split_bytes:
                await writer.drain()
                await asyncio.sleep(0)
        await writer.drain()


def likely(facts: ChainFacts, before: int, *, tied: bool = False) -> list[tuple[int, float]]:
    """The 16 best tokens after `before` with log-probabilities, as a made-up model of this chain has them.

    The best leads by 4 nats; `tied`: the seventh word on is as good but for a thousandth.
    """
    best, words = int(facts.successor[before]), len(facts.words)
    others = [facts.first_word + (best - facts.first_word + step) % words for step in (7, *range(1, 7), *range(8, 16))]
    logprobs = [-0.701 if tied else -4.7, *(-7.0 - 0.1 * step for step in range(14))]
    return [(best, -0.7), *zip(others, logprobs, strict=True)]


def left_bare(prompt: str) -> bool:
    """Half of all prompts."""
    return sum(prompt.encode()) % 2 == 1


def _prompt(body: Mapping[str, Any]) -> str:
    return json.dumps([body.get("prompt"), body.get("messages")])


def _block(rows: list[list[tuple[str, float]]] | None, *, chat: bool) -> dict[str, Any] | None:
    """`logprobs` of a choice, in the form of either API."""
    if rows is None:
        return None
    if chat:
        entries = [[{"token": token, "logprob": value} for token, value in row] for row in rows]
        return {"content": [{**row[0], "top_logprobs": row} for row in entries]}
    return {
        "tokens": [row[0][0] for row in rows],
        "token_logprobs": [row[0][1] for row in rows],
        "top_logprobs": [dict(row) for row in rows],
    }


def _validate(raw: bytes) -> tuple[tuple[int, str] | None, dict[str, Any]]:
    """((status, message) or None, body): as a careful server reads a generation."""
    try:
        body = json.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        return (400, f"not JSON: {type(error).__name__}"), {}
    if not isinstance(body, dict):
        return (400, "not an object"), {}
    prompt = body.get("prompt", [{"x": 1}] if "messages" not in body else "chat")
    numbers = {"max_tokens": (0, 10**40), "temperature": (0, 2), "top_p": (0, 1), "n": (1, 8)}
    if body.get("model") != MODEL:
        return (404, "no such model"), {}
    if not isinstance(prompt, str) or not prompt or len(prompt) >= 8192 or "\ud800" in prompt:
        return (400, "prompt must be text within the model's length"), {}
    for name, (low, high) in numbers.items():
        value = body.get(name)
        if value is not None and not (isinstance(value, int | float) and low <= value <= high):
            return (400, f"{name} must be from {low} to {high}"), {}
    if isinstance(body.get("max_tokens"), float):
        return (400, "max_tokens must be whole"), {}
    if not isinstance(body.get("stream", False), bool):
        return (400, "stream must be true or false"), {}
    return None, body


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, str, bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)  # ValueError: no HTTP
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
    return method, path, await reader.readexactly(int(headers.get("content-length", 0)))


async def _write(writer: asyncio.StreamWriter, status: int, body: bytes, *, kind: str = "application/json") -> bool:
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    return True


async def _proxy(url: str, path: str, raw: bytes, writer: asyncio.StreamWriter) -> bool:
    parts = urlsplit(url)
    reader, upstream = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(raw)}\r\n\r\n"
    upstream.write(head.encode() + raw)
    while piece := await reader.read(65536):
        writer.write(piece)
        if piece.endswith(b"0\r\n\r\n"):
            break
    await writer.drain()
    upstream.close()
    return True


@asynccontextmanager
async def serving(model_dir: Path, behaviour: Behaviour | None = None) -> AsyncIterator[FakeServer]:
    """A server on a free port of 127.0.0.1 in this event loop."""
    server = FakeServer(ChainFacts.load(model_dir), TokenCounter(model_dir), behaviour or Behaviour())
    async with await asyncio.start_server(server.connection, "127.0.0.1", 0, limit=1 << 22) as listener:
        port = listener.sockets[0].getsockname()[1]
        server.url = f"http://127.0.0.1:{port}"
        server.ready_at = asyncio.get_running_loop().time() + server.behaviour.ready_after
        yield server
        listener.close()
        for task in tuple(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks)
