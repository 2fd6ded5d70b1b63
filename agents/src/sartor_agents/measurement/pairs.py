"""Pairs of windows: candidate and baseline right after one another, which of them first being drawn by lot.

The lot makes whatever the machine does hit either arm with the same probability. A pair that was disturbed is void as a
whole and is repeated on fresh prompts; which arm the disturbance would have favoured plays no part.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .client import LoadClient, healthy
from .messages import FailureClass, Reason
from .policy import MeasurementPolicy
from .samples import ErrorClass, GenerationRequest, Sample
from .seeds import derive
from .statistics import quantile
from .tokens import TokenCounter, dispute
from .windows import WindowRun, WindowRunner

_PROBES = 3
_PROBE_PAUSE = 1.0
_LEAST_LAG = 0.02  # seconds: a machine without load delays a timer so much now and then
_SUSPICIOUS = (ErrorClass.CONNECT, ErrorClass.RESET, ErrorClass.STALL, ErrorClass.TIMEOUT)
_NEXT = {
    FailureClass.CANDIDATE: "The candidate has to stop doing that",
    FailureClass.MEASUREMENT: "Measure again when the machine does less, or on one that does nothing else",
}
_FAILED_PAIRS_MAX = 1
"""Pairs in which the candidate answered nothing under a condition: one may be an accident of the machine."""


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

    @property
    def blamed(self) -> FailureClass:
        """Whose fault it is when pair after pair is void for this reason."""
        if self.void is Reason.REQUEST_FAILED:
            return FailureClass.CANDIDATE
        if any(one.by == self.candidate.arm for one in self.baseline.disturbances if one.reason is self.void):
            return FailureClass.CANDIDATE
        mine = self.baseline.contention.idle_arms.get(self.candidate.arm, 0.0)
        theirs = self.candidate.contention.idle_arms.get(self.baseline.arm, 0.0)
        if self.void is Reason.IDLE_ARM_BUSY and mine >= theirs:
            return FailureClass.CANDIDATE
        return FailureClass.MEASUREMENT


def candidate_first(seed: str, index: int) -> bool:
    """Which arm of a pair goes first is drawn by lot: what makes the interval exact (`statistics.signed_rank_interval`)."""
    return derive(seed, "order", index).integers(2) == 0


async def run_pair(
    runner: WindowRunner,
    candidate: LoadClient,
    baseline: LoadClient,
    index: int,
    *,
    policy: MeasurementPolicy,
    warmup: int,
    candidate_first: bool,
    keep: Callable[[WindowRun], None] = lambda _: None,
) -> Pair:
    """Measure one pair. Raises `MeasurementFailure` when an arm is dead or the candidate broke a rule.

    `keep` is given each window before anything is made of it.
    """
    order = (candidate, baseline) if candidate_first else (baseline, candidate)
    runs: dict[int, WindowRun] = {}
    for client in order:
        run = await runner.run(client, index, warmup=warmup)
        runs[id(client)] = run
        keep(run)
        await require_alive(client, run, candidate=client is candidate)
    mine, theirs = runs[id(candidate)], runs[id(baseline)]
    void, why = judge_pair(mine, theirs, policy)
    if void is None:
        check_against(mine, theirs, runner.requests, candidate.counter)
    return Pair(mine, theirs, void, why)


async def require_alive(client: LoadClient, run: WindowRun, *, candidate: bool) -> None:
    """Raise when connections failed in the window and the server does not answer /health any more."""
    broken = [sample for sample in run.samples if sample.error in _SUSPICIOUS]
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


def check_usage(run: WindowRun) -> None:
    """Raise for a wrong `usage`, which fails a candidate outright."""
    for sample in run.samples:
        if sample.error is ErrorClass.COUNT:
            raise MeasurementFailure(
                Reason.TOKEN_COUNT_MISMATCH, FailureClass.CANDIDATE, f"request {sample.request_id}: {sample.detail}"
            )


def answered_nothing(run: WindowRun) -> str | None:
    """A sentence when no request of a condition succeeded in the window, so that there is no rate; None otherwise."""
    if any(sample.error is ErrorClass.GENERATOR for sample in run.samples):
        return None
    for condition, rate in run.rates().items():
        if rate <= 0:
            return f"nothing succeeded at {condition} in window {run.index}: {failures(run)}"
    return None


def check_against(
    candidate: WindowRun, baseline: WindowRun, requests: Mapping[str, GenerationRequest], counter: TokenCounter
) -> None:
    """Raise for what only the baseline's answers to the same requests show: tokens without text."""
    theirs = {sample.request_id: sample for sample in baseline.samples if sample.ok}
    both = [
        (sample, theirs[sample.request_id]) for sample in candidate.samples if sample.ok and sample.request_id in theirs
    ]
    if not counter.exact:
        counts = [
            (mine.tokens, other.tokens, requests[mine.request_id].output_tokens)
            for mine, other in both
            if mine.request_id in requests and mine.text != other.text
        ]
        owed = dispute(counts, tolerance=counter.tolerance)
        if owed is not None:
            raise MeasurementFailure(Reason.TOKEN_COUNT_MISMATCH, FailureClass.CANDIDATE, owed)


def saturation(run: WindowRun, policy: MeasurementPolicy) -> str | None:
    """A sentence when the load generator was near its own limit in `run`; None otherwise."""
    exhausted = [sample for sample in run.samples if sample.error is ErrorClass.GENERATOR]
    if exhausted:
        return f"the load generator could not send {len(exhausted)} requests: {exhausted[0].detail}"
    load = run.generator
    if load.cpu_share > policy.maximum_generator_share:
        return (
            f"the load generator used {load.cpu_share:.0%} of its core while the {run.arm} was measured "
            f"(at most {policy.maximum_generator_share:.0%})"
        )
    latencies = [sample.latency for sample in run.samples if sample.ok]
    if not latencies:
        return None
    allowed = max(_LEAST_LAG, policy.maximum_generator_lag * quantile(latencies, 0.5))
    for what, seconds in (("noted arrivals", load.lag), ("sent requests", load.late)):
        if seconds > allowed:
            return (
                f"the load generator {what} up to {seconds * 1e3:.0f} ms late while the {run.arm} was measured "
                f"(at most {allowed * 1e3:.0f} ms)"
            )
    return None


def disturbed(candidate: WindowRun, baseline: WindowRun, policy: MeasurementPolicy) -> tuple[Reason | None, str]:
    """What happened around a pair that makes it no measurement of either server, or (None, "")."""
    for run in (candidate, baseline):
        reason, why = disturbed_window(run, policy)
        if reason is not None:
            return reason, why
    return None, ""


def disturbed_window(run: WindowRun, policy: MeasurementPolicy) -> tuple[Reason | None, str]:
    """What happened around one window that makes it no measurement of its server, or (None, "")."""
    for disturbance in run.disturbances:
        return disturbance.reason, f"while the {run.arm} was measured: {disturbance.message}"
    busy = saturation(run, policy)
    if busy is not None:
        return Reason.GENERATOR_SATURATED, busy
    for arm, cores in run.contention.idle_arms.items():
        allowed = policy.maximum_idle_baseline_cores if arm == "baseline" else policy.maximum_idle_cores
        if cores > allowed:
            return Reason.IDLE_ARM_BUSY, (
                f"the {arm} used {cores:.2f} processors while the {run.arm} was measured (at most {allowed:g})"
            )
    return None, ""


def contended(run: WindowRun, policy: MeasurementPolicy) -> str | None:
    """A sentence when others used more of the processors in a window than the policy allows."""
    if run.contention.share <= policy.maximum_contention:
        return None
    return (
        f"{run.contention.share:.0%} of the CPU was used by others while the {run.arm} was measured "
        f"(at most {policy.maximum_contention:.0%})"
    )


def judge_pair(candidate: WindowRun, baseline: WindowRun, policy: MeasurementPolicy) -> tuple[Reason | None, str]:
    """Why a pair is void, or (None, ""). Raises `MeasurementFailure` when the candidate broke a rule in it.

    What a disturbance did must not be held against the candidate, so it is looked for first.
    """
    void, why = disturbed(candidate, baseline, policy)
    if void is not None:
        return void, why
    failed = [sample for sample in baseline.samples if not sample.ok]
    if failed:
        return Reason.BASELINE_FAILED_REQUESTS, f"the baseline failed {len(failed)} requests: {failures(baseline)}"
    for run in (candidate, baseline):
        if (others := contended(run, policy)) is not None:
            return Reason.CONTENDED, others
    difference = abs(candidate.contention.share - baseline.contention.share)
    if difference > policy.maximum_contention_difference:
        return Reason.CONTENDED, (
            f"others used {candidate.contention.share:.0%} of the CPU in one window of the pair and "
            f"{baseline.contention.share:.0%} in the other"
        )
    check_usage(candidate)
    if (nothing := answered_nothing(candidate)) is not None:
        return Reason.REQUEST_FAILED, nothing
    for run in (candidate, baseline):
        if not run.warm:
            return Reason.WARM_UP_NOT_OVER, f"the {run.arm} did not settle within the longest warm-up"
    if any(rate <= 0 for rate in baseline.rates().values()):
        return Reason.BASELINE_FAILED_REQUESTS, "the baseline wrote nothing within a window"
    return None, ""


def too_many(void: Sequence[Pair], policy: MeasurementPolicy) -> MeasurementFailure | None:
    """What ends a measurement with these void pairs, or None while more may be tried.

    Whose fault it was is what most of them say, not the last one.
    """
    failed = [pair for pair in void if pair.void is Reason.REQUEST_FAILED]
    if len(failed) > _FAILED_PAIRS_MAX:
        return MeasurementFailure(Reason.REQUEST_FAILED, FailureClass.CANDIDATE, failed[-1].why)
    if len(void) <= policy.invalid_pairs_max:
        return None
    blamed = FailureClass.CANDIDATE
    chosen = [pair for pair in void if pair.blamed is blamed]
    if 2 * len(chosen) <= len(void):
        blamed = FailureClass.MEASUREMENT
        chosen = [pair for pair in void if pair.blamed is blamed]
    ((reason, often),) = Counter(pair.void for pair in chosen).most_common(1)
    assert reason is not None
    last = next(pair for pair in reversed(chosen) if pair.void is reason)
    return MeasurementFailure(
        reason,
        blamed,
        f"{len(void)} pairs were disturbed, {policy.invalid_pairs_max} may be repeated; "
        f"{often} of them like this: {last.why}. {_NEXT[blamed]}",
    )


def failures(run: WindowRun) -> str:
    """The failures of a window in a few words."""
    failed: list[Sample] = [sample for sample in run.samples if not sample.ok]
    kinds = Counter(str(sample.error) for sample in failed)
    listed = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
    return f"{listed} ({failed[0].detail})" if failed else "no request ended within the window"
