"""From pairs of windows to what is reported: ratios with intervals, both arms of each condition, answers to check."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from pydantic import JsonValue

from sartor_agents.scenarios.base import Stage
from sartor_api.search.records import ArmSummary, ConditionResult, Speedup

from .messages import GuardrailRatio
from .pairs import Pair
from .policy import MeasurementPolicy
from .samples import Sample
from .scoring import Latencies, latencies, summarise
from .seeds import derive
from .slo import ServiceLevel
from .statistics import (
    Interval,
    cluster_bootstrap,
    combine,
    dependence,
    geometric_mean,
    log_ratios,
    quantile,
    signed_rank_interval,
)
from .windows import WindowRun

_LATENCIES: dict[str, Callable[[Latencies], tuple[float, ...]]] = {
    "ttft": lambda one: one.ttft,
    "interTokenLatency": lambda one: one.inter_token,
    "endToEndLatency": lambda one: one.end_to_end,
}
_QUANTILES = {"P50": 0.5, "P99": 0.99}
_DRAWS = 200


class PairTable:
    """The valid pairs of a measurement, read condition by condition."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.pairs: list[Pair] = []
        self.conditions = [condition for stage in stages for condition in stage.conditions]
        self.objective_conditions = [c for stage in stages if stage.in_objective for c in stage.conditions]
        self._rates: list[tuple[dict[str, float], dict[str, float]]] = []

    def rates(self, condition: str) -> tuple[list[float], list[float]]:
        """The metric of (candidate, baseline) in each pair."""
        # A window's rate is summed over all its tokens: once, since this is asked between windows.
        for pair in self.pairs[len(self._rates) :]:
            self._rates.append((pair.candidate.rates(), pair.baseline.rates()))
        return [mine[condition] for mine, _ in self._rates], [theirs[condition] for _, theirs in self._rates]

    def all_rates(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """By condition, then arm."""
        return {
            condition: {"candidate": tuple(mine), "baseline": tuple(theirs)}
            for condition in self.conditions
            for mine, theirs in (self.rates(condition),)
        }

    def surroundings(self) -> dict[str, JsonValue]:
        """What surrounded the windows, arm by arm and window by window: the share of the processors that others used, of
        its core that the load generator used, the accelerators at the end, their energy per token, and the memory that the
        arm's processes held of theirs."""
        arms = {"candidate": [p.candidate for p in self.pairs], "baseline": [p.baseline for p in self.pairs]}
        found: dict[str, JsonValue] = {
            "contention": {arm: [round(run.contention.share, 3) for run in runs] for arm, runs in arms.items()},
            "generator": {arm: [round(run.generator.cpu_share, 3) for run in runs] for arm, runs in arms.items()},
        }
        if any(run.accelerators for runs in arms.values() for run in runs):
            found["accelerator_states"] = {arm: [list(run.accelerators) for run in runs] for arm, runs in arms.items()}
            found["joules_per_token"] = {arm: [run.joules_per_token for run in runs] for arm, runs in arms.items()}
            found["device_bytes"] = {arm: [run.device_bytes for run in runs] for arm, runs in arms.items()}
        return found

    def combined(self) -> list[float]:
        """Log of the combined ratio of each pair: the geometric mean over the objective's conditions."""
        return combine([log_ratios(*self.rates(condition)) for condition in self.objective_conditions])

    def objective(self) -> float:
        """The candidate's own metric: median over windows, geometric mean over the objective's conditions."""
        return geometric_mean([quantile(self.rates(c)[0], 0.5) for c in self.objective_conditions])

    def results(self, policy: MeasurementPolicy, alpha: float) -> tuple[ConditionResult, ...]:
        """Each condition with its own interval at error `alpha`; these describe, only the combined one decides."""
        results: list[ConditionResult] = []
        for condition in self.conditions:
            mine, theirs = self.rates(condition)
            logs = log_ratios(mine, theirs)
            interval = signed_rank_interval(logs, 1 - alpha, inflation=dependence(logs))
            stated = replace(interval, confidence=policy.confidence)
            results.append(
                ConditionResult(
                    name=condition,
                    ratio=speedup(stated),
                    candidate=arm_summary(
                        quantile(mine, 0.5), [p.candidate for p in self.pairs], condition, policy.service_level
                    ),
                    baseline=arm_summary(
                        quantile(theirs, 0.5), [p.baseline for p in self.pairs], condition, policy.service_level
                    ),
                )
            )
        return tuple(results)

    def guardrails(self, confidence: float, seed: str) -> dict[str, dict[str, GuardrailRatio]]:
        """By condition, then metric: ratios of latency quantiles; a quantile that is infinite has none."""
        return {condition: self._guardrails(condition, confidence, seed) for condition in self.conditions}

    def _guardrails(self, condition: str, confidence: float, seed: str) -> dict[str, GuardrailRatio]:
        mine = [latencies(scored([pair.candidate], condition)) for pair in self.pairs]
        theirs = [latencies(scored([pair.baseline], condition)) for pair in self.pairs]
        ratios: dict[str, GuardrailRatio] = {}
        for name, pick in _LATENCIES.items():
            for label, probability in _QUANTILES.items():
                interval = cluster_bootstrap(
                    [pick(one) for one in mine],
                    [pick(one) for one in theirs],
                    lambda values, p=probability: float(np.quantile(values, p, method="inverted_cdf")),
                    confidence=confidence,
                    rng=derive(seed, "bootstrap", condition, name, label),
                    draws=_DRAWS,
                )
                if interval is not None:
                    ratios[name + label] = GuardrailRatio(
                        value=interval.value, low=interval.low, high=interval.high, n=interval.n
                    )
        return ratios


def answers_to_check(pairs: Sequence[Pair], number: int, seed: str) -> tuple[float | None, list[Sample]]:
    """(share of paired answers that are equal, the candidate's answers to check against the reference).

    They are drawn by lot from the sealed seed, so that a candidate cannot know which: one from the last pair, half from
    those that differ from the baseline's, the rest from all.
    """
    mine = [s for pair in pairs for s in pair.candidate.samples if s.ok and s.purpose == "scored"]
    theirs = {s.request_id: s.text for pair in pairs for s in pair.baseline.samples if s.ok}
    both = [s for s in mine if s.request_id in theirs]
    differing = [s for s in both if s.text != theirs[s.request_id]]
    agreement = 1 - len(differing) / len(both) if both else None
    latest = {s.request_id for pair in pairs[-1:] for s in pair.candidate.samples}
    last = [s for s in mine if s.request_id in latest]
    lot = derive(seed, "answers")

    def drawn(among: Sequence[Sample]) -> list[Sample]:
        return [among[at] for at in lot.permutation(len(among))]

    order = [*drawn(last)[:1], *drawn(differing)[: number // 2], *drawn(mine)]
    return agreement, list({s.request_id: s for s in order}.values())[:number]


def scored(runs: Sequence[WindowRun], condition: str) -> list[Sample]:
    """The samples of `condition` that count, over several windows."""
    return [sample for run in runs for stage in run.stages for sample in stage.scored(condition)]


def arm_summary(metric: float, runs: Sequence[WindowRun], condition: str, level: ServiceLevel) -> ArmSummary:
    """One arm under one condition over several windows; its goodput is the median over them."""
    stages = [stage for run in runs for stage in run.stages if condition in stage.stage.conditions]
    goodputs = [stage.goodput(condition, level) for stage in stages]
    return summarise(
        metric, scored(runs, condition), level=level, goodput=quantile(goodputs, 0.5) if goodputs else None
    )


def speedup(interval: Interval) -> Speedup:
    """The record of an interval."""
    return Speedup(
        value=interval.value, low=interval.low, high=interval.high, n=interval.n, confidence=interval.confidence
    )
