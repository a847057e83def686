"""Reads the records of requests into columns, a batch at a time, so that no more than the columns is ever in memory.

Times are nanoseconds from the run's start as float64 (exact up to 104 days), NaN where it did not happen or is not known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.artifacts import tables
from harness.artifacts.journal import read_batches
from harness.artifacts.layout import RunDir
from harness.core.records import CANARY, Concern, Outcome, Severity
from harness.plan.types import PRIME_SUFFIX
from harness.reduce.labels import Bools, Labels
from harness.reduce.stats import Floats

Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]
"""Whole numbers below 2**24, exact in 32 bits: bytes and tokens of a chunk, which is at most one read of 16 KiB. Sums are of float64."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """All chunks of all requests, request after request. There may be a hundred million: their columns are as narrow as is exact.

    Attributes:
        request: row of the request that each belongs to.
        t: arrival.
        content_bytes: UTF-8 bytes of content.
        tok: tokens, NaN where the stream does not tell.
        start: per request, position of its first chunk; one more entry at the end.
    """

    request: npt.NDArray[np.int32]
    t: Floats
    content_bytes: Singles
    tok: Singles
    start: Ints

    def of_requests(self, rows: Ints) -> "Chunks":
        """Those of some requests, or of all in another order."""
        if np.array_equal(rows, np.arange(len(self.start) - 1)):
            return self
        lengths = np.diff(self.start)[rows]
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        keep = np.repeat(self.start[:-1][rows] - start[:-1], lengths) + np.arange(start[-1], dtype=np.int64)
        request = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
        return Chunks(request, self.t[keep], self.content_bytes[keep], self.tok[keep], start)


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns of the requests, ordered by intended time and id, so that the order of rows on disk never matters."""

    request_id: pa.ChunkedArray
    session: npt.NDArray[np.int32]
    workload_class: Labels
    stage: Labels
    outcome: Labels
    intended: Floats
    sent: Floats
    first_token: Floats
    last_token: Floats
    done: Floats
    target_input_tok: Floats
    target_output_tok: Floats
    input_tok: Floats
    cache_read_tok: Floats
    cache_write_tok: Floats
    output_tok: Floats
    request_bytes: Floats
    http_status: Floats
    error: pa.ChunkedArray
    chunks: Chunks

    def __len__(self) -> int:
        return len(self.intended)

    @property
    def priming(self) -> Bools:
        """Sent before the load to warm the cache of a conversation that starts in its middle: work of the server, no part of the load."""
        return self.workload_class.where(lambda name: name.endswith(PRIME_SUFFIX))

    @property
    def ok(self) -> Bools:
        """Answered in full."""
        return self.outcome == Outcome.OK

    @property
    def dropped(self) -> Bools:
        """Never sent, since that would have been beyond its cap."""
        return self.outcome == Outcome.DROPPED

    @property
    def cancelled(self) -> Bools:
        """Abandoned by plan."""
        return self.outcome == Outcome.CANCELLED

    @property
    def failed(self) -> Bools:
        """Tried, and neither answered in full nor abandoned by plan."""
        return ~(self.ok | self.dropped | self.cancelled)


_TIMES: Final = {
    "intended": "intended_ns", "sent": "sent_ns", "first_token": "first_token_ns", "last_token": "last_token_ns", "done": "done_ns",
}  # fmt: skip
_NUMBERS: Final = (
    "target_input_tok", "target_output_tok", "input_tok", "cache_read_tok", "cache_write_tok", "output_tok", "request_bytes", "http_status",
)  # fmt: skip
_LABELS: Final = {"workload_class": "class", "stage": "stage", "outcome": "outcome"}
_LISTS: Final = ("chunk_dt_us", "chunk_bytes", "chunk_tok")
_COLUMNS: Final = ("request_id", "session_id", "turn", "error", *_LABELS.values(), *_TIMES.values(), *_NUMBERS, *_LISTS)
_BATCH_ROWS: Final = 131_072


@dataclass(frozen=True, slots=True)
class RequestsSource:
    """Where the records of a run are.

    Attributes:
        parquet: the finished table, where it is whole.
        journals: else these; read to the last whole batch.
    """

    parquet: Path | None
    journals: Sequence[Path] = ()

    @classmethod
    def of(cls, run_dir: RunDir, concerns: list[Concern]) -> "RequestsSource":
        """Of a run directory; what cannot be read becomes a concern."""
        journals = sorted(run_dir.requests_dir.glob("*.arrows")) if run_dir.requests_dir.is_dir() else []
        if run_dir.requests.exists():
            try:
                source = cls(run_dir.requests)
                for _ in source.batches(("class",)):  # every page of one column, so that a file cut short shows before half of it is read
                    pass
                return source
            except (pa.ArrowException, OSError, ValueError) as error:
                text = (
                    f"{run_dir.requests.name} cannot be read ({type(error).__name__}); its journal is used in its place, if there is one."
                )
                concerns.append(Concern("table_unreadable", Severity.NOTE, text))
        if not journals:
            concerns.append(Concern("requests_missing", Severity.INVALID, "There are no request records."))
        return cls(None, journals)

    def batches(self, columns: Sequence[str] | None = _COLUMNS) -> Iterator[pa.RecordBatch]:
        """All records under some columns (None: all), a batch at a time; columns that an older harness did not write are null."""
        names = tables.REQUESTS.names if columns is None else columns
        schema = pa.schema([tables.REQUESTS.field(name) for name in names])
        if self.parquet is None:
            for journal in self.journals:
                for batch in read_batches(journal):
                    yield _fit(batch, schema)
            return
        with pq.ParquetFile(self.parquet) as file:
            have = [name for name in names if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=have):
                yield _fit(batch, schema)


def _fit(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    have = set(batch.schema.names)
    columns = [batch[f.name].cast(f.type) if f.name in have else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class _Column:
    """An array that grows in place, so that there is never a second copy of it."""

    __slots__ = ("_array", "_length")

    def __init__(self, kind: type[np.generic]) -> None:
        self._array = np.zeros(0, kind)
        self._length = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        end = self._length + len(values)
        if end > len(self._array):
            self._array.resize(max(end, len(self._array) * 3 // 2), refcheck=False)
        self._array[self._length : end] = values
        self._length = end

    def taken(self) -> npt.NDArray[Any]:
        """The array, which is no longer here afterwards."""
        array, self._array = self._array, np.zeros(0, self._array.dtype)
        array.resize(self._length, refcheck=False)
        return array


@dataclass(slots=True)
class _Pieces:
    """Columns that grow batch by batch."""

    t0_ns: int
    floats: dict[str, _Column] = field(default_factory=lambda: {name: _Column(np.float64) for name in (*_TIMES, *_NUMBERS)})
    labels: dict[str, list[Labels]] = field(default_factory=lambda: {name: [] for name in _LABELS})
    arrow: dict[str, list[pa.Array]] = field(default_factory=lambda: {"request_id": [], "session_id": [], "turn": [], "error": []})
    lengths: _Column = field(default_factory=lambda: _Column(np.int64))
    t: _Column = field(default_factory=lambda: _Column(np.float64))
    content_bytes: _Column = field(default_factory=lambda: _Column(np.float32))
    tok: _Column = field(default_factory=lambda: _Column(np.float32))

    def add(self, batch: pa.RecordBatch) -> None:
        for name, column in _TIMES.items():
            self.floats[name].add(floats(batch[column], self.t0_ns))
        for column in _NUMBERS:
            self.floats[column].add(floats(batch[column]))
        for name, column in _LABELS.items():
            self.labels[name].append(Labels.of(batch[column]))
        for column, parts in self.arrow.items():
            parts.append(batch[column])
        lengths = _lengths(batch["chunk_dt_us"])
        # A chunk has a time only where the request has a first token; a list of another length than the gaps' belongs to no chunk.
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        gaps = floats(pc.list_flatten(batch["chunk_dt_us"])) * 1000.0
        running = np.cumsum(gaps)
        before = np.concatenate([np.zeros(1), running])[start[:-1]]  # whole microseconds: exact in float64 up to 9e15 ns
        self.lengths.add(lengths)
        self.t.add(running + np.repeat(floats(batch["first_token_ns"], self.t0_ns) - before, lengths))
        self.content_bytes.add(_aligned(batch["chunk_bytes"], lengths, start))
        self.tok.add(_aligned(batch["chunk_tok"], lengths, start))

    def chunks(self, order: Ints) -> Chunks:
        """All chunks, their requests in this order; one column after the other, so that only one is there twice."""
        lengths = self.lengths.taken()
        begins = np.cumsum(lengths) - lengths
        lengths, begins = lengths[order], begins[order]
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        request = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        if np.any(begins != start[:-1]):
            keep = np.repeat(begins - start[:-1], lengths) + np.arange(start[-1], dtype=np.int64)
            return Chunks(request, self.t.taken()[keep], self.content_bytes.taken()[keep], self.tok.taken()[keep], start)
        return Chunks(request, self.t.taken(), self.content_bytes.taken(), self.tok.taken(), start)


def read_requests(source: RequestsSource, t0_ns: int) -> tuple[Requests, Sequence[Mapping[str, Any]]]:
    """The load's records as columns, and those of the canaries as they are, both ordered by intended time and id.

    Args:
        source: of the run directory.
        t0_ns: the run's start on the monotonic clock.
    """
    pieces = _Pieces(t0_ns)
    canaries = False
    for batch in source.batches():
        mine = pc.equal(batch["class"], CANARY)
        if pc.any(mine).as_py():
            canaries = True
            batch = batch.filter(pc.invert(mine))  # noqa: PLW2901 - the rest of it
        pieces.add(batch)
    canary: list[Mapping[str, Any]] = []
    if canaries:
        for batch in source.batches(None):
            canary += batch.filter(pc.equal(batch["class"], CANARY)).to_pylist()
        canary.sort(key=lambda row: (row["intended_ns"], row["request_id"]))
    return _requests(pieces), canary


def _requests(pieces: _Pieces) -> Requests:
    request_id = pa.chunked_array(pieces.arrow["request_id"], pa.string())
    intended = pieces.floats.pop("intended").taken()
    order = _order(intended, request_id, pa.chunked_array(pieces.arrow["turn"], pa.int32()))
    rows = pa.array(order)
    labels = {name: Labels.joined(parts)[order] for name, parts in pieces.labels.items()}
    session = _codes(pa.chunked_array(pieces.arrow.pop("session_id"), pa.string()))[order]
    numbers = {name: pieces.floats.pop(name).taken()[order] for name in list(pieces.floats)}
    columns: dict[str, Any] = {**labels, "intended": intended[order], **numbers}
    return Requests(
        request_id=request_id.take(rows), session=session, **columns,
        error=pa.chunked_array(pieces.arrow["error"], pa.string()).take(rows), chunks=pieces.chunks(order),
    )  # fmt: skip


def _order(intended: Floats, request_id: pa.ChunkedArray, turn: pa.ChunkedArray) -> Ints:
    """Rows by intended time, then id, then turn. Few rows share a time, so the ids of these alone are compared."""
    order = np.argsort(intended)
    ordered = intended[order]
    same = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False)) if len(same) else np.zeros(0, np.int64)
    if len(tied):
        rows = pa.array(order[tied])
        table = pa.table({"t": intended[order[tied]], "request_id": request_id.take(rows), "turn": turn.take(rows)})
        keys = [("t", "ascending"), ("request_id", "ascending"), ("turn", "ascending")]
        order[tied] = order[tied][pc.sort_indices(table, sort_keys=keys).to_numpy()]
    return order


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """A number for each string, equal for equal ones."""
    pieces = column.dictionary_encode().unify_dictionaries().chunks
    return np.concatenate([np.zeros(0, np.int32), *(piece.indices.to_numpy(zero_copy_only=False) for piece in pieces)]).astype(np.int32)


def _lengths(lists: pa.Array) -> Ints:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), dtype=np.int64)


def _aligned(lists: pa.Array, lengths: Ints, start: Ints) -> Singles:
    """The flattened lists, NaN for requests whose list is null or not as long as that of the gaps."""
    own = _lengths(lists)
    values = floats(pc.list_flatten(lists)).astype(np.float32)
    if np.array_equal(own, lengths):
        return values
    out = np.full(int(start[-1]), np.nan, np.float32)
    good = own == lengths
    out[np.repeat(good, lengths)] = values[np.repeat(good, own)]
    return out


def floats(column: pa.Array | pa.ChunkedArray, minus: int = 0) -> Floats:
    """Numbers as float64, null as NaN; `minus` is taken off before, so that times stay exact."""
    if minus and pa.types.is_integer(column.type):
        column = pc.subtract(column, pa.scalar(minus, column.type))
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
