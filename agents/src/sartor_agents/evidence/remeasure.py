"""Measure a bundle's stack again: judge and a fresh paired measurement on a seed of our own. This runs the bundle's code."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor_agents.evidence.contents import Contents
from sartor_agents.measurement.accelerators import open_accelerators
from sartor_agents.measurement.messages import Endpoint, EvaluateRequest, EvaluateResponse, JudgeRequest, JudgeResponse
from sartor_agents.measurement.seeds import new_seed
from sartor_agents.run import candidates
from sartor_agents.run.device import HIDDEN, NOTHING, RESOURCES, choose, require_nodes
from sartor_agents.run.engines import BaselineServer, chosen_setting
from sartor_agents.run.errors import BadRequestError, RunError
from sartor_agents.run.placement import Placement, placed
from sartor_agents.run.requests import judge_samples, measurement_policy, scenario_spec, tie_tolerance
from sartor_agents.run.role import RoleError, run_role
from sartor_agents.run.servers import RunningServer, ServerError, free_port
from sartor_agents.run.session import FindEngine
from sartor_agents.run.storage import storage_errors
from sartor_api.hardware_target import Accelerator
from sartor_api.search.records import Measurement, RunSpec, Speedup, StepKind

WALL_CLOCK = 3600.0
PRESETS = ("quick", "default", "thorough")


@dataclass(frozen=True)
class Remeasured:
    """What the new measurement says of the claim. `speedup` is None when the candidate failed a gate."""

    claimed: Speedup
    speedup: Speedup | None
    holds: bool
    message: str

    def as_json(self) -> dict[str, Any]:
        return {
            "claimed": self.claimed.model_dump(),
            "speedup": self.speedup.model_dump() if self.speedup is not None else None,
            "holds": self.holds,
            "message": self.message,
        }


def compare(claimed: Speedup, again: Speedup, minimum: float) -> Remeasured:
    """Whether the claim still holds: the new interval overlaps the claimed one or lies above it, and clears `minimum`.

    Both intervals cover at their stated rate, so two honest ones of the same stack on the same machine miss each other by
    chance less often than either misses the truth.
    """
    said = f"measured again: {_interval(again)}, claimed: {_interval(claimed)}"
    if again.high < claimed.low:
        return Remeasured(claimed, again, False, f"the claim does not hold here: {said}")
    if again.low < minimum:
        return Remeasured(
            claimed, again, False, f"the claim was not shown again: {said}; {minimum:.2f} was to be cleared"
        )
    if again.low > claimed.high:
        return Remeasured(claimed, again, True, f"the claim holds, and more than it: {said}")
    return Remeasured(claimed, again, True, f"the claim holds: {said}")


def _interval(speedup: Speedup) -> str:
    return f"{speedup.value:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] (n={speedup.n})"


def remeasure(
    bundle: Contents, model_dir: Path, *, preset: str, find_engine: FindEngine, say: Callable[[str], None]
) -> Remeasured:
    """Build and serve the bundled stack under guard beside the baseline; judge it and measure it.

    Raises `RunError` or `ServerError` when that cannot be done here, by no fault of the stack.
    """
    if preset not in PRESETS:
        raise BadRequestError(f"--preset {preset}: there are {', '.join(PRESETS)}")
    claimed = bundle.measurement(StepKind.CONFIRM).speedup
    assert claimed is not None, "a bundle whose checks held has a valid confirmation"
    measurement = {**bundle.spec.measurement, **({"preset": preset} if preset != "default" else {})}
    spec = bundle.spec.model_copy(update={"measurement": measurement})
    place = _placement(bundle, model_dir)
    engine = find_engine(spec, model_dir, place)
    if (engine.name, engine.version) != (bundle.baseline.engine, bundle.baseline.version):
        raise BadRequestError(
            f"the claim is against {bundle.baseline.engine} {bundle.baseline.version}, "
            f"here is {engine.name} {engine.version}",
            "make the same baseline available (sartor baseline setup)",
        )
    with tempfile.TemporaryDirectory(prefix="sartor-remeasure-") as name:
        folder = Path(name)
        for path, data in bundle.stack.items():
            target = folder / "candidate" / path
            with storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        baseline = BaselineServer(engine, folder / "logs")
        try:
            say("starting the baseline")
            behind = baseline.ensure(chosen_setting(bundle.baseline), free_port())
            return _with_baseline(spec, model_dir, folder, behind, engine.accepts_prediction, claimed, say, place)
        finally:
            baseline.stop()


def _placement(bundle: Contents, model_dir: Path) -> Placement | None:
    """A free device of the product that the claim was made on; None for one on a processor. Raises `BadRequestError`."""
    if bundle.spec.platform != "cuda":
        return None
    names = bundle.baseline.fingerprint.get("accelerators")
    product = str(names[0]) if isinstance(names, list) and names else None
    where = f"the claim of run {bundle.spec.name}"
    device = choose(Accelerator(resource=RESOURCES[0], product=product), open_accelerators(), where)
    require_nodes(device, where)
    return placed(bundle.spec, model_dir, device)


def _with_baseline(
    spec: RunSpec,
    model_dir: Path,
    folder: Path,
    behind: RunningServer,
    accepts_prediction: bool,
    claimed: Speedup,
    say: Callable[[str], None],
    place: Placement | None,
) -> Remeasured:
    access = NOTHING if place is None else place.access
    log = folder / "logs" / "candidate.log"
    try:
        say("building and starting the stack")
        candidates.build(folder / "candidate", log, timeout=candidates.BUILD_SECONDS, memory_bytes=None, access=access)
        server = candidates.server_spec(
            folder / "candidate", model_dir, free_port(), baseline_url=behind.url, memory_bytes=None, access=access,
            ready_seconds=candidates.READY_SECONDS if place is None else place.ready_seconds,
        )  # fmt: skip
        with RunningServer(server, log) as stack:
            mine = Endpoint(name="candidate", url=stack.url, pid=stack.process.pid)
            theirs = Endpoint(
                name="baseline", url=behind.url, pid=behind.process.pid, accepts_prediction=accepts_prediction
            )
            return _gates(spec, model_dir, folder, mine, theirs, claimed, say, place)
    except candidates.CandidateError as error:
        return Remeasured(claimed, None, False, f"the bundled stack does not run here ({error.reason}): {error}")
    except ServerError as error:
        return Remeasured(claimed, None, False, f"the bundled stack does not start here ({error.reason}): {error}")


def _gates(
    spec: RunSpec,
    model_dir: Path,
    folder: Path,
    mine: Endpoint,
    theirs: Endpoint,
    claimed: Speedup,
    say: Callable[[str], None],
    place: Placement | None,
) -> Remeasured:
    # Both servers are up all the time here, so a reference has the room that it has beside them.
    reference = "cpu" if place is None else place.shares.evaluator
    seen = HIDDEN if place is None else place.role_environment("evaluator")
    judged = JudgeRequest(
        candidate=mine,
        baseline=theirs,
        model_dir=model_dir,
        scenario=scenario_spec(spec),
        seed=new_seed(),
        output_dir=folder / "judge",
        samples=judge_samples(spec),
        tie_tolerance=tie_tolerance(spec),
        reference=reference,
    )
    measured = EvaluateRequest(
        candidate=mine,
        baseline=theirs,
        model_dir=model_dir,
        scenario=scenario_spec(spec),
        policy=measurement_policy(spec, StepKind.CONFIRM, wall_clock=WALL_CLOCK),
        seed=new_seed(),
        output_dir=folder / "measured",
        confirmation=True,
        tie_tolerance=tie_tolerance(spec),
        reference=reference,
        device=None if place is None else place.device.uuid,
    )
    try:
        verdicts = run_role(
            "judge", judged, JudgeResponse, folder=folder / "exchange-judge", log=folder / "logs" / "judge.log",
            timeout=WALL_CLOCK, memory_bytes=None, on_progress=say, environment=lambda _: seen,
        ).judgement  # fmt: skip
        if (failure := verdicts.failure) is not None:
            return Remeasured(
                claimed, None, False, f"the stack does not pass the judge here ({failure.reason}): {failure.message}"
            )
        response = run_role(
            "evaluator", measured, EvaluateResponse, folder=folder / "exchange-evaluator",
            log=folder / "logs" / "evaluator.log", timeout=WALL_CLOCK + 600, memory_bytes=None, on_progress=say,
            environment=lambda _: seen,
        )  # fmt: skip
    except RoleError as error:
        raise RunError(f"the measurement could not be made ({error.reason}): {error}") from error
    return conclude(claimed, response.measurement, response, spec)


def conclude(
    claimed: Speedup, measurement: Measurement | None, response: EvaluateResponse, spec: RunSpec
) -> Remeasured:
    """From the evaluator's answer to what it says of the claim. Raises `RunError` when nothing could be measured."""
    if measurement is None or measurement.speedup is None:
        if response.failure_class is not None and response.failure_class.value == "candidate":
            text = f"the stack fails under measurement ({response.reason.value}): {response.message}"
            return Remeasured(claimed, None, False, text)
        raise RunError(
            f"nothing could be measured ({response.reason.value}): {response.message}",
            "quiet the machine, or give it more time with --preset thorough",
        )
    floor = max(spec.policy.minimum_speedup, 1.0 + spec.policy.minimum_effect)
    return compare(claimed, measurement.speedup, floor)
