"""Who else talks to a server while it is measured is seen by the kernel's count, and named."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from made_windows import window

from sartor_agents.measurement.foreign_traffic import ForeignTraffic, Socket, TrafficWatch, local_port, owning_arm
from sartor_agents.measurement.messages import FailureClass, Reason
from sartor_agents.measurement.pairs import Pair
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.measurement.surroundings import Disturbance, strangers

POLICY = MeasurementPolicy()


@contextmanager
def server() -> Iterator[int]:
    """Answers each read with 5,000 bytes, until its clients have gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer(connection: socket.socket) -> None:
            with connection:
                while connection.recv(1 << 16):
                    connection.sendall(b"y" * 5000)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def asked(connection: socket.socket, size: int) -> None:
    connection.sendall(b"x" * size)
    connection.recv(1 << 16)


def test_others_bytes_are_counted_and_ours_are_not() -> None:
    with server() as port, socket.create_connection(("127.0.0.1", port)) as mine:
        ours = {mine.getsockname()[1]}
        with (
            socket.create_connection(("127.0.0.1", port)) as other,
            TrafficWatch(f"http://127.0.0.1:{port}", ours, {}, pause=60) as watch,
        ):
            asked(mine, 3000)
            asked(other, 1000)
        seen = watch.seen
    assert seen is not None and seen.connections == 1
    assert seen.received == 1000 and 4096 <= seen.sent <= 5001  # what was acknowledged by then


def test_what_was_said_before_and_what_is_only_kept_open_does_not_count() -> None:
    with server() as port, socket.create_connection(("127.0.0.1", port)) as other:
        asked(other, 9999)
        with TrafficWatch(f"http://127.0.0.1:{port}", (), {}, pause=60) as watch:
            pass
    assert watch.seen is not None and (watch.seen.connections, watch.seen.received) == (0, 0)


def test_connections_that_are_gone_at_the_end_are_seen_on_the_way() -> None:
    with server() as port, TrafficWatch(f"http://127.0.0.1:{port}", (), {}, pause=0.02) as watch:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", port)) as other:
                asked(other, 1000)
                time.sleep(0.06)
    assert watch.seen is not None and watch.seen.connections >= 3 and watch.seen.received >= 3000


def test_the_arm_that_sends_is_named() -> None:
    talk = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    connection.sendall(b"x" * 1000)
    connection.recv(65536)
    time.sleep(0.01)
"""
    with server() as port, TrafficWatch(f"http://127.0.0.1:{port}", (), {}, pause=0.02) as nobody:
        other = subprocess.Popen([sys.executable, "-c", talk, str(port)])
        try:
            arms = {"baseline": os.getpid(), "candidate": other.pid}
            with TrafficWatch(f"http://127.0.0.1:{port}", (), arms, pause=0.02) as watch:
                limit = time.monotonic() + 20
                while not watch.senders and time.monotonic() < limit:
                    time.sleep(0.02)
                time.sleep(0.3)  # the other one looks as well
        finally:
            other.kill()
            other.wait()
    assert watch.seen is not None and watch.seen.senders == {"candidate"}
    assert nobody.seen is not None and nobody.seen.received > 0 and not nobody.seen.senders


def test_a_port_that_is_used_again_begins_at_nothing() -> None:
    looks = iter([[], [Socket(80, 5, 1, 10, 700)], [Socket(80, 5, 2, 10, 300)], [Socket(80, 5, 2, 10, 300)]])
    with TrafficWatch("http://127.0.0.1:80", (), {}, look=lambda: next(looks, []), pause=0.01) as watch:
        time.sleep(0.3)
    assert watch.seen is not None and watch.seen.received == 1000


def test_elsewhere_nothing_is_known() -> None:
    def refused() -> list[Socket]:
        raise OSError("no netlink")

    assert local_port("http://10.0.0.7:80") is None and local_port("http://candidate:80") is None
    assert local_port("http://[::1]:81") == 81 and local_port("http://localhost") == 80
    with (
        TrafficWatch("http://candidate.ns:80", (), {}) as remote,
        TrafficWatch("http://127.0.0.1:1", (), {}, look=refused) as mute,
    ):
        pass
    assert remote.seen is None and mute.seen is None and strangers(None, POLICY) == ()


@pytest.mark.parametrize(
    ("received", "sent", "disturbed"),
    [(9_000, 190_000, False), (11_000, 0, True), (500, 210_000, True)],  # in 10 s
)
def test_a_scrape_now_and_then_is_allowed(received: int, sent: int, disturbed: bool) -> None:
    found = strangers(ForeignTraffic(10, received, sent, 1), POLICY)
    assert bool(found) is disturbed
    assert all(one.reason is Reason.FOREIGN_TRAFFIC and one.by is None for one in found)


def test_who_is_blamed() -> None:
    (found,) = strangers(ForeignTraffic(1, 5000, 0, 1, frozenset({"candidate"})), POLICY)
    assert found.by == "candidate" and "candidate" in found.message and "5,000" in found.message

    def blamed(by: str | None) -> FailureClass:
        hit = window(arm="baseline", disturbances=(Disturbance(Reason.FOREIGN_TRAFFIC, "", by),))
        return Pair(window(), hit, Reason.FOREIGN_TRAFFIC).blamed

    assert blamed("candidate") is FailureClass.CANDIDATE and blamed(None) is FailureClass.MEASUREMENT


def test_a_socket_of_nobody_has_no_owner() -> None:
    with socket.socket() as one:
        inode = os.fstat(one.fileno()).st_ino
        assert owning_arm(inode, {"me": os.getpid()}) == "me"
    assert owning_arm(inode, {"me": os.getpid()}) is None
