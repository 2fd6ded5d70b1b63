"""Which step is judged when: while somebody asks for it, one at a time, and never for more than a tenth of the time."""

from analysis_parts import START, asked

from sartor_api.serving_rollout import VerdictSummary
from sartor_operator.rollout.analysis.agenda import FORGET_SECONDS, Agenda, Followed
from sartor_operator.rollout.samples import Reading, StepAsked
from sartor_operator.times import at


def reading(outcome: str) -> Reading:
    return Reading(VerdictSummary.model_validate({"outcome": outcome, "at": at(START)}))


def follow(agenda: Agenda, step: StepAsked, now: float = 0.0) -> Followed:
    agenda.ask(step, now=now, wall=START + now)
    return next(f for f in agenda.live(now) if f.step == step)


def test_the_newest_reading_is_that_of_this_very_step() -> None:
    agenda = Agenda()
    assert agenda.ask(asked(since=START - 3600), now=0.0, wall=START).begun == START, "however long the step has lasted"
    one = follow(agenda, asked())
    assert agenda.judged(one, reading("pass"), None, began=0.0, ended=0.1)
    assert agenda.ask(asked(), now=1.0, wall=START) == reading("pass")
    assert agenda.ask(asked(number=2), now=1.0, wall=START) == Reading(), "another step"
    assert agenda.ask(asked(), now=1.0, wall=START) == Reading(), "what was before is forgotten"
    agenda.judged(follow(agenda, asked()), reading("pass"), None, began=2.0, ended=2.1)
    assert agenda.ask(asked(since=START + 5), now=3.0, wall=START) == Reading(), "the step began again"


def test_a_changed_policy_is_no_other_step() -> None:
    agenda = Agenda()
    agenda.judged(follow(agenda, asked()), reading("pass"), None, began=0.0, ended=0.1)
    assert agenda.ask(asked(weight=30), now=1.0, wall=START) == reading("pass")
    assert agenda.live(1.0)[0].step.weight == 30, "and it is judged by the newest"


def test_a_step_that_nobody_asks_for_is_forgotten() -> None:
    agenda = Agenda()
    follow(agenda, asked())
    agenda.ask(asked(uid="u2"), now=30.0, wall=START)
    assert len(agenda.live(FORGET_SECONDS)) == 2
    assert [f.step.uid for f in agenda.live(FORGET_SECONDS + 1)] == ["u2"]


def test_judging_takes_at_most_a_tenth_of_the_time() -> None:
    agenda = Agenda()
    one, other = follow(agenda, asked()), follow(agenda, asked(uid="u2"))
    assert agenda.next(0.0) is one
    agenda.judged(one, reading("pass"), None, began=0.0, ended=2.0)
    assert agenda.next(19.9) is None, "the other one waits, too"
    assert agenda.next(20.0) is other, "and is the one that has waited longest"
    agenda.judged(other, reading("pass"), None, began=20.0, ended=20.01)
    assert agenda.next(20.2) is one
    agenda.judged(one, reading("pass"), None, began=20.2, ended=20.21)
    assert agenda.next(20.9) is None and agenda.next(21.0) is other, "a step is looked at once a second at most"


def test_what_is_void_moves_the_begin_and_never_back() -> None:
    agenda = Agenda()
    one = follow(agenda, asked())
    agenda.judged(one, reading("error"), START + 40, began=0.0, ended=0.1)
    assert one.since == START + 40
    agenda.judged(one, reading("error"), START - 10, began=2.0, ended=2.1)
    assert one.since == START + 40


def test_only_another_outcome_is_news() -> None:
    agenda = Agenda()
    one = follow(agenda, asked())
    news = [
        agenda.judged(one, found, None, began=0.0, ended=0.0)
        for found in (reading("inconclusive"), reading("inconclusive"), None, reading("fail"), Reading(message="why"))
    ]
    assert news == [True, False, False, True, True], "a reason without a verdict is an error"
    assert agenda.ask(asked(), now=0.0, wall=START).message == "why"


def test_a_judgement_that_comes_too_late_changes_nothing() -> None:
    agenda = Agenda()
    one = follow(agenda, asked())
    follow(agenda, asked(number=2))
    assert not agenda.judged(one, reading("fail"), None, began=0.0, ended=0.1)
    assert agenda.ask(asked(number=2), now=1.0, wall=START) == Reading()
