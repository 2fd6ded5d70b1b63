"""The NVIDIA device of a run on this machine: chosen once, recorded, and shown to the processes that compute on it.

A cluster's scheduler gives a pod its device. Without one the run chooses: a whole device of the product that its target
names, on which nobody computes. Candidate and baseline are both on it, one after the other in interleaved windows; every
other process of the run sees none. What cannot be had is said before anything is made.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import JsonValue

from sartor_agents.measurement.accelerators import Accelerators, AcceleratorState
from sartor_agents.run.errors import BadRequestError
from sartor_api.hardware_target import Accelerator

RECORD = "device.json"
"""Where the run's repository keeps its device, from the first commit on."""

DEV = Path("/dev")
RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
"""What a whole device is called. A shared one is a whole device that others may be on; here nobody is, which is more."""
OLDEST = (8, 0)
"""Compute capability that the blocks' kernels are written for."""
IDLE_BYTES = 2 << 30
"""What a device without processes holds at most: the driver's own, and a display's."""
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
NODES = "SARTOR_DEVICE_NODES"
"""Tells a role that runs commands which device nodes they may see (paths, with colons)."""


@dataclass(frozen=True)
class Access:
    """What a process is shown of the machine's accelerators. `nodes` None: all that there are."""

    nodes: tuple[Path, ...] | None
    environment: Mapping[str, str]


AS_IT_IS = Access(None, {})
"""Whatever this process itself sees."""
NOTHING = Access((), {VISIBLE: ""})
HIDDEN: Mapping[str, str] = {**NOTHING.environment, NODES: ""}
"""For roles that have no business on a device, and for the commands that they run."""


@dataclass(frozen=True)
class Device:
    """One device, as NVML tells of it. `minor` is the number of its node in /dev, `capability` as in `9.0`."""

    uuid: str
    name: str
    memory_bytes: int
    driver: str = ""
    capability: str = ""
    minor: int | None = None

    @classmethod
    def of(cls, facts: Mapping[str, JsonValue]) -> "Device":
        """From an identity of `measurement.accelerators`. Raises `ValueError` where NVML keeps back what is needed."""
        uuid, name, size, minor = (facts.get(key) for key in ("uuid", "name", "memory_bytes", "minor"))
        if not isinstance(uuid, str) or not isinstance(name, str) or not isinstance(size, int):
            raise ValueError("NVML tells no name, UUID and memory of it")
        driver, capability = str(facts.get("driver") or ""), str(facts.get("capability") or "")
        return cls(uuid, name, size, driver, capability, minor if isinstance(minor, int) else None)

    @property
    def access(self) -> Access:
        """This device and no other, by its UUID and by its node."""
        own = DEV.glob("nvidia[0-9]*") if self.minor is None else [DEV / f"nvidia{self.minor}"]
        shared = (DEV / name for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"))
        return Access((*sorted(own), *shared), {VISIBLE: self.uuid, ORDER: "PCI_BUS_ID"})

    def as_record(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_record(cls, text: str) -> "Device":
        """Raises `BadRequestError` for a record that this version cannot read."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise BadRequestError(
                f"{RECORD} of this run is damaged: {error}", "start a new run in another --dir"
            ) from error

    def __str__(self) -> str:
        return f"{self.name} ({self.uuid})"


def require_local(accelerator: Accelerator, where: str) -> None:
    """Refuse what only a scheduler can give. `where` names the target. Raises `BadRequestError`."""
    if accelerator.sharing == "mig" or accelerator.resource.startswith("nvidia.com/mig-"):
        raise BadRequestError(
            f"{where}: accelerator.resource {accelerator.resource} is a MIG slice, and sartor run takes whole devices",
            "name a target with nvidia.com/gpu here (nvidia-smi -mig 0 joins the slices), or run it in a cluster",
        )
    if accelerator.resource not in RESOURCES:
        raise BadRequestError(
            f"{where}: accelerator.resource {accelerator.resource} is no NVIDIA device that sartor run knows",
            f"use {RESOURCES[0]}",
        )
    if accelerator.count != 1:
        raise BadRequestError(
            f"{where}: accelerator.count {accelerator.count}: sartor run takes one device, as no block splits a model over "
            "several",
            "set count to 1, with a model that fits one device",
        )


def choose(
    accelerator: Accelerator, accelerators: Accelerators, where: str, environment: Mapping[str, str] = os.environ
) -> Device:
    """A free device of the target's product, the first one by NVML's order. Raises `BadRequestError` with what was found."""
    devices = _found(accelerators, where)
    allowed = _allowed(devices, environment)
    fitting = [
        device for device in devices if accelerator.product is None or same_product(device.name, accelerator.product)
    ]
    if not fitting:
        raise BadRequestError(
            f"{where}: accelerator.product {accelerator.product} is not in this machine; found: {_listed(devices)}",
            "set product to one of those, or leave it out",
        )
    facts = {str(one.get("uuid")): one for one in accelerators.identity()}
    states = {state.uuid: state for state in accelerators.state()}
    reasons: list[str] = []
    for device in fitting:
        why = _unfit(device, facts[device.uuid], states.get(device.uuid), allowed)
        if why is None:
            return device
        reasons.append(f"{device} {why}")
    raise BadRequestError(f"{where}: no device here can be taken: {'; '.join(reasons)}", _hint(reasons))


def again(device: Device, accelerators: Accelerators, where: str) -> Device:
    """The device that a run began on, as it is now: free, and the same. Raises `BadRequestError`."""
    devices = _found(accelerators, where)
    now = next((one for one in devices if one.uuid == device.uuid), None)
    if now is None or now.name != device.name:
        raise BadRequestError(
            f"{where} began on {device}, which is not in this machine; found: {_listed(devices)}",
            "go on with it where that device is, or start a new run: figures of two devices are never compared",
        )
    facts = next(one for one in accelerators.identity() if one.get("uuid") == now.uuid)
    state = next((state for state in accelerators.state() if state.uuid == now.uuid), None)
    why = _unfit(now, facts, state, None)
    if why is not None:
        raise BadRequestError(f"{where}: its device {now} {why}", _hint([why]))
    return now


def require_nodes(device: Device, where: str) -> None:
    """Refuse a device that sandboxes could not be shown. Raises `BadRequestError`."""
    needed = [DEV / "nvidiactl", DEV / "nvidia-uvm", *([] if device.minor is None else [DEV / f"nvidia{device.minor}"])]
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        raise BadRequestError(
            f"{where}: {device} has no {', '.join(missing)}, through which a process computes on it",
            "load the driver's modules (nvidia-modprobe -u -c 0, as root); a container has to be given the device",
        )


def same_product(found: str, wanted: str) -> bool:
    """Whether NVML's name is the product, written plainly (`NVIDIA H200`) or as the label `nvidia.com/gpu.product` has it
    (`NVIDIA-H200`, with `-SHARED` behind it where it is shared)."""

    def plain(name: str) -> str:
        return "-".join(name.lower().replace("-", " ").split())

    return plain(found) == plain(wanted).removesuffix("-shared")


def shown(environment: Mapping[str, str] = os.environ) -> Access:
    """What commands of this role may see, as whoever started it said."""
    if NODES not in environment:
        return AS_IT_IS
    nodes = tuple(Path(path) for path in environment[NODES].split(":") if path)
    return Access(nodes, {name: environment[name] for name in (VISIBLE, ORDER) if name in environment})


def _found(accelerators: Accelerators, where: str) -> list[Device]:
    found: list[Device] = []
    for facts in accelerators.identity():
        try:
            found.append(Device.of(facts))
        except ValueError:
            continue
    if not found:
        raise BadRequestError(
            f"{where}: platform cuda, and NVML shows no NVIDIA device here",
            "check the driver with nvidia-smi (in a container: that it was given the device), or use a target of platform "
            "cpu",
        )
    return found


def _allowed(devices: Sequence[Device], environment: Mapping[str, str]) -> frozenset[str] | None:
    """UUIDs of those that `CUDA_VISIBLE_DEVICES` leaves; None for all. Raises `BadRequestError` for what is ambiguous."""
    given = environment.get(VISIBLE)
    if given is None:
        return None
    found: set[str] = set()
    for entry in (part.strip() for part in given.split(",") if part.strip()):
        if not entry.isdecimal():
            found |= {device.uuid for device in devices if device.uuid.startswith(entry)}
        elif len({device.name for device in devices}) > 1 and environment.get(ORDER) != "PCI_BUS_ID":
            raise BadRequestError(
                f"{VISIBLE}={given}: which device is number {entry} depends on {ORDER}: there are several products",
                f"give UUIDs (nvidia-smi -L), or set {ORDER}=PCI_BUS_ID",
            )
        elif int(entry) < len(devices):
            found.add(devices[int(entry)].uuid)
    return frozenset(found)


def _unfit(
    device: Device, facts: Mapping[str, JsonValue], state: AcceleratorState | None, allowed: frozenset[str] | None
) -> str | None:
    """Why this device cannot be taken now; None where it can."""
    if allowed is not None and device.uuid not in allowed:
        return f"is left out by {VISIBLE}"
    if facts.get("mig"):
        return "is cut into MIG slices"
    version = tuple(int(part) for part in device.capability.split(".")) if device.capability else OLDEST
    if version < OLDEST:
        return f"has compute capability {device.capability}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that is served"
    if state is not None and state.pids:
        return f"is used by process {', '.join(map(str, sorted(state.pids)))}"
    if state is not None and state.used_bytes is not None and state.used_bytes > IDLE_BYTES:
        return f"has {state.used_bytes / 2**30:.1f} GiB in use by processes that cannot be seen from here"
    return None


def _listed(devices: Sequence[Device]) -> str:
    return ", ".join(sorted({device.name for device in devices}))


def _hint(reasons: Sequence[str]) -> str:
    if any(VISIBLE in reason for reason in reasons):
        return f"change {VISIBLE}, or free one of the others (nvidia-smi shows who is there)"
    return "end what is there (nvidia-smi shows it), or wait for it: beside others nothing can be measured"
