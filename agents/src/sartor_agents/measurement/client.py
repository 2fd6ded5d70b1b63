"""The load generator: sends a workload to one server and turns what came back into samples.

*Closed loop* keeps a fixed number of requests in flight. *Open loop* sends on a schedule whatever the server does, and times
from the scheduled moment. While either runs, only bytes and times are kept; samples are made afterwards (`Sent.sample`).
The generator is one event loop on one core; `ceiling` measures what it can take.
"""

import asyncio
import errno
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .generator import IDLE, LoopWatch
from .http1 import Clock, Connection, Exchange, encode_request
from .messages import Endpoint
from .samples import ErrorClass, GenerationRequest, Purpose, Sample
from .sse import Answer, StreamError, parse_stream, parse_whole
from .tokens import TokenCounter, capped

_AFTER_FAILURE = 0.05


@dataclass(frozen=True, slots=True)
class Sent:
    """A request, why it was sent, when it was due, and what came back: a sample not yet decoded."""

    request: GenerationRequest
    purpose: Purpose
    scheduled: float
    exchange: Exchange
    streamed: bool
    left: float = 0.0
    """When we were ready to send it; connecting comes after and is the server's time."""

    def sample(self, arm: str, counter: TokenCounter) -> Sample:
        """Decode and judge the answer; whatever is wrong with it becomes the sample's error."""
        exchange, error, detail = self.exchange, self.exchange.error, self.exchange.detail
        answer = Answer()
        if error is None and exchange.status != 200:
            error, detail = ErrorClass.STATUS, f"HTTP {exchange.status}: {exchange.body[:200]!r}"
        elif error is None and self.streamed and "text/event-stream" not in exchange.content_type:
            error, detail = ErrorClass.PROTOCOL, f"not an event stream but {exchange.content_type!r}"
        elif error is None:
            try:
                answer = (parse_stream if self.streamed else parse_whole)(exchange.pieces)
            except StreamError as problem:
                error, detail = ErrorClass.STREAM, str(problem)
        arrivals = counter.arrivals(answer.parts)
        tokens = sum(n for _, n in arrivals)
        if error is None:
            error, detail = _fault(self.request, answer, tokens, counter)
        if not counter.exact and tokens > self.request.output_tokens:
            arrivals = capped(arrivals, self.request.output_tokens)
            tokens = self.request.output_tokens
        return Sample(
            request_id=self.request.id,
            condition=self.request.condition,
            arm=arm,
            purpose=self.purpose,
            scheduled=self.scheduled,
            sent=exchange.sent,
            first_byte=exchange.first_byte,
            end=exchange.end,
            status=exchange.status,
            text=answer.text,
            arrivals=arrivals,
            tokens=tokens,
            usage_prompt=answer.usage_prompt,
            usage_completion=answer.usage_completion,
            finish_reason=answer.finish_reason,
            error=error,
            detail=detail,
        )


def _fault(
    request: GenerationRequest, answer: Answer, tokens: int, counter: TokenCounter
) -> tuple[ErrorClass | None, str]:
    """What is wrong with a complete answer, by our own count and by the length that the request fixed."""
    fixed, claimed = request.output_tokens, answer.usage_completion
    if tokens == 0:
        return ErrorClass.EMPTY, "the answer has no text"
    if claimed is None:
        return ErrorClass.COUNT, "the answer has no `usage`, though it was asked for"
    if counter.exact and tokens != claimed:
        return ErrorClass.COUNT, f"`usage` says {claimed} tokens, the text has {tokens}"
    if claimed > fixed:
        return ErrorClass.COUNT, f"`usage` says {claimed} tokens, {fixed} were asked for"
    if request.length_is_forced:
        if claimed < fixed:
            return ErrorClass.SHORT, f"{claimed} tokens instead of {fixed} ({answer.finish_reason})"
    elif not counter.agrees(tokens, claimed):
        return ErrorClass.COUNT, f"`usage` says {claimed} tokens, the text has {tokens}"
    elif tokens < fixed and not counter.agrees(tokens, fixed):
        return ErrorClass.SHORT, f"{tokens} tokens instead of {fixed} ({answer.finish_reason})"
    return None, ""


class LoadClient:
    """Sends to one endpoint. `model` is what requests name; find it with `discover_model`.

    Connections are opened when needed and closed at the end of each loop, so that no server is measured over a
    connection that its own idle timeout is about to close.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        model: str,
        counter: TokenCounter,
        request_timeout: float,
        stall_timeout: float,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.endpoint = endpoint
        self.model = model
        self.counter = counter
        self.clock = clock
        self._timeout = request_timeout
        self._stall = stall_timeout
        self._authority = urlsplit(endpoint.url).netloc
        self.load = IDLE
        """How hard we worked in the loops since `load` was last set to `IDLE`."""
        self.ports: set[int] = set()
        """Local ports of the connections opened since this was last cleared."""

    def encode(self, request: GenerationRequest, *, stream: bool = True) -> bytes:
        """The bytes that are sent for `request`."""
        body: dict[str, Any] = {"model": self.model, **request.body}
        if not self.endpoint.accepts_prediction:
            body.pop("prediction", None)
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return encode_request("POST", self._authority, request.path, body)

    async def connect(self) -> Connection:
        """A connection of the caller's own. Raises `OSError` or `TimeoutError`."""
        connection = await Connection.open(self.endpoint.url, self.clock)
        self.ports.add(connection.local_port)
        return connection

    async def send(
        self,
        request: GenerationRequest,
        *,
        purpose: Purpose = "accuracy",
        stream: bool = True,
        timeout: float | None = None,
    ) -> Sample:
        """One request on a connection of its own, decoded at once."""
        sent = await self._send(request, purpose, stream=stream, scheduled=None, connection=None, timeout=timeout)
        if sent[1] is not None:
            sent[1].close()
        return sent[0].sample(self.endpoint.name, self.counter)

    async def get(self, path: str, *, timeout: float = 10.0) -> Exchange:
        """GET `path`; connection errors are in the exchange."""
        return await self.raw(encode_request("GET", self._authority, path), timeout=timeout)

    async def raw(self, payload: bytes, *, timeout: float) -> Exchange:
        """Send `payload` as it is on a fresh connection."""
        try:
            connection = await self.connect()
        except (OSError, TimeoutError) as error:
            now = self.clock()
            return Exchange(now, end=now, error=ErrorClass.CONNECT, detail=_connect_detail(self.endpoint.url, error))
        try:
            return await connection.exchange(payload, timeout=timeout, stall_timeout=timeout)
        finally:
            connection.close()

    async def closed_loop(
        self,
        workers: Iterable[Iterator[tuple[GenerationRequest, Purpose]]],
        *,
        until: Callable[[], float | None] = lambda: None,
        enough: Callable[[Sent], bool] = lambda _: False,
    ) -> list[Sent]:
        """One request in flight per worker, each worker drawing from its own iterator.

        A worker sends nothing more once its iterator ends, the clock has passed `until()` or `enough` was true of an answer;
        what is in flight then is waited for, so that no slow request is cut out of the record.
        """
        sent: list[Sent] = []
        over = False

        async def work(requests: Iterator[tuple[GenerationRequest, Purpose]]) -> None:
            nonlocal over
            connection: Connection | None = None
            try:
                for request, purpose in requests:
                    one, connection = await self._send(request, purpose, connection=connection)
                    sent.append(one)
                    if one.exchange.error is not None or one.exchange.status != 200:
                        # A loop against a server that refuses at once must not spin; a user would not either.
                        await asyncio.sleep(_AFTER_FAILURE)
                    over = over or enough(one)
                    limit = until()
                    if over or (limit is not None and self.clock() >= limit):
                        break
            finally:
                if connection is not None:
                    connection.close()

        watch = LoopWatch()
        watch.start()
        async with asyncio.TaskGroup() as group:
            for requests in workers:
                group.create_task(work(requests))
        self.load += watch.stop()
        return sent

    async def open_loop(self, schedule: Iterable[tuple[float, GenerationRequest, Purpose]]) -> list[Sent]:
        """Send each request at its time (seconds from now), however many are then in flight; wait for all of them."""
        sent: list[Sent] = []
        idle: list[Connection] = []
        watch = LoopWatch()
        watch.start()
        origin = self.clock()

        async def one(due: float, request: GenerationRequest, purpose: Purpose) -> None:
            connection = idle.pop() if idle else None
            result, connection = await self._send(request, purpose, scheduled=due, connection=connection)
            sent.append(result)
            if connection is not None:
                idle.append(connection)

        async with asyncio.TaskGroup() as group:
            for offset, request, purpose in schedule:
                due = origin + offset
                if (wait := due - self.clock()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one(due, request, purpose))
        self.load += watch.stop([one.left - one.scheduled for one in sent])
        for connection in idle:
            connection.close()
        return sent

    async def _send(
        self,
        request: GenerationRequest,
        purpose: Purpose,
        *,
        stream: bool = True,
        scheduled: float | None = None,
        connection: Connection | None = None,
        timeout: float | None = None,
    ) -> tuple[Sent, Connection | None]:
        """Send one request, on `connection` if that is still usable; the connection to use next, if it may be used."""
        payload = self.encode(request, stream=stream)
        left = self.clock()
        due = left if scheduled is None else scheduled
        try:
            if connection is None or not connection.usable:
                connection = await self.connect()
        except (OSError, TimeoutError) as error:
            now = self.clock()
            failed = Exchange(now, end=now, error=_blame(error), detail=_connect_detail(self.endpoint.url, error))
            return Sent(request, purpose, due, failed, stream, left), None
        limit = timeout or self._timeout
        exchange = await connection.exchange(payload, timeout=limit, stall_timeout=min(limit, self._stall))
        return Sent(request, purpose, due, exchange, stream, left), connection if connection.usable else None


async def discover_model(endpoint: Endpoint, *, timeout: float = 10.0) -> str:
    """The model that the endpoint serves (first of /v1/models). Raises `UnreachableError`."""
    if endpoint.model is not None:
        return endpoint.model
    exchange = await _get(endpoint, "/v1/models", timeout)
    try:
        return str(json.loads(exchange.body)["data"][0]["id"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise UnreachableError(f"{endpoint.url}/v1/models answered {exchange.body[:200]!r}: no model in it") from None


async def healthy(endpoint: Endpoint, *, timeout: float = 10.0) -> bool:
    """Whether /health answers 200."""
    try:
        return (await _get(endpoint, "/health", timeout)).status == 200
    except UnreachableError:
        return False


class UnreachableError(Exception):
    """A server that should be up does not answer as it should; the message says what it did instead."""


async def _get(endpoint: Endpoint, path: str, timeout: float) -> Exchange:
    try:
        connection = await Connection.open(endpoint.url, time.perf_counter, timeout=timeout)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(_connect_detail(endpoint.url, error)) from None
    try:
        payload = encode_request("GET", urlsplit(endpoint.url).netloc, path)
        exchange = await connection.exchange(payload, timeout=timeout, stall_timeout=timeout)
    finally:
        connection.close()
    if exchange.error is not None:
        raise UnreachableError(f"{endpoint.url}{path}: {exchange.detail}")
    return exchange


def _blame(error: BaseException) -> ErrorClass:
    """Running out of our own files or ports says nothing of the server."""
    ours = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL)
    return ErrorClass.GENERATOR if ours else ErrorClass.CONNECT


def _connect_detail(url: str, error: BaseException) -> str:
    return f"no connection to {url}: {error or type(error).__name__}"
