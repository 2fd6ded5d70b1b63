"""One server alone: `single_windows` windows, its metric the median over windows, condition by condition."""

from sartor_agents.measurement.messages import EvaluateResponse, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure, check_candidate, failures, require_alive
from sartor_agents.measurement.results import PairTable, arm_summary
from sartor_agents.measurement.statistics import geometric_mean, quantile
from sartor_agents.measurement.windows import WindowRun

from .session import Session


async def single(session: Session) -> EvaluateResponse:
    """Measure the one server. Raises `MeasurementFailure` when it dies or fails requests."""
    policy, table = session.policy, PairTable(session.runner.stages)
    runs: list[WindowRun] = []
    longest = 0.0
    for index in range(policy.single_windows):
        if runs and session.left() < longest:
            break
        run = await session.runner.run(session.candidate, index, warmup=policy.warmup_requests)
        session.keep(run)
        await require_alive(session.candidate, run, candidate=False)
        longest = max(longest, run.seconds)
        check_candidate(run)
        if any(not sample.ok for sample in run.samples):
            raise MeasurementFailure(
                Reason.REQUEST_FAILED, FailureClass.INFRASTRUCTURE, f"the server failed requests: {failures(run)}"
            )
        runs.append(run)
        session.progress(
            "window", index=index, rates=run.rates(),
            message=f"window {index + 1}/{policy.single_windows}: {_short(run.rates())} tok/s",
        )  # fmt: skip
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


def _short(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
