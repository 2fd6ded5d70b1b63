"""Log-probabilities against the reference, on requests mixed into the benchmark's stream at its concurrency.

Limit: `FACTOR` times what bfloat16 itself does to the numbers of this model on these prompts, so nothing is tuned to a
checkpoint. There are two kinds of servers, and what they report tells which is which. A server with unrounded logits is held
to the reference with bfloat16 operands of matrix products: weights of 8 bits are several times further off.

Engines that compute the head and the residual stream in bfloat16 round their logits, and the differences of what they report
are multiples of its step. Such a server is held to what the baseline shows (bf16 vLLM), or the reference in bfloat16 where
the baseline reports nothing. The rounding would cost more accuracy than all the layers before and hide a coarser model, so
these are compared with the reference's exact logits rounded likewise: for an x anywhere between two steps,
|round(x + e) - round(x)| is |e| on average (what dither rests on: Widrow & Kollár, *Quantization Noise*, 2008), so what is
left is the error of the layers.

A server could keep a good model for requests that ask. So each such request has a twin without `logprobs` in the same load:
the two texts must be equal, and the twin may not come so much faster that something else must have written it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from sartor_agents.measurement.client import LoadClient, Sent
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import GenerationRequest, Sample
from sartor_agents.measurement.seeds import derive
from sartor_agents.scenarios import Scenario, Stage

from .logprobs import (
    Divergence,
    LogprobError,
    TokenReport,
    asking,
    compare,
    from_reading,
    read_reports,
    rounded_logits,
)
from .opening import Bench, Cost, load
from .prompts import shown
from .shrink import shrink
from .timing import seconds_per_token
from .under_load import failure

NAME = "logprobs"
FACTOR = 2.0
DEVIATIONS = 5.0
"""Standard errors of the difference of two means that an honest server may be above the noise where tokens are few."""
FLOOR = 1e-3
"""Nats: mean distances below are within any arithmetic's noise (a server that reports rounded to 3 digits has 2.5e-4)."""
SLOWER = 4.0
SLOWER_SECONDS = 0.001
"""A token may take `SLOWER` times as long with `logprobs`, or so many seconds more: sorting and writing them costs.

What it costs does not grow with the model: a tiny one shows a large ratio and few seconds (0.4 ms seen on a busy machine).
"""
_FEWEST, _MOST = 4, 16
_WINDOW = 1


@dataclass(frozen=True, slots=True)
class Reported:
    """The reports of one answer, known to belong to its text, and the token ids of it."""

    request: GenerationRequest
    reports: list[TokenReport]
    ids: list[int]


async def logprob_divergence(bench: Bench, *, window: int = _WINDOW) -> Check:
    """Requests with `logprobs` and their twins, in an order that the seed draws. `window` names the prompts."""
    stage = busiest(bench.scenario)
    count = min(_MOST, max(_FEWEST, bench.request.samples // 4))
    stream = bench.scenario.stream(stage, "accuracy", window)
    plain = await bench.scenario.prepare([next(stream) for _ in range(count)], bench.oracle)
    asked = [asking(request) for request in plain]
    both = [*plain, *asked]
    order = derive(bench.request.seed, NAME, stage.name).permutation(len(both))
    sent = await bench.load([both[place] for place in order], stage.concurrency)
    answers = {id(one.request): one for one in sent}
    pairs = [(answers.get(id(p)), answers.get(id(a))) for p, a in zip(plain, asked, strict=True)]
    samples = [(one, one.sample("candidate", bench.counter)) for one in sent]
    if (broken := next(((one, s) for one, s in samples if not s.ok), None)) is not None:
        return await _refused(bench, *broken)
    whole = [(p, a) for p, a in pairs if p is not None and a is not None]
    texts = {id(one.request): sample for one, sample in samples}
    for request, (one, other) in zip(plain, whole, strict=True):
        a, b = texts[id(one.request)], texts[id(other.request)]
        if not bench.same(request, a.text, b.text):
            return await _changed(bench, request, a, b)
    checked: list[Reported] = []
    for _, other in whole:
        try:
            checked.append(_reports(bench, other, texts[id(other.request)].text))
        except LogprobError as error:
            return _inconsistent(bench, other.request, str(error))
    if bare := [one.request for one in checked if not one.reports]:
        return _nothing(bench, bare[0], f"{len(bare)} of {len(checked)} answers have no log-probabilities")
    bench.coarse = rounded_logits([report for one in checked for report in one.reports])
    for one in checked:
        bench.divergence += _distance(bench, one, coarse=bench.coarse)
    bench.logprobs_offered = True
    noise, source = await _noise(bench, checked)
    bench.limit = limit(noise.distance, bench.divergence.tokens)
    bench.costs = [_cost(p, a, texts) for p, a in whole]
    return await _verdict(bench, checked, noise, source, len(sent))


def busiest(scenario: Scenario) -> Stage:
    """The closed-loop stage with the highest concurrency, where there is one."""
    closed = [stage for stage in scenario.stages if stage.request_rate is None]
    return max(closed or scenario.stages, key=lambda stage: stage.concurrency)


async def _verdict(
    bench: Bench,
    checked: Sequence[Reported],
    noise: Divergence,
    source: str,
    requests: int,
) -> Check:
    assert bench.limit is not None
    ours = bench.divergence
    evidence = {
        "candidate": ours.summary(), source: noise.summary(), "limit": round(bench.limit, 5),
        "rounded_logits": bench.coarse, "times_as_slow": round(median(cost.ratio for cost in bench.costs), 3),
    }  # fmt: skip
    others = limit(noise.alternatives, ours.tokens)
    message = (
        f"mean |Δ log p| {ours.mean_distance:.4f} nats over {ours.tokens} tokens, at most {bench.limit:.4f} "
        f"({source}: {noise.mean_distance:.4f}); of alternatives {ours.mean_alternatives:.4f}, at most {others:.4f}; "
        f"top-1 agreement {ours.agreement:.4f}"
    )
    reason, reproduce = Reason.PASSED, None
    if ours.mean_distance > bench.limit or ours.mean_alternatives > others:
        reason = Reason.LOGPROBS_DIVERGED
        reproduce = shown(await _smallest(bench, checked))
    elif (slow := too_slow(bench.costs)) is not None:
        reason, reproduce = Reason.LOGPROBS_COMPUTED_ELSEWHERE, shown(checked[0].request)
        message = f"{slow}; {message}"
    return Check(
        name=NAME, passed=reason is Reason.PASSED, reason=reason, message=message, requests=requests, reproduce=reproduce,
        evidence=evidence,
    )  # fmt: skip


def answer_distance(bench: Bench, sent: Sent) -> float | None:
    """Mean distance (nats) of one answer that was asked with `logprobs`; None where it has none.

    Raises `LogprobError` for reports that are no log-probabilities of the text.
    """
    one = _reports(bench, sent, sent.sample("candidate", bench.counter).text)
    return _distance(bench, one, coarse=bench.coarse).mean_distance if one.reports else None


def _reports(bench: Bench, sent: Sent, text: str) -> Reported:
    """What an answer reports. Raises `LogprobError` where that does not belong to its text."""
    reports = read_reports(sent.exchange.pieces, streamed=sent.streamed)
    named = [report.token for report in reports if report.token is not None]
    if named and len(named) == len(reports):
        spelled = bench.counter.tokenizer.decode(named, skip_special_tokens=True)
        # An answer that ends within a character shows U+FFFD there, or nothing.
        if spelled.rstrip("\ufffd") != text.rstrip("\ufffd"):
            raise LogprobError(f"the tokens reported spell {spelled[:80]!r}, the text is {text[:80]!r}")
        best = [place for place, report in enumerate(reports) if any(v > report.logprob + 0.01 for _, v in report.top)]
        if best and sent.request.body.get("temperature") == 0:
            raise LogprobError(f"token {best[0]} was written though another one is reported as more probable")
        return Reported(sent.request, reports, named)
    ids = bench.counter.encode(text)
    if reports and len(reports) != len(ids):
        if not bench.counter.tolerance:
            raise LogprobError(f"{len(reports)} tokens are reported, the text has {len(ids)}")
        return Reported(sent.request, [], ids)  # spelled otherwise than the tokenizer does, and not by ids
    return Reported(sent.request, reports, ids)


def limit(noise: Sequence[float], tokens: int) -> float:
    """What the mean over `tokens` may be, from the noise of single tokens: `FACTOR` times theirs.

    More where so few tokens scatter more than that: rounded logits are mostly right, and a whole step off now and then.
    """
    mean = float(np.mean(noise))
    error = float(np.std(noise)) * math.sqrt(1 / len(noise) + 1 / tokens)
    return max(FLOOR, FACTOR * mean, mean + DEVIATIONS * error)


def _distance(bench: Bench, one: Reported, *, coarse: bool) -> Divergence:
    """How far an answer's reports are from the reference, which rounds its logits where the server does (`coarse`)."""
    return compare(one.reports, bench.read(one.request, one.ids, logits=coarse))


async def _noise(bench: Bench, checked: Sequence[Reported]) -> tuple[Divergence, str]:
    """What is to be expected of an honest server here, and where that is known from."""
    some = checked[:_FEWEST]
    total = Divergence()
    if not bench.coarse:
        for one in some:
            total += compare(from_reading(bench.read_products(one.request, one.ids)), bench.read(one.request, one.ids))
        return total, "reference with bfloat16 products"
    if bench.baseline is not None:
        shows = await _baseline(bench, bench.baseline, [one.request for one in some])
        if shows.tokens:
            return shows, "baseline"
    for one in some:
        rounded = bench.read(one.request, one.ids, layers=True, logits=True)
        total += compare(from_reading(rounded), bench.read(one.request, one.ids, logits=True))
    return total, "reference in bfloat16"


async def _baseline(bench: Bench, client: LoadClient, asked: Sequence[GenerationRequest]) -> Divergence:
    """The baseline's own distance on these requests; nothing where it does not report log-probabilities."""
    found: list[Reported] = []
    sent = await load(client, asked, len(asked))
    for one in sent:
        sample = one.sample("baseline", bench.counter)
        bench.note_baseline(one.exchange.status == 200)
        if sample.ok:
            try:
                found.append(_reports(bench, one, sample.text))
            except LogprobError:
                continue  # its fault would only make the limit wrong
    coarse = rounded_logits([report for one in found for report in one.reports])
    total = Divergence()
    for one in found:
        total += _distance(bench, one, coarse=coarse)
    return total


def too_slow(costs: Sequence[Cost]) -> str | None:
    """What is to be said where answers with `logprobs` take too long beside those without, else None."""
    if not costs:
        return None
    ratio, more = median(cost.ratio for cost in costs), median(cost.asked - cost.plain for cost in costs)
    if ratio <= SLOWER or more <= SLOWER_SECONDS:
        return None
    return f"a token takes {ratio:.1f} times as long with `logprobs` ({1e3 * more:.2f} ms more)"


def _cost(plain: Sent, asked: Sent, texts: dict[int, Sample]) -> Cost:
    return Cost(
        plain.request.condition,
        seconds_per_token(texts[id(plain.request)]),
        seconds_per_token(texts[id(asked.request)]),
    )


async def _smallest(bench: Bench, checked: Sequence[Reported]) -> GenerationRequest:
    """The worst request, made smaller while its own distance stays above the limit."""
    most = bench.limit or FLOOR

    async def fails(smaller: GenerationRequest) -> bool:
        sent = await bench.load([smaller], 1)
        try:
            distance = answer_distance(bench, sent[0]) if sent[0].exchange.status == 200 else None
        except LogprobError:
            return False
        return distance is not None and distance > most

    worst = max(checked, key=lambda one: _distance(bench, one, coarse=bench.coarse).mean_distance)
    return await shrink(worst.request, fails, bench.scenario.prompt_ids, tokens=16)


async def _changed(bench: Bench, request: GenerationRequest, one: Sample, other: Sample) -> Check:
    async def fails(smaller: GenerationRequest) -> bool:
        a, b = await bench.send(smaller), await bench.send(asking(smaller))
        return a.ok and b.ok and not bench.same(smaller, a.text, b.text)

    at = next((i for i, (a, b) in enumerate(zip(one.text, other.text, strict=False)) if a != b), 0)
    tokens = bench.counter.count(one.text[: at + 1]) + 1
    smallest = await shrink(request, fails, bench.scenario.prompt_ids, tokens=tokens)
    return Check(
        name=NAME,
        passed=False,
        reason=Reason.LOGPROBS_CHANGED_OUTPUT,
        message=f"texts differ at character {at}: {one.text[at : at + 40]!r} and with `logprobs` "
        f"{other.text[at : at + 40]!r}",
        reproduce=shown(asking(smallest)),
        evidence={"character": at},
    )


async def _refused(bench: Bench, sent: Sent, sample: Sample) -> Check:
    """A request of this load failed: with `logprobs` only, that is a refusal."""
    if "logprobs" in sent.request.body and sent.exchange.error is None and 400 <= sent.exchange.status < 600:
        return _nothing(bench, sent.request, sample.detail)
    return await failure(bench, NAME, sample, {sent.request.id: sent.request})


def _nothing(bench: Bench, request: GenerationRequest, message: str) -> Check:
    optional = bench.request.logprobs == "ifOffered"
    return Check(
        name=NAME,
        passed=optional,
        reason=Reason.PASSED if optional else Reason.LOGPROBS_REFUSED,
        message=f"not offered, judged by its text alone: {message}" if optional else message,
        reproduce=None if optional else shown(request),
    )


def _inconsistent(bench: Bench, request: GenerationRequest, message: str) -> Check:
    return Check(
        name=NAME, passed=False, reason=Reason.LOGPROBS_INCONSISTENT, message=message, reproduce=shown(request)
    )
