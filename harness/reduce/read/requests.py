"""Reads request records into columns, a batch at a time; large columns are stored in files.

Times are nanoseconds from the run's start as float64 (exact up to 104 days); NaN: did not happen or
unknown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.artifacts import tables
from harness.artifacts.journal import read_batches
from harness.artifacts.layout import RunDir
from harness.core.records import CANARY, Concern, Note, Outcome, Severity
from harness.plan.types import PRIME_SUFFIX
from harness.reduce.read.categorical import Bools, Categorical
from harness.reduce.read.spill import ColumnBuilder, blocks, column, release
from harness.reduce.statistics.intervals import Floats

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_Data = TypeVar("_Data", pa.RecordBatch, pa.Table)
Singles = npt.NDArray[np.float32]
"""For integers below 2**24: bytes and tokens of a chunk (at most one read of 16 KiB)."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """All chunks of all requests, request after request. There may be a hundred million, so their
    columns are as narrow as is exact.

    Attributes:
        t: arrival.
        content_bytes: UTF-8 bytes of content.
        tok: tokens; NaN if the stream does not report them.
        start: per request, position of its first chunk; one more entry at the end.
        bytes_sum: per request; NaN if any chunk's is unknown.
        tok_sum: per request; NaN without chunks or if any chunk's is unknown.
        first_tok: per request, tokens of its first chunk; NaN as for `tok_sum`.
    """

    t: Floats
    content_bytes: Singles
    tok: Singles
    start: Ints
    bytes_sum: Floats
    tok_sum: Floats
    first_tok: Floats

    @property
    def count(self) -> Ints:
        """Chunks per request."""
        return np.diff(self.start)

    def of(self, rows: slice) -> tuple[slice, Ints]:
        """Positions of the chunks of consecutive requests, and their number per request."""
        edges = self.start[rows.start : rows.stop + 1]
        return slice(int(edges[0]), int(edges[-1])), np.diff(edges)

    def release(self) -> None:
        """Release the memory of the columns with an entry per chunk, if they are in files."""
        release(self.t, self.content_bytes, self.tok)


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns of the requests, ordered by scheduled time and id: the order on disk does not matter.

    Attributes:
        session: number of the conversation.
        duplicates: number of rows whose id an earlier row has.
    """

    session: npt.NDArray[np.int32]
    workload_class: Categorical
    stage: Categorical
    outcome: Categorical
    stop_reason: Categorical
    notes: Categorical
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
    duplicates: int

    def __len__(self) -> int:
        return len(self.intended)

    def parts(self) -> tuple[slice, ...]:
        """All rows, in slices of few rows and few chunks (a single row may have more)."""
        out = []
        start, at, n = self.chunks.start, 0, len(self)
        while at < n:
            fit = int(np.searchsorted(start, start[at] + PART_CHUNKS, side="right")) - 1
            after = min(max(fit, at + 1), at + PART_ROWS, n)
            out.append(slice(at, after))
            at = after
        return tuple(out)

    def release(self) -> None:
        """Release the memory of the columns that are in files."""
        release(
            *(getattr(self, name) for name in (*_TIMES, *_NUMBERS, "intended", "session")),
            *(getattr(self, name).codes for name in _LABELS),
            *(getattr(self.chunks, one.name) for one in fields(Chunks)),
        )

    @property
    def priming(self) -> Bools:
        """Sent before the load to warm the cache of a conversation that starts in its middle: work
        for the server, but not load.
        """
        return self.workload_class.where(lambda name: name.endswith(PRIME_SUFFIX))

    @property
    def ok(self) -> Bools:
        """Complete."""
        return self.outcome == Outcome.OK

    @property
    def dropped(self) -> Bools:
        """Never sent, because of the cap on requests in flight."""
        return self.outcome == Outcome.DROPPED

    @property
    def cancelled(self) -> Bools:
        """Canceled by plan."""
        return self.outcome == Outcome.CANCELLED

    def noted(self, note: Note) -> Bools:
        """Complete, with this deviation."""
        return self.ok & self.notes.where(lambda names: note in names.split())

    @property
    def in_bursts(self) -> Bools:
        """Complete, and several events arrived per read, far more slowly than reads are possible:
        the time of a read is not that of its tokens.
        """
        found = self.noted(Note.BURST)
        rows = np.flatnonzero(found)
        with np.errstate(invalid="ignore", divide="ignore"):
            per_read_ns = (self.last_token[rows] - self.sent[rows]) / self.chunks.count[rows]
        found[rows] = per_read_ns >= BURST_NS
        return found

    @property
    def failed(self) -> Bools:
        """Sent, but neither completed nor canceled by plan."""
        return ~(self.ok | self.dropped | self.cancelled)


_TIMES: Final = {
    "sent": "sent_ns",
    "first_token": "first_token_ns",
    "last_token": "last_token_ns",
    "done": "done_ns",
}
_NUMBERS: Final = (
    "target_input_tok",
    "target_output_tok",
    "input_tok",
    "cache_read_tok",
    "cache_write_tok",
    "output_tok",
    "request_bytes",
    "http_status",
)
_LABELS: Final = {
    "workload_class": "class",
    "stage": "stage",
    "outcome": "outcome",
    "stop_reason": "stop_reason",
    "notes": "notes",
}
_ORDERED_BY: Final = ("request_id", "session_id", "turn", "class", "intended_ns")
_LISTS: Final = ("chunk_dt_us", "chunk_bytes", "chunk_tok")
_COLUMNS: Final = ("error", *_LABELS.values(), *_TIMES.values(), *_NUMBERS, *_LISTS)
_OF_CHUNKS: Final = ("bytes_sum", "tok_sum", "first_tok")
_BATCH_ROWS: Final = 131_072
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: SplitMix64's increment
_FIRST_BYTES: Final = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)
BURST_NS: Final = 20e6
"""Time per read from which several events in each of them are a burst. Streams are read once per
millisecond, so tokens of a fast server share a read without any buffering.
"""
PART_ROWS: Final = 131_072
PART_CHUNKS: Final = 524_288
"""Rows and chunks to process at a time: about 1 MB per array, to stay in the CPU cache."""


@dataclass(frozen=True, slots=True)
class RequestsSource:
    """A run's records: the finished table if it is intact, else the journals up to their last
    complete batch.
    """

    parquet: Path | None
    journals: Sequence[Path] = ()

    @classmethod
    def of(cls, run_dir: RunDir, concerns: list[Concern]) -> "RequestsSource":
        """Of a run directory; unreadable files become concerns."""
        if run_dir.requests.exists():
            try:
                source = cls(run_dir.requests)
                with pq.ParquetFile(run_dir.requests) as file:
                    _check_types(file.schema_arrow)
                for _ in source.batches(("class",)):
                    pass  # reads all pages of one column: a truncated file fails here, not halfway
                return source
            except (pa.ArrowException, OSError, ValueError) as error:
                concerns.append(unreadable(run_dir.requests, error))
        journals = sorted(run_dir.requests_dir.glob("*.arrows"))
        if not journals:
            concerns.append(
                Concern("requests_missing", Severity.INVALID, "There are no request records.")
            )
        return cls(None, journals)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of all records, a batch at a time; a column that an older harness did not
        write is null.
        """
        schema = pa.schema([tables.REQUESTS.field(name) for name in columns])
        if self.parquet is None:
            for journal in self.journals:
                for batch in read_batches(journal):
                    yield fit(batch, schema)
            return
        with pq.ParquetFile(self.parquet) as file:
            have = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=have):
                yield fit(batch, schema)


def unreadable(table: Path, error: Exception) -> Concern:
    """The concern for a finished table that cannot be read."""
    text = f"{table.name} cannot be read ({type(error).__name__}); its journal, if any, is used."
    return Concern("table_unreadable", Severity.NOTE, text)


def _check_types(found: pa.Schema) -> None:
    """Raises ValueError for a column of the wrong type."""
    for field in found:
        if field.name in tables.REQUESTS.names and _kind(field.type) not in (
            _kind(tables.REQUESTS.field(field.name).type),
            "null",
        ):
            raise ValueError(f"column {field.name} is of type {field.type}")


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_dictionary(type_):
        return _kind(type_.value_type)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list of {_kind(type_.value_type)}"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return "number"
    return "string" if pa.types.is_large_string(type_) else str(type_)


def fit(data: _Data, schema: pa.Schema) -> _Data:
    """A table or batch of an older or newer harness in the columns of this one; missing ones are
    null.
    """
    if data.schema.equals(schema):
        return data
    columns = [
        data[f.name].cast(f.type) if f.name in data.schema.names else pa.nulls(len(data), f.type)
        for f in schema
    ]
    return type(data).from_arrays(columns, schema=schema)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The order of the rows (None: as on disk), and the columns read to find it, in that order."""

    order: Ints | None
    intended: Floats
    session: npt.NDArray[np.int32]
    duplicates: int

    @classmethod
    def read(cls, batches: Iterable[pa.RecordBatch], t0_ns: int) -> "_Rows":
        intended, turn = ColumnBuilder(np.float64), ColumnBuilder(np.float64)
        request, session = ColumnBuilder(np.uint64), ColumnBuilder(np.uint64)
        for batch in batches:
            intended.add(floats(batch["intended_ns"], t0_ns))
            request.add(hashes(batch["request_id"]))
            session.add(hashes(batch["session_id"]))
            turn.add(floats(batch["turn"]))
        when, ids = intended.finish(), request.finish()
        order = _order(when, ids, turn.finish())
        sessions = _ordered(_numbered(session.finish()), order)
        ids.sort()  # a fifth of the time of `np.unique`, and in place: the last use of the ids
        duplicates = int(np.count_nonzero(ids[1:] == ids[:-1]))
        return cls(order, _ordered(when, order), sessions, duplicates)


class _Columns:
    """The other columns, filled batch by batch."""

    def __init__(self, rows: _Rows, t0_ns: int) -> None:
        self._rows, self._t0_ns = rows, t0_ns
        n = len(rows.intended)
        self._at, self._n = 0, n
        self._rank: Ints | None = None
        if rows.order is not None:
            self._rank = column(n, np.int64)
            self._rank[rows.order] = np.arange(n)
        self._floats = {name: column(n, np.float64) for name in (*_TIMES, *_NUMBERS, *_OF_CHUNKS)}
        self._codes = {name: column(n, np.int32) for name in _LABELS}
        self._names: dict[str, dict[str, int]] = {name: {} for name in _LABELS}
        self._error: list[pa.Array] = []
        self._lengths = column(n, np.int64)
        self._t = ColumnBuilder(np.float64)
        self._content_bytes, self._tok = ColumnBuilder(np.float32), ColumnBuilder(np.float32)

    def add(self, batch: pa.RecordBatch) -> None:
        # A journal may have grown since its rows were counted.
        batch = batch.slice(0, self._n - self._at)
        upto = self._at + batch.num_rows
        place = slice(self._at, upto) if self._rank is None else self._rank[self._at : upto]
        for name, on_disk in _TIMES.items():
            self._floats[name][place] = floats(batch[on_disk], self._t0_ns)
        for name in _NUMBERS:
            self._floats[name][place] = floats(batch[name])
        for name, on_disk in _LABELS.items():
            labels, known = Categorical.of(batch[on_disk]), self._names[name]
            codes = [known.setdefault(label, len(known)) for label in labels.names]
            self._codes[name][place] = np.array(codes or [0], np.int32)[labels.codes]
        self._error.append(batch["error"])
        self._add_chunks(batch, place)
        self._at = upto
        release(*self._floats.values(), *self._codes.values(), self._lengths)

    def _add_chunks(self, batch: pa.RecordBatch, place: slice | Ints) -> None:
        lengths = _lengths(batch["chunk_dt_us"])
        rows = len(lengths)
        # A chunk has a time only if the request has a first token.
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        content_bytes = _aligned(batch["chunk_bytes"], lengths, start)
        tok = _aligned(batch["chunk_tok"], lengths, start)
        owner = np.repeat(np.arange(rows), lengths)
        has = lengths > 0
        first_tok = np.full(rows, np.nan)
        first_tok[has] = tok[start[:-1][has]]
        self._lengths[self._at : self._at + rows] = lengths
        first_ns = floats(batch["first_token_ns"], self._t0_ns)
        gaps = floats(pc.list_flatten(batch["chunk_dt_us"]))
        self._t.add(tables.chunk_times(first_ns, gaps, start))
        self._content_bytes.add(content_bytes)
        self._tok.add(tok)
        bytes_sum, tok_sum = (
            np.bincount(owner, weights=values, minlength=rows) for values in (content_bytes, tok)
        )
        self._floats["bytes_sum"][place] = bytes_sum
        self._floats["tok_sum"][place] = np.where(has, tok_sum, np.nan)
        self._floats["first_tok"][place] = first_tok

    def chunks(self) -> Chunks:
        lengths, order = self._lengths, self._rows.order
        columns = [growing.finish() for growing in (self._t, self._content_bytes, self._tok)]
        start = column(len(lengths) + 1, np.int64)
        start[0] = 0
        if order is None:
            np.cumsum(lengths, out=start[1:])
        else:
            begins = np.cumsum(lengths) - lengths
            np.cumsum(lengths[order], out=start[1:])
            columns = [_moved(old, order, begins, lengths, start) for old in columns]
        t, content_bytes, tok = columns
        return Chunks(t, content_bytes, tok, start, *map(self._floats.pop, _OF_CHUNKS))

    def requests(self) -> Requests:
        order = self._rows.order
        error = pa.chunked_array(self._error, pa.string())
        labels: dict[str, Any] = {
            name: Categorical(codes, tuple(self._names[name]))
            for name, codes in self._codes.items()
        }
        chunks = self.chunks()  # takes its columns out of the others
        numbers: dict[str, Any] = self._floats
        return Requests(
            session=self._rows.session,
            intended=self._rows.intended,
            **labels,
            **numbers,
            error=error if order is None else error.take(pa.array(order)),
            chunks=chunks,
            duplicates=self._rows.duplicates,
        )


def _moved(
    old: npt.NDArray[Any], order: Ints, begins: Ints, lengths: Ints, start: Ints
) -> npt.NDArray[Any]:
    """A column of chunks, with their requests in another order."""
    new = ColumnBuilder(old.dtype)
    for rows in blocks(len(order), PART_ROWS // 8):
        mine = order[rows]
        place = start[rows.start : rows.stop + 1]
        new.add(
            old[
                np.repeat(begins[mine] - place[:-1], lengths[mine])
                + np.arange(place[0], place[-1], dtype=np.int64)
            ]
        )
        release(old)
    return new.finish()


def read_requests(
    source: RequestsSource, t0_ns: int
) -> tuple[Requests, Sequence[Mapping[str, Any]]]:
    """The load's records as columns, and those of the canaries as rows, by scheduled time and id.

    The records are read twice: for their order, then for the rest. `t0_ns` is the run's start.

    Raises:
        ArtifactError: no space for the temporary files of a run too large for memory.
    """
    canaries = 0

    def load(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        nonlocal canaries
        for batch in source.batches(columns):
            mine = pc.equal(batch["class"], CANARY)
            found = pc.sum(mine).as_py() or 0
            canaries += found
            yield batch.filter(pc.invert(mine)) if found else batch

    rows = _Rows.read(_ahead(load(_ORDERED_BY)), t0_ns)
    columns = _Columns(rows, t0_ns)
    for batch in _ahead(load(_COLUMNS)):
        columns.add(batch)
    requests = columns.requests()
    canary: list[Mapping[str, Any]] = []
    if canaries:
        for batch in source.batches(tables.REQUESTS.names):
            canary += batch.filter(pc.equal(batch["class"], CANARY)).to_pylist()
        canary.sort(key=lambda row: (row["intended_ns"], row["request_id"]))
    requests.release()
    pa.default_memory_pool().release_unused()
    return requests, canary


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Reads the next batch while one is processed."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(next, batches, None)
        while (batch := upcoming.result()) is not None:
            upcoming = pool.submit(next, batches, None)
            yield batch


def _order(intended: Floats, request: Hashes, turn: Floats) -> Ints | None:
    """Rows by scheduled time, then hash of the id, then turn; None if they are in this order."""
    if np.all(intended[1:] > intended[:-1]):
        return None
    order = np.argsort(intended)
    ordered = intended[order]
    same = ~(ordered[1:] > ordered[:-1])
    tied = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
    if len(tied):
        rows = order[tied]
        order[tied] = rows[np.lexsort((turn[rows], request[rows], intended[rows]))]
    return order


def _ordered(values: npt.NDArray[Any], order: Ints | None) -> npt.NDArray[Any]:
    if order is None:
        return values
    out = column(len(values), values.dtype)
    for rows in blocks(len(values)):
        out[rows] = values[order[rows]]
    release(values, out)
    return out


def _numbered(hashed: Hashes) -> npt.NDArray[np.int32]:
    """Distinct hashes as numbers from 0."""
    numbers = column(len(hashed), np.int32)
    numbers[:] = np.unique(hashed, return_inverse=True)[1]
    return numbers


def hashes(text: pa.Array) -> Hashes:
    """A 64-bit hash of each string (null is the empty one), so that ten million ids take 80 MB.
    The chance of a collision among n strings is n^2 / 2^65: here three in a million.

    Eight bytes at a time go through the finalizer of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA).
    """
    text = pc.fill_null(text.cast(pa.string()), "")
    n = len(text)
    _, places, data = text.buffers()
    start = (
        np.frombuffer(places, np.int32, n + 1, text.offset * 4).astype(np.int64)
        if n
        else np.zeros(1, np.int64)
    )
    lengths = np.diff(start)
    letters = np.zeros(int(start[-1] - start[0]) + 8, np.uint8)
    if data is not None:
        letters[:-8] = np.frombuffer(data, np.uint8)[start[0] : start[-1]]
    # The eight bytes from each byte on.
    words = np.ndarray((len(letters) - 7,), "<u8", letters, strides=(1,))
    at, left = start[:-1] - start[0], lengths
    mixed = _mixed(lengths.astype(np.uint64))
    rows: Ints | slice = slice(None)
    while len(left):
        mixed[rows] = _mixed(mixed[rows] + _GOLDEN ^ words[at] & _FIRST_BYTES[np.minimum(left, 8)])
        longer = left > 8
        rows = np.flatnonzero(longer) if isinstance(rows, slice) else rows[longer]
        at, left = at[longer] + 8, left[longer] - 8
    return mixed


def _mixed(values: Hashes) -> Hashes:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(values ^ (values >> np.uint64(31)), dtype=np.uint64)


def _lengths(lists: pa.Array) -> Ints:
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _aligned(lists: pa.Array, lengths: Ints, start: Ints) -> Singles:
    """The flattened lists; NaN for requests whose list is null or not as long as the gaps."""
    own = _lengths(lists)
    values = floats(pc.list_flatten(lists)).astype(np.float32)
    if np.array_equal(own, lengths):
        return values
    out = np.full(int(start[-1]), np.nan, np.float32)
    good = own == lengths
    out[np.repeat(good, lengths)] = values[np.repeat(good, own)]
    return out


def floats(column: pa.Array | pa.ChunkedArray, minus: int = 0) -> Floats:
    """Numbers as float64, null as NaN; `minus` is subtracted first, so that times stay exact."""
    if minus and pa.types.is_integer(column.type):
        column = pc.subtract(column, pa.scalar(minus, column.type))
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array.cast(pa.float64(), safe=False)
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)
