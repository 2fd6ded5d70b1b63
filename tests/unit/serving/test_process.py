"""The command line and the life of the process, in a stack folder with a decoder that a test can hold up."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import toy
from .composed import compose
from .serve import write_text_side

# Stands in for the native decoder: counts upwards, and waits for the test where the file `gate` says so.
DECODER = '''
"""Counts upwards. Opens the FIFO named by TOY_GATE before its third step, which waits for the test to open it too."""
import os
import numpy as np

class NativeDecoder:
    arithmetic = "counting"
    pages = 1024

    def __init__(self, model_dir, *, kv_pages, threads):
        self.steps = 0

    def forward(self, segments):
        self.steps += 1
        if self.steps == 3 and "TOY_GATE" in os.environ:
            open(os.environ["TOY_GATE"]).close()
        out = [10 + (s.tokens[-1] + 1) % 50 for s in segments for _ in range(s.outputs)]
        return np.array(out, dtype=np.int32), None

    def close(self):
        print("decoder closed", flush=True)
'''
BUILD = '''
"""Nothing to build."""
class BuildError(Exception): ...
def build(): ...
'''
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 192, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `stack/` and `model/`."""
    folder = compose(tmp_path_factory.mktemp("composed"))
    (folder / "stack" / "native_decoder.py").write_text(DECODER)
    (folder / "stack" / "native_build.py").write_text(BUILD)
    write_text_side(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stack", *arguments]


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=place, capture_output=True, text=True, timeout=60, check=False)


class Process:
    def __init__(self, place: Path, *arguments: str, **environment: str) -> None:
        self.popen = subprocess.Popen(
            command("serve", "--model", "model", "--port", "0", *arguments),
            cwd=place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        assert line.startswith("READY http://127.0.0.1:"), self.popen.stderr
        self.port = int(line.rsplit(":", 1)[1])

    def request(self, method: str, path: str, body: Any = None) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, json.dumps(body) if body is not None else None)
        return connection

    def get(self, path: str) -> http.client.HTTPResponse:
        response = self.request("GET", path).getresponse()
        response.read()
        return response


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for process in started:
        process.popen.kill()
        process.popen.communicate()


def test_it_serves_and_stops_cleanly_when_idle(place: Path, processes: list[Process]) -> None:
    process = Process(place)
    processes.append(process)
    response = process.request("POST", "/v1/completions", {"prompt": [5], "max_tokens": 4}).getresponse()
    assert response.status == 200
    process.popen.send_signal(signal.SIGTERM)
    out, err = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 0, err
    assert "decoder closed" in out
    assert "(llama; counting) loaded in" in err, "the line at start names the decoder's arithmetic"
    assert "Traceback" not in err


def test_sigterm_turns_health_red_and_lets_running_requests_finish(
    place: Path, tmp_path: Path, processes: list[Process]
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = Process(place, TOY_GATE=str(gate))
    processes.append(process)
    body = {"prompt": [5], "max_tokens": 6, "temperature": 0, "stream": True}
    response = process.request("POST", "/v1/completions", body).getresponse()
    first = response.readline()
    assert first.startswith(b"data: {")
    process.popen.send_signal(signal.SIGTERM)
    # The signal is handled by the event loop's thread before it takes the next connection, or shortly after.
    health = next(h for _ in range(1000) if (h := process.get("/health")).status == 503)
    assert health.getheader("connection") == "close"
    gate.write_text("")
    rest = response.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    process.popen.communicate(timeout=20)
    assert process.popen.returncode == 0


def test_draining_is_bounded(place: Path, tmp_path: Path, processes: list[Process]) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    process = Process(place, "--drain-seconds", "0.2", TOY_GATE=str(gate))
    processes.append(process)
    body = {"prompt": [5], "max_tokens": 6, "temperature": 0, "stream": True}
    response = process.request("POST", "/v1/completions", body).getresponse()
    assert response.readline().startswith(b"data: {")
    process.popen.send_signal(signal.SIGTERM)
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    gate.write_text("")
    _, err = process.popen.communicate(timeout=30)
    assert process.popen.returncode == 0
    assert "outlasted the drain time" in err


def test_a_port_in_use_is_one_sentence(place: Path, processes: list[Process]) -> None:
    process = Process(place)
    processes.append(process)
    second = run(place, "serve", "--model", "model", "--port", str(process.port))
    assert second.returncode == 1
    assert f"port {process.port} on 127.0.0.1 is in use" in second.stderr
    assert "Traceback" not in second.stderr


def test_wrong_model_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(folder: Path) -> str:
        assert toy.stack().main.main(["serve", "--model", str(folder), "--port", "0"]) == 1
        return capsys.readouterr().err

    assert "config.json" in refusal(tmp_path / "nowhere")
    other = tmp_path / "other"
    write_text_side(other)
    (other / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 128, "head_dim": 32}))
    assert "HIDDEN_SIZE is 128, the stack has 64" in refusal(other)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps(CONFIG))
    assert "tokenizer.json is missing" in refusal(bare)
    (bare / "tokenizer.json").write_text("{")
    assert "cannot be read" in refusal(bare)


def test_wrong_arguments_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "required"),
        (["serve"], "--model"),
        (["serve", "--model", "m", "--baseline", "127.0.0.1:8001"], "not a URL like"),
    ):
        with pytest.raises(SystemExit) as ended:
            toy.stack().main.main(arguments)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
