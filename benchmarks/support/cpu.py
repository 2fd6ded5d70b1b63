"""What a client takes of the processor while the server that it asks is at work."""

import os
import threading
import time
from itertools import pairwise
from types import TracebackType
from typing import Self

import psutil

WORKING = 0.3
"""Cores; a server that takes more is answering somebody."""


class ClientWatch:
    """Processor time of this process and all its children but the server's, beside the server's own, sampled."""

    def __init__(self, server: int, *, interval: float = 0.25) -> None:
        self._server, self._interval = server, interval
        self._seen: dict[tuple[int, bool], float] = {}
        """Processor seconds by pid and by whether it is of the server's tree; a process that ended keeps its last."""
        self._samples: list[tuple[float, float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="client-watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def cores(self) -> float:
        """The client's processor seconds ÷ seconds, over the intervals in which the server worked."""
        return cores(self._samples)

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._samples.append((time.monotonic(), *self._totals()))

    def _totals(self) -> tuple[float, float]:
        """Processor seconds so far: server, client."""
        me = psutil.Process(os.getpid())
        served = {self._server, *(child.pid for child in psutil.Process(self._server).children(recursive=True))}
        for process in (me, *me.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue  # it has ended since
            self._seen[process.pid, process.pid in served] = times.user + times.system
        server = sum(seconds for (_, its), seconds in self._seen.items() if its)
        return server, sum(self._seen.values()) - server


def cores(samples: list[tuple[float, float, float]]) -> float:
    """From (time, server's seconds, client's seconds): the client's share, where the server took over `WORKING` cores.

    Raises `ValueError` if the server never worked.
    """
    spent = worked = 0.0
    for (t0, s0, c0), (t1, s1, c1) in pairwise(samples):
        if s1 - s0 > WORKING * (t1 - t0):
            spent += c1 - c0
            worked += t1 - t0
    if not worked:
        raise ValueError("the server did not work while it was watched")
    return spent / worked
