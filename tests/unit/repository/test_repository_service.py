"""The git service with a real git client: who may do what, and what a refusal looks like to who pushes."""

import asyncio
import concurrent.futures
import gzip
import io
import resource
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from repository_world import NAMESPACE, RUN, World, caller, serving

from sartor_operator import errors, stacks
from sartor_repository.policy import LIMITS, MIB, Limits, Role
from sartor_repository.service import Capacity

STACK = {"stack/__main__.py": "print('hello')\n", "stack/app.py": "x = 1\n"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as made:
        yield made


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode != 0, "the push was taken"
    assert "sartor: " in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def get(url: str, token: str | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


# --- what the roles do ------------------------------------------------------------------------------------------------


def test_the_life_of_a_round(world: World) -> None:
    plans = world.work("plans")
    world.commit(plans, {"run.json": "{}", "roadmap.md": "# Roadmap\n", "plans/001-plan-1-1.json": "{}"})
    assert world.push("planner", plans, "HEAD:refs/heads/main").returncode == 0

    code = world.work("code")
    first = world.commit(code, STACK)
    assert world.push("implementer", code, "HEAD:refs/heads/candidate/001").returncode == 0
    second = world.commit(code, {"stack/app.py": "x = 2\n"}, "repair")
    assert world.push("implementer", code, "HEAD:refs/heads/candidate/001").returncode == 0

    for who, reference in (("judge", "refs/notes/sartor/judge"), ("evaluator", "refs/notes/sartor/evaluator")):
        notes = world.work(f"notes-{who}")
        step = {"judge": "001-judge-1-1", "evaluator": "001-evaluate-1-1"}[who]
        world.commit(notes, {f"steps/{step}/record.json": '{"sealed": "prompt"}', first: "note"})
        assert world.push(who, notes, f"HEAD:{reference}").returncode == 0

    seen = world.ok("operator", "ls-remote", world.address())
    assert {line.split("\t")[1] for line in seen.splitlines()} == {
        "HEAD", "refs/heads/main", "refs/heads/candidate/001",
    }  # fmt: skip
    assert world.ok("implementer", "ls-remote", world.address(), "refs/heads/candidate/001").startswith(second)
    sealed = world.ok("operator", "ls-remote", f"{world.address()}/sealed")
    assert "refs/notes/sartor/judge" in sealed and "refs/notes/sartor/evaluator" in sealed
    copy = world.clone("planner", "copy")
    assert (copy / "roadmap.md").read_text() == "# Roadmap\n"


def test_sealed_objects_are_not_in_the_repository_that_an_implementer_opens(world: World) -> None:
    notes = world.work("notes")
    world.commit(notes, {"steps/001-judge-1-1/record.json": "the sealed prompt"})
    assert world.push("judge", notes, "HEAD:refs/notes/sartor/judge").returncode == 0
    blob = world.ok(None, "rev-parse", "HEAD:steps/001-judge-1-1/record.json", at=notes)
    tree = world.work("thief")
    # Protocol 2 gives any object that is there, whatever branches are shown: so it must not be there.
    stolen = world.git("implementer", "-c", "protocol.version=2", "fetch", world.address(), blob, at=tree)
    assert stolen.returncode != 0 and "not our ref" in stolen.stderr
    refused(world.git("implementer", "ls-remote", f"{world.address()}/sealed"), "may not see sealed records")


@pytest.mark.parametrize(
    ("who", "files", "target", "words"),
    [
        ("planner", {"roadmap.md": "x"}, "refs/heads/other", ("refs/heads/main only",)),
        ("planner", {"stack/app.py": "x"}, "refs/heads/main", ("stack/app.py is nothing that a planner writes",)),
        ("planner", {"plans/009-plan-1-1.json": "{}"}, "refs/heads/main", ("the plan of another step",)),
        ("implementer", STACK, "refs/heads/candidate/002", ("candidate/001 only",)),
        ("implementer", STACK, "refs/heads/main", ("candidate/001 only",)),
        ("implementer", STACK, "refs/tags/v1", ("candidate/001 only",)),
        ("implementer", STACK | {"notes.txt": "x"}, "refs/heads/candidate/001", ("notes.txt lies outside stack/",)),
        ("judge", {"steps/001-judge-1-1/a": "x"}, "refs/notes/sartor/evaluator", ("sartor/judge only",)),
        ("judge", {"steps/001-judge-1-1/a": "x"}, "refs/heads/candidate/001", ("sartor/judge only",)),
        ("judge", {"steps/002-judge-1-1/a": "x"}, "refs/notes/sartor/judge", ("belongs to another step",)),
        ("operator", STACK, "refs/heads/candidate/001", ("writes none",)),
    ],
)  # fmt: skip
def test_a_push_that_the_role_may_not_make(
    world: World, who: str, files: dict[str, str], target: str, words: tuple[str, ...]
) -> None:
    tree = world.work("tree")
    world.commit(tree, dict(files))
    refused(world.push(who, tree, f"HEAD:{target}"), *words)
    for vault in ("", "/sealed"):
        assert world.ok("operator", "ls-remote", world.address() + vault) == ""


def test_links_modes_submodules_and_odd_names_are_refused(world: World) -> None:
    tree = world.work("tree")
    base = world.commit(tree, dict(STACK))

    def attempt(words: str) -> None:
        world.ok(None, "commit", "--quiet", "--message", "odd", at=tree)
        refused(world.push("implementer", tree, "HEAD:refs/heads/candidate/001"), words)
        world.ok(None, "reset", "--quiet", "--hard", base, at=tree)

    (tree / "stack/link").symlink_to("/etc/passwd")
    world.ok(None, "add", "stack/link", at=tree)
    attempt("stack/link is a symbolic link")
    (tree / "stack/run.sh").write_text("#!/bin/sh\n")
    (tree / "stack/run.sh").chmod(0o755)
    world.ok(None, "add", "stack/run.sh", at=tree)
    attempt("stack/run.sh is executable")
    world.ok(None, "update-index", "--add", "--cacheinfo", f"160000,{base},stack/module", at=tree)
    attempt("stack/module is a submodule")
    for name, words in (
        ("stack/-rf", "begins with a dash"),
        ("stack/a\tb", "cannot be seen"),
        ("stack/APP.py", "case"),
    ):
        (tree / name).write_text("x")
        world.ok(None, "add", "--", name, at=tree)
        attempt(words)


def test_what_a_commit_in_between_held_is_looked_at_too(world: World) -> None:
    tree = world.work("tree")
    world.commit(tree, STACK | {"secret.txt": "x"})
    (tree / "secret.txt").unlink()
    world.commit(tree, {})
    refused(world.push("implementer", tree, "HEAD:refs/heads/candidate/001"), "secret.txt lies outside stack/")


def test_nobody_deletes_forces_or_merges(world: World) -> None:
    tree = world.work("tree")
    first = world.commit(tree, dict(STACK))
    world.commit(tree, {"stack/app.py": "x = 2\n"})
    assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0
    refused(world.push("implementer", tree, ":refs/heads/candidate/001"), "may not be deleted")
    refused(world.push("implementer", tree, f"{first}:refs/heads/candidate/001", "--force"), "would lose commits")
    world.ok(None, "checkout", "--quiet", "-b", "side", first, at=tree)
    world.commit(tree, {"stack/side.py": "y"})
    world.ok(None, "merge", "--quiet", "--no-edit", "main", at=tree)
    refused(world.push("implementer", tree, "HEAD:refs/heads/candidate/001"), "is a merge")


def test_what_was_recorded_stays(world: World) -> None:
    tree = world.work("tree")
    world.commit(tree, {"roadmap.md": "1", "rounds/001/0002-plan-1.json": "{}"})
    assert world.push("planner", tree, "HEAD:refs/heads/main").returncode == 0
    world.commit(tree, {"roadmap.md": "2", "issues/001-1.md": "# it failed"})
    assert world.push("planner", tree, "HEAD:refs/heads/main").returncode == 0
    world.commit(tree, {"rounds/001/0002-plan-1.json": '{"changed": 1}'})
    refused(world.push("planner", tree, "HEAD:refs/heads/main"), "is a record and may not be modified")


# --- who --------------------------------------------------------------------------------------------------------------


def test_who_is_not_let_in_is_told_why(world: World) -> None:
    refused(world.git("nobody", "ls-remote", world.address()), "the token is not valid")
    assert "could not read Username" in world.git(None, "ls-remote", world.address()).stderr
    world.away = True
    refused(world.git("planner", "ls-remote", world.address()), "cannot be checked now", "try again")


def test_namespaces_and_runs_are_separated(world: World) -> None:
    world.runs.update({("team-b", RUN), (NAMESPACE, "other")})
    for namespace, run in (("team-b", RUN), (NAMESPACE, "other")):
        done = world.git("planner", "ls-remote", world.address(namespace, run))
        refused(done, "closed to it")
        assert world.store is not None and not world.store.exists(namespace, run)
    world.tokens["unbound"] = caller(Role.PLANNER, run=None)
    refused(world.git("unbound", "ls-remote", world.address()), "not bound to a pod of a step")


def test_repositories_are_made_for_runs_that_exist_only(world: World) -> None:
    world.tokens["ghost"] = caller(Role.PLANNER, "001-plan-1-1", run="ghost")
    refused(world.git("ghost", "ls-remote", world.address(run="ghost")), "there is no SynthesisRun team-a/ghost")
    refused(world.git("operator", "ls-remote", world.address("team-b", "ghost")), "there is no SynthesisRun")
    assert [p.name for p in world.root.iterdir() if not p.name.startswith(".")] == []
    world.ok("operator", "ls-remote", world.address())
    assert sorted(p.name for p in (world.root / NAMESPACE / RUN).iterdir()) == ["open.git", "sealed.git"]


@pytest.mark.parametrize(
    "path",
    [
        "/team-a/../team-b/editor-1/info/refs?service=git-upload-pack",
        "/team-a/%2e%2e/info/refs?service=git-upload-pack",
        "/team-a/editor-1/%2e%2e/%2e%2e/.hooks/pre-receive",
        "/team-a/editor-1/objects/info/packs",
        "/team-a/editor-1/config",
        "/team-a/editor-1/HEAD",
        "/team-a/.new-x/info/refs?service=git-upload-pack",
        "/Team-A/editor-1/info/refs?service=git-upload-pack",
        f"/team-a/{'a.' * 140}a/info/refs?service=git-upload-pack",
        "/",
    ],
)
def test_no_address_leads_anywhere_else(world: World, path: str) -> None:
    status, body = get(world.url + path, "operator")
    assert status == 404 and body.startswith(b"sartor: there is nothing at this address")
    assert not (world.root / NAMESPACE).exists()


def test_the_dumb_protocol_and_other_methods_are_refused(world: World) -> None:
    assert get(f"{world.address()}/info/refs", "operator")[0] == 403
    assert get(f"{world.address()}/info/refs?service=git-upload-archive", "operator")[0] == 403
    assert get(f"{world.address()}/git-upload-pack", "operator")[0] == 405


# --- sizes ------------------------------------------------------------------------------------------------------------


def small(**changes: int) -> dict[Role, Limits]:
    return {role: replace(limits, **changes) for role, limits in LIMITS.items()}


def noise(size: int) -> bytes:
    import random

    return random.Random(7).randbytes(size)


@pytest.mark.parametrize(
    ("limits", "files", "words"),
    [
        ({"push_bytes": 1 << 16}, {"stack/a.bin": noise(1 << 20)}, "exceeds maximum allowed size"),
        ({"file_bytes": 1000}, {"stack/a.py": "x" * 1001}, "stack/a.py has 1001 bytes; a file may have 1000"),
        ({"tree_bytes": 1000}, {"stack/a.py": "x" * 600, "stack/b.py": "y" * 600}, "1200 bytes of files"),
        ({}, {"stack/zeros.bin": bytes(33 << 20)}, "stack/zeros.bin has 34603008 bytes; a file may have 33554432"),
        ({"files": 3}, {f"stack/{n}.py": "x" for n in range(4)}, "more than 3 files"),
        ({"repository_bytes": 1 << 16}, {"stack/a.bin": noise(1 << 17)}, "its quota is 65536"),
    ],
)  # fmt: skip
def test_a_push_that_is_too_large_is_refused_and_nothing_stays(
    tmp_path: Path, limits: dict[str, int], files: dict[str, bytes | str], words: str
) -> None:
    with serving(tmp_path, limits=small(**limits)) as world:
        tree = world.work("tree")
        world.commit(tree, files)
        done = world.push("implementer", tree, "HEAD:refs/heads/candidate/001")
        assert done.returncode != 0 and words in done.stderr, done.stderr
        assert world.ok("operator", "ls-remote", world.address()) == ""
        left = list((world.root / NAMESPACE / RUN / "open.git" / "objects").rglob("*"))
        assert not [p for p in left if p.is_file()], "refused objects were kept"


def test_many_commits_at_once_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path, limits=small(commits=2)) as world:
        tree = world.work("tree")
        for number in range(3):
            world.commit(tree, STACK | {"stack/n.py": str(number)})
        refused(world.push("implementer", tree, "HEAD:refs/heads/candidate/001"), "more than 2 commits at once")


def test_a_full_volume_says_so_before_anything_is_sent(tmp_path: Path) -> None:
    with serving(tmp_path, capacity=Capacity(reserve_bytes=1 << 60)) as world:
        tree = world.work("tree")
        world.commit(tree, dict(STACK))
        refused(world.push("implementer", tree, "HEAD:refs/heads/candidate/001"), "MiB left", "nothing was stored")
        world.ok("operator", "ls-remote", world.address())


def test_a_pack_of_some_size_goes_through_and_back(world: World) -> None:
    tree = world.work("tree")
    data = noise(6 * MIB)
    commit = world.commit(tree, STACK | {"stack/data.bin": data})
    done = world.push("implementer", tree, "HEAD:refs/heads/candidate/001")
    assert done.returncode == 0, done.stderr
    copy = world.work("copy")
    world.ok("planner", "fetch", "--quiet", "origin", "candidate/001", at=copy)
    assert world.ok(None, "rev-parse", "FETCH_HEAD", at=copy) == commit
    status, body = get(f"{world.address()}/stack/{commit}.tar", "operator")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        content = archive.extractfile("stack/data.bin")
        assert content is not None and content.read() == data


def test_a_stack_that_is_not_there_is_a_sentence(world: World) -> None:
    status, body = get(f"{world.address()}/stack/{'0' * 39}1.tar", "operator")
    assert status == 404 and b"there is no commit" in body
    assert get(f"{world.address()}/stack/{'0' * 40}.tar", None)[0] == 401


def test_the_operator_s_own_client_reads_a_stack(world: World, tmp_path: Path) -> None:
    tree = world.work("tree")
    commit = world.commit(tree, dict(STACK))
    assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0
    (tmp_path / "token").write_text("operator\n")

    async def files(wanted: str) -> dict[str, bytes]:
        async with aiohttp.ClientSession() as session:
            source = stacks.RepositoryStacks(lambda: session, tmp_path / "token")
            return dict(await source.files(world.address(), wanted))

    assert asyncio.run(files(commit)) == {path: text.encode() for path, text in STACK.items()}
    with pytest.raises(stacks.CommitMissingError):
        asyncio.run(files("1" * 40))
    world.away = True
    with pytest.raises(errors.TransientError):
        asyncio.run(files(commit))


def post(world: World, body: bytes, token: str = "operator") -> tuple[int, bytes]:
    """A fetch's request as git would send it, compressed."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/x-git-upload-pack-request",
        "Content-Encoding": "gzip",
        "Git-Protocol": "version=2",
    }
    request = urllib.request.Request(f"{world.address()}/git-upload-pack", gzip.compress(body), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, ConnectionError) as error:
        return 0, str(error).encode()


def test_compressed_requests_are_understood_and_bombs_go_off_outside(world: World) -> None:
    tree = world.work("tree")
    commit = world.commit(tree, dict(STACK))
    assert world.push("implementer", tree, "HEAD:refs/heads/candidate/001").returncode == 0
    status, body = post(world, b"0014command=ls-refs\n0000")
    assert status == 200 and commit.encode() in body
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, body = post(world, b"0" * (200 << 20))
    assert status != 200, body[:200]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < 300 << 20, "the service held the unpacked request (the test itself holds 200 MiB of it)"
    world.ok("operator", "ls-remote", world.address())


# --- at the same time -------------------------------------------------------------------------------------------------


def test_of_two_pushes_at_the_same_time_one_wins_and_nothing_breaks(world: World) -> None:
    base = world.work("base")
    world.commit(base, dict(STACK))
    assert world.push("implementer", base, "HEAD:refs/heads/candidate/001").returncode == 0
    trees = []
    for number in range(3):
        tree = world.work(f"tree-{number}")
        world.ok("implementer", "fetch", "--quiet", "origin", "candidate/001", at=tree)
        world.ok(None, "checkout", "--quiet", "-B", "main", "FETCH_HEAD", at=tree)
        world.commit(tree, {f"stack/{number}.py": "x"})
        trees.append(tree)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda t: world.push("implementer", t, "HEAD:refs/heads/candidate/001"), trees))
    assert [d.returncode for d in done].count(0) == 1, [d.stderr for d in done]
    winner = next(tree for tree, d in zip(trees, done, strict=True) if d.returncode == 0)
    tip = world.ok("operator", "ls-remote", world.address(), "refs/heads/candidate/001").split()[0]
    assert tip == world.ok(None, "rev-parse", "HEAD", at=winner)
    repository = world.root / NAMESPACE / RUN / "open.git"
    assert world.git(None, "-c", "safe.directory=*", "fsck", "--full", at=repository).returncode == 0


def test_first_calls_at_the_same_time_make_one_repository(world: World) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        done = list(
            pool.map(lambda who: world.git(who, "ls-remote", world.address()), ["planner", "operator", "judge"])
        )
    assert [d.returncode for d in done] == [0, 0, 0], [d.stderr for d in done]
    assert [p.name for p in (world.root / NAMESPACE).iterdir()] == [RUN]


def test_a_run_has_so_many_requests_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, capacity=Capacity(per_run=0)) as world:
        refused(world.git("operator", "ls-remote", world.address()), "under way already")


def test_health_and_metrics_need_no_token_and_tell_of_refusals(world: World) -> None:
    world.git("nobody", "ls-remote", world.address())
    world.ok("operator", "ls-remote", world.address())
    status, body = get(f"{world.url}/healthz")
    assert status == 200 and body.startswith(b"ok")
    deadline = time.monotonic() + 10
    while "sartor_repository_in_flight 0.0" not in (text := get(f"{world.url}/metrics")[1].decode()):
        assert time.monotonic() < deadline, "a request that git saw answered still counts as in flight"
        time.sleep(0.05)
    assert 'sartor_repository_requests_total{code="401",operation="fetch",role="unknown"}' in text
    assert 'sartor_repository_requests_total{code="200",operation="fetch",role="operator"}' in text
    assert "sartor_repository_runs_made_total 1.0" in text
