"""Search, patches and commands, in the real sandbox."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from sartor_agents.tools import commands

from .conftest import Bench, needs_sandbox

pytestmark = needs_sandbox

PATCH = """\
diff --git a/stack/app.py b/stack/app.py
--- a/stack/app.py
+++ b/stack/app.py
@@ -1,3 +1,3 @@
 one
-two
+2
 three
diff --git a/stack/new.py b/stack/new.py
new file mode 100644
--- /dev/null
+++ b/stack/new.py
@@ -0,0 +1 @@
+fresh
"""


def app(bench: Bench) -> str:
    return (bench.worktree / "stack" / "app.py").read_text()


def test_search_gives_places(bench: Bench) -> None:
    assert bench.ok("search", pattern="t[hw]", path="stack") == (
        "stack/app.py:2:two\nstack/app.py:3:three\n[2 hits in 1 files]\n"
    )
    assert bench.ok("search", pattern="TWO", ignore_case=True, context=1).startswith(
        "./stack/app.py-1-one\n./stack/app.py:2:two\n./stack/app.py-3-three\n"
    )
    assert "no hits" in bench.ok("search", pattern="four")
    assert "no hits" in bench.ok("search", pattern="two", glob="*.md")
    assert "/skills/serving-core/SKILL.md:" in bench.ok("search", pattern="^name: serving-core", path="/skills")
    assert "not a regular expression" in bench.fails("search", pattern="(")
    bench.fails("search", pattern="root", path="/etc")


def test_an_expression_that_takes_for_ever_is_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.worktree / "stack" / "a").write_text("a" * 40)
    monkeypatch.setattr(commands, "SEARCH_SECONDS", 1.0)
    begin = time.monotonic()
    assert "TimedOut" in bench.fails("search", pattern="(a+)+b")
    assert time.monotonic() - begin < 15


def test_a_patch_applies_as_a_whole(bench: Bench) -> None:
    bench.ok("apply_patch", patch=PATCH)
    assert app(bench) == "one\n2\nthree\n" and (bench.worktree / "stack/new.py").read_text() == "fresh\n"


def test_a_patch_that_does_not_fit_changes_nothing(bench: Bench) -> None:
    wrong = PATCH.replace("-two", "-zwei")
    assert "does not apply" in bench.fails("apply_patch", patch=wrong)
    assert app(bench) == "one\ntwo\nthree\n" and not (bench.worktree / "stack/new.py").exists()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "other.txt"])
def test_a_patch_changes_nothing_outside_the_stack(bench: Bench, path: str) -> None:
    before = {p: p.read_bytes() for p in bench.root.rglob("*") if p.is_file() and "scratch" not in p.parts}
    bench.call("apply_patch", patch=PATCH.replace("stack/new.py", path))
    after = {p: p.read_bytes() for p in bench.root.rglob("*") if p.is_file() and "scratch" not in p.parts}
    after[bench.worktree / "stack/app.py"] = before[bench.worktree / "stack/app.py"]
    assert after == before


def test_a_link_in_a_patch_comes_to_nothing(bench: Bench) -> None:
    link = (
        "diff --git a/stack/l b/stack/l\nnew file mode 120000\n--- /dev/null\n+++ b/stack/l\n@@ -0,0 +1 @@\n"
        "+/etc/passwd\n\\ No newline at end of file\n"
    )
    assert "no plain file" in bench.fails("apply_patch", patch=link)
    assert [p.name for p in (bench.worktree / "stack").iterdir()] == ["app.py"]


def test_a_command_says_how_it_ended(bench: Bench) -> None:
    assert bench.ok("run_command", command="echo out; echo err >&2; echo x >> stack/app.py").endswith("out\nerr\n")
    assert app(bench).endswith("x\n")
    assert bench.fails("run_command", command="exit 3").startswith("[exit code 3, ")
    assert "over its time" in bench.fails("run_command", command="sleep 20", seconds=1)
    assert "no NUL" in bench.fails("run_command", command="echo a\0b")
    assert "kept: " in bench.fails("run_command", command="ln -s /etc/passwd stack/l; false")


def test_the_description_tells_the_limits_that_hold(bench: Bench) -> None:
    tool = bench.tool("run_command")
    assert isinstance(tool, commands.RunCommand)
    smaller = replace(tool.sandbox, limits=replace(tool.sandbox.limits, processes=77))
    assert "77 processes" in commands.RunCommand(smaller).description


def test_a_command_sees_configuration_and_skills_and_writes_neither(bench: Bench, tmp_path: Path) -> None:
    out = bench.ok(
        "run_command", command="cat /model/config.json; ls /skills; touch /model/x /skills/x || echo refused"
    )
    assert "hidden_size" in out and "serving-core" in out and "refused" in out
