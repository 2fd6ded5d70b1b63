"""Pairs of windows: candidate and baseline right after one another, in the order AB, BA, AB, …

The order alternates so that a drift of the machine hits both arms alike. A pair that was disturbed is void as a whole and is
repeated on fresh prompts; which arm the disturbance would have favoured plays no part.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass

from .client import LoadClient, healthy
from .messages import FailureClass, Reason
from .policy import MeasurementPolicy
from .samples import ErrorClass, Sample
from .windows import WindowRun, WindowRunner

_PROBES = 3
_PROBE_PAUSE = 1.0
_SUSPICIOUS = (ErrorClass.CONNECT, ErrorClass.RESET, ErrorClass.STALL, ErrorClass.TIMEOUT)


class MeasurementFailure(Exception):  # noqa: N818  (a result, not a defect)
    """The measurement cannot go on; reason, class and sentence become the response."""

    def __init__(self, reason: Reason, failure_class: FailureClass, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.failure_class = failure_class


@dataclass(frozen=True, slots=True)
class Pair:
    """Two windows on the same prompts; `void` says why the pair does not count."""

    candidate: WindowRun
    baseline: WindowRun
    void: Reason | None
    why: str = ""


def candidate_first(seed: str, index: int) -> bool:
    """Which arm of a pair goes first: in turn, whatever the seed."""
    return index % 2 == 0


async def run_pair(
    runner: WindowRunner,
    candidate: LoadClient,
    baseline: LoadClient,
    index: int,
    *,
    policy: MeasurementPolicy,
    warmup: int,
    candidate_first: bool,
) -> Pair:
    """Measure one pair. Raises `MeasurementFailure` when an arm is dead or the candidate broke a rule."""
    order = (candidate, baseline) if candidate_first else (baseline, candidate)
    runs: dict[int, WindowRun] = {}
    for client in order:
        run = await runner.run(client, index, warmup=warmup)
        runs[id(client)] = run
        await require_alive(client, run, candidate=client is candidate)
    mine, theirs = runs[id(candidate)], runs[id(baseline)]
    check_candidate(mine)
    void, why = judge_pair(mine, theirs, policy)
    return Pair(mine, theirs, void, why)


async def require_alive(client: LoadClient, run: WindowRun, *, candidate: bool) -> None:
    """Raise when connections failed in the window and the server does not answer /health any more."""
    broken = [
        s
        for s in run.samples
        if s.error in (ErrorClass.CONNECT, ErrorClass.RESET, ErrorClass.STALL, ErrorClass.TIMEOUT)
    ]
    if not broken:
        return
    for probe in range(_PROBES):
        if await healthy(client.endpoint):
            return
        if probe < _PROBES - 1:
            await asyncio.sleep(_PROBE_PAUSE)
    what = f"{client.endpoint.url} stopped answering in window {run.index}: {broken[0].detail}"
    if candidate:
        raise MeasurementFailure(Reason.CANDIDATE_DIED, FailureClass.CANDIDATE, f"the candidate at {what}")
    raise MeasurementFailure(Reason.BASELINE_DIED, FailureClass.INFRASTRUCTURE, f"the baseline at {what}")


def check_candidate(run: WindowRun) -> None:
    """Raise for what fails a candidate outright: a wrong `usage`, or a condition without any throughput."""
    for sample in run.samples:
        if sample.error is ErrorClass.COUNT:
            raise MeasurementFailure(
                Reason.TOKEN_COUNT_MISMATCH, FailureClass.CANDIDATE, f"request {sample.request_id}: {sample.detail}"
            )
    for condition, rate in run.rates().items():
        if rate <= 0:
            raise MeasurementFailure(
                Reason.REQUEST_FAILED,
                FailureClass.CANDIDATE,
                f"nothing succeeded at {condition} in window {run.index}: {failures(run)}",
            )


def judge_pair(candidate: WindowRun, baseline: WindowRun, policy: MeasurementPolicy) -> tuple[Reason | None, str]:
    """Why a pair is void, or (None, "")."""
    failed = [sample for sample in baseline.samples if not sample.ok]
    if failed:
        return Reason.BASELINE_FAILED_REQUESTS, f"the baseline failed {len(failed)} requests: {failures(baseline)}"
    for run in (candidate, baseline):
        if run.contention.share > policy.maximum_contention:
            return Reason.CONTENDED, (
                f"{run.contention.share:.0%} of the CPU was used by others while the {run.arm} was measured "
                f"(at most {policy.maximum_contention:.0%})"
            )
    difference = abs(candidate.contention.share - baseline.contention.share)
    if difference > policy.maximum_contention_difference:
        return Reason.CONTENDED, (
            f"others used {candidate.contention.share:.0%} of the CPU in one window of the pair and "
            f"{baseline.contention.share:.0%} in the other"
        )
    for run in (candidate, baseline):
        if not run.warm:
            return Reason.WARM_UP_NOT_OVER, f"the {run.arm} did not settle within the longest warm-up"
    if any(rate <= 0 for rate in baseline.rates().values()):
        return Reason.BASELINE_FAILED_REQUESTS, "the baseline wrote nothing within a window"
    return None, ""


def failures(run: WindowRun) -> str:
    """The failures of a window in a few words."""
    failed: list[Sample] = [sample for sample in run.samples if not sample.ok]
    kinds = Counter(str(sample.error) for sample in failed)
    listed = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
    return f"{listed} ({failed[0].detail})" if failed else "no request ended within the window"
