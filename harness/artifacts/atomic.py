"""Atomic writes of whole files: temporary file, fsync, rename, fsync of the folder."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from harness.core.errors import ArtifactError

_CAUSES: Final = {
    errno.ENOSPC: "no space left on that disk",
    errno.EROFS: "the disk is mounted read-only",
}


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` if the block ends without an error.

    Its name is per process; when two processes write one file, the last rename wins.
    """
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield tmp
        with tmp.open("rb") as file:
            os.fsync(file.fileno())
        tmp.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        with suppress(OSError):  # if writing is impossible, there is nothing to remove
            tmp.unlink()
        if not isinstance(error, OSError):
            raise
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}",
            cause=_CAUSES.get(error.errno or 0, "no permission, or the folder is gone"),
            next_step="free some space or choose another folder with --out; recorded data is kept",
        ) from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, so that writers of several files do not interleave."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # the file system may have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file.

    Raises:
        ArtifactError: no space, no permission.
    """
    with _replacing(path) as tmp:
        tmp.write_bytes(data)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a value as indented JSON; NaN and infinity are refused since they are not JSON."""
    write_bytes(
        path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a whole Parquet file (zstd)."""
    with _replacing(path) as tmp:
        pq.write_table(table, tmp, compression="zstd")


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file (zstd) row group by row group; it appears when the block ends without an
    error.

    Raises:
        ArtifactError: no space, no permission.
    """
    with _replacing(path) as tmp, pq.ParquetWriter(tmp, schema, compression="zstd") as writer:
        yield writer
