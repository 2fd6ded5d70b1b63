"""One window for all sources, and what is concluded where one of them is silent."""

from dataclasses import replace

import pytest
from analysis_parts import START, samples, spec

from sartor_api.conditions import Reason
from sartor_operator.rollout.analysis.outcome import conclude
from sartor_operator.rollout.analysis.sight import SILENT_SECONDS, Sight, SourceState, together
from sartor_operator.rollout.verdict.judge import Policy
from sartor_operator.rollout.verdict.samples import ArmName, Observed, Source

LOG, PROBE, PROMETHEUS = Source.GATEWAY_ACCESS_LOG, Source.PROBE, Source.PROMETHEUS
BASELINE, CANDIDATE = ArmName.BASELINE, ArmName.CANDIDATE
BOTH = Policy.of(spec(("gatewayAccessLog", "probe")))


def state(
    source: Source, until: float | None, *, since: float = 0.0, trouble: str = "", failing: int = 0
) -> SourceState:
    """A source with 300 s of requests, ten a second in either arm."""
    return SourceState(
        source, since, until, trouble,
        baseline=samples(BASELINE, START, 3000, source=source),
        candidate=samples(CANDIDATE, START, 3000, failing=failing, source=source),
    )  # fmt: skip


def seen(*states: SourceState, now: float, since: float = START, begun: float = START) -> Sight:
    return together(states, since=since, begun=begun, now=now)


def observed(sight: Sight) -> Observed:
    assert sight.observed is not None
    return sight.observed


def test_the_window_is_what_all_sources_know() -> None:
    now = START + 300
    sight = seen(state(LOG, now - 1, since=START + 20), state(PROBE, now - 9, since=START + 50), now=now)
    assert (observed(sight).since, observed(sight).read_until) == (START + 50, now - 9)
    assert not sight.silent and len(observed(sight).candidate.requests) == 6000
    assert observed(seen(state(LOG, now), now=now, since=START + 100)).since == START + 100
    later = seen(state(LOG, START + 10), now=START + 10, since=START + 12)
    assert observed(later).since == observed(later).read_until == START + 12, (
        "never a window that ends before it begins"
    )


def test_a_source_in_trouble_holds_the_others_up_no_longer() -> None:
    now = START + 300
    sight = seen(state(LOG, now - 1), state(PROBE, now - 30, trouble="it is away"), now=now)
    assert observed(sight).read_until == now - 1 and not sight.silent
    sight = seen(state(LOG, now - 1), state(PROBE, now - 70, trouble="it is away"), now=now)
    assert observed(sight).read_until == now - 1
    assert sight.silent == ("probe: nothing for 70 s: it is away",)


def test_a_source_that_answers_and_has_nothing_new_is_silent_too() -> None:
    now = START + 300
    sight = seen(state(LOG, now), state(PROMETHEUS, now - SILENT_SECONDS - 1), now=now)
    assert observed(sight).read_until == now
    assert sight.silent == ("prometheus: nothing for 61 s: it can be read, and has nothing new",)
    assert not seen(state(LOG, now), state(PROMETHEUS, now - SILENT_SECONDS), now=now).silent


def test_one_that_was_never_read_has_its_time_from_when_somebody_began_to_read() -> None:
    never = SourceState(PROBE, trouble="it is away")
    assert seen(never, now=START + 60) == Sight(None)
    assert seen(never, now=START + 61).silent == ("probe: nothing for 61 s: it is away",)
    assert seen(never, now=START + 900, begun=START + 880) == Sight(None), "a new process has just begun"
    lasting = replace(never, lasting=True)
    assert seen(lasting, now=START).silent == ("probe: it is away",), "no time heals that"


# --- conclusions ----------------------------------------------------------------------------------------------------


def concluded(sight: Sight, now: float, policy: Policy = BOTH) -> tuple[str, str, str]:
    reading = conclude(sight, policy, now).reading
    assert reading is not None and reading.verdict is not None
    return reading.verdict.outcome, str(reading.reason), reading.verdict.message


def test_with_all_sources_the_judge_decides() -> None:
    now = START + 300
    found = conclude(seen(state(LOG, now), state(PROBE, now), now=now), BOTH, now).reading
    assert found is not None and found.verdict is not None and found.verdict.outcome == "pass"
    assert (found.baseline.samples, found.candidate.samples, found.candidate.errors) == (3000, 3000, 0)
    assert found.verdict.at.timestamp() == now


@pytest.mark.parametrize(("failing", "outcome"), [(0, "error"), (3, "fail")])
def test_a_silent_source_leaves_nothing_but_a_broken_bound(failing: int, outcome: str) -> None:
    now = START + 300
    lost = state(PROBE, now - 100, trouble="it is away")
    said, reason, message = concluded(seen(state(LOG, now, failing=failing), lost, now=now), now)
    assert said == outcome
    if outcome == "error":
        assert (reason, message) == ("NoSamples", "probe: nothing for 100 s: it is away")
    else:
        assert reason == "GuardrailFailed" and "is broken" in message


def test_a_regression_after_a_source_went_silent_is_seen() -> None:
    """What the log says of the last minutes counts although the probe ended before it began."""
    now = START + 300
    good = samples(CANDIDATE, START, 1800)
    bad = samples(CANDIDATE, START + 180, 1200, failing=3)
    log = replace(state(LOG, now), candidate=replace(good, requests=[*good.requests, *bad.requests]))
    lost = state(PROBE, START + 170, trouble="it is away")
    assert concluded(seen(log, lost, now=now), now)[0] == "fail"


def test_without_any_source_it_is_an_error_once_it_has_lasted() -> None:
    away = SourceState(LOG, trouble="no such file")
    assert conclude(seen(away, now=START + 30), BOTH, START + 30).reading is None
    said = concluded(seen(away, now=START + 75), START + 75)
    assert said == ("error", "NoSamples", "gatewayAccessLog: nothing for 75 s: no such file")


def test_a_doubt_of_the_judge_comes_along() -> None:
    now = START + 300
    log = state(LOG, now)
    log = replace(log, baseline=samples(BASELINE, START, 3000, failing=1), candidate=samples(CANDIDATE, START, 3000))
    said, reason, message = concluded(seen(log, state(PROBE, now - 100, trouble="it is away"), now=now), now)
    assert (said, reason) == ("error", Reason.BASELINE_NOT_READY)
    assert message.startswith("probe: nothing for 100 s: it is away; ") and "no yardstick" in message


def test_what_the_judge_calls_void_is_handed_on() -> None:
    ahead = state(LOG, START + 20)  # its newest requests come from 300 s after the step began
    found = conclude(seen(ahead, now=START + 20), BOTH, START + 20)
    assert found.reading is not None and found.reading.reason is Reason.CLOCK_JUMPED
    assert found.void_before == START + 20
