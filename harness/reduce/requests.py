"""Reads the records of requests into columns, a batch at a time; large columns live in files.

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
from harness.reduce.scratch import Growing, blocks, column, release
from harness.reduce.stats import Floats

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Singles = npt.NDArray[np.float32]
"""Whole numbers below 2**24, exact in 32 bits: bytes and tokens of a chunk, which is at most one read of 16 KiB. Sums are of float64."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """All chunks of all requests, request after request. There may be a hundred million: their columns are as narrow as is exact.

    Attributes:
        t: arrival.
        content_bytes: UTF-8 bytes of content.
        tok: tokens, NaN where the stream does not tell.
        start: per request, position of its first chunk; one more entry at the end.
        bytes_sum: per request, NaN where any chunk's is unknown.
        tok_sum: likewise; NaN without chunks.
        first_tok: tokens of its first chunk; NaN without chunks, or where the stream does not tell.
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
        """How many of each request."""
        return np.diff(self.start)

    def of(self, rows: slice) -> tuple[slice, Ints]:
        """Where the chunks of consecutive requests are, and how many each of them has."""
        edges = self.start[rows.start : rows.stop + 1]
        return slice(int(edges[0]), int(edges[-1])), np.diff(edges)


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns of the requests, ordered by intended time and id, so that the order of rows on disk never matters.

    Attributes:
        session: a number for each conversation.
        duplicates: how many rows have an id that another row before them has.
    """

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
    duplicates: int

    def __len__(self) -> int:
        return len(self.intended)

    def parts(self) -> tuple[slice, ...]:
        """All rows, in stretches that are worked on at a time: each of few rows and, unless it is a single row, few chunks."""
        out = []
        start, at, n = self.chunks.start, 0, len(self)
        while at < n:
            fit = int(np.searchsorted(start, start[at] + PART_CHUNKS, side="right")) - 1
            after = min(max(fit, at + 1), at + PART_ROWS, n)
            out.append(slice(at, after))
            at = after
        return tuple(out)

    def release(self) -> None:
        """Give back the memory of the columns that live in files."""
        columns = [getattr(self, name) for name in (*_TIMES, *_NUMBERS, "session")]
        labels = [getattr(self, name).codes for name in _LABELS]
        chunks = self.chunks
        release(
            *columns, *labels, chunks.t, chunks.content_bytes, chunks.tok, chunks.start, chunks.bytes_sum, chunks.tok_sum, chunks.first_tok
        )

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
_OF_CHUNKS: Final = ("bytes_sum", "tok_sum", "first_tok")
_BATCH_ROWS: Final = 131_072
_BASE: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd
PART_ROWS: Final = 131_072
PART_CHUNKS: Final = 524_288
"""Rows and chunks that are worked on at a time: arrays of a megabyte and few, which stay in the caches."""


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


class _Names:
    """A column of names that grows batch by batch."""

    __slots__ = ("_codes", "_places")

    def __init__(self) -> None:
        self._codes = Growing(np.int32)
        self._places: dict[str, int] = {}

    def add(self, values: pa.Array) -> None:
        labels = Labels.of(values)
        places = np.array([self._places.setdefault(name, len(self._places)) for name in labels.names] or [0], dtype=np.int32)
        self._codes.add(places[labels.codes])

    def taken(self, order: Ints | None) -> Labels:
        return Labels(_ordered(self._codes.taken(), order), tuple(self._places))


@dataclass(slots=True)
class _Pieces:
    """Columns that grow batch by batch."""

    t0_ns: int
    floats: dict[str, Growing] = field(default_factory=lambda: {name: Growing(np.float64) for name in (*_TIMES, *_NUMBERS, *_OF_CHUNKS)})
    labels: dict[str, _Names] = field(default_factory=lambda: {name: _Names() for name in _LABELS})
    request: Growing = field(default_factory=lambda: Growing(np.uint64))
    session: Growing = field(default_factory=lambda: Growing(np.uint64))
    turn: Growing = field(default_factory=lambda: Growing(np.float64))
    error: list[pa.Array] = field(default_factory=list)
    lengths: Growing = field(default_factory=lambda: Growing(np.int64))
    t: Growing = field(default_factory=lambda: Growing(np.float64))
    content_bytes: Growing = field(default_factory=lambda: Growing(np.float32))
    tok: Growing = field(default_factory=lambda: Growing(np.float32))

    def add(self, batch: pa.RecordBatch) -> None:
        for name, on_disk in _TIMES.items():
            self.floats[name].add(floats(batch[on_disk], self.t0_ns))
        for name in _NUMBERS:
            self.floats[name].add(floats(batch[name]))
        for name, on_disk in _LABELS.items():
            self.labels[name].add(batch[on_disk])
        self.request.add(hashes(batch["request_id"]))
        self.session.add(hashes(batch["session_id"]))
        self.turn.add(floats(batch["turn"]))
        self.error.append(batch["error"])
        self._add_chunks(batch)

    def _add_chunks(self, batch: pa.RecordBatch) -> None:
        lengths = _lengths(batch["chunk_dt_us"])
        # A chunk has a time only where the request has a first token; a list of another length than the gaps' belongs to no chunk.
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        gaps = floats(pc.list_flatten(batch["chunk_dt_us"])) * 1000.0
        running = np.cumsum(gaps)
        before = np.concatenate([np.zeros(1), running])[start[:-1]]  # whole microseconds: exact in float64 up to 9e15 ns
        content_bytes, tok = _aligned(batch["chunk_bytes"], lengths, start), _aligned(batch["chunk_tok"], lengths, start)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        has = lengths > 0
        first_tok = np.full(len(lengths), np.nan)
        first_tok[has] = tok[start[:-1][has]]
        self.lengths.add(lengths)
        self.t.add(running + np.repeat(floats(batch["first_token_ns"], self.t0_ns) - before, lengths))
        self.content_bytes.add(content_bytes)
        self.tok.add(tok)
        self.floats["bytes_sum"].add(np.bincount(owner, weights=content_bytes, minlength=len(lengths)))
        self.floats["tok_sum"].add(np.where(has, np.bincount(owner, weights=tok, minlength=len(lengths)), np.nan))
        self.floats["first_tok"].add(first_tok)

    def chunks(self, order: Ints | None) -> Chunks:
        """All chunks, their requests in this order."""
        lengths = self.lengths.taken()
        sums = {name: _ordered(self.floats.pop(name).taken(), order) for name in _OF_CHUNKS}
        start = column(len(lengths) + 1, np.int64)
        start[0] = 0
        if order is None:
            np.cumsum(lengths, out=start[1:])
            return Chunks(self.t.taken(), self.content_bytes.taken(), self.tok.taken(), start, **sums)
        begins = np.cumsum(lengths) - lengths
        np.cumsum(lengths[order], out=start[1:])

        def moved(old: npt.NDArray[Any]) -> npt.NDArray[Any]:
            new = column(len(old), old.dtype)
            for rows in blocks(len(order), PART_ROWS // 8):
                mine = order[rows]
                place = start[rows.start : rows.stop + 1]
                keep = np.repeat(begins[mine] - place[:-1], lengths[mine]) + np.arange(place[0], place[-1], dtype=np.int64)
                new[place[0] : place[-1]] = old[keep]
            release(new)
            return new

        return Chunks(moved(self.t.taken()), moved(self.content_bytes.taken()), moved(self.tok.taken()), start, **sums)


def read_requests(source: RequestsSource, t0_ns: int) -> tuple[Requests, Sequence[Mapping[str, Any]]]:
    """The load's records as columns, and those of the canaries as they are, both ordered by intended time and id.

    Args:
        source: of the run directory.
        t0_ns: the run's start on the monotonic clock.

    Raises:
        ArtifactError: no room for the temporary files of a run too large for memory.
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
    requests = _requests(pieces)
    requests.release()
    pa.default_memory_pool().release_unused()
    return requests, canary


def _requests(pieces: _Pieces) -> Requests:
    intended, request = pieces.floats.pop("intended").taken(), pieces.request.taken()
    order = _order(intended, request, pieces.turn.taken())
    error = pa.chunked_array(pieces.error, pa.string())
    columns: dict[str, Any] = {name: labels.taken(order) for name, labels in pieces.labels.items()}
    columns |= {name: _ordered(pieces.floats.pop(name).taken(), order) for name in (*_TIMES, *_NUMBERS) if name != "intended"}
    return Requests(
        session=_numbered(pieces.session.taken(), order), intended=_ordered(intended, order), **columns,
        error=error if order is None else error.take(pa.array(order)), chunks=pieces.chunks(order), duplicates=_duplicates(request),
    )  # fmt: skip


def _order(intended: Floats, request: Hashes, turn: Floats) -> Ints | None:
    """Rows by intended time, then id (by its hash), then turn; None where they are so already."""
    later = intended[1:] > intended[:-1]
    if np.all(later):
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


def _numbered(hashed: Hashes, order: Ints | None) -> npt.NDArray[np.int32]:
    """A number for each hash, counted from 0."""
    by_hash = np.argsort(hashed)
    ordered = hashed[by_hash]
    numbers = np.empty(len(hashed), np.int32)
    numbers[by_hash] = np.cumsum(np.concatenate([np.zeros(1, bool), ordered[1:] != ordered[:-1]])[: len(hashed)])
    return _ordered(numbers, order)


def _duplicates(hashed: Hashes) -> int:
    ordered = np.sort(hashed)
    return int(np.sum(ordered[1:] == ordered[:-1]))


def hashes(text: pa.Array) -> Hashes:
    """64 bits for each string, equal for equal ones (null is the empty one): ten million ids take a tenth of the memory, and all of
    a run's are different with a chance of 3 in a million of a mistake (n^2 / 2^65).

    The polynomial of the bytes in an odd base modulo 2^64, mixed by the finaliser of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA).
    """
    text = pc.fill_null(text.cast(pa.string()), "")
    _, places, data = text.buffers()
    start = np.frombuffer(places, np.int32, len(text) + 1, text.offset * 4).astype(np.int64) if len(text) else np.zeros(1, np.int64)
    lengths = np.diff(start)
    letters = np.frombuffer(data, np.uint8)[start[0] : start[-1]] if data is not None else np.zeros(0, np.uint8)
    powers = np.cumprod(np.full(int(np.max(lengths, initial=0)) + 1, _BASE, np.uint64))
    position = np.arange(len(letters)) - np.repeat(start[:-1] - start[0], lengths)
    terms = (letters.astype(np.uint64) + np.uint64(1)) * powers[position]
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    mixed = running[start[1:] - start[0]] - running[start[:-1] - start[0]]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


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
