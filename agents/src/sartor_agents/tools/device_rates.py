"""What the GPUs of this machine reach, measured once for each and kept by its UUID and driver.

A device that somebody computes on is not timed: the figure would be that of what they left. Where nothing was measured,
that is said, with the reason.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor_agents.measurement.accelerators import Accelerators

PROBE_SECONDS = 120.0

Probe = Callable[[str], Mapping[str, Any]]
"""Measures the device with a UUID. Raises `ProbeError`."""


class ProbeError(Exception):
    """The device could not be timed; the message says why."""


@dataclass(frozen=True)
class Rates:
    """Of all devices together: bytes per second read from their memory, dense bfloat16 operations per second."""

    bandwidth: float
    peak: float
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Unknown:
    """Why there are no rates."""

    reason: str


def probe(uuid: str) -> Mapping[str, Any]:
    """`measurement.device_probe` in a process of its own that sees this device alone."""
    command = [sys.executable, "-m", "sartor_agents.measurement.device_probe"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuid}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProbeError(f"the probe did not end: {error}") from None
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ProbeError(f"the probe failed: {last.removeprefix('error: ')}")
    return json.loads(lines[-1])


def rates(accelerators: Accelerators, cache: Path, probe: Probe = probe) -> Rates | Unknown:
    """The rates of this machine's devices: those that are kept in `cache`, else measured now and kept."""
    devices = accelerators.identity()
    if not devices:
        return Unknown("NVML shows no device here")
    busy = {state.uuid for state in accelerators.state() if state.pids}
    found: list[Mapping[str, Any]] = []
    for device in devices:
        uuid, driver = str(device.get("uuid", "")), str(device.get("driver", ""))
        if not uuid:
            return Unknown("a device does not tell its UUID")
        kept = cache / "device-rates" / f"{uuid}-{driver}.json"
        if (known := _read(kept)) is None:
            if uuid in busy:
                return Unknown(f"{device.get('name', uuid)} is in use and was not measured before")
            try:
                known = probe(uuid)
            except ProbeError as error:
                return Unknown(f"{device.get('name', uuid)}: {error}")
            _write(kept, known)
        found.append(known)
    return Rates(
        sum(float(one["read_bytes_per_second"]) for one in found),
        sum(float(one["bfloat16_flops"]) for one in found),
        tuple(str(one["name"]) for one in found),
    )


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ok = float(content["read_bytes_per_second"]) > 0 and float(content["bfloat16_flops"]) > 0
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: it is measured again
    return content if ok else None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(dict(content), indent=1) + "\n", encoding="utf-8")
    part.replace(path)
