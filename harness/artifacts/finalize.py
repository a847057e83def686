"""Journals -> Parquet files, at the end of a run or by `reduce` for runs that did not reach it."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts import atomic, tables
from harness.artifacts.journal import conform, parts, read_batches
from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus import text as prometheus_text

_ROW_GROUP_ROWS: Final = 100_000
_ROW_GROUP_BYTES: Final = 64 * 1024**2
_STAMP: Final = "harness.journals"
_CONVERTER: Final = "2"  # raised when the conversion changes, so that older files are remade


@dataclass(frozen=True, slots=True)
class Finalized:
    """Rows of each file; None without a file."""

    requests: int | None
    samples: int | None
    power: int | None
    host: int | None
    boards: int | None = None


def finalize(run: RunDir, *, remove_journals: bool = False) -> Finalized:
    """Make the Parquet files of requests, samples, power, GPU state and host from their journals.

    Idempotent: files that are up to date with their journals or have none are left alone, others
    are replaced as a whole; torn tails are dropped. `remove_journals` deletes journals at the end.

    Raises:
        ArtifactError: a file cannot be written or read; journals are kept then.
    """
    workers = sorted(
        run.requests_dir.glob("worker-*.arrows"), key=lambda path: (len(path.name), path.name)
    )
    jobs: dict[str, tuple[Sequence[Path], Path, Callable[[Mapping[str, str]], int]]] = {}
    for name, found, path, schema in (
        ("requests", workers, run.requests, tables.REQUESTS),
        ("power", parts(run.power_journal), run.power, tables.POWER),
        ("boards", parts(run.boards_journal), run.boards, tables.BOARDS),
        ("host", parts(run.host_journal), run.host, tables.HOST),
    ):
        jobs[name] = (found, path, partial(_convert, found, path, schema))
    jobs["samples"] = (
        prometheus_text.journals(run),
        run.samples,
        lambda stamp: prometheus_text.write_samples(run, stamp=stamp),
    )
    rows = {name: _bring_up_to_date(*job) for name, job in jobs.items()}
    if remove_journals:
        for journals, _, _ in jobs.values():
            for journal in journals:
                journal.unlink(missing_ok=True)
    return Finalized(**rows)


def _bring_up_to_date(
    journals: Sequence[Path], path: Path, write: Callable[[Mapping[str, str]], int]
) -> int | None:
    there = [journal for journal in journals if journal.exists()]
    if not there:
        return _rows(path)
    sizes = {journal.name: journal.stat().st_size for journal in there}
    stamp = {_STAMP: json.dumps([_CONVERTER, sizes], sort_keys=True)}
    if _stamp_of(path) == stamp[_STAMP]:
        return _rows(path)
    return write(stamp)


def _rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowInvalid):
        return None


def _stamp_of(path: Path) -> str | None:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    value = metadata.get(_STAMP.encode())
    return None if value is None else value.decode()


def _convert(
    journals: Sequence[Path], path: Path, schema: pa.Schema, stamp: Mapping[str, str]
) -> int:
    rows = 0
    with atomic.parquet_writer(path, schema.with_metadata(dict(stamp))) as writer:
        for group in _groups(journals, schema):
            writer.write_table(pa.Table.from_batches(group, schema=schema))
            rows += sum(batch.num_rows for batch in group)
    return rows


def _groups(journals: Sequence[Path], schema: pa.Schema) -> Iterator[list[pa.RecordBatch]]:
    """Batches gathered into row groups: journals have a batch every few rows."""
    group: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for journal in journals:
        if not journal.exists():
            continue
        for raw in read_batches(journal):
            batch = raw if raw.schema.equals(schema) else conform(raw, schema)
            group.append(batch)
            rows += batch.num_rows
            size_bytes += batch.nbytes
            if rows >= _ROW_GROUP_ROWS or size_bytes >= _ROW_GROUP_BYTES:
                yield group
                group, rows, size_bytes = [], 0, 0
    if group:
        yield group
