"""The probe at work: copies come in on one port, the operator asks on another, pairs run in between.

Everything from outside is bounded: bodies, answers, pairs under way, records. Nothing of a request or an answer is kept once
its pair has ended, and none of it is ever logged.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import ValidationError

from sartor_agents.measurement.http1 import Clock
from sartor_agents.probe.arms import ask
from sartor_agents.probe.greedy import GENERATION_PATHS, UnfitError, encode_copy, greedy_body
from sartor_agents.probe.pairing import ARMS, Arm, ArmAnswer, records
from sartor_agents.probe.ring import Ring
from sartor_agents.probe.sampling import chosen
from sartor_api.probe import ProbeAsk

LARGEST_BODY = 8 * 1024 * 1024
"""Bytes of a request's body; reading JSON of that size takes some 0.1 s, in which no clock of a pair can be read."""
BODY_SECONDS = 30.0
"""How long a body may take to come in whole."""
SHUTDOWN_SECONDS = 0.1
"""How long an end waits for answers that are being written. aiohttp takes 0 for "for ever"."""
LARGEST_ASK = 64 * 1024
SHARE_SECONDS = 60.0
"""How long a share holds that is not asked for again: an operator that is gone must not cost the engines their time."""

_BROKEN = (ConnectionError, HttpProcessingError, web.RequestPayloadError)
"""What reading a body raises when the client breaks off or sends what is no HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a probe works: the arms' addresses (`http://HOST:PORT`), pairs at a time, seconds for one arm's answer."""

    baseline: str
    candidate: str
    concurrency: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a probe takes from outside: `clock` does not jump, `wall` is Unix time, `draw` is uniform in [0, 1)."""

    clock: Clock
    wall: Clock
    draw: Callable[[], float]


class Probe:
    """Both HTTP handlers and the pairs. `salt` keeps what engines remember of copies apart from users' requests."""

    def __init__(self, settings: Settings, surroundings: Surroundings, ring: Ring, *, salt: str) -> None:
        self._settings = settings
        self._around = surroundings
        self._ring = ring
        self._salt = salt
        self._share = 0.0
        self._share_until = 0.0
        self._busy = 0
        self._pairs = 0
        self._under_way: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def share(self) -> float:
        """The share of copies that is sampled now."""
        return self._share if self._around.clock() < self._share_until else 0.0

    async def close(self) -> None:
        """End all pairs at once: the arms see their client leave, nothing is recorded."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- copies ---

    async def copies(self, request: web.BaseRequest) -> web.Response:
        """Any request: 202, whatever becomes of it. What is not asked again is not even read: the server drops it."""
        if (request.method, request.path) == ("GET", "/health"):
            return web.Response(text="ok\n")
        counts = self._ring.counts
        counts.seen += 1
        if request.method == "POST" and request.path in GENERATION_PATHS:
            share = self.share
            if share > 0 and chosen(request.headers.get("x-request-id", ""), share, self._around.draw):
                counts.chosen += 1
                await self._take(request)
        return web.Response(status=202)

    async def _take(self, request: web.BaseRequest) -> None:
        """Begin a pair, or count why not. The place is taken before the body is read, so that no more bodies are in
        memory than pairs are allowed."""
        if self._busy >= self._settings.concurrency:
            self._ring.counts.dropped += 1
            return
        self._busy += 1
        begun = False
        try:
            body = await _body(request, LARGEST_BODY)
            if body is None:
                self._ring.counts.dropped += 1
                return
            arrival = self._around.wall()
            try:
                if request.headers.get("content-encoding", "identity").lower() != "identity":
                    raise UnfitError("the body is compressed")
                copy = greedy_body(body, self._salt)
            except UnfitError:
                self._ring.counts.unfit += 1
                return
            headers, target = request.raw_headers, request.rel_url.raw_path_qs
            payloads: dict[Arm, bytes] = {
                arm: encode_copy(self._url(arm), target, headers, copy, request_id=str(uuid.uuid4())) for arm in ARMS
            }
            task = asyncio.create_task(self._pair(self._pairs, arrival, payloads))
            self._under_way[self._pairs] = arrival
            self._pairs += 1
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            begun = True
        finally:
            if not begun:
                self._busy -= 1

    async def _pair(self, pair: int, arrival: float, payloads: dict[Arm, bytes]) -> None:
        """Ask one arm after the other, in random order: what the first one costs the machine, and what it leaves warm,
        falls on each arm as often."""
        order: tuple[Arm, Arm] = ARMS if self._around.draw() < 0.5 else (ARMS[1], ARMS[0])
        answers: dict[Arm, ArmAnswer] = {}
        try:
            for arm in order:
                answers[arm] = await ask(
                    self._url(arm), payloads[arm], clock=self._around.clock, timeout=self._settings.timeout
                )
            self._ring.add(records(pair, arrival, order, answers))
        finally:
            self._busy -= 1
            del self._under_way[pair]

    def _url(self, arm: Arm) -> str:
        return self._settings.baseline if arm == "baseline" else self._settings.candidate

    # --- control ---

    async def control(self, request: web.BaseRequest) -> web.Response:
        """What the operator asks."""
        match request.method, request.path:
            case "GET", "/health":
                return web.Response(text="ok\n")
            case "POST", "/poll":
                return await self._poll(request)
            case _, "/health" | "/poll":
                return _refusal(405, f"{request.path} does not take this method; GET /health or POST /poll")
            case _:
                return _refusal(404, "no such path; the probe has GET /health and POST /poll here")

    async def _poll(self, request: web.BaseRequest) -> web.Response:
        body = await _body(request, LARGEST_ASK)
        if body is None:
            return _refusal(400, f"the body is incomplete, or larger than {LARGEST_ASK} bytes")
        try:
            wanted = ProbeAsk.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the body"
            return _refusal(400, f"{where}: {first['msg']}")
        self._share = wanted.share
        self._share_until = self._around.clock() + SHARE_SECONDS
        now = self._around.wall()
        page = self._ring.page(
            wanted, now=now, complete_until=min([now, *self._under_way.values()]), share=wanted.share
        )
        return web.Response(body=page, content_type="application/json")


async def _body(request: web.BaseRequest, largest: int) -> bytes | None:
    """The whole body; None where it is larger, or did not come in whole or in time."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.content.iter_any():
                size += len(part)
                if size > largest:
                    return None
                parts.append(part)
    except (TimeoutError, *_BROKEN):
        return None
    return b"".join(parts)


def _refusal(status: int, sentence: str) -> web.Response:
    return web.Response(status=status, text=json.dumps({"error": sentence}) + "\n", content_type="application/json")


class NoContent(logging.Filter):
    """Of what is wrong with somebody's HTTP only its kind is logged: the text quotes what they sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _BROKEN):
            record.msg, record.args = "a connection was refused: %s", (type(error).__name__,)
            record.exc_info = record.exc_text = None
        return True


_NO_CONTENT = NoContent()


def servers(probe: Probe) -> tuple[web.ServerRunner, web.ServerRunner]:
    """The server of the copies and the one of the operator, not started yet. They end without waiting for slow clients."""
    logger = logging.getLogger("sartor.probe.http")
    logger.addFilter(_NO_CONTENT)
    copies, control = (
        web.ServerRunner(
            web.Server(handler, access_log=None, logger=logger, auto_decompress=False),
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        for handler in (probe.copies, probe.control)
    )
    return copies, control
