"""One generation request, from its body to the last byte of its answer."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from .engine import Engine, EngineDeadError, QueueFullError
from .errors import BadRequestError, FailedError, OutsideEnvelope, RequestError, UnavailableError
from .fields import as_object
from .protocol import Endpoint, Generation, parse
from .responses import DONE, Choice, Usage, Writer
from .sequence import Delta, Sequence
from .text_model import TextModel

log = logging.getLogger("stack.service")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# Above this a body is checked and tokenised on another thread, so that it does not delay other streams.
_INLINE_BYTES = 16 * 1024
_EVENT_STREAM = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ClientGoneError(Exception):
    """The client hung up; nobody is left to answer."""


class Inbox:
    """Deltas of one request, on their way from the event loop's wake-up to the task that writes them.

    A reader that is slow finds several at once: they become one chunk, and nothing else waits for it.
    """

    def __init__(self) -> None:
        self._deltas: list[tuple[int, Delta]] = []
        self._ready = asyncio.Event()
        self._gone = False

    def put(self, index: int, delta: Delta) -> None:
        self._deltas.append((index, delta))
        self._ready.set()

    def hang_up(self) -> None:
        self._gone = True
        self._ready.set()

    async def take(self) -> list[tuple[int, Delta]]:
        """All deltas that have come, at least one. Raises `ClientGoneError`, or `FailedError` if the engine gave up."""
        await self._ready.wait()
        self._ready.clear()
        if self._gone:
            raise ClientGoneError
        deltas, self._deltas = self._deltas, []
        for _, delta in deltas:
            if delta.finish == "error":
                raise FailedError(f"The engine failed while this request was running: {delta.stop_reason}")
        return deltas


@dataclass(frozen=True)
class Service:
    """What generation requests need; `random_seed` and `request_id` are passed in so that tests can foretell them."""

    engine: Engine
    text: TextModel
    random_seed: Callable[[], int]
    request_id: Callable[[], str]
    now: Callable[[], float] = time.time

    async def generate(self, endpoint: Endpoint, body: bytes, receive: Receive, send: Send) -> None:
        """Answer, streamed or whole. Raises `RequestError` or `OutsideEnvelope` only before the first byte is out."""
        generation = await self._parse(endpoint, body)
        inbox = Inbox()
        sequences = self._sequences(generation, inbox)
        try:
            self.engine.submit(sequences)
        except QueueFullError as error:
            raise OutsideEnvelope("queue_full", UnavailableError(str(error))) from error
        except EngineDeadError as error:
            dead = UnavailableError(f"The engine has failed and this server cannot generate any more: {error}")
            raise OutsideEnvelope("engine_dead", dead) from error
        self.engine.stats.requests[endpoint] += 1
        prefix = "chatcmpl" if endpoint == "chat" else "cmpl"
        writer = Writer(generation, f"{prefix}-{self.request_id()}", int(self.now()), self.text.detokenizer)
        usage = Usage(sum(len(prompt.tokens) for prompt in generation.prompts))
        watcher = asyncio.create_task(_watch(receive, inbox))
        try:
            if generation.stream:
                await _stream(inbox, writer, usage, len(sequences), send)
            else:
                await _whole(inbox, writer, usage, len(sequences), send)
        except ClientGoneError:
            log.debug("client gone; %d sequences cancelled", len(sequences))
        finally:
            watcher.cancel()
            self.engine.cancel(sequences)

    async def _parse(self, endpoint: Endpoint, body: bytes) -> Generation:
        if len(body) <= _INLINE_BYTES:
            return parse(endpoint, parse_body(body), self.text, self.random_seed)
        return await asyncio.to_thread(lambda: parse(endpoint, parse_body(body), self.text, self.random_seed))

    def _sequences(self, generation: Generation, inbox: Inbox) -> list[Sequence]:
        params = generation.params
        sequences: list[Sequence] = []
        for prompt in generation.prompts:
            for choice in range(generation.n):
                index = len(sequences)
                sequences.append(
                    Sequence(
                        prompt.tokens,
                        replace(params, seed=params.seed + choice) if choice else params,
                        self.text.detokenizer.stream(skip_special_tokens=params.skip_special_tokens),
                        lambda delta, index=index: inbox.put(index, delta),
                        generation.prediction,
                    )
                )
        return sequences


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object of a request. Raises `BadRequestError`."""
    try:
        value = json.loads(body)
    except UnicodeDecodeError as error:
        raise BadRequestError(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None
    except RecursionError:
        raise BadRequestError("The body is nested too deeply.") from None
    except ValueError as error:
        raise BadRequestError(f"The body is not valid JSON: {error}.") from None
    return as_object(value, "body")


async def _watch(receive: Receive, inbox: Inbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    inbox.hang_up()


async def _stream(inbox: Inbox, writer: Writer, usage: Usage, open_choices: int, send: Send) -> None:
    """Server-sent events. The status line waits for the first tokens, so that an early failure still has its own."""
    started = False
    try:
        while open_choices:
            gained: dict[int, Choice] = {}
            for index, delta in await inbox.take():
                usage.add(delta)
                gained.setdefault(index, Choice()).add(delta)
                open_choices -= delta.finish is not None
            chunks: list[bytes] = []
            if not started:
                chunks = writer.opening(usage)
                await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
                started = True
            for index, choice in gained.items():
                # Half a character, or what may become a stop string, is no news to a client that reads text.
                if choice.finish is not None or writer.shows_tokens or any(choice.text):
                    chunks.append(writer.chunk(index, choice, usage))
            if chunks and open_choices:
                await send({"type": "http.response.body", "body": b"".join(chunks), "more_body": True})
            elif not open_choices:
                chunks += writer.closing(usage)
                await send({"type": "http.response.body", "body": b"".join(chunks), "more_body": False})
    except RequestError as error:
        if not started:
            raise
        event = f"data: {json.dumps(error.body())}\n\n".encode()
        await send({"type": "http.response.body", "body": event + DONE, "more_body": False})


async def _whole(inbox: Inbox, writer: Writer, usage: Usage, count: int, send: Send) -> None:
    choices = [Choice() for _ in range(count)]
    open_choices = count
    while open_choices:
        for index, delta in await inbox.take():
            usage.add(delta)
            choices[index].add(delta)
            open_choices -= delta.finish is not None
    await send_bytes(send, 200, writer.whole(choices, usage))


async def send_bytes(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes = b"application/json",
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """A complete answer."""
    length = str(len(body)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", content_type), (b"content-length", length), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
