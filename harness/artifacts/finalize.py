"""Journals -> whole Parquet files. Called at the end of a run, and by `reduce` for runs that did
not get that far.
"""

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
_CONVERTER: Final = "2"  # raised when the conversion changes, so that older files are made again


@dataclass(frozen=True, slots=True)
class Finalized:
    """Rows of each file; None where nothing was recorded and there is no file."""

    requests: int | None
    samples: int | None
    power: int | None
    host: int | None
    boards: int | None = None


def finalize(run: RunDir, *, remove_journals: bool = False) -> Finalized:
    """Make requests.parquet, scrapes/samples.parquet, power.parquet, boards.parquet and
    host.parquet from their journals.

    May be called any number of times: a file that is up to date with its journals stays, each one
    is replaced as a whole, torn tails are dropped, and where a journal is missing the file (if
    there is one) is left as it is.

    Args:
        run: the run directory.
        remove_journals: delete each journal after its file is safely on disk.

    Raises:
        ArtifactError: a file cannot be written or read; journals are kept then.
    """
    jobs: dict[str, tuple[Sequence[Path], Path, Callable[[Mapping[str, str]], int]]] = {}
    workers = sorted(
        run.requests_dir.glob("worker-*.arrows"), key=lambda path: (len(path.name), path.name)
    )
    jobs["requests"] = (
        workers,
        run.requests,
        lambda stamp: _convert(workers, run.requests, tables.REQUESTS, stamp),
    )
    scrapes = prometheus_text.journals(run)
    jobs["samples"] = (
        scrapes,
        run.samples,
        lambda stamp: prometheus_text.write_samples(run, stamp=stamp),
    )
    for name, journal, path, schema in (
        ("power", run.power_journal, run.power, tables.POWER),
        ("boards", run.boards_journal, run.boards, tables.BOARDS),
        ("host", run.host_journal, run.host, tables.HOST),
    ):
        jobs[name] = (parts(journal), path, partial(_convert, parts(journal), path, schema))
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
    """Batches gathered into row groups of a fair size: journals have a batch every few rows."""
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
