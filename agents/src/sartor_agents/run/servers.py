"""HTTP servers under guard: started, waited for, watched, and ended with everything that they started."""

import http.client
import random
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sartor_agents.run.process import GuardedProcess

POLL_SECONDS = 0.1
HOST = "127.0.0.1"
PORTS = range(15_000, 32_000)
"""Below those that systems give away by themselves: Linux from 32768 on, macOS from 49152 on."""


@dataclass(frozen=True)
class ServerSpec:
    """How to start one server; it answers `GET /health` with 200 once it is ready.

    `memory_bytes` is the limit for the whole process tree (None: no limit).
    """

    name: str
    command: tuple[str, ...]
    cwd: Path
    port: int
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    ready_seconds: float = 300.0
    memory_bytes: int | None = None


class ServerError(Exception):
    """A server did not start, or is gone. `reason` is a CamelCase constant, the message has its last words."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def free_port() -> int:
    """A port of this host that nobody listens on now, and that the system gives to no outgoing connection meanwhile.

    A server may take a minute until it listens. Raises `ServerError` where a hundred ports are all taken.
    """
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise ServerError("NoPort", f"a hundred ports from {PORTS.start} to {PORTS.stop - 1} were tried, and all are taken")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


class RunningServer:
    """A server that answered `/health`. Leaving the context ends it (SIGTERM, then SIGKILL for what is left)."""

    def __init__(self, spec: ServerSpec, log: Path) -> None:
        """Start and wait. Raises `ServerError`; then nothing of it is left."""
        if not port_is_free(spec.port):
            raise ServerError("PortInUse", f"port {spec.port} on {HOST} is in use; end what listens there")
        self.spec = spec
        self.url = f"http://{HOST}:{spec.port}"
        started = time.monotonic()
        self.process = GuardedProcess(
            spec.command, cwd=spec.cwd, environment=spec.environment, log=log, memory_bytes=spec.memory_bytes
        )
        try:
            self._await_ready(started + spec.ready_seconds)
        except BaseException:
            self.process.stop(grace=0)
            raise
        self.start_seconds = time.monotonic() - started

    def _await_ready(self, deadline: float) -> None:
        while not self.healthy():
            if not self.process.alive:
                raise ServerError(*self._gone("before it was ready"))
            if time.monotonic() > deadline:
                raise ServerError(
                    "NotReady",
                    f"{self.spec.name} was not ready after {self.spec.ready_seconds:.0f} s\n{self.process.tail()}",
                )
            time.sleep(POLL_SECONDS)

    def _gone(self, when: str) -> tuple[str, str]:
        ended = self.process.wait(0)
        if ended.problem == "MemoryExceeded":
            limit = (self.spec.memory_bytes or 0) >> 20
            return "MemoryExceeded", f"{self.spec.name} used more than its {limit} MiB of memory {when}"
        return "Died", f"{self.spec.name} ended {when} (exit code {ended.code})\n{self.process.tail()}"

    def healthy(self, timeout: float = 2.0) -> bool:
        """Whether `/health` answers 200 now."""
        connection = http.client.HTTPConnection(HOST, self.spec.port, timeout=timeout)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def alive(self) -> bool:
        return self.process.alive

    def death(self) -> tuple[str, str] | None:
        """Reason and message if it is gone, else None."""
        return None if self.process.alive else self._gone("while it was used")

    def stop(self, grace: float = 5.0) -> None:
        self.process.stop(grace)

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
