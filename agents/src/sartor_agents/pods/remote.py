"""The run's repository as a role's pod sees it: over HTTP, with the pod's own token.

git asks a credential helper for the token at each request, and the helper reads the mounted file: the token stands in no
argument, environment or configuration, and a token that was renewed is used at once. Nothing of the container's own
configuration is read: what another container of the pod left in a shared folder must not lead git (or the token) astray.

A request that fails by no fault of the caller (the service restarts, the volume is full) is tried again for
`patience_seconds`, as long as the step's time allows. Every method may raise `RemoteError` after that, or `RefusedError` at
once.
"""

import io
import math
import os
import re
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx2

from sartor_agents.run.fast_import import commit_stream
from sartor_agents.run.storage import storage_errors

PATIENCE_SECONDS = 60.0
SAYING_SECONDS = 3.0
CALL_SECONDS = 300.0
"""For one git command."""
GET_SECONDS = 60.0
"""Between two signs of life of the service."""
MOST_BYTES = 96 << 20
"""Of a tar; a stack may have 64 MiB."""

HELPER = (
    '!f() { test "$1" = get || exit 0; printf "username=sartor\\npassword=%s\\n" "$(cat "$SARTOR_TOKEN_FILE")"; }; f'
)

_MOVED = ("[rejected]", "cannot lock ref", "incorrect old value", "failed to update ref", "fetch first")
_STATUS = re.compile(r"returned error: (\d{3})")
_REFUSING = frozenset({"400", "401", "403", "404", "405", "413", "415"})


class RemoteError(Exception):
    """The repository could not be reached, or did not do what it should; asking later may help."""


class RefusedError(Exception):
    """The repository's service said no; the message is its sentence."""


class MovedError(Exception):
    """Somebody else moved the branch meanwhile: look at it again."""


class Remote:
    """One run's repository. Use as a context manager: its working folder, fresh and its own, goes away at the end."""

    def __init__(
        self,
        url: str,
        token_file: Path,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        deadline: float = math.inf,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline` (by `clock`) is when the pod is ended: the last `SAYING_SECONDS` before it are for saying so."""
        self._patience = patience_seconds
        self._deadline = deadline - SAYING_SECONDS
        self._sleep, self._clock = sleep, clock
        self._url, self._token_file = url, token_file
        with storage_errors(Path(tempfile.gettempdir())):
            # A name that nobody could know before: in a shared /tmp nothing can wait there for us.
            self._folder = tempfile.TemporaryDirectory(prefix="sartor-repository-")
        home = Path(self._folder.name)
        self._git_dir = home / "repository.git"
        config = {
            "core.hooksPath": "/dev/null",
            "credential.helper": HELPER,
            "fastimport.unpackLimit": "100000",
            "fetch.fsckObjects": "true",
            "gc.auto": "0",
            "http.followRedirects": "false",
            "http.lowSpeedLimit": "1",
            "http.lowSpeedTime": "60",
            "protocol.allow": "never",
            "protocol.http.allow": "always",
            "protocol.https.allow": "always",
            "remote.origin.url": url,
        }
        self._environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "SARTOR_TOKEN_FILE": str(token_file),
            "GIT_DIR": str(self._git_dir),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": str(len(config)),
            **{f"GIT_CONFIG_KEY_{number}": key for number, key in enumerate(config)},
            **{f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(config.values())},
            **{name: os.environ[name] for name in ("GIT_SSL_CAINFO", "SSL_CERT_FILE") if name in os.environ},
        }
        self._here("init", "--quiet", "--bare", "--template=", str(self._git_dir))

    # --- reading ------------------------------------------------------------------------------------------------------

    def tip(self, ref: str) -> str | None:
        """The commit that a reference points to, None if there is no such reference."""
        for line in self._there("ls-remote", "origin", ref).decode().splitlines():
            commit, _, name = line.partition("\t")
            if name == ref:
                return commit
        return None

    def fetch(self, commit: str, *, contents: bool) -> None:
        """Get a commit and its history; without `contents` the files' names only."""
        # A partial fetch makes `origin` the place where a file's content is got from when it is asked for.
        some = () if contents else ("--filter=blob:none",)
        self._there("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", *some, "origin", commit)

    def fetch_tip(self, ref: str, *, contents: bool = False) -> str | None:
        """The commit that a reference points to, fetched."""
        commit = self.tip(ref)
        if commit is not None:
            self.fetch(commit, contents=contents)
        return commit

    def paths(self, commit: str, under: str = "") -> tuple[str, ...]:
        """Paths of all files of a fetched commit, below the folder `under`."""
        listed = self._here("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, *([under] if under else []))
        return tuple(part.decode() for part in listed.split(b"\0") if part)

    def read(self, commit: str, path: str) -> bytes | None:
        """A file of a fetched commit, or None."""
        if path not in self.paths(commit, path):
            return None
        return self._there("cat-file", "blob", f"{commit}:{path}")

    def added(self, commit: str, path: str) -> str:
        """The commit in the history of `commit` that last wrote `path`."""
        return self._here("log", "-1", "--format=%H", commit, "--", path).decode().strip()

    def messages(self, commit: str, most: int = 50) -> list[tuple[str, str]]:
        """Commits and their messages, newest first."""
        text = self._here("log", f"--max-count={most}", "--first-parent", "-z", "--format=%H%n%B", commit).decode()
        return [(name, body) for name, _, body in (entry.partition("\n") for entry in text.split("\0")) if name]

    def files(self, commit: str, under: str) -> dict[str, bytes]:
        """The files of a commit below `under`, by path; the commit is fetched."""
        self.fetch(commit, contents=True)
        return _members(self._there("archive", "--format=tar", commit, under))

    def stack(self, commit: str) -> dict[str, bytes]:
        """The files of a candidate below `stack/`, by path, for a judge: its repository is another one, of sealed notes."""
        data = self._patiently(lambda: self._get(f"stack/{commit}.tar"))
        try:
            return _members(data)
        except (tarfile.TarError, EOFError) as error:
            raise RemoteError(f"the files of candidate {commit[:12]} cannot be read: {error}") from error

    def _get(self, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self._token_file.read_text(encoding='ascii').strip()}"}
        try:
            with httpx2.stream(
                "GET", f"{self._url}/{path}", headers=headers, timeout=GET_SECONDS, trust_env=False
            ) as answer:
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > MOST_BYTES:
                        raise RefusedError(f"{path} has more than {MOST_BYTES >> 20} MiB")
                if answer.status_code == 200:
                    return bytes(data)
        except (httpx2.HTTPError, OSError) as error:
            raise RemoteError(f"{path}: {error or type(error).__name__}") from error
        said = data[:500].decode(errors="replace").strip()
        kind = RefusedError if str(answer.status_code) in _REFUSING else RemoteError
        raise kind(f"{path}: {answer.status_code}: {said}")

    def pack(self, commits: Sequence[str]) -> bytes:
        """Fetched commits and all that they lead to, as git packs them."""
        names = "".join(f"{commit}\n" for commit in commits).encode()
        return self._here("pack-objects", "--revs", "--stdout", "--quiet", input=names)

    # --- writing ------------------------------------------------------------------------------------------------------

    def commit(
        self, parent: str | None, files: Mapping[str, bytes], message: str, when: float, *, whole: bool = False
    ) -> str:
        """A commit on top of a fetched one, `whole` with these files alone. The same arguments make the same commit."""
        stream = commit_stream("work", parent, files, message, when, whole=whole)
        # A branch of an earlier try would be continued, so it is started anew.
        self._here("update-ref", "-d", "refs/heads/work")
        self._here("fast-import", "--quiet", "--force", "--done", input=stream)
        return self._here("rev-parse", "--verify", "refs/heads/work").decode().strip()

    def push(self, commit: str, ref: str) -> None:
        """Move a reference of the repository on to `commit`. Raises `MovedError` as well. Pushed already: fine."""
        self._there("push", "--quiet", "origin", f"{commit}:{ref}")

    # --- git ----------------------------------------------------------------------------------------------------------

    def _here(self, *arguments: str, input: bytes | None = None) -> bytes:
        """A command that needs nobody else. Raises `RemoteError` when it fails: the disk is full, git is missing."""
        done = self._run(arguments, input)
        if done.returncode != 0:
            raise RemoteError(f"git {arguments[0]} failed: {_last(done.stderr)}")
        return done.stdout

    def _there(self, *arguments: str) -> bytes:
        """A command that may ask the service, with patience."""

        def command() -> bytes:
            done = self._run(arguments, None)
            if done.returncode == 0:
                return done.stdout
            raise _failure(arguments[0], done.stderr.decode(errors="replace"))

        return self._patiently(command)

    def _patiently(self, ask: Callable[[], bytes]) -> bytes:
        started, wait = self._clock(), 1.0
        while True:
            try:
                return ask()
            except RemoteError:
                again = self._clock() + wait
                if again > min(started + self._patience, self._deadline):
                    raise
            self._sleep(wait)
            wait = min(15.0, 2 * wait)

    def _run(self, arguments: tuple[str, ...], input: bytes | None) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                ["git", *arguments],
                env=self._environment,
                cwd=self._folder.name,
                input=b"" if input is None else input,
                capture_output=True,
                timeout=CALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RemoteError(f"git {arguments[0]} did not end within {CALL_SECONDS:.0f} s") from error
        except FileNotFoundError as error:
            raise RemoteError("git is not installed in this image") from error

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _members(tar: bytes) -> dict[str, bytes]:
    """The plain files of a tar, by path."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                found[member.name] = content.read()
    return found


def _failure(command: str, text: str) -> Exception:
    """What a failed git command means."""
    sentence = next((part.strip() for line in text.splitlines() if (part := line.partition("sartor: ")[2])), "")
    if sentence.startswith("refused: "):
        return RefusedError(sentence.removeprefix("refused: "))
    if "No space left" in text:
        return RemoteError("the volume of the repositories is full")
    status = _STATUS.search(text)
    refusing = status is not None and status[1] in _REFUSING
    if refusing or "Authentication failed" in text or "not found" in text:
        return RefusedError(sentence or _last(text.encode()))
    if "maximum allowed size" in text or "pre-receive hook declined" in text:
        return RefusedError(next(line.partition("remote: ")[2] for line in text.splitlines() if "remote: " in line))
    if command == "push" and any(words in text for words in _MOVED):
        return MovedError(_last(text.encode()))
    return RemoteError(sentence or _last(text.encode()))


def _last(errors: bytes) -> str:
    lines = [line for line in errors.decode(errors="replace").strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
