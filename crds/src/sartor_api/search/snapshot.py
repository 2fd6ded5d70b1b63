"""From what a user wrote to what a run decides by: the one place where a synthesis becomes a `RunSpec`.

Used by the command line and by the operator alike, so both search by the same numbers. Pure: what has to be looked up (the
model's folder, the accelerators of the hardware target) is passed in.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from sartor_api.agent_profile import AgentProfileSpec
from sartor_api.fields import Money
from sartor_api.quantities import DecimalString, Quantity
from sartor_api.search.agents import AgentSettings, agent_settings, as_json, within
from sartor_api.search.directive import Mode
from sartor_api.search.intent import DEFAULT_STEPS, PolicyName
from sartor_api.search.records import (
    Budget,
    Envelope,
    GuardrailLimit,
    RunSpec,
    SearchPolicy,
    StepKind,
    StepPolicy,
)
from sartor_api.serving_synthesis import ServingSynthesis
from sartor_api.workload import Workload, WorkloadParameters

QUICK_SECONDS: Mapping[StepKind, float] = {
    StepKind.BASELINE: 150,
    StepKind.PLAN: 2,
    StepKind.IMPLEMENT: 3,
    StepKind.JUDGE: 60,
    StepKind.EVALUATE: 120,
    StepKind.CONFIRM: 120,
}
THOROUGH_SECONDS: Mapping[StepKind, float] = {
    **QUICK_SECONDS,
    StepKind.BASELINE: 900,
    StepKind.JUDGE: 90,
    StepKind.EVALUATE: 420,
    StepKind.CONFIRM: 420,
}
"""What steps are expected to take before there is history; measured values replace them from the first step on."""

MODEL_SECONDS: Mapping[StepKind, float] = {StepKind.PLAN: 60, StepKind.IMPLEMENT: 300}
"""What steps that are a model's own are expected to take."""
REVIEW_SECONDS = 120.0
"""What a model's review adds to a judge's step."""
ENDING_SECONDS = 300.0
"""What a step has beyond the time of its conversation: starting, the last call's end, what its tools leave."""

LOOKS = 7
"""Measurements of a round that leaves a gain open, three of the incumbent and four of its candidate at most. Together they
halve the interval of their comparison; each takes a measurement's minutes, against the plan and the code of another round
that a model is paid for. Where a round is composed within seconds the next one costs no more than another look."""
SLOWEST = 4.0
"""A step is overdue after this many times its expectation, and never before the default deadline."""


class NotRunnableError(Exception):
    """The synthesis asks for what the search cannot do yet; the message names the field and what there is."""


PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "chat": ("concurrencies", "request_rates", "find_peak", "prompt_tokens", "output_tokens"),
    "code-edit": (
        "concurrencies",
        "match_rates",
        "edit_kinds",
        "without_prediction",
        "file_tokens",
        "output_tokens",
    ),
}
"""The scenarios that can be run, and those parameters that the evaluator takes."""


def scenario_parameters(workload: Workload) -> dict[str, JsonValue]:
    """The parameters with their defaults, as the evaluator's scenarios take them. Raises `NotRunnableError`."""
    if workload.scenario not in PARAMETERS:
        raise NotRunnableError(
            f"spec.workload.scenario: {workload.scenario} cannot be run yet; there are: {', '.join(PARAMETERS)}"
        )
    if workload.trace_ref is not None:
        raise NotRunnableError("spec.workload.traceRef: traces cannot be run yet; remove it to use the generator")
    wanted = workload.effective_parameters()
    for name, field in WorkloadParameters.model_fields.items():
        if getattr(workload.parameters, name) and name not in PARAMETERS[workload.scenario]:
            there = ", ".join(_alias(one) for one in PARAMETERS[workload.scenario])
            raise NotRunnableError(
                f"spec.workload.parameters.{field.alias or name}: {workload.scenario} cannot be run with it yet; remove it "
                f"(there are: {there})"
            )
    return {name: _plain(getattr(wanted, name)) for name in PARAMETERS[workload.scenario]}


def _alias(name: str) -> str:
    return WorkloadParameters.model_fields[name].alias or name


def _plain(value: object) -> JsonValue:
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case tuple() | list():
            return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case DecimalString():
            return float(value.number)
        case _:
            raise TypeError(f"no plain form for {value!r}")


def measurement_settings(synthesis: ServingSynthesis) -> dict[str, JsonValue]:
    """`preset` and what was overridden, in the names of the evaluator's policy. Seconds."""
    wanted = synthesis.spec.measurement
    overrides: dict[str, JsonValue] = {"confidence": float(wanted.confidence.number)}
    if wanted.window is not None:
        overrides["window_seconds"] = wanted.window.seconds
    if wanted.minimum_replicates is not None:
        overrides["replicates_min"] = wanted.minimum_replicates
    if wanted.maximum_replicates is not None:
        overrides["replicates_max"] = wanted.maximum_replicates
    return {"preset": wanted.preset, "overrides": overrides}


def guardrail_limits(synthesis: ServingSynthesis) -> tuple[GuardrailLimit, ...]:
    def number(bound: object) -> float | None:
        value = getattr(bound, "number", None)
        return None if value is None else float(value)

    return tuple(
        GuardrailLimit(
            metric=guardrail.metric,
            at_most=number(guardrail.at_most),
            at_least=number(guardrail.at_least),
            maximum_regression=number(guardrail.maximum_regression),
        )
        for guardrail in synthesis.spec.objective.guardrails
    )


def step_policies(expected: Mapping[StepKind, float], agents: AgentSettings) -> dict[StepKind, StepPolicy]:
    """Deadlines that follow from what is expected, and for steps that ask a model from what it may take and cost."""
    policies = {
        step: StepPolicy(
            expected_seconds=expected[step],
            deadline_seconds=max(default.deadline_seconds, SLOWEST * expected[step]),
        )
        for step, default in DEFAULT_STEPS.items()
    }
    for step in MODEL_SECONDS:
        if (role := agents.asks(step)) is not None:
            policies[step] = StepPolicy(
                expected_seconds=min(MODEL_SECONDS[step], agents.step_seconds),
                deadline_seconds=agents.step_seconds + ENDING_SECONDS,
                reserve=agents.reserve(role),
            )
    if (role := agents.asks(StepKind.JUDGE)) is not None:
        judge = policies[StepKind.JUDGE]
        policies[StepKind.JUDGE] = StepPolicy(
            expected_seconds=judge.expected_seconds + min(REVIEW_SECONDS, agents.step_seconds),
            deadline_seconds=judge.deadline_seconds + agents.step_seconds,
            reserve=agents.reserve(role),
        )
    return policies


def _smaller(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def snapshot(
    synthesis: ServingSynthesis,
    *,
    now: float,
    model_folder: str,
    platform: str = "cpu",
    accelerators: int = 0,
    profile: AgentProfileSpec | None = None,
    price_per_hour: float | None = None,
    rounds: int | None = None,
    skills: bool | None = None,
    policy: PolicyName | None = None,
    parallelism: int | None = None,
    exclusive: bool = True,
    seed: int | None = None,
    expected: Mapping[StepKind, float] | None = None,
) -> RunSpec:
    """The immutable intent of one run. `rounds`, `skills`, `policy`, `parallelism` and `seed` override the manifest
    (options of the command line). `exclusive`: roles and measurements share a machine (`lanes`).

    `profile` is who writes the code (default: the playbook); a synthesis may set less than its limits, never more.
    `price_per_hour` is the hardware's, in the currency of the budget. `expected` are seconds per step, where the
    caller knows better than the preset. Raises `NotRunnableError`.
    """
    spec = synthesis.spec
    quick = spec.measurement.preset == "quick"
    seconds = {**(QUICK_SECONDS if quick else THOROUGH_SECONDS), **(expected or {})}
    agent = profile or AgentProfileSpec()
    budget, limits = spec.budget, agent.limits
    tokens = _whole(_smaller(_whole(budget.tokens), _whole(limits.tokens_per_run)))
    money = _smaller(_amount(budget.money), _amount(limits.money_per_run))
    settings = within(agent_settings(agent), tokens=tokens, money=money)
    target = spec.objective.target_speedup
    return RunSpec(
        name=synthesis.name,
        created=now,
        seed=spec.search.seed if seed is None else seed,
        scenario=spec.workload.scenario,
        parameters=scenario_parameters(spec.workload),
        model={
            "name": spec.model.served_name or synthesis.name,
            "folder": model_folder,
            "source": spec.model.source.to_dict(),
        },
        dtype=spec.model.dtype,
        envelope=Envelope(
            max_input_tokens=spec.workload.envelope.max_input_tokens,
            max_output_tokens=spec.workload.envelope.max_output_tokens,
        ),
        platform=platform,  # pyright: ignore[reportArgumentType] - checked by the model
        accelerators=accelerators,
        price_per_hour=price_per_hour,
        metric=spec.objective.metric or "outputTokensPerSecond",
        guardrails=guardrail_limits(synthesis),
        correctness={
            "mode": synthesis.spec.correctness_mode(),
            "samples": spec.correctness.samples,
            "tie_tolerance": float(spec.correctness.tie_tolerance.number),
        },
        baseline={
            "engine": spec.baseline.engine,
            "tuning": spec.baseline.tuning,
            "arguments": list(spec.baseline.arguments),
        },
        measurement=measurement_settings(synthesis),
        agents=as_json(settings),
        skills=spec.agents.skills if skills is None else skills,
        budget=Budget(
            rounds=budget.rounds if rounds is None else rounds,
            wall_clock_seconds=budget.wall_clock.seconds,
            accelerator_seconds=(
                None if budget.accelerator_hours is None else float(budget.accelerator_hours.number) * 3600
            ),
            tokens=tokens,
            money=money,
            confirmation_share=budget.confirmation_reserve / 100,
            currency=_currency(budget.money, limits.money_per_run),
        ),
        policy=SearchPolicy(
            minimum_effect=float(spec.measurement.minimum_effect.number),
            minimum_speedup=float(spec.objective.minimum_speedup.number),
            target_speedup=None if target is None else float(target.number),
            plateau_rounds=spec.search.plateau_rounds,
            thrash_rounds=spec.search.thrash_rounds,
            escalation=tuple(Mode(step) for step in spec.search.on_plateau),
            kind=spec.search.policy if policy is None else policy,
            parallelism=spec.search.parallelism if parallelism is None else parallelism,
            looks=LOOKS if settings.asks(StepKind.IMPLEMENT) is not None else 1,
            exclusive=exclusive,
            steps=step_policies(seconds, settings),
        ),
        synthesis=synthesis.to_dict(),
    )


def _whole(quantity: Quantity | float | None) -> int | None:
    return None if quantity is None else int(quantity)


def _amount(money: Money | None) -> float | None:
    return None if money is None else float(money.amount.number)


def _currency(*amounts: Money | None) -> str:
    return next((one.currency for one in amounts if one is not None), "USD")
