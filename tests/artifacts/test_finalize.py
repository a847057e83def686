"""Journals become whole files: safely, and as often as one likes."""

from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from harness.artifacts import finalize as module
from harness.artifacts import tables
from harness.artifacts.finalize import Finalized, finalize
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.core.errors import ArtifactError


def request_row(worker: int, n: int) -> dict:
    return {
        "request_id": f"s{n}/0",
        "session_id": f"s{n}",
        "turn": 0,
        "class": "chat",
        "stage": "main",
        "worker": worker,
        "intended_ns": n,
        "outcome": "ok",
        "chunk_dt_us": [0, 5],
    }


@pytest.fixture
def write_requests(run: RunDir) -> Callable[[int, int], None]:
    def write(worker: int, count: int) -> None:
        with JournalWriter(run.requests_journal(worker), tables.REQUESTS) as journal:
            for n in range(count):
                journal.append([request_row(worker, n)])

    return write


def test_nothing_recorded_gives_no_files(run: RunDir) -> None:
    assert finalize(run) == Finalized(None, None, None, None)
    assert list(run.root.rglob("*.parquet")) == []


def test_all_workers_land_in_one_table(run: RunDir, write_requests) -> None:
    for worker, count in ((0, 3), (2, 2), (10, 1)):
        write_requests(worker, count)
    assert finalize(run).requests == 6
    table = pq.read_table(run.requests)
    assert table.schema.equals(tables.REQUESTS)
    assert table.column("worker").to_pylist() == [0, 0, 0, 2, 2, 10]
    assert table.column("sent_ns").null_count == 6  # unknown stays unknown


def test_power_host_and_samples_too(run: RunDir, write_scrapes) -> None:
    with JournalWriter(run.power_journal, tables.POWER) as journal:
        journal.append(
            [
                {
                    "t_ns": 1,
                    "boundary": "gpu_board",
                    "device_id": "GPU-0",
                    "power_w": 300.0,
                    "source": "nvml-instant",
                }
            ]
        )
    with JournalWriter(run.host_journal, tables.HOST) as journal:
        journal.append(
            [{"t_ns": 1, "scope": "host", "cpu_s": 1.0}, {"t_ns": 1, "scope": "telemetry"}]
        )
    write_scrapes((1, "replica-0", b"a 1\n", None, None, None))
    assert finalize(run) == Finalized(requests=None, samples=3, power=1, host=2)
    assert pq.read_table(run.power).to_pylist()[0]["energy_j"] is None


def test_a_second_time_changes_nothing_and_a_longer_journal_is_seen(
    run: RunDir, write_requests
) -> None:
    write_requests(0, 2)
    first = finalize(run)
    before = run.requests.stat()
    assert finalize(run) == first
    assert run.requests.stat().st_mtime_ns == before.st_mtime_ns
    write_requests(1, 1)
    assert finalize(run).requests == 3


def test_a_broken_parquet_file_is_made_again(run: RunDir, write_requests) -> None:
    write_requests(0, 2)
    finalize(run)
    run.requests.write_bytes(run.requests.read_bytes()[:100])
    assert finalize(run).requests == 2
    assert pq.read_table(run.requests).num_rows == 2


def test_journals_go_only_on_request_and_the_files_stay(run: RunDir, write_requests) -> None:
    write_requests(0, 2)
    finalize(run)
    assert run.requests_journal(0).exists()
    finalize(run, remove_journals=True)
    assert not run.requests_journal(0).exists()
    assert finalize(run).requests == 2
    assert pq.read_table(run.requests).num_rows == 2


def test_a_torn_tail_is_dropped(run: RunDir, write_requests) -> None:
    write_requests(0, 3)
    journal = run.requests_journal(0)
    journal.write_bytes(journal.read_bytes()[:-60])
    assert finalize(run).requests == 2


def test_a_journal_without_a_whole_schema_gives_an_empty_table(run: RunDir, write_requests) -> None:
    write_requests(0, 1)
    run.requests_journal(0).write_bytes(b"\xff\xff")
    assert finalize(run).requests == 0


def test_small_batches_are_gathered_into_row_groups(
    run: RunDir, write_requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROW_GROUP_ROWS", 10)
    write_requests(0, 25)
    finalize(run)
    assert pq.ParquetFile(run.requests).num_row_groups == 3


def test_when_the_file_cannot_be_written_the_journal_stays(run: RunDir, write_requests) -> None:
    write_requests(0, 2)
    run.requests.mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        finalize(run, remove_journals=True)
    assert run.requests_journal(0).exists()
    assert list(run.root.glob(".*tmp")) == []
