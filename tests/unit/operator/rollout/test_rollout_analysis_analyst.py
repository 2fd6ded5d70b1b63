"""The task as a whole: from lines in a log to the outcome that a rollout is looked at for."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from analysis_parts import START, Sources, asked, log_line, page, pair, spec, unreadable

from sartor_operator.rollout.analysis import analyst as module
from sartor_operator.rollout.analysis.agenda import FORGET_SECONDS
from sartor_operator.rollout.analysis.analyst import Analyst
from sartor_operator.rollout.samples import Reading, StepAsked


class Scene:
    """A log, a clock that serves as both, and sources that answer as `answers` says."""

    def __init__(self, folder: Path, answers: Any = unreadable) -> None:
        self.now = START
        self.offset = 0.0
        self.log = folder / "access.log"
        self.log.write_text(log_line("vllm", START - 100) + log_line("vllm", START - 90))
        self.sources = Sources(answers)
        self.news: list[tuple[str, str, bool]] = []
        self.analyst = self.started()

    def started(self, logs: list[Path] | None = None) -> Analyst:
        """A new process's."""
        return Analyst(
            [self.log] if logs is None else logs,
            self.sources,  # type: ignore[arg-type]
            changed=lambda *what: self.news.append(what),
            clock=lambda: self.now,
            now=lambda: self.now + self.offset,
        )

    def traffic(self, seconds: int, *, failing: int = 0) -> None:
        """Ten requests a second and arm, from now on; each `failing`-th of the candidate fails."""
        with self.log.open("a") as file:
            for n in range(seconds * 10):
                at = self.now + self.offset + n / 10
                file.write(log_line("vllm", at))
                file.write(log_line("stack", at, status=503 if failing and n % failing == 0 else 200))
        self.now += seconds

    async def look(
        self, step: StepAsked | None = None, analyst: Analyst | None = None, patience: float = 5.0
    ) -> Reading:
        """The rollout asks, and the task has time for all that is due."""
        one = analyst or self.analyst
        wanted = step or asked()
        one.latest(wanted)
        self.now += 1.5
        for _ in range(2):
            await one.look()
            polls = [p.task for readers in one._readers.values() for p in readers.polled() if p.task is not None]
            if polls:
                await asyncio.wait(polls, timeout=patience)
        return one.latest(wanted)


def outcome(reading: Reading) -> str:
    return "" if reading.verdict is None else reading.verdict.outcome


def test_from_lines_to_an_outcome_that_is_news(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        assert scene.analyst.latest(asked()) == Reading(), "asking does nothing but note it"
        scene.traffic(120)
        found = await scene.look()
        assert outcome(found) == "pass" and found.candidate.samples == 1200
        assert scene.news == [("a", "editor", False)]
        await scene.look()
        assert len(scene.news) == 1, "the same outcome again is none"
        scene.traffic(90, failing=2)
        assert outcome(await scene.look()) == "fail"
        assert scene.news[1:] == [("a", "editor", True)], "first in the queue"

    asyncio.run(story())


def test_a_new_process_reads_everything_again(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(120)
        first = await scene.look()
        again = await scene.look(analyst=scene.started())
        assert outcome(first) == outcome(again) == "pass"
        assert again.candidate.samples == first.candidate.samples

    asyncio.run(story())


def test_another_step_begins_from_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(120, failing=2)
        assert outcome(await scene.look()) == "fail"
        later = asked(since=scene.now, number=2)
        assert scene.analyst.latest(later) == Reading()
        scene.traffic(120)
        assert outcome(await scene.look(later)) == "pass"

    asyncio.run(story())


def test_a_step_that_nobody_asks_for_costs_nothing_more(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, lambda _u, _q: page([], 0, scene.now).model_dump_json().encode())
        probed = asked(spec(("gatewayAccessLog", "probe")), probe="probe-1")
        await scene.look(probed)
        assert scene.sources.questions
        scene.now += FORGET_SECONDS + 1
        asked_before = len(scene.sources.questions)
        assert not await scene.analyst.look()
        await asyncio.sleep(0)
        assert len(scene.sources.questions) == asked_before and not scene.analyst._readers

    asyncio.run(story())


def test_an_operator_without_a_log_says_so_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        found = await scene.look(analyst=scene.started([]))
        assert outcome(found) == "error" and found.verdict is not None and "--access-log" in found.verdict.message

    asyncio.run(story())


def test_a_probe_is_asked_beside_the_log_and_its_silence_is_an_error_in_time(tmp_path: Path) -> None:
    """The probe gives pairs, then goes away; the log goes on."""

    async def story() -> None:
        scene = Scene(tmp_path)
        probed = asked(spec(("gatewayAccessLog", "probe")), probe="probe-1", probe_waits="its pod is not ready yet")

        def answers(_url: str, question: Any) -> bytes:
            records = [r for n in range(100) for r in pair(n, START + n)]
            return page(records[question["after"] :], question["after"], scene.now).model_dump_json().encode()

        scene.sources.answers = answers
        scene.analyst.latest(probed)
        scene.traffic(120)
        await scene.look(probed)
        assert outcome(await scene.look(probed)) == "pass"
        scene.sources.answers = unreadable
        scene.traffic(30)
        assert outcome(await scene.look(probed)) == "pass"
        scene.traffic(60)
        found = await scene.look(probed)
        assert outcome(found) == "error" and found.verdict is not None
        assert "the probe (its pod is not ready yet): it is away" in found.verdict.message
        scene.traffic(150, failing=2)
        assert outcome(await scene.look(probed)) == "fail", "what the log shows still counts"

    asyncio.run(story())


def test_a_source_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        asked_for = 0

        async def hangs(*_a: Any, **_k: Any) -> bytes:
            nonlocal asked_for
            asked_for += 1
            await asyncio.Event().wait()
            raise AssertionError

        scene.sources.post = hangs  # type: ignore[method-assign]
        both = asked(spec(("gatewayAccessLog", "prometheus")))
        scene.traffic(120, failing=2)
        assert outcome(await scene.look(both, patience=0.05)) == "fail"
        await scene.look(both, patience=0.05)
        assert asked_for == 1, "and it is not asked again before it has answered"
        await scene.analyst.stop()

    asyncio.run(story())


def test_a_judgement_takes_nothing_from_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(60)
        real, enough = module.conclude, threading.Event()

        def slow(*given: Any) -> Any:
            enough.wait(20)
            return real(*given)

        monkeypatch.setattr(module, "conclude", slow)
        scene.analyst.latest(asked())
        judging = asyncio.create_task(scene.analyst.look())
        turns = 0
        while not judging.done():
            await asyncio.sleep(0.01)
            scene.analyst.latest(asked())
            turns += 1
            if turns == 10:
                enough.set()
        assert turns >= 10, "it waits for them, and they for nothing"

    asyncio.run(story())


def test_a_step_that_comes_while_files_are_read_waits_for_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.look()
        loop, read = asyncio.get_running_loop(), scene.analyst._logs.read
        other = asked(uid="u2", name="other")

        def meanwhile() -> None:
            loop.call_soon_threadsafe(scene.analyst.latest, other)
            time.sleep(0.05)
            read()

        monkeypatch.setattr(scene.analyst._logs, "read", meanwhile)
        await scene.analyst.look()
        monkeypatch.undo()
        assert scene.analyst.latest(other) == Reading()
        scene.traffic(120)
        assert outcome(await scene.look(other)) == "pass"

    asyncio.run(story())


@pytest.mark.parametrize("jump", [-3600.0, 7200.0])
def test_a_clock_that_jumps_is_an_error_and_then_the_step_begins_again(tmp_path: Path, jump: float) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(120, failing=2)
        step = asked()
        assert outcome(await scene.look(step)) == "fail"
        scene.offset = jump
        scene.analyst.latest(step)
        await scene.analyst.look()
        # The task may have judged anew within this look; what it tells is the jump, or that nothing is known yet.
        assert scene.news[-1] == ("a", "editor", False)
        scene.traffic(120)
        found = await scene.look(step)
        assert outcome(found) == "pass", "nothing of before counts"
        assert found.candidate.samples <= 1200

    asyncio.run(story())


def test_small_steps_of_the_clock_are_none(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(120)
        for _ in range(5):
            scene.offset += 2.0
            assert outcome(await scene.look()) == "pass"

    asyncio.run(story())


def test_a_defect_is_a_reading_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        scene.traffic(120)
        with monkeypatch.context() as broken:
            broken.setattr(module, "together", lambda *_a, **_k: 1 / 0)
            found = await scene.look()
        assert outcome(found) == "error" and found.verdict is not None and "ZeroDivisionError" in found.verdict.message
        assert outcome(await scene.look()) == "pass"

    asyncio.run(story())


def test_a_defect_of_a_source_is_its_trouble(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path, lambda _u, _q: 1 / 0)
        step = asked(spec(("probe",)), probe="probe-1")
        await scene.look(step)
        scene.now += 61
        found = await scene.look(step)
        assert found.verdict is not None and "ZeroDivisionError" in found.verdict.message
        scene.sources.answers = lambda _u, _q: page([], 0, scene.now).model_dump_json().encode()
        scene.now += 11
        await scene.look(step)
        found = await scene.look(step)
        assert found.verdict is not None and "ZeroDivisionError" not in found.verdict.message

    asyncio.run(story())


def test_an_analysis_that_breaks_down_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
        times = 0

        def breaks() -> None:
            nonlocal times
            times += 1
            raise RuntimeError("broken")

        monkeypatch.setattr(scene.analyst._logs, "read", breaks)
        scene.analyst.latest(asked())
        running = asyncio.create_task(scene.analyst.run())
        while times < 3:
            await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()

    asyncio.run(story())


def test_a_source_that_the_policy_drops_is_asked_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        scene = Scene(tmp_path)
        await scene.look(asked(spec(("gatewayAccessLog", "probe")), probe="probe-1"))
        await scene.look(asked())
        before = len(scene.sources.questions)
        assert before
        await scene.look(asked())
        assert len(scene.sources.questions) == before

    asyncio.run(story())


def test_the_task_wakes_when_it_is_asked_and_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    async def story() -> None:
        log = tmp_path / "access.log"
        log.write_text("")
        news: list[tuple[str, str, bool]] = []
        told = asyncio.Event()

        def changed(*what: Any) -> None:
            news.append(what)
            told.set()

        step = asked(spec(("probe",), analysis={"probe": {"share": "1%"}}), since=float(int(time.time())), probe="p")
        sources = Sources(lambda _u, _q: page([], 0, time.time()).model_dump_json().encode())
        analyst = Analyst([log], sources, changed=changed)  # type: ignore[arg-type]
        running = asyncio.create_task(analyst.run())
        await asyncio.sleep(0.05)
        assert not sources.questions, "nothing was asked for"
        analyst.latest(step)
        await asyncio.wait_for(told.wait(), 10)
        assert news[0] == ("a", "editor", False) and outcome(analyst.latest(step)) == "inconclusive"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(story())
