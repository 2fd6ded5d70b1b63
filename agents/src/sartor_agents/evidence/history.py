"""Proof of order: the raw git objects that show what the run's repository held, and in which order it came there.

A commit's name is the hash of its content, its parents' names included, so whoever knows the last name knows that nothing
before it was changed or put in between later. The proof is a set of objects as git stores them (`TYPE LENGTH\\0CONTENT`,
one after the other, sorted by name): all commits of the branch, and the trees and files that are pointed to. It is read
here, by hashing alone; no git runs on what a stranger wrote.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sartor_agents.evidence.errors import EvidenceError

LONGEST = 200_000
"""Commits and other objects of a proof."""

_HEAD = re.compile(rb"(commit|tree|blob) (0|[1-9][0-9]{0,9})\x00")
_NAME = re.compile(r"[0-9a-f]{40}")
_FOLDER = b"40000"
_MODES = {_FOLDER, b"100644", b"100755", b"120000", b"160000"}
"""As git writes them; in another spelling a folder of records would not be seen to be one."""


class HistoryError(EvidenceError):
    """The proof does not hang together; the message says where."""


class ObjectSource(Protocol):
    """A git repository that can be read object by object."""

    def object(self, name: str) -> tuple[str, bytes]:
        """Type and content. Raises `HistoryError` when there is none."""
        ...


@dataclass(frozen=True)
class Commit:
    """One commit: its tree, its parents and Unix time at which it was made."""

    name: str
    tree: str
    parents: tuple[str, ...]
    time: int


@dataclass(frozen=True)
class Entry:
    """What a tree says of one of its names: the object behind it, and whether that is a folder."""

    name: str
    folder: bool


def object_name(kind: str, content: bytes) -> str:
    """Git's name (SHA-1) of an object."""
    return hashlib.sha1(b"%s %d\x00" % (kind.encode(), len(content)) + content, usedforsecurity=False).hexdigest()


def collect(source: ObjectSource, tip: str, paths: Mapping[str, Iterable[str]]) -> bytes:
    """The proof for the first-parent history of `tip`: every commit, and the files at `paths[COMMIT]` of those commits.

    A path that is not there is left out. The same repository gives the same bytes.
    """
    objects: dict[str, tuple[str, bytes]] = {}

    def take(name: str) -> bytes:
        if name not in objects:
            objects[name] = source.object(name)
        return objects[name][1]

    at: str | None = tip
    while at is not None:
        commit = parse_commit(at, take(at))
        for path in paths.get(at, ()):
            tree = commit.tree
            parts = path.split("/")
            for number, part in enumerate(parts):
                entry = parse_tree(take(tree)).get(part)
                if entry is None:
                    break
                tree = entry.name
                if number == len(parts) - 1:
                    take(tree)
        at = commit.parents[0] if commit.parents else None
    return b"".join(
        b"%s %d\x00" % (kind.encode(), len(content)) + content for _, (kind, content) in sorted(objects.items())
    )


class History:
    """A proof that was read: commits of the branch, newest first, and their files as far as they are there."""

    def __init__(self, proof: bytes, tip: str) -> None:
        """Raises `HistoryError` when objects are damaged, or commits are missing."""
        self._objects: dict[str, tuple[str, bytes]] = {}
        at = 0
        while at < len(proof):
            head = _HEAD.match(proof, at)
            if head is None or head.end() + int(head[2]) > len(proof):
                raise HistoryError(f"history.git is damaged at byte {at}")
            content = proof[head.end() : head.end() + int(head[2])]
            kind = head[1].decode()
            self._objects[object_name(kind, content)] = (kind, content)
            at = head.end() + int(head[2])
            if len(self._objects) > LONGEST:
                raise HistoryError(f"history.git holds more than {LONGEST} objects")
        self.commits: list[Commit] = []
        name: str | None = tip
        while name is not None:
            commit = parse_commit(name, self._content(name, "commit"))
            if len(commit.parents) > 1:
                raise HistoryError(f"commit {name[:12]} has several parents; a run's history is a line")
            self.commits.append(commit)
            name = commit.parents[0] if commit.parents else None

    def _content(self, name: str, kind: str) -> bytes:
        found = self._objects.get(name)
        if found is None or found[0] != kind:
            raise HistoryError(f"history.git lacks the {kind} {name[:12]}")
        return found[1]

    def position(self, commit: str) -> int | None:
        """How many commits came after this one; None when it is not on the branch."""
        return next((number for number, one in enumerate(self.commits) if one.name == commit), None)

    def file(self, commit: Commit, path: str) -> bytes | None:
        """A file of a commit, None where the proof holds a tree that does not have it. Raises `HistoryError`."""
        tree = commit.tree
        *folders, last = path.split("/")
        for folder in folders:
            entry = parse_tree(self._content(tree, "tree")).get(folder)
            if entry is None:
                return None
            tree = entry.name
        entry = parse_tree(self._content(tree, "tree")).get(last)
        return None if entry is None else self._content(entry.name, "blob")

    def paths(self, commit: Commit, folders: Iterable[str]) -> list[str]:
        """All files of a commit below these folders, by path, whether or not the proof holds them as well: the trees name
        them. Raises `HistoryError` where a tree is missing."""
        found: list[str] = []

        def walk(tree: str, prefix: str) -> None:
            for name, entry in sorted(parse_tree(self._content(tree, "tree")).items()):
                if entry.folder:
                    walk(entry.name, f"{prefix}{name}/")
                else:
                    found.append(prefix + name)

        root = parse_tree(self._content(commit.tree, "tree"))
        for folder in folders:
            if folder in root:
                walk(root[folder].name, f"{folder}/")
        return found

    def has_file(self, commit: Commit, path: str) -> bool:
        """Whether the proof holds this file of this commit."""
        try:
            return self.file(commit, path) is not None
        except HistoryError:
            return False


def parse_commit(name: str, content: bytes) -> Commit:
    """A commit object. Raises `HistoryError`."""
    head, _, _ = content.partition(b"\n\n")
    tree, parents, time = "", list[str](), None
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        text = value.decode("ascii", errors="replace")
        if key == b"tree":
            tree = text
        elif key == b"parent":
            parents.append(text)
        elif key == b"committer":
            found = re.search(r"> (\d{1,12}) [+-]\d{4}$", text)
            time = int(found[1]) if found else None
    if not _NAME.fullmatch(tree) or not all(_NAME.fullmatch(parent) for parent in parents) or time is None:
        raise HistoryError(f"{name[:12]} is no commit")
    return Commit(name, tree, tuple(parents), time)


def parse_tree(content: bytes) -> dict[str, Entry]:
    """The entries of a tree object by name. Raises `HistoryError`."""
    entries: dict[str, Entry] = {}
    at = 0
    while at < len(content):
        space, end = content.find(b" ", at), content.find(b"\x00", at)
        if not at < space < end or end + 21 > len(content) or content[at:space] not in _MODES:
            raise HistoryError("a tree of history.git is damaged")
        name = content[space + 1 : end].decode(errors="surrogateescape")
        entries[name] = Entry(content[end + 1 : end + 21].hex(), folder=content[at:space] == _FOLDER)
        at = end + 21
    return entries
