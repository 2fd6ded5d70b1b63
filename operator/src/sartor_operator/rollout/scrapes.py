"""A gateway's counters and histograms, as Prometheus keeps them, as scrapes of each arm: for gateways that give no records.

What is asked for is a range of raw values (`metric{…}[60s]`): every scrape with its own time. `rate()`, `increase()` and the
steps of a range query would hide resets, gaps and ages. Anything that would make a difference of two scrapes wrong is a
`SampleError` that says before which time all is void: a counter that went back, a gateway that came or went meanwhile.

Counters tell less than records: a time is known to lie in a bucket, requests under way are not in it, and with Envoy an
answer that was cut counts as one that began well. Envoy's statistics: its documentation, *Cluster manager statistics*.
"""

import json
import math
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from sartor_operator.rollout.verdict.samples import (
    ArmName,
    CounterResetError,
    Histogram,
    SampleError,
    Scrape,
    Timing,
    increase,
)

GONE_SECONDS = 20.0
"""A gateway that was not scraped for so long, while another one was, has gone: four scrapes of 5 s."""


@dataclass(frozen=True, slots=True)
class GatewaySeries:
    """How a gateway names what it counts."""

    arm: str
    """The label that names the Service."""
    requests: str
    """Counter of the requests that were answered, by the gateway itself too."""
    answers: str
    """Counter of the same by class of status."""
    status_class: str
    """Its label."""
    errors: frozenset[str]
    """Values of that label that are errors."""
    timings: Mapping[Timing, tuple[str, float]]
    """Name of each histogram, and the seconds that its unit has."""
    gateway: str = "instance"
    """The label that tells several gateways apart."""


ENVOY = GatewaySeries(
    arm="envoy_cluster_name",
    requests="envoy_cluster_upstream_rq_completed",
    answers="envoy_cluster_upstream_rq_xx",
    status_class="envoy_response_code_class",
    errors=frozenset({"4", "5"}),
    timings={Timing.END_TO_END: ("envoy_cluster_upstream_rq_time", 0.001)},
)
"""Envoy, whoever configures it. Its clusters are named by the controller: by Contour NAMESPACE_SERVICE_PORT."""


def query(series: GatewaySeries, arms: Collection[str], seconds: float) -> str:
    """The PromQL expression for all that is counted of `arms` (values of the label) in the last `seconds`."""
    names = [series.requests, series.answers, *(f"{name}_bucket" for name, _ in series.timings.values())]
    return f"{{__name__=~{_any(names)},{series.arm}=~{_any(sorted(arms))}}}[{math.ceil(seconds * 1000)}ms]"


def scrapes(
    answer: object, series: GatewaySeries, arms: Mapping[str, ArmName], *, since: float
) -> dict[ArmName, list[Scrape]]:
    """What an instant query for `query(…)` answered (the decoded JSON), from `since` (Unix seconds) on, in order of time.

    An arm that the gateway has not counted yet has none. Raises `SampleError` where the answer is no matrix, and where the
    differences between scrapes would not be what happened.
    """
    tables: dict[ArmName, dict[str, dict[float, _Counts]]] = {arm: {} for arm in arms.values()}
    for metric, values in _matrix(answer):
        arm = arms.get(metric.get(series.arm, ""))
        if arm is None:
            continue
        table = tables[arm].setdefault(metric.get(series.gateway, ""), {})
        for at, value in values:
            if at >= since:
                table.setdefault(at, _Counts()).add(series, metric, value)
    seen = [counts for table in tables.values() for rows in table.values() for counts in rows.values()]
    bounds = {
        timing: sorted({le for counts in seen for le in counts.buckets.get(timing, ())}) for timing in series.timings
    }
    found: dict[ArmName, list[Scrape]] = {}
    for arm, table in tables.items():
        each = {
            name: [c.scrape(at, bounds) for at, c in sorted(rows.items()) if c.whole] for name, rows in table.items()
        }
        found[arm] = _together({name: rows for name, rows in each.items() if rows})
    return found


@dataclass(slots=True)
class _Counts:
    """One arm's values at one look at one gateway."""

    requests: float = 0.0
    failed: float = 0.0
    whole: bool = False
    """Whether the gateway counts this arm's requests. A class of status that never was has no series, and neither has a
    histogram without values: those are noughts."""
    buckets: dict[Timing, dict[float, float]] = field(default_factory=dict[Timing, dict[float, float]])

    def add(self, series: GatewaySeries, metric: Mapping[str, str], value: float) -> None:
        name = metric.get("__name__", "")
        if name == series.requests:
            self.requests += value
            self.whole = True
        elif name == series.answers:
            self.failed += value if metric.get(series.status_class) in series.errors else 0.0
        for timing, (histogram, unit) in series.timings.items():
            if name == f"{histogram}_bucket":
                bucket = self.buckets.setdefault(timing, {})
                bound = _number(metric.get("le")) * unit
                bucket[bound] = bucket.get(bound, 0.0) + value

    def scrape(self, at: float, bounds: Mapping[Timing, Sequence[float]]) -> Scrape:
        histograms: dict[Timing, Histogram] = {}
        for timing, every in bounds.items():
            known = self.buckets.get(timing) or dict.fromkeys(every, 0.0)
            if known:
                histograms[timing] = Histogram(tuple(sorted(known)), tuple(known[le] for le in sorted(known)))
        return Scrape(at, self.requests, self.failed, None, histograms)


def _together(gateways: Mapping[str, Sequence[Scrape]]) -> list[Scrape]:
    """The sum over all gateways, at the times of the one that was looked at least often; of each the newest look."""
    for name, rows in gateways.items():
        for earlier, later in pairwise(rows):
            try:
                increase(earlier, later)
            except CounterResetError as error:
                raise CounterResetError(f"the gateway {name} began again: {error}", later.at) from error
    if len(gateways) < 2:
        return [row for rows in gateways.values() for row in rows]
    first, last = max(rows[0].at for rows in gateways.values()), max(rows[-1].at for rows in gateways.values())
    for name, rows in gateways.items():
        if rows[-1].at < last - GONE_SECONDS:
            raise SampleError(f"the gateway {name} is not scraped any more", last)
        if rows[0].at > min(r[0].at for r in gateways.values()) + GONE_SECONDS:
            raise SampleError(f"the gateway {name} came later than another", rows[0].at)
    every = list(gateways.values())
    least = min(every, key=len)
    return [_sum(row.at, [_newest(rows, row.at) for rows in every]) for row in least if row.at >= first]


def _newest(rows: Sequence[Scrape], at: float) -> Scrape:
    return rows[bisect_right(rows, at, key=lambda row: row.at) - 1]


def _sum(at: float, rows: Sequence[Scrape]) -> Scrape:
    histograms: dict[Timing, Histogram] = {}
    for timing, one in rows[0].histograms.items():
        others = [row.histograms[timing] for row in rows]
        if any(other.bounds != one.bounds for other in others):
            raise SampleError(f"the gateways have different buckets for {timing}", at)
        columns = zip(*(other.counts for other in others), strict=True)
        histograms[timing] = Histogram(one.bounds, tuple(map(sum, columns)))
    return Scrape(at, sum(row.requests for row in rows), sum(row.failed for row in rows), None, histograms)


def _matrix(answer: object) -> Iterator[tuple[Mapping[str, str], list[tuple[float, float]]]]:
    content = cast(Mapping[str, Any], answer) if isinstance(answer, dict) else {}
    if content.get("status") != "success":
        raise SampleError(f"Prometheus did not answer the query: {content.get('error') or repr(answer)}")
    try:
        kind = content["data"]["resultType"]
        rows = [
            (row["metric"], [(float(at), value) for at, value in row["values"]]) for row in content["data"]["result"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise SampleError(f"Prometheus' answer is no matrix of raw values: {error!r}") from error
    if kind != "matrix":
        raise SampleError(f"Prometheus answered with a {kind}, not with a matrix")
    for metric, values in rows:
        yield metric, [(at, _number(value)) for at, value in values]


def _number(text: object) -> float:
    """As Prometheus writes it: NaN and +Inf too."""
    try:
        return float(str(text))
    except ValueError:
        raise SampleError(f"Prometheus gives {text!r} for a number") from None


def _any(texts: Collection[str]) -> str:
    return json.dumps("|".join(map(re.escape, texts)))
