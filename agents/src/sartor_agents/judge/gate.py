"""The judge from request to response: one verdict per gate, in the order accuracy, relations, robustness.

Accuracy is looked at on requests from the benchmark's own stream, at its concurrency, through the client that the benchmark
uses: a server cannot tell judging from measuring. A fault of the reference or of the machine is never the candidate's.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sartor_agents.measurement.client import LoadClient, UnreachableError, discover_model, healthy
from sartor_agents.measurement.handover import HandoverWatch
from sartor_agents.measurement.messages import (
    REASON_MEANING,
    Check,
    Endpoint,
    FailureClass,
    JudgeRequest,
    JudgeResponse,
    Reason,
)
from sartor_agents.measurement.progress import Progress, silent
from sartor_agents.measurement.sample_file import SamplesNotWrittenError, write_samples
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Purpose, Sample
from sartor_agents.measurement.tokens import TokenCounter
from sartor_agents.scenarios import Scenario, ScenarioError, Stage, open_scenario
from sartor_api.search.records import Judgement, Verdict

from .accuracy import AnswerVerdict, Checker, check_answer, describe, failed_sample, same_answer
from .metamorphic import Relations
from .robustness import Robustness
from .shrink import shrink

OpenReference = Callable[[Path], Checker]
"""Opens the reference of a model folder; called once, after the candidate was found to be up."""

GATE_OF = {
    "accuracy": "accuracy",
    "handover": "accuracy",
    "alone-or-batched": "metamorphic",
    "streamed-or-not": "metamorphic",
    "prediction": "metamorphic",
    "after-disconnect": "metamorphic",
    "bad-input": "robustness",
    "idle-connections": "robustness",
    "slow-reader": "robustness",
}
_GIVE_UP = (Reason.REQUEST_FAILED, Reason.CANDIDATE_DIED)
_RELATION_REQUESTS = 4
_DEFAULT_MAX_LEN = 4096


class JudgingError(Exception):
    """The judge cannot judge; reason and class become the only verdict."""

    def __init__(self, reason: Reason, failure_class: FailureClass, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.failure_class = failure_class


async def judge(request: JudgeRequest, *, open_reference: OpenReference, progress: Progress = silent) -> JudgeResponse:
    """All gates over one candidate. Every foreseeable fault is a verdict with its reason and class."""
    begun = time.monotonic()
    try:
        gate = await _Gate.open(request, open_reference, progress)
        response = await gate.run()
    except ScenarioError as error:
        response = _cannot(Reason.BAD_REQUEST, FailureClass.INFRASTRUCTURE, str(error))
    except JudgingError as error:
        response = _cannot(error.reason, error.failure_class, str(error))
    except SamplesNotWrittenError as error:
        response = _cannot(Reason.SAMPLES_NOT_WRITTEN, FailureClass.INFRASTRUCTURE, error.strerror or str(error))
    return response.model_copy(update={"seconds": time.monotonic() - begun})


def _cannot(reason: Reason, failure_class: FailureClass, message: str) -> JudgeResponse:
    verdict = Verdict(gate="accuracy", passed=False, reason=reason.value, message=message, failure_class=failure_class)
    return JudgeResponse(judgement=Judgement(verdicts=(verdict,)))


@dataclass
class _Gate:
    request: JudgeRequest
    scenario: Scenario
    counter: TokenCounter
    client: LoadClient
    baseline: LoadClient | None
    reference: Checker
    progress: Progress
    answers: list[AnswerVerdict]
    samples: list[Sample] = field(default_factory=list[Sample])

    @classmethod
    async def open(cls, request: JudgeRequest, open_reference: OpenReference, progress: Progress) -> "_Gate":
        scenario, counter = open_scenario(request.scenario, request.model_dir, request.seed, trace=request.trace)
        client = await _connect(request, request.candidate, counter, candidate=True)
        baseline = None
        if request.baseline is not None:
            baseline = await _connect(request, request.baseline, counter, candidate=False)
        progress("reference", message="loading the reference")
        try:
            reference = open_reference(request.model_dir)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise JudgingError(
                Reason.INTERNAL,
                FailureClass.INFRASTRUCTURE,
                f"the reference cannot load {request.model_dir.name}: {error}",
            ) from error
        return cls(request, scenario, counter, client, baseline, reference, progress, [])

    async def run(self) -> JudgeResponse:
        """Accuracy first; relations and robustness only on a server that answers."""
        watch = HandoverWatch(self.baseline) if self.baseline is not None else None
        if watch is not None:
            await watch.begin()
        checks = [await self._accuracy(watch)]
        handovers = await watch.count() if watch is not None else None
        if handovers:
            message = f"the baseline served {handovers} requests that were sent to the candidate inside its envelope"
            checks.append(Check(name="handover", passed=False, reason=Reason.HANDED_OVER, message=message))
        # With incomplete answers there is nothing to compare.
        if checks[0].reason in (Reason.PASSED, Reason.OUTPUT_DIVERGED):
            stage = self.scenario.stages[0]
            wanted = itertools.islice(self.scenario.stream(stage, "accuracy", 1), _RELATION_REQUESTS)
            requests = await self.scenario.prepare(list(wanted), self._oracle(watch))
            self.progress("metamorphic", message="comparing batched, streamed, predicted and interrupted requests")
            relations = Relations(self.client, self._same, requests, self.request.request_timeout)
            checks += await relations.all(predictions=self.scenario.name == "code-edit")
        if all(check.reason not in _GIVE_UP for check in checks):
            self.progress("robustness", message="sending bad input")
            sample = next(self.scenario.stream(self.scenario.stages[0], "accuracy", 2))
            battery = Robustness(
                self.client, sample, self._max_model_len(), self.request.idle_connections, self.request.request_timeout
            )
            checks += await battery.all()
        return self._response(checks, handovers)

    # --- accuracy under load ----------------------------------------------------------------------------------------

    async def _accuracy(self, watch: HandoverWatch | None) -> Check:
        """Requests of every stage at its concurrency; the answers against the reference."""
        begun = self.client.clock()
        stages = self.scenario.stages
        total = 0
        for number, stage in enumerate(stages):
            share = self.request.samples // len(stages) + (number < self.request.samples % len(stages))
            if share == 0:
                continue
            stream = self.scenario.stream(stage, "accuracy", 0)
            wanted = list(itertools.islice(stream, max(share, stage.concurrency)))
            requests = await self.scenario.prepare(wanted, self._oracle(watch))
            self.progress("accuracy", message=f"{len(requests)} requests at {stage.name}")
            samples = await self._load(stage, requests)
            total += len(samples)
            self.samples += samples
            write_samples(self._samples_path(), self.samples)
            failed = failed_sample(samples)
            if failed is not None:
                return await self._failed(failed, {r.id: r for r in requests})
            wrong = self._check(requests[:share], {s.request_id: s for s in samples})
            if wrong is not None:
                return await self._wrong(wrong, stage)
        agreed = sum(a.agreed for a in self.answers)
        tokens = sum(len(a.output_ids) for a in self.answers)
        ties = sum(a.ties for a in self.answers)
        return Check(
            name="accuracy",
            passed=True,
            reason=Reason.PASSED,
            message=f"{len(self.answers)} answers, {agreed} of {tokens} tokens equal, {ties} ties",
            requests=total,
            seconds=self.client.clock() - begun,
        )

    async def _load(self, stage: Stage, requests: Sequence[GenerationRequest]) -> list[Sample]:
        shared: Iterator[tuple[GenerationRequest, Purpose]] = ((request, "accuracy") for request in requests)
        slots = stage.concurrency if stage.request_rate is None else len(requests)
        sent = await self.client.closed_loop([shared] * slots)
        return [replace(one.sample("candidate", self.counter), stage=stage.name, window=0) for one in sent]

    def _check(self, requests: Sequence[GenerationRequest], samples: dict[str, Sample]) -> AnswerVerdict | None:
        for number, request in enumerate(requests, 1):
            verdict = self._answer(request, samples[request.id].text)
            self.answers.append(verdict)
            self.progress("checked", message=f"answer {number}/{len(requests)} checked against the reference")
            if not verdict.right:
                return verdict
        return None

    def _answer(self, request: GenerationRequest, text: str) -> AnswerVerdict:
        try:
            return check_answer(self.reference, request, text, self.counter, tolerance=self.request.tie_tolerance)
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            raise JudgingError(
                Reason.INTERNAL, FailureClass.INFRASTRUCTURE, f"the reference failed: {error or type(error).__name__}"
            ) from error

    def _same(self, request: GenerationRequest, one: str, other: str) -> bool:
        if one == other:
            return True
        tolerance = self.request.tie_tolerance
        return same_answer(self.reference, request, one, other, self.counter, tolerance=tolerance)

    async def _wrong(self, verdict: AnswerVerdict, stage: Stage) -> Check:
        async def fails(smaller: GenerationRequest) -> bool:
            sample = await self.client.send(smaller, timeout=self.request.request_timeout)
            return sample.ok and not self._answer(smaller, sample.text).right

        alone = await fails(verdict.request)
        assert verdict.divergence is not None
        smallest = verdict.request
        if alone:
            smallest = await shrink(verdict.request, fails, self.counter, tokens=verdict.divergence + 1)
        where = "also alone" if alone else f"only under load ({stage.name})"
        return Check(
            name="accuracy",
            passed=False,
            reason=Reason.OUTPUT_DIVERGED,
            message=f"token {verdict.divergence} of {verdict.request.output_tokens} is not the reference's choice "
            f"(its two best logits are {verdict.gap:.3f} apart); {where}",
            reproduce={"path": smallest.path, **smallest.body},
            evidence=describe(verdict, self.counter),
        )

    async def _failed(self, sample: Sample, requests: dict[str, GenerationRequest]) -> Check:
        reasons = {
            ErrorClass.COUNT: Reason.TOKEN_COUNT_MISMATCH,
            ErrorClass.SHORT: Reason.OUTPUT_TOO_SHORT,
            ErrorClass.EMPTY: Reason.OUTPUT_TOO_SHORT,
        }
        request = requests[sample.request_id]
        reason = reasons.get(sample.error or ErrorClass.STREAM, Reason.REQUEST_FAILED)
        if reason is Reason.REQUEST_FAILED and not await healthy(self.client.endpoint):
            reason = Reason.CANDIDATE_DIED
        return Check(
            name="accuracy",
            passed=False,
            reason=reason,
            message=f"{sample.condition}: {sample.error}: {sample.detail}",
            reproduce={"path": request.path, **request.body},
        )

    def _oracle(self, watch: HandoverWatch | None) -> Callable[[Sequence[GenerationRequest]], Any]:
        """Answers that predictions are made from: the baseline's, else the candidate's own (they are checked anyway)."""
        trusted = self.baseline or self.client

        async def ask(wanted: Sequence[GenerationRequest]) -> list[str]:
            answers: list[str] = []
            for one in wanted:
                answers.append((await trusted.send(one.with_body(cache_salt=f"oracle-{one.id}"))).text)
                if watch is not None:
                    watch.note_own(1)
            return answers

        return ask

    # --- results ----------------------------------------------------------------------------------------------------

    def _response(self, checks: Sequence[Check], handovers: int | None) -> JudgeResponse:
        verdicts: list[Verdict] = []
        for gate in dict.fromkeys(GATE_OF.values()):
            mine = [check for check in checks if GATE_OF[check.name] == gate]
            if not mine:
                continue
            bad = next((check for check in mine if not check.passed), None)
            verdicts.append(_passed(gate, mine) if bad is None else _failed_verdict(gate, bad))
        tokens = sum(len(a.output_ids) for a in self.answers)
        return JudgeResponse(
            judgement=Judgement(verdicts=tuple(verdicts)),
            checks=tuple(checks),
            agreement=sum(a.agreed for a in self.answers) / tokens if tokens else None,
            samples=len(self.answers),
            ties=sum(a.ties for a in self.answers),
            handovers=handovers,
            samples_path=self._samples_path(),
        )

    def _samples_path(self) -> Path:
        return self.request.output_dir / "accuracy.parquet"

    def _max_model_len(self) -> int:
        if self.request.max_model_len is not None:
            return self.request.max_model_len
        try:
            config: dict[str, Any] = json.loads((self.request.model_dir / "config.json").read_text(encoding="utf-8"))
            return int(config.get("max_position_embeddings", _DEFAULT_MAX_LEN))
        except (OSError, ValueError, TypeError) as error:
            raise ScenarioError(f"{self.request.model_dir}/config.json cannot be read: {error}") from None


def _passed(gate: str, checks: Sequence[Check]) -> Verdict:
    message = "; ".join(f"{check.name}: {check.message or 'ok'}" for check in checks)
    return Verdict(gate=gate, passed=True, reason=Reason.PASSED.value, message=message)


def _failed_verdict(gate: str, check: Check) -> Verdict:
    evidence: dict[str, Any] = {"check": check.name, **check.evidence}
    if check.reproduce is not None:
        evidence["reproduce"] = check.reproduce
    return Verdict(
        gate=gate,
        passed=False,
        reason=check.reason.value,
        message=f"{REASON_MEANING[check.reason]} {check.message}",
        failure_class=FailureClass.CANDIDATE,
        evidence=evidence,
    )


async def _connect(request: JudgeRequest, endpoint: Endpoint, counter: TokenCounter, *, candidate: bool) -> LoadClient:
    name = "candidate" if candidate else "baseline"
    try:
        if not await healthy(endpoint):
            raise UnreachableError(f"{endpoint.url}/health does not answer 200")
        model = await discover_model(endpoint)
    except UnreachableError as error:
        reason = Reason.CANDIDATE_UNREACHABLE if candidate else Reason.BASELINE_UNREACHABLE
        blamed = FailureClass.CANDIDATE if candidate else FailureClass.INFRASTRUCTURE
        raise JudgingError(reason, blamed, f"the {name} is not up: {error}") from None
    return LoadClient(
        endpoint.model_copy(update={"name": name}),
        model=model,
        counter=counter,
        request_timeout=request.request_timeout,
        stall_timeout=request.stall_timeout,
    )
