"""The candidate while it is being written: built and served in the sandbox, and asked over a UNIX socket.

It has no network; no port of the machine is opened for it. It serves a copy of the workspace as it was at the start.
"""

import contextlib
import http.client
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sartor_agents.run.sandbox import walls
from sartor_agents.run.sandbox.command import CommandResult, CommandSandbox, Running, listening, socket_folder, started

PORT = walls.PORTS[0]
BUILD_SECONDS = 600.0
READY_SECONDS = 180.0
SERVE_SECONDS = 4 * 3600.0
POLL_SECONDS = 0.1


class NotServingError(Exception):
    """The candidate is not up; the message says why, with its last words."""


@dataclass(frozen=True)
class Response:
    """One answer, names of headers in lower case. `body` is at most as long as was asked for, `size` its whole length; times
    are seconds from the request: to the first byte of the body, and to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int
    first: float
    seconds: float


class CandidateServer:
    """One candidate at a time. `close` ends it."""

    def __init__(self, sandbox: CommandSandbox) -> None:
        """`sandbox.model_dir` has to hold the weights."""
        self._sandbox = sandbox
        self._stack = contextlib.ExitStack()
        self._running: Running | None = None
        self._socket: Path | None = None

    @property
    def serving(self) -> bool:
        return self._running is not None and self._running.process.alive

    def start(self, *, ready_seconds: float = READY_SECONDS) -> tuple[CommandResult, float]:
        """Build, serve and wait until `/health` answers 200: the build's result and the seconds to get ready.

        Raises `NotServingError`, `SandboxError`.
        """
        self.close()
        built = replace(self._sandbox, limits=replace(self._sandbox.limits, seconds=BUILD_SECONDS)).run(
            ("python", "-m", "stack", "build")
        )
        if built.code != 0 or built.problem is not None:
            raise NotServingError(
                f"python -m stack build: {built.problem or f'exit code {built.code}'}\n{built.output}"
            )
        limits = replace(self._sandbox.limits, seconds=SERVE_SECONDS, cpu_seconds=int(SERVE_SECONDS) * 64)
        serving = replace(self._sandbox, limits=limits)
        command = ("python", "-m", "stack", "serve", "--model", "/model", "--host", "127.0.0.1", "--port", str(PORT))
        begun = time.monotonic()
        try:
            folder = self._stack.enter_context(socket_folder())
            self._socket, number = self._stack.enter_context(listening(folder / "into.sock"))
            self._running = self._stack.enter_context(started(serving, command, keep=False, into={number: PORT}))
            self._await_ready(begun + ready_seconds)
        except BaseException:
            self.close()
            raise
        return built, time.monotonic() - begun

    def _await_ready(self, deadline: float) -> None:
        assert self._running is not None, "started before"
        while True:
            with contextlib.suppress(NotServingError):
                if self.ask("GET", "/health", timeout=2.0).status == 200:
                    return
            if not self._running.process.alive:
                raise NotServingError(f"the stack ended before it was ready\n{self.log()}")
            if time.monotonic() > deadline:
                raise NotServingError(f"/health did not answer 200 in time\n{self.log()}")
            time.sleep(POLL_SECONDS)

    def log(self) -> str:
        """What it wrote, the middle left out."""
        return self._running.output.text() if self._running is not None else ""

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float,
        most: int = 1 << 20,
        leave_after: int | None = None,
    ) -> Response:
        """One request on a connection of its own. `leave_after`: hang up after so many bytes. Raises `NotServingError`."""
        if self._running is None or self._socket is None:
            raise NotServingError("the candidate is not running")
        connection = _Connection(self._socket, timeout)
        begun = time.monotonic()
        try:
            headers = {"content-type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            kept, size, first = bytearray(), 0, 0.0
            while data := answer.read1(65536):
                first = first or time.monotonic() - begun
                size += len(data)
                kept += data[: max(0, most - len(kept))]
                if leave_after is not None and size >= leave_after:
                    break
                if time.monotonic() - begun > timeout:
                    raise TimeoutError
        except TimeoutError:
            raise NotServingError(f"{method} {path}: no whole answer within {timeout:.0f} s") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotServingError(f"{method} {path}: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, headers, bytes(kept), size, first, time.monotonic() - begun)

    def close(self) -> None:
        self._stack.close()
        self._running = None


class _Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("candidate", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
