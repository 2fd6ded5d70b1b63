"""Puts a run together: from a manifest to a run's folder, from a run's folder to a driver that works on it."""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.cache import cache_folder
from sartor_agents.evidence.deliver import deliver
from sartor_agents.measurement.accelerators import open_accelerators
from sartor_agents.report.build import write_report
from sartor_agents.run.agents import AgentChoice, choose_agents
from sartor_agents.run.device import RECORD as DEVICE_RECORD
from sartor_agents.run.device import Device, again, choose, require_local, require_nodes
from sartor_agents.run.driver import Driver, Emit, SystemClock, Worth
from sartor_agents.run.engines import Engine
from sartor_agents.run.errors import BadRequestError, NotARunError, RunExistsError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.lock import run_lock
from sartor_agents.run.model import resolve_model
from sartor_agents.run.model_proxy import LocalModelProxy, write_access
from sartor_agents.run.placement import Placement, device_hardware, placed
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.requests import scenario_spec
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_agents.run.steering import read_control
from sartor_agents.run.storage import write_atomic
from sartor_agents.tools.device_rates import Unknown, rates
from sartor_api.agent_profile import AgentProfile
from sartor_api.hardware_target import HardwareTarget, HardwareTargetSpec
from sartor_api.load import LoadError, load_file
from sartor_api.search.intent import PolicyName
from sartor_api.search.payback import earned_back, prospect, required
from sartor_api.search.records import Finished, RunSpec
from sartor_api.search.snapshot import NotRunnableError, snapshot
from sartor_api.search.state import RunState
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_skills.library import library_root

LOCAL = "local"
"""The hardware target that every machine has: its own CPU."""

CANDIDATE_MEMORY = 0.6
ROLE_MEMORY = 0.6
"""Shares of the machine's memory that the process tree of a candidate, or of a role, may use. Where weights go to a device
their file comes on top: mapped and read once, its pages are resident for a while and the kernel's to take back."""

FindEngine = Callable[[RunSpec, Path, Placement | None], Engine]
"""The engine of a run; the last argument is the device that it shares with the stack, None on a processor."""


@dataclass(frozen=True)
class Options:
    """What the command line overrides in the manifest."""

    rounds: int | None = None
    skills: bool | None = None
    policy: PolicyName | None = None
    parallelism: int | None = None
    seed: int | None = None
    agents: AgentChoice = field(default_factory=AgentChoice)

    def with_seed(self, seed: int) -> "Options":
        return replace(self, seed=seed)


def read_synthesis(manifest: Path) -> tuple[ServingSynthesis, str]:
    """The one synthesis in a file, and the file's text. Raises `BadRequestError`."""
    try:
        resources = load_file(manifest)
    except LoadError as error:
        raise BadRequestError(str(error)) from error
    found = [resource for resource in resources if isinstance(resource, ServingSynthesis)]
    if len(found) != 1:
        raise BadRequestError(f"{manifest}: holds {len(found)} ServingSyntheses; a run needs exactly one")
    _check_hardware(found[0], [r for r in resources if isinstance(r, HardwareTarget)], manifest)
    return found[0], manifest.read_text(encoding="utf-8")


def _check_hardware(synthesis: ServingSynthesis, targets: list[HardwareTarget], manifest: Path) -> None:
    wanted = synthesis.spec.hardware.target_ref.name
    target = next((t for t in targets if t.name == wanted), None)
    if target is None and wanted != LOCAL:
        raise BadRequestError(
            f"{manifest}: spec.hardware.targetRef: {wanted} is not in this file",
            f"add that HardwareTarget, or use {LOCAL}, the CPU of this machine",
        )
    if target is None or target.spec.platform == "cpu":
        return
    where = f"{manifest}: HardwareTarget {wanted}"
    if target.spec.platform != "cuda" or target.spec.accelerator is None:
        raise BadRequestError(
            f"{where}: platform {target.spec.platform} cannot be run on this machine yet",
            "use a target of platform cpu or cuda",
        )
    require_local(target.spec.accelerator, where)


def hardware_of(synthesis: ServingSynthesis, targets: list[HardwareTarget]) -> HardwareTargetSpec:
    """The target that a synthesis names; `local` is this machine's CPU and has no price."""
    wanted = synthesis.spec.hardware.target_ref.name
    return next((t.spec for t in targets if t.name == wanted), HardwareTargetSpec(platform="cpu"))


def read_hardware(manifest: Path, synthesis: ServingSynthesis) -> HardwareTargetSpec:
    """The hardware that a manifest's synthesis runs on. Raises `BadRequestError` for prices in two currencies."""
    found = hardware_of(synthesis, [r for r in load_file(manifest) if isinstance(r, HardwareTarget)])
    price, money = found.price_per_hour, synthesis.spec.budget.money
    if price is not None and money is not None and price.currency != money.currency:
        raise BadRequestError(
            f"{manifest}: spec.budget.money is in {money.currency}, the price of the hardware in {price.currency}",
            "write both in one currency",
        )
    return found


def worth_of(spec: RunSpec, hardware: HardwareTargetSpec) -> Callable[[RunState], Worth | None]:
    """What tells whether a run pays, as far as price and traffic are known."""
    wanted = ServingSynthesis.model_validate(spec.synthesis).spec

    def worth(run: RunState) -> Worth | None:
        if run.finished is not None:
            return None
        if run.best is not None and (told := earned_back(wanted, hardware, run, run.best.speedup)) is not None:
            return Worth(told)
        ahead = prospect(wanted, hardware, spec, run)
        if ahead is None:
            return None
        return Worth(str(ahead), forbids=required(wanted, hardware, spec, run) is not None)

    return worth


def read_profile(synthesis: ServingSynthesis, manifest: Path) -> AgentProfile | None:
    """The profile that a synthesis names, from its own file. Raises `BadRequestError`."""
    reference = synthesis.spec.agents.profile_ref
    if reference is None:
        return None
    profiles = [resource for resource in load_file(manifest) if isinstance(resource, AgentProfile)]
    profile = next((one for one in profiles if one.name == reference.name), None)
    if profile is None:
        raise BadRequestError(
            f"{manifest}: spec.agents.profileRef: {reference.name} is not in this file",
            "add that AgentProfile, or remove profileRef to use the playbook",
        )
    return profile


def create(manifest: Path, directory: Path, options: Options) -> None:
    """Make the run's folder with its first commit. Raises `RunError`; then nothing of a run is there."""
    synthesis, text = read_synthesis(manifest)
    hardware = read_hardware(manifest, synthesis)
    profile, models = choose_agents(synthesis, read_profile(synthesis, manifest), options.agents)
    layout = RunLayout(directory.absolute())
    _check_free(layout)
    device = _choose_device(manifest, synthesis, hardware)
    model_dir = resolve_model(synthesis.spec.model, beside=manifest.absolute().parent, cache=cache_folder())
    now = time.time()
    try:
        spec = snapshot(
            synthesis,
            now=now,
            model_folder=str(model_dir),
            platform=hardware.platform,
            accelerators=0 if device is None else 1,
            rounds=options.rounds,
            skills=options.skills,
            policy=options.policy,
            parallelism=options.parallelism,
            seed=options.seed,
            price_per_hour=None if hardware.price_per_hour is None else float(hardware.price_per_hour.amount.number),
            profile=profile,
        )
    except NotRunnableError as error:
        raise BadRequestError(f"{manifest}: {error}") from error
    scenario_spec(spec)
    if device is not None:
        _check_room(manifest, spec, model_dir, device)
    if (hopeless := required(synthesis.spec, hardware, spec, None)) is not None:
        raise BadRequestError(
            f"{manifest}: spec.payback.policy is require, and {hopeless}",
            "set spec.payback.policy to warn to search all the same, or give it more time in spec.payback.within",
        )
    with run_lock(layout):
        _check_free(layout)
        # A repository without its first commit is what a run leaves that was killed while it was made.
        shutil.rmtree(layout.repository, ignore_errors=True)
        layout.make()
        write_atomic(layout.manifest, text.encode())
        if models is not None:
            write_access(layout.models, models)
        seals = Seals(layout.sealed)
        files = {KEY_COMMITMENT: seals.key_commitment()}
        if device is not None:
            files[DEVICE_RECORD] = device.as_record()
        RunRepository.create(layout.repository, spec, text, now, files)


def _choose_device(manifest: Path, synthesis: ServingSynthesis, hardware: HardwareTargetSpec) -> Device | None:
    """The device that a run begins on; None for one on the processor. Raises `BadRequestError`."""
    if hardware.platform == "cpu" or hardware.accelerator is None:
        return None
    where = f"{manifest}: HardwareTarget {synthesis.spec.hardware.target_ref.name}"
    device = choose(hardware.accelerator, open_accelerators(), where)
    require_nodes(device, where)
    return device


def _check_room(manifest: Path, spec: RunSpec, model_dir: Path, device: Device) -> None:
    """Refuse what would fail only after minutes. Raises `BadRequestError`."""
    if spec.policy.parallelism > 1 and spec.agents.get("backend", "playbook") != "playbook":
        raise BadRequestError(
            f"{manifest}: spec.search.parallelism {spec.policy.parallelism}: agents try their candidates on {device.name}, "
            "which has room for one beside the baseline",
            "set parallelism to 1, or use the playbook, which tries none",
        )
    try:
        placed(spec, model_dir, device)
    except BadRequestError as error:
        raise BadRequestError(f"{manifest}: {error.message}", error.hint) from error


def recorded_device(repository: RunRepository) -> Device | None:
    """The device that a run began on; None for one on the processor. Raises `BadRequestError` for a damaged record."""
    text = repository.read_text(DEVICE_RECORD)
    return None if text is None else Device.from_record(text)


def find_placement(repository: RunRepository, spec: RunSpec, model_dir: Path) -> Placement | None:
    """Where a run goes on: on its device, free and the same as before. Raises `BadRequestError`."""
    device = recorded_device(repository)
    if device is None:
        if spec.platform == "cuda":
            raise BadRequestError(f"run {spec.name} does not say which device it began on", "start a new run")
        return None
    where = f"run {spec.name}"
    now = again(device, open_accelerators(), where)
    require_nodes(now, where)
    return placed(spec, model_dir, now)


def _timed(placement: Placement) -> HardwareFacts:
    """What planners are told of a run's device, with the rates that were measured on it, now or before.

    Before the first server is on it: a device that somebody computes on is not timed.
    """
    found = rates(open_accelerators(only=placement.device.uuid), cache_folder())
    if isinstance(found, Unknown):
        return placement.hardware()
    return placement.hardware(found.bandwidth, found.peak)


def _check_free(layout: RunLayout) -> None:
    if (layout.repository / "refs" / "heads" / "main").exists() or (layout.repository / "packed-refs").exists():
        raise RunExistsError(
            f"{layout.root} holds a run already",
            f"go on with: sartor run --resume --dir {layout.root}   or choose another --dir",
        )
    ours = {
        "control.json", "repository", "work", "samples", "logs", "exchange", "sealed", "lock", "models", "synthesis.yaml",
    }  # fmt: skip
    if layout.root.is_dir() and (others := {p.name for p in layout.root.iterdir()} - ours):
        raise RunExistsError(
            f"{layout.root} is not empty ({', '.join(sorted(others)[:3])})", "choose another --dir for the run"
        )
    if layout.root.exists() and not layout.root.is_dir():
        raise RunExistsError(f"{layout.root} is a file", "choose another --dir for the run")


def open_run(directory: Path) -> tuple[RunLayout, RunRepository]:
    """An existing run. Raises `NotARunError`."""
    layout = RunLayout(directory.absolute())
    if not layout.repository.is_dir():
        raise NotARunError(f"{directory} is no run", "start one with: sartor run -f FILE --dir " + str(directory))
    return layout, RunRepository(layout.repository)


def check_same(manifest: Path, repository: RunRepository) -> None:
    """Refuse to go on with a run under another manifest than it was started with."""
    synthesis, _ = read_synthesis(manifest)
    if synthesis.to_dict() != repository.load().spec.synthesis:
        raise BadRequestError(
            f"{manifest} is not what this run was started with",
            "a run's intent cannot change; resume without -f, or start a new run in another --dir",
        )


def model_folder(spec: RunSpec) -> Path:
    """The checkpoint of a run. Raises `BadRequestError` when it is gone."""
    folder = Path(str(spec.model["folder"]))
    if not (folder / "config.json").is_file():
        raise BadRequestError(f"{folder}: the checkpoint of this run is gone", "restore it, or start a new run")
    return folder


def drive(
    directory: Path, emit: Emit, *, find_engine: FindEngine, signing_key: Ed25519PrivateKey | None = None
) -> Finished:
    """Work on a run until it ends; evidence is signed with `signing_key`. Raises `RunError`, and what ends a session."""
    layout, repository = open_run(directory)
    with run_lock(layout), contextlib.ExitStack() as stack:
        layout.make()
        repository.clear_stale_locks()
        stored = repository.load()
        spec = stored.spec
        model_dir = model_folder(spec)
        # A run that is over is reported and delivered again, for which no device is needed.
        placement = None if stored.finished is not None else find_placement(repository, spec, model_dir)
        hardware = _timed(placement) if placement is not None else device_hardware(recorded_device(repository))
        mapped = placement.weight_bytes if placement is not None else 0
        models = None
        if spec.agents.get("backend", "playbook") != "playbook":
            models = stack.enter_context(LocalModelProxy(layout.models, spec, log=layout.logs / "model-proxy.log"))
        steps = LocalSteps(
            layout,
            repository,
            model_dir=model_dir,
            engine=find_engine(spec, model_dir, placement),
            hardware=hardware,
            skills_root=library_root() if spec.skills else None,
            limits=Limits(
                candidate_bytes=int(CANDIDATE_MEMORY * hardware.memory_bytes) + mapped,
                role_bytes=int(ROLE_MEMORY * hardware.memory_bytes) + mapped,
            ),
            models=models,
            placement=placement,
        )
        driver = Driver(
            repository,
            steps,
            clock=SystemClock(),
            emit=emit,
            report=lambda run: str(write_report(run, layout, hardware)),
            prove=lambda run: deliver(run, layout, repository, model_dir, signing_key),
            control=lambda: read_control(layout),
            worth=worth_of(spec, read_hardware(layout.manifest, ServingSynthesis.model_validate(spec.synthesis))),
        )
        return driver.drive()
