"""Journals: Arrow IPC streams that grow during a run and can be read after kill -9, with a torn tail dropped."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from harness.core.errors import ArtifactError


class JournalWriter:
    """Appends record batches to one Arrow IPC stream. One writer a file; not safe for concurrent use.

    Every `append` reaches the kernel before it returns (unbuffered file), so a later kill -9 of the process loses nothing of it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise ArtifactError(
                f"cannot create {path}: {error.strerror or error}",
                cause="no permission, no space, or the file is already there",
                next_step="choose another folder with --out",
            ) from error
        self._stream = pa.ipc.new_stream(self._file, schema)

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
        try:
            self._stream.write_batch(batch)
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self.path}: {error}",
                cause="no space left on that disk, or it is gone",
                next_step="free some space; what was written before is kept and `harness reduce` reads it",
            ) from error

    def close(self) -> None:
        """Write the end marker and close."""
        try:
            self._stream.close()
        except OSError as error:
            raise ArtifactError(f"cannot finish {self.path}: {error}", cause="no space left on that disk") from error
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole batches of a journal; a torn tail (the writer was killed) ends the iteration.

    Raises:
        ArtifactError: the file cannot be opened.
    """
    try:
        file = pa.OSFile(str(path), "rb")
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error}", next_step="check that this is a run directory") from error
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
    """All whole rows of several journals as one table of the given schema; columns added later are null in old journals."""
    batches = []
    for path in paths:
        for batch in read_batches(path):
            batches.append(batch if batch.schema.equals(schema) else _conform(batch, schema))
    return pa.Table.from_batches(batches, schema=schema)


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    have = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return pa.RecordBatch.from_arrays(
        [have[f.name].cast(f.type) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema], schema=schema
    )
