"""Runs too large for memory: columns in files, work in blocks. Small runs stand for large ones,
with limits to match.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import summary_json
from harness.artifacts.tables import REQUESTS
from harness.core.errors import ArtifactError
from harness.reduce.over_time import flow, tokens
from harness.reduce.over_time.flow import Flow
from harness.reduce.read import requests, spill
from harness.reduce.read.requests import hashes
from harness.reduce.read.run import load_run
from harness.reduce.reduction import reduce_run


@pytest.fixture(name="tiny_limits")
def _tiny_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and blocks hold a few rows."""
    monkeypatch.setattr(spill, "LARGE_BYTES", 64)
    monkeypatch.setattr(flow, "BLOCK", 3)
    monkeypatch.setattr(requests, "_BATCH_ROWS", 17)
    monkeypatch.setattr(requests, "PART_ROWS", 11)
    monkeypatch.setattr(requests, "PART_CHUNKS", 23)
    monkeypatch.setattr(tokens, "_MOST_VALUES", 40)


def close(value: Any, other: Any, where: str = "") -> None:
    if isinstance(value, dict):
        assert value.keys() == other.keys(), where
        for key in value:
            close(value[key], other[key], f"{where}/{key}")
    elif isinstance(value, list | tuple):
        assert len(value) == len(other), where
        for number, (a, b) in enumerate(zip(value, other, strict=True)):
            close(a, b, f"{where}/{number}")
    elif isinstance(value, float):
        # The change of a signal that hardly changes is a difference of nearly equal numbers.
        assert other == pytest.approx(value, rel=1e-9, abs=1e-9), where
    else:
        assert value == other, where


@pytest.mark.parametrize("told", [True, False])
def test_a_large_run_reduces_to_what_a_small_one_does(
    noisy: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest, *, told: bool
) -> None:
    builder = noisy(3, requests=150, told=told, gpus=1)
    for number, row in enumerate(builder.requests):
        row["class"] = "agent" if number % 3 else "chat"
        row["worker"] = number % 2
    builder.constant_power(300)
    root = builder.write(tmp_path / "run")
    small = summary_json(reduce_run(root))
    request.getfixturevalue("tiny_limits")
    close(small, summary_json(reduce_run(root)))


lengths = st.one_of(
    st.floats(-1, 0), st.floats(1e-3, 30)
)  # of time in ns: what is shorter is nothing
pieces = st.lists(st.tuples(st.floats(0, 100), lengths, st.floats(0, 10)), max_size=25)


@given(
    pieces=pieces,
    edges=st.lists(st.floats(-10, 140), min_size=2, max_size=70, unique=True),
    asked=st.integers(1, 3),
)
def test_a_flow_in_blocks_is_the_flow_of_its_pieces(
    pieces: list[tuple[float, float, float]], edges: list[float], asked: int
) -> None:
    start, length, amount = (np.array([piece[i] for piece in pieces]) for i in range(3))
    end, grid = start + length, np.sort(np.array(edges))
    blocks = [slice(at, at + 4) for at in range(0, len(start), 4)]
    many = Flow(
        len(blocks),
        lambda number: (start[blocks[number]], end[blocks[number]], amount[blocks[number]]),
    )
    expected = np.zeros(len(grid) - 1)
    for begins, ends, much in zip(start, end, amount, strict=True):
        for number in range(len(expected)):
            low, high = grid[number], grid[number + 1]
            if ends > begins:
                expected[number] += much * (
                    max(0.0, min(high, ends) - max(low, begins)) / (ends - begins)
                )
            elif low <= ends < high:
                expected[number] += much
    for _ in range(asked):  # the first answer makes the index, the later ones use it
        assert many.per_bin(grid) == pytest.approx(expected, rel=1e-9, abs=1e-7)
    assert many.between(grid[0], grid[-1]) == pytest.approx(expected.sum(), rel=1e-9, abs=1e-7)


def test_a_moment_at_an_edge_belongs_to_what_follows_it() -> None:
    t = np.array([0.5, 1.0, 1.5])
    assert Flow.of(t, t, np.array([1.0, 5.0, 2.0])).per_bin(np.array([0.0, 1.0, 2.0])).tolist() == [
        1,
        7,
    ]


def test_a_flow_leaves_out_what_is_not_known() -> None:
    nan = np.nan
    flow = Flow.of(
        np.array([0.0, nan, 0.0, 0.0]),
        np.array([10.0, 10.0, nan, 10.0]),
        np.array([5.0, 1.0, 1.0, nan]),
    )
    assert flow.between(0, 5) == 2.5


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=30))
def test_hashes_are_equal_for_equal_strings_alone(words: list[str | None]) -> None:
    found = hashes(pa.array(words, pa.string())).tolist()
    by_hash: dict[int, set[str]] = {}
    for word, value in zip(words, found, strict=True):
        by_hash.setdefault(value, set()).add(word or "")
    assert all(len(same) == 1 for same in by_hash.values())
    assert len(by_hash) == len({word or "" for word in words})
    assert (
        hashes(pa.array(words, pa.string())[len(words) // 2 :]).tolist() == found[len(words) // 2 :]
    )


@pytest.mark.usefixtures("tiny_limits")
def test_large_columns_live_in_files() -> None:
    """Large columns live in files and keep what they hold when their memory is given back."""
    growing = spill.ColumnBuilder(np.float64)
    for number in range(10):
        growing.add(np.arange(number * 10.0, number * 10.0 + 10))
    grown, fixed = growing.finish(), spill.column(1000, np.int32)
    fixed[:] = 7
    spill.release(grown, fixed)
    assert (grown == np.arange(100.0)).all()
    assert (fixed == 7).all()
    assert len(growing.finish()) == 0


@pytest.mark.usefixtures("tiny_limits")
def test_no_room_for_a_column_is_a_clear_error(
    noisy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = noisy(1, requests=30).write(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ArtifactError, match="No space left") as caught:
        reduce_run(root)
    assert "TMPDIR" in str(caught.value.next_step)


def shuffled_and_not(
    noisy: Callable[..., Any], tmp_path: Path
) -> tuple[requests.Requests, requests.Requests]:
    """The same records in order and not, half of them intended at one moment."""
    both = []
    for name in ("kept", "shuffled"):
        builder = noisy(2, requests=40, one_batch=True, workers=1)
        for number, row in enumerate(builder.requests):
            row["error"] = row["request_id"]
            if number % 2:
                row["intended_ns"] = builder.requests[1]["intended_ns"]
        if name == "shuffled":
            random.Random(1).shuffle(builder.requests)
        both.append(load_run(builder.write(tmp_path / name), wanted=lambda _: True).requests)
    return both[0], both[1]


def test_rows_have_one_order_and_stay_whole_in_it(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    kept, shuffled = shuffled_and_not(noisy, tmp_path)
    assert kept.error.to_pylist() == shuffled.error.to_pylist()
    for name in ("intended", "sent", "output_tok", "session", "done"):
        assert np.array_equal(
            getattr(kept, name), getattr(shuffled, name), equal_nan=name != "session"
        ), name
    assert list(kept.outcome) == list(shuffled.outcome)
    assert np.array_equal(kept.chunks.t, shuffled.chunks.t)
    assert np.array_equal(kept.chunks.start, shuffled.chunks.start)


def test_what_a_journal_gains_while_it_is_read_waits_for_the_next_time(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    root = noisy(1, requests=30, one_batch=True, workers=1).write(tmp_path / "run")

    class Growing(requests.RequestsSource):
        """Its second reading finds every record twice."""

        def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            for batch in super().batches(columns):
                yield batch
                if "output_tok" in batch.schema.names:
                    yield batch

    source = requests.RequestsSource.of(RunDir(root), [])
    read, _ = requests.read_requests(Growing(source.parquet, source.journals), 0)
    assert len(read) == len(read.error) == 30


def test_a_column_that_is_not_what_its_name_says_makes_its_table_unreadable(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    run = RunDir(noisy(1, requests=30, one_batch=True, workers=1).write(tmp_path / "run"))
    table = pa.Table.from_batches(list(requests.RequestsSource.of(run, []).batches(REQUESTS.names)))
    place = table.column_names.index("chunk_tok")
    pq.write_table(
        table.set_column(place, "chunk_tok", pa.array(["many"] * len(table))), run.requests
    )
    found: list[Any] = []
    assert requests.RequestsSource.of(run, found).parquet is None
    assert [concern.code for concern in found] == ["table_unreadable"]


def test_requests_without_a_moment_belong_to_no_time(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    builder = noisy(1, requests=30)
    read = load_run(builder.write(tmp_path / "run"), wanted=lambda _: True).requests
    read.intended[3] = np.nan
    whole = tokens.live_conversations(read, 0.0).between(0, 1e12)
    assert 0 < whole < np.inf
