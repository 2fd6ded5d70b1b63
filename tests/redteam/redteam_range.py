"""The range: every candidate goes the way that `sartor run` sends it, from its commit to judge and evaluator.

`LocalSteps` checks it out, builds and serves it in the sandbox and asks the roles. `Range(own_processes=False)` keeps the
roles in this process, with one reference for all: the same requests and gates without a start of PyTorch for each.
"""

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.baselines.transformers_engine import TransformersEngine
from sartor_agents.judge.audit import Auditor
from sartor_agents.judge.gate import judge
from sartor_agents.judge.reference_check import Checker
from sartor_agents.judge.verify import verifier
from sartor_agents.measurement.evaluation import evaluate
from sartor_agents.measurement.messages import EvaluateRequest, JudgeRequest
from sartor_agents.roles.judge import open_reference
from sartor_agents.run import checkouts
from sartor_agents.run.engines import Engine
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.local import Limits, LocalSteps
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.seals import KEY_COMMITMENT, Seals
from sartor_api.search.budget import Ledger
from sartor_api.search.decide import Begin
from sartor_api.search.reasons import Reason
from sartor_api.search.records import (
    BaselineRecord,
    Budget,
    Cost,
    Envelope,
    GuardrailLimit,
    Implementation,
    Judgement,
    Measurement,
    RunSpec,
    SearchPolicy,
    Speedup,
    StepKind,
    StepRecord,
    StepResult,
    Verdict,
)
from sartor_api.search.state import Candidate, RunState

Response = TypeVar("Response", bound=BaseModel)

SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "chat": {"concurrencies": [4], "promptTokens": 24, "outputTokens": 32},
    "code-edit": {"concurrencies": [2], "matchRates": [0, 90], "fileTokens": 48},
}
POLICY: Mapping[str, Any] = {
    # What is tested are cheats, not this machine's calm: other load voids nothing here.
    "maximum_contention": 1.0,
    "maximum_contention_difference": 1.0,
    "maximum_generator_lag": 1000.0,
    "maximum_generator_share": 1000.0,
    "confidence": 0.6,  # three pairs carry no more, and no cheat here is a matter of a few per cent
    "replicates_min": 3,
    "replicates_max": 3,
    "window_seconds": 1.0,
    "invalid_pairs_max": 3,
    "wall_clock": 300.0,
}
STEP_SECONDS = 400.0
MEMORY = 3 << 30


@dataclass(frozen=True)
class Shot:
    """What became of a candidate at one gate. `reason` is None when nothing was held against it."""

    reason: str | None
    message: str
    result: StepResult
    log: str
    seconds: float

    @property
    def measurement(self) -> Measurement:
        assert isinstance(self.result, Measurement), self.message
        return self.result


class Range:
    """One model, one baseline for all candidates. A context manager: it ends the baseline."""

    def __init__(
        self, root: Path, model: Path, *, engine: Engine | None = None, own_processes: bool, dtype: str = "float32"
    ) -> None:
        self.model = model
        self._layout = RunLayout(root / "run")
        self._layout.make()
        self._baseline = engine or TransformersEngine(
            model, model.name, dtype, root / "home", "the red team's baseline"
        )
        sealed = {KEY_COMMITMENT: Seals(self._layout.sealed).key_commitment()}
        RunRepository.create(self._layout.repository, self._spec("chat", ()), "a: b\n", 0.0, sealed)
        self._repository = RunRepository(self._layout.repository)
        steps = LocalSteps if own_processes else _InProcess
        self._steps = steps(
            self._layout,
            self._repository,
            model_dir=model,
            engine=self._baseline,
            hardware=HardwareFacts(platform="cpu", cores=2, memory_bytes=1 << 34),
            skills_root=None,
            limits=Limits(candidate_bytes=MEMORY, role_bytes=MEMORY),
        )
        self._shots = 0

    @property
    def layout(self) -> RunLayout:
        return self._layout

    def shoot(
        self,
        step: StepKind,
        files: Mapping[str, bytes],
        scenario: str,
        *,
        guardrails: tuple[GuardrailLimit, ...] = (),
        **policy: Any,
    ) -> Shot:
        """Send a candidate through the gate of `step` (judge, evaluate or confirm)."""
        self._shots += 1
        done = self._repository.save_candidate(self._shots, None, files, Implementation(summary="shot"), time.time())
        self._compile_once(done.commit, done.content_hash)
        begin = Begin(
            step=step,
            round=self._shots,
            attempt=1,
            id=f"{self._shots:03d}/{step.value}/1",
            reason=Reason.CANDIDATE_COMMITTED,
            deadline_seconds=STEP_SECONDS,
            reserve=Cost(),
            candidate=Candidate(self._shots, done.commit, done.content_hash, Speedup(value=1, low=1, high=1, n=2)),
        )
        run = self._state(self._spec(scenario, guardrails, **policy))
        begun = time.monotonic()
        result = self._steps.execute(begin, run, lambda _: None).result
        log = self._layout.logs / f"{begin.id.replace('/', '-')}-candidate.log"
        reason, message = held_against(result)
        return Shot(
            reason, message, result, log.read_text(errors="replace") if log.exists() else "", time.monotonic() - begun
        )

    def _compile_once(self, commit: str, content_hash: str) -> None:
        """Put what an earlier candidate compiled where this one would: their decoders are the same, which takes its time."""
        build = checkouts.checkout(self._repository, self._layout, commit, content_hash) / "stack" / "build"
        for library in self._layout.work.glob("checkout-*/stack/build/decoder-*.so"):
            build.mkdir(exist_ok=True)
            if not (build / library.name).exists():
                shutil.copy(library, build)

    def _spec(self, scenario: str, guardrails: tuple[GuardrailLimit, ...], **policy: Any) -> RunSpec:
        return RunSpec(
            name="redteam",
            created=0.0,
            seed=1,
            scenario=scenario,
            parameters=dict(SCENARIOS[scenario]),
            model={"name": self.model.name, "folder": str(self.model)},
            dtype="float32",
            envelope=Envelope(max_input_tokens=768, max_output_tokens=256),
            guardrails=guardrails,
            correctness={"samples": 8},
            budget=Budget(rounds=1),
            policy=SearchPolicy(confirmations=1),
            measurement={"preset": "quick", "overrides": {**POLICY, **policy}},
        )

    def _state(self, spec: RunSpec) -> RunState:
        setting = self._baseline.settings()[0]
        baseline = BaselineRecord(
            engine=self._baseline.name,
            version=self._baseline.version,
            arguments=setting.arguments,
            environment=setting.environment,
            chosen=setting.name,
        )
        record = StepRecord(
            id="000/baseline/1", sequence=1, step=StepKind.BASELINE, round=0, started=0, finished=1, result=baseline
        )
        return RunState(spec, (record,), Ledger(), 0.0)

    def __enter__(self) -> "Range":
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()


def held_against(result: StepResult) -> tuple[str | None, str]:
    """(reason, message) of the first verdict against a candidate, or of a measurement that is no win for it."""
    match result:
        case Judgement(failure=Verdict() as verdict) | (Verdict(passed=False) as verdict):
            return verdict.reason, verdict.message
        case Measurement(valid=False):
            return result.invalid_reason, result.message
        case Measurement(speedup=Speedup() as ratio) if ratio.low < 1:
            return "NoGain", f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times the baseline"
        case _:
            return None, ""


class _InProcess(LocalSteps):
    """The roles without processes of their own."""

    _references: dict[Path, Checker]

    def _role(self, role: str, request: Any, response: type[Response], *_: object) -> Response:
        references = self.__dict__.setdefault("_references", {})

        def reference(model_dir: Path) -> Checker:
            if model_dir not in references:
                references[model_dir] = open_reference(model_dir)
            return references[model_dir]

        answer: Any
        match request:
            case JudgeRequest():
                answer = asyncio.run(judge(request, open_reference=reference))
            case EvaluateRequest():
                answer = asyncio.run(evaluate(request, verify=verifier(reference), audit=Auditor(reference)))
            case _:
                raise AssertionError(f"no role {role} on the range")
        assert isinstance(answer, response)
        return answer
