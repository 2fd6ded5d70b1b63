"""Who may do what: the whole decision as tables, and what must hold for any push whatever it looks like."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository_world import EVALUATOR, IMPLEMENTER, JUDGE, NAMESPACE, OPERATOR, PLANNER, RUN, caller

from sartor_repository.paths import NAMESPACE as NAMESPACE_NAME
from sartor_repository.paths import RUN as RUN_NAME
from sartor_repository.paths import odd_name
from sartor_repository.policy import (
    LIMITS,
    Caller,
    Change,
    Commit,
    Entry,
    Limits,
    Role,
    Sizes,
    Update,
    Vault,
    access,
    may_push,
    own_reference,
)

A, B, C = "a" * 40, "b" * 40, "c" * 40
SMALL = Sizes(push=1000, repository=2000)
CALLERS = (PLANNER, IMPLEMENTER, JUDGE, EVALUATOR)

GOOD: dict[Role, str] = {
    Role.PLANNER: "roadmap.md",
    Role.IMPLEMENTER: "stack/app.py",
    Role.JUDGE: "steps/001-judge-1-1/record.json",
    Role.EVALUATOR: "steps/001-evaluate-1-1/record.json",
}


def update(who: Caller, path: str | None = None, **changes: object) -> Update:
    """A push that `who` may make, with `changes`."""
    name = path or GOOD[who.role]
    commit = Commit(B, (A,), (Change(name, "added"),), (Entry(name, "100644", 10),))
    made = Update(own_reference(who) or "refs/heads/x", A, B, commits=(commit,))
    return replace(made, **changes)  # type: ignore[arg-type]


def decide(who: Caller, *updates: Update, sizes: Sizes = SMALL, limits: Limits | None = None) -> str | None:
    return may_push(who, updates, sizes, limits or LIMITS[who.role])


def commit_with(update_: Update, **changes: object) -> Update:
    return replace(update_, commits=(replace(update_.commits[0], **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize("who", CALLERS, ids=lambda c: c.role)
def test_each_role_may_write_what_is_its_own(who: Caller) -> None:
    assert decide(who, update(who)) is None
    assert decide(who, update(who, old=None)) is None
    assert decide(who) is None


@pytest.mark.parametrize(
    ("who", "reference"),
    [
        (PLANNER, "refs/heads/main"),
        (IMPLEMENTER, "refs/heads/candidate/001"),
        (caller(Role.IMPLEMENTER, "1000-implement-2-1"), "refs/heads/candidate/1000"),
        (JUDGE, "refs/notes/sartor/judge"),
        (EVALUATOR, "refs/notes/sartor/evaluator"),
        (caller(Role.EVALUATOR, "000-baseline-1-1"), "refs/notes/sartor/evaluator"),
        (OPERATOR, None),
        (caller(Role.IMPLEMENTER, "garbage"), None),
        (caller(Role.IMPLEMENTER, "000-implement-1-1"), None),
    ],
)
def test_a_step_has_one_reference(who: Caller, reference: str | None) -> None:
    assert own_reference(who) == reference


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ref": "refs/heads/candidate/002"}, "may push refs/heads/candidate/001 only"),
        ({"ref": "refs/heads/candidate/001/x"}, "only, not"),
        ({"ref": "refs/heads/main"}, "only, not refs/heads/main"),
        ({"ref": "refs/notes/sartor/judge"}, "only, not"),
        ({"new": None, "commits": ()}, "may not be deleted"),
        ({"fast_forward": False}, "without force"),
        ({"kind": "tag"}, "would point to a tag"),
        ({"kind": "blob", "commits": ()}, "would point to a blob"),
    ],
)
def test_how_a_branch_may_move(changed: dict[str, object], words: str) -> None:
    assert words in (decide(IMPLEMENTER, update(IMPLEMENTER, **changed)) or "")


@pytest.mark.parametrize(
    ("path", "mode", "words"),
    [
        ("stack/app.py", "100755", "is executable"),
        ("stack/app.py", "120000", "is a symbolic link"),
        ("stack/app.py", "160000", "is a submodule"),
        ("stack/app.py", "100600", "mode 100600"),
        ("stack/../x.py", "100644", "relative part"),
        ("stack//x.py", "100644", "relative part"),
        ("stack/.git/config", "100644", "git keeps"),
        ("stack/.GIT/config", "100644", "git keeps"),
        ("stack/.gitattributes", "100644", "git keeps"),
        ("stack/GIT~1", "100644", "git keeps"),
        ("stack/a\nb", "100644", "cannot be seen"),
        ("stack/a\u202eb.py", "100644", "cannot be seen"),
        ("stack/a\\b", "100644", "has one of"),
        ("stack/a:b", "100644", "has one of"),
        ("stack/\udcff", "100644", "is not UTF-8"),
        ("stack/u\u0308.py", "100644", "form NFC"),
        ("stack/ x", "100644", "blanks at an end"),
        ("stack/x.", "100644", "ends with a dot"),
        ("stack/" + "x" * 129, "100644", "longer than 128 bytes"),
        ("stack/" + "x/" * 130 + "x", "100644", "longer than 255 bytes"),
        ("stack/" + "x/" * 12 + "x", "100644", "folders deep"),
        ("notes.txt", "100644", "outside stack/"),
        ("stackx/app.py", "100644", "outside stack/"),
        ("stack", "100644", "outside stack/"),
    ],
)
def test_what_a_candidate_may_not_hold(path: str, mode: str, words: str) -> None:
    made = commit_with(update(IMPLEMENTER), tree=(Entry(path, mode, 1),), changes=())
    assert words in (decide(IMPLEMENTER, made) or "")


@pytest.mark.parametrize(
    "path", ["stack/__main__.py", "stack/a/b_c-1.cpp", "stack/.hidden", "stack/ü.txt", "stack/x+y@z"]
)
def test_ordinary_names_are_taken(path: str) -> None:
    assert odd_name(path) is None


@pytest.mark.parametrize(
    ("who", "path", "kind", "words"),
    [
        (PLANNER, "issues/001-1.md", "modified", None),
        (PLANNER, "issues/001-1.md", "deleted", None),
        (PLANNER, "roadmap.md", "modified", None),
        (PLANNER, "plans/001-plan-1-1.json", "added", None),
        (PLANNER, "plans/001-plan-1-2.json", "added", "another step"),
        (PLANNER, "plans/001-plan-1-1.json", "modified", "may not be modified"),
        (PLANNER, "rounds/001/0003-judge-1.json", "added", None),
        (PLANNER, "rounds/001/0003-judge-1.json", "deleted", "may not be deleted"),
        (PLANNER, "run.json", "modified", "may not be modified"),
        (PLANNER, "stack/app.py", "added", "nothing that a planner writes"),
        (PLANNER, "rounds/x/y.json", "added", "nothing that a planner writes"),
        (IMPLEMENTER, "stack/app.py", "deleted", None),
        (IMPLEMENTER, "roadmap.md", "deleted", "outside stack/"),
        (JUDGE, A, "added", None),
        (JUDGE, A, "modified", None),
        (JUDGE, A, "deleted", "may not be deleted"),
        (JUDGE, f"{A[:2]}/{A[2:]}", "added", None),
        (JUDGE, "steps/001-judge-1-1/a/b.json", "added", None),
        (JUDGE, "steps/001-judge-1-1/a.json", "modified", "may not be modified"),
        (JUDGE, "steps/001-judge-1-2/a.json", "added", "another step"),
        (JUDGE, "stack/app.py", "added", "is no note"),
        (EVALUATOR, "steps/001-judge-1-1/a.json", "added", "another step"),
    ],
)
def test_what_a_role_may_do_to_a_path(who: Caller, path: str, kind: str, words: str | None) -> None:
    made = commit_with(update(who), changes=(Change(path, kind),), tree=())  # type: ignore[arg-type]
    answer = decide(who, made)
    assert answer is None if words is None else words in (answer or "")


def test_a_judge_writes_one_note() -> None:
    made = commit_with(update(JUDGE), changes=(Change(A, "added"), Change(B, "added")))
    assert "writes 2 notes" in (decide(JUDGE, made) or "")


def test_sizes_and_numbers() -> None:
    limits = Limits(push_bytes=100, repository_bytes=200, file_bytes=50, tree_bytes=80, files=2, commits=2)
    good = update(IMPLEMENTER)

    def said(changed: Update, sizes: Sizes = Sizes(10, 10)) -> str:
        return decide(IMPLEMENTER, changed, sizes=sizes, limits=limits) or ""

    def tree(*sizes: int) -> Update:
        return commit_with(good, tree=tuple(Entry(f"stack/{n}", "100644", size) for n, size in enumerate(sizes)))

    assert said(tree(50, 30)) == ""
    assert "has 51 bytes" in said(tree(51))
    assert "holds 90 bytes" in said(tree(50, 40))
    assert "more than 2 files" in said(tree(1, 1, 1))
    assert "more than 2 commits" in said(replace(good, commits=good.commits * 3))
    assert "the push brings 101" in said(good, Sizes(101, 10))
    assert "its quota is 200" in said(good, Sizes(10, 201))
    assert "is a merge" in said(commit_with(good, parents=(A, C)))
    assert "moves 2" in (decide(IMPLEMENTER, good, good) or "")


def test_names_that_differ_by_case_only_are_refused() -> None:
    entries = (Entry("stack/App.py", "100644", 1), Entry("stack/app.py", "100644", 1))
    assert "where case does not count" in (decide(IMPLEMENTER, commit_with(update(IMPLEMENTER), tree=entries)) or "")


# --- for any push -----------------------------------------------------------------------------------------------------

text = st.text(max_size=12)
paths = st.one_of(
    st.sampled_from(
        [*GOOD.values(), "run.json", "plans/001-plan-1-1.json", "rounds/001/0001-plan-1.json", A, "stack/x/y"]
    ),
    st.lists(text, min_size=1, max_size=4).map("/".join),
)
commits = st.builds(
    Commit,
    id=st.just(B),
    parents=st.lists(st.just(A), max_size=2).map(tuple),
    changes=st.lists(st.builds(Change, paths, st.sampled_from(["added", "modified", "deleted"])), max_size=4).map(
        tuple
    ),
    tree=st.lists(
        st.builds(
            Entry, paths, st.sampled_from(["100644", "100644", "100755", "120000", "160000"]), st.integers(0, 99)
        ),
        max_size=4,
    ).map(tuple),
)
references = st.sampled_from(
    [
        "refs/heads/main",
        "refs/heads/candidate/001",
        "refs/notes/sartor/judge",
        "refs/notes/sartor/evaluator",
        "refs/tags/x",
    ]
)
updates = st.builds(
    Update,
    ref=references,
    old=st.sampled_from([None, A]),
    new=st.sampled_from([None, B, B, B]),
    fast_forward=st.sampled_from([True, True, False]),
    kind=st.sampled_from(["commit", "commit", "tag"]),
    commits=st.lists(commits, max_size=3).map(tuple),
)


@given(who=st.sampled_from([*CALLERS, OPERATOR]), pushed=st.lists(updates, min_size=1, max_size=2))
def test_what_is_taken_keeps_every_promise(who: Caller, pushed: list[Update]) -> None:
    limits = LIMITS.get(who.role, LIMITS[Role.PLANNER])
    answer = may_push(who, pushed, SMALL, limits)
    if answer is not None:
        assert answer.strip() and "\n" not in answer.replace("\\n", "")
        return
    assert who.role is not Role.OPERATOR and len(pushed) == 1
    (one,) = pushed
    assert one.ref == own_reference(who) and one.new is not None and one.fast_forward and one.kind == "commit"
    for commit in one.commits:
        assert len(commit.parents) < 2
        assert all(entry.mode == "100644" and odd_name(entry.path) is None for entry in commit.tree)
        touched = [*(change.path for change in commit.changes), *(entry.path for entry in commit.tree)]
        if who.role is Role.IMPLEMENTER:
            assert all(path.startswith("stack/") for path in touched)
        else:
            assert not any(path.startswith("stack/") for path in touched)
            records = [c for c in commit.changes if c.path.startswith(("plans/", "rounds/", "steps/"))]
            assert all(change.kind == "added" for change in records)


@given(path=st.text(max_size=300))
def test_any_name_is_taken_or_refused_in_one_line(path: str) -> None:
    answer = odd_name(path)
    if answer is None:
        assert path.isprintable() and ".." not in path.split("/") and not path.startswith("/")
    else:
        assert answer.isprintable()


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "namespace", "run", "sealed", "writing", "vault", "words"),
    [
        (PLANNER, NAMESPACE, RUN, False, True, Vault.OPEN, None),
        (IMPLEMENTER, NAMESPACE, RUN, False, True, Vault.OPEN, None),
        (JUDGE, NAMESPACE, RUN, False, True, Vault.SEALED, None),
        (JUDGE, NAMESPACE, RUN, True, False, Vault.SEALED, None),
        (EVALUATOR, NAMESPACE, RUN, False, False, Vault.SEALED, None),
        (OPERATOR, "anywhere", "any", False, False, Vault.OPEN, None),
        (OPERATOR, "anywhere", "any", True, False, Vault.SEALED, None),
        (OPERATOR, NAMESPACE, RUN, False, True, Vault.OPEN, "writes none"),
        (PLANNER, NAMESPACE, RUN, True, False, Vault.OPEN, "may not see sealed"),
        (IMPLEMENTER, NAMESPACE, RUN, True, False, Vault.OPEN, "may not see sealed"),
        (PLANNER, "team-b", RUN, False, False, Vault.OPEN, "belongs to namespace"),
        (JUDGE, NAMESPACE, "other", False, False, Vault.SEALED, "works for run editor-1"),
        (caller(Role.JUDGE, None), NAMESPACE, RUN, False, False, Vault.SEALED, "not bound to a pod of a step"),
        (caller(Role.JUDGE, "x", run=None), NAMESPACE, RUN, False, False, Vault.SEALED, "not bound to a pod"),
    ],
)
def test_who_opens_what(
    who: Caller, namespace: str, run: str, sealed: bool, writing: bool, vault: Vault, words: str | None
) -> None:
    answer = access(who, namespace, run, sealed=sealed, writing=writing)
    assert answer.vault is vault
    assert answer.refusal is None if words is None else words in (answer.refusal or "")


def test_a_judge_reads_the_files_of_a_candidate_and_an_evaluator_does_not() -> None:
    def opened(who: Caller, **more: bool) -> Vault:
        return access(who, NAMESPACE, RUN, **({"sealed": False, "writing": False, "stack": True} | more)).vault

    assert (opened(JUDGE), opened(EVALUATOR)) == (Vault.OPEN, Vault.SEALED)
    assert opened(JUDGE, sealed=True) is Vault.SEALED and opened(JUDGE, stack=False) is Vault.SEALED
    assert access(JUDGE, NAMESPACE, "other", sealed=False, writing=False, stack=True).refusal is not None


@given(who=st.sampled_from([PLANNER, IMPLEMENTER]), sealed=st.booleans(), writing=st.booleans())
def test_who_writes_code_never_opens_what_is_sealed(who: Caller, sealed: bool, writing: bool) -> None:
    answer = access(who, NAMESPACE, RUN, sealed=sealed, writing=writing)
    assert answer.vault is Vault.OPEN and (answer.refusal is not None) == sealed


@given(name=st.text(alphabet="ab.-/%A0_", max_size=20))
def test_names_in_an_address_are_kubernetes_s(name: str) -> None:
    if RUN_NAME.fullmatch(name):
        assert "/" not in name and not name.startswith((".", "-")) and ".." not in name and name == name.lower()
    if NAMESPACE_NAME.fullmatch(name):
        assert RUN_NAME.fullmatch(name) and "." not in name
