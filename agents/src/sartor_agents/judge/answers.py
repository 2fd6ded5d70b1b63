"""What a server made of a bad request, and what real vLLM made of it.

The table `vllm_answers.json` has, for each API and case, the outcome of the vLLM version that it names: the class of its
status, or that the connection was closed, and which fields its error object had. `tools/record-vllm-answers` makes it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sartor_agents.measurement.http1 import Exchange
from sartor_agents.measurement.messages import Reason
from sartor_agents.measurement.samples import ErrorClass

from .cases import Api

TABLE = Path(__file__).with_name("vllm_answers.json")
Outcome = Literal["answered", "refused", "failed", "closed", "silent"]
"""2xx, 4xx, 5xx, the connection closed without an answer, no answer in time. 1xx and 3xx count as `failed`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `error_fields`: dotted names of the JSON error object's fields, sorted; empty where there is none."""

    outcome: Outcome
    status: int
    error_fields: tuple[str, ...]

    @classmethod
    def of(cls, exchange: Exchange) -> "Answer":
        match exchange.error:
            case ErrorClass.TIMEOUT | ErrorClass.STALL:
                return cls("silent", exchange.status, ())
            case None:
                pass
            case _:
                return cls("closed", exchange.status, ())
        outcome: Outcome = {2: "answered", 4: "refused"}.get(exchange.status // 100, "failed")  # type: ignore[assignment]
        return cls(outcome, exchange.status, () if outcome == "answered" else _error_fields(exchange.body))

    @property
    def explains(self) -> bool:
        """Whether it has a message for people, in vLLM's current or older form, or FastAPI's."""
        return bool({"error.message", "message", "detail"} & set(self.error_fields))


def _error_fields(body: bytes) -> tuple[str, ...]:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(content, dict):
        return ()
    error = content.get("error")
    if isinstance(error, dict):
        return tuple(sorted(f"error.{name}" for name, value in error.items() if name != "message" or value))
    return tuple(sorted(name for name in ("message", "detail", "code", "type", "object", "param") if content.get(name)))


@cache
def vllm_answers() -> Mapping[str, Mapping[str, Answer]]:
    """By API, then by case."""
    content: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        api: {name: Answer(row["outcome"], row["status"], tuple(row["errorFields"])) for name, row in rows.items()}
        for api, rows in content["answers"].items()
    }


def expected(api: Api, case: str) -> Answer | None:
    """vLLM's answer, or None for a case that the table does not have (then any answer will do that is no fault)."""
    return vllm_answers().get(api, {}).get(case)


def fault(answer: Answer, wanted: Answer | None, *, shown: str) -> tuple[Reason, str] | None:
    """What is wrong with a candidate's answer beside the one that vLLM (the table's, or the baseline) gives, or None.

    Silence and a 5xx that vLLM does not give are faults whatever was sent. `shown` is the beginning of what came back.
    """
    if answer.outcome == "silent" and (wanted is None or wanted.outcome != "silent"):
        return Reason.BAD_INPUT_CRASHED, "no answer in time"
    if answer.outcome == "failed" and answer.status != 501 and (wanted is None or wanted.outcome != "failed"):
        return Reason.BAD_INPUT_CRASHED, f"HTTP {answer.status}: {shown}"
    if wanted is None:
        return None
    match wanted.outcome, answer.outcome:
        case "refused", "answered":
            return Reason.BAD_INPUT_ACCEPTED, f"HTTP {answer.status}; vLLM: {wanted.outcome} {wanted.status}"
        case "refused", "closed":
            return Reason.BAD_INPUT_CRASHED, f"connection closed; vLLM: {wanted.outcome} {wanted.status}"
        case "refused", "refused" if wanted.explains and not answer.explains:
            return (
                Reason.BAD_INPUT_ACCEPTED,
                f"HTTP {answer.status} without a JSON error message, which vLLM gives: {shown}",
            )
        case "answered", "refused" | "failed":
            return Reason.INPUT_REFUSED, f"HTTP {answer.status}: {shown}; vLLM: {wanted.outcome} {wanted.status}"
        case "answered", "closed":
            return Reason.BAD_INPUT_CRASHED, f"connection closed; vLLM: {wanted.outcome} {wanted.status}"
        case _:
            return None
