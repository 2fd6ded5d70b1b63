"""The border of the judge and the evaluator: what the driver asks, what they answer.

Both roles run as `python -m sartor_agents.roles.{judge,evaluator} REQUEST.json RESPONSE.json`. A request names servers by
URL only: no path to candidate code can be expressed in it. Times are seconds, rates are tokens per second, shares are 0..1.

A response carries the run's own records (`sartor_api.search.records`): the judge a `Judgement`, the evaluator a
`Measurement`, so that the driver stores them as they are. A fault of the candidate or of the machine is a record with its
reason and failure class and exit code 0; only a role that could not answer at all exits with another code.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from sartor_api.search.records import ArmSummary, FailureClass, Judgement, Measurement, Peak

from .policy import MeasurementPolicy

Seed = Annotated[str, Field(pattern=r"^[0-9a-f]{32,128}$")]


class Message(BaseModel):
    """Base of everything that crosses the border."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(StrEnum):
    """Why a role answered as it did. Every value is explained in `REASON_MEANING`."""

    PASSED = "Passed"
    MEASURED = "Measured"
    OUTPUT_DIVERGED = "OutputDiverged"
    OUTPUT_TOO_SHORT = "OutputTooShort"
    ANSWER_MISLABELLED = "AnswerMislabelled"
    TIES_TOO_FREQUENT = "TiesTooFrequent"
    LOGPROBS_REFUSED = "LogprobsRefused"
    LOGPROBS_HANDED_OVER = "LogprobsHandedOver"
    LOGPROBS_INCONSISTENT = "LogprobsInconsistent"
    LOGPROBS_DIVERGED = "LogprobsDiverged"
    LOGPROBS_CHANGED_OUTPUT = "LogprobsChangedOutput"
    LOGPROBS_COMPUTED_ELSEWHERE = "LogprobsComputedElsewhere"
    REQUEST_FAILED = "RequestFailed"
    TOKEN_COUNT_MISMATCH = "TokenCountMismatch"
    BATCH_VARIANT = "BatchVariant"
    PREDICTION_CHANGED_OUTPUT = "PredictionChangedOutput"
    STREAMING_CHANGED_OUTPUT = "StreamingChangedOutput"
    DISCONNECT_CHANGED_OUTPUT = "DisconnectChangedOutput"
    CACHE_CHANGED_OUTPUT = "CacheChangedOutput"
    PREFIX_POISONED = "PrefixPoisoned"
    CROSS_TALK = "CrossTalk"
    COMPLETION_CACHED = "CompletionCached"
    BAD_INPUT_ACCEPTED = "BadInputAccepted"
    BAD_INPUT_CRASHED = "BadInputCrashed"
    INPUT_REFUSED = "InputRefused"
    CHECK_TIMED_OUT = "CheckTimedOut"
    CANDIDATE_UNREACHABLE = "CandidateUnreachable"
    CANDIDATE_DIED = "CandidateDied"
    HANDED_OVER = "HandedOver"
    BASELINE_UNREACHABLE = "BaselineUnreachable"
    BASELINE_DIED = "BaselineDied"
    BASELINE_FAILED_REQUESTS = "BaselineFailedRequests"
    CONTENDED = "Contended"
    IDLE_ARM_BUSY = "IdleArmBusy"
    GENERATOR_SATURATED = "GeneratorSaturated"
    CLOCK_STEPPED = "ClockStepped"
    FINGERPRINT_CHANGED = "FingerprintChanged"
    THROTTLED = "Throttled"
    FOREIGN_PROCESS = "ForeignProcess"
    FOREIGN_TRAFFIC = "ForeignTraffic"
    ACCELERATOR_FAULT = "AcceleratorFault"
    NOT_STREAMED = "NotStreamed"
    NO_PEAK = "NoPeak"
    SAMPLES_NOT_WRITTEN = "SamplesNotWritten"
    WARM_UP_NOT_OVER = "WarmUpNotOver"
    TOO_FEW_REPLICATES = "TooFewReplicates"
    BAD_REQUEST = "BadRequest"
    INTERNAL = "Internal"


REASON_MEANING: dict[Reason, str] = {
    Reason.PASSED: "Every check of the gate held.",
    Reason.MEASURED: "The interval rests on the replicates that the policy asks for.",
    Reason.OUTPUT_DIVERGED: "A greedy answer left the reference at a position that is no tie.",
    Reason.OUTPUT_TOO_SHORT: "An answer had fewer tokens than the request fixed.",
    Reason.ANSWER_MISLABELLED: "An answer is longer than `max_tokens`, or gives a `finish_reason` that cannot be true.",
    Reason.TIES_TOO_FREQUENT: "More tokens differ from the reference at its near-ties than rounding explains.",
    Reason.LOGPROBS_REFUSED: "An answer came without the log-probabilities asked for, so its numbers cannot be checked.",
    Reason.LOGPROBS_HANDED_OVER: "Requests with `logprobs` were served by the baseline, not by the candidate.",
    Reason.LOGPROBS_INCONSISTENT: "The reported log-probabilities do not belong to the answer, or are no probabilities.",
    Reason.LOGPROBS_DIVERGED: "Log-probabilities are further from the reference than rounding explains.",
    Reason.LOGPROBS_CHANGED_OUTPUT: "The text of a request with `logprobs` differs from the text without.",
    Reason.LOGPROBS_COMPUTED_ELSEWHERE: "Answers with `logprobs` come so much slower that something else computes the text.",
    Reason.REQUEST_FAILED: "A well-formed request inside the envelope was not answered completely.",
    Reason.TOKEN_COUNT_MISMATCH: "The server's `usage` disagrees with our own count of the text it sent.",
    Reason.BATCH_VARIANT: "A request alone and the same request among others gave different text.",
    Reason.PREDICTION_CHANGED_OUTPUT: "A right, wrong or absent prediction changed the text.",
    Reason.STREAMING_CHANGED_OUTPUT: "Streamed and not streamed text differ.",
    Reason.DISCONNECT_CHANGED_OUTPUT: "After another client disconnected in mid-stream the text differs.",
    Reason.CACHE_CHANGED_OUTPUT: "A repeated prompt, or one kept out of caches by its `cache_salt`, gave another text.",
    Reason.PREFIX_POISONED: "Prompts that share a prefix changed each other's answers.",
    Reason.CROSS_TALK: "A client got the text of another client's answer.",
    Reason.COMPLETION_CACHED: "A repeated prompt is answered without computing it: whole answers are kept by their prompt.",
    Reason.BAD_INPUT_ACCEPTED: "Bad input got something else than a clear 4xx or a hand-over.",
    Reason.BAD_INPUT_CRASHED: "Bad input made the server crash, hang or turn unhealthy.",
    Reason.INPUT_REFUSED: "The server refuses what vLLM serves.",
    Reason.CHECK_TIMED_OUT: "A check of the judge was not over within its time: the server hangs or crawls.",
    Reason.CANDIDATE_UNREACHABLE: "The candidate did not answer /health when the role started.",
    Reason.CANDIDATE_DIED: "The candidate stopped answering in the middle.",
    Reason.HANDED_OVER: "The baseline served requests that were sent to the candidate inside its envelope.",
    Reason.BASELINE_UNREACHABLE: "The baseline did not answer /health when the role started.",
    Reason.BASELINE_DIED: "The baseline stopped answering in the middle.",
    Reason.BASELINE_FAILED_REQUESTS: "The baseline failed requests; a ratio over it would flatter.",
    Reason.CONTENDED: "Other load or stolen time disturbed more windows than may be repeated.",
    Reason.IDLE_ARM_BUSY: "A server used the processors while the other one was measured.",
    Reason.GENERATOR_SATURATED: "The load generator was near its own limit: it would have been measured, not the server.",
    Reason.CLOCK_STEPPED: "The wall clock was set, or the machine stood still, in the middle of windows.",
    Reason.FINGERPRINT_CHANGED: "Processor settings, limits or accelerator changed between the first window and another.",
    Reason.THROTTLED: "Heat, a power brake or the container's CPU limit slowed the machine down in windows.",
    Reason.FOREIGN_PROCESS: "A process that is not of the measurement computed on the accelerator.",
    Reason.FOREIGN_TRAFFIC: "Others sent requests to a server while it was measured.",
    Reason.ACCELERATOR_FAULT: "The accelerator had uncorrectable memory errors in a window, or is gone.",
    Reason.NOT_STREAMED: "Answers were kept back and sent at once, so that times between tokens mean nothing.",
    Reason.NO_PEAK: "A server does not sustain even one request at a time within the service level.",
    Reason.SAMPLES_NOT_WRITTEN: "The samples could not be kept (disk full, say); without them no number could be checked.",
    Reason.WARM_UP_NOT_OVER: "The data did not settle within the longest warm-up.",
    Reason.TOO_FEW_REPLICATES: "The time limit ended the measurement before the fewest replicates.",
    Reason.BAD_REQUEST: "The role's own request does not make sense (model folder, parameters).",
    Reason.INTERNAL: "A fault of the role itself; its traceback is in the log.",
}


class Endpoint(Message):
    """A server under measurement: reachable over HTTP on this host, and known to us by nothing else."""

    name: str = Field(default="server", description="how the arm is called in samples and summaries")
    url: str = Field(pattern=r"^http://[^/]+$", description="http://HOST:PORT without a path")
    model: str | None = Field(default=None, description="`model` of requests; default: the first of /v1/models")
    pid: int | None = Field(default=None, gt=0, description="root of its process tree: its CPU is not foreign load")
    accepts_prediction: bool = Field(
        default=True, description="false (vLLM): `prediction` is left out of what is sent; all else is the same"
    )


class ScenarioParameters(BaseModel):
    """Base of the scenarios' parameters, in camelCase or snake_case. A parameter that is null keeps its default."""

    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"{values}: each value may be named once")
    return values


Concurrencies = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1, max_length=16), AfterValidator(_distinct)
]
Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(max_length=16), AfterValidator(_distinct)]


class ChatParameters(ScenarioParameters):
    """`chat`: short prompts, fixed output lengths, throughput at each concurrency."""

    concurrencies: Concurrencies = (1, 16)
    request_rates: Rates = Field(default=(), description="open loop, requests/s; reported, not part of the speed-up")
    find_peak: bool = Field(default=False, description="also measure at the highest concurrency that both arms sustain")
    replay_speed: float | None = Field(
        default=None, gt=0, le=1000, description="replay the trace at its own times, so many times as fast; reported"
    )
    prompt_tokens: int = Field(default=64, ge=8, description="mean; drawn per request from ±`spread`")
    output_tokens: int = Field(default=128, ge=1, description="mean; drawn per request from ±`spread`, then fixed")
    spread: float = Field(default=0.25, ge=0, le=0.9, description="keeps requests from running in lock-step")
    api: Literal["completions", "chat"] = "completions"


EditKind = Literal["replace", "insert", "delete", "move"]
EditKinds = Annotated[tuple[EditKind, ...], Field(min_length=1), AfterValidator(_distinct)]
MatchRates = Annotated[
    tuple[Annotated[int, Field(ge=0, le=100)], ...], Field(min_length=1, max_length=16), AfterValidator(_distinct)
]


class CodeEditParameters(ScenarioParameters):
    """`code-edit`: a file to rewrite with a prediction of the result, median tokens/s at low concurrency.

    Every match rate is measured with replaced tokens; the other edit kinds at the highest rate below 100 %.
    """

    concurrencies: Concurrencies = (1,)
    match_rates: MatchRates = (0, 50, 90, 95)
    edit_kinds: EditKinds = ("replace",)
    without_prediction: bool = True
    file_tokens: int = Field(default=400, ge=16, description="tokens of the file, which is also the prediction")
    output_tokens: int | None = Field(default=None, ge=16, description="default: as many as the file has")


class ChatScenario(Message):
    name: Literal["chat"] = "chat"
    parameters: ChatParameters = ChatParameters()


class CodeEditScenario(Message):
    name: Literal["code-edit"] = "code-edit"
    parameters: CodeEditParameters = CodeEditParameters()


ScenarioSpec = Annotated[ChatScenario | CodeEditScenario, Field(discriminator="name")]


class GuardrailRatio(Message):
    """Ratio candidate ÷ baseline of a latency quantile, bootstrap interval over pairs: below 1 is better."""

    value: float
    low: float
    high: float
    n: int


ReferenceDevice = Annotated[
    Literal["cpu", "cuda"],
    Field(
        description="what the accuracy reference computes on: in fp32 on either, cuda with weights as they are stored"
    ),
]


class EvaluateRequest(Message):
    """`paired`: candidate against baseline. `single`: one server alone over the scenario (the baseline's grid)."""

    mode: Literal["paired", "single"] = "paired"
    candidate: Endpoint | None = Field(default=None, description="the one server when mode is single")
    baseline: Endpoint | None = None
    model_dir: Path = Field(
        description="tokenizer and, for chain checkpoints, chain.json; weights for `verify_outputs`"
    )
    scenario: ScenarioSpec
    policy: MeasurementPolicy = MeasurementPolicy()
    seed: Seed = Field(description="sealed; hex")
    output_dir: Path = Field(description="where samples and the environment go")
    samples_label: str | None = Field(default=None, description="`Measurement.samples`; default: the file's name")
    confirmation: bool = False
    baseline_is_ours: bool = Field(
        default=True, description="nobody else sends to the baseline, so requests that we did not send were handed over"
    )
    trace: Path | None = Field(default=None, description="the owner's requests, JSON lines with `body` (or `prompt`)")
    tie_tolerance: float = Field(default=0.05, ge=0, description="top-2 logit gap below which a divergence is a tie")
    reference: ReferenceDevice = "cpu"
    device: str | None = Field(
        default=None, description="UUID of the accelerator that both servers are on; no other is looked at"
    )
    reference_cache: Path | None = Field(
        default=None, description="where readings of the reference are kept, by content"
    )


class EvaluateResponse(Message):
    """`measurement` in paired mode, `objective` and `arms` in single mode; `failure` when that could not be measured."""

    measurement: Measurement | None = None
    objective: float | None = Field(
        default=None, description="the first server's metric, geometric mean over conditions, tokens/s"
    )
    metric: str = ""
    arms: dict[str, ArmSummary] = Field(default={}, description="single mode: by condition")
    peaks: dict[str, Peak] = Field(default={}, description="by arm, where the scenario was asked to find them")
    guardrails: dict[str, dict[str, GuardrailRatio]] = Field(
        default={}, description="by condition, then ttftP99, interTokenLatencyP99, endToEndLatencyP99"
    )
    reason: Reason
    message: str
    failure_class: FailureClass | None = None
    rates: dict[str, dict[str, tuple[float, ...]]] = Field(
        default={}, description="by condition, then arm: the metric of each window, in order"
    )
    pairs: int = 0
    invalid_pairs: int = 0
    handovers: int | None = Field(default=None, description="None: the baseline has no counter to see them by")
    agreement: float | None = Field(default=None, description="share of paired answers with equal text")
    verified_outputs: int = 0
    samples: Path | None = Field(default=None, description="Parquet file of every request sent")
    seconds: float = 0.0


class JudgeRequest(Message):
    candidate: Endpoint
    baseline: Endpoint | None = None
    model_dir: Path
    scenario: ScenarioSpec
    seed: Seed
    output_dir: Path
    trace: Path | None = Field(default=None, description="the owner's requests, JSON lines with `body` (or `prompt`)")
    samples: int = Field(default=24, ge=1, description="greedy answers checked against the reference")
    tie_tolerance: float = Field(default=0.05, ge=0)
    reference: ReferenceDevice = "cpu"
    reference_cache: Path | None = Field(
        default=None, description="where readings of the reference are kept, by content"
    )
    request_timeout: float = Field(default=120.0, gt=0)
    stall_timeout: float = Field(default=30.0, gt=0)
    wall_clock: float = Field(
        default=1200.0,
        gt=0,
        description="what the servers may take for all checks together, seconds; the reference's time is free",
    )
    idle_connections: int = Field(
        default=2000,
        ge=0,
        description="held open and silent; fewer where the limit of open files is lower (it is said)",
    )
    logprobs: Literal["required", "ifOffered"] = Field(
        default="required",
        description="ifOffered: a server that refuses `logprobs` is judged by its text alone (an endpoint that is no stack)",
    )
    max_model_len: int | None = Field(
        default=None, ge=1, description="the envelope; over-long input is made from it (default: config.json)"
    )


class Check(Message):
    """One check of the judge; `reproduce` is the smallest request found that shows the failure."""

    name: str
    passed: bool
    reason: Reason
    message: str
    requests: int = 0
    seconds: float = 0.0
    reproduce: dict[str, Any] | None = None
    evidence: dict[str, Any] = {}


class JudgeResponse(Message):
    judgement: Judgement
    checks: tuple[Check, ...] = ()
    agreement: float | None = Field(default=None, description="teacher-forced top-1 agreement with the reference")
    logprob_distance: float | None = Field(
        default=None, description="mean |Δ log p| of the written tokens against the fp32 reference, nats"
    )
    logprob_limit: float | None = Field(default=None, description="what it may be, from the baseline's own distance")
    samples: int = 0
    ties: int = 0
    handovers: int | None = None
    samples_path: Path | None = None
    seconds: float = 0.0
