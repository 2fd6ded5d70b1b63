"""Counters of a gateway by Prometheus: the answers are what Prometheus 2.42 gives for Envoy 1.40."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sartor_operator.rollout.scrapes import ENVOY, GONE_SECONDS, query, scrapes
from sartor_operator.rollout.verdict.samples import (
    ArmName,
    CounterResetError,
    NotANumberError,
    SampleError,
    Scrape,
    Timing,
    increase,
)

ARMS = {"team-a_vllm_8000": ArmName.BASELINE, "team-a_stack_8000": ArmName.CANDIDATE}
BASELINE, CANDIDATE = ARMS
REQUESTS, ANSWERS, BUCKET = ENVOY.requests, ENVOY.answers, "envoy_cluster_upstream_rq_time_bucket"
ONE = "10.240.0.4:8002"

Series = tuple[Mapping[str, str], Mapping[float, float | str]]


def series(
    name: str, values: Mapping[float, float | str], arm: str = CANDIDATE, at: str = ONE, **labels: str
) -> Series:
    return {"__name__": name, "envoy_cluster_name": arm, "instance": at, "job": "envoy", **labels}, values


def buckets(counts: Mapping[str, Mapping[float, float | str]], arm: str = CANDIDATE, at: str = ONE) -> list[Series]:
    return [series(BUCKET, values, arm, at, le=le) for le, values in counts.items()]


def answer(*rows: Series) -> dict[str, Any]:
    result = [{"metric": m, "values": [[at, str(v)] for at, v in values.items()]} for m, values in rows]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def read(*rows: Series, since: float = 0.0) -> dict[ArmName, list[Scrape]]:
    return scrapes(answer(*rows), ENVOY, ARMS, since=since)


def candidate(*rows: Series) -> list[Scrape]:
    return read(*rows)[ArmName.CANDIDATE]


def counts_of(rows: Sequence[Scrape]) -> list[tuple[float, float, float]]:
    return [(row.at, row.requests, row.failed) for row in rows]


def test_the_query_asks_for_raw_values_of_both_arms() -> None:
    assert query(ENVOY, ARMS, 30.5) == (
        '{__name__=~"envoy_cluster_upstream_rq_completed|envoy_cluster_upstream_rq_xx|'
        'envoy_cluster_upstream_rq_time_bucket",envoy_cluster_name=~"team\\\\-a_stack_8000|team\\\\-a_vllm_8000"}[30500ms]'
    )


def test_one_scrape_for_each_look_at_the_gateway() -> None:
    found = read(
        series(REQUESTS, {5.0: 10, 10.0: 14}),
        series(ANSWERS, {5.0: 9, 10.0: 11}, envoy_response_code_class="2"),
        series(ANSWERS, {5.0: 1, 10.0: 1}, envoy_response_code_class="4"),
        series(ANSWERS, {10.0: 2}, envoy_response_code_class="5"),
        *buckets({"25": {5.0: 4, 10.0: 5}, "+Inf": {5.0: 9, 10.0: 12}, "10": {5.0: 1, 10.0: 1}}),
        series(REQUESTS, {5.0: 100, 10.0: 150}, BASELINE),
        series(REQUESTS, {5.0: 1}, "team-a_other_8000"),
    )
    assert counts_of(found[ArmName.CANDIDATE]) == [(5.0, 10, 1), (10.0, 14, 3)]
    histogram = found[ArmName.CANDIDATE][1].histograms[Timing.END_TO_END]
    assert (histogram.bounds, histogram.counts) == ((0.01, 0.025, math.inf), (1, 5, 12))
    assert counts_of(found[ArmName.BASELINE]) == [(5.0, 100, 0), (10.0, 150, 0)]
    grown = increase(*found[ArmName.CANDIDATE])
    assert (grown.requests, grown.failed, grown.handed_over) == (4, 2, None)
    assert grown.buckets[Timing.END_TO_END][1] == (0, 1, 2)


def test_a_histogram_without_values_counts_nothing() -> None:
    """An arm that only failed so far has no histogram; the other arm's says which buckets there are."""
    found = read(
        series(REQUESTS, {5.0: 3, 10.0: 8}),
        *buckets({"10": {10.0: 1}, "+Inf": {10.0: 4}}),
        series(REQUESTS, {5.0: 9, 10.0: 9}, BASELINE),
        *buckets({"10": {5.0: 9, 10.0: 9}, "+Inf": {5.0: 9, 10.0: 9}}, BASELINE),
    )
    assert [s.histograms[Timing.END_TO_END].counts for s in found[ArmName.CANDIDATE]] == [(0, 0), (1, 4)]
    nowhere = read(series(REQUESTS, {5.0: 3}), series(REQUESTS, {5.0: 9}, BASELINE))
    assert [row.histograms for rows in nowhere.values() for row in rows] == [{}, {}]


def test_what_was_before_the_step_is_left_out() -> None:
    found = read(series(REQUESTS, {5.0: 10, 10.0: 14}), since=7.0)
    assert counts_of(found[ArmName.CANDIDATE]) == [(10.0, 14, 0)]


def test_an_arm_that_the_gateway_does_not_count_has_no_scrapes() -> None:
    assert read() == {ArmName.BASELINE: [], ArmName.CANDIDATE: []}
    assert candidate(series(ANSWERS, {5.0: 1}, envoy_response_code_class="2")) == []


class TestWhatIsVoid:
    def test_a_gateway_that_began_again(self) -> None:
        with pytest.raises(CounterResetError, match=f"{ONE} began again.* fell from 14 to 2") as caught:
            read(series(REQUESTS, {5.0: 10, 10.0: 14, 15.0: 2, 20.0: 3}))
        assert caught.value.before == 15.0

    def test_it_is_seen_where_the_sum_goes_on_growing(self) -> None:
        with pytest.raises(CounterResetError):
            read(
                series(REQUESTS, {5.0: 10, 10.0: 2}, at="a"),
                series(REQUESTS, {5.0: 10, 10.0: 90}, at="b"),
            )

    def test_no_numbers(self) -> None:
        with pytest.raises(NotANumberError):
            read(series(REQUESTS, {5.0: 10, 10.0: "NaN"}))
        with pytest.raises(NotANumberError):
            read(series(REQUESTS, {5.0: 10}), *buckets({"+Inf": {5.0: "NaN"}}))

    @pytest.mark.parametrize(
        ("damaged", "message"),
        [
            (None, "did not answer the query: None"),
            ({"status": "error", "error": "query timed out"}, "did not answer the query: query timed out"),
            ({"status": "success", "data": {"resultType": "vector", "result": []}}, "with a vector"),
            ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}}]}}, "no matrix"),
            (answer(series(REQUESTS, {5.0: "many"})), "'many' for a number"),
            (answer(series(REQUESTS, {5.0: 1}), series(BUCKET, {5.0: 1})), "None for a number"),
            (answer(series(REQUESTS, {5.0: 1}), *buckets({"10": {5.0: 1}})), "the last bound"),
        ],
    )
    def test_an_answer_of_another_form(self, damaged: object, message: str) -> None:
        with pytest.raises(SampleError, match=message):
            scrapes(damaged, ENVOY, ARMS, since=0.0)


class TestSeveralGateways:
    def test_their_sum_at_the_times_of_one(self) -> None:
        found = candidate(
            series(REQUESTS, {5.0: 10, 10.0: 14}, at="a"),
            *buckets({"10": {5.0: 1, 10.0: 2}, "+Inf": {5.0: 4, 10.0: 5}}, at="a"),
            series(REQUESTS, {4.0: 100, 9.0: 140, 14.0: 150}, at="b"),
            *buckets({"10": {4.0: 0, 9.0: 1, 14.0: 1}, "+Inf": {4.0: 9, 9.0: 10, 14.0: 10}}, at="b"),
        )
        assert counts_of(found) == [(5.0, 110, 0), (10.0, 154, 0)]
        assert found[1].histograms[Timing.END_TO_END].counts == (3, 15)

    def test_one_that_went_or_came_meanwhile(self) -> None:
        late = 10.0 + GONE_SECONDS + 1
        always = series(REQUESTS, {5.0: 1, 10.0: 2, late: 3}, at="a")
        with pytest.raises(SampleError, match="b is not scraped any more") as went:
            read(always, series(REQUESTS, {5.0: 1, 10.0: 2}, at="b"))
        with pytest.raises(SampleError, match="b came later") as came:
            read(always, series(REQUESTS, {late: 1}, at="b"))
        assert went.value.before == came.value.before == late
        again = scrapes(
            answer(always, series(REQUESTS, {5.0: 1, 10.0: 2}, at="b")), ENVOY, ARMS, since=went.value.before or 0.0
        )
        assert counts_of(again[ArmName.CANDIDATE]) == [(late, 3, 0)], "what follows holds again"

    def test_with_other_buckets(self) -> None:
        with pytest.raises(SampleError, match="different buckets"):
            read(
                series(REQUESTS, {5.0: 1}, at="a"),
                *buckets({"10": {5.0: 1}, "+Inf": {5.0: 1}}, at="a"),
                series(REQUESTS, {5.0: 1}, at="b"),
                *buckets({"25": {5.0: 1}, "+Inf": {5.0: 1}}, at="b"),
            )
