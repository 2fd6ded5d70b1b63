"""Repositories of deleted runs: kept for a while, and never removed by mistake."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sartor_repository.auth import UnavailableError
from sartor_repository.store import Store
from sartor_repository.sweep import GONE, sweep

KEEP = 1000.0


@dataclass
class World:
    store: Store
    runs: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    away: bool = False

    async def exists(self, namespace: str, run: str) -> bool:
        if self.away:
            raise UnavailableError("the API server cannot be reached")
        return (namespace, run) in self.runs

    def sweep(self, now: float) -> list[str]:
        return asyncio.run(sweep(self.store, self.exists, keep_seconds=KEEP, now=now))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Store(tmp_path) as store:
        for run in ("kept", "gone"):
            store.create("a", run)
        yield World(store, {("a", "kept")})


def test_a_deleted_run_s_repositories_go_after_a_while(world: World) -> None:
    assert world.sweep(0.0) == [] and world.sweep(KEEP - 1) == []
    assert world.sweep(KEEP) == ["a/gone"]
    assert [p.name for p in (world.store.root / "a").iterdir()] == ["kept"]
    world.runs.clear()
    world.sweep(2 * KEEP)
    assert world.sweep(3 * KEEP) == ["a/kept"]
    assert not (world.store.root / "a").exists() and world.store.hooks.is_dir()


def test_a_run_that_is_seen_again_is_kept(world: World) -> None:
    world.sweep(0.0)
    world.runs.add(("a", "gone"))
    assert world.sweep(KEEP) == []
    world.runs.discard(("a", "gone"))
    assert world.sweep(KEEP + 1) == [] and world.sweep(2 * KEEP) == []
    assert world.store.exists("a", "gone")


def test_a_server_that_is_away_removes_nothing(world: World) -> None:
    world.sweep(0.0)
    world.away = True
    assert world.sweep(10 * KEEP) == [] and world.store.exists("a", "gone")


def test_a_mark_that_was_not_written_whole_begins_again(world: World) -> None:
    (world.store.root / "a/gone" / GONE).write_text("")
    assert world.sweep(KEEP) == [] and world.sweep(2 * KEEP - 1) == []
    assert world.sweep(2 * KEEP) == ["a/gone"]
