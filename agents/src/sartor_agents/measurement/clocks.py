"""Whether time itself was sound in a window.

Latencies are differences of the monotonic clock, which no one sets. What can still spoil them: a wall clock that is stepped
(servers that time out, expire or schedule by it behave otherwise, and records get wrong dates), and a machine that was
suspended or a virtual machine that was stopped, which CLOCK_BOOTTIME counts and CLOCK_MONOTONIC does not (`man 2
clock_gettime`).
"""

import time
from dataclasses import dataclass

_SLEW = 0.001  # NTP slews by at most 500 parts per million
_READING = 0.05  # seconds between reading one clock and the next, at most


@dataclass(frozen=True, slots=True)
class Clocks:
    """Readings of one moment, seconds; `boot` is None on systems without that clock."""

    wall: float
    monotonic: float
    boot: float | None = None


def read() -> Clocks:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return Clocks(time.time(), time.monotonic(), None if boot is None else time.clock_gettime(boot))


def stepped(before: Clocks, after: Clocks) -> str | None:
    """A sentence on the step between two readings; None when all clocks ran alike."""
    elapsed = after.monotonic - before.monotonic
    allowed = _READING + _SLEW * elapsed
    if before.boot is not None and after.boot is not None:
        asleep = after.boot - before.boot - elapsed
        if asleep > allowed:
            return f"the machine stood still for {asleep:.2f} s"
    step = after.wall - before.wall - elapsed
    if abs(step) > allowed:
        return f"the wall clock was set by {step:+.2f} s"
    return None
