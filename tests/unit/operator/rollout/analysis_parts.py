"""What tests of the analysis have in common: a step, samples, a probe's pages, and sources that answer as they are told."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sartor_api.probe import ProbePage, ProbeRecord
from sartor_api.serving_rollout import ServingRolloutSpec
from sartor_operator.rollout.analysis.fetch import UnreadableError
from sartor_operator.rollout.samples import StepAsked
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples, Outcome, Sample, Source

START = 1_800_000_000.0


def spec(sources: tuple[str, ...] = ("gatewayAccessLog",), **policy: Any) -> ServingRolloutSpec:
    """A rollout of `vllm` and `stack` with one guardrail, which few samples decide."""
    analysis = {"sources": list(sources), "minimumSamples": 50, **policy.pop("analysis", {})}
    if "prometheus" in sources:
        analysis.setdefault("prometheusAddress", "http://prometheus.example:9090/")
    return ServingRolloutSpec.model_validate(
        {
            "baseline": {"service": "vllm"},
            "candidate": {"service": "stack"},
            "policy": {
                "parentRefs": [{"name": "inference"}],
                "steps": [{"weight": 20}],
                "analysis": analysis,
                **policy,
            },
            "guardrails": [{"metric": "errorRate", "maximumRegression": "5%"}],
        }
    )


def asked(
    wanted: ServingRolloutSpec | None = None, *, since: float = START, number: int = 1, **fields: Any
) -> StepAsked:
    """The question that a rollout asks."""
    given: dict[str, Any] = {"namespace": "a", "name": "editor", "uid": "u1", "kind": "weight", "weight": 20, **fields}
    return StepAsked(number=number, since=since, spec=wanted or spec(), **given)


def sample(arrival: float, arm: ArmName, *, failed: bool = False, source: Source = Source.GATEWAY_ACCESS_LOG) -> Sample:
    outcome, reason = (Outcome.FAILED, "503") if failed else (Outcome.OK, "")
    return Sample(arrival, arm, outcome, 0.1, 0.05, reason, source=source)


def samples(
    arm: ArmName,
    begin: float,
    count: int,
    *,
    every: float = 0.1,
    failing: int = 0,
    source: Source = Source.GATEWAY_ACCESS_LOG,
) -> ArmSamples:
    """`count` requests at a steady rate; each `failing`-th fails."""
    return ArmSamples(
        [sample(begin + n * every, arm, failed=bool(failing) and n % failing == 0, source=source) for n in range(count)]
    )


def log_line(service: str, started: float, seconds: float = 0.1, *, status: int = 200, namespace: str = "a") -> str:
    """One request in Envoy's access log."""
    record = {
        "start_time": str(started), "upstream_cluster": f"{namespace}_{service}_8000", "response_code": status,
        "response_code_details": "via_upstream", "response_flags": "-", "response_duration": 50,
        "response_tx_duration": 50, "duration": seconds * 1000,
    }  # fmt: skip
    return json.dumps(record) + "\n"


def pair(number: int, arrival: float, **candidate: Any) -> list[ProbeRecord]:
    """Both records of a pair; `candidate` changes its own."""
    same: dict[str, Any] = {
        "pair": number, "arrival": arrival, "outcome": "ok", "duration": 1.0, "first_token": 0.2,
        "gaps": [(-150, 20), (-140, 3)], "output_tokens": 24, "bytes": 100,
    }  # fmt: skip
    ours = {**same, "arm": "candidate", "position": 2, "agreed": True, **candidate}
    return [ProbeRecord(**same, arm="baseline", position=1), ProbeRecord(**ours)]


def page(records: list[ProbeRecord], first: int, now: float, **fields: Any) -> ProbePage:
    """A page of a probe."""
    given: dict[str, Any] = {
        "boot": "b1", "more": False, "now": now, "complete_until": now, "share": 0.05,
        "seen": 100, "chosen": 10, "unfit": 0, "dropped": 0, **fields,
    }  # fmt: skip
    return ProbePage(first=first, next=first + len(records), records=tuple(records), **given)


class Sources:
    """Stands where `Fetch` does. `answers` gets the address and the question; what it raises is what goes wrong."""

    def __init__(self, answers: Callable[[str, Mapping[str, Any]], bytes]) -> None:
        self.answers = answers
        self.questions: list[tuple[str, Mapping[str, Any]]] = []

    async def post(
        self, url: str, *, seconds: float, longest: int, form: Mapping[str, str] | None = None, body: str | None = None
    ) -> bytes:
        question = dict(form) if form is not None else json.loads(body or "null")
        self.questions.append((url, question))
        return self.answers(url, question)


def unreadable(_url: str, _question: Mapping[str, Any]) -> bytes:
    raise UnreadableError("it is away")
