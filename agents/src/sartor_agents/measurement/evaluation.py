"""One measurement from request to response: pairs of windows until the interval says enough.

What a server says about itself is never used. Speed comes from our clock and our token count, handing over from the
baseline's counter, and right answers from the reference, on answers drawn from the very windows that are scored.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sartor_agents.scenarios import Scenario, ScenarioError, open_scenario
from sartor_api.search.records import Measurement, SeedCommitment

from .client import LoadClient, UnreachableError, discover_model, healthy
from .environment import fingerprint
from .handover import HandoverWatch
from .messages import (
    Endpoint,
    EvaluateRequest,
    EvaluateResponse,
    FailureClass,
    MeasurementPolicy,
    Reason,
)
from .pairs import MeasurementFailure, Pair, check_candidate, failures, require_alive, run_pair
from .progress import Progress, silent
from .results import PairTable, answers_to_check, scored, speedup
from .samples import GenerationRequest, Sample, write_samples
from .scoring import summarise
from .sequential import Conclusion, conclude, plan_looks
from .statistics import geometric_mean, quantile, sidak
from .tokens import TokenCounter
from .windows import WindowRun, WindowRunner

Verify = Callable[[Sequence[tuple[GenerationRequest, Sample]], TokenCounter, EvaluateRequest], str | None]
"""Checks answers against the reference: None, or a sentence on the first that is wrong."""

_VERIFY_SHARE = 0.15  # of the wall clock, kept for checking answers after the last window


async def evaluate(
    request: EvaluateRequest,
    *,
    verify: Verify,
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluateResponse:
    """Measure what `request` asks for. Every foreseeable fault is a response with its reason and class."""
    begun = clock()
    try:
        _check(request)
        evaluation = await _Evaluation.open(request, progress, clock)
        if request.mode == "single":
            response = await evaluation.single()
        else:
            response = await evaluation.paired(verify)
    except ScenarioError as error:
        response = _failed(Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE, str(error))
    except MeasurementFailure as error:
        response = _failed(error.reason, error.failure_class, str(error))
    return response.model_copy(update={"seconds": clock() - begun})


def _failed(reason: Reason, failure_class: FailureClass, message: str) -> EvaluateResponse:
    return EvaluateResponse(reason=reason, message=message, failure_class=failure_class)


def _check(request: EvaluateRequest) -> None:
    if request.candidate is None:
        raise ScenarioError("`candidate` is missing; in single mode it is the one server")
    if request.mode == "paired" and request.baseline is None:
        raise ScenarioError("`baseline` is missing; a ratio needs both servers")
    if request.policy.replicates_min > request.policy.replicates_max:
        raise ScenarioError("policy.replicates_min is above replicates_max")


@dataclass
class _Evaluation:
    """The state of one measurement."""

    request: EvaluateRequest
    scenario: Scenario
    counter: TokenCounter
    candidate: LoadClient
    baseline: LoadClient | None
    runner: WindowRunner
    progress: Progress
    clock: Callable[[], float]
    started: float
    samples_path: Path
    handover: HandoverWatch | None
    void: list[Pair] = field(default_factory=list[Pair])
    handovers: int | None = None

    def __post_init__(self) -> None:
        self.table = PairTable(self.scenario.stages)

    @property
    def pairs(self) -> list[Pair]:
        """The valid pairs so far."""
        return self.table.pairs

    @property
    def policy(self) -> MeasurementPolicy:
        return self.request.policy

    @classmethod
    async def open(cls, request: EvaluateRequest, progress: Progress, clock: Callable[[], float]) -> "_Evaluation":
        """Read the model's text, look whether both servers are up."""
        scenario, counter = open_scenario(request.scenario, request.model_dir, request.seed, trace=request.trace)
        assert request.candidate is not None
        single = request.mode == "single"
        candidate = await _connect(request.candidate, "baseline" if single else "candidate", counter, request.policy)
        baseline = None
        if request.baseline is not None and not single:
            baseline = await _connect(request.baseline, "baseline", counter, request.policy)
        trusted = baseline or candidate

        async def oracle(wanted: Sequence[GenerationRequest]) -> list[str]:
            answers: list[str] = []
            for one in wanted:
                # A salt of its own keeps these answers out of the prefix cache that the windows will meet.
                salted = one.with_body(cache_salt=f"oracle-{one.id}", prediction=None)
                sample = await trusted.send(salted, purpose="accuracy")
                if handover is not None:
                    handover.note_own(1)
                answers.append(sample.text)
            return answers

        handover = HandoverWatch(baseline) if baseline is not None else None
        if handover is not None:
            await handover.begin()
        pids = [e.pid for e in (request.candidate, request.baseline) if e is not None and e.pid is not None]
        runner = WindowRunner(scenario, request.policy, oracle, seed=request.seed, pids=pids)
        path = request.output_dir / "samples.jsonl.gz"
        path.unlink(missing_ok=True)
        return cls(request, scenario, counter, candidate, baseline, runner, progress, clock, clock(), path, handover)

    # --- one server alone -------------------------------------------------------------------------------------------

    async def single(self) -> EvaluateResponse:
        """`single_windows` windows of one server; its metric is the median over windows, condition by condition."""
        runs: list[WindowRun] = []
        longest = 0.0
        for index in range(self.policy.single_windows):
            if runs and self._left() < longest:
                break
            run = await self.runner.run(self.candidate, index, warmup=self.policy.warmup_requests)
            await require_alive(self.candidate, run, candidate=False)
            self._keep(run)
            longest = max(longest, run.seconds)
            check_candidate(run)
            if any(not sample.ok for sample in run.samples):
                raise MeasurementFailure(
                    Reason.REQUEST_FAILED, FailureClass.INFRASTRUCTURE, f"the server failed requests: {failures(run)}"
                )
            runs.append(run)
            self.progress(
                "window", index=index, rates=run.rates(),
                message=f"window {index + 1}/{self.policy.single_windows}: {_short(run.rates())} tok/s",
            )  # fmt: skip
        rates = {c: [run.rates()[c] for run in runs] for c in self.table.conditions}
        medians = {c: quantile(values, 0.5) for c, values in rates.items()}
        return EvaluateResponse(
            objective=geometric_mean([medians[c] for c in self.table.objective_conditions]),
            metric=self.scenario.metric,
            arms={c: summarise(medians[c], scored(runs, c)) for c in self.table.conditions},
            reason=Reason.MEASURED,
            message=f"{len(runs)} windows",
            rates={c: {self.candidate.endpoint.name: tuple(values)} for c, values in rates.items()},
            samples=self.samples_path,
        )

    # --- pairs ------------------------------------------------------------------------------------------------------

    async def paired(self, verify: Verify) -> EvaluateResponse:
        """Pairs until a look concludes; then the answers are checked."""
        assert self.baseline is not None
        policy = self.policy
        alpha = sidak(1 - policy.confidence, policy.comparisons)
        looks = {look.n: look for look in plan_looks(policy.replicates_min, policy.replicates_max, alpha)}
        conclusion: Conclusion | None = None
        warmup, index, longest = policy.warmup_requests, 0, 0.0
        while conclusion is None or conclusion.stop is None:
            if index and self._left() < longest:
                break
            before = self.clock()
            pair = await run_pair(self.runner, self.candidate, self.baseline, index, policy=policy, warmup=warmup)
            longest = max(longest, self.clock() - before)
            index += 1
            self._keep(pair.candidate)
            self._keep(pair.baseline)
            await self._watch_handover(pair)
            if pair.void is not None:
                self._void(pair)
                if pair.void is Reason.WARM_UP_NOT_OVER:
                    warmup = min(warmup + 1, policy.warmup_requests_max)
                continue
            self.pairs.append(pair)
            look = looks.get(len(self.pairs))
            if look is not None:
                final = look.n == policy.replicates_max
                conclusion = conclude(
                    self.table.combined(), look, final=final, confidence=policy.confidence,
                    minimum=policy.minimum_speedup, precision=policy.precision,
                )  # fmt: skip
            self._report_pair(pair, conclusion)
        if conclusion is None:
            raise MeasurementFailure(
                Reason.TOO_FEW_REPLICATES,
                FailureClass.MEASUREMENT,
                f"{len(self.pairs)} valid pairs within {policy.wall_clock:.0f} s, {policy.replicates_min} are needed; "
                f"{len(self.void)} were disturbed. Give more time, or a shorter window",
            )
        agreement, verified = self._verify(verify)
        interval = conclusion.interval
        message = f"{interval.n} pairs, ended: {conclusion.stop or 'time'}"
        return EvaluateResponse(
            measurement=Measurement(
                metric=self.scenario.metric,
                speedup=speedup(interval),
                conditions=self.table.results(self.policy, alpha),
                samples=self.request.samples_label or self.samples_path.name,
                seed=SeedCommitment.of(self.request.seed),
                fingerprint={**fingerprint(), "contention": self.table.contention()},
                message=message,
                handed_over=self.handovers or 0,
                confirmation=self.request.confirmation,
            ),
            objective=self.table.objective(),
            metric=self.scenario.metric,
            guardrails=self.table.guardrails(self.policy.confidence, self.request.seed),
            reason=Reason.MEASURED,
            message=message,
            rates=self.table.all_rates(),
            pairs=len(self.pairs),
            invalid_pairs=len(self.void),
            handovers=self.handovers,
            agreement=agreement,
            verified_outputs=verified,
            samples=self.samples_path,
        )

    def _left(self) -> float:
        """Seconds in which windows may still run."""
        reserve = _VERIFY_SHARE * self.policy.wall_clock if self.policy.verify_outputs else 0.0
        return self.started + self.policy.wall_clock - reserve - self.clock()

    def _keep(self, run: WindowRun) -> None:
        write_samples(self.samples_path, run.samples)

    async def _watch_handover(self, pair: Pair) -> None:
        assert self.handover is not None
        # Failed requests may or may not have been counted by the baseline; counting them as ours accuses nobody.
        self.handover.note_own(len(pair.baseline.samples))
        self.handovers = await self.handover.count()
        if self.handovers:
            raise MeasurementFailure(
                Reason.HANDED_OVER,
                FailureClass.CANDIDATE,
                f"the baseline served {self.handovers} requests that were sent to the candidate inside its envelope",
            )

    def _void(self, pair: Pair) -> None:
        self.void.append(pair)
        self.progress("void", reason=pair.void, message=f"pair repeated: {pair.why}")
        if len(self.void) > self.policy.invalid_pairs_max:
            assert pair.void is not None
            raise MeasurementFailure(
                pair.void,
                FailureClass.MEASUREMENT,
                f"{len(self.void)} pairs were disturbed, {self.policy.invalid_pairs_max} may be repeated; "
                f"the last one: {pair.why}",
            )

    def _report_pair(self, pair: Pair, conclusion: Conclusion | None) -> None:
        ratio = float(np.exp(self.table.combined()[-1]))
        so_far = conclusion.interval if conclusion is not None else None
        shown = f", so far {so_far.value:.2f} [{so_far.low:.2f}, {so_far.high:.2f}]" if so_far else ""
        self.progress(
            "pair", pair=len(self.pairs), ratio=ratio, candidate=pair.candidate.rates(), baseline=pair.baseline.rates(),
            message=f"pair {len(self.pairs)} of {self.policy.replicates_min}–{self.policy.replicates_max}: "
            f"{ratio:.2f} times the baseline{shown}",
        )  # fmt: skip

    def _verify(self, verify: Verify) -> tuple[float | None, int]:
        """Check answers of the scored windows against the reference: (agreement with the baseline, answers checked)."""
        agreement, chosen = answers_to_check(self.pairs, self.policy.verify_outputs)
        if chosen:
            self.progress("verify", message=f"checking {len(chosen)} answers of the windows against the reference")
            wrong = verify([(self.runner.requests[s.request_id], s) for s in chosen], self.counter, self.request)
            if wrong is not None:
                raise MeasurementFailure(Reason.OUTPUT_DIVERGED, FailureClass.CANDIDATE, wrong)
        return agreement, len(chosen)


async def _connect(endpoint: Endpoint, name: str, counter: TokenCounter, policy: MeasurementPolicy) -> LoadClient:
    candidate = name == "candidate"
    reason = Reason.CANDIDATE_UNREACHABLE if candidate else Reason.BASELINE_UNREACHABLE
    blamed = FailureClass.CANDIDATE if candidate else FailureClass.INFRASTRUCTURE
    try:
        if not await healthy(endpoint):
            raise UnreachableError(f"{endpoint.url}/health does not answer 200")
        model = await discover_model(endpoint)
    except UnreachableError as error:
        raise MeasurementFailure(reason, blamed, f"the {name} is not up: {error}") from None
    return LoadClient(
        endpoint.model_copy(update={"name": name}),
        model=model,
        counter=counter,
        request_timeout=policy.request_timeout,
        stall_timeout=policy.stall_timeout,
    )


def _short(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
