"""From a run's settings to the requests of judge and evaluator."""

from typing import Any

from pydantic import TypeAdapter, ValidationError

from sartor_agents.measurement.messages import ScenarioSpec
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.slo import from_guardrails
from sartor_agents.measurement.statistics import fewest_pairs, sidak
from sartor_agents.run.errors import BadRequestError
from sartor_api.search.records import RunSpec, StepKind

_SCENARIO: TypeAdapter[ScenarioSpec] = TypeAdapter(ScenarioSpec)

QUICK_JUDGE_SAMPLES = 12
"""Answers that the judge checks in a quick run; more are checked by the evaluator under load."""

_SERVERS_SHARE = 0.8


def scenario_spec(run: RunSpec) -> ScenarioSpec:
    """The scenario as judge and evaluator take it. Raises `BadRequestError`."""
    try:
        return _SCENARIO.validate_python({"name": run.scenario, "parameters": run.parameters})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("chat", "code-edit"))
        raise BadRequestError(f"spec.workload.{where}: {first['msg']}") from error


def measurement_policy(run: RunSpec, step: StepKind, *, wall_clock: float) -> MeasurementPolicy:
    """The measurement policy of a step; no new pair is begun after `wall_clock` seconds.

    The intervals of all rounds hold together, since the best of them is chosen, and so do those of all confirmations, since
    any of them may be the one that holds. `replicates_max` is raised where so few pairs cannot carry such an interval.
    """
    settings: dict[str, Any] = dict(run.measurement)
    preset = MeasurementPolicy.quick if settings.get("preset") == "quick" else MeasurementPolicy.thorough
    overrides = dict(settings.get("overrides", {}))
    policy = preset(**overrides)
    # One end given alone moves the other, so that the range is never empty.
    low, high = policy.replicates_min, policy.replicates_max
    if low > high:
        low, high = (low, low) if "replicates_min" in overrides else (high, high)
    comparisons = {StepKind.EVALUATE: max(1, run.budget.rounds), StepKind.CONFIRM: run.policy.confirmations}.get(
        step, 1
    )
    effect = 1.0 + run.policy.minimum_effect
    return policy.model_copy(
        update={
            "replicates_min": low,
            "replicates_max": max(high, fewest_pairs(sidak(1 - policy.confidence, comparisons))),
            "comparisons": comparisons,
            "minimum_speedup": max(run.policy.minimum_speedup, effect) if step is StepKind.CONFIRM else effect,
            "wall_clock": max(1.0, min(policy.wall_clock, wall_clock)),
            **({} if "service_level" in overrides else {"service_level": from_guardrails(run.guardrails)}),
        }
    )


def judge_samples(run: RunSpec) -> int:
    """How many greedy answers the judge checks."""
    wanted = int(str(run.correctness.get("samples", 24)))
    return min(wanted, QUICK_JUDGE_SAMPLES) if run.measurement.get("preset") == "quick" else wanted


def judge_wall_clock(seconds: float) -> float:
    """What the servers may take of a judge's time; the rest is for the reference.

    Less than the judge's process may take, so that a server that crawls is the candidate's fault and not the machine's.
    """
    return max(1.0, _SERVERS_SHARE * seconds)


def tie_tolerance(run: RunSpec) -> float:
    return float(str(run.correctness.get("tie_tolerance", 0.05)))
