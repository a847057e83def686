"""Journals: Arrow IPC streams that grow during a run and stay readable after kill -9, without a
torn tail.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count, takewhile
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from harness.core.errors import ArtifactError

_END_OF_STREAM = (  # Arrow IPC streaming format: continuation marker, then a length of 0
    b"\xff\xff\xff\xff\x00\x00\x00\x00"
)


class JournalWriter:
    """Appends record batches to one Arrow IPC stream. One writer per file; not thread-safe.

    Every `append` reaches the kernel before it returns (unbuffered file), so a later kill -9 loses
    nothing of it. After an error the file is cut back to the last whole batch: a later `append`
    behind a torn one could not be read.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        if any(pa.types.is_dictionary(field.type) for field in schema):
            raise ValueError("dictionary columns would make a journal's batches depend on others")
        self.path = path
        self.schema = schema
        self._whole_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise ArtifactError(
                f"cannot create {path}: {error.strerror or error}",
                cause="no permission, no space, or the file already exists",
                next_step="choose another folder with --out",
            ) from error
        try:
            self._write(schema.serialize())
        except ArtifactError:
            self._file.close()
            raise

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows (column -> value; missing columns are null) as one batch.

        Raises:
            ArtifactError: the batch cannot be written; earlier ones stay readable.
        """
        if not rows:
            return
        self.append_batch(pa.RecordBatch.from_pylist(list(rows), schema=self.schema))

    def append_batch(self, batch: pa.RecordBatch) -> None:
        self._write(batch.serialize())

    def _write(self, message: pa.Buffer) -> None:
        rest = memoryview(message)
        try:
            while rest:  # a raw file may accept only a part when the disk fills up
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):  # the reader drops a torn tail too
                self._file.seek(self._whole_bytes)
                self._file.truncate()
            raise ArtifactError(
                f"cannot write {self.path}: {error.strerror or error}",
                cause="no space left on that disk, or it is gone",
                next_step="free some space; `harness reduce` reads what was written before",
            ) from error
        self._whole_bytes += len(message)

    def close(self) -> None:
        """Write the end marker and close."""
        if self._file.closed:
            return
        try:
            self._write(pa.py_buffer(_END_OF_STREAM))
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JournalTail:
    """Follows a journal while another process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._schema: pa.Schema | None = None

    def new_batches(self) -> list[pa.RecordBatch]:
        """The batches completed since the last call; none without a file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except OSError:
            return []
        reader = pa.BufferReader(data)
        found: list[pa.RecordBatch] = []
        whole = 0
        while True:
            try:
                message = pa.ipc.read_message(reader)
                if self._schema is None:
                    self._schema = pa.ipc.read_schema(message)
                else:
                    found.append(pa.ipc.read_record_batch(message, self._schema))
            except (EOFError, OSError, pa.ArrowInvalid):
                break  # an incomplete message or the end marker
            whole = reader.tell()
        self._read_bytes += whole
        return found


def parts(path: Path) -> list[Path]:
    """The existing files of a journal, in order: `raw.arrows`, and `raw-1.arrows`, … that continue
    it after its writer died.
    """
    first = [path] if path.exists() else []
    return [*first, *takewhile(Path.exists, _continuations(path))]


def next_part(path: Path) -> Path:
    """The first name of `parts` that does not exist."""
    return next(part for part in chain([path], _continuations(path)) if not part.exists())


def _continuations(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))


def closed(path: Path) -> bool:
    """Whether a journal ends with the end marker, so that its writer closed it."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(_END_OF_STREAM)))
            return file.read() == _END_OF_STREAM
    except OSError:
        return False


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole batches of a journal, up to a torn tail.

    Raises:
        ArtifactError: the file cannot be opened.
    """
    try:
        file = pa.OSFile(str(path), "rb")
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error}", next_step="check that this is a run directory"
        ) from error
    with file:
        try:
            stream = pa.ipc.open_stream(file)
        except (pa.ArrowInvalid, OSError, EOFError):
            return  # killed before the schema was whole
        while True:
            try:
                batch = stream.read_next_batch()
            except (StopIteration, pa.ArrowInvalid, OSError, EOFError):
                return  # end or torn tail
            yield batch


def read_table(paths: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """All whole rows of several journals as one table; columns missing in old journals are null."""
    batches: list[pa.RecordBatch] = []
    for path in paths:
        batches += [
            batch if batch.schema.equals(schema) else conform(batch, schema)
            for batch in read_batches(path)
        ]
    return pa.Table.from_batches(batches, schema=schema)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of an older journal under the current schema: missing columns are null."""
    have = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return pa.RecordBatch.from_arrays(
        [
            have[f.name].cast(f.type) if f.name in have else pa.nulls(batch.num_rows, f.type)
            for f in schema
        ],
        schema=schema,
    )
