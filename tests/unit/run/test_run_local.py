"""Steps as real processes: whatever a role, a candidate or the baseline does, it ends as the right failure."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from run_fakes import MIB, FakeEngine, LocalRun, run_spec

from sartor_agents.run import guard
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.sandbox import inside
from sartor_api.search.records import BaselineRecord, FailureClass, Outcome, StepRecord

CANDIDATE, INFRASTRUCTURE = FailureClass.CANDIDATE, FailureClass.INFRASTRUCTURE


def records(run: LocalRun) -> tuple[StepRecord, ...]:
    return RunRepository(RunLayout(run.root / "run").repository).load().records


def below(root: Path) -> list[psutil.Process]:
    """Processes whose command line or folder names this test's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(root) in " ".join(process.cmdline()) or str(root) in process.cwd():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def gone(root: Path, within: float = 10.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if not below(root):
            return True
        time.sleep(0.05)
    return False


def test_a_whole_run_of_processes_delivers_the_winner_and_leaves_nothing_running(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, engine=FakeEngine(grid=("plain", "ngram")), spec=run_spec(rounds=1))
    finished = run.driver().drive()
    assert finished.outcome is Outcome.CONFIRMED
    layout = RunLayout(tmp_path / "run")
    assert "# round 1" in (layout.stack / "__main__.py").read_text()
    assert stat_mode(layout.sealed) == 0o700
    baseline = records(run)[0].result
    assert isinstance(baseline, BaselineRecord) and [p.metric for p in baseline.grid] == [100.0, 100.0]
    repository = RunRepository(layout.repository)
    confirm = records(run)[-1]
    commitment = json.loads(repository.read_text(f"seeds/{confirm.id.replace('/', '-')}.json") or "")
    assert commitment["digest"] == confirm.result.seed.digest and commitment["value"] is None  # type: ignore[union-attr]
    assert confirm.result.seed.value is not None  # type: ignore[union-attr]
    assert gone(tmp_path)


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("behaviour", "reason", "words"),
    [
        ("build-fails", "BuildFailed", "no compiler likes this"),
        ("crashes", "CandidateDied", "the candidate fell over"),
        ("hogs", "CandidateMemoryExceeded", "400 MiB"),
        ("outside", "WroteOutsideStack", "notes.txt"),
    ],
)
def test_a_bad_candidate_costs_its_attempt_and_is_repaired_with_the_reason(
    tmp_path: Path, behaviour: str, reason: str, words: str
) -> None:
    run = LocalRun(tmp_path, {"implementer": behaviour}, spec=run_spec(rounds=1))
    finished = run.driver().drive()
    failures = [r.failure for r in records(run) if r.failure]
    assert failures[0].reason == reason and failures[0].failure_class is CANDIDATE
    assert words in failures[0].message
    repaired = behaviour != "outside"
    assert (finished.outcome is Outcome.CONFIRMED) == repaired
    assert gone(tmp_path)


@pytest.mark.parametrize(
    ("role", "behaviour", "reason"),
    [
        ("planner", "crash", "RoleFailed"),
        ("judge", "garbage", "RoleAnsweredGarbage"),
        ("evaluator", "nothing", "RoleGaveNothing"),
    ],
)
def test_a_bad_role_is_retried_and_then_a_clear_end(tmp_path: Path, role: str, behaviour: str, reason: str) -> None:
    run = LocalRun(tmp_path, {role: behaviour}, spec=run_spec(rounds=1))
    finished = run.driver().drive()
    assert finished.outcome is Outcome.FAILED
    if role == "evaluator":
        assert finished.reason == "BaselineUnavailable" and reason in records(run)[-1].failure.message  # type: ignore[union-attr]
    else:
        assert finished.reason == "InfrastructureUnavailable"
        assert [r.failure.reason for r in records(run) if r.failure] == [reason] * 3
    assert gone(tmp_path)


def test_a_role_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, {"planner": "hang"}, spec=run_spec(rounds=1, seconds=1.5))
    before = set(sleepers())
    finished = run.driver().drive()
    assert finished.outcome is Outcome.FAILED
    assert records(run)[-1].failure.reason == "RoleTimedOut"  # type: ignore[union-attr]
    assert gone(tmp_path) and set(sleepers()) <= before


def sleepers() -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "600.25"]]


def test_a_role_sees_a_scrubbed_environment_and_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    run = LocalRun(tmp_path, {"planner": "environment"}, spec=run_spec(rounds=1))
    run.driver().drive()
    seen, folder, files = json.loads(records(run)[-1].failure.message)  # type: ignore[union-attr]
    assert "OPENAI_API_KEY" not in seen and "PATH" in seen
    assert Path(folder).name.endswith("planner") and files == ["request.json"]


def test_settings_of_the_baseline_that_do_not_start_stay_in_the_record(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, engine=FakeEngine(broken=("plain",), grid=("plain", "ngram")), spec=run_spec(rounds=0))
    run.driver().drive()
    baseline = records(run)[0].result
    assert isinstance(baseline, BaselineRecord) and baseline.chosen == "ngram"
    assert "libgomp is missing" in baseline.grid[0].message and baseline.grid[0].metric is None


def test_a_baseline_that_never_starts_is_a_clear_end(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, engine=FakeEngine(broken=("plain",)))
    finished = run.driver().drive()
    assert (finished.outcome, finished.reason) == (Outcome.FAILED, "BaselineUnavailable")
    failure = records(run)[-1].failure
    assert failure is not None and failure.failure_class is INFRASTRUCTURE and "libgomp" in failure.message
    assert gone(tmp_path)


def test_a_baseline_that_dies_in_a_window_is_a_measurement_failure_and_started_again(tmp_path: Path) -> None:
    run = LocalRun(tmp_path, {"evaluator": "invalid"}, spec=run_spec(rounds=1))
    finished = run.driver().drive()
    assert (finished.outcome, finished.reason) == (Outcome.FAILED, "MeasurementImpossible")
    failed = [r.failure for r in records(run) if r.failure]
    assert [f.reason for f in failed] == ["BaselineDied"] * 3
    assert all(r.attempt == 1 for r in records(run)), "the candidate keeps its attempt"


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
sys.path.insert(0, {tests!r})
from pathlib import Path
from run_fakes import LocalRun, run_spec
LocalRun(Path({root!r}), {{"judge": "hang"}}, spec=run_spec(rounds=1)).driver().drive()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_outlives_a_driver_that_is_killed_and_the_run_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    program = DRIVER.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    before = set(sleepers())
    driver = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not set(sleepers()) - before:  # the judge hangs, with a child in a session of its own
            assert time.monotonic() < deadline and driver.poll() is None
            time.sleep(0.05)
        driver.send_signal(how)
        driver.wait(20)
    finally:
        driver.kill()
    assert gone(tmp_path) and set(sleepers()) <= before
    run = LocalRun(tmp_path, spec=run_spec(rounds=1))
    assert len(records(run)) == 3
    assert run.driver().drive().outcome is Outcome.CONFIRMED
    assert gone(tmp_path)


def test_memory_is_watched_over_the_whole_tree(tmp_path: Path) -> None:
    hog = f"import time; x = bytearray({200 * MIB}); x[::4096] = b'1' * len(x[::4096]); time.sleep(60)"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hog!r}])"
    with GuardedProcess(
        (sys.executable, "-c", program),
        cwd=tmp_path,
        environment=scrubbed_environment(tmp_path),
        log=tmp_path / "log",
        memory_bytes=120 * MIB,
    ) as process:
        ended = process.wait(30)
    assert ended.problem == "MemoryExceeded" and process.peak_bytes > 120 * MIB


def test_exit_codes_and_output_come_through_the_guard(tmp_path: Path) -> None:
    lines: list[str] = []
    with GuardedProcess(
        (sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"),
        cwd=tmp_path,
        environment=scrubbed_environment(tmp_path),
        log=tmp_path / "log",
        on_line=lines.append,
    ) as process:
        assert process.wait(20).code == 7
    assert sorted(lines) == ["err", "out"] and (tmp_path / "log").read_text().count("\n") == 2
    with GuardedProcess(
        ("/does/not/exist",), cwd=tmp_path, environment=scrubbed_environment(tmp_path), log=tmp_path / "log"
    ) as process:
        assert process.wait(20).code == 127
    assert os.getpid() and "No such file" in process.tail()


@pytest.mark.skipif(not Path(guard.CHILDREN).exists(), reason="the kernel lists no children: nothing to compare")
@pytest.mark.parametrize(
    ("kept", "by_parents"), [(guard.descendants, guard._by_parents), (inside.descendants, inside.by_parents)]
)
def test_a_kernel_that_lists_no_children_shows_the_same_tree(
    kept: Callable[[int], list[int]], by_parents: Callable[[int], list[int]], tmp_path: Path
) -> None:
    """As kernels built without CONFIG_PROC_CHILDREN, which small virtual machines may have."""
    below = (
        "import subprocess, time; subprocess.Popen(['sleep', '30']); subprocess.Popen(['sleep', '30']); time.sleep(30)"
    )
    with GuardedProcess(
        ("sh", "-c", f'{sys.executable} -c "{below}" & sleep 30'),
        cwd=tmp_path, environment=scrubbed_environment(tmp_path), log=tmp_path / "log",
    ) as process:  # fmt: skip
        until = time.monotonic() + 20
        while len(kept(process.pid)) < 5:  # the shell, its sleep, Python and two more
            assert time.monotonic() < until
            time.sleep(0.05)
        assert sorted(by_parents(process.pid)) == sorted(kept(process.pid))
        assert by_parents(process.pid)[0] == kept(process.pid)[0], "parents come first"
    assert by_parents(process.pid) == []


def test_without_a_list_of_children_trees_end_whole_too(tmp_path: Path) -> None:
    """The guard itself on such a kernel: what has made a session of its own is found by its parent."""
    blind = tmp_path / "guard.py"
    text = Path(guard.__file__).read_text(encoding="utf-8")
    blind.write_text(
        text.replace('CHILDREN = "/proc/thread-self/children"', 'CHILDREN = "/proc/none"'), encoding="utf-8"
    )
    assert "/proc/none" in blind.read_text(encoding="utf-8")
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", str(blind), str(reading), "sh", "-c", "setsid sleep 60 & echo $!; wait"],
        pass_fds=(reading,), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.close(reading)
        assert process.stdout is not None
        far = int(process.stdout.readline())
        assert Path(f"/proc/{far}").exists()
        os.close(writing)
        assert process.wait(20) == 137
        assert not Path(f"/proc/{far}").exists()


def test_a_process_that_somebody_looks_at_as_it_ends_has_not_timed_out(tmp_path: Path) -> None:
    """`Popen` lets one thread at a time ask the kernel, and with a timeout of 0 the other does not wait for its turn."""
    with GuardedProcess(
        (sys.executable, "-c", "import time; time.sleep(0.2)"),
        cwd=tmp_path,
        environment=scrubbed_environment(tmp_path),
        log=tmp_path / "log",
    ) as process:
        turn = process._process._waitpid_lock  # type: ignore[attr-defined]
        turn.acquire()
        threading.Timer(2.0, turn.release).start()
        ended = process.wait(20)
    assert ended.problem is None and ended.code == 0
