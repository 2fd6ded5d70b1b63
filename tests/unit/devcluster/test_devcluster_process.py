"""A component is kept running, waits for what it needs, and stays away when it was stopped."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sartor_devcluster import process
from sartor_devcluster.components import ComponentSpec
from sartor_devcluster.layout import Layout
from sartor_devcluster.process import Component


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_DELAY", 0.02)
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)


async def open_gate() -> Sequence[str]:
    return ()


@asynccontextmanager
async def kept(
    folder: Path, program: str, gate: Callable[[], Awaitable[Sequence[str]]] = open_gate
) -> AsyncGenerator[tuple[Component, list[str]]]:
    said: list[str] = []
    spec = ComponentSpec("part", ("sh", "-c", program))
    component = Component(spec, Layout(folder), dict(os.environ), said.append, gate)
    task = asyncio.create_task(component.keep())
    yield component, said
    await component.stop(kill=True)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not look():
            await asyncio.sleep(0.005)


def test_what_ends_is_started_again_and_its_words_are_kept(tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(tmp_path, "echo here; exit 3") as (component, said):
            await until(lambda: component.status().restarts >= 2)
            assert component.status().exit_code == 3
            assert said[:2] == [
                "part ended (exit code 3); starting it again in 0.02 s",
                "part ended (exit code 3); starting it again in 0.04 s",
            ]
        assert (tmp_path / "logs" / "part.log").read_text().startswith("here\nhere\n")

    asyncio.run(test())


def test_stopped_is_stopped_until_it_is_started(tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(tmp_path, "exec sleep 600") as (component, said):
            await until(lambda: component.status().phase == "running")
            first = component.status().pid
            await component.stop(kill=False)
            await component.stop(kill=False)
            await asyncio.sleep(0.1)
            assert (component.status().phase, component.status().exit_code) == ("stopped", -15)
            component.start()
            component.start()
            await until(lambda: component.status().phase == "running")
            assert component.status().pid != first
            assert component.status().restarts == 0, "what was asked for is no restart"
            assert said == []

    asyncio.run(test())


def test_what_does_not_end_is_killed(tmp_path: Path) -> None:
    async def test() -> None:
        async with kept(tmp_path, "trap '' TERM; echo ready; while :; do sleep 0.05; done") as (component, said):
            log = tmp_path / "logs" / "part.log"
            await until(lambda: log.exists() and log.read_text() == "ready\n")
            await component.stop(kill=False)
            assert component.status().exit_code == -9
            assert said == ["part did not end in 0 s; killing it"]

    asyncio.run(test())


def test_a_closed_gate_holds_it_back_and_stopping_it_then_counts(tmp_path: Path) -> None:
    async def test() -> None:
        opened = asyncio.Event()

        async def gate() -> Sequence[str]:
            await opened.wait()
            return ()

        async with kept(tmp_path, "exec sleep 600", gate) as (component, _):
            await asyncio.sleep(0.05)
            assert component.status().phase == "waiting"
            await component.stop(kill=False)
            opened.set()
            await asyncio.sleep(0.05)
            assert component.status().phase == "stopped"
            component.start()
            await until(lambda: component.status().phase == "running")

    asyncio.run(test())


def test_stopping_it_between_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "FIRST_DELAY", 600.0)

    async def test() -> None:
        async with kept(tmp_path, "exit 1") as (component, said):
            await until(lambda: len(said) == 1)
            assert component.status().phase == "waiting"
            await component.stop(kill=False)
            assert component.status().phase == "stopped"

    asyncio.run(test())


def test_a_program_that_is_not_there_is_an_error_and_no_loop(tmp_path: Path) -> None:
    async def test() -> None:
        component = Component(ComponentSpec("part", (str(tmp_path / "none"),)), Layout(tmp_path), {}, print, open_gate)
        with pytest.raises(FileNotFoundError):
            await component.keep()

    asyncio.run(test())


def test_what_its_gate_says_comes_before_its_own_arguments(tmp_path: Path) -> None:
    """So that whoever gives a component an argument of its own has the last word."""

    async def test() -> None:
        answers = iter([("-e",), ("-ex",), ("-ex",)])

        async def gate() -> Sequence[str]:
            return next(answers)

        async with kept(tmp_path, 'echo "$-"; exec sleep 600', gate) as (component, said):
            log = tmp_path / "logs" / "part.log"
            await until(lambda: log.exists() and "e" in log.read_text())
            first = component.status().pid
            assert component.renew()
            await until(lambda: "x" in log.read_text() and component.status().pid not in (None, first))
            assert component.status().restarts == 0, "and it did not fail"
            assert said == []
            await component.stop(kill=True)
            assert not component.renew()
            component.start()
            await until(lambda: component.status().phase == "running")

    asyncio.run(test())
