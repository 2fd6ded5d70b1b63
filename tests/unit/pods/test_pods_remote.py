"""What git's words mean, and how long a pod is patient."""

import math
from pathlib import Path

import pytest

from sartor_agents.pods import remote as remotes
from sartor_agents.pods.remote import MovedError, RefusedError, Remote, RemoteError


@pytest.mark.parametrize(
    ("command", "said", "kind", "words"),
    [
        ("push", "remote: sartor: refused: x lies outside stack/\n ! [remote rejected] y (pre-receive hook declined)",
         RefusedError, "x lies outside stack/"),
        ("ls-remote", "remote: sartor: this judge works for run a\nfatal: unable to access 'u': The requested URL returned "
         "error: 403", RefusedError, "this judge works for run a"),
        ("ls-remote", "remote: sartor: the token is not valid\nfatal: Authentication failed for 'u'", RefusedError, "token"),
        ("ls-remote", "remote: sartor: there is no SynthesisRun a/b\nfatal: repository 'u' not found", RefusedError, "a/b"),
        ("push", "remote: fatal: pack exceeds maximum allowed size (1 MiB)\nerror: remote unpack failed", RefusedError,
         "pack exceeds maximum allowed size"),
        ("push", " ! [rejected]        HEAD -> main (fetch first)", MovedError, "fetch first"),
        ("push", " ! [remote rejected] HEAD -> main (cannot lock ref 'refs/heads/main': is at a but expected b)",
         MovedError, "cannot lock ref"),
        ("push", "remote: error: cannot lock ref: No space left on device", RemoteError, "is full"),
        ("push", "remote: sartor: the volume has 3 MiB left\nfatal: unable to access 'u': The requested URL returned error: "
         "507", RemoteError, "the volume has 3 MiB left"),
        ("fetch", "remote: sartor: the git service is busy; try again\nfatal: The requested URL returned error: 503",
         RemoteError, "busy"),
        ("fetch", "fatal: unable to access 'u': Failed to connect to 127.0.0.1 port 9", RemoteError, "Failed to connect"),
        ("fetch", "", RemoteError, "it said nothing"),
    ],
)  # fmt: skip
def test_what_a_failed_command_means(command: str, said: str, kind: type[Exception], words: str) -> None:
    error = remotes._failure(command, said)
    assert type(error) is kind and words in str(error)


def away(tmp_path: Path, waited: list[float], *, patience: float, deadline: float = math.inf) -> Remote:
    """A repository that nobody serves."""
    (tmp_path / "token").write_text("t")
    return Remote(
        "http://127.0.0.1:9/a/b",
        tmp_path / "token",
        patience_seconds=patience,
        deadline=deadline,
        sleep=waited.append,
        clock=lambda: sum(waited),
    )


def test_a_service_that_is_away_is_tried_again_with_longer_and_longer_waits(tmp_path: Path) -> None:
    waited: list[float] = []
    with away(tmp_path, waited, patience=60.0) as remote, pytest.raises(RemoteError, match="Failed to connect"):
        remote.tip("refs/heads/main")
    assert waited == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_the_end_of_the_step_ends_patience_in_time_to_say_so(tmp_path: Path) -> None:
    waited: list[float] = []
    with away(tmp_path, waited, patience=60.0, deadline=10.0) as remote, pytest.raises(RemoteError):
        remote.tip("refs/heads/main")
    assert waited == [1.0, 2.0, 4.0]


def test_nothing_of_the_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".gitconfig").write_text('[url "http://127.0.0.1:10/"]\n\tinsteadOf = http://127.0.0.1:9/\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:11")
    with away(tmp_path, [], patience=0.0) as remote, pytest.raises(RemoteError, match="port 9"):
        remote.tip("refs/heads/main")
