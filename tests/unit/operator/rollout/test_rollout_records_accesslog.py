"""The samples of both arms from a growing log: all of them or none of that time, and what was lost is counted."""

import json
import os
from pathlib import Path

import pytest

from sartor_operator.rollout.accesslog import LATE_SECONDS, AccessLog, Losses
from sartor_operator.rollout.records import Backend
from sartor_operator.rollout.tail import LONGEST_LINE, Tail
from sartor_operator.rollout.verdict.samples import ArmName, Observed

BASELINE, CANDIDATE = Backend("a", "vllm", 8000), Backend("a", "stack", 8000)
ARMS = [(BASELINE, ArmName.BASELINE), (CANDIDATE, ArmName.CANDIDATE)]
START = 1000.0


class World:
    """A log, and a wall clock that is also the reader's own."""

    def __init__(self, folder: Path, *, keep: int = 100) -> None:
        self.log, self.now = folder / "access.log", START
        self.access = self.reader(keep)
        self.access.follow(ARMS)

    def reader(self, keep: int = 100) -> AccessLog:
        return AccessLog(Tail(self.log, clock=lambda: self.now), now=lambda: self.now, keep=keep)

    def request(self, service: str, started: float, seconds: float = 0.0, **changes: object) -> None:
        line = {
            "start_time": str(started),
            "upstream_cluster": f"a_{service}_8000",
            "response_code": 200,
            "response_code_details": "via_upstream",
            "response_flags": "-",
            "response_duration": 0,
            "response_tx_duration": seconds * 1000,
            "duration": seconds * 1000,
            **changes,
        }
        self.write(json.dumps(line) + "\n")

    def write(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    def observed(self, since: float = 0.0, access: AccessLog | None = None) -> Observed:
        reader = access or self.access
        while reader.read():
            pass
        found = reader.observed(baseline=BASELINE, candidate=CANDIDATE, since=since)
        assert found is not None
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def arrivals(found: Observed) -> tuple[list[float], list[float]]:
    return [s.arrival for s in found.baseline.requests], [s.arrival for s in found.candidate.requests]


def test_each_arm_has_its_requests(world: World) -> None:
    world.write("")
    world.access.read()
    world.request("vllm", START + 1)
    world.request("stack", START + 2)
    world.request("other", START + 2)
    world.now += 10
    found = world.observed()
    assert arrivals(found) == ([START + 1], [START + 2])
    assert [s.arm for s in found.candidate.requests] == [ArmName.CANDIDATE]
    assert (found.since, found.read_until) == (START, world.now - LATE_SECONDS)
    assert arrivals(world.observed(since=START + 1.5)) == ([], [START + 2])


def test_without_a_file_nothing_is_known(world: World) -> None:
    assert not world.access.read()
    assert world.access.observed(baseline=BASELINE, candidate=CANDIDATE, since=0.0) is None


def test_services_that_are_not_followed_are_unknown(world: World) -> None:
    world.write("")
    world.access.read()
    assert world.access.observed(baseline=CANDIDATE, candidate=BASELINE, since=0.0) is None


def test_what_is_followed_later_is_known_from_then_on(world: World) -> None:
    world.access.follow([])
    world.request("stack", START - 5)
    world.access.read()
    world.access.follow(ARMS)
    world.request("stack", START - 1, 2.0)
    world.request("stack", START + 1)
    world.now += 10
    found = world.observed()
    assert arrivals(found) == ([], [START + 1]), "another one of before may have ended before"
    assert found.since == START


def test_a_new_process_has_what_lies_in_the_file(world: World) -> None:
    world.request("vllm", START - 60, 20.0)
    world.request("vllm", START - 50, 11.0)
    world.request("stack", START - 30)
    found = world.observed()
    assert found.since == START - 40
    assert arrivals(found) == ([], [START - 30]), "of those before the first end some may be in an older file"


def test_read_until_waits_for_the_whole_of_the_file(world: World) -> None:
    world.write("x" * (5 << 20) + "\n")
    assert world.access.read(), "there is more"
    assert world.access.observed(baseline=BASELINE, candidate=CANDIDATE, since=0.0) is None


def test_a_truncated_file_voids_what_was_before(world: World) -> None:
    world.request("vllm", START - 10)
    world.request("vllm", START - 9)
    assert len(world.observed().baseline.requests) == 2
    os.truncate(world.log, 0)
    world.request("vllm", START + 5, 1.0)
    world.request("stack", START + 7)
    world.now += 10
    found = world.observed()
    assert (arrivals(found), found.since) == (([], [START + 7]), START + 6)
    assert world.access.losses == Losses(gaps=1)
    os.truncate(world.log, 0)
    world.now += 10
    assert world.observed().since == world.now, "nothing of before, as nobody knows what is missing"


def test_a_truncated_file_and_a_clock_that_was_set_back(world: World) -> None:
    world.request("vllm", START + 100)
    world.request("vllm", START + 101)
    world.observed()
    os.truncate(world.log, 0)
    world.request("vllm", START + 1)
    world.request("vllm", START + 2)
    assert arrivals(world.observed())[0] == [START + 1, START + 2], "what was before the gap is void"


def test_lines_that_are_given_up_and_lines_of_something_else_are_counted(world: World) -> None:
    world.write("x" * (LONGEST_LINE + 1) + "\nhello\n\n")
    world.observed()
    assert world.access.losses == Losses(lines=1, foreign=1)


def test_what_is_forgotten_is_not_known_any_more(tmp_path: Path) -> None:
    world = World(tmp_path, keep=3)
    for second in range(5):
        world.request("vllm", START + second, 0.5)
    world.now += 10
    found = world.observed()
    assert arrivals(found)[0] == [START + 2, START + 3, START + 4]
    assert found.since == START + 1.5


def test_what_says_nothing_of_an_arm_is_no_sample(world: World) -> None:
    world.write("")
    world.access.read()
    world.request("vllm", START + 1, response_flags="NR", response_code=404)
    world.now += 10
    assert arrivals(world.observed()) == ([], [])
