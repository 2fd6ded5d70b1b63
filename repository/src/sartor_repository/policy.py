"""Who may read and push what: pure decisions, each an answer None (allowed) or a sentence that says what to do.

A caller is a pod. Its token is bound to it, and the labels that the operator put on it name the run and the step it
works for. So authority is narrower than a service account: the implementer of round 3 of one run writes `candidate/003` of
that run and nothing else, while that pod lives.

| role | reads | writes |
|---|---|---|
| planner | plans, records, candidates | `main`: `roadmap.md` and other words, `plans/STEP.json`, copies of records |
| implementer | plans, records, candidates | `candidate/NNN` of its round: `stack/` and nothing else |
| judge | sealed notes; files of candidates | `refs/notes/sartor/judge`: its own `steps/STEP/`, and the note of a candidate |
| evaluator | sealed notes | `refs/notes/sartor/evaluator`: the same |
| operator, readers | everything of every run | nothing |

What judge and evaluator write may hold sealed prompts and seeds. Git cannot hide objects from somebody who may read another
branch of the same repository (gitnamespaces(7), SECURITY), so it lies in a repository of its own, which planners and
implementers cannot name: `Vault.SEALED`. The URL of a run is the same for all; the role decides which of the two it opens.

Nobody deletes or moves a branch back, history is linear, files are plain, and what was recorded stays as it is.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sartor_repository.paths import odd_name

MIB = 1 << 20
MAIN = "refs/heads/main"
CANDIDATES = "refs/heads/candidate/"
NOTES = "refs/notes/sartor/"
PLAIN_FILE = "100644"


class Vault(StrEnum):
    """The two repositories of a run."""

    OPEN = "open"
    """Plans, records, candidates."""
    SEALED = "sealed"
    """What judge and evaluator keep: full results, samples, failing requests."""


class Role(StrEnum):
    """What a caller is to a run."""

    PLANNER = "planner"
    IMPLEMENTER = "implementer"
    JUDGE = "judge"
    EVALUATOR = "evaluator"
    OPERATOR = "operator"
    """The operator, and whoever the installation lets read everything."""


SEALED_ROLES = frozenset({Role.JUDGE, Role.EVALUATOR})


@dataclass(frozen=True)
class Caller:
    """Who calls. `run` and `step` (`003-judge-1-1`) are those of the pod that the token is bound to."""

    name: str
    role: Role
    namespace: str = ""
    run: str | None = None
    step: str | None = None

    @property
    def round(self) -> int | None:
        """The round of the step, None for a step that has no such form."""
        found = re.fullmatch(r"(\d{3,})-[a-z]+-\d+-\d+", self.step or "")
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes. `push_bytes` and `repository_bytes` are as they lie on the disk, the others as files."""

    push_bytes: int
    repository_bytes: int
    file_bytes: int
    tree_bytes: int
    files: int
    commits: int = 16
    """New commits of one push."""


LIMITS: dict[Role, Limits] = {
    Role.PLANNER: Limits(8 * MIB, 1024 * MIB, 2 * MIB, 256 * MIB, 20_000),
    # A stack has at most 64 MiB and 2,000 files (sartor_agents.run.content); compressed it is smaller.
    Role.IMPLEMENTER: Limits(80 * MIB, 1024 * MIB, 32 * MIB, 64 * MIB, 2_000),
    Role.JUDGE: Limits(128 * MIB, 4096 * MIB, 64 * MIB, 4096 * MIB, 50_000),
    Role.EVALUATOR: Limits(128 * MIB, 4096 * MIB, 64 * MIB, 4096 * MIB, 50_000),
}


@dataclass(frozen=True)
class Change:
    """One path that a commit changes, compared with its parent."""

    path: str
    kind: Literal["added", "modified", "deleted"]


@dataclass(frozen=True)
class Entry:
    """One path in a commit's tree. `mode` is git's (`100644`); `size` in bytes (0 for what is no file)."""

    path: str
    mode: str
    size: int


@dataclass(frozen=True)
class Commit:
    """A commit that a push brings, or the one that it moves a branch to. `tree` and `changes` may be cut short one entry
    beyond the limit of files, which is enough to refuse."""

    id: str
    parents: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    tree: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Update:
    """One reference that a push moves. `old` None: it is new; `new` None: it is deleted.

    `fast_forward` is whether `old` is an ancestor of `new`; `kind` is git's type of the new object.
    """

    ref: str
    old: str | None
    new: str | None
    fast_forward: bool = True
    kind: str = "commit"
    commits: tuple[Commit, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """Bytes on the disk: what this push brings, and the repository with it."""

    push: int
    repository: int


# --- reading and opening ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Access:
    """The repository that a caller gets, or why it gets none."""

    vault: Vault
    refusal: str | None = None


def access(caller: Caller, namespace: str, run: str, *, sealed: bool, writing: bool, stack: bool = False) -> Access:
    """Whether `caller` may open the repository of a run. `sealed`: the URL names the sealed one. `stack`: it is about the
    files of one candidate alone, which a judge may read; it writes nothing where they lie."""
    if caller.role is Role.OPERATOR:
        vault = Vault.SEALED if sealed else Vault.OPEN
        return Access(vault, f"{caller.name} reads the repositories of runs and writes none" if writing else None)
    reviews = stack and caller.role is Role.JUDGE and not sealed
    vault = Vault.SEALED if caller.role in SEALED_ROLES and not reviews else Vault.OPEN
    refusal = None
    if caller.namespace != namespace:
        refusal = f"{caller.name} belongs to namespace {caller.namespace}; repositories of {namespace} are closed to it"
    elif caller.run is None or caller.step is None:
        refusal = f"the token of {caller.name} is not bound to a pod of a step; use the one mounted into the role's pod"
    elif caller.run != run:
        refusal = f"this {caller.role} works for run {caller.run}; the repository of run {run} is closed to it"
    elif sealed and vault is not Vault.SEALED:
        refusal = f"a {caller.role} may not see sealed records"
    return Access(vault, refusal)


# --- pushing ----------------------------------------------------------------------------------------------------------


def may_push(caller: Caller, updates: Sequence[Update], sizes: Sizes, limits: Limits) -> str | None:
    """None if the push is allowed, else the sentence that refuses all of it."""
    if not updates:
        return None
    if len(updates) > 1:
        return f"one push moves one branch, this one moves {len(updates)}; push them one by one"
    update = updates[0]
    return (
        _reference(caller, update)
        or _movement(update, limits)
        or next((no for c in update.commits if (no := _commit(caller, c, limits)) is not None), None)
        or _size(sizes, limits)
    )


def own_reference(caller: Caller) -> str | None:
    """The one reference that the caller's step may move."""
    match caller.role:
        case Role.PLANNER:
            return MAIN
        case Role.IMPLEMENTER:
            return f"{CANDIDATES}{caller.round:03d}" if caller.round else None
        case Role.JUDGE | Role.EVALUATOR:
            return f"{NOTES}{caller.role}"
        case Role.OPERATOR:
            return None


def _reference(caller: Caller, update: Update) -> str | None:
    own = own_reference(caller)
    if own is None:
        return f"{caller.name} has no branch to push to"
    if update.ref != own:
        where = f" in step {caller.step}" if caller.step else ""
        return f"a {caller.role}{where} may push {own} only, not {update.ref}"
    return None


def _movement(update: Update, limits: Limits) -> str | None:
    if update.new is None:
        return f"{update.ref} may not be deleted: it is the record of a run"
    if update.kind != "commit":
        return f"{update.ref} would point to a {update.kind}; push a commit"
    if not update.fast_forward:
        return f"{update.ref} would lose commits; fetch it, put your commit on top and push again without force"
    if len(update.commits) > limits.commits:
        return f"{update.ref} gets more than {limits.commits} commits at once; push one commit per step"
    return None


def _commit(caller: Caller, commit: Commit, limits: Limits) -> str | None:
    if len(commit.parents) > 1:
        return f"commit {commit.id[:12]} is a merge; a run's history is linear, so commit on top of one parent"
    if len(commit.tree) > limits.files or len(commit.changes) > limits.files:
        return f"commit {commit.id[:12]} has more than {limits.files} files; leave out what is generated"
    return (
        _first(_allowed_change(caller, change) for change in commit.changes)
        or _first(_plain(entry, limits) for entry in commit.tree)
        or _first(_allowed_path(caller, entry.path) for entry in commit.tree)
        or _whole_tree(commit, limits)
        or _one_note(caller, commit)
    )


def _first(answers: Iterable[str | None]) -> str | None:
    return next((answer for answer in answers if answer is not None), None)


def _plain(entry: Entry, limits: Limits) -> str | None:
    if (odd := odd_name(entry.path)) is not None:
        return odd
    match entry.mode:
        case "100644":
            pass
        case "100755" | "100664":
            return f"{entry.path} is executable or has odd modes ({entry.mode}); commit it with mode 644"
        case "120000":
            return f"{entry.path} is a symbolic link; commit plain files only"
        case "160000":
            return f"{entry.path} is a submodule; commit the files themselves"
        case mode:
            return f"{entry.path} has mode {mode}; commit plain files with mode 644 only"
    if entry.size > limits.file_bytes:
        return f"{entry.path} has {entry.size} bytes; a file may have {limits.file_bytes}"
    return None


def _whole_tree(commit: Commit, limits: Limits) -> str | None:
    total = sum(entry.size for entry in commit.tree)
    if total > limits.tree_bytes:
        return f"commit {commit.id[:12]} holds {total} bytes of files; {limits.tree_bytes} are allowed"
    seen: dict[str, str] = {}
    for entry in commit.tree:
        other = seen.setdefault(entry.path.casefold(), entry.path)
        if other != entry.path:
            return f"{entry.path} and {other} are one file where case does not count; rename one of them"
    return None


def _size(sizes: Sizes, limits: Limits) -> str | None:
    if sizes.push > limits.push_bytes:
        return f"the push brings {sizes.push} bytes; one push may bring {limits.push_bytes}"
    if sizes.repository > limits.repository_bytes:
        return (
            f"the run's repository would have {sizes.repository} bytes, its quota is {limits.repository_bytes}; "
            "nothing was stored: raise the quota of the git service or end the run"
        )
    return None


# --- paths of each role -----------------------------------------------------------------------------------------------

_PLANNER_TREE = re.compile(
    r"run\.json|(?:roadmap|skills)\.md|(?:issues|autopsies)/[^/]+\.md|plans/[^/]+\.json|(?:baseline|confirm)/[^/]+\.json"
    r"|rounds/\d{3,}/(?:round\.md|[^/]+\.json)"
)
_MUTABLE = re.compile(r"(?:roadmap|skills)\.md|(?:issues|autopsies)/[^/]+\.md|rounds/\d{3,}/round\.md")
_NOTE = re.compile(r"[0-9a-f]{40}|[0-9a-f]{2}/[0-9a-f]{38}")
_STEP_FILE = re.compile(r"steps/([^/]+)/.+")


def _allowed_path(caller: Caller, path: str) -> str | None:
    """Whether a path may be in the tree of what the role pushes."""
    match caller.role:
        case Role.IMPLEMENTER if not path.startswith("stack/"):
            return f"{path} lies outside stack/, the only folder that an implementer writes"
        case Role.PLANNER if _PLANNER_TREE.fullmatch(path) is None:
            return (
                f"{path} is nothing that a planner writes; it writes roadmap.md, skills.md, issues/*.md, autopsies/*.md, "
                "rounds/NNN/round.md, plans/*.json and copies "
                "of records"
            )
        case Role.JUDGE | Role.EVALUATOR if not (_NOTE.fullmatch(path) or _STEP_FILE.fullmatch(path)):
            return f"{path} is no note; a {caller.role} writes steps/STEP/… and the note of a candidate's commit"
        case _:
            return None


def _allowed_change(caller: Caller, change: Change) -> str | None:
    """Whether the role may do this to this path. What was recorded stays as it is."""
    path = change.path
    if (no := _allowed_path(caller, path)) is not None:
        return no
    match caller.role:
        case Role.PLANNER:
            if _MUTABLE.fullmatch(path):
                return None
            if change.kind != "added":
                return f"{path} is a record and may not be {change.kind}; records are only added"
            if path.startswith("plans/") and path != f"plans/{caller.step}.json":
                return f"{path} is the plan of another step; this one is plans/{caller.step}.json"
        case Role.JUDGE | Role.EVALUATOR:
            if (found := _STEP_FILE.fullmatch(path)) is not None:
                if found[1] != caller.step:
                    return f"{path} belongs to another step; this one writes steps/{caller.step}/"
                if change.kind != "added":
                    return f"{path} is a record and may not be {change.kind}; records are only added"
            elif change.kind == "deleted":
                return f"the note {path} may not be deleted"
        case _:
            pass
    return None


def _one_note(caller: Caller, commit: Commit) -> str | None:
    if caller.role not in SEALED_ROLES:
        return None
    notes = [change.path for change in commit.changes if _NOTE.fullmatch(change.path)]
    if len(notes) > 1:
        return f"one step looks at one candidate, this commit writes {len(notes)} notes; write the one of the step"
    return None
