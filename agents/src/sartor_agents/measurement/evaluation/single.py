"""One server alone: `single_windows` windows, its metric the median over windows, condition by condition."""

from sartor_agents.measurement.messages import EvaluateResponse, FailureClass, Reason
from sartor_agents.measurement.pairs import (
    MeasurementFailure,
    check_usage,
    contended,
    disturbed_window,
    failures,
    require_alive,
)
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.results import PairTable, arm_summary
from sartor_agents.measurement.statistics import geometric_mean, quantile
from sartor_agents.measurement.windows import WindowRun

from .session import Session


async def single(session: Session) -> EvaluateResponse:
    """Measure the one server. Raises `MeasurementFailure` when it dies or fails requests."""
    policy, table = session.policy, PairTable(session.runner.stages)
    runs: list[WindowRun] = []
    void, longest = 0, 0.0
    while len(runs) < policy.single_windows:
        if (runs or void) and session.left() < longest:
            break
        run = await session.runner.run(session.candidate, len(runs) + void, warmup=policy.warmup_requests)
        session.keep(run)
        await require_alive(session.candidate, run, candidate=False)
        longest = max(longest, run.seconds)
        reason, why = _disturbed(run, policy)
        if reason is not None:
            void += 1
            session.progress("void", reason=reason, message=f"window repeated: {why}")
            if void > policy.invalid_pairs_max:
                raise MeasurementFailure(
                    reason,
                    FailureClass.MEASUREMENT,
                    f"{void} windows were disturbed, {policy.invalid_pairs_max} may be repeated; the last one: {why}. "
                    "Measure again when the machine does less",
                )
            continue
        check_usage(run)
        if any(not sample.ok for sample in run.samples):
            raise MeasurementFailure(
                Reason.REQUEST_FAILED, FailureClass.INFRASTRUCTURE, f"the server failed requests: {failures(run)}"
            )
        runs.append(run)
        session.progress(
            "window", index=len(runs) - 1, rates=run.rates(),
            message=f"window {len(runs)}/{policy.single_windows}: {_short(run.rates())} tok/s",
        )  # fmt: skip
    if not runs:
        raise MeasurementFailure(
            Reason.TOO_FEW_REPLICATES,
            FailureClass.MEASUREMENT,
            f"no window counts within {policy.wall_clock:.0f} s; {void} were disturbed",
        )
    rates = {c: [run.rates()[c] for run in runs] for c in table.conditions}
    medians = {c: quantile(values, 0.5) for c, values in rates.items()}
    return EvaluateResponse(
        objective=geometric_mean([medians[c] for c in table.objective_conditions]),
        metric=session.scenario.metric,
        arms={c: arm_summary(medians[c], runs, c, policy.service_level) for c in table.conditions},
        peaks=session.peaks,
        reason=Reason.MEASURED,
        message=f"{len(runs)} windows",
        rates={c: {session.candidate.endpoint.name: tuple(values)} for c, values in rates.items()},
        samples=session.samples_path,
    )


def _disturbed(run: WindowRun, policy: MeasurementPolicy) -> tuple[Reason | None, str]:
    reason, why = disturbed_window(run, policy)
    if reason is None and (others := contended(run, policy)) is not None:
        return Reason.CONTENDED, others
    return reason, why


def _short(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
