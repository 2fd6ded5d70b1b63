"""The verdict as a whole: its four outcomes, and everything that must freeze a rollout instead of deciding it."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor_api.conditions import Reason
from sartor_api.objective import Guardrail, Objective
from sartor_api.rollout_policy import Analysis
from sartor_api.serving_rollout import ServingRolloutSpec, VerdictSummary
from sartor_operator.rollout.verdict import (
    DEFAULT_GUARDRAILS,
    ArmName,
    ArmSamples,
    GapSketch,
    Histogram,
    Observed,
    Outcome,
    Policy,
    Sample,
    Scrape,
    Source,
    Timing,
    judge,
    verdict,
)

BEGIN = 1_700_000_000.0
ERRORS = Guardrail.model_validate({"metric": "errorRate", "maximumRegression": "1%"})
WHOLE = Guardrail.model_validate({"metric": "endToEndLatencyP99", "maximumRegression": "10%"})
CANDIDATE, BASELINE = ArmName.CANDIDATE, ArmName.BASELINE


def guardrail(metric: str, **bounds: str) -> Guardrail:
    return Guardrail.model_validate({"metric": metric, **bounds})


def policy(*guardrails: Guardrail, **analysis: Any) -> Policy:
    return Policy(Analysis.model_validate(analysis), guardrails or (ERRORS, WHOLE), 3)


def requests(
    arm: ArmName,
    n: int,
    seed: int,
    *,
    ratio: float = 1.0,
    fails: Callable[[float], float] = lambda t: 0.0,
    seconds: float = 600.0,
) -> list[Sample]:
    """`n` requests over the step; `fails` is the probability of a failure at a time into the step."""
    rng = random.Random(seed)
    found: list[Sample] = []
    for _ in range(n):
        into = rng.uniform(0, seconds)
        took = round(ratio * 0.1 * math.exp(0.3 * rng.gauss(0, 1)), 3)
        failed = rng.random() < fails(into)
        outcome = Outcome.FAILED if failed else Outcome.OK
        found.append(
            Sample(BEGIN + into, arm, outcome, took, None if failed else took / 2, reason="503" if failed else "")
        )
    return found


def step(
    candidate: Sequence[Sample] = (),
    baseline: Sequence[Sample] = (),
    *,
    seconds: float = 600.0,
    **scrapes: Sequence[Scrape],
) -> Observed:
    return Observed(
        baseline=ArmSamples(baseline, scrapes.get("baseline_scrapes", ())),
        candidate=ArmSamples(candidate, scrapes.get("candidate_scrapes", ())),
        since=BEGIN,
        read_until=BEGIN + seconds,
    )


def usual(**change: Any) -> Observed:
    return step(requests(CANDIDATE, 3000, 1, **change), requests(BASELINE, 9000, 2))


def now(seconds: float = 600.0) -> float:
    return BEGIN + seconds


# --- pass, fail, inconclusive --------------------------------------------------------------------------------------------


def test_a_faster_candidate_passes_and_says_why() -> None:
    found = judge(usual(ratio=0.6), policy(), now())
    assert (found.summary.outcome, found.reason) == ("pass", Reason.SUCCEEDED)
    told = "every guardrail holds. error rate: candidate 0 % of 3,000 requests, baseline 0 %"
    assert found.summary.message.startswith(told)
    errors, whole = found.summary.guardrails
    assert (errors.metric, errors.outcome) == ("errorRate", "pass")
    assert whole.source == "gatewayAccessLog, 1 ms"
    assert whole.baseline is not None and whole.candidate is not None
    assert float(whole.candidate) / float(whole.baseline) == pytest.approx(0.6, abs=0.1)
    assert (found.candidate.samples, found.baseline.samples) == (3000, 9000)


def test_errors_fail_whatever_the_latency_is() -> None:
    found = judge(usual(ratio=0.6, fails=lambda t: 0.05), policy(), now())
    assert (found.summary.outcome, found.reason) == ("fail", Reason.GUARDRAIL_FAILED)
    assert (
        "error rate: candidate 5" in found.summary.message
        and "at most 1 points worse than the baseline is broken" in (found.summary.message)
    )
    assert found.candidate.errors == pytest.approx(150, abs=40) and found.baseline.errors == 0


def test_slow_fails() -> None:
    found = verdict(usual(ratio=2.0), policy(), now())
    assert found.outcome == "fail"
    assert [state.outcome for state in found.guardrails] == ["pass", "fail"]
    assert "surely" in found.message and "times the baseline's or worse" in found.message


def test_what_is_not_known_yet_is_inconclusive_and_says_how_much_is_lacking() -> None:
    small = step(requests(CANDIDATE, 400, 1), requests(BASELINE, 4000, 2))
    found = verdict(small, policy(ERRORS), now())
    assert found.outcome == "inconclusive"
    assert "is not known yet" in found.message and "more requests of the candidate show it" in found.message


def test_too_few_samples_never_pass() -> None:
    few = step(requests(CANDIDATE, 299, 1, ratio=0.1), requests(BASELINE, 9000, 2))
    wide = guardrail("errorRate", maximumRegression="50%")
    assert "the candidate has 299 of the 300 requests" in verdict(few, policy(wide), now()).message
    assert verdict(few, policy(wide, minimumSamples=299), now()).outcome == "pass"


def test_nothing_is_decided_in_the_first_minute() -> None:
    for seconds, outcome in ((55, "inconclusive"), (65, "fail")):
        mine = requests(CANDIDATE, 900, 1, fails=lambda t: 1.0, seconds=seconds)
        theirs = requests(BASELINE, 900, 2, seconds=seconds)
        assert verdict(step(mine, theirs, seconds=seconds), policy(), now(seconds)).outcome == outcome


def test_a_regression_in_the_middle_of_a_step_is_not_drowned_by_what_went_well() -> None:
    long = 7200.0
    mine = requests(CANDIDATE, 36_000, 1, fails=lambda t: 0.10 if t > long - 240 else 0.0, seconds=long)
    found = verdict(step(mine, requests(BASELINE, 36_000, 2, seconds=long), seconds=long), policy(ERRORS), now(long))
    assert found.outcome == "fail" and "in the last" in found.message


def test_a_burst_of_errors_is_no_regression() -> None:
    """20 s in which two of three requests fail: 2.2 % of all in 10 minutes, and one event."""
    mine = requests(CANDIDATE, 9000, 1, fails=lambda t: 0.66 if 300 < t < 320 else 0.0)
    assert verdict(step(mine, requests(BASELINE, 9000, 2)), policy(ERRORS), now()).outcome == "inconclusive"


def test_only_the_same_time_counts() -> None:
    """What lies before the step, or was not read of both arms yet, is left out."""
    good = usual(ratio=0.6)
    bad = [replace(s, outcome=Outcome.FAILED, arrival=s.arrival - 700) for s in requests(CANDIDATE, 3000, 5)]
    late = [replace(s, outcome=Outcome.FAILED, arrival=BEGIN + 600.5) for s in requests(CANDIDATE, 3000, 6)]
    mixed = replace(good, candidate=ArmSamples([*bad, *good.candidate.requests, *late]))
    assert verdict(mixed, policy(), now(602)) == verdict(good, policy(), now(602))


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(rng: random.Random) -> None:
    observed = step(requests(CANDIDATE, 500, 1, fails=lambda t: 0.02), requests(BASELINE, 500, 2))
    shuffled = list(observed.candidate.requests)
    rng.shuffle(shuffled)
    again = replace(observed, candidate=ArmSamples(shuffled))
    assert judge(again, policy(), now()) == judge(observed, policy(), now())


# --- freezing ------------------------------------------------------------------------------------------------------------


def doubts() -> list[tuple[str, Observed, float, Reason, str]]:
    fine = usual()
    nan = replace(fine.candidate.requests[7], duration=math.nan)
    gone = [s for s in fine.baseline.requests if s.arrival < BEGIN + 400]
    down = requests(BASELINE, 9000, 2, fails=lambda t: 1.0 if t > 450 else 0.0)
    both = requests(CANDIDATE, 9000, 1, fails=lambda t: 1.0 if t > 450 else 0.0)
    return [
        ("no source was read", replace(fine, read_until=BEGIN + 500), now(), Reason.NO_SAMPLES, "be read for 100 s"),
        ("no traffic", step(), now(600), Reason.NO_SAMPLES, "no requests of either arm"),
        ("not a number", replace(fine, candidate=ArmSamples([nan])), now(), Reason.NO_SAMPLES, "duration is nan"),
        ("the clock went back", fine, now(500), Reason.CLOCK_JUMPED, "in the future"),
        ("before the step", fine, BEGIN - 60, Reason.CLOCK_JUMPED, "the step began 60 s in the future"),
        ("the candidate hangs", replace(fine, candidate=ArmSamples()), now(), Reason.NO_SAMPLES, "do its streams hang?"),
        ("baseline dead", replace(fine, baseline=ArmSamples(gone)), now(), Reason.BASELINE_NOT_READY, "is it dead?"),
        ("baseline fails", replace(fine, baseline=ArmSamples(down)), now(), Reason.BASELINE_NOT_READY, "no yardstick"),
        ("both fail", step(both, down), now(), Reason.BOTH_ARMS_BAD, "of the candidate's"),
        ("wrong arm", replace(fine, candidate=fine.baseline), now(), Reason.NO_SAMPLES, "was given as one of"),
    ]  # fmt: skip


@pytest.mark.parametrize(("observed", "at", "reason", "words"), [d[1:] for d in doubts()], ids=[d[0] for d in doubts()])
def test_in_doubt_nothing_is_decided(observed: Observed, at: float, reason: Reason, words: str) -> None:
    found = judge(observed, policy(), at)
    assert (found.summary.outcome, found.reason) == ("error", reason)
    assert words in found.summary.message


def test_a_step_that_has_just_begun_waits_for_its_samples() -> None:
    assert verdict(step(seconds=100), policy(), now(100)).outcome == "inconclusive"
    assert verdict(step(seconds=130), policy(), now(130)).outcome == "error"


def test_a_sample_of_the_future_is_a_clock_that_jumped() -> None:
    ahead = replace(usual().candidate.requests[0], arrival=BEGIN + 900)
    found = judge(replace(usual(), candidate=ArmSamples([ahead])), policy(), now())
    assert found.reason is Reason.CLOCK_JUMPED and found.void_before == now()


def test_an_absolute_bound_that_both_break_says_nothing() -> None:
    observed = step(requests(CANDIDATE, 3000, 1, ratio=2), requests(BASELINE, 3000, 2, ratio=2))
    found = judge(observed, policy(guardrail("endToEndLatencyP99", atMost="250ms")), now())
    assert (found.summary.outcome, found.reason) == ("error", Reason.BOTH_ARMS_BAD)
    good = step(requests(CANDIDATE, 3000, 1, ratio=2), requests(BASELINE, 3000, 2))
    assert verdict(good, policy(guardrail("endToEndLatencyP99", atMost="250ms")), now()).outcome == "fail"
    fast = step(requests(CANDIDATE, 3000, 1, ratio=0.8), requests(BASELINE, 3000, 2))
    assert verdict(fast, policy(guardrail("endToEndLatencyP99", atMost="250ms")), now()).outcome == "pass"


def test_a_fail_stands_although_another_guardrail_has_no_samples() -> None:
    found = verdict(usual(fails=lambda t: 0.05), policy(ERRORS, guardrail("interTokenLatencyP99", atMost="1s")), now())
    assert found.outcome == "fail" and found.guardrails[1].outcome == "error"


def test_figures_that_no_configured_source_has_are_named() -> None:
    wanted = guardrail("interTokenLatencyP99", maximumRegression="10%")
    found = verdict(usual(), policy(wanted, sources=["gatewayAccessLog"]), now())
    assert found.outcome == "error" and "add probe to policy.analysis.sources" in found.message


# --- other metrics -------------------------------------------------------------------------------------------------------


def probed(
    arm: ArmName, n: int, seed: int, *, gap: float = 0.03, agree: float = 1.0, tokens: int = 5, ratio: float = 1.0
) -> list[Sample]:
    rng = random.Random(seed)
    return [
        replace(
            sample,
            source=Source.PROBE,
            resolution=0.0,
            gaps=GapSketch.of(gap * math.exp(0.2 * rng.gauss(0, 1)) for _ in range(20)),
            output_tokens=tokens,
            agreed=rng.random() < agree,
        )
        for sample in requests(arm, n, seed, ratio=ratio)
    ]


@pytest.mark.parametrize(
    ("bound", "candidate", "outcome"),
    [
        ({"metric": "interTokenLatencyP99", "maximumRegression": "10%"}, {"gap": 0.02}, "pass"),
        ({"metric": "interTokenLatencyP99", "maximumRegression": "10%"}, {"gap": 0.045}, "fail"),
        ({"metric": "interTokenLatencyP50", "atMost": "40ms"}, {}, "pass"),
        ({"metric": "outputTokensPerSecond", "maximumRegression": "20%"}, {"tokens": 6}, "pass"),
        ({"metric": "outputTokensPerSecond", "maximumRegression": "20%"}, {"tokens": 3}, "fail"),
        ({"metric": "outputTokensPerSecond", "atLeast": "20"}, {}, "pass"),
        ({"metric": "outputTokensPerSecond", "atLeast": "100"}, {}, "error"),
        ({"metric": "outputAgreement", "atLeast": "95%"}, {}, "pass"),
        ({"metric": "outputAgreement", "atLeast": "99%"}, {"agree": 0.9}, "fail"),
        ({"metric": "outputAgreement", "maximumRegression": "2%"}, {"agree": 0.9}, "fail"),
    ],
)
def test_what_a_probe_sees(bound: dict[str, str], candidate: dict[str, Any], outcome: str) -> None:
    observed = step(probed(CANDIDATE, 1500, 1, **candidate), probed(BASELINE, 1500, 2))
    found = verdict(observed, policy(Guardrail.model_validate(bound)), now())
    assert found.outcome == outcome, found.message
    assert found.guardrails[0].source.startswith("probe")


def test_more_hand_overs_are_a_guardrail() -> None:
    handed = [replace(s, handed_over=i % 5 == 0) for i, s in enumerate(requests(CANDIDATE, 2000, 1))]
    found = judge(step(handed, requests(BASELINE, 2000, 2)), policy(guardrail("handoverRate", atMost="10%")), now())
    assert found.summary.outcome == "fail" and found.candidate.handovers == 400
    allowed = policy(guardrail("handoverRate", atMost="30%"))
    assert verdict(step(handed, requests(BASELINE, 2000, 2)), allowed, now()).outcome == "pass"


def test_agreement_with_the_baseline_needs_no_baseline_where_the_bound_is_absolute() -> None:
    mine = probed(CANDIDATE, 1500, 1)
    theirs = [replace(s, agreed=None) for s in probed(BASELINE, 1500, 2)]
    assert verdict(step(mine, theirs), policy(guardrail("outputAgreement", atLeast="95%")), now()).outcome == "pass"
    found = verdict(step(mine, theirs), policy(guardrail("outputAgreement", maximumRegression="5%")), now())
    assert found.outcome == "error" and "none of the baseline" in found.message


def test_a_probe_s_requests_do_not_count_twice() -> None:
    both = step(
        [*requests(CANDIDATE, 3000, 1, ratio=0.6), *probed(CANDIDATE, 500, 3)],
        [*requests(BASELINE, 9000, 2), *probed(BASELINE, 500, 4)],
    )
    found = judge(both, policy(), now())
    assert (found.candidate.samples, found.baseline.samples) == (3000, 9000)
    assert all(state.source.startswith("gatewayAccessLog") for state in found.summary.guardrails)


# --- counters ------------------------------------------------------------------------------------------------------------

EDGES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, math.inf)


def scrapes(arm: ArmName, n: int, seed: int, *, every: float = 15.0, **change: Any) -> list[Scrape]:
    samples = sorted(requests(arm, n, seed, **change), key=lambda s: s.arrival)
    found: list[Scrape] = []
    for i in range(int(600 / every) + 1):
        seen = [s for s in samples if s.arrival <= BEGIN + i * every]
        times = [math.inf if s.failed else s.duration for s in seen]
        counts = tuple(float(sum(t <= edge for t in times)) for edge in EDGES)
        found.append(
            Scrape(
                BEGIN + i * every,
                len(seen),
                sum(s.failed for s in seen),
                None,
                {Timing.END_TO_END: Histogram(EDGES, counts)},
            )
        )
    return found


PROMETHEUS = {"sources": ["prometheus"], "prometheusAddress": "http://prometheus:9090"}


def counted(**change: Any) -> Observed:
    return step(candidate_scrapes=scrapes(CANDIDATE, 2000, 1, **change), baseline_scrapes=scrapes(BASELINE, 4000, 2))


def test_histograms_alone_see_what_is_large() -> None:
    slow = verdict(counted(ratio=5.0), policy(**PROMETHEUS), now())
    assert slow.outcome == "fail"
    assert slow.guardrails[1].source == "prometheus, a bucket from 800 ms to 1600 ms"
    assert verdict(counted(ratio=1.4), policy(**PROMETHEUS), now()).outcome == "inconclusive"
    assert verdict(counted(ratio=0.25), policy(**PROMETHEUS), now()).outcome == "pass"
    assert verdict(counted(fails=lambda t: 0.05), policy(ERRORS, **PROMETHEUS), now()).outcome == "fail"


def test_a_counter_reset_freezes_and_says_what_is_void() -> None:
    observed = counted()
    reset = [
        replace(s, requests=s.requests / 4, histograms={Timing.END_TO_END: Histogram(EDGES, tuple(
            c / 4 for c in s.histograms[Timing.END_TO_END].counts))}) if s.at >= BEGIN + 300 else s
        for s in observed.candidate.scrapes
    ]  # fmt: skip
    found = judge(replace(observed, candidate=ArmSamples(scrapes=reset)), policy(**PROMETHEUS), now())
    assert found.summary.outcome == "error" and "fell from" in found.summary.message
    assert found.void_before == BEGIN + 300
    again = replace(observed, candidate=ArmSamples(scrapes=reset), since=found.void_before)
    assert judge(again, policy(**PROMETHEUS), now()).summary.outcome == "inconclusive"


# --- the rest ------------------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_a_synthesis() -> None:
    assert Objective().guardrails == DEFAULT_GUARDRAILS


def test_a_rollout_without_guardrails_has_the_defaults_and_pauses_get_no_verdict() -> None:
    spec = ServingRolloutSpec.model_validate(
        {
            "baseline": {"service": "a"},
            "candidate": {"service": "b"},
            "policy": {"parentRefs": [{"name": "g"}], "steps": [{"weight": 5}, {"pause": {}}, {"weight": 50}]},
        }
    )
    found = Policy.of(spec)
    assert (found.guardrails, found.steps) == (DEFAULT_GUARDRAILS, 2)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 400),
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(0.05, 20),
    st.floats(-100, 2000),
    st.floats(0, 1500),
)
def test_it_is_total_and_its_answer_is_always_a_valid_object(
    n: int, n_b: int, fails: float, ratio: float, at: float, read: float
) -> None:
    observed = replace(
        step(requests(CANDIDATE, n, n, ratio=ratio, fails=lambda t: fails), requests(BASELINE, n_b, n_b + 1)),
        read_until=BEGIN + read,
    )
    wanted = policy(ERRORS, WHOLE, guardrail("endToEndLatencyP50", atMost="1s", maximumRegression="0%"))
    found = judge(observed, wanted, BEGIN + at)
    assert VerdictSummary.model_validate(found.summary.to_dict(defaults=True)).outcome == found.summary.outcome
    assert found.summary.message
    if min(n, n_b) < 300:
        assert found.summary.outcome != "pass"


def test_the_first_byte_at_a_gateway_is_no_first_token() -> None:
    """vLLM sends its status line when it has accepted a stream: the access log cannot tell who is slow to say something."""
    bound = guardrail("ttftP99", maximumRegression="10%")
    seen = verdict(usual(ratio=0.5), policy(bound, sources=["gatewayAccessLog"]), now())
    assert seen.outcome == "error" and "no gateway sees this; add probe" in seen.message
    candidate = [*requests(CANDIDATE, 3000, 1, ratio=2.0), *probed(CANDIDATE, 2000, 3, ratio=0.5)]
    both = step(candidate, [*requests(BASELINE, 9000, 2), *probed(BASELINE, 2000, 4)])
    found = verdict(both, policy(bound), now())
    assert found.outcome == "pass" and found.guardrails[0].source.startswith("probe"), found.message
    hanging = [replace(s, outcome=Outcome.FAILED) for s in probed(CANDIDATE, 2000, 3)]
    hung = step([*requests(CANDIDATE, 3000, 1), *hanging], [*requests(BASELINE, 9000, 2), *probed(BASELINE, 2000, 4)])
    assert verdict(hung, policy(bound), now()).outcome == "fail", (
        "a probe that waits in vain is a first token that never came"
    )


def test_failing_fast_wins_nothing() -> None:
    """A request that failed is infinitely slow, however soon its error came."""
    found = verdict(usual(ratio=0.3, fails=lambda t: 0.05), policy(WHOLE), now())
    assert found.outcome == "fail" and found.guardrails[0].candidate is None, found.message
