"""An outage from records alone: seen within seconds where an arm is gone, and never where it only has trouble."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor_operator.rollout.analysis.reach import (
    CALM_SECONDS,
    FAILURES,
    HOLD_SECONDS,
    LONGEST_HOLD,
    RUN_SECONDS,
    Reach,
    out,
)
from sartor_operator.rollout.verdict.samples import ArmName, Outcome, Sample

START = 1_800_000_000.0
LOST = START + 120.0
"""When the arm goes, after two minutes of answers."""


def answered(end: float, seconds: float = 0.2, *, failed: bool = False) -> Sample:
    outcome, reason = (Outcome.FAILED, "500") if failed else (Outcome.OK, "")
    return Sample(end - seconds, ArmName.CANDIDATE, outcome, seconds, seconds / 2, reason)


def refused(end: float, flags: str = "UF", seconds: float = 0.0) -> Sample:
    return Sample(end - seconds, ArmName.CANDIDATE, Outcome.FAILED, seconds, None, flags)


def cut(end: float, flags: str, *, began: float | None) -> Sample:
    """A stream of ten seconds that ended too early; `began`: seconds from its arrival to its first byte."""
    return Sample(end - 10.0, ArmName.CANDIDATE, Outcome.CUT, 10.0, began, flags)


def times(begin: float, end: float, rate: float) -> list[float]:
    return [begin + n / rate for n in range(round((end - begin) * rate))]


class Arms:
    """The arm that is looked at, and the other one; `rate` requests a second each."""

    def __init__(self, rate: float = 15.0, *, before: bool = True) -> None:
        self.rate = rate
        self.arm, self.other = Reach(), Reach()
        if before:
            self.both(START, LOST)

    def both(self, begin: float, end: float) -> None:
        self.told(map(answered, times(begin, end, self.rate)))
        self.beside(begin, end)

    def told(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.arm.take(sample)

    def beside(self, begin: float, end: float, *, works: bool = True) -> None:
        for at in times(begin, end, self.rate):
            self.other.take(answered(at) if works else refused(at))

    def lost(self, begin: float, end: float, flags: str = "UF") -> None:
        """Only the other one answers."""
        self.told(refused(at, flags) for at in times(begin, end, self.rate))
        self.beside(begin, end)

    def out(self, now: float, *, whole: bool = True) -> bool:
        return out(self.arm, self.other, now, whole=whole) is not None

    def after(self, begin: float = LOST, seconds: float = 60.0, flags: str = "UF") -> float | None:
        """How long it takes until an arm that is gone is out; None where it never is."""
        for at in times(begin, begin + seconds, self.rate):
            self.told([refused(at, flags)])
            self.other.take(answered(at))
            if self.out(at):
                return at - begin
        return None


@pytest.mark.parametrize("flags", ["UF", "UH", "UF,URX"])
def test_a_lost_arm_is_out_after_seconds(flags: str) -> None:
    assert Arms().after(flags=flags) == pytest.approx(3.0, abs=0.1)


@pytest.mark.parametrize(("rate", "seconds"), [(100.0, 3.0), (2.0, 3.5), (0.5, 14.0)])
def test_with_less_traffic_it_takes_longer(rate: float, seconds: float) -> None:
    assert Arms(rate).after() == pytest.approx(seconds, abs=0.1)


def test_right_after_the_begin_of_a_step_less_is_known_and_it_takes_a_little_longer() -> None:
    arms = Arms(before=False)
    arms.both(LOST - 5.0, LOST)
    assert arms.after() == pytest.approx(4.8, abs=0.3)


def test_an_arm_that_never_answered_is_not_out() -> None:
    """What it should do is not known: it may not have begun to listen."""
    arms = Arms(before=False)
    arms.beside(START, LOST)
    assert arms.after() is None


@pytest.mark.parametrize(
    ("what", "sample"),
    [
        ("errors of the engine", lambda at: answered(at, failed=True)),
        ("streams that it cuts", lambda at: cut(at, "UC", began=0.1)),
        ("connections that it closes before it answers", lambda at: refused(at, "UC")),
        ("clients that leave before it answers", lambda at: cut(at, "DC", began=None)),
        ("the gateway's timeout", lambda at: refused(at, "UT")),
        ("overload that the gateway sheds", lambda at: refused(at, "UO")),
    ],
)
def test_whatever_else_goes_wrong_is_no_outage(what: str, sample: object) -> None:
    assert callable(sample)
    arms = Arms()
    for at in times(LOST, LOST + 60.0, arms.rate):
        arms.told([sample(at)])
        arms.beside(at, at + 1 / arms.rate)
        assert not arms.out(at), what


def test_one_endpoint_of_several_is_no_outage() -> None:
    arms = Arms()
    for number, at in enumerate(times(LOST, LOST + 60.0, arms.rate)):
        arms.told([answered(at) if number % 6 == 0 else refused(at)])
        arms.beside(at, at + 1 / arms.rate)
        assert not arms.out(at)


def test_refused_connects_among_long_streams_are_no_outage() -> None:
    """Streams of a minute come at 3 a second, and a third of the connects is refused: the log knows of the streams when they
    have ended, one a third of a second."""
    arms = Arms(3.0)
    for at in times(LOST, LOST + 60.0, 3.0):
        arms.told([refused(at), answered(at + 0.2, 60.0)])
        arms.beside(at, at + 1 / 3.0)
        assert not arms.out(at + 0.2)


def test_a_first_minute_of_streams_of_which_none_has_ended_yet_is_no_outage() -> None:
    arms = Arms(before=False)
    arms.beside(START, START + 60.0)
    arms.told(map(refused, times(START, START + 60.0, 1.0)))
    assert not arms.out(START + 60.0)


def test_answers_that_end_after_the_first_refusal_put_it_off() -> None:
    """An engine that shuts down goes on with what it has begun, and takes nothing new: out when its last answer is over."""
    arms = Arms()
    for at in times(LOST, LOST + 10.0, 5.0):
        arms.told([refused(at), answered(at + 0.1, 12.0)])
        arms.beside(at, at + 0.2)
        assert not arms.out(at + 0.1)
    assert arms.after(LOST + 10.0) == pytest.approx(3.0, abs=0.3)


def test_streams_that_break_with_the_node_are_no_sign_of_life() -> None:
    arms = Arms()
    arms.told(cut(LOST + 0.1, "UC", began=0.2) for _ in range(10))
    assert arms.after() == pytest.approx(3.0, abs=0.1)


def test_clients_that_give_up_on_a_silent_node_are_no_sign_of_life() -> None:
    """Connections that were open hang until their clients leave; new ones fail after the gateway's two seconds."""
    arms = Arms()
    for at in times(LOST + 2.0, LOST + 6.0, arms.rate):
        arms.told([refused(at, seconds=2.0), cut(at, "DC", began=None)])
        arms.beside(at, at + 1 / arms.rate)
    assert arms.out(LOST + 6.0)


def test_where_nothing_can_be_reached_nothing_is_out() -> None:
    arms = Arms()
    for at in times(LOST, LOST + 60.0, 2.0):
        arms.told([refused(at)])
        arms.beside(at, at + 0.5, works=False)
        assert not arms.out(at + 0.5)
        assert out(arms.other, arms.arm, at + 0.5, whole=True) is None


def test_an_arm_that_goes_a_moment_after_the_other_one_takes_nothing_over() -> None:
    """It answered beside enough of the failures; what it does now is what counts."""
    arms = Arms()
    arms.lost(LOST, LOST + RUN_SECONDS - 0.5)
    for at in times(LOST + RUN_SECONDS - 0.5, LOST + 60.0, arms.rate):
        arms.told([refused(at)])
        arms.other.take(refused(at))
        assert not arms.out(at)


def test_beside_an_arm_without_traffic_nothing_is_out() -> None:
    arms = Arms()
    arms.told(map(refused, times(LOST, LOST + 60.0, arms.rate)))
    assert not arms.out(LOST + 60.0)


def test_few_failures_are_none() -> None:
    arms = Arms()
    arms.beside(LOST, LOST + 30.0)
    arms.told(map(refused, times(LOST, LOST + 30.0, (FAILURES - 1) / 30.0)))
    assert not arms.out(LOST + 30.0)


def test_a_burst_of_refusals_is_none() -> None:
    """A restart that is over before anybody could know."""
    arms = Arms()
    arms.lost(LOST, LOST + RUN_SECONDS - 0.2)
    assert not arms.out(LOST + RUN_SECONDS - 0.2)
    arms.both(LOST + RUN_SECONDS, LOST + 60.0)
    assert not arms.out(LOST + 60.0)


def test_while_not_all_is_read_no_outage_begins_and_none_ends() -> None:
    arms = Arms()
    arms.lost(LOST, LOST + 5.0)
    assert not arms.out(LOST + 5.0, whole=False)
    assert arms.out(LOST + 5.0)
    assert arms.out(LOST + 6.0, whole=False)


def test_the_answers_of_another_gateway_are_signs_of_life() -> None:
    """Its log is read a moment later, and tells of the same time."""
    arms = Arms()
    arms.lost(LOST, LOST + 5.0)
    arms.told(map(answered, times(LOST + 1.0, LOST + 5.0, 5.0)))
    assert not arms.out(LOST + 5.0)


# --- its end --------------------------------------------------------------------------------------------------------


def down(arms: Arms) -> float:
    """When the last request failed of an arm that is out."""
    after = arms.after()
    assert after is not None
    assert arms.arm.run is not None
    return arms.arm.run.last


def test_it_is_out_for_longer_than_a_node_is_given_and_then_tried_again() -> None:
    arms = Arms()
    last = down(arms)
    assert arms.out(last + HOLD_SECONDS - 1.0)
    assert not arms.out(last + HOLD_SECONDS)


def test_each_time_that_it_is_still_gone_it_is_out_twice_as_long() -> None:
    arms, holds = Arms(), list[float]()
    last = down(arms)
    for _ in range(9):
        assert arms.arm.run is not None
        holds.append(arms.arm.run.hold)
        again = last + arms.arm.run.hold + 15.0
        assert not arms.out(again)
        arms.told([refused(again), refused(again + 0.1)])
        assert not arms.out(again + 0.1), "two may be chance"
        arms.told([refused(again + 0.2)])
        assert arms.out(again + 0.2)
        last = again + 0.2
    assert holds == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert holds[-1] == LONGEST_HOLD


def test_a_sign_of_life_ends_it() -> None:
    arms = Arms()
    last = down(arms)
    arms.told([answered(last + 1.0)])
    assert not arms.out(last + 1.0)


def test_endpoints_that_went_and_came_again_are_believed_until_it_fails_again() -> None:
    arms = Arms()
    last = down(arms)
    arms.arm.release()
    assert not arms.out(last + 1.0), "that it has no endpoints says all"
    arms.told(refused(last + n / 10) for n in (1, 2))
    assert not arms.out(last + 0.2)
    arms.told([refused(last + 0.3)])
    assert arms.out(last + 0.3), "ready on paper"
    assert arms.arm.run is not None and arms.arm.run.hold == 2 * HOLD_SECONDS


def test_endpoints_that_go_for_a_moment_in_trouble_that_is_no_outage_yet_change_nothing() -> None:
    arms = Arms()
    arms.lost(LOST, LOST + 1.0)
    arms.arm.release()
    assert arms.after(LOST + 1.0) == pytest.approx(2.0, abs=0.1)


def test_an_arm_that_comes_and_goes_is_held_for_longer_each_time_until_it_was_calm() -> None:
    arms = Arms()
    last = down(arms)
    arms.both(last + 1.0, last + 120.0)
    last = last + 120.0
    assert arms.after(last) is not None and arms.arm.run is not None
    assert arms.arm.run.hold == 2 * HOLD_SECONDS
    calm = arms.arm.run.last + 1.0
    arms.both(calm, calm + CALM_SECONDS + 10.0)
    assert arms.after(calm + CALM_SECONDS + 10.0) is not None and arms.arm.run is not None
    assert arms.arm.run.hold == HOLD_SECONDS


@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0.0, max_value=5.0),
            st.sampled_from(["answered", "refused", "cut", "late"]),
            st.booleans(),
        ),
        max_size=200,
    )
)
def test_an_arm_that_answers_now_is_never_out(story: list[tuple[float, str, bool]]) -> None:
    """Whatever was before, and whichever arm: the answer that came last ends an outage, and both are never out at once."""
    arms, now = Arms(), LOST
    for wait, what, mine in story:
        now += wait
        made = {
            "answered": answered(now),
            "refused": refused(now),
            "cut": cut(now, "UC", began=9.0),
            "late": answered(now - 0.4),
        }[what]
        (arms.arm if mine else arms.other).take(made)
        one, two = out(arms.arm, arms.other, now, whole=True), out(arms.other, arms.arm, now, whole=True)
        assert one is None or two is None
        if what == "answered":
            assert (one if mine else two) is None
