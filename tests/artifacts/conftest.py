"""Run directories with journals in them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir

WriteScrapes = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    return RunDir(tmp_path)


@pytest.fixture
def write_scrapes(run: RunDir) -> WriteScrapes:
    """Write the journal of scrapes: (t_ns, target, body or None, error, content_type, label)."""

    def write(*scrapes: tuple, unix_offset_ns: int | None = None) -> None:
        with JournalWriter(run.scrapes_journal, tables.SCRAPES_RAW) as journal:
            for t_ns, target, body, error, content_type, label in scrapes:
                row = {
                    "t_ns": t_ns,
                    "duration_ns": 2_000_000,
                    "target": target,
                    "http_status": 200,
                    "error": error,
                    "content_type": content_type,
                    "label": label,
                    "unix_offset_ns": unix_offset_ns,
                }
                if body is not None:
                    row |= {
                        "body_zstd": pa.Codec("zstd").compress(body, asbytes=True),
                        "body_bytes": len(body),
                    }
                journal.append([row])

    return write
