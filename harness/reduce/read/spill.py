"""Columns too large for memory live in temporary files: mapped, so that the system keeps of them
what it has room for.

A column of a run with ten million requests is 80 MB, one of its chunks several hundred. Small
columns are plain arrays; nobody who uses a column needs to know which it is. Whoever goes through
large ones does it by `blocks`, and gives back what they have passed by `release`.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from harness.core.errors import ArtifactError

LARGE_BYTES: Final = 64 << 20
"""Columns from this size on live in files: of 8 million requests, of 8 to 16 million chunks."""
BLOCK: Final = 1 << 20
"""Rows that are worked on at a time."""
_FOLDER: Final = Path("/var/tmp")  # noqa: S108 - files in it have no name
"""Where temporary files may be large (file-hierarchy(7)); /tmp is often a part of memory. TMPDIR
goes before it.
"""


def column(rows: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array with so many rows, not filled.

    Raises:
        ArtifactError: no room for its file.
    """
    dtype = np.dtype(kind)
    size = rows * dtype.itemsize
    if size < LARGE_BYTES:
        return np.empty(rows, dtype)
    with _clear_errors(size), _file() as file:
        # Room is taken now: a mapped page that finds none later kills the process (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, size)
        return _of(file, dtype, rows)


class ColumnBuilder:
    """A column that grows at its end.

    Args:
        kind: of its values.
    """

    __slots__ = ("_dtype", "_file", "_length", "_parts")

    def __init__(self, kind: npt.DTypeLike) -> None:
        self._dtype = np.dtype(kind)
        self._length = 0
        self._parts: list[npt.NDArray[Any]] = []
        self._file: IO[bytes] | None = None

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, values: npt.NDArray[Any]) -> None:
        """Append values.

        Raises:
            ArtifactError: no room for the column's file.
        """
        self._length += len(values)
        self._parts.append(np.ascontiguousarray(values, self._dtype))
        if self._length * self._dtype.itemsize >= LARGE_BYTES:
            with _clear_errors(self._length * self._dtype.itemsize):
                if self._file is None:
                    self._file = _file()
                # written, not mapped: a write of a megabyte costs a fraction of the faults of its
                # pages
                for part in self._parts:
                    self._file.write(part.data)
            self._parts.clear()

    def finish(self) -> npt.NDArray[Any]:
        """The column, which is no longer here afterwards.

        Raises:
            ArtifactError: no room for the column's file.
        """
        parts, self._parts = self._parts, []
        length, self._length = self._length, 0
        file, self._file = self._file, None
        if file is None:
            return np.concatenate([np.empty(0, self._dtype), *parts])
        with _clear_errors(length * self._dtype.itemsize), file:
            file.flush()
            return _of(file, self._dtype, length)


def release(*arrays: npt.NDArray[Any]) -> None:
    """Give back the memory of columns that live in files; what they hold stays."""
    for array in arrays:
        mapped = _mapped(array)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def blocks(rows: int, size: int = BLOCK) -> Iterator[slice]:
    """Stretches of so many rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _file() -> IO[bytes]:
    return tempfile.TemporaryFile(
        dir=os.environ.get("TMPDIR") or (str(_FOLDER) if _FOLDER.is_dir() else None)
    )


def _of(file: IO[bytes], dtype: np.dtype[Any], rows: int) -> npt.NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), rows * dtype.itemsize), dtype, rows)


def _mapped(array: npt.NDArray[Any]) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


@contextmanager
def _clear_errors(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"no temporary file of {size / 1e6:.0f} MB for a column of the run's records:"
            f" {error.strerror or error}",
            cause=(
                "the run is too large for memory, and the folder of temporary files is full or"
                " cannot be written"
            ),
            next_step="set TMPDIR to a folder with room: some 200 bytes a request and 40 a chunk",
        ) from error
