"""Whole files that are either there or not: temporary file, fsync, rename, fsync of the folder."""

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


def _beside(path: Path) -> Path:
    """A name of this process's own: another one that writes the same file at the same time has its
    own too, and the last one stays.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _finish(tmp: Path, path: Path) -> None:
    with tmp.open("rb") as file:
        os.fsync(file.fileno())
    tmp.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _discard(tmp: Path) -> None:
    with suppress(OSError):  # where nothing can be written, nothing is there to remove
        tmp.unlink()


def _explain(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {path}: {error.strerror or error}",
        cause=_CAUSES.get(error.errno or 0, "no permission, or the folder is gone"),
        next_step=(
            "free some space or choose another folder with --out; what was recorded so far is kept"
        ),
    )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Of two answers of several files that are written to one folder at once the later one's stay,
    not some of each.
    """
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks writes as it can
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file.

    Raises:
        ArtifactError: no space, no permission.
    """
    tmp = _beside(path)
    try:
        tmp.write_bytes(data)
        _finish(tmp, path)
    except OSError as error:
        _discard(tmp)
        raise _explain(path, error) from error


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write a value as indented JSON; NaN and infinity are refused since they are no JSON."""
    write_bytes(
        path, (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a whole Parquet file (zstd)."""
    tmp = _beside(path)
    try:
        pq.write_table(table, tmp, compression="zstd")
        _finish(tmp, path)
    except OSError as error:
        _discard(tmp)
        raise _explain(path, error) from error


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write a Parquet file (zstd) row group by row group; it appears under its name when the block
    ends without an error.

    Raises:
        ArtifactError: no space, no permission.
    """
    tmp = _beside(path)
    try:
        with pq.ParquetWriter(tmp, schema, compression="zstd") as writer:
            yield writer
        _finish(tmp, path)
    except OSError as error:
        _discard(tmp)
        raise _explain(path, error) from error
    except BaseException:
        _discard(tmp)
        raise
