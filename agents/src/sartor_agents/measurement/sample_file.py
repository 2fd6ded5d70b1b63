"""Every request of a measurement in one columnar file (Apache Parquet), so that any number can be made again from it.

A window becomes one row group, written as soon as the window has ended. A Parquet file has its index at its end: until
`close` the file is called `NAME.partial` and nothing can read it, so a writer that was killed leaves a file that is plainly
unfinished, never a shorter one that looks whole. `close` writes the index and the number of rows, flushes to the disk and
renames. Columns are those of `Sample`; times are seconds on the client's monotonic clock and compare within one file only.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from .samples import ErrorClass, Sample

SAMPLES_NAME = "samples.parquet"
FORMAT = 1
LARGEST = 4 << 30
"""Bytes of columns, before compression, of the largest file that is read: one may come from a stranger."""
_METADATA = b"sartor.samples"
_COMPRESSION = "zstd"
_WORD = pa.dictionary(pa.int32(), pa.string())  # few different values

SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("condition", _WORD, nullable=False),
        pa.field("arm", _WORD, nullable=False),
        pa.field("purpose", _WORD, nullable=False),
        pa.field("stage", _WORD, nullable=False),
        pa.field("window", pa.int32(), nullable=False),
        pa.field("scheduled", pa.float64(), nullable=False),
        pa.field("sent", pa.float64(), nullable=False),
        pa.field("first_byte", pa.float64()),
        pa.field("end", pa.float64(), nullable=False),
        pa.field("status", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("arrival_times", pa.list_(pa.float64()), nullable=False),
        pa.field("arrival_tokens", pa.list_(pa.int32()), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("usage_prompt", pa.int64()),
        pa.field("usage_completion", pa.int64()),
        pa.field("finish_reason", pa.string()),
        pa.field("error", _WORD),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
_PLAIN = tuple(field.name for field in SCHEMA if not field.name.startswith("arrival_") and field.name != "error")


class SamplesNotWrittenError(OSError):
    """Samples could not be kept (disk full, no permission); without them a number could not be checked."""


class SampleFileError(ValueError):
    """A file that is not a whole sample file; the message says what it is instead."""


class SampleFile:
    """Writes one file; a context manager that finishes it unless an exception that is no result passes through.

    An existing file of that name is removed when writing begins: samples of two measurements never share a name.
    Raises `SamplesNotWrittenError`.
    """

    def __init__(self, path: Path, facts: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self._facts = dict(facts or {})
        self._rows = 0
        self._stream: IO[bytes] | None = None
        self._writer: Any = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._stream = self.partial.open("wb")
            self._writer = pq.ParquetWriter(self._stream, SCHEMA, compression=_COMPRESSION, write_page_checksum=True)
        except OSError as error:
            self.abandon()
            raise not_written(self.path, error) from error

    def write(self, samples: Sequence[Sample]) -> None:
        """Append `samples` as one row group and hand it to the operating system."""
        if not samples:
            return
        if self._writer is None or self._stream is None:
            raise ValueError(f"{self.path} is closed")
        try:
            self._writer.write_table(_table(samples))
            self._stream.flush()
        except OSError as error:
            self.abandon()
            raise not_written(self.path, error) from error
        self._rows += len(samples)

    def close(self) -> None:
        """Finish the file under its own name. Does nothing the second time."""
        if self._writer is None or self._stream is None:
            return
        facts = {"format": FORMAT, "rows": self._rows, **self._facts}
        try:
            self._writer.add_key_value_metadata({_METADATA: json.dumps(facts).encode()})
            self._writer.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise not_written(self.path, error) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of the file as it is: what is not finished by now keeps the name `.partial`."""
        writer, stream = self._writer, self._stream
        self._writer = self._stream = None
        if writer is not None:
            # Its index must not be written behind our back when it is collected, nor its error be raised there.
            writer.is_open = False
        if stream is not None:
            try:
                stream.close()
            except OSError:
                return  # what could not be flushed is what we are giving up

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """All samples at once, as a finished file. Raises `SamplesNotWrittenError`."""
    with SampleFile(path) as file:
        file.write(list(samples))


def read_facts(path: Path) -> dict[str, Any]:
    """What the writer noted of the whole file (`rows`, `format`, its facts). Raises `SampleFileError`."""
    with _open(path) as file:
        return _facts(path, file)


def read_samples(path: Path) -> Iterator[Sample]:
    """The samples in the order in which they were written. Raises `SampleFileError` on anything but a whole file."""
    with _open(path) as file:
        facts = _facts(path, file)
        if file.metadata.num_rows != facts["rows"]:
            raise SampleFileError(f"{path} holds {file.metadata.num_rows} rows, its writer counted {facts['rows']}")
        size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
        if size > LARGEST:
            raise SampleFileError(f"{path} would take {size} bytes of memory; {LARGEST} are read at most")
        for group in range(file.num_row_groups):
            try:
                rows: list[dict[str, Any]] = file.read_row_group(group).to_pylist()
                samples = [_sample(row) for row in rows]
            except (pa.ArrowException, OSError, ValueError, TypeError) as error:
                raise SampleFileError(f"{path}: row group {group} cannot be read: {error}") from None
            yield from samples


def _open(path: Path) -> Any:
    if path.name.endswith(".partial"):
        raise SampleFileError(f"{path} was never finished: its writer ended in the middle of a measurement")
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise SampleFileError(f"{path} is no whole sample file: {error}") from None


def _facts(path: Path, file: Any) -> dict[str, Any]:
    content = (file.schema_arrow.metadata or {}).get(_METADATA) or (file.metadata.metadata or {}).get(_METADATA)
    if content is None or not file.schema_arrow.equals(SCHEMA, check_metadata=False):
        raise SampleFileError(f"{path} is a Parquet file, but not of samples")
    try:
        facts: dict[str, Any] = json.loads(content)
        written, rows = facts["format"], facts["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SampleFileError(f"{path} does not say what its writer noted") from None
    if written != FORMAT or not isinstance(rows, int):
        raise SampleFileError(f"{path} has format {written} with {rows} rows; this version reads format {FORMAT}")
    return facts


def _table(samples: Sequence[Sample]) -> Any:
    columns: dict[str, list[Any]] = {name: [getattr(sample, name) for sample in samples] for name in _PLAIN}
    columns["error"] = [None if sample.error is None else sample.error.value for sample in samples]
    columns["arrival_times"] = [[time for time, _ in sample.arrivals] for sample in samples]
    columns["arrival_tokens"] = [[tokens for _, tokens in sample.arrivals] for sample in samples]
    for name in ("text", "detail"):
        # A lone surrogate (half a pair that a server escaped) is no text that UTF-8 can hold.
        columns[name] = [value.encode("utf-8", "replace").decode() for value in columns[name]]
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _sample(row: dict[str, Any]) -> Sample:
    """Raises `ValueError` or `TypeError` for values that no writer of ours left."""
    times, tokens = row.pop("arrival_times"), row.pop("arrival_tokens")
    error = row.pop("error")
    return Sample(
        **row,
        arrivals=tuple(zip(times, tokens, strict=True)),
        error=None if error is None else ErrorClass(error),
    )


def not_written(path: Path, error: OSError) -> SamplesNotWrittenError:
    """The error for samples, or what belongs to them, that could not be kept at `path`."""
    why = error.strerror or str(error)
    return SamplesNotWrittenError(error.errno, f"samples cannot be written to {path}: {why}")
