"""One component: kept running with a back-off, stopped and started on request."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sartor_devcluster.components import ComponentSpec
from sartor_devcluster.layout import Layout

FIRST_DELAY, LONGEST_DELAY = 0.5, 8.0
"""Seconds between the end of a component and its next start: doubled each time, as a kubelet does it, but shorter."""

STEADY_SECONDS = 30.0
"""A component that ran this long starts the next back-off from the beginning."""

GRACE_SECONDS = 20.0
"""Between SIGTERM and SIGKILL; the API server finishes its requests first."""

Phase = Literal["running", "stopped", "waiting"]


def next_delay(delay: float, ran: float) -> float:
    """The delay before the next start, after a component that had waited `delay` ran for `ran` seconds."""
    return FIRST_DELAY if ran >= STEADY_SECONDS or delay == 0 else min(2 * delay, LONGEST_DELAY)


@dataclass(frozen=True)
class ComponentStatus:
    name: str
    phase: Phase
    pid: int | None
    restarts: int
    exit_code: int | None
    """Of its last end; negative: the signal."""


class Component:
    """Lives in the supervisor's event loop. `say` is called with sentences for the supervisor's log, `gate` returns when
    the component may start, with the arguments that are known only then; they come before all others."""

    def __init__(
        self,
        spec: ComponentSpec,
        layout: Layout,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        gate: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self.spec = spec
        self._layout = layout
        self._environment = dict(environment)
        self._say = say
        self._gate = gate
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._unwanted = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._renewing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self._exit_code: int | None = None

    async def keep(self) -> None:
        """Keep it running while it is wanted. Ends by cancellation, or by `OSError` when it cannot be started at all."""
        delay = 0.0
        while True:
            await self._wanted.wait()
            arguments = await self._gate()
            if not self._wanted.is_set():
                continue
            begun = time.monotonic()
            self._start(arguments)
            self._exit_code = await self._wait()
            renewed, self._renewing = self._renewing, False
            if not self._wanted.is_set() or renewed:
                delay = 0.0
                continue
            self._restarts += 1
            delay = next_delay(delay, time.monotonic() - begun)
            self._say(f"{self.spec.name} ended ({describe(self._exit_code)}); starting it again in {delay:g} s")
            try:
                async with asyncio.timeout(delay):
                    await self._unwanted.wait()
            except TimeoutError:
                continue

    def _start(self, arguments: Sequence[str]) -> None:
        self._layout.logs.mkdir(parents=True, exist_ok=True)
        program, *rest = self.spec.command
        with self._layout.log(self.spec.name).open("ab") as log:
            self._process = subprocess.Popen(
                [program, *arguments, *rest],
                cwd=self._layout.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ended.clear()

    async def _wait(self) -> int:
        assert self._process is not None, "started"
        await exited(self._process.pid)
        code = self._process.wait()
        self._process = None
        self._ended.set()
        return code

    def renew(self) -> bool:
        """End it, to be started at once with what its gate says then. False, and nothing happens, while it does not run."""
        if self._process is None:
            return False
        self._renewing = True
        self._process.send_signal(signal.SIGTERM)
        return True

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal. False, and nothing happens, while it does not run."""
        if self._process is None:
            return False
        self._process.send_signal(number)
        return True

    async def stop(self, *, kill: bool) -> None:
        """End it and keep it ended. SIGKILL at once with `kill`, else after `GRACE_SECONDS`. Idempotent."""
        self._wanted.clear()
        self._unwanted.set()
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                self._say(f"{self.spec.name} did not end in {GRACE_SECONDS:.0f} s; killing it")
                process.kill()
                await self._ended.wait()

    def start(self) -> None:
        """Want it again; it starts as soon as its gate is open. Idempotent."""
        self._unwanted.clear()
        self._wanted.set()

    def status(self) -> ComponentStatus:
        phase: Phase = "running" if self._process is not None else "waiting" if self._wanted.is_set() else "stopped"
        pid = self._process.pid if self._process is not None else None
        return ComponentStatus(self.spec.name, phase, pid, self._restarts, self._exit_code)


async def exited(pid: int) -> None:
    """Until child `pid` has ended (it is not reaped)."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    handle = os.pidfd_open(pid)
    try:
        loop.add_reader(handle, lambda: ended.done() or ended.set_result(None))
        await ended
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def describe(code: int) -> str:
    """An exit code as a person says it."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
