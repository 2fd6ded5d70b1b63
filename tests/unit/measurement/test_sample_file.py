"""Samples on disk: whole or plainly not, whatever ends the writer."""

import errno
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_windows import sample

from sartor_agents.measurement.sample_file import (
    SampleFile,
    SampleFileError,
    SamplesNotWrittenError,
    read_facts,
    read_samples,
    write_samples,
)
from sartor_agents.measurement.samples import ErrorClass, Sample

SAMPLES = st.builds(
    sample,
    text=st.text(st.characters(codec="utf-8")),
    detail=st.text(st.characters(codec="utf-8")),
    first_byte=st.none() | st.floats(0, 1e6),
    arrivals=st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000))).map(tuple),
    usage_completion=st.none() | st.integers(0, 2**31),
    finish_reason=st.none() | st.just("length"),
    error=st.none() | st.sampled_from(ErrorClass),
    status=st.integers(0, 999),
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(windows=st.lists(st.lists(SAMPLES, max_size=4), max_size=4))
def test_what_is_written_is_read_again(tmp_path: Path, windows: list[list[Sample]]) -> None:
    path = tmp_path / "samples.parquet"
    with SampleFile(path, {"seed": "abc"}) as file:
        for window in windows:
            file.write(window)
    rows = [one for window in windows for one in window]
    assert list(read_samples(path)) == rows
    assert read_facts(path) == {"format": 1, "rows": len(rows), "seed": "abc"}
    assert not file.partial.exists()


def test_any_tool_can_read_the_columns(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", [sample(), sample(error=ErrorClass.STALL, tokens=0)])
    table = pq.read_table(tmp_path / "s.parquet", columns=["arm", "tokens", "error", "arrival_times"])
    assert table.to_pylist() == [
        {"arm": "a", "tokens": 10, "error": None, "arrival_times": [1.0, 2.0, 3.0]},
        {"arm": "a", "tokens": 0, "error": "stall", "arrival_times": [1.0, 2.0, 3.0]},
    ]


def test_half_a_character_does_not_keep_the_rest_from_being_written(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", [sample(text="a\ud83d", detail="\udc00")])
    assert [one.text for one in read_samples(tmp_path / "s.parquet")] == ["a?"]


def test_until_it_is_finished_it_has_another_name_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_samples(path, [sample()])
    file = SampleFile(path)
    file.write([sample(), sample()])
    # An older measurement's samples must not be taken for this one's.
    assert not path.exists()
    with pytest.raises(SampleFileError, match="never finished"):
        list(read_samples(file.partial))
    file.close()
    assert len(list(read_samples(path))) == 2


def test_an_exception_leaves_it_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    with pytest.raises(KeyError), SampleFile(path) as file:
        file.write([sample()])
        raise KeyError("x")
    assert not path.exists() and file.partial.exists()


WRITER = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from made_windows import sample
from sartor_agents.measurement.sample_file import SampleFile
file = SampleFile(Path({path!r}))
for window in range(3):
    file.write([sample(window=window)] * 50)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_no_file_that_looks_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    script = WRITER.format(folder=str(Path(__file__).parents[2] / "support"), path=str(path))
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    partial = tmp_path / "s.parquet.partial"
    assert not path.exists() and partial.stat().st_size > 0
    # Not even under the name of a finished one.
    partial.rename(path)
    with pytest.raises(SampleFileError, match="no whole sample file"):
        list(read_samples(path))
    write_samples(path, [sample()])
    assert len(list(read_samples(path))) == 1


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_cut_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "s.parquet"
    write_samples(path, [sample()] * 20)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(SampleFileError, match="no whole sample file"):
        list(read_samples(path))


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Never other samples: each either reads the same or is refused."""
    path = tmp_path / "s.parquet"
    rows = [sample(text=f"text {number}") for number in range(20)]
    write_samples(path, rows)
    content = path.read_bytes()
    refused = 0
    for at in range(8, len(content) - 8, 97):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        try:
            assert list(read_samples(path)) == rows
        except SampleFileError:
            refused += 1
    assert refused > 0


def test_another_parquet_file_is_not_taken_for_samples(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(SampleFileError, match="not of samples"):
        list(read_samples(path))


@pytest.mark.parametrize(("column", "value"), [("error", "boredom"), ("arrival_tokens", [1])])
def test_values_that_no_writer_of_ours_left_are_refused(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "s.parquet"
    write_samples(path, [sample()])
    table = pq.read_table(path)
    at = table.schema.get_field_index(column)
    forged = table.set_column(at, table.schema.field(at), pa.array([value], table.schema.field(at).type))
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(forged)
        writer.add_key_value_metadata({b"sartor.samples": b'{"format": 1, "rows": 1}'})
    with pytest.raises(SampleFileError):
        list(read_samples(path))


@pytest.mark.parametrize(
    "note", [b"{", b"[]", b'{"format": 1}', b'{"format": 1, "rows": "1"}', b'{"format": 9, "rows": 1}']
)
def test_a_note_that_makes_no_sense_is_refused(tmp_path: Path, note: bytes) -> None:
    path = tmp_path / "s.parquet"
    write_samples(path, [sample()])
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"sartor.samples": note})
    with pytest.raises(SampleFileError):
        list(read_samples(path))


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "s.parquet", [sample(text="x" * 10_000)])
    monkeypatch.setattr("sartor_agents.measurement.sample_file.LARGEST", 5000)
    with pytest.raises(SampleFileError, match="5000 are read at most"):
        list(read_samples(tmp_path / "s.parquet"))


def test_a_full_disk_is_an_error_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    (tmp_path / "s.parquet.partial").symlink_to("/dev/full")
    with pytest.raises(SamplesNotWrittenError, match=r"s\.parquet: No space left") as refused, SampleFile(path) as file:
        file.write([sample()] * 1000)
    assert refused.value.errno == errno.ENOSPC
    assert not path.exists()


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SamplesNotWrittenError, match=r"s\.parquet"):
        SampleFile(tmp_path / "file" / "s.parquet")
