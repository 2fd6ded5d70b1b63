"""Compaction: short enough, nothing orphaned, and what must not be forgotten is there."""

from hypothesis import given
from hypothesis import strategies as st

from sartor_agents.backends.conversation.compaction import EVIDENCE, HEADING, TARGET, compact
from sartor_agents.backends.conversation.messages import Answer, Call, Item, Result, Said


def weigh(item: Item) -> int:
    return len(item.text) + (sum(len(call.arguments) for call in item.calls) if isinstance(item, Answer) else 0)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Item, ...]:
    items: list[Item] = [Said("the plan")]
    for turn in range(draw(st.integers(0, 30))):
        count = draw(st.integers(0, 3))
        made = tuple(Call(f"{turn}.{number}", "run", "a" * draw(st.integers(0, 50))) for number in range(count))
        items.append(Answer(text="t" * draw(st.integers(0, 200)), calls=made))
        items += [
            Result(call.id, "run", f"{call.id}:" + "r" * draw(st.integers(0, 3000)), draw(st.booleans()))
            for call in made
        ]
        if draw(st.booleans()):
            items.append(Said("note"))
    return tuple(items)


@given(conversations(), st.integers(20_000, 60_000))
def test_it_fits_and_keeps_what_matters(items: tuple[Item, ...], budget: int) -> None:
    kept = compact(items, budget=budget, weigh=weigh)
    assert kept[0] == items[0]
    calls = [call.id for item in kept if isinstance(item, Answer) for call in item.calls]
    assert calls == [item.call for item in kept if isinstance(item, Result)], "each call with its result, in order"
    failures = [item for item in items if isinstance(item, Result) and item.failed]
    if failures:
        start = failures[-1].text[:6]
        assert any(start in item.text for item in kept), "the last failure"
    last = max((place for place, item in enumerate(items) if isinstance(item, Answer)), default=None)
    if last is not None:
        assert items[last] in kept, "the latest answer"
    digest = sum(len(item.text) for item in kept if isinstance(item, Said) and item.digest)
    assert sum(map(weigh, kept)) <= max(TARGET * budget, digest + 3 * 3010 + 2000)
    if sum(map(weigh, items)) <= TARGET * budget:
        assert kept == items
    assert compact(items, budget=budget, weigh=weigh) == kept


def test_old_results_are_shortened_before_turns_are_left_out() -> None:
    items: list[Item] = [Said("the plan")]
    for turn in range(20):
        items += [Answer(calls=(Call(str(turn), "read", "{}"),)), Result(str(turn), "read", "x" * 2000)]
    kept = compact(items, budget=40_000, weigh=weigh)
    assert sum(isinstance(item, Answer) for item in kept) == 20
    assert "left out to save room" in kept[2].text
    assert kept[-1] == items[-1]


def test_what_was_done_is_listed_and_listed_again() -> None:
    items: list[Item] = [Said("the plan")]
    for turn in range(200):
        answer = Answer(text=f"thought {turn} " + "t" * 400, calls=(Call(str(turn), "run", '{"c": 1}'),))
        items += [answer, Result(str(turn), "run", f"error {turn}" if turn == 5 else f"fine {turn}", turn == 5)]
    once = compact(items, budget=30_000, weigh=weigh)
    digest = once[1]
    assert isinstance(digest, Said)
    assert digest.digest
    assert digest.text.startswith(HEADING)
    assert digest.text.endswith(f"{EVIDENCE}\nerror 5")
    more = [*once]
    for turn in range(200, 300):
        more += [Answer(text="t" * 400, calls=(Call(str(turn), "run", "{}"),)), Result(str(turn), "run", "fine")]
    twice = compact(more, budget=30_000, weigh=weigh)
    assert sum(isinstance(item, Said) and item.digest for item in twice) == 1
    assert twice[1].text.endswith(f"{EVIDENCE}\nerror 5"), "it stays until a later failure takes its place"
    assert len(twice[1].text) < 60_000
