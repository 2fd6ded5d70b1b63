"""Following a file that others append to, rename and truncate: each line once, whole, and no silent loss."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor_operator.rollout.tail import LONGEST_LINE, SETTLE_SECONDS, Look, Position, Tail


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def everything(tail: Tail, clock: Clock) -> list[bytes]:
    """What is given out until nothing comes any more, with time going on."""
    found: list[bytes] = []
    for _ in range(8):
        look = tail.look()
        while look.lines or look.more:
            found += look.lines
            look = tail.look()
        clock.now += SETTLE_SECONDS / 2
    return found


class TestLines:
    def test_a_file_that_is_not_there_yet_is_empty(self, log: Path, clock: Clock) -> None:
        tail = Tail(log, clock=clock)
        assert tail.look() == Look()
        assert tail.position() is None
        append(log, "a\n")
        assert tail.look().lines == (b"a",)

    def test_half_a_line_waits_for_its_end(self, log: Path, clock: Clock) -> None:
        append(log, "one\ntw")
        tail = Tail(log, clock=clock)
        assert tail.look().lines == (b"one",)
        assert tail.look().lines == ()
        append(log, "o\n\nthree")
        assert tail.look().lines == (b"two", b"")
        append(log, "\n")
        assert tail.look().lines == (b"three",)

    def test_a_look_is_bounded_and_says_that_there_is_more(self, log: Path, clock: Clock) -> None:
        append(log, "".join(f"{n:03}\n" for n in range(100)))
        tail = Tail(log, clock=clock)
        looks = [tail.look(limit=10) for _ in range(41)]
        assert [line for look in looks for line in look.lines] == [f"{n:03}".encode() for n in range(100)]
        assert all(look.more for look in looks[:40])
        assert not looks[40].more

    def test_from_the_end_begins_behind_the_last_whole_line(self, log: Path, clock: Clock) -> None:
        append(log, "old\nha")
        tail = Tail(log, clock=clock, from_end=True)
        assert tail.look().lines == ()
        append(log, "lf\nnew\n")
        assert tail.look().lines == (b"half", b"new")

    def test_from_the_end_counts_only_for_the_first_file(self, log: Path, clock: Clock) -> None:
        tail = Tail(log, clock=clock, from_end=True)
        tail.look()
        append(log, "first\n")
        assert tail.look().lines == ()
        append(log, "second\n")
        assert tail.look().lines == (b"second",)

    def test_a_line_without_end_is_given_up_and_does_not_fill_the_memory(self, log: Path, clock: Clock) -> None:
        append(log, b"a\n" + b"x" * (3 * LONGEST_LINE))
        tail = Tail(log, clock=clock)
        looks = [tail.look(limit=LONGEST_LINE) for _ in range(5)]
        assert [line for look in looks for line in look.lines] == [b"a"]
        assert sum(look.broken for look in looks) == 1
        append(log, "rest\nb\n")
        assert tail.look() == Look(lines=(b"b",))


class TestRotation:
    def test_the_renamed_file_is_read_to_its_end_first(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        tail = Tail(log, clock=clock)
        assert tail.look().lines == (b"1",)
        old = log.rename(log.with_name("access.log.1"))
        append(old, "2\n")
        append(log, "4\n")
        assert tail.look().lines == (b"2",)
        assert tail.look().lines == ()
        clock.now += SETTLE_SECONDS / 2
        append(old, "3\n")
        assert tail.look().lines == (b"3",), "the writer had not noticed yet"
        assert tail.look().lines == ()
        clock.now += SETTLE_SECONDS
        look = tail.look()
        assert (look.rotated, look.more, look.lines) == (1, True, ())
        assert tail.look().lines == (b"4",)

    def test_no_new_file_yet(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        tail = Tail(log, clock=clock)
        tail.look()
        log.rename(log.with_name("access.log.1"))
        for _ in range(3):
            assert tail.look() == Look()
            clock.now += 2 * SETTLE_SECONDS
        append(log, "2\n")
        assert everything(tail, clock) == [b"2"]

    def test_renamed_twice_between_two_looks(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        tail = Tail(log, clock=clock)
        tail.look()
        os.utime(log, ns=(1, 1))
        log.replace(log.with_name("access.log.1"))
        append(log, "2\n")
        log.replace(log.with_name("access.log.1"))
        append(log, "3\n")
        assert everything(tail, clock) == [b"2", b"3"]

    def test_an_old_file_at_the_other_place_is_not_taken_for_the_next(self, log: Path, clock: Clock) -> None:
        append(log.with_name("access.log.1"), "ancient\n")
        os.utime(log.with_name("access.log.1"), ns=(1, 1))
        append(log, "1\n")
        tail = Tail(log, clock=clock)
        assert tail.look().lines == (b"1",)
        log.rename(log.with_name("access.log-20261121"))
        append(log, "2\n")
        assert everything(tail, clock) == [b"2"]

    def test_a_line_that_its_file_does_not_finish_is_counted(self, log: Path, clock: Clock) -> None:
        append(log, "1\nha")
        tail = Tail(log, clock=clock)
        tail.look()
        log.rename(log.with_name("access.log.1"))
        append(log, "2\n")
        looks: list[Look] = []
        for _ in range(4):
            looks.append(tail.look())
            clock.now += SETTLE_SECONDS
        assert sum(look.broken for look in looks) == 1
        assert [line for look in looks for line in look.lines] == [b"2"]


class TestTruncation:
    def test_it_begins_again_and_says_so(self, log: Path, clock: Clock) -> None:
        append(log, "one\ntwo\nha")
        tail = Tail(log, clock=clock)
        tail.look()
        os.truncate(log, 0)
        append(log, "3\n")
        assert tail.look() == Look(lines=(b"3",), truncated=1)
        assert tail.look() == Look()

    def test_also_where_it_has_grown_beyond_the_place_since(self, log: Path, clock: Clock) -> None:
        append(log, "one\n")
        tail = Tail(log, clock=clock)
        tail.look()
        os.truncate(log, 0)
        append(log, "other\nlines\n")
        assert tail.look() == Look(lines=(b"other", b"lines"), truncated=1)

    def test_also_where_lines_of_the_same_length_end_alike(self, log: Path, clock: Clock) -> None:
        """As those of one arm do: the keys are sorted, and the Service and its endpoint come last."""
        append(log, f"1{'x' * 500}\n")
        tail = Tail(log, clock=clock)
        tail.look()
        position = tail.position()
        os.truncate(log, 0)
        append(log, f"2{'x' * 500}\n3\n")
        look = tail.look()
        assert (look.truncated, [line[:1] for line in look.lines]) == (1, [b"2", b"3"])
        again = Tail(log, clock=clock, position=position).look()
        assert (again.gap, [line[:1] for line in again.lines]) == (True, [b"2", b"3"])


class TestGoingOn:
    def test_at_a_position(self, log: Path, clock: Clock) -> None:
        append(log, "1\n2\nha")
        first = Tail(log, clock=clock)
        first.look()
        position = first.position()
        first.close()
        append(log, "lf\n3\n")
        look = Tail(log, clock=clock, position=position).look()
        assert (look.lines, look.gap) == ((b"half", b"3"), False)

    def test_after_close(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        tail = Tail(log, clock=clock)
        tail.look()
        tail.close()
        tail.close()
        append(log, "2\n")
        assert tail.look().lines == (b"2",)

    def test_in_a_file_that_was_renamed_meanwhile(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        first = Tail(log, clock=clock)
        first.look()
        position = first.position()
        append(log, "2\n")
        log.rename(log.with_name("access.log.1"))
        append(log, "3\n")
        assert everything(Tail(log, clock=clock, position=position), clock) == [b"2", b"3"]

    def test_where_the_file_is_gone_there_is_a_gap(self, log: Path, clock: Clock) -> None:
        append(log, "1\n")
        first = Tail(log, clock=clock)
        first.look()
        position = first.position()
        log.unlink()
        append(log, "2\n")
        look = Tail(log, clock=clock, position=position).look()
        assert (look.lines, look.gap) == ((b"2",), True)

    def test_the_same_inode_with_other_content_is_another_file(self, log: Path, clock: Clock) -> None:
        append(log, "something else\n")
        found = log.stat()
        position = Position(found.st_dev, found.st_ino, 4, b"abcd".hex())
        look = Tail(log, clock=clock, position=position).look()
        assert (look.lines, look.gap) == ((b"something else",), True)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 30)),
        st.tuples(st.just("look"), st.integers(1, 40)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("wait"), st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_whatever_happens_every_line_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """A writer that writes in pieces of any size, and renames only what the reader has seen the beginning of."""
    log = tmp_path_factory.mktemp("tail") / "access.log"
    clock, numbers = Clock(), itertools.count()
    pending = b""
    tail = Tail(log, clock=clock)
    seen: list[bytes] = []
    reached = False  # whether the reader is at the present file
    for step, size in steps:
        match step:
            case "write":
                while len(pending) < size:
                    pending += b"%d\n" % next(numbers)
                append(log, pending[:size])
                pending = pending[size:]
            case "look":
                look = tail.look(limit=size)
                assert (look.truncated, look.broken, look.gap) == (0, 0, False)
                seen += look.lines
            case "rotate":
                if not log.exists() or not reached:
                    continue
                end = pending.find(b"\n") + 1  # a writer changes its file between two lines
                append(log, pending[:end])
                pending = pending[end:]
                log.replace(log.with_name("access.log.1"))
                reached = False
            case "restart":
                position = tail.position()
                tail.close()
                tail = Tail(log, clock=clock, position=position)
            case _:
                clock.now += SETTLE_SECONDS
                seen += everything(tail, clock)
                reached = reached or log.exists()
    append(log, pending)
    seen += everything(tail, clock)
    assert seen == [b"%d" % n for n in range(next(numbers))]
