"""The run's repository: what was recorded is whole, and what is not is said with a way back."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from git import Git
from run_fakes import FakeClock, FakeSteps, run_spec

from sartor_agents.run.content import ContentError, content_hash, snapshot
from sartor_agents.run.driver import Driver
from sartor_agents.run.errors import DamagedRepositoryError, NotARunError, RunLockedError, StorageError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.lock import run_lock
from sartor_agents.run.repository import RunRepository, StoredRun
from sartor_agents.run.storage import write_atomic
from sartor_api.search.budget import Ledger
from sartor_api.search.records import Implementation, Outcome


def finished_run(root: Path) -> RunRepository:
    repository = RunRepository.create(root / "repository", run_spec(rounds=2), "kind: X\n", 0.0)
    driver = Driver(
        repository, FakeSteps(repository), clock=FakeClock(), emit=lambda _: None, report=lambda _: "report.html"
    )
    assert driver.drive().outcome is Outcome.CONFIRMED
    return repository


def git(repository: RunRepository, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(repository.path), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    finished_run(root)
    return root


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> RunRepository:
    shutil.copytree(template / "repository", tmp_path / "repository")
    return RunRepository(tmp_path / "repository")


def test_the_layout_is_what_the_architecture_says(repository: RunRepository) -> None:
    files = git(repository, "ls-tree", "-r", "--name-only", "main").splitlines()
    assert {"run.json", "synthesis.yaml", "ledger.json", "roadmap.md", "finished.json"} <= set(files)
    assert "rounds/001/0002-plan-1.json" in files and "baseline/000-baseline-1-1.json" in files
    assert set(git(repository, "branch", "--format=%(refname:short)").split()) == {
        "main",
        "candidate/001",
        "candidate/002",
    }
    assert git(repository, "show", "candidate/002:stack/__main__.py") == "print(2)"
    assert "| 2 | try \\<2\\> | kept |" in (repository.read_text("roadmap.md") or "")
    assert json.loads(repository.read_text("rounds/001/0002-plan-1.json") or "")["result"]["hypothesis"] == "try <1>"
    git(repository, "fsck", "--strict")


def test_what_is_loaded_is_what_was_recorded(repository: RunRepository) -> None:
    stored = repository.load()
    assert [r.sequence for r in stored.records] == list(range(1, 11))
    assert stored.finished is not None and stored.finished.outcome is Outcome.CONFIRMED
    assert stored.state(0.0).best is not None


def damage_missing_object(repository: RunRepository) -> str:
    blob = git(repository, "rev-parse", "main:confirm/000-confirm-1-1.json")
    path = repository.path / "objects" / blob[:2] / blob[2:]
    path.chmod(stat.S_IWUSR)
    path.unlink()
    return "an object is missing or damaged"


def damage_truncated_object(repository: RunRepository) -> str:
    blob = git(repository, "rev-parse", "main:confirm/000-confirm-1-1.json")
    path = repository.path / "objects" / blob[:2] / blob[2:]
    path.chmod(stat.S_IWUSR | stat.S_IRUSR)
    path.write_bytes(path.read_bytes()[:20])
    return "an object is missing or damaged"


def _forge(repository: RunRepository, path: str, content: bytes) -> None:
    repository._commit("main", repository._tip("main"), {path: content}, "forged", 5.0)  # pyright: ignore[reportPrivateUsage]


def damage_truncated_record(repository: RunRepository) -> str:
    text = (repository.read_text("rounds/001/0002-plan-1.json") or "").encode()
    _forge(repository, "rounds/001/0002-plan-1.json", text[: len(text) // 2])
    return "rounds/001/0002-plan-1.json is no whole record"


def damage_wrong_record(repository: RunRepository) -> str:
    _forge(repository, "rounds/001/0002-plan-1.json", b"{}")
    return "rounds/001/0002-plan-1.json is no whole record: id: Field required"


def damage_removed_record(repository: RunRepository) -> str:
    message = b"x\n\nSartor-Record: main\n"
    stream = b"commit refs/heads/main\ncommitter A <a@b> 9 +0000\ndata %d\n%s" % (len(message), message)
    stream += b"from refs/heads/main^0\nD rounds/001/0003-implement-1.json\n"
    subprocess.run(["git", "-C", str(repository.path), "fast-import", "--quiet"], input=stream, check=True)
    return "record number 3 of the run is missing"


def damage_foreign_commit(repository: RunRepository) -> str:
    tree = git(repository, "rev-parse", "main^{tree}")
    environment = ["-c", "user.name=Mallory", "-c", "user.email=m@example.com"]
    commit = git(repository, *environment, "commit-tree", tree, "-p", "main", "-m", "tidy up")
    git(repository, "update-ref", "refs/heads/main", commit)
    return "was made by Mallory ('tidy up'), not by this run"


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_object,
        damage_truncated_object,
        damage_truncated_record,
        damage_wrong_record,
        damage_removed_record,
        damage_foreign_commit,
    ],
)
def test_damage_is_said_and_the_way_back_works(repository: RunRepository, damage) -> None:
    message = damage(repository)
    with pytest.raises(DamagedRepositoryError) as caught:
        repository.load()
    assert message in str(caught.value)
    hint = caught.value.hint
    command = hint.split("go back to it with: ")[1].split("   and then")[0]
    subprocess.run(command.split(), check=True)
    stored = RunRepository(repository.path).load()
    assert len(stored.records) >= 9, "only what was damaged is lost"
    assert stored.records[-1].sequence == len(stored.records)


def test_a_killed_git_leaves_locks_that_do_not_stop_the_next_session(repository: RunRepository) -> None:
    for name in ("refs/heads/main.lock", "packed-refs.lock"):
        (repository.path / name).touch()
    with pytest.raises(StorageError):
        repository.save_ledger(Ledger(), "x", 1.0, {})
    repository.clear_stale_locks()
    repository.save_ledger(repository.load().ledger, "x", 1.0, {})


def test_no_repository_and_an_empty_one_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match="is no run"):
        RunRepository(tmp_path / "repository")
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "repository")], check=True)
    with pytest.raises(NotARunError, match="has no branch main"):
        RunRepository(tmp_path / "repository").load()


def test_a_full_disk_loses_nothing(repository: RunRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before: StoredRun = repository.load()
    real = shutil.which("git")
    script = tmp_path / "git"
    script.write_text(
        "#!/bin/sh\ncase \"$*\" in *fast-import*) echo 'fatal: write error: No space left on device' >&2; exit 128;; esac\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(Git, "GIT_PYTHON_GIT_EXECUTABLE", str(script))
    with pytest.raises(StorageError, match="no space left") as caught:
        repository.save_ledger(Ledger(), "x", 1.0, {})
    assert "--resume" in str(caught.value)
    monkeypatch.undo()
    assert RunRepository(repository.path).load() == before


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_two_runs_on_one_folder_are_refused_with_the_holders_pid(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    with run_lock(layout), pytest.raises(RunLockedError) as caught, run_lock(layout):
        pass
    import os

    assert f"process {os.getpid()} is working on this run" in str(caught.value)
    with run_lock(layout):
        pass


def test_candidates_are_committed_exactly_and_written_out_again(repository: RunRepository, tmp_path: Path) -> None:
    files = {
        "stack/__main__.py": b"x = 1\n",
        'stack/odd "name".txt': "ü\n".encode(),
        "stack/deep/a.bin": bytes(range(256)),
    }
    first = repository.save_candidate(9, None, files, Implementation(summary="s"), 1.0)
    assert first.content_hash == content_hash(files) and first.lines == 1
    second = repository.save_candidate(9, None, {"stack/__main__.py": b""}, Implementation(), 2.0)
    assert repository.candidate_files(first.commit) == files
    assert repository.candidate_files(second.commit) == {"stack/__main__.py": b""}
    repository.export(first.commit, tmp_path / "out")
    assert snapshot(tmp_path / "out") == dict(sorted(files.items()))
    with pytest.raises(DamagedRepositoryError, match="cannot be read"):
        repository.candidate_files("0" * 40)


def test_content_is_the_files_and_not_what_is_made_from_them(tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    (stack / "build").mkdir(parents=True)
    (stack / "__pycache__").mkdir()
    (stack / "__main__.py").write_text("1")
    (stack / "build" / "decoder.so").write_bytes(b"so")
    (stack / "__pycache__" / "x.pyc").write_bytes(b"pyc")
    assert list(snapshot(tmp_path)) == ["stack/__main__.py"]
    assert content_hash({"a": b"bc"}) != content_hash({"ab": b"c"})


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda root: (root / "stack" / "__main__.py").unlink(), "StackIncomplete"),
        (lambda root: (root / "stack" / "link").symlink_to("/etc/passwd"), "LinkInStack"),
        (lambda root: (root / "stack" / "linked").symlink_to("/etc"), "LinkInStack"),
        (lambda root: (root / "other.py").write_text(""), "WroteOutsideStack"),
        (lambda root: __import__("os").mkfifo(root / "stack" / "pipe"), "SpecialFileInStack"),
        (lambda root: (root / "stack" / "big").open("wb").truncate(65 << 20), "StackTooLarge"),
    ],
)
def test_what_no_candidate_may_be(tmp_path: Path, prepare, reason: str) -> None:
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "__main__.py").write_text("")
    prepare(tmp_path)
    with pytest.raises(ContentError) as caught:
        snapshot(tmp_path)
    assert caught.value.reason == reason
