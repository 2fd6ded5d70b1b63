"""Stands for the module `pynvml` (nvidia-ml-py): the functions that are used of it, over devices that a test describes."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As the library's."""


@dataclass
class Device:
    """One device. `supports`: the facts that it answers; None: all."""

    uuid: str = "GPU-1"
    name: str = "NVIDIA H200"
    minor: int = 0
    capability: tuple[int, int] = (9, 0)
    total: int = 150 << 30
    taken: int = 600 << 20
    driver: str = "580.95.05"
    throttle: int = 0
    violation_ns: int = 0
    uncorrected: int = 0
    mig: int = 0
    power_limit: int = 700_000
    pids: list[int] = field(default_factory=list[int])
    energy_mj: int = 5_000_000
    used: dict[int, int] = field(default_factory=dict[int, int])
    supports: set[str] | None = None


class FakeNvml:
    """`broken`: the library is there, the driver is not. `asked` are the library's names that were used."""

    NVMLError = NVMLError

    def __init__(self, *devices: Device, broken: bool = False) -> None:
        self._devices = devices
        self._broken = broken
        self.asked: set[str] = set()

    def nvmlInit(self) -> None:  # noqa: N802  (the library's name)
        if self._broken:
            raise NVMLError("Driver Not Loaded")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith(("nvml", "NVML_")):
            raise AttributeError(name)
        self.asked.add(name)
        if name.startswith("NVML_"):
            return name
        if name not in _ANSWERS and name not in ("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"):
            raise AttributeError(name)
        return lambda *arguments: self._answer(name, *arguments)

    def _answer(self, name: str, *arguments: Any) -> Any:
        match name:
            case "nvmlDeviceGetCount":
                return len(self._devices)
            case "nvmlDeviceGetHandleByIndex":
                return self._devices[arguments[0]]
            case "nvmlSystemGetDriverVersion":
                return self._devices[0].driver
            case _:
                device: Device = arguments[0]
                fact, answer = _ANSWERS[name]
                if device.supports is not None and fact not in device.supports:
                    raise NVMLError("Not Supported")
                return answer(device, *arguments[1:])


def _processes(device: Device) -> list[Any]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=device.used.get(pid)) for pid in device.pids]


_CLOCKS = {"NVML_CLOCK_SM": 1980, "NVML_CLOCK_MEM": 3201}
_ANSWERS: dict[str, tuple[str, Any]] = {
    "nvmlSystemGetDriverVersion": ("driver", None),
    "nvmlDeviceGetName": ("name", lambda device: device.name.encode()),
    "nvmlDeviceGetUUID": ("uuid", lambda device: device.uuid),
    "nvmlDeviceGetVbiosVersion": ("vbios", lambda device: "96.00"),
    "nvmlDeviceGetMemoryInfo": ("memory", lambda device: SimpleNamespace(total=device.total, used=device.taken)),
    "nvmlDeviceGetMinorNumber": ("minor", lambda device: device.minor),
    "nvmlDeviceGetCudaComputeCapability": ("capability", lambda device: device.capability),
    "nvmlDeviceGetEnforcedPowerLimit": ("power", lambda device: device.power_limit),
    "nvmlDeviceGetMaxClockInfo": ("clocks", lambda device, kind: _CLOCKS[kind]),
    "nvmlDeviceGetApplicationsClock": ("clocks", lambda device, kind: 1500),
    "nvmlDeviceGetClockInfo": ("clocks", lambda device, kind: {"NVML_CLOCK_SM": 1830, "NVML_CLOCK_MEM": 3200}[kind]),
    "nvmlDeviceGetEccMode": ("ecc", lambda device: [1, 1]),
    "nvmlDeviceGetMigMode": ("mig", lambda device: [device.mig, device.mig]),
    "nvmlDeviceGetPersistenceMode": ("persistence", lambda device: 1),
    "nvmlDeviceGetComputeMode": ("mode", lambda device: 0),
    "nvmlDeviceGetCurrentClocksThrottleReasons": ("throttle", lambda device: device.throttle),
    "nvmlDeviceGetViolationStatus": (
        "violation",
        lambda device, policy: SimpleNamespace(violationTime=device.violation_ns),
    ),
    "nvmlDeviceGetTotalEccErrors": ("ecc", lambda device, kind, counter: device.uncorrected),
    "nvmlDeviceGetPowerUsage": ("power", lambda device: 350_000),
    "nvmlDeviceGetTotalEnergyConsumption": ("energy", lambda device: device.energy_mj),
    "nvmlDeviceGetTemperature": ("temperature", lambda device, sensor: 61),
    "nvmlDeviceGetComputeRunningProcesses": ("processes", _processes),
    "nvmlDeviceGetGraphicsRunningProcesses": ("processes", lambda device: []),
}
