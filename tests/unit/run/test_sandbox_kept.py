"""Files out of a sandbox, with a stream that an attacker wrote."""

import io
import json
from pathlib import Path

import pytest

from sartor_agents.run.sandbox import kept
from sartor_agents.run.sandbox.kept import Kept, put_in_place, unpack


def entry(path: object, data: bytes = b"x", *, size: object = None, executable: object = False) -> bytes:
    head = {"path": path, "size": len(data) if size is None else size, "executable": executable}
    return json.dumps(head).encode() + b"\n" + data


END = b'{"end": true}\n'


def unpacked(tmp_path: Path, stream: bytes, most: int = 1000) -> Kept:
    return unpack(io.BytesIO(stream), tmp_path / "new", below="stack", most_bytes=most)


def names(kept: Kept) -> dict[str, bytes]:
    return {str(p.relative_to(kept.folder)): p.read_bytes() for p in kept.folder.rglob("*") if p.is_file()}


def test_files_arrive_with_their_content_and_mode(tmp_path: Path) -> None:
    kept = unpacked(tmp_path, entry("stack/a.py", b"a") + entry("stack/bin/run", b"b", executable=True) + END)
    assert names(kept) == {"stack/a.py": b"a", "stack/bin/run": b"b"}
    assert kept.complete and kept.refused == () and kept.files == 2
    assert (kept.folder / "stack/bin/run").stat().st_mode & 0o777 == 0o755
    assert (kept.folder / "stack/a.py").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "path",
    ["../secret", "stack/../../secret", "/etc/cron.d/x", "other/x", "stack", "", "stack/a\nb", "stack/\udce4", 7, None,
     "stack/" + "x" * 300, "x" * 2000],
)  # fmt: skip
def test_no_name_leads_elsewhere(tmp_path: Path, path: object) -> None:
    kept = unpacked(tmp_path, entry(path, b"bad") + entry("stack/good", b"good") + END)
    assert names(kept) == {"stack/good": b"good"} and len(kept.refused) == 1 and kept.complete
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("size", [-1, 1001, 10**30, True, "1", 1.0, None])
def test_no_size_is_believed(tmp_path: Path, size: object) -> None:
    head = json.dumps({"path": "stack/a", "size": size}).encode() + b"\n"
    assert not unpacked(tmp_path, head + b"x" * 2000 + END).complete


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    stream = b"".join(entry(f"stack/{number}", b"x" * 100) for number in range(20)) + END
    kept = unpacked(tmp_path, stream, most=1000)
    assert not kept.complete and sum(map(len, names(kept).values())) <= 1000
    assert unpacked(tmp_path, stream, most=2000).complete


def test_the_number_of_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 50)
    refused = entry("x/outside", b"")
    many = unpacked(tmp_path, b"".join(entry(f"stack/{n}", b"") for n in range(51)) + END)
    assert not many.complete and many.files == 50
    assert len(unpacked(tmp_path, refused * 5000 + END).refused) <= 20


@pytest.mark.parametrize(
    "stream",
    [b"", entry("stack/a", b"x"), entry("stack/a", b"xy", size=9), b"x" * 100_000, b"[1]\n" + END, b"\xff\n" + END,
     b"[" * 15_000 + b"\n" + END],
)  # fmt: skip
def test_what_was_cut_off_or_is_no_stream_is_not_complete(tmp_path: Path, stream: bytes) -> None:
    assert not unpacked(tmp_path, stream).complete


def test_a_folder_cannot_be_a_file_too(tmp_path: Path) -> None:
    kept = unpacked(
        tmp_path, entry("stack/a", b"1") + entry("stack/a/b", b"2") + entry("stack/c/d") + entry("stack/c") + END
    )
    assert names(kept) == {"stack/a": b"1", "stack/c/d": b"x"} and len(kept.refused) == 2 and kept.complete


def test_the_new_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    old, new = tmp_path / "stack", tmp_path / "kept" / "stack"
    for folder, name in ((old, "before"), (new, "after")):
        folder.mkdir(parents=True)
        (folder / name).touch()
    put_in_place(new, old)
    assert [p.name for p in old.iterdir()] == ["after"] and not new.exists()
    new.mkdir()
    put_in_place(new, tmp_path / "fresh")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "kept", "stack"]
