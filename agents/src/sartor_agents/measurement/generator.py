"""How hard the load generator itself worked: whether a window measured the server or the client.

The generator is one event loop on one core. Two things show that it was the limit, both read in every window under the very
conditions of the measurement: the *CPU share* of its thread (at 1 it can do no more, whatever the server does: its own rate
divided by its ceiling), and its *lag*, by how much a timer that was due ran late, which is by how much the time of any
arrival may be wrong. In an open loop, *lateness* is how long after its moment a request left: latency counts from the
moment, so the generator's own lateness would be charged to the server. `ceiling` shows the rates at a share of 1.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import quantile

PROBE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class GeneratorLoad:
    """The generator over some loops together. Seconds; `cpu_share` is of one core."""

    seconds: float
    cpu_seconds: float
    lags: tuple[float, ...] = ()
    lateness: tuple[float, ...] = ()

    @property
    def cpu_share(self) -> float:
        return self.cpu_seconds / self.seconds if self.seconds > 0 else 0.0

    @property
    def lag(self) -> float:
        """99th percentile of how late the event loop came to what was due."""
        return quantile(self.lags, 0.99) if self.lags else 0.0

    @property
    def late(self) -> float:
        """99th percentile of how long after its scheduled moment a request left; zero in a closed loop."""
        return quantile(self.lateness, 0.99) if self.lateness else 0.0

    def __add__(self, other: "GeneratorLoad") -> "GeneratorLoad":
        return GeneratorLoad(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            self.lags + other.lags,
            self.lateness + other.lateness,
        )


IDLE = GeneratorLoad(0.0, 0.0)


class LoopWatch:
    """Watches the running event loop between `start` and `stop`. One timer of 100 Hz: some 0.1 % of a core."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._begun, self._cpu = time.perf_counter(), time.thread_time()
        self._arm()

    def stop(self, lateness: Sequence[float] = ()) -> GeneratorLoad:
        now = time.perf_counter()
        if self._timer is not None:
            self._timer.cancel()
            # A timer that is overdue when we stop was held up as well.
            self._lags.append(max(0.0, now - self._due))
        return GeneratorLoad(now - self._begun, time.thread_time() - self._cpu, tuple(self._lags), tuple(lateness))

    def _arm(self) -> None:
        self._due = time.perf_counter() + PROBE_SECONDS
        self._timer = asyncio.get_running_loop().call_later(PROBE_SECONDS, self._fire)

    def _fire(self) -> None:
        self._lags.append(max(0.0, time.perf_counter() - self._due))
        self._arm()
