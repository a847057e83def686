"""Formats with one request per line: Azure, BurstGPT, Mooncake, and plain CSV and JSON lines."""

import csv
import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.units import human_duration
from harness.plan.traces.order import Row, in_order
from harness.plan.traces.records import (
    Clock,
    ReadTally,
    Trace,
    TraceRequest,
    TraceSession,
    bad,
    no_requests,
)
from harness.plan.traces.text import (
    MAX_LINE_BYTES,
    Stamps,
    decode,
    json_seconds,
    json_tok,
    parse_json,
    raw_lines,
    text_seconds,
    text_tok,
)

MOONCAKE_BLOCK_TOK: Final = 512
"""Block length of Mooncake's FAST'25 traces, from their README; it is not in the files."""
BAILIAN_BLOCK_TOK: Final = 16
"""Block length of Qwen's Bailian traces, from their README."""
UNIT_ROWS: Final = 50
"""Rows after which the unit of a trace's times is checked."""
MAX_FRACTIONAL_PER_S: Final = 100.0
"""Most requests per second at which fractional times are taken for milliseconds. Traces in seconds
look a thousand times as fast; Mooncake's own times are whole.
"""
MAX_ID_CHARS: Final = 512
"""Longest session or block id."""

PLAIN_COLUMNS: Final = (
    "t_s",
    "timestamp",
    "input_tok",
    "output_tok",
    "session_id",
    "class",
    "hash_ids",
    "block_tok",
    "stop",
    "gap_s",
    "ttft_s",
    "reasoning_share",
    "scope",
    "parent_id",
    "hash_scope",
)
"""Columns of the plain form. Others are errors, since a misspelled one would be lost silently."""


@dataclass(slots=True)
class Fields:
    """Contents of a line, without its time."""

    input_tok: int
    output_tok: int
    session_id: str | None = None
    hash_ids: tuple[int | str, ...] | None = None
    block_tok: int | None = None
    workload_class: str | None = None
    stop: str | None = None
    gap_s: float | None = None
    ttft_s: float | None = None
    reasoning_share: float | None = None
    scope: str = ""
    parent_id: str | None = None
    hashes_everywhere: bool = False

    def request(
        self, t_s: float, turn: int, line: int, where: str, *, hash_scope: str = ""
    ) -> TraceRequest:
        """The request of a line."""
        return TraceRequest(
            t_s,
            self.input_tok,
            self.output_tok,
            self.session_id,
            turn,
            self.hash_ids,
            self.block_tok,
            hash_scope,
            self.workload_class,
            self.stop,
            self.gap_s,
            self.ttft_s,
            self.reasoning_share,
            self.parent_id,
            line,
            where,
        )


class LineFormat(ABC):
    """Parser of a format's lines."""

    kind: str
    knows_sessions = False
    skips_first = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def parse(self, where: str, text: str) -> tuple[float, Fields] | None:
        """Time in seconds and fields of a line; None for a recorded failure, which is left out."""

    def check_unit(self, path: Path, rows: int, span_s: float) -> None:  # noqa: B027 - most formats state it
        """Raise ProfileError if the unit of the times cannot be the assumed one, by the span of the
        first rows.
        """


class LineTrace(Trace):
    """A trace with one request per line and one clock. Memory: a window of rows, and an entry per
    session.
    """

    def __init__(self, path: Path, line_format: LineFormat) -> None:
        super().__init__(path, line_format.kind, Clock.TRACE, notes=line_format.notes)
        self._format = line_format

    def requests(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceRequest]:  # noqa: ARG002 - nothing is drawn
        """The requests in order of time; the first is at 0 s."""
        turns: dict[str, int] = {}
        started_s: float | None = None
        tally = tally or ReadTally()
        for t_s, number, _, fields in in_order(self.path, self._rows(tally), tally):
            started_s = t_s if started_s is None else started_s
            turn = 0
            if fields.session_id is not None:
                turn = turns.get(fields.session_id, 0)
                turns[fields.session_id] = turn + 1
            yield self._request(t_s - started_s, number, turn, fields)
        if started_s is None:
            raise no_requests(self.path)

    def sessions(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceSession]:
        """The sessions. If the trace has them, a first pass records where their lines are (24 bytes
        per request).
        """
        if self._format.knows_sessions:
            yield from self._indexed_sessions(tally or ReadTally())
            return
        for request in self.requests(seed=seed, tally=tally):
            yield TraceSession(f"line-{request.line}", None, (request,))

    def _rows(self, tally: ReadTally) -> Iterator[Row]:
        parse = self._format.parse
        skip = self._format.skips_first
        path = self.path
        rows, first_s, last_s = 0, math.inf, -math.inf
        for number, offset, text in raw_lines(path):
            if skip:
                skip = False
                continue
            parsed = parse(f"{path}:{number}", text)
            if parsed is None:
                tally.failed += 1
            elif parsed[1].scope:
                what = "has a scope, but the first line has none"
                raise bad(f"{path}:{number}", what, next_step="give every line a scope, or none")
            else:
                t_s = parsed[0]
                rows, first_s, last_s = rows + 1, min(first_s, t_s), max(last_s, t_s)
                if rows == UNIT_ROWS:
                    self._format.check_unit(path, rows, last_s - first_s)
                yield t_s, number, offset, parsed[1]
        if 1 < rows < UNIT_ROWS:
            self._format.check_unit(path, rows, last_s - first_s)

    def _request(self, t_s: float, number: int, turn: int, fields: Fields) -> TraceRequest:
        return fields.request(t_s, turn, number, f"{self.path}:{number}")

    def _indexed_sessions(self, tally: ReadTally) -> Iterator[TraceSession]:
        offsets, numbers, following, firsts = array("q"), array("q"), array("q"), array("q")
        last: dict[str, int] = {}
        started_s: float | None = None
        for t_s, number, offset, fields in in_order(self.path, self._rows(tally), tally):
            started_s = t_s if started_s is None else started_s
            index = len(offsets)
            offsets.append(offset)
            numbers.append(number)
            following.append(-1)
            before = last.get(fields.session_id) if fields.session_id is not None else None
            if before is None:
                firsts.append(index)
            else:
                following[before] = index
            if fields.session_id is not None:
                last[fields.session_id] = index
        del last
        if started_s is None:
            raise no_requests(self.path)
        with self.path.open("rb") as file:
            for first in firsts:
                requests: list[TraceRequest] = []
                index = first
                while index >= 0:
                    file.seek(offsets[index])
                    number = numbers[index]
                    where = f"{self.path}:{number}"
                    line = file.readline(MAX_LINE_BYTES + 1)
                    parsed = self._format.parse(where, decode(self.path, number, line))
                    if parsed is None:
                        raise bad(where, "changed while it was read")
                    t_s, fields = parsed
                    requests.append(self._request(t_s - started_s, number, len(requests), fields))
                    index = following[index]
                name = requests[0].session_id or f"line-{requests[0].line}"
                yield TraceSession(name, requests[0].parent_id, tuple(requests))


class CsvFormat(LineFormat):
    """Columns by the header `first`. A row is one line: quoted fields may contain commas, not line
    breaks.
    """

    skips_first = True

    def __init__(self, path: Path, first: str) -> None:
        self._path = path
        self._columns = [name.strip() for name in split_csv(f"{path}:1", first)]
        repeated = {name for name in self._columns if self._columns.count(name) > 1}
        if repeated:
            raise bad(f"{path}:1", f"has duplicate column {min(repeated)!r}")

    def _index(self, name: str) -> int:
        if name not in self._columns:
            cause = f"its columns are {', '.join(self._columns)}"
            raise bad(f"{self._path}:1", f"has no column {name!r}", cause=cause)
        return self._columns.index(name)

    def _split(self, where: str, text: str) -> list[str]:
        cells = split_csv(where, text)
        if len(cells) != len(self._columns):
            what = f"has {len(cells)} fields, not {len(self._columns)}"
            raise bad(where, what, cause="the line is broken or cut off")
        return cells

    def _ignoring(self, known: Sequence[str]) -> tuple[str, ...]:
        extra = [name for name in self._columns if name not in known]
        return (f"columns that are not read: {', '.join(extra)}",) if extra else ()


def split_csv(where: str, text: str) -> list[str]:
    """The cells of one line."""
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        cause = "a quoted field is broken, or contains a line break"
        raise bad(where, f"is not CSV: {error}", cause=cause) from None


class AzureFormat(CsvFormat):
    """Azure's LLM inference traces of 2023 and 2024 (AzurePublicDataset), which differ only in the
    decimals and the zone of the time.
    """

    kind = "azure"
    columns = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

    def __init__(self, path: Path, first: str) -> None:
        super().__init__(path, first)
        self._at = [self._index(name) for name in self.columns]
        self._stamps = Stamps()
        self.notes = self._ignoring(self.columns)

    def parse(self, where: str, text: str) -> tuple[float, Fields]:
        cells = self._split(where, text)
        stamp, context, generated = self._at
        t_s = self._stamps.seconds(where, "TIMESTAMP", cells[stamp].strip())
        return t_s, Fields(
            text_tok(where, "ContextTokens", cells[context], 1),
            text_tok(where, "GeneratedTokens", cells[generated], 0),
        )


class BurstGptFormat(CsvFormat):
    """BurstGPT, with or without its later columns. Rows without response tokens are failures
    (according to its README) and are left out.
    """

    kind = "burstgpt"
    columns = ("Timestamp", "Request tokens", "Response tokens")
    others = ("Model", "Log Type", "Total tokens", "Session ID")

    def __init__(self, path: Path, first: str) -> None:
        super().__init__(path, first)
        self._at = [self._index(name) for name in self.columns]
        self.knows_sessions = "Session ID" in self._columns
        self.notes = self._ignoring((*self.columns, *self.others))

    def parse(self, where: str, text: str) -> tuple[float, Fields] | None:
        cells = self._split(where, text)
        stamp, request, response = self._at
        t_s = text_seconds(where, "Timestamp", cells[stamp])
        output_tok = text_tok(where, "Response tokens", cells[response], 0)
        input_tok = text_tok(where, "Request tokens", cells[request], 1 if output_tok else 0)
        if not output_tok:
            return None
        named = dict(zip(self._columns, cells, strict=True))
        session, label = (named.get(name, "").strip() for name in ("Session ID", "Log Type"))
        return t_s, Fields(
            input_tok, output_tok, session_id=session or None, workload_class=label or None
        )


class MooncakeFormat(LineFormat):
    """Mooncake's traces: JSON lines with times in milliseconds and ids of 512-token blocks, valid
    in the complete file; `session_id` and `delay` (milliseconds after the previous turn) as written
    by tools that extend the format.

    With `chat_id` it is Qwen's Bailian traces instead: times in seconds, 16-token blocks,
    conversations by `parent_chat_id` (alibaba-edu/qwen-bailian-usagetraces-anon).
    """

    kind = "mooncake"
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    others = ("session_id", "delay", "chat_id", "parent_chat_id", "type", "turn", "block_size")

    def __init__(self, first: Mapping[str, object]) -> None:
        self._chats = "chat_id" in first
        self._per_s = 1 if self._chats else 1000
        self._block_tok = BAILIAN_BLOCK_TOK if self._chats else MOONCAKE_BLOCK_TOK
        self.knows_sessions = self._chats or "session_id" in first
        self._fractional = False
        self._roots: dict[str, str] = {}  # chat -> first of its conversation
        unit = "seconds" if self._chats else "milliseconds"
        blocks = first.get("block_size", self._block_tok)
        assumed = f"assumed: times in {unit}, blocks of {blocks} tokens"
        if self.knows_sessions:
            assumed += f", conversations by {'parent_chat_id' if self._chats else 'session_id'}"
        unread = ", ".join(key for key in first if key not in (*self.keys, *self.others))
        self.notes = (assumed, *((f"keys that are not read: {unread}",) if unread else ()))

    def parse(self, where: str, text: str) -> tuple[float, Fields]:
        value = json_object(where, text, self.keys)
        if ("chat_id" in value) != self._chats:
            cause = "its times are in seconds with chat_id, in milliseconds without"
            has, first = ("no", "has one") if self._chats else ("a", "has none")
            raise bad(where, f"has {has} chat_id, but the first line {first}", cause=cause)
        input_tok = json_tok(where, "input_length", value["input_length"], 1)
        block_tok = json_tok(where, "block_size", value.get("block_size", self._block_tok), 1)
        delay, label = value.get("delay"), value.get("type")
        timestamp = value["timestamp"]
        self._fractional |= isinstance(timestamp, float) and not timestamp.is_integer()
        return json_seconds(where, "timestamp", timestamp, self._per_s), Fields(
            input_tok,
            json_tok(where, "output_length", value["output_length"], 0),
            session_id=self._session(where, value),
            hash_ids=json_hashes(where, value["hash_ids"], input_tok, block_tok),
            block_tok=block_tok,
            workload_class=label if isinstance(label, str) and label else None,
            gap_s=None if delay is None else json_seconds(where, "delay", delay, self._per_s),
        )

    def check_unit(self, path: Path, rows: int, span_s: float) -> None:
        """Fractional times at a rate that only a wrong unit explains."""
        if self._chats or not self._fractional or rows - 1 <= MAX_FRACTIONAL_PER_S * span_s:
            return
        what = f"has {rows} requests within {human_duration(span_s)}, if its times are milliseconds"
        step = "multiply timestamp and delay by 1000, or write whole milliseconds"
        raise bad(
            path, what, cause="its times are fractional: seconds, most likely", next_step=step
        )

    def _session(self, where: str, value: Mapping[str, Any]) -> str | None:
        """The conversation's first chat, or the line's `session_id`."""
        if not self._chats:
            return _id(where, "session_id", value.get("session_id"))
        chat = _id(where, "chat_id", value["chat_id"]) or ""
        parent = _id(where, "parent_chat_id", value.get("parent_chat_id"))
        return self._roots.setdefault(chat, self._roots.get(parent or "", chat))


class PlainCsvFormat(CsvFormat):
    """The plain form as CSV; block ids are separated by spaces."""

    kind = "csv"

    def __init__(self, path: Path, first: str) -> None:
        super().__init__(path, first)
        check_plain_columns(f"{path}:1", self._columns)
        self.knows_sessions = "session_id" in self._columns
        self._at = {name: index for index, name in enumerate(self._columns)}
        self._has_blocks = "hash_ids" in self._at or "block_tok" in self._at
        first_read = {"t_s", "timestamp", "input_tok", "output_tok", "hash_ids", "block_tok"}
        self._others = [name for name in self._columns if name not in first_read]
        self._stamps = Stamps()

    def parse(self, where: str, text: str) -> tuple[float, Fields]:
        """One row. An empty cell is an unknown value."""
        cells = self._split(where, text)
        at = self._at
        if "t_s" in at:
            t_s = text_seconds(where, "t_s", cells[at["t_s"]])
        else:
            stamp = cells[at["timestamp"]].strip()
            numeric = stamp.replace(".", "", 1).isdigit()
            read = text_seconds if numeric else self._stamps.seconds
            t_s = read(where, "timestamp", stamp)
        input_tok = text_tok(where, "input_tok", cells[at["input_tok"]], 1)
        fields = Fields(input_tok, text_tok(where, "output_tok", cells[at["output_tok"]], 0))
        if self._has_blocks:
            self._read_blocks(where, cells, fields)
        for name in self._others:
            if cell := cells[at[name]].strip():
                self._read_other(where, name, cell, fields)
        return t_s, fields

    def _read_blocks(self, where: str, cells: list[str], fields: Fields) -> None:
        at = self._at
        block = cells[at["block_tok"]].strip() if "block_tok" in at else ""
        fields.block_tok = text_tok(where, "block_tok", block, 1) if block else None
        ids = cells[at["hash_ids"]].split() if "hash_ids" in at else []
        hashes = tuple(int(h) if h.isascii() and h.isdigit() and len(h) < 19 else h for h in ids)
        check_hashes(where, hashes, fields.input_tok, fields.block_tok)
        fields.hash_ids = hashes or None

    def _read_other(self, where: str, name: str, cell: str, fields: Fields) -> None:
        match name:
            case "gap_s" | "ttft_s":
                setattr(fields, name, text_seconds(where, name, cell))
            case "reasoning_share":
                fields.reasoning_share = _share(where, text_seconds(where, name, cell))
            case "hash_scope":
                fields.hashes_everywhere = _hash_scope(where, cell)
            case "class":
                fields.workload_class = _id(where, name, cell)
            case "scope":
                fields.scope = _id(where, name, cell) or ""
            case _:  # session_id, stop, parent_id
                setattr(fields, name, _id(where, name, cell))


class PlainJsonFormat(LineFormat):
    """The plain form as JSON lines; null or a missing key is an unknown value."""

    kind = "jsonl"
    knows_sessions = True

    def __init__(self) -> None:
        self._stamps = Stamps()

    def parse(self, where: str, text: str) -> tuple[float, Fields]:
        found = json_object(where, text, ()).items()
        value = {key: item for key, item in found if item is not None}
        check_plain_columns(where, value)

        def seconds(key: str) -> float | None:
            return json_seconds(where, key, value[key]) if key in value else None

        def short(key: str) -> str | None:
            return _id(where, key, value.get(key))

        stamp = value.get("timestamp")
        if isinstance(stamp, str):
            t_s = self._stamps.seconds(where, "timestamp", stamp)
        else:
            key = "t_s" if "t_s" in value else "timestamp"
            t_s = json_seconds(where, key, value[key])
        input_tok = json_tok(where, "input_tok", value["input_tok"], 1)
        block_tok = hash_ids = None
        if "block_tok" in value:
            block_tok = json_tok(where, "block_tok", value["block_tok"], 1)
        if "hash_ids" in value:
            hash_ids = json_hashes(where, value["hash_ids"], input_tok, block_tok)
        share = seconds("reasoning_share")
        return t_s, Fields(
            input_tok,
            json_tok(where, "output_tok", value["output_tok"], 0),
            session_id=short("session_id"),
            hash_ids=hash_ids,
            block_tok=block_tok,
            workload_class=short("class"),
            stop=short("stop"),
            gap_s=seconds("gap_s"),
            ttft_s=seconds("ttft_s"),
            reasoning_share=None if share is None else _share(where, share),
            scope=short("scope") or "",
            parent_id=short("parent_id"),
            hashes_everywhere=_hash_scope(where, value.get("hash_scope")),
        )


def check_plain_columns(where: str, columns: Sequence[str] | Mapping[str, object]) -> None:
    """Check the plain form's columns: only known ones, one of the two times, both lengths."""
    for name in columns:
        if name not in PLAIN_COLUMNS:
            step = f"use {', '.join(PLAIN_COLUMNS)}"
            raise bad(where, f"{name!r} is not a column of a plain trace", next_step=step)
    if ("t_s" in columns) == ("timestamp" in columns):
        times = "t_s (seconds) and timestamp (date and time, or seconds since 1970)"
        raise bad(where, f"needs exactly one of {times}")
    for name in ("input_tok", "output_tok"):
        if name not in columns:
            raise bad(where, f"has no {name}")


def json_object(where: str, text: str, required: Sequence[str]) -> dict[str, Any]:
    """One JSON object with the required keys."""
    value = parse_json(where, text)
    if not isinstance(value, dict):
        cause = "the file is not JSON lines with one request each"
        raise bad(where, "is not a JSON object", cause=cause)
    for key in required:
        if value.get(key) is None:
            cause = f"a request of this format has {', '.join(required)}"
            raise bad(where, f"has no {key}", cause=cause)
    return value


def json_hashes(
    where: str, value: object, input_tok: int, block_tok: int | None
) -> tuple[int | str, ...]:
    """Block ids: integers of at least 0, or text."""
    if not isinstance(value, list):
        raise bad(where, "hash_ids must be a list")
    for item in value:
        if type(item) is int:
            if item < 0:
                raise bad(where, f"hash_ids has {item}, a negative id")
        elif not isinstance(item, str) or not 0 < len(item) <= MAX_ID_CHARS:
            raise bad(where, "hash_ids must be whole numbers or short texts")
    hashes = tuple(value)
    check_hashes(where, hashes, input_tok, block_tok)
    return hashes


def check_hashes(
    where: str, hashes: Sequence[int | str], input_tok: int, block_tok: int | None
) -> None:
    """Check that there are no more ids than blocks of the prompt, including a last partial one."""
    if not hashes:
        return
    if block_tok is None:
        step = "add the number of tokens in a block"
        raise bad(where, "has hash_ids but no block_tok", next_step=step)
    if len(hashes) > -(-input_tok // block_tok):
        ids = f"{len(hashes)} block ids of {block_tok} tokens"
        raise bad(where, f"has {ids} for {input_tok} input tokens")


def _id(where: str, key: str, value: object) -> str | None:
    if value is None:
        return None
    if type(value) is int:
        value = str(value) if abs(value) < 10**30 else ""
    if not isinstance(value, str) or len(value) > MAX_ID_CHARS or (not value and key != "stop"):
        raise bad(where, f"{key} must be a short text or a whole number")
    return value


def _hash_scope(where: str, value: object) -> bool:
    if value not in (None, "scope", "trace"):
        raise bad(where, "hash_scope must be scope (default) or trace")
    return value == "trace"


def _share(where: str, value: float) -> float:
    if value > 1:
        raise bad(where, f"reasoning_share is {value:g}; it must be from 0 to 1")
    return value
