"""Reading and writing by a model: within `stack/`, within limits, and every mistake is told in a sentence."""

import os
import stat
from pathlib import Path

import pytest

from sartor_agents.run.content import MAX_BYTES
from sartor_agents.tools import files

from .conftest import Bench

OUTSIDE = [
    "../secret", "stack/../../secret", "/etc/passwd", "/workspace/../secret", "stack/\x00", "stack/a\nb", "x" * 2000,
    "/workspacex/secret", "/modelx", "stack/" + "y" * 250, "stack/\udce4",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out(bench: Bench, path: str) -> None:
    before = sorted(bench.root.rglob("*"))
    for name, more in (("read_file", {}), ("write_file", {"content": "x"}), ("delete_file", {}), ("list_files", {}),
                       ("edit_file", {"old": "secret", "new": "x"})):  # fmt: skip
        assert "secret" not in bench.fails(name, path=path, **more).replace(path, "")
    assert sorted(bench.root.rglob("*")) == before


@pytest.mark.parametrize(
    "path", ["app.py", "/model/config.json", "/skills/x", "stack", "/workspace/stack", "other/x", ""]
)
def test_only_files_below_stack_are_written(bench: Bench, path: str) -> None:
    before = {p: p.read_bytes() for p in bench.root.rglob("*") if p.is_file()}
    bench.fails("write_file", path=path, content="x")
    bench.fails("delete_file", path=path)
    assert {p: p.read_bytes() for p in bench.root.rglob("*") if p.is_file()} == before


def test_links_are_followed_nowhere(bench: Bench) -> None:
    (bench.worktree / "stack" / "link").symlink_to(bench.root / "secret")
    (bench.worktree / "stack" / "folder").symlink_to(bench.root)
    os.mkfifo(bench.worktree / "stack" / "pipe")
    for path in ("stack/link", "stack/folder/secret", "stack/pipe"):
        assert "secret" not in bench.fails("read_file", path=path).replace(path, "")
        bench.fails("write_file", path=path, content="overwritten")
    bench.fails("list_files", path="stack/folder")
    assert (bench.root / "secret").read_text() == "secret" and "link" not in bench.ok("list_files")


def test_a_file_is_written_whole_and_keeps_its_mode(bench: Bench) -> None:
    assert "2 lines, 7 bytes" in bench.ok("write_file", path="stack/deep/er/new.py", content="a\nbcdef"[:7])
    assert (bench.worktree / "stack/deep/er/new.py").read_text() == "a\nbcdef"
    target = bench.worktree / "stack" / "app.py"
    target.chmod(0o755)
    bench.ok("write_file", path="/workspace/stack/app.py", content="new\n")
    assert target.read_text() == "new\n" and stat.S_IMODE(target.stat().st_mode) == 0o755
    assert sorted(p.name for p in target.parent.iterdir()) == ["app.py", "deep"]


def test_sizes_are_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more than" in bench.fails("write_file", path="stack/large", content="x" * (files.WRITE_BYTES + 1))
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    assert "nothing was written" in bench.fails("write_file", path="stack/b", content="x" * 90)
    bench.ok("write_file", path="stack/app.py", content="x" * 90)  # it replaces what was there
    monkeypatch.setattr(files, "MAX_BYTES", MAX_BYTES)
    monkeypatch.setattr(files, "MAX_FILES", 1)
    bench.fails("write_file", path="stack/b", content="x")
    assert [p.name for p in (bench.worktree / "stack").iterdir()] == ["app.py"]


def test_reading_gives_numbered_lines_in_parts(bench: Bench) -> None:
    (bench.worktree / "stack" / "long").write_text("".join(f"line {n}\n" for n in range(1, 1001)))
    text = bench.ok("read_file", path="stack/long", first_line=10, lines=2)
    assert text == "    10\tline 10\n    11\tline 11\n[989 more lines; go on with first_line 12]"
    assert "1000 lines" in bench.fails("read_file", path="stack/long", first_line=1001)
    assert bench.ok("read_file", path="/model/config.json") == '     1\t{"hidden_size": 64}'
    (bench.worktree / "stack" / "wide").write_text("x" * 5000)
    assert "4000 more" in bench.ok("read_file", path="stack/wide")
    (bench.worktree / "stack" / "binary").write_bytes(b"a\0b")
    assert "not text" in bench.fails("read_file", path="stack/binary")


def test_an_edit_hits_one_place_or_says_why_not(bench: Bench) -> None:
    bench.ok("edit_file", path="stack/app.py", old="two\n", new="2\n")
    assert (bench.worktree / "stack/app.py").read_text() == "one\n2\nthree\n"
    assert "Nothing was changed" in bench.fails("edit_file", path="stack/app.py", old="four", new="4")
    assert "line 1;" in bench.fails("edit_file", path="stack/app.py", old="one\n\ttwo", new="x")
    assert "3 times" in bench.fails("edit_file", path="stack/app.py", old="e", new="E")
    assert (bench.worktree / "stack/app.py").read_text() == "one\n2\nthree\n"
    bench.ok("edit_file", path="stack/app.py", old="e", new="E", everywhere=True)
    assert (bench.worktree / "stack/app.py").read_text() == "onE\n2\nthrEE\n"


def test_listing_leaves_out_what_was_built(bench: Bench) -> None:
    for name in ("stack/build/x.so", "stack/__pycache__/a.pyc"):
        (bench.worktree / name).parent.mkdir(exist_ok=True)
        (bench.worktree / name).write_text("x")
    assert bench.ok("list_files").split() == ["14", "stack/app.py"]
    bench.ok("delete_file", path="stack/app.py")
    assert bench.ok("list_files") == "There are no files."


def test_a_full_disk_is_no_mistake_of_the_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from sartor_agents.run.errors import StorageError

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_file", full)
    with pytest.raises(StorageError):
        bench.call("write_file", path="stack/app.py", content="x")


def test_names_are_those_of_a_command_inside(bench: Bench, tmp_path: Path) -> None:
    """`/skills/…` can be read by the same name outside and in the sandbox."""
    assert "name: serving-core" in bench.ok("read_file", path="/skills/serving-core/SKILL.md")
