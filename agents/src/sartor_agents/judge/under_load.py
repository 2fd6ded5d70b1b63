"""Accuracy under load: requests of every stage as the benchmark sends them, their answers against the reference.

Prompts come from the benchmark's own generator under another name (fresh, disjoint), at its concurrency or rate, warm-up
first, through its client: same bytes but for the words, same connections, same order. A server that wants to be right only
when it is judged has nothing to go by.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from sartor_agents.measurement.client import Sent, healthy
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.sample_file import write_samples
from sartor_agents.measurement.samples import GenerationRequest, Purpose, Sample
from sartor_agents.measurement.seeds import derive
from sartor_agents.measurement.windows import poisson
from sartor_agents.scenarios import Stage

from .accuracy import AnswerVerdict, describe, failed_sample, mislabelled, reason_of
from .opening import Bench
from .prompts import shown, with_length
from .shrink import shrink
from .ties import tie_budget

_WINDOW = 0
_OPEN_SECONDS = 10.0
"""How long an open loop goes on at the most; at low rates fewer answers are checked."""


async def accuracy(bench: Bench) -> Check:
    """Every stage in turn; the first failed or wrong answer ends it. Right answers are kept in `bench.texts`."""
    begun = bench.client.clock()
    stages = bench.scenario.stages
    total = 0
    kept: list[Sample] = []
    for number, stage in enumerate(stages):
        share = bench.request.samples // len(stages) + (number < bench.request.samples % len(stages))
        if share == 0:
            continue
        stream = bench.scenario.stream(stage, "accuracy", _WINDOW)
        wanted = list(itertools.islice(stream, max(share, stage.concurrency)))
        requests = await bench.scenario.prepare(wanted, bench.oracle)
        bench.progress("accuracy", message=f"{len(requests)} requests at {stage.name}")
        sent = await _load(bench, stage, requests)
        samples = [replace(one.sample("candidate", bench.counter), stage=stage.name, window=_WINDOW) for one in sent]
        total += len(samples)
        kept += samples
        write_samples(bench.request.output_dir / SAMPLES, kept)
        if (failed := failed_sample(samples)) is not None:
            return await failure(bench, "accuracy", failed, {one.request.id: one.request for one in sent})
        answered = {sample.request_id: sample for sample in samples}
        for place, request in enumerate([r for r in requests if r.id in answered][:share], 1):
            sample = answered[request.id]
            if (lie := mislabelled(request, sample, bench.counter)) is not None:
                return Check(
                    name="accuracy",
                    passed=False,
                    reason=Reason.ANSWER_MISLABELLED,
                    message=lie,
                    reproduce=shown(request),
                )
            verdict = bench.check(request, sample.text)
            bench.answers.append(verdict)
            bench.progress("checked", message=f"answer {place}/{share} checked against the reference")
            if not verdict.right:
                return await _wrong(bench, verdict, stage)
            if rest := bench.rest(verdict):
                message = f"{len(verdict.output_ids)} of {request.output_tokens} tokens; {rest[:40]!r} is missing"
                return Check(
                    name="accuracy",
                    passed=False,
                    reason=Reason.OUTPUT_TOO_SHORT,
                    message=message,
                    reproduce=shown(request),
                )
            bench.texts[request.id] = sample.text
    return _ties_or_passed(bench, total, bench.client.clock() - begun)


SAMPLES = "samples.parquet"
"""Where the samples of a judging are kept, in its output folder."""


async def _load(bench: Bench, stage: Stage, requests: Sequence[GenerationRequest]) -> list[Sent]:
    warm = bench.scenario.stream(stage, "warmup", _WINDOW)
    if stage.request_rate is None:
        return await bench.load([*itertools.islice(warm, stage.concurrency), *requests], stage.concurrency)
    schedule: list[tuple[float, GenerationRequest, Purpose]] = []
    times = poisson(derive(bench.request.seed, "arrivals", stage.name, "accuracy"), stage.request_rate)
    for due, request in zip(times, requests, strict=False):
        if schedule and due > _OPEN_SECONDS:
            break
        schedule.append((due, request, "accuracy"))
    return await bench.client.open_loop(schedule)


def _ties_or_passed(bench: Bench, requests: int, seconds: float) -> Check:
    """The verdict on all answers together, each of which is right."""
    budget = tie_budget(bench.answers)
    tokens = sum(len(answer.output_ids) for answer in bench.answers)
    agreed = sum(answer.agreed for answer in bench.answers)
    evidence = {"near_ties": budget.near, "flips": budget.flips, "expected_flips": round(budget.expected, 3)}
    if not budget.kept:
        worst = max(bench.answers, key=lambda answer: answer.flips)
        return Check(
            name="accuracy",
            passed=False,
            reason=Reason.TIES_TOO_FREQUENT,
            message=f"{budget.flips} tokens differ at the reference's {budget.near} near-ties; rounding explains "
            f"{budget.expected:.1f}, at most {budget.allowed} (probability {budget.probability:.1e})",
            requests=requests,
            seconds=seconds,
            reproduce=shown(worst.request),
            evidence=evidence,
        )
    return Check(
        name="accuracy",
        passed=True,
        reason=Reason.PASSED,
        message=f"{len(bench.answers)} answers, {agreed} of {tokens} tokens equal, {budget.flips} ties "
        f"({budget.expected:.1f} expected at {budget.near} near-ties)",
        requests=requests,
        seconds=seconds,
        evidence=evidence,
    )


async def _wrong(bench: Bench, verdict: AnswerVerdict, stage: Stage) -> Check:
    async def fails(smaller: GenerationRequest) -> bool:
        sample = await bench.send(smaller)
        return sample.ok and not bench.check(smaller, sample.text).right

    alone = await fails(verdict.request)
    assert verdict.divergence is not None
    at = verdict.divergence
    smallest = with_length(verdict.request, min(verdict.request.output_tokens, at + 1))
    if alone:
        smallest = await shrink(verdict.request, fails, bench.scenario.prompt_ids, tokens=at + 1)
    where = "also alone" if alone else f"only under load ({stage.name})"
    return Check(
        name="accuracy",
        passed=False,
        reason=Reason.OUTPUT_DIVERGED,
        message=f"token {at} of {verdict.request.output_tokens} is not the reference's choice "
        f"({verdict.gap:.3f} below its best logit); {where}",
        reproduce=shown(smallest),
        evidence={**describe(verdict, bench.counter), "alone": alone},
    )


async def failure(bench: Bench, name: str, sample: Sample, requests: dict[str, GenerationRequest]) -> Check:
    """The check that a failed sample becomes; the server may have died of it."""
    request = requests[sample.request_id]
    reason = reason_of(sample, request)
    if reason is Reason.REQUEST_FAILED and not await healthy(bench.client.endpoint):
        reason = Reason.CANDIDATE_DIED
    return Check(
        name=name,
        passed=False,
        reason=reason,
        message=f"{sample.condition}: {sample.error}: {sample.detail}",
        reproduce=shown(request),
    )
