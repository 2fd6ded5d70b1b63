"""Candidate against baseline: pairs until a look concludes; then the answers of the windows are checked."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.environment import fingerprint
from sartor_agents.measurement.journal import JOURNAL, JournalWriter
from sartor_agents.measurement.messages import EvaluateRequest, EvaluateResponse, FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure, Pair, candidate_first, run_pair, too_many
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.results import PairTable, answers_to_check, speedup
from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.sequential import Conclusion, StopRule
from sartor_agents.measurement.streaming import Streaming, streaming
from sartor_agents.measurement.tokens import TokenCounter
from sartor_api.search.records import Measurement, SeedCommitment

from .session import Session

Verify = Callable[[Sequence[tuple[GenerationRequest, Sample]], TokenCounter, EvaluateRequest], str | None]
"""Checks answers against the reference: None, or a sentence on the first that is wrong."""


Audit = Callable[[Session, Sequence[Pair]], Awaitable[None]]
"""A last look at the candidate after the windows of a confirmation. Raises `MeasurementFailure`."""


async def paired(session: Session, verify: Verify, audit: Audit | None = None) -> EvaluateResponse:
    """Measure both servers of `session`. Raises `MeasurementFailure`."""
    assert session.baseline is not None
    return await _Paired(session, session.baseline).measure(verify, audit)


@dataclass
class _Paired:
    """The pairs of one measurement, valid and void."""

    session: Session
    baseline: LoadClient
    void: list[Pair] = field(default_factory=list[Pair])
    handovers: int | None = None
    streaming: Streaming = field(default_factory=Streaming)

    def __post_init__(self) -> None:
        self.table = PairTable(self.session.runner.stages)
        self.rule = StopRule(self.policy)
        self.journal = JournalWriter(self.session.request.output_dir / JOURNAL, self.session.request)

    @property
    def pairs(self) -> list[Pair]:
        """The valid pairs so far."""
        return self.table.pairs

    @property
    def policy(self) -> MeasurementPolicy:
        return self.session.policy

    async def measure(self, verify: Verify, audit: Audit | None) -> EvaluateResponse:
        session, policy = self.session, self.policy
        conclusion = await self._collect()
        if conclusion is None:
            raise MeasurementFailure(
                Reason.TOO_FEW_REPLICATES,
                FailureClass.MEASUREMENT,
                f"{len(self.pairs)} valid pairs within {policy.wall_clock:.0f} s, {self.rule.fewest} are needed; "
                f"{len(self.void)} were disturbed. Give more time, or a shorter window",
            )
        agreement, verified = self._verify(verify)
        if audit is not None and session.request.confirmation:
            session.progress("audit", message="comparing log-probabilities, and the time they take")
            await audit(session, self.pairs)
        self.journal.ended(conclusion.stop or "time", pairs=len(self.pairs), void=len(self.void))
        interval = conclusion.interval
        message = f"{interval.n} pairs, ended: {conclusion.stop or 'time'}"
        return EvaluateResponse(
            measurement=Measurement(
                metric=session.scenario.metric,
                speedup=speedup(interval),
                conditions=self.table.results(policy, self.rule.alpha),
                samples=session.request.samples_label or session.samples_path.name,
                seed=SeedCommitment.of(session.request.seed),
                fingerprint={
                    **fingerprint(session.surroundings.accelerators),
                    **self.table.surroundings(),
                    "reference": session.request.reference,
                },
                message=message,
                handed_over=self.handovers or 0,
                peaks=session.peaks,
                confirmation=session.request.confirmation,
            ),
            peaks=session.peaks,
            objective=self.table.objective(),
            metric=session.scenario.metric,
            guardrails=self.table.guardrails(policy.confidence, session.request.seed),
            reason=Reason.MEASURED,
            message=message,
            rates=self.table.all_rates(),
            pairs=len(self.pairs),
            invalid_pairs=len(self.void),
            handovers=self.handovers,
            agreement=agreement,
            verified_outputs=verified,
            samples=session.samples_path,
        )

    async def _collect(self) -> Conclusion | None:
        """Pairs until a look concludes or time is up; the last look's conclusion, None if there were too few pairs."""
        session, policy = self.session, self.policy
        conclusion: Conclusion | None = None
        warmup, index, longest = policy.warmup_requests, 0, 0.0
        while conclusion is None or conclusion.stop is None:
            if index and session.left() < longest:
                return self.rule.close(self.table.combined())
            before = session.clock()
            pair = await run_pair(
                session.runner, session.candidate, self.baseline, index, policy=policy, warmup=warmup,
                candidate_first=candidate_first(session.request.seed, index), keep=session.keep,
            )  # fmt: skip
            longest = max(longest, session.clock() - before)
            index += 1
            self.journal.pair(index - 1, pair, session.runner.requests, session.clock() - session.started)
            await self._watch_handover(pair)
            if pair.void is not None:
                self._void(pair)
                if pair.void is Reason.WARM_UP_NOT_OVER:
                    warmup = min(warmup + 1, policy.warmup_requests_max)
                continue
            self.pairs.append(pair)
            self._watch_streaming(pair)
            conclusion = self.rule.look(self.table.combined()) or conclusion
            self._report_pair(pair, conclusion)
        return conclusion

    async def _watch_handover(self, pair: Pair) -> None:
        watch = self.session.handover
        if watch is None:
            return
        # Failed requests may or may not have been counted by the baseline; counting them as ours accuses nobody.
        watch.note_samples(pair.baseline.samples)
        self.handovers = await watch.count()
        if self.handovers:
            raise MeasurementFailure(
                Reason.HANDED_OVER,
                FailureClass.CANDIDATE,
                f"the baseline served {self.handovers} requests that were sent to the candidate inside its envelope",
            )

    def _watch_streaming(self, pair: Pair) -> None:
        mine, theirs = pair.candidate, pair.baseline
        self.streaming += streaming(mine.samples, theirs.samples, self.session.runner.requests, mine.generator.lag)
        if (accusation := self.streaming.accusation) is not None:
            raise MeasurementFailure(Reason.NOT_STREAMED, FailureClass.CANDIDATE, accusation)

    def _void(self, pair: Pair) -> None:
        self.void.append(pair)
        self.session.progress("void", reason=pair.void, message=f"pair repeated: {pair.why}")
        if (failure := too_many(self.void, self.policy)) is not None:
            raise failure

    def _report_pair(self, pair: Pair, conclusion: Conclusion | None) -> None:
        ratio = math.exp(self.table.combined()[-1])
        so_far = conclusion.interval if conclusion is not None else None
        shown = f", so far {so_far.value:.2f} [{so_far.low:.2f}, {so_far.high:.2f}]" if so_far else ""
        self.session.progress(
            "pair", pair=len(self.pairs), ratio=ratio, candidate=pair.candidate.rates(), baseline=pair.baseline.rates(),
            message=f"pair {len(self.pairs)} of {self.policy.replicates_min}–{self.policy.replicates_max}: "
            f"{ratio:.2f} times the baseline{shown}",
        )  # fmt: skip

    def _verify(self, verify: Verify) -> tuple[float | None, int]:
        """Check answers of the scored windows against the reference: (agreement with the baseline, answers checked)."""
        session = self.session
        agreement, chosen = answers_to_check(self.pairs, self.policy.verify_outputs, session.request.seed)
        if chosen:
            session.progress("verify", message=f"checking {len(chosen)} answers of the windows against the reference")
            wrong = verify(
                [(session.runner.requests[s.request_id], s) for s in chosen], session.counter, session.request
            )
            if wrong is not None:
                raise MeasurementFailure(Reason.OUTPUT_DIVERGED, FailureClass.CANDIDATE, wrong)
        return agreement, len(chosen)
