"""The service level, request by request, and goodput under it."""

import pytest
from made_windows import sample

from sartor_agents.measurement.samples import ErrorClass
from sartor_agents.measurement.slo import ServiceLevel, attainment, from_guardrails, goodput
from sartor_api.search.records import GuardrailLimit

# First token after 1 s, then 9 tokens in 2 s, end after 3 s.
ONE = sample(scheduled=0.0)


@pytest.mark.parametrize(
    ("level", "met"),
    [
        (ServiceLevel(), True),
        (ServiceLevel(ttft=1.0), True),
        (ServiceLevel(ttft=0.99), False),
        (ServiceLevel(inter_token=0.223), True),
        (ServiceLevel(inter_token=0.222), False),
        (ServiceLevel(end_to_end=3.0), True),
        (ServiceLevel(end_to_end=2.99), False),
        (ServiceLevel(ttft=1.0, inter_token=0.223, end_to_end=2.99), False),
    ],
)
def test_every_limit_has_to_be_met(level: ServiceLevel, met: bool) -> None:
    assert level.met_by(ONE) is met


def test_a_failed_request_meets_nothing_not_even_no_limits() -> None:
    assert not ServiceLevel().met_by(sample(error=ErrorClass.STALL))


def test_time_counts_from_the_scheduled_moment() -> None:
    assert not ServiceLevel(ttft=1.0).met_by(sample(scheduled=-0.5))


def test_a_single_chunk_has_no_gaps() -> None:
    assert ServiceLevel(inter_token=1e-9).met_by(sample(arrivals=((1.0, 10),)))


def test_goodput_and_attainment() -> None:
    level = ServiceLevel(ttft=1.0)
    samples = [ONE, ONE, sample(scheduled=-1.0), sample(error=ErrorClass.STATUS)]
    assert goodput(samples, 4.0, level) == 0.5
    assert attainment(samples, level) == 0.5
    assert (goodput([], 4.0, level), attainment([], level), goodput(samples, 0.0, level)) == (0.0, 0.0, 0.0)


def test_absolute_bounds_on_p99_are_the_service_level() -> None:
    limits = [
        GuardrailLimit(metric="ttftP99", at_most=0.8),
        GuardrailLimit(metric="ttftP50", at_most=0.1),
        GuardrailLimit(metric="interTokenLatencyP99", maximum_regression=0.1),
        GuardrailLimit(metric="endToEndLatencyP99", at_most=9.0),
    ]
    assert from_guardrails(limits) == ServiceLevel(ttft=0.8, end_to_end=9.0, attainment=0.99)
