"""Log-probabilities as a server reports them, and how far they are from the reference's.

Text alone cannot tell an over-quantised, truncated or wrongly cached model from the right one where the best token leads by
much: on a chain checkpoint by several nats at every position. Log-probabilities show every change of the hidden state.

They are asked for as vLLM has it: `logprobs: 5` of /v1/completions, `logprobs: true, top_logprobs: 5` of
/v1/chat/completions, and `return_tokens_as_token_ids`, which names tokens by id: two tokens may have one spelling. A server
that does not know that option reports spellings; then only the chosen tokens are compared.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sartor_agents.measurement.samples import GenerationRequest
from sartor_agents.measurement.sse import StreamError, events

from .reference_check import ReferenceCheck

ALTERNATIVES = 5
_ID = "token_id:"
_SUM_ROUNDING = 0.01
"""How far the probabilities that a server reports for one position may add up to more than one."""
_STEP = 2.0**-7
_STEP_ROUNDING = 0.0125
"""In steps: 1e-4 nats, what a log-softmax in float32 and a printed number may lose."""


class LogprobError(Exception):
    """What a server reports is no distribution over tokens; the message says where and why."""


@dataclass(frozen=True, slots=True)
class TokenReport:
    """One position: the token (its id where the server names ids), its natural-log probability, the best alternatives."""

    token: int | None
    logprob: float
    top: tuple[tuple[int, float], ...]


def asking(request: GenerationRequest) -> GenerationRequest:
    """The same request with log-probabilities."""
    wanted: dict[str, Any] = {"logprobs": ALTERNATIVES}
    if request.path.endswith("chat/completions"):
        wanted = {"logprobs": True, "top_logprobs": ALTERNATIVES}
    return request.with_body(**wanted, return_tokens_as_token_ids=True)


def read_reports(pieces: Sequence[tuple[float, bytes]], *, streamed: bool = True) -> list[TokenReport]:
    """The reports of an answer's first choice; empty where it has none. Raises `LogprobError`.

    `pieces` are an exchange's (time, bytes); the answer is known to be well-formed otherwise.
    """
    reports: list[TokenReport] = []
    for data in _payloads(pieces, streamed):
        for choice in data.get("choices") or ():
            block = choice.get("logprobs")
            if block is not None:
                try:
                    reports += _completion(block) if "tokens" in block else _chat(block)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise LogprobError(f"`logprobs` has an unexpected shape ({error!r}): {str(block)[:200]}") from None
    for place, report in enumerate(reports):
        _check(place, report)
    return reports


def _payloads(pieces: Sequence[tuple[float, bytes]], streamed: bool) -> Iterable[dict[str, Any]]:
    try:
        if not streamed:
            yield json.loads(b"".join(piece for _, piece in pieces))
            return
        for _, data in events(pieces):
            if data != b"[DONE]":
                yield json.loads(data)
    except (ValueError, StreamError) as error:
        raise LogprobError(f"the answer is no JSON: {error}") from None


def _completion(block: dict[str, Any]) -> list[TokenReport]:
    tokens, logprobs, tops = block["tokens"], block["token_logprobs"], block.get("top_logprobs")
    if len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens and {len(logprobs)} log-probabilities")
    tops = tops or [None] * len(tokens)
    return [
        TokenReport(_id(token), float(logprob), _top((top or {}).items()))
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
    ]


def _chat(block: dict[str, Any]) -> list[TokenReport]:
    return [
        TokenReport(
            _id(entry["token"]),
            float(entry["logprob"]),
            _top((other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()),
        )
        for entry in block["content"] or ()
    ]


def _id(token: Any) -> int | None:
    return int(token.removeprefix(_ID)) if isinstance(token, str) and token.startswith(_ID) else None


def _top(items: Iterable[tuple[Any, Any]]) -> tuple[tuple[int, float], ...]:
    named = ((_id(token), float(logprob)) for token, logprob in items)
    return tuple((token, logprob) for token, logprob in named if token is not None)


def _check(place: int, report: TokenReport) -> None:
    values = [report.logprob, *(logprob for _, logprob in report.top)]
    if any(math.isnan(value) or value > _SUM_ROUNDING for value in values):
        raise LogprobError(f"token {place}: {values} are no log-probabilities")
    alternatives = dict(report.top)
    if report.token is not None:
        alternatives[report.token] = report.logprob
    if (total := sum(math.exp(value) for value in alternatives.values())) > 1 + _SUM_ROUNDING:
        raise LogprobError(f"token {place}: the probabilities of {len(alternatives)} tokens add up to {total:.3f}")


@dataclass(frozen=True, slots=True)
class Divergence:
    """Reported against reference log-probabilities (nats), one entry per token of the answers."""

    distance: tuple[float, ...] = ()
    """|Δ log p| of the written token."""
    alternatives: tuple[float, ...] = ()
    """Mean |Δ log p| of the tokens that both report."""
    divergence: tuple[float, ...] = ()
    """KL(reference ‖ server) over the tokens that both report and one bucket of all others: a lower bound of the whole."""
    agrees: tuple[bool, ...] = ()
    """Whether the reference's choice is the server's best."""

    @property
    def tokens(self) -> int:
        return len(self.distance)

    @property
    def mean_distance(self) -> float:
        return float(np.mean(self.distance)) if self.distance else 0.0

    @property
    def mean_alternatives(self) -> float:
        return float(np.mean(self.alternatives)) if self.alternatives else 0.0

    @property
    def mean_divergence(self) -> float:
        return float(np.mean(self.divergence)) if self.divergence else 0.0

    @property
    def agreement(self) -> float:
        return float(np.mean(self.agrees)) if self.agrees else 1.0

    def __add__(self, other: "Divergence") -> "Divergence":
        return Divergence(
            self.distance + other.distance,
            self.alternatives + other.alternatives,
            self.divergence + other.divergence,
            self.agrees + other.agrees,
        )

    def summary(self) -> dict[str, float | int]:
        """For evidence."""
        return {
            "tokens": self.tokens,
            "mean_distance": round(self.mean_distance, 5),
            "mean_alternatives": round(self.mean_alternatives, 5),
            "mean_divergence": round(self.mean_divergence, 7),
            "top1_agreement": round(self.agreement, 5),
        }


def compare(reports: Sequence[TokenReport], check: ReferenceCheck) -> Divergence:
    """The distance of one answer; both have one entry per token of it."""
    distance: list[float] = []
    alternatives: list[float] = []
    divergence: list[float] = []
    agrees: list[bool] = []
    for place, report in enumerate(reports):
        distance.append(abs(report.logprob - check.logprobs[place]))
        server = dict(report.top)
        if report.token is not None:
            server[report.token] = report.logprob
        theirs = dict(zip(check.top[place], check.top_logprobs[place], strict=True))
        shared = theirs.keys() & server.keys()
        alternatives.append(float(np.mean([abs(theirs[token] - server[token]) for token in shared])) if shared else 0.0)
        divergence.append(_divergence(theirs, server))
        best = max(server, key=lambda token: server[token]) if server else None
        agrees.append(best == check.choices[place] if best is not None else check.agrees[place])
    return Divergence(tuple(distance), tuple(alternatives), tuple(divergence), tuple(agrees))


def rounded_logits(reports: Sequence[TokenReport]) -> bool:
    """Whether the logits behind the reports were rounded to bfloat16: their differences are then multiples of 2⁻⁷.

    (So they are where the logits are above 1: bfloat16 has 8 significant bits.) Of float32 logits one in forty would be.
    """
    steps = np.asarray(
        [
            (report.logprob - logprob) / _STEP
            for report in reports
            for token, logprob in report.top
            if token != report.token
        ]
    )
    return bool(steps.size) and float(np.mean(np.abs(steps - np.round(steps)) < _STEP_ROUNDING)) > 0.5


def from_reading(check: ReferenceCheck) -> list[TokenReport]:
    """What a server with the numbers of `check` would report along the same answer."""
    return [
        TokenReport(None, logprob, tuple(zip(top, values, strict=True))[:ALTERNATIVES])
        for logprob, top, values in zip(check.logprobs, check.top, check.top_logprobs, strict=True)
    ]


def _divergence(reference: dict[int, float], server: dict[int, float]) -> float:
    """KL over the tokens known to both and the rest; a bucket that one side calls empty has the least probability."""
    shared = reference.keys() & server.keys()
    if not shared:
        return 0.0
    p = np.exp([reference[token] for token in shared])
    q = np.exp([server[token] for token in shared])
    least = 1e-9
    p, q = (np.clip(np.append(side, max(1 - side.sum(), least)), least, 1.0) for side in (p, q))
    return float(max(0.0, np.sum(p * np.log(p / q))))
