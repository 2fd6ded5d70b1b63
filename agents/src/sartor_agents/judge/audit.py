"""A last look at a winner: log-probabilities again, at the end of the measurement that promotes it.

A server could be right whenever it is asked for log-probabilities and write plain answers by a shortcut: from a smaller
model, or from what it learnt of the text, without any model. In the judging it would have been slow, in the scored windows
it is fast. So when the last window is over, requests with `logprobs` and their twins are mixed once more, on fresh prompts,
by the judge's own check; and the time of those with `logprobs` is held against the plain answers *of the scored windows*,
condition by condition: the same model has to have written both.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from sartor_agents.measurement.evaluation.session import Session
from sartor_agents.measurement.messages import FailureClass, JudgeRequest, Reason
from sartor_agents.measurement.pairs import MeasurementFailure, Pair

from .divergence import NAME, busiest, logprob_divergence, too_slow
from .limits import timed
from .opening import Bench, Cost, JudgingError
from .reference_check import Checker, reference_failed
from .timing import seconds_per_token

_TRIES = 3
_BY_PACE = (Reason.LOGPROBS_COMPUTED_ELSEWHERE, Reason.CHECK_TIMED_OUT)
_WINDOW = 4
_LIMIT_REQUESTS = 4
_SAMPLES = 16  # a quarter of them ask for log-probabilities


class Auditor:
    """An `evaluation.Audit`: raises `MeasurementFailure` where a candidate does not stand a last look at its numbers."""

    def __init__(self, open_reference: Callable[[Path], Checker]) -> None:
        self._open = open_reference

    async def __call__(self, session: Session, pairs: Sequence[Pair]) -> None:
        """Look, and look again where the machine was busier than in the windows: then paces say nothing of the candidate."""
        usual = max((run.contention.share for pair in pairs for run in (pair.candidate, pair.baseline)), default=0.0)
        share = 0.0
        for _ in range(_TRIES):
            before = session.surroundings.read()
            try:
                return await self._look(session, pairs)
            except MeasurementFailure as failure:
                if failure.reason not in _BY_PACE:
                    raise
                seen = session.surroundings.between(before, session.surroundings.read(), arm="candidate")
                share = seen.contention.share
                if not seen.disturbances and share <= usual + session.policy.maximum_contention_difference:
                    raise
        raise MeasurementFailure(
            Reason.CONTENDED,
            FailureClass.MEASUREMENT,
            f"after the windows others used {share:.0%} of the CPU each of {_TRIES} times, in the windows {usual:.0%}",
        )

    async def _look(self, session: Session, pairs: Sequence[Pair]) -> None:
        try:
            bench = self._bench(session)
            check = await timed(bench, NAME, logprob_divergence(bench, window=_WINDOW), _LIMIT_REQUESTS)
        except (JudgingError, ImportError, OSError, RuntimeError, ValueError) as error:
            raise MeasurementFailure(Reason.INTERNAL, FailureClass.INFRASTRUCTURE, reference_failed(error)) from error
        if not check.passed:
            raise MeasurementFailure(check.reason, FailureClass.CANDIDATE, f"after the windows: {check.message}")
        if session.handover is not None and (count := await session.handover.count()):
            raise MeasurementFailure(
                Reason.LOGPROBS_HANDED_OVER, FailureClass.CANDIDATE, f"the baseline served {count} of the last requests"
            )
        slow = too_slow(_beside_windows(session, pairs, bench.costs))
        if slow is not None:
            raise MeasurementFailure(
                Reason.LOGPROBS_COMPUTED_ELSEWHERE, FailureClass.CANDIDATE, f"{slow} as in the scored windows"
            )

    def _bench(self, session: Session) -> Bench:
        asked = session.request
        assert asked.candidate is not None
        request = JudgeRequest(
            candidate=asked.candidate,
            baseline=asked.baseline,
            model_dir=asked.model_dir,
            scenario=asked.scenario,
            seed=asked.seed,
            output_dir=asked.output_dir,
            trace=asked.trace,
            samples=_SAMPLES,
            tie_tolerance=asked.tie_tolerance,
            request_timeout=asked.policy.request_timeout,
            stall_timeout=asked.policy.stall_timeout,
        )
        return Bench(
            request, session.scenario, session.counter, session.candidate, session.baseline, session.handover,
            session.progress, self._open(asked.model_dir),
        )  # fmt: skip


def _beside_windows(session: Session, pairs: Sequence[Pair], costs: Sequence[Cost]) -> list[Cost]:
    """The costs with the plain time of the scored windows instead of the twin's."""
    stage = busiest(session.scenario).name
    seen: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        for run in pair.candidate.stages:
            if run.stage.name == stage:
                for sample in run.samples:
                    if sample.purpose == "scored" and sample.ok:
                        seen[sample.condition].append(seconds_per_token(sample))
    return [Cost(c.condition, median(seen[c.condition]), c.asked) for c in costs if seen[c.condition]]
