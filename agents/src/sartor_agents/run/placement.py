"""Where a run on a device takes place: the device, what each process of the run may take of it, and what planners are told.

A run on a processor has no placement: its processes see no accelerator at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.checkpoints import check_checkpoint
from sartor_agents.measurement.accelerators import Accelerators, memory_of
from sartor_agents.measurement.contention import tree_pids
from sartor_agents.run.candidates import CandidateError, ready_seconds
from sartor_agents.run.device import HIDDEN, NODES, Access, Device
from sartor_agents.run.device_share import Needs, Shares, TooSmallError, gib, shares, taken, vllm_arguments
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.hardware import local_hardware
from sartor_agents.tools.roofline import RooflineError, decoder_shape, read_config
from sartor_api.search.records import RunSpec

ELEMENT_BYTES = 2
"""Of keys and values: on a device every server keeps them in bfloat16."""
OPEN_SEQUENCES = 64
"""Sequences that a server has at once where the workload itself sets no concurrency (open loop, a search for the peak)."""
SLACK_BYTES = 256 << 20
"""By how much a stack may be over its share: a driver gives memory in larger pieces than it is asked for."""

COMPUTING = ("judge", "evaluator")
"""Roles that compute on the device where their reference does."""
TRYING = ("implementer",)
"""Roles that start candidates of their own."""


@dataclass(frozen=True)
class Placement:
    """A run's device with its shares. `weight_bytes`: the checkpoint's; `sequences`: as many as a server has at once."""

    device: Device
    shares: Shares
    weight_bytes: int
    sequences: int

    @property
    def access(self) -> Access:
        """What both servers see."""
        return self.device.access

    @property
    def ready_seconds(self) -> float:
        return ready_seconds(self.weight_bytes)

    @property
    def vllm_arguments(self) -> tuple[str, ...]:
        return vllm_arguments(self.shares, self.sequences)

    def role_environment(self, role: str) -> Mapping[str, str]:
        """The device for a role that computes on it, and none for the others."""
        on_device = {"judge": self.shares.judge, "evaluator": self.shares.evaluator}
        if role in COMPUTING and on_device[role] == "cuda":
            return self.access.environment
        if role in TRYING:
            nodes = self.access.nodes or ()
            return {**self.access.environment, NODES: ":".join(map(str, nodes))}
        return HIDDEN

    def check(self, pid: int, accelerators: Accelerators) -> None:
        """Hold a candidate that is ready to its share, as far as NVML tells what the process tree under `pid` holds.

        Raises `CandidateError`.
        """
        held = memory_of(accelerators.state(), tree_pids([pid]))
        if held is not None and held > self.shares.stack + SLACK_BYTES:
            raise CandidateError(
                "CandidateDeviceMemoryExceeded",
                f"the candidate holds {gib(held)} of {self.device.name}, and may hold {gib(self.shares.stack)} beside the "
                "baseline: fewer pages of keys and values, or a smaller step",
            )

    def hardware(self, bandwidth: float | None = None, peak: float | None = None) -> HardwareFacts:
        """What planners are told. `bandwidth` in bytes and `peak` in operations per second, as measured on this device."""
        here = device_hardware(self.device).model_copy(
            update={"stack_bytes": self.shares.stack, "cache_bytes": self.shares.cache}
        )
        return here.model_copy(update={"read_bandwidth": bandwidth, "matrix_rate": peak})


def device_hardware(device: Device | None) -> HardwareFacts:
    """This machine, with the run's device where it has one."""
    here = local_hardware()
    if device is None:
        return here
    return here.model_copy(
        update={
            "platform": "cuda",
            "accelerators": (device.name,),
            "accelerator_uuids": (device.uuid,),
            "accelerator_bytes": device.memory_bytes,
            "capability": device.capability,
            "driver": device.driver,
        }
    )


def placed(spec: RunSpec, model_dir: Path, device: Device) -> Placement:
    """Share the device for this run. Raises `BadRequestError` where both servers do not fit, or the owner's arguments for
    the baseline say what is the share's to say."""
    arguments = spec.baseline.get("arguments")
    own = taken([str(word) for word in arguments]) if isinstance(arguments, list) else None
    if own is not None:
        raise BadRequestError(
            f"spec.baseline.arguments: {own} is set by the run on a device that stack and baseline share",
            "leave it out",
        )
    weights, needs, sequences = check_checkpoint(model_dir).weight_bytes, _needs(spec, model_dir), sequences_of(spec)
    try:
        found = shares(device.memory_bytes, needs)
    except TooSmallError as error:
        raise BadRequestError(f"{device}: {error}") from error
    return Placement(device, found, weights, sequences)


def sequences_of(spec: RunSpec) -> int:
    """How many sequences a server of this workload has at once."""
    levels = spec.parameters.get("concurrencies") or 1
    widest = max(int(str(level)) for level in (levels if isinstance(levels, list) else [levels]))
    unbounded = spec.parameters.get("request_rates") or spec.parameters.get("find_peak")
    return max(widest, OPEN_SEQUENCES) if unbounded else widest


def _needs(spec: RunSpec, model_dir: Path) -> Needs:
    try:
        config = read_config(model_dir)
        token_bytes = decoder_shape(config).kv_elements * ELEMENT_BYTES
    except RooflineError as error:
        raise BadRequestError(
            f"{model_dir}: what its keys and values take cannot be told, so a device cannot be shared: {error}",
            "use a decoder-only model",
        ) from error
    return Needs.of(
        check_checkpoint(model_dir).weight_bytes,
        tokens=sequences_of(spec) * spec.envelope.max_model_len,
        token_bytes=token_bytes,
        vocabulary=int(config["vocab_size"]),
    )
