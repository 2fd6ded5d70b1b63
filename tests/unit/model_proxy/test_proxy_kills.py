"""Killed at any instant, the proxy pays for no recorded answer twice and loses no money from its books."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import kill_world
import pytest
from kill_world import life
from proxy_world import CLIENT, GRANT_KEY, Proxy, grant
from scripted_provider import Provider, Seen, Turn

from sartor_agents.model_proxy.__main__ import main

TURN = Turn(text="Fine. " * 200, piece=12)


@contextmanager
def process(proxy: Proxy) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The proxy as a program of its own; killed with SIGKILL at the end if it still runs."""
    port = proxy.folder / "port"
    port.unlink(missing_ok=True)
    file = proxy.folder / "config.json"
    file.write_text(proxy.config().model_copy(update={"port_file": port}).model_dump_json())
    started = subprocess.Popen([sys.executable, "-m", "sartor_agents.model_proxy", str(file)])
    try:
        deadline = time.monotonic() + 120
        while not port.exists():
            assert started.poll() is None, "it ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield started, f"http://127.0.0.1:{port.read_text().strip()}/v1"
    finally:
        started.kill()
        started.wait()


def ask(url: str, call: str) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {grant().signed(GRANT_KEY)}", "Sartor-Call": call}
    body = {"model": "scripted-1", "input": "Go.", "stream": True}
    return CLIENT.post(url + "/responses", json=body, headers=headers)


@pytest.mark.parametrize("bytes_heard", [0, 1, 3000, 10_000_000], ids=["at once", "head", "half-way", "after the end"])
def test_a_kill_loses_no_answer_that_a_caller_has(tmp_path: Path, bytes_heard: int) -> None:
    heard = 0
    ended = False
    with Provider(lambda seen: TURN) as provider:
        proxy = Proxy(tmp_path, (provider,))
        with process(proxy) as (running, url):
            headers = {"Authorization": f"Bearer {grant().signed(GRANT_KEY)}", "Sartor-Call": "c1"}
            body = {"model": "scripted-1", "input": "Go.", "stream": True}
            try:
                with CLIENT.stream("POST", url + "/responses", json=body, headers=headers) as response:
                    for piece in response.iter_raw():
                        heard += len(piece)
                        if heard >= bytes_heard:
                            os.kill(running.pid, signal.SIGKILL)
                    ended = True
            except httpx2.HTTPError:
                pass
            os.kill(running.pid, signal.SIGKILL)
            running.wait()
        asked = len(provider.seen)
        with proxy:
            again = proxy.ask("c1")
        assert again.status_code == 200
        assert "response.completed" in again.text
        if ended:
            assert again.headers.get("Sartor-Recorded") == "1"
            assert len(provider.seen) == asked == 1
        with_ledger = proxy.ledger()
        spent = with_ledger.spent("editor").tokens
        with_ledger.close()
        last = provider.paid[-1]
        assert spent >= last.input + last.output, "what was lost is charged, never forgotten"


def test_killed_before_any_write_no_recorded_answer_is_paid_again(tmp_path: Path) -> None:
    """Every SQL statement and every line of a transcript, of a start and of one call."""
    states: list[str] = []
    with Provider(lambda seen: TURN) as provider:
        for write in range(1, 200):
            proxy = Proxy(tmp_path / str(write), (provider,))
            config, token = proxy.config().model_dump_json(), grant().signed(GRANT_KEY)
            before = len(provider.seen)
            first = life(config, token, die_before=write)
            recorded, asked = kill_world.recorded(proxy.folder / "state"), len(provider.seen) - before
            assert asked <= 1 and (first.answer is None or recorded), "nobody has an answer that is not recorded"
            second = life(config, token, die_before=0)
            again = len(provider.seen) - before - asked
            assert second.answer is not None and "response.completed" in second.answer
            assert again == (0 if recorded else 1), f"killed before write {write} ({first.about})"
            books = proxy.ledger()
            paid = (asked + again) * sum((provider.paid[-1].input, provider.paid[-1].output))
            assert books.spent("editor").tokens >= paid, "what was lost is charged, never forgotten"
            books.close()
            states.append(f"{asked}{int(recorded)}")
            if not first.killed:
                break
    assert len(states) > 20 and sorted(set(states)) == ["00", "10", "11"], "each side of each border was seen"
    assert states[-1] == "11" and not first.killed


def test_it_ends_in_order_and_says_what_is_wrong_with_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(seen: Seen) -> Turn:
        time.sleep(0.2)
        return TURN

    with Provider(slow) as provider:
        proxy = Proxy(tmp_path, (provider,))
        with process(proxy) as (running, url):
            assert ask(url, "c1").status_code == 200
            running.terminate()
            assert running.wait(15) == 0
    for broken, told in (
        ({"endpoints": []}, "endpoints"),
        ({"grant_key_file": str(tmp_path / "none")}, "grant_key_file"),
        ({"endpoints": [{"url": "http://127.0.0.1:1/v1", "key_variable": "NO_SUCH_KEY"}]}, "NO_SUCH_KEY is not set"),
    ):
        file = tmp_path / "broken.json"
        file.write_text(json.dumps(json.loads(proxy.config().model_dump_json()) | broken))
        assert main([str(file)]) == 2
        assert told in capsys.readouterr().err
