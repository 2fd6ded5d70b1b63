"""A probe's pages as samples: all of them or none of that time, however often it is started anew."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from analysis_parts import START, Sources, asked, page, pair, spec, unreadable

from sartor_api.probe import ProbePage, ProbeRecord
from sartor_operator.rollout.analysis.fetch import UnreadableError
from sartor_operator.rollout.analysis.probe import PAGES, ProbeReader, share_of
from sartor_operator.rollout.analysis.probe_records import LATE_SECONDS, SLACK_SECONDS, ProbeRecords
from sartor_operator.rollout.verdict.samples import ArmName, GapSketch, Outcome, Source

BASELINE, CANDIDATE = ArmName.BASELINE, ArmName.CANDIDATE


def arrivals(records: ProbeRecords, arm: ArmName = CANDIDATE) -> list[float]:
    return [s.arrival for s in records.arm(arm).requests]


def pairs(*moments: float, first: int = 0) -> list[ProbeRecord]:
    return [record for n, moment in enumerate(moments) for record in pair(first + n, moment)]


def test_a_record_is_a_sample() -> None:
    records = ProbeRecords(START)
    changes: dict[str, Any] = {"outcome": "cut", "reason": "reset", "agreed": None, "handed_over": True, "gaps": None}
    records.take(page(pair(0, START + 1, **changes), 0, START + 5), now=START + 5)
    ok, cut = records.arm(BASELINE).requests[0], records.arm(CANDIDATE).requests[0]
    assert (ok.arrival, ok.outcome, ok.duration, ok.first_byte, ok.source) == (
        START + 1,
        Outcome.OK,
        1.0,
        0.2,
        Source.PROBE,
    )
    assert ok.gaps == GapSketch(((-150, 20), (-140, 3))) and ok.output_tokens == 24 and ok.resolution == 0.0
    assert (cut.outcome, cut.failed, cut.handed_over, cut.gaps) == (Outcome.CUT, True, True, None)
    assert (ok.agreed, cut.agreed) == (None, None) and ok.fault is None
    records.take(page(pair(1, START + 2, gaps=[]), 2, START + 5), now=START + 5)
    assert records.arm(CANDIDATE).requests[1].gaps is None, "an answer of one token has no gaps to compare"


def test_pages_follow_each_other_and_a_page_twice_changes_nothing() -> None:
    records = ProbeRecords(START)
    assert (records.ask(0.5).boot, records.ask(0.5).after, records.ask(0.5).share) == (None, 0, 0.5)
    one = page(pairs(START + 1, START + 2), 0, START + 5, more=True)
    assert records.take(one, now=START + 5)
    assert records.read_until is None, "there is more already"
    assert (records.ask(0.5).boot, records.ask(0.5).after) == ("b1", 4)
    assert records.take(one, now=START + 5)
    assert not records.take(page(pairs(START + 2, START + 3, first=1), 2, START + 6), now=START + 6)
    assert arrivals(records) == arrivals(records, BASELINE) == [START + 1, START + 2, START + 3]
    assert records.read_until == START + 6


def test_what_came_before_the_step_is_no_sample_of_it() -> None:
    records = ProbeRecords(START)
    records.take(page(pairs(START - 1, START, START + 1), 0, START + 5), now=START + 5)
    assert arrivals(records) == [START, START + 1]
    records.begin_at(START + 1)
    assert arrivals(records) == [START + 1] and records.since == START + 1


def test_a_window_waits_for_pairs_under_way_and_not_for_ever() -> None:
    records = ProbeRecords(START)
    records.take(page([], 0, START + 50, complete_until=START + 47), now=START + 50)
    assert records.read_until == START + 47
    records.take(page([], 0, START + 90, complete_until=START + 47), now=START + 90)
    assert records.read_until == START + 90 - LATE_SECONDS, "a stream that hangs hides nothing else"


def test_a_probe_that_was_started_anew_voids_what_was_before() -> None:
    records = ProbeRecords(START)
    records.take(page(pairs(START + 1), 0, START + 5), now=START + 5)
    again = page(pairs(START + 8, START + 11), 0, START + 10, boot="b2")
    records.take(again, now=START + 10)
    assert records.since == START + 10 and arrivals(records) == [START + 11]
    assert records.voids == ["the probe was started anew"]
    records.take(page(pairs(START + 12, first=2), 4, START + 13, boot="b2"), now=START + 13)
    assert arrivals(records) == [START + 11, START + 12] and len(records.voids) == 1


def test_an_operator_that_was_started_anew_reads_everything_again_and_voids_nothing() -> None:
    records = ProbeRecords(START)
    records.take(page(pairs(START + 1, START + 2), 0, START + 50), now=START + 50)
    assert (records.since, arrivals(records), records.voids) == (START, [START + 1, START + 2], [])


@pytest.mark.parametrize("known", [False, True])
def test_records_that_were_thrown_away_void_what_was_before(known: bool) -> None:
    records = ProbeRecords(START)
    if known:
        records.take(page(pairs(START + 1), 0, START + 5), now=START + 5)
    lost = page(pairs(START + 20, START + 21.5, START + 30, first=50), 100, START + 40)
    records.take(lost, now=START + 40)
    assert records.since == START + 20 + 2 * 1.0 + SLACK_SECONDS, "from the end of the first pair that is left"
    assert arrivals(records) == [START + 30]
    assert records.voids == ["the probe threw records away before they were read"]
    records.take(page([], 200, START + 60), now=START + 60)
    assert records.since == START + 60 + SLACK_SECONDS and not arrivals(records), "nobody knows what was missed"


def test_memory_is_bounded_and_what_is_forgotten_is_not_known_any_more() -> None:
    records = ProbeRecords(START, keep=20)
    many = pairs(*(START + n for n in range(30)))
    records.take(page(many, 0, START + 40), now=START + 40)
    left = arrivals(records)
    assert len(left) <= 20 and left[-1] == START + 29 and left == arrivals(records, BASELINE)
    assert START + 9 < records.since <= left[0]


def test_the_probes_clock_has_to_be_the_operators() -> None:
    records = ProbeRecords(START)
    for now in (START + 6, START - 6):
        with pytest.raises(ValueError, match=r"differs from the operator's by [+-]6 s"):
            records.take(page(pairs(START + 1), 0, now), now=START)
    assert not arrivals(records)
    records.take(page(pairs(START + 1), 0, START + 4), now=START)


def test_a_clock_that_jumped_voids_everything_whatever_its_time() -> None:
    records = ProbeRecords(START)
    records.take(page(pairs(START + 1, START + 90), 0, START + 92), now=START + 92)
    records.forget_all(START - 500)
    assert (arrivals(records), records.since, records.read_until) == ([], START - 500, None)
    records.take(page(pairs(START - 490, first=2), 4, START - 480), now=START - 480)
    assert arrivals(records) == [START - 490], "and the probe goes on where it was"


# --- asking ---------------------------------------------------------------------------------------------------------

PROBED = spec(("probe",), analysis={"probe": {"share": "2.5%"}})


class Probe:
    """A probe that keeps `records` and answers as a real one."""

    def __init__(self) -> None:
        self.records: list[ProbeRecord] = []
        self.boot, self.now, self.page = "b1", START + 10, 4
        self.sources = Sources(self.answer)

    def answer(self, _url: str, question: Mapping[str, Any]) -> bytes:
        after = int(question["after"]) if question["boot"] == self.boot else 0
        found = self.records[after : after + self.page]
        more = after + self.page < len(self.records)
        return page(found, after, self.now, boot=self.boot, more=more).model_dump_json().encode()

    def reader(self, **fields: Any) -> ProbeReader:
        fields = {"probe": "probe-editor-1", "mirror": 0, **fields}
        return ProbeReader(asked(PROBED, **fields), self.sources, now=lambda: self.now, since=START)  # type: ignore[arg-type]


def test_the_share_is_that_of_the_step_or_of_the_policy() -> None:
    assert share_of(asked(PROBED)) == pytest.approx(0.025)
    assert share_of(asked(PROBED, mirror=10)) == pytest.approx(0.1)


def test_a_poll_reads_page_after_page_and_tells_the_share() -> None:
    probe = Probe()
    probe.records = pairs(*(START + n for n in range(9)))
    reader = probe.reader(mirror=10)
    asyncio.run(reader.poll())
    assert len(reader.state().candidate.requests) == 9 and reader.state().read_until == START + 10
    urls = {url for url, _ in probe.sources.questions}
    assert urls == {"http://probe-editor-1.a.svc:8001/poll"} and len(probe.sources.questions) == 5
    assert [q["after"] for _, q in probe.sources.questions] == [0, 4, 8, 12, 16]
    assert {q["share"] for _, q in probe.sources.questions} == {0.1}
    reader.step = asked(PROBED, probe="probe-editor-1")
    asyncio.run(reader.poll())
    assert probe.sources.questions[-1][1]["share"] == pytest.approx(0.025)


def test_one_poll_ends_however_much_there_is() -> None:
    probe = Probe()
    probe.records = pairs(*(START + n / 100 for n in range(100)))
    reader = probe.reader()
    asyncio.run(reader.poll())
    assert len(probe.sources.questions) == PAGES and reader.state().read_until is None
    asyncio.run(reader.poll())
    assert len(reader.state().baseline.requests) == 2 * PAGES * 4 // 2


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (unreadable, "it is away"),
        (lambda _u, _q: b"<html>", "no page of records"),
        (lambda _u, _q: json.dumps({"boot": "b"}).encode(), "no page of records (first: Field required)"),
        (lambda _u, _q: page(pairs(START), 0, START + 300).model_dump_json().encode(), "clock differs"),
    ],
)
def test_a_probe_that_cannot_be_read_is_a_sentence(answer: Any, says: str) -> None:
    probe = Probe()
    probe.records = pairs(START + 1)
    reader = probe.reader(probe_waits="ErrImagePull: no such image")
    asyncio.run(reader.poll())
    probe.sources.answers = answer
    asyncio.run(reader.poll())
    state = reader.state()
    assert says in state.trouble and state.trouble.startswith("the probe (ErrImagePull: no such image): ")
    assert len(state.candidate.requests) == 1 and state.read_until == START + 10, "what is known stays so"
    probe.sources.answers = probe.answer
    asyncio.run(reader.poll())
    assert reader.state().trouble == ""


def test_a_step_that_began_before_what_is_kept_reads_everything_anew() -> None:
    probe = Probe()
    probe.records = pairs(START + 1, START + 5)
    reader = probe.reader()
    reader.begin_at(START + 4)
    asyncio.run(reader.poll())
    assert [s.arrival for s in reader.state().candidate.requests] == [START + 5]
    reader.begin_at(START)
    assert reader.state().read_until is None
    asyncio.run(reader.poll())
    assert [s.arrival for s in reader.state().candidate.requests] == [START + 1, START + 5]


def test_an_answer_for_an_earlier_step_does_not_reach_the_next_one() -> None:
    probe = Probe()
    probe.records = pairs(START + 1)
    reader = probe.reader()

    def late(url: str, question: Mapping[str, Any]) -> bytes:
        reader.begin_at(START - 5)  # another step takes the place while the answer is on its way
        return probe.answer(url, question)

    probe.sources.answers = late
    asyncio.run(reader.poll())
    assert reader.state().candidate.requests == () and reader.state().read_until is None


def test_a_page_is_understood_as_the_probe_writes_it() -> None:
    made = page(pairs(START + 1), 0, START + 5)
    assert ProbePage.model_validate_json(made.model_dump_json()) == made
    with pytest.raises(UnreadableError):
        Probe().reader()._understood(made.model_dump_json().replace('"more"', '"mehr"').encode())
