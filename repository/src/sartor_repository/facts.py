"""What a push would do, read from git: the facts that `policy.may_push` decides on.

Every listing is cut off just beyond the limit that refuses it, so a tree that unfolds without end costs no more than one
that is a little too large. Commands run in the environment of the hook, where git has put the new objects (quarantine).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from sartor_repository.policy import Change, Commit, Entry, Limits, Update

_KINDS = {"A": "added", "D": "deleted"}


class FactsError(Exception):
    """Git could not say what a push would do; the message is git's."""


def updates(lines: list[str], limits: Limits) -> tuple[Update, ...]:
    """The updates of a push from the lines that git gives its hook (`OLD NEW REF`). Raises `FactsError`."""
    return tuple(_update(*line.rstrip("\n").split(" ", 2), limits=limits) for line in lines)


def _update(old: str, new: str, ref: str, *, limits: Limits) -> Update:
    before, after = (None if set(name) == {"0"} else name for name in (old, new))
    if after is None:
        return Update(ref, before, None)
    kind = git("cat-file", "-t", after)
    if kind != "commit":
        return Update(ref, before, after, kind=kind)
    forward = before is None or _ancestor(before, after)
    lines = git("rev-list", "--parents", f"--max-count={limits.commits + 1}", after, "--not", "--all").splitlines()
    new_commits = [_commit(*line.split(), limits=limits, new=True) for line in lines]
    # A branch may also be put on a commit that is there already: its tree counts all the same.
    commits = new_commits or [_commit(after, limits=limits, new=False)]
    return Update(ref, before, after, forward, kind, tuple(commits))


def _ancestor(older: str, newer: str) -> bool:
    done = subprocess.run(["git", "merge-base", "--is-ancestor", older, newer], capture_output=True, check=False)
    if done.returncode not in (0, 1):
        raise FactsError(done.stderr.decode(errors="replace").strip())
    return done.returncode == 0


def _commit(name: str, *parents: str, limits: Limits, new: bool) -> Commit:
    most = limits.files + 1
    tree = tuple(_entry(record) for record in _some(most, "ls-tree", "-r", "-z", "--long", "--full-tree", name))
    changes: list[Change] = []
    if new:
        against = (parents[0], name) if parents else ("--root", name)
        fields = _some(2 * most, "diff-tree", "-r", "-z", "--no-renames", "--no-commit-id", "--name-status", *against)
        changes = [
            Change(path, _KINDS.get(status, "modified"))  # pyright: ignore[reportArgumentType] - closed by the map
            for status, path in zip(fields, fields, strict=False)
        ]
    return Commit(name, parents, tuple(changes), tree)


def _entry(record: str) -> Entry:
    """`MODE TYPE OBJECT SIZE<tab>PATH`; what is no file has no size."""
    head, _, path = record.partition("\t")
    mode, _, _, size = head.split()
    return Entry(path, mode, int(size) if size.isdigit() else 0)


def _some(most: int, *arguments: str) -> Iterator[str]:
    """The first `most` NUL-ended fields that a git command prints."""
    command = ["git", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None, "started with pipes"
        rest, count = b"", 0
        while count < most and (data := process.stdout.read(1 << 16)):
            *whole, rest = (rest + data).split(b"\0")
            for field in whole[: most - count]:
                count += 1
                yield field.decode(errors="surrogateescape")
        if count >= most:
            process.kill()
            return
        errors = process.stderr.read().decode(errors="replace").strip()
    if process.returncode != 0:
        raise FactsError(f"git {arguments[0]}: {errors}")


def git(*arguments: str) -> str:
    """What a git command prints, stripped. Raises `FactsError`."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        raise FactsError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode(errors="replace").strip()


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; files that go away meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if not path.is_dir() else 0
        except FileNotFoundError:
            continue
    return total
