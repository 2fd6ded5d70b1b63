"""What a command does to the worktree: its changes to `stack/` come out, nothing else does."""

import contextlib
import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from sartor_agents.run.sandbox import command
from sartor_agents.run.sandbox.command import CommandSandbox, Isolation, Way, listening, started
from sartor_agents.run.sandbox.errors import SandboxError
from sartor_agents.run.sandbox.limits import MIB


def shell(sandbox: CommandSandbox, script: str, **options: bool) -> command.CommandResult:
    return sandbox.run(("/bin/sh", "-c", script), **options)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(params=[Isolation.BUBBLEWRAP, Isolation.POD])
def either(sandbox: CommandSandbox, request: pytest.FixtureRequest) -> CommandSandbox:
    (sandbox.worktree / "stack" / "old.py").write_text("old")
    (sandbox.worktree / "stack" / "gone.py").write_text("gone")
    return replace(sandbox, isolation=request.param)


def test_changes_to_the_stack_are_kept(either: CommandSandbox) -> None:
    result = shell(
        either,
        "cat stack/old.py; echo new > stack/new.py; echo x >> stack/old.py; rm stack/gone.py; chmod +x stack/new.py",
    )
    assert (result.code, result.output, result.kept) == (0, "old", True)
    assert contents(either.worktree) == {"stack/new.py": "new\n", "stack/old.py": "oldx\n"}
    assert os.access(either.worktree / "stack/new.py", os.X_OK)


def test_what_lies_outside_the_stack_is_not(either: CommandSandbox) -> None:
    before = contents(either.worktree)
    assert shell(either, "echo x > notes.txt; mkdir other; echo y > other/z").code == 0
    assert contents(either.worktree) == before
    assert "notes.txt" not in shell(either, "ls").output


def test_links_and_special_files_stay_behind(either: CommandSandbox) -> None:
    result = shell(either, "ln -s /etc/passwd stack/link; mkfifo stack/pipe; ln stack/old.py stack/hard")
    assert result.kept and len(result.refused) == 2
    assert set(contents(either.worktree)) == {"stack/gone.py", "stack/hard", "stack/old.py"}
    assert not any(path.is_symlink() for path in either.worktree.rglob("*"))


def test_a_link_in_the_worktree_is_not_followed(either: CommandSandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (either.worktree / "stack" / "link").symlink_to(secret)
    assert "secret" not in shell(either, "cat stack/link").output


def test_without_keeping_nothing_changes(either: CommandSandbox) -> None:
    before = contents(either.worktree)
    result = shell(either, "rm -r stack", keep=False)
    assert not result.kept and contents(either.worktree) == before


def test_a_command_that_is_over_its_time_leaves_what_it_had(either: CommandSandbox) -> None:
    result = either.run(("/bin/sh", "-c", "echo half > stack/half; (setsid sleep 60 &); sleep 60"), seconds=1)
    assert result.problem == "TimedOut" and contents(either.worktree)["stack/half"] == "half\n"


def test_nothing_writes_while_it_is_kept(either: CommandSandbox) -> None:
    """What a command left in the background is ended first, or a file would grow under the hands of whoever reads it."""
    result = shell(either, "(setsid sh -c 'while :; do echo more >> stack/grows; done' &); sleep 0.5")
    assert (result.problem, result.kept) == (None, True)
    assert (either.worktree / "stack/grows").read_text().startswith("more\nmore\n")


def test_a_command_that_ends_what_starts_it_changes_nothing(sandbox: CommandSandbox) -> None:
    (sandbox.worktree / "stack" / "a").write_text("a")
    result = shell(sandbox, "echo b > stack/a; kill -9 $PPID; sleep 5")
    assert not result.kept and contents(sandbox.worktree) == {"stack/a": "a"}


def test_a_missing_stack_is_an_empty_one(either: CommandSandbox) -> None:
    for path in (either.worktree / "stack").iterdir():
        path.unlink()
    (either.worktree / "stack").rmdir()
    assert shell(either, "mkdir stack && echo 1 > stack/a").kept
    assert contents(either.worktree) == {"stack/a": "1\n"}


def test_a_worktree_that_does_not_fit_is_an_error_of_its_own(sandbox: CommandSandbox) -> None:
    (sandbox.worktree / "stack" / "large").write_bytes(bytes(4 * MIB))
    small = replace(sandbox, limits=replace(sandbox.limits, workspace_bytes=MIB))
    with pytest.raises(SandboxError, match="does not fit") as error:
        small.run(("true",))
    assert error.value.reason == "WorkspaceTooLarge"
    assert (sandbox.worktree / "stack" / "large").stat().st_size == 4 * MIB


def test_no_sandbox_no_command(sandbox: CommandSandbox) -> None:
    with mock.patch.object(command.bubblewrap, "sandbox_program", lambda: None), pytest.raises(SandboxError) as error:
        shell(sandbox, "touch stack/ran")
    assert error.value.reason == "SandboxMissing" and "install" in error.value.message
    assert not (sandbox.worktree / "stack" / "ran").exists()


def test_the_environment_is_the_sandbox_own(sandbox: CommandSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    found = replace(sandbox, environment={"GIVEN": "yes"})
    output = shell(found, "env; pwd; id -u").output
    assert "secret" not in output and "GIVEN=yes" in output and "HOME=/tmp/home" in output
    assert output.splitlines()[-2:] == ["/workspace", "1000"]


def test_the_one_way_out(sandbox: CommandSandbox, tmp_path: Path) -> None:
    """A port inside leads to a socket outside, and to nothing else."""
    script = (
        "import socket\n"
        "near = socket.create_connection(('127.0.0.1', 8123)); near.sendall(b'ping'); near.shutdown(1)\n"
        "print(near.recv(100))\n"
        "try:\n    socket.create_connection(('127.0.0.1', 8124))\nexcept OSError as error:\n    print(error.strerror)\n"
    )
    path = Path("/tmp") / f"sartor-way-{os.getpid()}.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"pong to " + connection.recv(100))

        threading.Thread(target=answer, daemon=True).start()
        result = replace(sandbox, ways=(Way(8123, path),)).run(("python", "-c", script))
        path.unlink()
    assert result.output == "b'pong to ping'\nConnection refused\n"


def test_a_server_inside_is_reached_from_outside(sandbox: CommandSandbox, tmp_path: Path) -> None:
    """No port of the machine is opened for it."""
    serve = ("python", "-m", "http.server", "8000", "--bind", "127.0.0.1")
    (sandbox.worktree / "stack" / "page").write_text("from inside")
    folder = Path("/tmp")
    with (
        listening(folder / f"sartor-into-{os.getpid()}.sock") as (path, number),
        started(sandbox, serve, keep=False, into={number: 8000}) as running,
    ):
        text = b""
        while not text:
            assert running.process.alive, running.output.text()
            with contextlib.suppress(ConnectionError), socket.socket(socket.AF_UNIX) as near:  # it may not listen yet
                near.connect(str(path))
                near.sendall(b"GET /stack/page HTTP/1.0\r\n\r\n")
                while data := near.recv(4096):
                    text += data
        assert text.endswith(b"from inside")
    assert not path.exists() and not running.process.alive
