"""The process around the application: socket, event loop, engine thread, and a way to stop that loses no request."""

import asyncio
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from .app import App
from .decoder import Decoder
from .engine import Engine
from .handover import Baseline
from .metrics import EngineStats
from .sequence import Delta, Sequence
from .service import Service
from .text_model import TextModel

log = logging.getLogger("stack.server")

# Longer than proxies keep an idle connection to an upstream (Envoy: an hour, nginx: a minute), so that it closes first
# and no request meets a connection that is just being closed: a POST is not sent twice, its user would see a 503.
_KEEP_ALIVE_SECONDS = 3900
_BACKLOG = 4096


class DrainingServer(uvicorn.Server):
    """uvicorn that drains before it closes.

    On the first SIGTERM or SIGINT `/health` turns 503 while requests, also new ones, are still answered: whoever
    routes traffic here learns of the end by that 503 and needs a moment to act on it. The listener closes when
    nothing is in work, or after `drain_seconds`; what then still runs is cut off. A second signal ends at once.
    """

    def __init__(self, config: uvicorn.Config, app: App, drain_seconds: float, clock: Callable[[], float]) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        self._app.draining = True
        self._deadline = self._clock() + self._drain_seconds
        log.info("%s: draining, %d requests in work", signal.Signals(sig).name, self._app.active)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn calls this ten times a second."""
        if self._deadline is not None and (self._app.active == 0 or self._clock() >= self._deadline):
            if self._app.active:
                log.warning("cutting off %d requests: they outlasted the drain time", self._app.active)
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, which is not accepting yet. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def serve(
    decoder: Decoder, text: TextModel, sock: socket.socket, *, baseline: str | None, drain_seconds: float
) -> None:
    """Serve until told to stop; closes the decoder."""
    _raise_file_limit()
    # The engine thread waits for the GIL after every step; the default of 5 ms is longer than many a step.
    sys.setswitchinterval(0.001)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(decoder, text, sock, baseline, drain_seconds))


async def _serve(
    decoder: Decoder, text: TextModel, sock: socket.socket, baseline_url: str | None, drain_seconds: float
) -> None:
    app = make_app(decoder, text, baseline_url, asyncio.get_running_loop())
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    server = DrainingServer(config, app, drain_seconds, time.monotonic)
    # What was loaded lives as long as the process: no garbage collection needs to look at it again.
    gc.collect()
    gc.freeze()
    app.engine.start()
    host, port = sock.getsockname()[:2]
    announce = asyncio.create_task(_announce(server, f"http://{f'[{host}]' if ':' in host else host}:{port}"))
    try:
        await server.serve(sockets=[sock])
    finally:
        announce.cancel()
        if await app.close():
            decoder.close()
        else:
            log.warning("a step is still running; leaving the decoder to the end of the process")
    log.info("stopped")


def make_app(decoder: Decoder, text: TextModel, baseline_url: str | None, loop: asyncio.AbstractEventLoop) -> App:
    """The application, its engine not started yet, with the engine's news arriving on `loop`."""

    def deliver(events: list[tuple[Sequence, Delta]]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(dispatch, events)

    engine = Engine(decoder, deliver, EngineStats())
    service = Service(engine, text, lambda: secrets.randbits(63), lambda: secrets.token_hex(16))
    return App(service, Baseline(baseline_url) if baseline_url else None, created=int(time.time()))


def dispatch(events: list[tuple[Sequence, Delta]]) -> None:
    """On the event loop: every sequence's news to whoever waits for it."""
    for sequence, delta in events:
        sequence.receive(delta)


async def _announce(server: uvicorn.Server, url: str) -> None:
    while not server.started:
        await asyncio.sleep(0.005)
    print(f"READY {url}", flush=True)  # noqa: T201 - the line that whoever started this process waits for


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not available on every platform
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _raise_file_limit() -> None:
    """Every connection is a file descriptor, and the usual soft limit of 1,024 is a courtesy to select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            log.warning("cannot raise the limit of open files from %d (process %d): %s", soft, os.getpid(), error)
