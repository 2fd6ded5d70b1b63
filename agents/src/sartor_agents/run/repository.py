"""The run's git repository: the only memory of a run.

A bare repository: records are committed straight into it, so there is no working tree that could be dirty or half-written,
and a candidate's folder holds no trace of it. `main` carries the records, one commit per step; `candidate/NNN` carries
what the implementer wrote in round NNN, one commit per attempt. Look at it with `git -C RUN/repository log main`, or
clone it.

Each commit is made by one `git fast-import`, which moves the branch only when every object is on the disk and the branch
is still where it was: a commit is there whole or not at all. Whoever writes holds the run's lock.
"""

import json
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from git import Commit, Repo
from git.exc import GitCommandError, GitError
from gitdb.exc import BadName, ODBError
from pydantic import BaseModel, ValidationError

from sartor_agents.run.content import content_hash, count_lines
from sartor_agents.run.errors import DamagedRepositoryError, NotARunError, StorageError
from sartor_agents.run.fast_import import commit_stream
from sartor_agents.run.record_paths import TRAILER, is_record, record_path
from sartor_agents.run.storage import storage_errors
from sartor_api.search.budget import Ledger
from sartor_api.search.records import Finished, Implementation, RunSpec, StepRecord
from sartor_api.search.state import RunState, fold

MAIN = "main"
EVIDENCE = "evidence"

_CONFIG = {
    "core.fsync": "objects,reference",
    "core.hooksPath": "/dev/null",
    "commit.gpgSign": "false",
    "gc.auto": "0",
    "fastimport.unpackLimit": "100000",
}

_UNREADABLE = (ODBError, BadName, GitError, OSError, ValueError)
"""What reading an object that is missing or damaged raises."""

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class StoredRun:
    """What the repository says of a run: everything that `fold` needs."""

    spec: RunSpec
    records: tuple[StepRecord, ...]
    ledger: Ledger
    finished: Finished | None

    def state(self, session_started: float) -> RunState:
        return fold(
            self.spec,
            self.records,
            ledger=self.ledger,
            session_started=session_started,
            finished=self.finished,
        )


class RunRepository:
    """The repository of one run. Every method that writes is atomic and raises `StorageError` when it cannot."""

    def __init__(self, path: Path) -> None:
        """Open an existing repository. Raises `NotARunError`."""
        self.path = path
        try:
            self._repo = Repo(path)
        except (GitError, OSError) as error:
            raise NotARunError(
                f"{path.parent} is no run: it has no git repository at {path.name}/",
                "start one with: sartor run -f FILE",
            ) from error

    # --- writing ----------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path, spec: RunSpec, manifest: str, now: float, files: Mapping[str, str] | None = None
    ) -> "RunRepository":
        """A new repository whose first commit is the snapshot of what was asked, with `files` beside it."""
        with storage_errors(path):
            repo = Repo.init(path, mkdir=True, bare=True, initial_branch=MAIN)
            with repo.config_writer() as writer:
                for name, value in _CONFIG.items():
                    section, option = name.split(".")
                    writer.set_value(section, option, value)
        repository = cls(path)
        repository._commit(
            MAIN,
            None,
            {
                "run.json": _json(spec),
                "synthesis.yaml": manifest.encode(),
                "ledger.json": _json(Ledger()),
                "roadmap.md": b"# Roadmap\n\nNo round yet.\n",
                **{name: text.encode() for name, text in (files or {}).items()},
            },
            f"Run {spec.name}: {spec.content_hash()[:12]}",
            now,
        )
        return repository

    def save_ledger(self, ledger: Ledger, message: str, now: float, files: Mapping[str, str]) -> None:
        """Commit the books, before a step begins and when one was lost, with `files` beside them."""
        content = {"ledger.json": _json(ledger)} | {path: text.encode() for path, text in files.items()}
        self._commit(MAIN, self._tip(MAIN), content, message, now)

    def save_record(self, record: StepRecord, ledger: Ledger, notes: Mapping[str, str], message: str) -> None:
        """Commit one step: its record, the settled books, and `notes` (`roadmap.md`, `issues/…`), all or nothing."""
        files = {record_path(record): _json(record), "ledger.json": _json(ledger)}
        files |= {path: text.encode() for path, text in notes.items()}
        self._commit(MAIN, self._tip(MAIN), files, message, record.finished)

    def save_finished(self, finished: Finished) -> None:
        """Commit the end of the run."""
        message = f"Finished: {finished.outcome.value} ({finished.reason})"
        self._commit(MAIN, self._tip(MAIN), {"finished.json": _json(finished)}, message, finished.at)

    def save_candidate(
        self, round_number: int, parent: str | None, files: Mapping[str, bytes], done: Implementation, now: float
    ) -> Implementation:
        """Commit a candidate's files to its branch and return the implementation with commit, hash and size.

        The branch continues its own earlier attempts; a first attempt starts from `parent` (None: from nothing). The
        commit holds exactly `files`. Doing it again for the same files is harmless.
        """
        branch = f"candidate/{round_number:03d}"
        message = f"Round {round_number}: {done.summary or 'candidate'}"
        commit = self._commit(branch, self._tip(branch) or parent, files, message, now, whole=True)
        return done.model_copy(
            update={"commit": commit, "content_hash": content_hash(files), "lines": count_lines(files)}
        )

    def save_evidence(self, name: str, content: bytes, now: float) -> None:
        """Commit a winner's bundle to the branch `evidence`. Doing it again for the same bundle is harmless."""
        if self._tip(EVIDENCE) is not None and f"{name}" in self._repo.git.ls_tree("--name-only", EVIDENCE).split():
            return
        self._commit(EVIDENCE, self._tip(EVIDENCE), {name: content}, f"Evidence {name}", now)

    def adopt(self, pack: bytes, branches: Mapping[str, str]) -> None:
        """Take over objects of another repository, as git packs them, and point `branches` to commits among them."""
        git = ["git", f"--git-dir={self.path}"]
        commands = [(["index-pack", "--stdin", "--strict"], pack)]
        commands += [(["update-ref", f"refs/heads/{name}", commit], b"") for name, commit in branches.items()]
        with storage_errors(self.path):
            for arguments, content in commands:
                done = subprocess.run([*git, *arguments], input=content, capture_output=True, check=False)
                if done.returncode != 0:
                    raise StorageError(
                        f"{self.path}: git could not take over a pack: {_first_line(done.stderr.decode(errors='replace'))}"
                    )

    def _tip(self, branch: str) -> str | None:
        try:
            return self._repo.git.rev_parse("--verify", "--quiet", f"refs/heads/{branch}")
        except GitCommandError:
            return None

    def _commit(
        self,
        branch: str,
        parent: str | None,
        files: Mapping[str, bytes],
        message: str,
        now: float,
        *,
        whole: bool = False,
    ) -> str:
        """One commit on `branch`; `whole` replaces the tree instead of adding to it. Returns the commit's name."""
        stream = commit_stream(branch, parent, files, f"{message}\n\n{TRAILER}{branch}\n", now, whole=whole)
        with storage_errors(self.path):
            git = self._repo.git.fast_import("--quiet", "--done", istream=subprocess.PIPE, as_process=True)
            _, errors = git.proc.communicate(stream)
        if git.proc.returncode != 0:
            detail = errors.decode(errors="replace").strip()
            if "No space left" in detail or "quota" in detail:
                raise StorageError(
                    f"no space left for {self.path}; everything that was recorded before is whole",
                    "free some space and continue with: sartor run --resume --dir RUN",
                )
            raise StorageError(f"{self.path}: git could not commit on {branch}: {_first_line(detail)}")
        commit = self._tip(branch)
        if commit is None:
            raise StorageError(f"{self.path}: git made no commit on {branch}")
        return commit

    # --- reading ----------------------------------------------------------------------------------------------------

    def load(self) -> StoredRun:
        """Everything on `main`. Raises `DamagedRepositoryError` with what to do; changes nothing."""
        tip = self._tip(MAIN)
        if tip is None:
            raise NotARunError(f"{self.path} has no branch {MAIN}", "start again in another folder")
        try:
            self._check_foreign(tip)
            return self._load(tip)
        except (_DamageError, *_UNREADABLE) as error:
            what = (
                str(error) if isinstance(error, _DamageError) else f"an object is missing or damaged ({_first(error)})"
            )
            raise DamagedRepositoryError(f"{self.path}: {what}", self._way_back(tip)) from error
        finally:
            self.close()

    def _load(self, commit: str) -> StoredRun:
        files = dict(self._files(commit))
        for needed in ("run.json", "ledger.json"):
            if needed not in files:
                raise _DamageError(f"{needed} is missing on {MAIN}")
        records = [_parse(StepRecord, path, data) for path, data in files.items() if is_record(path)]
        ledger = _parse(Ledger, "ledger.json", files["ledger.json"])
        known = {entry.id for entry in ledger.entries}
        if strange := [record.id for record in records if record.id not in known]:
            raise _DamageError(f"the record {strange[0]} has no entry in ledger.json")
        finished = files.get("finished.json")
        stored = StoredRun(
            spec=_parse(RunSpec, "run.json", files["run.json"]),
            records=tuple(sorted(records, key=lambda r: r.sequence)),
            ledger=ledger,
            finished=_parse(Finished, "finished.json", finished) if finished is not None else None,
        )
        try:
            stored.state(0.0)
        except ValueError as error:
            raise _DamageError(str(error)) from error
        return stored

    def _check_foreign(self, tip: str) -> None:
        for commit in self._repo.iter_commits(tip):
            if TRAILER + MAIN not in str(commit.message):
                who = f"{commit.author.name} ({str(commit.summary)[:60]!r})"
                raise _DamageError(f"commit {commit.hexsha[:12]} on {MAIN} was made by {who}, not by this run")

    def _way_back(self, tip: str) -> str:
        """How to return to the newest commit that can be read."""
        for commit in _safely(lambda: list(self._repo.iter_commits(tip, first_parent=True)), []):
            if self._whole(commit):
                return (
                    f"the newest whole record is {commit.hexsha[:12]}; go back to it with: git -C {self.path} "
                    f"update-ref refs/heads/{MAIN} {commit.hexsha}   and then: sartor run --resume"
                )
        return "no whole record is left; restore the folder from a copy, or start again in another one"

    def _whole(self, commit: Commit) -> bool:
        def check() -> bool:
            self._check_foreign(commit.hexsha)
            self._load(commit.hexsha)
            return True

        return _safely(check, False)

    def _files(self, commit: str, under: str = "") -> Iterator[tuple[str, bytes]]:
        tree = self._repo.commit(commit).tree
        for item in tree.traverse():
            path = str(item.path)  # pyright: ignore[reportAttributeAccessIssue]
            if item.type == "blob" and path.startswith(under):  # pyright: ignore[reportAttributeAccessIssue]
                yield path, item.data_stream.read()  # pyright: ignore[reportAttributeAccessIssue]

    def clear_stale_locks(self) -> None:
        """Remove lock files that a killed git left. Only for who holds the run's lock: nobody else is writing then."""
        for stale in (*self.path.glob("*.lock"), *self.path.glob("refs/**/*.lock")):
            stale.unlink(missing_ok=True)

    def read_text(self, path: str) -> str | None:
        """A file on `main`, or None."""
        try:
            return next((data.decode() for name, data in self._files(MAIN, path) if name == path), None)
        finally:
            self.close()

    def added(self, path: str) -> str | None:
        """The first commit on `main` that has a file at this path."""
        found = self._repo.git.log("--format=%H", "--reverse", "--diff-filter=A", MAIN, "--", path).split()
        return found[0] if found else None

    def object(self, name: str) -> tuple[str, bytes]:
        """Type and content of an object by its name. Raises `DamagedRepositoryError`."""
        try:
            stream = self._repo.odb.stream(bytes.fromhex(name))
            return stream.type.decode() if isinstance(stream.type, bytes) else str(stream.type), stream.read()
        except _UNREADABLE as error:
            raise DamagedRepositoryError(
                f"{self.path}: the object {name[:12]} cannot be read ({_first(error)})",
                "restore the folder from a copy",
            ) from error

    def objects(self, known: Collection[str]) -> Iterator[tuple[str, str]]:
        """Name and path of everything that any reference leads to (commits without a path), but what `known` leads to."""
        listed = self._repo.git.rev_list("--all", "--objects", *(f"^{name}" for name in known))
        for line in listed.splitlines():
            name, _, path = line.partition(" ")
            yield name, path

    def candidate_files(self, commit: str) -> dict[str, bytes]:
        """The files of a candidate, as they were committed. Raises `DamagedRepositoryError`."""
        try:
            return dict(sorted(self._files(commit, "stack/")))
        except _UNREADABLE as error:
            raise DamagedRepositoryError(
                f"{self.path}: the candidate {commit[:12]} cannot be read ({_first(error)})",
                "restore the folder from a copy, or start again in another one",
            ) from error
        finally:
            self.close()

    def close(self) -> None:
        """End the helper processes that reading objects started; they start again when they are needed."""
        self._repo.git.clear_cache()

    def export(self, commit: str, folder: Path) -> None:
        """Write a candidate's files below `folder`, which is created."""
        for path, data in self.candidate_files(commit).items():
            target = folder / path
            with storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)


class _DamageError(Exception):
    """What is wrong, found while reading; becomes `DamagedRepositoryError` once the way back is known."""


def _parse(model: type[M], path: str, data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _DamageError(f"{path} is no whole record: {where or 'content'}: {first['msg']}") from error


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()


def _first(error: BaseException) -> str:
    return _first_line(str(error)) or type(error).__name__


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")[:160]


T = TypeVar("T")


def _safely(read: Callable[[], T], otherwise: T) -> T:
    """What `read` gives, or `otherwise` where the repository is damaged: used to find out how far it is whole."""
    try:
        return read()
    except (_DamageError, *_UNREADABLE):
        return otherwise
