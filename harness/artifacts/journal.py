"""Journals: Arrow IPC streams that grow during a run and can be read after kill -9, with a torn
tail dropped.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from harness.core.errors import ArtifactError

_END_OF_STREAM = (  # Arrow IPC streaming format: continuation marker, then a length of 0
    b"\xff\xff\xff\xff\x00\x00\x00\x00"
)


class JournalWriter:
    """Appends record batches to one Arrow IPC stream. One writer a file; not safe for concurrent
    use.

    Every `append` reaches the kernel before it returns (unbuffered file), so a later kill -9 of the
    process loses nothing of it. A batch is written whole or not at all: after an error the file is
    cut back to the last whole batch, so that a later `append` that finds space again does not land
    behind a torn one, where no reader would find it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        if any(pa.types.is_dictionary(field.type) for field in schema):
            raise ValueError(
                "a journal has no dictionary columns: their batches would depend on one another"
            )
        self.path = path
        self.schema = schema
        self._whole_bytes = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise ArtifactError(
                f"cannot create {path}: {error.strerror or error}",
                cause="no permission, no space, or the file is already there",
                next_step="choose another folder with --out",
            ) from error
        try:
            self._write(schema.serialize())
        except ArtifactError:
            self._file.close()
            raise

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows (dicts of column name to value; missing columns are null) as one batch.

        Raises:
            ArtifactError: the disk refused; batches written before stay readable.
        """
        if not rows:
            return
        self.append_batch(pa.RecordBatch.from_pylist(list(rows), schema=self.schema))

    def append_batch(self, batch: pa.RecordBatch) -> None:
        """Write one batch of this journal's schema."""
        self._write(batch.serialize())

    def _write(self, message: pa.Buffer) -> None:
        rest = memoryview(message)
        try:
            while rest:  # a raw file may take a part only, when the disk fills up
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):  # the reader drops a torn tail too
                self._file.seek(self._whole_bytes)
                self._file.truncate()
            raise ArtifactError(
                f"cannot write {self.path}: {error.strerror or error}",
                cause="no space left on that disk, or it is gone",
                next_step=(
                    "free some space; what was written before is kept and `harness reduce` reads it"
                ),
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class JournalTail:
    """Follows a journal while another process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._schema: pa.Schema | None = None

    def new_batches(self) -> list[pa.RecordBatch]:
        """The batches that have become whole since the last call; none while there is no file."""
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
                break  # the rest of this message is still to come, or it is the end mark
            whole = reader.tell()
        self._read_bytes += whole
        return found


def parts(path: Path) -> list[Path]:
    """A journal and those that continue it after its writer died (`raw.arrows`, `raw-1.arrows`, …):
    those that are there, in order.
    """
    found = [path] if path.exists() else []
    number = 1
    while (part := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        found.append(part)
        number += 1
    return found


def next_part(path: Path) -> Path:
    """Where to go on with a journal: its own name while there is no such file, else the first free
    one of `parts`.
    """
    number = 0
    part = path
    while part.exists():
        number += 1
        part = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return part


def closed(path: Path) -> bool:
    """Whether a journal's writer closed it: it ends with the end marker. A torn one, or one that is
    still written, does not.
    """
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - len(_END_OF_STREAM)))
            return file.read() == _END_OF_STREAM
    except OSError:
        return False


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole batches of a journal; a torn tail (the writer was killed) ends the iteration.

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
            except StopIteration:
                return
            except (pa.ArrowInvalid, OSError, EOFError):
                return  # torn tail
            yield batch


def read_table(paths: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """All whole rows of several journals as one table of the given schema; columns added later are
    null in old journals.
    """
    batches: list[pa.RecordBatch] = []
    for path in paths:
        batches += [
            batch if batch.schema.equals(schema) else conform(batch, schema)
            for batch in read_batches(path)
        ]
    return pa.Table.from_batches(batches, schema=schema)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of an older journal under today's schema: columns added since are null."""
    have = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return pa.RecordBatch.from_arrays(
        [
            have[f.name].cast(f.type) if f.name in have else pa.nulls(batch.num_rows, f.type)
            for f in schema
        ],
        schema=schema,
    )
