"""Columns too large for memory are in memory-mapped temporary files, so that the system keeps as
much of them in memory as fits.

A column of ten million requests is 80 MB, a column of their chunks several hundred. Small columns
are plain arrays, used alike. Code that traverses large columns uses `blocks` and `release`.
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
"""Minimum size of a column in a file: 8 million requests, 8 to 16 million chunks."""
BLOCK: Final = 1 << 20
"""Rows to process at a time."""
_FOLDER: Final = Path("/var/tmp")  # noqa: S108 - files in it have no name
"""For large temporary files (file-hierarchy(7)), unless TMPDIR is set; /tmp is often in memory."""


def column(rows: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialized array.

    Raises:
        ArtifactError: no space for its file.
    """
    dtype = np.dtype(kind)
    size = rows * dtype.itemsize
    if size < LARGE_BYTES:
        return np.empty(rows, dtype)
    with _clear_errors(size), _file() as file:
        # Space is reserved now: a mapped page without space would kill the process (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, size)
        return _of(file, dtype, rows)


class ColumnBuilder:
    """A column that grows at its end."""

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
            ArtifactError: no space for the column's file.
        """
        self._length += len(values)
        self._parts.append(np.ascontiguousarray(values, self._dtype))
        if self._length * self._dtype.itemsize >= LARGE_BYTES:
            with _clear_errors(self._length * self._dtype.itemsize):
                if self._file is None:
                    self._file = _file()
                # Written, not mapped: writing a megabyte costs far less than its page faults.
                for part in self._parts:
                    self._file.write(part.data)
            self._parts.clear()

    def finish(self) -> npt.NDArray[Any]:
        """Return the column and empty the builder.

        Raises:
            ArtifactError: no space for the column's file.
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
    """Release the memory of columns that are in files; their contents remain."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, memoryview):
            base = base.obj
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


def blocks(rows: int, size: int = BLOCK) -> Iterator[slice]:
    """All rows as slices of at most `size`."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _file() -> IO[bytes]:
    return tempfile.TemporaryFile(
        dir=os.environ.get("TMPDIR") or (str(_FOLDER) if _FOLDER.is_dir() else None)
    )


def _of(file: IO[bytes], dtype: np.dtype[Any], rows: int) -> npt.NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), rows * dtype.itemsize), dtype, rows)


@contextmanager
def _clear_errors(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"cannot create a temporary file of {size / 1e6:.0f} MB for the run's records:"
            f" {error.strerror or error}",
            cause="the run exceeds memory, and the temporary directory is full or not writable",
            next_step="set TMPDIR to a directory with about 200 bytes per request and 40 per chunk",
        ) from error
