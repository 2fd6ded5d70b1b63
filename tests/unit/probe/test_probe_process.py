"""`sartor-probe` as a process: what it says, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sartor_agents.probe.main import parser

ARMS = ["--baseline", "http://127.0.0.1:9", "--candidate", "http://127.0.0.1:9"]
PORTS = ["--listen", "127.0.0.1", "--copies-port", "0", "--control-port", "0"]


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A probe that listens, its copies' and its control port. It is killed if the test did not end it."""
    command = [sys.executable, "-m", "sartor_agents.probe.main", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"listening: copies on 127\.0\.0\.1:(\d+), control on 127\.0\.0\.1:(\d+)\n", line)
        assert found is not None, line
        yield process, int(found[1]), int(found[2])
    finally:
        process.kill()
        process.communicate()


def post(port: int, path: str, body: object) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, response.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_in_the_middle_of_a_pair(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with started("--baseline", url, "--candidate", url, *PORTS) as (process, copies, control):
            assert post(control, "/poll", {"share": 1})[0] == 200
            assert post(copies, "/v1/completions", {"prompt": "p"})[0] == 202
            deaf.settimeout(10)
            arm, _ = deaf.accept()
            with arm, socket.create_connection(("127.0.0.1", copies)) as idle:
                idle.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{")
                begun = time.monotonic()
                process.send_signal(number)
                output, errors = process.communicate(timeout=20)
            assert time.monotonic() - begun < 10  # a body waits for 30 s, an arm for 300
            assert (process.returncode, output, errors) == (0, "", "")


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "sartor_agents.probe.main", *ARMS, "--listen", "127.0.0.1", "--copies-port", "0",
             "--control-port", port],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert port in done.stderr and "--control-port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--baseline", "https://x", "--candidate", "http://x"],
        ["--baseline", "x:8000", "--candidate", "http://x"],
        ["--baseline", "http://x/v1", "--candidate", "http://x"],
        ["--baseline", "http://u:p@x", "--candidate", "http://x"],
        ["--baseline", "http://x:99999", "--candidate", "http://x"],
        ["--baseline", "http://[x", "--candidate", "http://x"],
        ["--baseline", "http://x"],
        [*ARMS, "--concurrency", "0"],
        [*ARMS, "--keep", "x"],
        [*ARMS, "--timeout", "nan"],
        [*ARMS, "--timeout", "-1"],
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        parser({}).parse_args(arguments)
    assert error.value.code == 2
    assert "usage: sartor-probe" in capsys.readouterr().err


def test_it_listens_where_its_pod_is() -> None:
    assert parser({"POD_IP": "10.1.2.3"}).parse_args(ARMS).listen == "10.1.2.3"
    assert parser({}).parse_args(ARMS).listen == "0.0.0.0"
    assert parser({"POD_IP": ""}).parse_args(ARMS).listen == "0.0.0.0"
    options = parser({"POD_IP": "10.1.2.3"}).parse_args([*ARMS, "--listen", "127.0.0.1"])
    assert options.listen == "127.0.0.1"
    assert (options.copies_port, options.control_port, options.concurrency) == (8000, 8001, 4)
    assert (options.keep, options.timeout) == (100_000, 300.0)
    assert (
        parser({}).parse_args(["--baseline", "http://x:1/", "--candidate", "http://[::1]:80"]).baseline == "http://x:1"
    )


def test_what_it_needs_is_light() -> None:
    """No engine, no tokenizer, no numpy: the pod is small, and there beside every rollout."""
    heavy = "('numpy', 'scipy', 'tokenizers', 'torch')"
    code = f"import sys, sartor_agents.probe.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True
    )
    assert done.stdout == "[]\n"
