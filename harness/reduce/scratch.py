"""Columns too large for memory live in temporary files: mapped, so that the system keeps of them what it has room for.

A column of a run with ten million requests is 80 MB, one of its chunks several hundred. Small columns are plain arrays; nobody who uses a
column needs to know which it is. Whoever goes through large ones does it by `blocks`, and gives back what they have passed by `release`.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.core.errors import ArtifactError

LARGE_BYTES: Final = 32 << 20
"""Arrays from this size on live in files."""
BLOCK: Final = 1 << 20
"""Rows that are worked on at a time."""
_FOLDER: Final = Path("/var/tmp")  # noqa: S108 - files in it have no name
"""Where temporary files may be large (file-hierarchy(7)); /tmp is often a part of memory. TMPDIR goes before it."""


def column(rows: int, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """An array with so many rows, not filled.

    Raises:
        ArtifactError: no room for its file.
    """
    dtype = np.dtype(kind)
    size = rows * dtype.itemsize
    if size < LARGE_BYTES:
        return np.empty(rows, dtype)
    folder = os.environ.get("TMPDIR") or (str(_FOLDER) if _FOLDER.is_dir() else None)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # Room is taken now: a mapped page that finds none later kills the process (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise ArtifactError(
            f"no temporary file of {size / 1e6:.0f} MB for a column of {rows:,} rows: {error.strerror or error}",
            cause="the run is too large for memory, and the folder of temporary files is full or cannot be written",
            next_step="set TMPDIR to a folder with room: some 300 bytes a request and 40 a chunk",
        ) from error
    return np.frombuffer(mapped, dtype, rows)


def release(*arrays: npt.NDArray[Any]) -> None:
    """Give back the memory of columns that live in files; what they hold stays."""
    for array in arrays:
        mapped = _mapped(array)
        if mapped is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def is_mapped(array: npt.NDArray[Any]) -> bool:
    """Whether the array lives in a file."""
    return _mapped(array) is not None


def _mapped(array: Any) -> mmap.mmap | None:  # noqa: ANN401 - whatever an array is a view of
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def blocks(rows: int, size: int = BLOCK) -> Iterator[slice]:
    """Stretches of so many rows."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


class Growing:
    """A column that grows at its end."""

    __slots__ = ("_array", "_length")

    def __init__(self, kind: npt.DTypeLike) -> None:
        self._array: npt.NDArray[Any] = np.empty(0, kind)
        self._length = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Append values."""
        end = self._length + len(values)
        if end > len(self._array):
            wider = column(max(end, len(self._array) * 3 // 2), self._array.dtype)
            for block in blocks(self._length):
                wider[block] = self._array[block]
                release(wider, self._array)
            self._array = wider
        self._array[self._length : end] = values
        self._length = end

    def taken(self) -> npt.NDArray[Any]:
        """The column, which is no longer here afterwards."""
        array, self._array = self._array[: self._length], np.empty(0, self._array.dtype)
        self._length = 0
        return array
