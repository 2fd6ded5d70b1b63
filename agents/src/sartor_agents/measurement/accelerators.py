"""NVIDIA GPUs as they are and as they behave, read through NVML (nvidia-ml-py). Machines without one have none to read.

*Identity* is what a number depends on and what must not change in a measurement: device, driver, limits, modes. *State* is
what shows whether a window was disturbed: time spent slowed down, uncorrectable memory errors, and who computes there.
NVML answers each question or says that this device does not support it; what is not supported is left out, never guessed.
Nothing here needs privileges.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, TypeVar

from pydantic import JsonValue

T = TypeVar("T")

# nvml.h, nvmlClocksEventReason*: what slows a device down that its own idleness, its clock settings or its power limit
# (a limit belongs to the device's identity) does not explain.
_SLOWED = {
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "power brake",
}


@dataclass(frozen=True, slots=True)
class AcceleratorState:
    """One device at one moment. `slowed_ns` is time in thermal violation and `energy_mj` the energy used (mJ), both since
    the driver was loaded; `memory` is what each process holds of the device's, bytes, and `used_bytes` what all of them and
    the driver do. What is not counted is absent."""

    uuid: str
    slowdown: tuple[str, ...]
    slowed_ns: int | None
    uncorrected: int | None
    pids: frozenset[int]
    sm_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    memory_clock_mhz: int | None = None
    energy_mj: int | None = None
    memory: Mapping[int, int] = field(default_factory=dict[int, int])
    used_bytes: int | None = None

    def as_record(self) -> dict[str, JsonValue]:
        """What is kept beside a measurement; process ids mean nothing later."""
        return {
            "uuid": self.uuid,
            "sm_clock_mhz": self.sm_clock_mhz,
            "memory_clock_mhz": self.memory_clock_mhz,
            "temperature_c": self.temperature_c,
            "power_w": self.power_w,
            "slowdown": list(self.slowdown),
            "processes": len(self.pids),
        }


class Accelerators(Protocol):
    """What the measurement asks of the devices of a machine."""

    def identity(self) -> list[dict[str, JsonValue]]: ...

    def state(self) -> tuple[AcceleratorState, ...]: ...


class MissingAcceleratorError(Exception):
    """The device that was asked for is not among those that NVML shows; the message names it."""


class NoAccelerators:
    """A machine without any."""

    def identity(self) -> list[dict[str, JsonValue]]:
        return []

    def state(self) -> tuple[AcceleratorState, ...]:
        return ()


class Nvml:
    """The devices that the library shows, or the one with the UUID `only`. `library` is the module `pynvml`, or what
    stands for it."""

    def __init__(self, library: Any, only: str | None = None) -> None:
        """Raises `MissingAcceleratorError`."""
        self._nvml = library
        self._devices: list[Any] = [
            library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())
        ]
        if only is not None:
            self._devices = [device for device in self._devices if self._uuid(device) == only]
            if not self._devices:
                raise MissingAcceleratorError(f"NVML shows no device {only} any more")

    def identity(self) -> list[dict[str, JsonValue]]:
        return [self._identity(device) for device in self._devices]

    def state(self) -> tuple[AcceleratorState, ...]:
        return tuple(self._state(device) for device in self._devices)

    def _identity(self, device: Any) -> dict[str, JsonValue]:
        nvml, ask = self._nvml, self._ask
        facts: dict[str, Any] = {
            "name": ask(lambda: _text(nvml.nvmlDeviceGetName(device))),
            "uuid": self._uuid(device),
            "minor": ask(lambda: int(nvml.nvmlDeviceGetMinorNumber(device))),
            "capability": ask(lambda: ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(device)))),
            "driver": ask(lambda: _text(nvml.nvmlSystemGetDriverVersion())),
            "vbios": ask(lambda: _text(nvml.nvmlDeviceGetVbiosVersion(device))),
            "memory_bytes": ask(lambda: nvml.nvmlDeviceGetMemoryInfo(device).total),
            "power_limit_w": ask(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(device) / 1000),
            "sm_clock_max_mhz": ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_SM)),
            "memory_clock_max_mhz": ask(lambda: nvml.nvmlDeviceGetMaxClockInfo(device, nvml.NVML_CLOCK_MEM)),
            "sm_clock_set_mhz": ask(lambda: nvml.nvmlDeviceGetApplicationsClock(device, nvml.NVML_CLOCK_SM)),
            "ecc": ask(lambda: bool(nvml.nvmlDeviceGetEccMode(device)[0])),
            "mig": ask(lambda: bool(nvml.nvmlDeviceGetMigMode(device)[0])),
            "persistence": ask(lambda: bool(nvml.nvmlDeviceGetPersistenceMode(device))),
            "compute_mode": ask(lambda: nvml.nvmlDeviceGetComputeMode(device)),
        }
        return {name: value for name, value in facts.items() if value is not None}

    def _state(self, device: Any) -> AcceleratorState:
        nvml, ask = self._nvml, self._ask
        bits = ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)) or 0
        violation = ask(lambda: nvml.nvmlDeviceGetViolationStatus(device, nvml.NVML_PERF_POLICY_THERMAL).violationTime)
        errors = ask(
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                device, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        )
        power = ask(lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000)
        processes = self._processes(device)
        return AcceleratorState(
            uuid=self._uuid(device) or "",
            slowdown=tuple(name for bit, name in _SLOWED.items() if bits & bit),
            slowed_ns=violation,
            uncorrected=errors,
            pids=frozenset(processes),
            sm_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)),
            temperature_c=ask(lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)),
            power_w=power,
            memory_clock_mhz=ask(lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM)),
            energy_mj=ask(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device)),
            memory={pid: used for pid, used in processes.items() if used is not None},
            used_bytes=ask(lambda: int(nvml.nvmlDeviceGetMemoryInfo(device).used)),
        )

    def _uuid(self, device: Any) -> str | None:
        return self._ask(lambda: _text(self._nvml.nvmlDeviceGetUUID(device)))

    def _processes(self, device: Any) -> dict[int, int | None]:
        """Who computes on the device, and the bytes that each holds of its memory (absent in a container, often)."""
        nvml = self._nvml
        found: list[Any] = []
        for processes in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            found += self._ask(lambda processes=processes: list(processes(device))) or []
        return {int(process.pid): process.usedGpuMemory for process in found}

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except self._nvml.NVMLError:
            return None


def _pynvml() -> Any:
    return import_module("pynvml")


def open_accelerators(load: Callable[[], Any] = _pynvml, *, only: str | None = None) -> Accelerators:
    """The devices of this machine, or the one with the UUID `only`; none where there is no library, driver or device.

    Raises `MissingAcceleratorError` for one that was asked for and is not there.
    """
    library = _started(load)
    if library is None:
        if only is not None:
            raise MissingAcceleratorError(f"NVML shows no device {only} any more: no driver answers")
        return NoAccelerators()
    return Nvml(library, only)


def _started(load: Callable[[], Any]) -> Any:
    """The library, ready to be asked; None where it or the driver is missing."""
    try:
        library = load()
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    return library


def foreign(states: Sequence[AcceleratorState], known: frozenset[int]) -> frozenset[int]:
    """Processes that compute on a device and are not of the measurement."""
    return frozenset[int]().union(*(state.pids for state in states)) - known


def slowed(before: Sequence[AcceleratorState], after: Sequence[AcceleratorState]) -> str | None:
    """A sentence on a device that was slowed down between two readings, or is at the end; None otherwise."""
    earlier = {state.uuid: state for state in before}
    for state in after:
        was = earlier.get(state.uuid)
        if was is not None and state.slowed_ns is not None and was.slowed_ns is not None:
            seconds = (state.slowed_ns - was.slowed_ns) / 1e9
            if seconds > 0:
                return f"{state.uuid} was slowed down by heat for {seconds:.2f} s"
        if state.slowdown:
            return f"{state.uuid} is slowed down: {', '.join(state.slowdown)}"
    return None


def faulty(before: Sequence[AcceleratorState], after: Sequence[AcceleratorState]) -> str | None:
    """A sentence on uncorrectable memory errors between two readings; None without."""
    earlier = {state.uuid: state.uncorrected for state in before}
    for state in after:
        was = earlier.get(state.uuid)
        if was is not None and state.uncorrected is not None and state.uncorrected > was:
            return f"{state.uuid} had {state.uncorrected - was} uncorrectable memory errors"
    return None


def energy(before: Sequence[AcceleratorState], after: Sequence[AcceleratorState]) -> float | None:
    """Joules that the devices used between two readings; None unless every one of them counts."""
    earlier = {state.uuid: state.energy_mj for state in before}
    used = 0
    for state in after:
        was = earlier.get(state.uuid)
        if was is None or state.energy_mj is None or state.energy_mj < was:  # a counter that starts anew has lost count
            return None
        used += state.energy_mj - was
    return used / 1000 if after else None


def memory_of(states: Sequence[AcceleratorState], pids: frozenset[int]) -> int | None:
    """Bytes of the devices' memory that these processes hold; None where none of them is known to hold any."""
    held = [used for state in states for pid, used in state.memory.items() if pid in pids]
    return sum(held) if held else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
