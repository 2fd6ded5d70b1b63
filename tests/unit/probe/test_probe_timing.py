"""What the probe measures is what was there: gaps of an arm that notes by itself when it sent."""

import asyncio
import socket
import statistics
import threading
import time
from itertools import pairwise

import pytest
from probe_world import END, chunk, chunked, sse, stream

from sartor_agents.probe.arms import ask
from sartor_agents.probe.greedy import encode_copy

GAPS = [0.02] * 20 + [0.2] + [0.02] * 10 + [0.0] * 3 + [0.02] * 10
PREFILL = 0.1


class NotingArm(threading.Thread):
    """Answers one request from a thread of its own, by blocking calls, and notes on the same clock when it did what."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.asked = 0.0
        self.sent: list[float] = []

    def run(self) -> None:
        connection, _ = self.listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, self.listener:
            connection.recv(65536)
            self.asked = time.perf_counter()
            connection.sendall(stream(end=b""))
            time.sleep(PREFILL)
            for gap in [0.0, *GAPS]:
                time.sleep(gap)
                self.sent.append(time.perf_counter())
                connection.sendall(chunked(sse(chunk("x"))))
            usage = {"choices": [], "usage": {"completion_tokens": len(self.sent)}}
            connection.sendall(chunked(sse(usage, "[DONE]")) + END)


@pytest.mark.alone
def test_measured_times_are_those_of_the_arm() -> None:
    """Each event is dated within 5 ms of when it was sent (the median within 1 ms), from the moment the request went out.

    A clock read after the answer, per buffer or at the status line puts events tens of milliseconds off; a wall clock, or
    one that begins before the connection, shifts all of them.
    """
    arm = NotingArm()
    arm.start()
    payload = encode_copy(arm.url, "/v1/completions", [], b"{}", request_id="r")
    answer = asyncio.run(ask(arm.url, payload, clock=time.perf_counter, timeout=30))
    arm.join(10)
    assert (answer.outcome, answer.tokens) == ("ok", len(GAPS) + 1)
    if len(answer.arrivals) != len(arm.sent):
        pytest.fail(f"{len(answer.arrivals)} of {len(arm.sent)} events were dated")
    # The request goes out a little before the arm has it, so times from there are a little longer, never shorter.
    late = [time - (sent - arm.asked) for (time, _), sent in zip(answer.arrivals, arm.sent, strict=True)]
    assert min(late) > -0.0005
    assert statistics.median(late) < 0.005
    measured = [b - a for (a, _), (b, _) in pairwise(answer.arrivals)]
    there = [b - a for a, b in pairwise(arm.sent)]
    off = sorted(abs(a - b) for a, b in zip(measured, there, strict=True))
    assert statistics.median(off) < 0.001
    assert off[int(len(off) * 0.9)] < 0.005
    assert 0.19 < max(measured) < 0.4, "the stall is one gap"
    assert answer.arrivals[0][0] > PREFILL, "the status line is no token"
    assert answer.duration >= answer.arrivals[-1][0]
