"""Stopping one container: preStop hook, stop signal, and SIGKILL when the time is up.

Specification: kubelet `killContainer`. The hook's time counts against the grace period; when it used all of it, the process
gets 2 s for itself.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sartor_runner.core.pod import Container
from sartor_runner.host import containers
from sartor_runner.node.events import Subject
from sartor_runner.node.machine import Machine

MINIMUM_SECONDS = 2.0
SIGNAL_AGAIN_SECONDS = 1.0


class Stopper:
    """One per attempt that is to stop. `by`: seconds since the epoch."""

    def __init__(self, machine: Machine, container: Container, folder: Path, address: str, by: float) -> None:
        self._machine, self._container, self._folder, self._address = machine, container, folder, address
        self._by = by
        self._changed = asyncio.Event()
        self._over = False

    def hasten(self, by: float) -> None:
        """The time is up earlier than was said before."""
        self._by = min(self._by, by)
        self._changed.set()

    def ended(self) -> None:
        """The container is gone; nothing more is to be done."""
        self._over = True
        self._changed.set()

    async def run(self, *, hook: bool, subject: Subject) -> None:
        """Until the container has ended or was killed."""
        if hook and self._container.pre_stop is not None:
            await self._hook(subject)
        if self._over:
            return
        containers.send(self._folder, f"signal {self._container.stop_signal}")
        await self._until(lambda: self._by)
        # Killing is repeated: the first may come before the sandbox has a process to kill.
        while not self._over:
            containers.kill(self._folder)
            again = self._machine.clock() + SIGNAL_AGAIN_SECONDS
            await self._until(lambda again=again: again)

    async def _hook(self, subject: Subject) -> None:
        handler = self._container.pre_stop
        if handler is None:
            return
        left = max(self._by - self._machine.clock(), 0.0)
        work = asyncio.create_task(
            self._machine.prober.send(handler, self._container, self._folder, self._address, left)
        )
        waiting = asyncio.create_task(self._until(lambda: self._by))
        await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, waiting):
            if not task.done():
                task.cancel()
        if work.done() and not work.cancelled():
            passed, seen = work.result()
            if not passed:
                self._machine.events.emit(subject, "Warning", "FailedPreStopHook", f"PreStopHook failed: {seen}")
        else:
            self._machine.events.emit(subject, "Warning", "FailedPreStopHook", "PreStopHook used up the grace period")
        if self._by - self._machine.clock() < MINIMUM_SECONDS:
            self._by = self._machine.clock() + MINIMUM_SECONDS

    async def _until(self, moment: Callable[[], float]) -> None:
        while not self._over and (left := moment() - self._machine.clock()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
            self._changed.clear()
