"""Requests that are sent and samples that come back: the raw material of every number.

A sample that failed for any reason has infinite latency and zero tokens, whatever arrived before it failed; that is what
keeps a server from looking fast by refusing, cutting short or answering nothing.
"""

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
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


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Append samples as gzip-compressed JSON lines (members of one gzip file concatenate)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "at", encoding="utf-8", compresslevel=3) as stream:
        for sample in samples:
            stream.write(json.dumps(asdict(sample), separators=(",", ":"), ensure_ascii=False) + "\n")


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples of a file written by `write_samples`."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            row: dict[str, Any] = json.loads(line)
            row["arrivals"] = tuple((float(t), int(n)) for t, n in row["arrivals"])
            row["error"] = ErrorClass(row["error"]) if row["error"] else None
            yield Sample(**row)
