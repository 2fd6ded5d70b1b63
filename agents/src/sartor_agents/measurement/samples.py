"""Requests that are sent and samples that come back: the raw material of every number.

A sample that failed for any reason has infinite latency and zero tokens, whatever arrived before it failed; that is what
keeps a server from looking fast by refusing, cutting short or answering nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

Purpose = Literal["warmup", "scored", "accuracy"]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request of a workload, the same for every arm.

    `body` is the JSON body without `model`. `prompt_ids` are the token ids that the model is given, `output_tokens` the
    length that the request fixes (`ignore_eos`, `max_tokens`).
    """

    id: str
    condition: str
    path: str
    body: Mapping[str, Any]
    prompt_ids: tuple[int, ...]
    output_tokens: int

    @property
    def length_is_forced(self) -> bool:
        """Whether an answer can have no other length than `output_tokens`."""
        return bool(self.body.get("ignore_eos")) and self.body.get("max_tokens") == self.output_tokens

    def with_body(self, **changes: Any) -> "GenerationRequest":
        """The same request with fields of the body set (or, with `None`, left out)."""
        body = {k: v for k, v in {**self.body, **changes}.items() if v is not None}
        return replace(self, body=body)


class ErrorClass(StrEnum):
    """Why a sample failed."""

    CONNECT = "connect"  # no connection: refused, unreachable
    RESET = "reset"  # the connection ended in mid-answer
    TIMEOUT = "timeout"  # the whole answer took too long
    STALL = "stall"  # silence within an answer took too long
    STATUS = "status"  # an HTTP status other than 200
    PROTOCOL = "protocol"  # not HTTP, or not the event stream that was asked for
    STREAM = "stream"  # invalid JSON, invalid UTF-8, an error object, or no [DONE]
    EMPTY = "empty"  # complete, without a token
    SHORT = "short"  # complete, with fewer tokens than were fixed
    COUNT = "count"  # `usage` disagrees with our own count
    GENERATOR = "generator"  # we could not send it: our own files or ports are used up; no fault of the server


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one request. Times are seconds on the client's clock; tokens are our own count.

    `arrivals` has one (time, tokens completed by it) per content chunk. `scheduled` is when the request was due: latency
    counts from there, so that a generator held up by a slow server does not hide the wait (coordinated omission).
    """

    request_id: str
    condition: str
    arm: str
    purpose: Purpose
    scheduled: float
    sent: float
    first_byte: float | None
    end: float
    status: int
    text: str
    arrivals: tuple[tuple[float, int], ...]
    tokens: int
    usage_prompt: int | None = None
    usage_completion: int | None = None
    finish_reason: str | None = None
    error: ErrorClass | None = None
    detail: str = ""
    stage: str = ""
    window: int = -1

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def counted(self) -> int:
        """Tokens that count: zero for a failed sample."""
        return self.tokens if self.ok else 0

    @property
    def latency(self) -> float:
        """Seconds from the scheduled time to the end; infinite for a failed sample."""
        return self.end - self.scheduled if self.ok else math.inf

    @property
    def ttft(self) -> float:
        """Seconds from the scheduled time to the first chunk that completes a token; infinite for a failed sample."""
        if self.ok:
            for time, tokens in self.arrivals:
                if tokens:
                    return time - self.scheduled
        return math.inf

    @property
    def rate(self) -> float:
        """Tokens per second of this request; zero for a failed sample."""
        return self.tokens / self.latency if self.ok and self.latency > 0 else 0.0

    @property
    def mean_gap(self) -> float:
        """Mean seconds per token after the first chunk's; zero with a single chunk, infinite for a failed sample."""
        if not self.ok:
            return math.inf
        timed = [(time, tokens) for time, tokens in self.arrivals if tokens]
        later = sum(tokens for _, tokens in timed[1:])
        return (timed[-1][0] - timed[0][0]) / later if later else 0.0

    def inter_token(self) -> list[float]:
        """Seconds per token, one entry for each token after the first chunk's: a chunk's gap spread over its tokens."""
        gaps: list[float] = []
        previous: float | None = None
        for time, tokens in self.arrivals:
            if tokens and previous is not None:
                gaps.extend([(time - previous) / tokens] * tokens)
            if tokens:
                previous = time
        return gaps
