"""`tools/run-tests`: no failure of any part is lost on the way."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

RUN_TESTS = Path(__file__).parents[3] / "tools" / "run-tests"
MARKERS = "[pytest]\nmarkers =\n    cluster:\n    alone:\n    exhaustive:\n"
PLAIN = "def test_plain(): assert {plain}\n"
CLUSTER = "import pytest\n@pytest.mark.cluster\ndef test_on_cluster(): assert {cluster}\n"
ALONE = "import pytest\n@pytest.mark.cluster\n@pytest.mark.alone\ndef test_alone(): assert {alone}\n"
NEVER = "import pytest\n@pytest.mark.exhaustive\ndef test_exhaustive(): assert False\n"


def ran(folder: Path, *names: str, **outcomes: bool) -> "subprocess.CompletedProcess[str]":
    """`tools/run-tests` in a folder with one test of each kind; `outcomes` says which of them hold."""
    (folder / "pytest.ini").write_text(MARKERS)
    holds = {"plain": True, "cluster": True, "alone": True, **outcomes}
    for number, text in enumerate((PLAIN, CLUSTER, ALONE, NEVER)):
        (folder / f"test_{number}.py").write_text(text.format(**holds))
    command = [sys.executable, str(RUN_TESTS), "-p", "no:cacheprovider", "-p", "xdist", *names]
    values = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they are most of what pytest takes to start
    return subprocess.run(command, cwd=folder, env=values, capture_output=True, text=True, check=False, timeout=120)


def test_each_kind_runs_once_and_says_how_it_ended(tmp_path: Path) -> None:
    done = ran(tmp_path, "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("test_plain", "test_on_cluster", "test_alone"):
        passed = done.stdout.count(f"{name} PASSED") + len(re.findall(rf"PASSED \S+::{name}\b", done.stdout))
        assert passed == 1, done.stdout
    assert "test_exhaustive" not in done.stdout
    for part in ("without a cluster", "on a cluster", "alone"):
        assert re.search(rf"{part}: exit code 0 after \d", done.stdout)


@pytest.mark.parametrize("kind", ["plain", "cluster", "alone"])
def test_a_failure_of_any_kind_is_a_failure(tmp_path: Path, kind: str) -> None:
    done = ran(tmp_path, **{kind: False})
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("AssertionError") or done.stdout.count("assert False")


def test_what_matches_nothing_at_all_says_so(tmp_path: Path) -> None:
    assert ran(tmp_path, "-k", "no_such_name").returncode == 5
    assert ran(tmp_path, "-k", "test_plain").returncode == 0
