"""One exchange with git's own `http-backend`, streamed both ways.

Nothing is held in memory: what the client sends goes into git's pipe at git's speed, what git says goes out at the client's.
A client that stops (sending or reading) for `Patience.idle` seconds, or takes longer than `Patience.total` in all, is cut
off. Git then sees its input end and takes back what was half done; what does not end is ended, with its whole process group.
"""

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from sartor_repository.metrics import Metrics

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_CPU_SECONDS = 300
_LIMITED = 'ulimit -c 0 && ulimit -t "$1" && ulimit -f "$2" && shift 2 && exec "$@"'
"""No core files; processor seconds; size of a file (in blocks of 512 or 1,024 bytes, as the shell has it)."""

_PASSED = ("Content-Type", "Cache-Control", "Expires", "Pragma")
"""Headers of git's answer that go to the client."""


@dataclass(frozen=True)
class Patience:
    """Seconds that a client, or git, may take."""

    header: float = 10.0
    """From connecting to a complete request header."""
    idle: float = 30.0
    """Between two pieces of a body."""
    total: float = 900.0
    """For one request."""
    queue: float = 20.0
    """For a git process to become free."""
    grace: float = 10.0
    """For git to clean up behind a client that has gone."""


class CutError(Exception):
    """The exchange cannot be carried on; `reason` is a word for the metrics. The connection has to be closed."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BackendError(Exception):
    """Git gave no answer; the message is what it said."""


@dataclass(frozen=True)
class Job:
    """A git process. `body_bytes` is the most that is read of the request's body, `file_bytes` the largest file that git
    may write, `lock` a descriptor that it holds on to."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    body_bytes: int
    file_bytes: int
    lock: int


@asynccontextmanager
async def started(job: Job, patience: Patience) -> AsyncGenerator[Process]:
    """The process, in a group of its own. On leaving it has ended: in peace within `grace`, else by signals."""
    limits = (str(_CPU_SECONDS), str(max(1, job.file_bytes // 512)))
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", _LIMITED, "sh", *limits, *job.command,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_CHUNK,
        env=dict(job.environment), start_new_session=True, pass_fds=(job.lock,),
    )  # fmt: skip
    try:
        yield process
    finally:
        await asyncio.shield(_end(process, patience.grace))


async def _end(process: Process, grace: float) -> None:
    """Its input ends; then it may end by itself, is asked to, is made to."""
    assert process.stdin is not None, "started with pipes"
    process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                # Unread output would keep it from ending.
                await asyncio.gather(_discard(process.stdout), _discard(process.stderr), process.wait())
            return
    log.error("git process %d does not end", process.pid)


async def _discard(stream: asyncio.StreamReader | None) -> None:
    while stream is not None and await stream.read(_CHUNK):
        pass


async def exchange(request: web.BaseRequest, job: Job, patience: Patience, metrics: Metrics) -> web.StreamResponse:
    """Carry out one request of git's. Raises `CutError`, and `BackendError` while nothing has been answered yet."""
    try:
        async with asyncio.timeout(patience.total), started(job, patience) as process:
            return await _converse(request, process, job, patience, metrics)
    except TimeoutError as error:
        raise CutError("total") from error


async def _converse(
    request: web.BaseRequest, process: Process, job: Job, patience: Patience, metrics: Metrics
) -> web.StreamResponse:
    assert process.stdout is not None and process.stderr is not None, "started with pipes"
    errors = asyncio.create_task(_tail(process.stderr))
    feeding = asyncio.create_task(_feed(request, process, job.body_bytes, patience, metrics))
    try:
        status, headers = await _head(process.stdout, feeding, errors)
        response = web.StreamResponse(status=status, headers=headers)
        await _within(patience.idle, response.prepare(request))
        while chunk := await process.stdout.read(_CHUNK):
            metrics.sent.inc(len(chunk))
            await _within(patience.idle, response.write(chunk))
        # The client reads our answer when it has sent everything, also what git did not want any more.
        await feeding
        await _within(patience.idle, response.write_eof())
        if said := await errors:
            log.info("git: %s", said)
        return response
    except (ConnectionError, aiohttp.ClientError) as error:
        raise CutError("gone") from error
    finally:
        for task in (feeding, errors):
            task.cancel()
        await asyncio.gather(feeding, errors, return_exceptions=True)


async def _within(seconds: float, work: Awaitable[object]) -> None:
    """Await something that goes at the client's speed. Raises `CutError`."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError as error:
        raise CutError("idle") from error


async def _feed(request: web.BaseRequest, process: Process, most: int, patience: Patience, metrics: Metrics) -> None:
    """The body into git's input, and its end. Raises `CutError`."""
    assert process.stdin is not None, "started with pipes"
    received, listening = 0, True
    try:
        while True:
            try:
                async with asyncio.timeout(patience.idle):
                    chunk = await request.content.readany()
            except TimeoutError as error:
                raise CutError("idle") from error
            except (OSError, aiohttp.ClientError) as error:
                raise CutError("gone") from error
            if not chunk:
                return
            received += len(chunk)
            metrics.received.inc(len(chunk))
            if received > most:
                raise CutError("size")
            if listening:
                try:
                    process.stdin.write(chunk)
                    await process.stdin.drain()
                except ConnectionError:
                    # Git has seen enough (too large, refused); its answer is what the client should read.
                    listening = False
    finally:
        process.stdin.close()


async def _head(
    stdout: asyncio.StreamReader, feeding: asyncio.Task[None], errors: asyncio.Task[str]
) -> tuple[int, dict[str, str]]:
    """Status and headers of git's answer (CGI)."""
    reading = asyncio.create_task(stdout.readuntil(b"\r\n\r\n"))
    try:
        await asyncio.wait((reading, feeding), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done() and not reading.done():
            feeding.result()  # a client that was cut off needs no answer
        text = (await reading).decode("latin-1")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise BackendError(await errors or "git ended without an answer") from error
    finally:
        reading.cancel()
    fields = {
        name.strip().title(): value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())
    }
    status = int(fields.get("Status", "200").split()[0])
    return status, {name: fields[name] for name in _PASSED if name in fields}


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last thing that git says on standard error."""
    kept = b""
    while chunk := await stream.read(_CHUNK):
        kept = (kept + chunk)[-2000:]
    return kept.decode(errors="replace").strip()


async def stream_output(
    request: web.BaseRequest, job: Job, content_type: str, patience: Patience, metrics: Metrics
) -> web.StreamResponse:
    """The output of a git command as a response. Raises `CutError`, and `BackendError` if it says nothing at all."""
    try:
        async with asyncio.timeout(patience.total), started(job, patience) as process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            process.stdin.close()
            errors = asyncio.create_task(_tail(process.stderr))
            chunk = await process.stdout.read(_CHUNK)
            if not chunk:
                raise BackendError(await errors)
            response = web.StreamResponse(headers={"Content-Type": content_type})
            try:
                await _within(patience.idle, response.prepare(request))
                while chunk:
                    metrics.sent.inc(len(chunk))
                    await _within(patience.idle, response.write(chunk))
                    chunk = await process.stdout.read(_CHUNK)
                if await process.wait() != 0:
                    raise CutError("git")  # an answer that is cut short must not look whole
                await _within(patience.idle, response.write_eof())
            except (ConnectionError, aiohttp.ClientError) as error:
                raise CutError("gone") from error
            return response
    except TimeoutError as error:
        raise CutError("total") from error
