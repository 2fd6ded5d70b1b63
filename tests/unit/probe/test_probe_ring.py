"""Records are numbered without gaps, forgotten in whole pairs, and read on from where a reader was."""

import pytest

from sartor_agents.probe.ring import Ring
from sartor_api.probe import PAGE_RECORDS, ProbeAsk, ProbePage, ProbeRecord


def pair(number: int) -> tuple[ProbeRecord, ProbeRecord]:
    one = ProbeRecord(
        pair=number,
        arm="baseline",
        arrival=1.5,
        position=1,
        outcome="ok",
        duration=0.25,
        gaps=((-7, 3),),
        output_tokens=4,
    )
    other = one.model_copy(update={"arm": "candidate", "position": 2, "agreed": False, "gaps": ()})
    return one, other


def filled(pairs: int, keep: int = 100) -> Ring:
    ring = Ring("boot", keep)
    for number in range(pairs):
        ring.add(pair(number))
    return ring


def page(ring: Ring, after: int = 0, boot: str | None = "boot") -> ProbePage:
    ask = ProbeAsk(boot=boot, after=after, share=0.5)
    return ProbePage.model_validate_json(ring.page(ask, now=20.0, complete_until=10.0, share=0.5))


def test_a_page_says_what_was_added() -> None:
    ring = filled(2)
    ring.counts.seen, ring.counts.chosen, ring.counts.unfit, ring.counts.dropped = 9, 8, 7, 6
    found = page(ring)
    assert found.records == (*pair(0), *pair(1)), "nothing is lost on the wire"
    assert (found.boot, found.first, found.next, found.more) == ("boot", 0, 4, False)
    assert (found.now, found.complete_until, found.share) == (20.0, 10.0, 0.5)
    assert (found.seen, found.chosen, found.unfit, found.dropped) == (9, 8, 7, 6)


def test_an_empty_ring_has_an_empty_page() -> None:
    found = page(Ring("boot", 10))
    assert (found.first, found.next, found.more, found.records) == (0, 0, False, ())


def test_reading_goes_on_where_it_was() -> None:
    ring = filled(3)
    assert [record.pair for record in page(ring, after=4).records] == [2, 2]
    assert page(ring, after=6).records == ()
    ring.add(pair(3))
    assert [record.pair for record in page(ring, after=6).records] == [3, 3]
    assert page(ring, after=6) == page(ring, after=6), "asking again is harmless"


def test_a_reader_from_the_future_is_brought_back() -> None:
    found = page(filled(3), after=1000)
    assert (found.first, found.next) == (6, 6)


@pytest.mark.parametrize("boot", [None, "another"])
def test_a_reader_of_another_boot_begins_anew(boot: str | None) -> None:
    assert page(filled(3), after=4, boot=boot).first == 0


@pytest.mark.parametrize(("keep", "kept"), [(6, 3), (5, 3), (1, 1)])
def test_the_oldest_pairs_are_forgotten_whole(keep: int, kept: int) -> None:
    ring = filled(10, keep)
    found = page(ring)
    assert [record.pair for record in found.records] == [n for n in range(10 - kept, 10) for _ in (0, 1)]
    assert (found.first, found.next) == (20 - 2 * kept, 20)
    assert [record.arm for record in found.records[:2]] == ["baseline", "candidate"]
    assert page(ring, after=18).records == pair(9)


def test_long_stories_are_told_in_pages() -> None:
    ring = filled(PAGE_RECORDS, keep=10 * PAGE_RECORDS)
    first = page(ring)
    assert (len(first.records), first.next, first.more) == (PAGE_RECORDS, PAGE_RECORDS, True)
    second = page(ring, after=first.next)
    assert (second.first, second.next, second.more) == (PAGE_RECORDS, 2 * PAGE_RECORDS, False)
    assert [record.pair for record in second.records][::2] == list(range(PAGE_RECORDS // 2, PAGE_RECORDS))


def test_nothing_cannot_be_kept() -> None:
    with pytest.raises(ValueError, match="0 records cannot be kept"):
        Ring("boot", 0)
