"""A conversation ends with the record that was asked for, or with a reason; what a model does wrong costs it a turn."""

import itertools
from dataclasses import replace

import pytest
from conversation_world import PLAN, Notebook, Script, calls, converse, limits, says

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.backends.conversation.form import Form
from sartor_agents.backends.conversation.loop import (
    MOST_CALLS,
    STALE,
    STALE_ENDED,
    TRUNCATED,
    Conversation,
    Task,
)
from sartor_agents.backends.conversation.messages import Answer, Call, ContextTooLongError, End, Request, Result, Said
from sartor_agents.backends.protocol import BackendError
from sartor_api.search.records import FailureClass, Plan


def ended(conversation: Conversation[Plan], reason: str, blamed: FailureClass = FailureClass.CANDIDATE) -> BackendError:
    with pytest.raises(BackendError) as error:
        conversation.run()
    assert (error.value.reason, error.value.failure_class) == (reason, blamed)
    return error.value


# --- the way it should go ---------------------------------------------------------------------------------------------


def test_calls_are_carried_out_in_order_until_the_answer_is_the_record() -> None:
    notebook = Notebook()
    model = Script([calls("one", "two"), calls("three"), says(PLAN)])
    conversation = converse(model, notebook)
    assert conversation.run() == Plan(round=3, action="stop", hypothesis="nothing is left")
    assert notebook.notes == ["one", "two", "three"]
    assert [item.text for item in model.asked[-1].items if isinstance(item, Result)] == [
        "noted: one", "noted: two", "noted: three",
    ]  # fmt: skip
    assert (conversation.turns, conversation.use.total) == (3, 60)


def test_each_request_begins_with_the_one_before_it() -> None:
    model = Script([calls("one"), calls("two"), says("no plan"), says(PLAN)])
    converse(model).run()
    for before, now in itertools.pairwise(model.asked):
        assert (before.instructions, before.tools, before.schema) == (now.instructions, now.tools, now.schema)
        assert now.items[: len(before.items)] == before.items


# --- what models do wrong ---------------------------------------------------------------------------------------------


def test_wrong_calls_are_told_and_the_next_turn_mends_them() -> None:
    wrong = Answer(calls=(Call("a", "note", '{"text": '), Call("b", "nope", "{}"), Call("c", "note", '{"txt": 1}')))
    notebook = Notebook()
    model = Script([wrong, calls("right"), says(PLAN)])
    converse(model, notebook).run()
    results = [item for item in model.asked[1].items if isinstance(item, Result)]
    assert [result.failed for result in results] == [True, True, True]
    assert notebook.notes == ["right"]


def test_an_invalid_answer_has_one_repair_with_the_problem_told() -> None:
    model = Script([says('{"action": "fly", "hypothesis": "x"}'), says(PLAN)])
    converse(model).run()
    assert isinstance(model.asked[1].items[-1], Said)
    assert "action" in model.asked[1].items[-1].text


@pytest.mark.parametrize("second", ["still no JSON", "", '{"action": "build"}'])
def test_a_repair_that_is_invalid_too_ends_the_step(second: str) -> None:
    model = Script([says("I would rather talk."), says(second), says(PLAN)])
    ended(converse(model), "AnswerInvalid")
    assert len(model.asked) == 2


def test_an_empty_answer_is_not_sent_back() -> None:
    model = Script([says(""), says(PLAN)])
    converse(model).run()
    assert not [item for item in model.asked[1].items if isinstance(item, Answer)]


def test_a_record_that_does_not_fit_the_run_is_repaired_too() -> None:
    form = Form(
        "plan", Plan, {"kind": "plan", "round": 3}, lambda plan: None if plan.parent is None else "no such commit"
    )
    model = Script([says('{"action": "return", "parent": "abc", "hypothesis": "back"}'), says(PLAN)])
    assert Conversation(model, Task("n", "", "o", form), limits(), clock=lambda: 0.0).run().action == "stop"
    assert "no such commit" in model.asked[1].items[-1].text  # type: ignore[union-attr]


def test_an_answer_that_was_cut_is_no_answer() -> None:
    half = Answer(calls=(Call("a", "note", '{"text": "lo'),), end=End.CUT)
    model = Script([half, says(PLAN[:20], end=End.CUT), says(PLAN)])
    converse(model).run()
    assert model.asked[1].items[-1] == Said(TRUNCATED)
    assert TRUNCATED in model.asked[2].items[-1].text  # type: ignore[union-attr]


def test_too_many_calls_at_once_are_not_carried_out() -> None:
    notebook = Notebook()
    model = Script([calls(*(f"n{number}" for number in range(100))), says(PLAN)])
    converse(model, notebook).run()
    assert len(notebook.notes) == MOST_CALLS
    results = [item for item in model.asked[1].items if isinstance(item, Result)]
    assert len(results) == 100, "a provider wants a result for every call"


def test_going_round_in_circles_is_told_and_then_ended() -> None:
    model = Script([calls("a"), *[calls("b"), calls("a")] * 50])
    ended(converse(model), "Looping")
    assert len(model.asked) == 2 + STALE_ENDED
    assert any(item == Said(STALE) for item in model.asked[-1].items)


def test_the_same_check_after_each_change_is_no_circle() -> None:
    steps = [call for number in range(12) for call in (calls(f"edit {number}"), calls("check"))]
    converse(Script([*steps, says(PLAN)])).run()


def test_a_giant_answer_and_a_giant_result_stay_small_in_the_conversation() -> None:
    giant = Answer(text="very " * 600_000, calls=(Call("a", "note", '{"text": "x"}'),))
    model = Script([giant, says("very " * 600_000), says(PLAN)])
    converse(model, Notebook(answer=lambda _: "y" * 5_000_000), context_tokens=1_000_000).run()
    assert sum(len(item.text) for item in model.asked[-1].items) < 200_000


@pytest.mark.parametrize(("end", "reason"), [(End.REFUSED, "ModelRefused"), (End.FILTERED, "AnswerFiltered")])
def test_a_model_that_will_not_ends_the_step(end: End, reason: str) -> None:
    ended(converse(Script([says("I cannot help with that.", end=end)])), reason)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_before_the_turns_end_the_answer_is_asked_for() -> None:
    texts = (calls(f"n{number}") for number in range(100))
    model = Script([*itertools.islice(texts, 8), says(PLAN)])
    converse(model, turns=10).run()
    assert [request.may_call for request in model.asked] == [True] * 8 + [False]
    assert "final answer now" in model.asked[-1].items[-1].text  # type: ignore[union-attr]
    assert model.asked[-1].tools, "tools stay told, or the cached prefix would change"


def test_calls_after_the_last_turn_are_not_carried_out() -> None:
    notebook = Notebook()
    model = Script([calls(f"n{number}") for number in range(100)])
    ended(converse(model, notebook, turns=10), "AnswerInvalid")
    assert len(model.asked) == 10
    assert len(notebook.notes) == 8


def test_tokens_end_a_step_before_they_are_overdrawn() -> None:
    def spends(request: Request) -> Answer:
        most = request.maximum_output_tokens
        assert most is not None
        answer = calls(f"n{len(model.asked)}")
        return replace(answer, use=TokenUse(sum(len(item.text) for item in request.items) // 4, 0, min(18_000, most)))

    model = Script([spends])
    conversation = converse(model, tokens=100_000, maximum_output_tokens=20_000)
    with pytest.raises(BackendError) as error:
        conversation.run()
    assert error.value.reason in ("AnswerInvalid", "TokensSpent")
    assert 60_000 < conversation.use.total <= 100_000
    assert model.asked[-1].may_call is False, "it was told to come to an end"
    steep = converse(Script([calls("n", tokens=49_900)]), tokens=100_000)
    ended(steep, "TokensSpent")
    assert steep.use.total <= 100_000


def test_time_ends_a_step_and_is_warned_of() -> None:
    model = Script([calls(f"n{number}") for number in range(100)])
    ended(converse(model, clock=lambda: 40.0 * len(model.asked)), "AnswerInvalid")
    assert [request.may_call for request in model.asked] == [True] * 23 + [False] * 2
    late = Script([calls(f"n{number}") for number in range(100)])
    ended(converse(late, clock=lambda: 1000.0 if late.asked else 0.0), "TimeSpent")
    assert len(late.asked) == 1


# --- the context ------------------------------------------------------------------------------------------------------


def test_a_long_conversation_is_compacted_and_keeps_plan_and_failure() -> None:
    notebook = Notebook(fails=lambda text: text == "n3", answer=lambda text: f"{text}: " + "x" * 3000)
    model = Script([*(calls(f"n{number}", tokens=0) for number in range(60)), says(PLAN)])
    converse(model, notebook, turns=100, context_tokens=20_000).run()
    sizes = [sum(len(getattr(item, "text", "")) for item in request.items) for request in model.asked]
    assert max(sizes) < 60_000
    assert sum(1 for before, now in itertools.pairwise(sizes) if now < before) <= 8, "rarely, for the prompt cache"
    last = model.asked[-1].items
    assert last[0] == Said("The plan: be fast.")
    assert any("n3: xxx" in item.text for item in last), "the last failure"


def test_a_model_that_takes_less_than_was_told_gets_a_shorter_conversation() -> None:
    refused: list[int] = []

    def picky(request: Request) -> Answer:
        size = sum(len(item.text) for item in request.items)
        if size > 30_000:
            refused.append(size)
            raise ContextTooLongError("at most 10000 tokens")
        return calls(f"n{len(model.asked)}", tokens=0) if len(model.asked) < 60 else says(PLAN)

    model = Script([picky])
    converse(model, Notebook(answer=lambda text: text + "x" * 4000), context_tokens=100_000, turns=100).run()
    assert len(model.asked) >= 60
    assert 1 <= len(refused) <= 8, "once it is known, conversations stay below it"


def test_a_task_that_does_not_fit_at_all_says_what_to_raise() -> None:
    error = ended(
        converse(Script([says(PLAN)]), opening="x" * 90_000, context_tokens=8_000),
        "ContextTooSmall", FailureClass.INFRASTRUCTURE,
    )  # fmt: skip
    assert "contextTokens" in error.message


# --- the same again after a crash -------------------------------------------------------------------------------------


def test_calls_have_the_same_names_in_every_life_whatever_a_command_measured() -> None:
    def life(seconds: str) -> list[str]:
        model = Script([calls("a"), calls("b"), says(PLAN)])
        converse(model, Notebook(answer=lambda text: f"{text} took {seconds} s")).run()
        return [request.id for request in model.asked]

    assert life("3.1") == life("3.4")
    assert len(set(life("1"))) == 3
    assert all(name.startswith("003/plan/1/000") for name in life("1"))


def test_an_opening_that_tells_other_numbers_leaves_the_names_as_they_are() -> None:
    def life(opening: str) -> list[str]:
        model = Script([calls("a"), says(PLAN)])
        converse(model, opening=opening).run()
        return [request.id for request in model.asked]

    assert life("10 tokens are spent") == life("20 tokens are spent")


def test_another_outcome_makes_another_call() -> None:
    def life(fails: bool) -> list[str]:
        model = Script([calls("a"), says(PLAN)])
        converse(model, Notebook(fails=lambda _: fails)).run()
        return [request.id for request in model.asked]

    good, bad = life(False), life(True)
    assert good[0] == bad[0]
    assert good[1] != bad[1]


def test_recorded_answers_are_not_counted_again() -> None:
    recorded = Answer(calls=(Call("a", "note", "{}"),), use=calls("a").use, recorded=True)
    conversation = converse(Script([recorded, says(PLAN)]))
    conversation.run()
    assert conversation.use.total == 20
