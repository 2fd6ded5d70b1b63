"""Puts a run together: from a manifest to a run's folder, from a run's folder to a driver that works on it."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sartor_agents.evidence.deliver import deliver
from sartor_agents.report.build import write_report
from sartor_agents.run.driver import Driver, Emit, SystemClock
from sartor_agents.run.engines import Engine
from sartor_agents.run.errors import BadRequestError, NotARunError, RunExistsError
from sartor_agents.run.hardware import local_hardware
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.lock import run_lock
from sartor_agents.run.model import cache_folder, resolve_model
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.requests import scenario_spec
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_agents.run.storage import write_atomic
from sartor_api.agent_profile import AgentProfile
from sartor_api.hardware_target import HardwareTarget
from sartor_api.load import LoadError, load_file
from sartor_api.search.records import Finished, RunSpec
from sartor_api.search.snapshot import NotRunnableError, snapshot
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_skills.library import library_root

LOCAL = "local"
"""The hardware target that every machine has: its own CPU."""

CANDIDATE_MEMORY = 0.6
ROLE_MEMORY = 0.6
"""Shares of the machine's memory that the process tree of a candidate, or of a role, may use."""

FindEngine = Callable[[RunSpec, Path], Engine]


@dataclass(frozen=True)
class Options:
    """What the command line overrides in the manifest."""

    rounds: int | None = None
    skills: bool | None = None


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
    _check_agents(found[0], [r for r in resources if isinstance(r, AgentProfile)], manifest)
    return found[0], manifest.read_text(encoding="utf-8")


def _check_hardware(synthesis: ServingSynthesis, targets: list[HardwareTarget], manifest: Path) -> None:
    wanted = synthesis.spec.hardware.target_ref.name
    target = next((t for t in targets if t.name == wanted), None)
    if target is None and wanted != LOCAL:
        raise BadRequestError(
            f"{manifest}: spec.hardware.targetRef: {wanted} is not in this file",
            f"add that HardwareTarget, or use {LOCAL}, the CPU of this machine",
        )
    if target is not None and target.spec.platform != "cpu":
        raise BadRequestError(
            f"{manifest}: HardwareTarget {wanted}: platform {target.spec.platform} cannot be run on this machine yet",
            "use a target of platform cpu",
        )


def _check_agents(synthesis: ServingSynthesis, profiles: list[AgentProfile], manifest: Path) -> None:
    reference = synthesis.spec.agents.profile_ref
    if reference is None:
        return
    profile = next((p for p in profiles if p.name == reference.name), None)
    if profile is None:
        raise BadRequestError(
            f"{manifest}: spec.agents.profileRef: {reference.name} is not in this file",
            "add that AgentProfile, or remove profileRef to use the playbook",
        )
    if profile.spec.backend != "playbook":
        raise BadRequestError(
            f"{manifest}: AgentProfile {reference.name}: backend {profile.spec.backend} cannot be run yet",
            "use backend playbook",
        )


def create(manifest: Path, directory: Path, options: Options) -> None:
    """Make the run's folder with its first commit. Raises `RunError`; then nothing of a run is there."""
    synthesis, text = read_synthesis(manifest)
    layout = RunLayout(directory.absolute())
    _check_free(layout)
    model_dir = resolve_model(synthesis.spec.model, beside=manifest.absolute().parent, cache=cache_folder())
    now = time.time()
    try:
        spec = snapshot(synthesis, now=now, model_folder=str(model_dir), rounds=options.rounds, skills=options.skills)
    except NotRunnableError as error:
        raise BadRequestError(f"{manifest}: {error}") from error
    scenario_spec(spec)
    with run_lock(layout):
        _check_free(layout)
        # A repository without its first commit is what a run leaves that was killed while it was made.
        shutil.rmtree(layout.repository, ignore_errors=True)
        layout.make()
        write_atomic(layout.manifest, text.encode())
        seals = Seals(layout.sealed)
        RunRepository.create(layout.repository, spec, text, now, {KEY_COMMITMENT: seals.key_commitment()})


def _check_free(layout: RunLayout) -> None:
    if (layout.repository / "refs" / "heads" / "main").exists() or (layout.repository / "packed-refs").exists():
        raise RunExistsError(
            f"{layout.root} holds a run already",
            f"go on with: sartor run --resume --dir {layout.root}   or choose another --dir",
        )
    ours = {"repository", "work", "samples", "logs", "exchange", "sealed", "lock", "synthesis.yaml"}
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
    with run_lock(layout):
        layout.make()
        repository.clear_stale_locks()
        stored = repository.load()
        spec = stored.spec
        model_dir = model_folder(spec)
        hardware = local_hardware()
        steps = LocalSteps(
            layout,
            repository,
            model_dir=model_dir,
            engine=find_engine(spec, model_dir),
            hardware=hardware,
            skills_root=library_root() if spec.skills else None,
            limits=Limits(
                candidate_bytes=int(CANDIDATE_MEMORY * hardware.memory_bytes),
                role_bytes=int(ROLE_MEMORY * hardware.memory_bytes),
            ),
        )
        driver = Driver(
            repository,
            steps,
            clock=SystemClock(),
            emit=emit,
            report=lambda run: str(write_report(run, layout, hardware)),
            prove=lambda run: deliver(run, layout, repository, model_dir, signing_key),
        )
        return driver.drive()
