"""Traces of recordings with one clock each: Claude Code sessions, and their plain form."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from harness.plan.traces.lines import LineFormat, json_hashes
from harness.plan.traces.records import (
    Clock,
    ReadTally,
    Trace,
    TraceRequest,
    TraceSession,
    bad,
    no_requests,
)
from harness.plan.traces.text import json_seconds, json_tok, parse_json, raw_lines, read_text

MAX_SUBAGENT_DEPTH: Final = 8
"""Nesting of subagents."""


class RecordingTrace(Trace):
    """A trace that is read one recording at a time; memory: the largest recording."""

    def __init__(self, path: Path, kind: str, notes: tuple[str, ...] = ()) -> None:
        super().__init__(path, kind, Clock.SESSION, notes=notes)

    @abstractmethod
    def recordings(self) -> Iterator[list[TraceRequest]]:
        """The requests of each recording, in file order."""

    def requests(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceRequest]:  # noqa: ARG002 - nothing is drawn
        """The requests, recording by recording."""
        for recording in self._recordings():
            yield from recording

    def sessions(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceSession]:  # noqa: ARG002 - nothing is drawn
        """The sessions, each followed by its subagents and their subagents."""
        for recording in self._recordings():
            by_id: dict[str, list[TraceRequest]] = {}
            for request in recording:
                by_id.setdefault(request.session_id or "", []).append(request)
            yield from _parents_first(
                [TraceSession(name, of[0].parent_id, tuple(of)) for name, of in by_id.items()]
            )

    def _recordings(self) -> Iterator[list[TraceRequest]]:
        """The recordings with requests: at least one."""
        empty = True
        for recording in filter(None, self.recordings()):
            empty = False
            yield recording
        if empty:
            raise no_requests(self.path)


def _parents_first(sessions: list[TraceSession]) -> Iterator[TraceSession]:
    """Sessions of a recording as trees, each before its subagents. A session is a root if its
    parent is missing or its own descendant.
    """
    known = {session.session_id for session in sessions}
    of: dict[str | None, list[TraceSession]] = {}
    for session in sessions:
        of.setdefault(session.parent_id if session.parent_id in known else None, []).append(session)
    given: set[str] = set()

    def below(session: TraceSession) -> Iterator[TraceSession]:
        if session.session_id in given:
            return
        given.add(session.session_id)
        yield session
        for child in of.get(session.session_id, ()):
            yield from below(child)

    for root in (*of.get(None, ()), *sessions):  # sessions in a circle of parents come last
        yield from below(root)


class ClaudeCodeTrace(RecordingTrace):
    """Claude Code sessions as written by kv-cache-tester: a folder of JSON files, one such file, or
    JSON lines with one session each.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "claude-code")

    def recordings(self) -> Iterator[list[TraceRequest]]:
        """One per session; subagents' requests are where the subagent was started."""
        clocks: Counter[str] = Counter()
        for where, line, name, value in self._values():
            recording = _Recording(where, line, name, value)
            clocks += recording.clocks
            yield recording.requests
        if clocks:
            found = "; ".join(f"{origin}: {count}" for origin, count in sorted(clocks.items()))
            self.notes = (f"origin of subagents' times: {found}",)

    def _values(self) -> Iterator[tuple[str, int, str, Any]]:
        files = sorted(self.path.glob("*.json")) if self.path.is_dir() else [self.path]
        for file in files:
            if file.suffix == ".jsonl":
                for number, _, text in raw_lines(file):
                    where = f"{file}:{number}"
                    yield where, number, f"{file.stem}-{number}", parse_json(where, text)
                continue
            yield str(file), 1, file.stem, parse_json(str(file), read_text(file), file)


class _Recording:
    def __init__(self, where: str, line: int, name: str, value: object) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("requests"), list):
            raise bad(where, "is not a Claude Code session: it has no list of requests")
        self._line = line
        self._name = name
        self._block_tok = json_tok(where, "block_size", value.get("block_size"), 1)
        scope = value.get("hash_id_scope", "local")
        if scope not in ("local", "global"):
            raise bad(where, f"hash_id_scope is {scope!r}; it must be local or global")
        self._scope = name if scope == "local" else ""
        self.requests: list[TraceRequest] = []
        self.clocks: Counter[str] = Counter()  # origin of subagents' times -> subagents
        self._session(where, value["requests"], name, None, 0.0, 0)

    def _session(
        self,
        where: str,
        entries: list[object],
        session_id: str,
        parent: str | None,
        start_s: float,
        depth: int,
    ) -> None:
        if depth > MAX_SUBAGENT_DEPTH:
            raise bad(where, f"has subagents nested more than {MAX_SUBAGENT_DEPTH} deep")
        turn = 0
        last_s = start_s
        ended_s: float | None = None
        for index, entry in enumerate(entries):
            here = f"{where} requests[{index}]"
            if not isinstance(entry, dict):
                raise bad(here, "is not an object")
            t_s = start_s + json_seconds(here, "t", entry.get("t"))
            kind = entry.get("type")
            if kind == "subagent":
                nested = entry.get("requests")
                if not isinstance(nested, list):
                    raise bad(here, "is a subagent without a list of requests")
                origin_s = self._origin_s(nested, t_s - start_s, start_s)
                name = f"{session_id}/{index}"
                self._session(here, nested, name, session_id, origin_s, depth + 1)
                continue
            if kind not in ("n", "s"):
                raise bad(here, f"type is {str(kind)[:40]!r}; it must be n, s or subagent")
            if t_s < last_s:
                what = f"the time goes back by {last_s - t_s:g} s"
                raise bad(here, what, cause="the requests of a session are not in order")
            input_tok = json_tok(here, "in", entry.get("in"), 1)
            if entry.get("hash_ids") is None:
                raise bad(here, "has no hash_ids")
            stop = entry.get("stop")
            if stop is not None and not isinstance(stop, str):
                raise bad(here, "stop must be a text")
            self.requests.append(
                TraceRequest(
                    t_s=t_s,
                    input_tok=input_tok,
                    output_tok=json_tok(here, "out", entry.get("out"), 0),
                    session_id=session_id,
                    turn=turn,
                    block_hashes=json_hashes(here, entry["hash_ids"], input_tok, self._block_tok),
                    block_tok=self._block_tok,
                    hash_scope=self._scope,
                    workload_class=None if parent is None else "subagent",
                    stop=stop,
                    # A request may start before the previous one ends: no gap.
                    gap_s=None if ended_s is None or not turn else max(0.0, t_s - ended_s),
                    ttft_s=_optional_s(here, "ttft", entry),
                    parent_id=parent,
                    line=self._line,
                    where=here,
                )
            )
            turn += 1
            last_s = t_s
            api_s = _optional_s(here, "api_time", entry)
            ended_s = None if api_s is None else t_s + api_s

    def _origin_s(self, nested: list[object], marker_s: float, start_s: float) -> float:
        """Where the times inside a subagent count from: its marker if one of them is before the
        marker, else the clock of the marker itself. `marker_s` is on the clock that starts at
        `start_s`.
        """
        times = [entry.get("t") for entry in nested if isinstance(entry, dict)]
        least = min((t for t in times if isinstance(t, int | float)), default=0.0)
        if least < marker_s:
            self.clocks["their marker"] += 1
            return start_s + marker_s
        self.clocks["the session's start"] += 1
        return start_s if least < start_s + marker_s else 0.0


def _optional_s(where: str, key: str, entry: Mapping[str, object]) -> float | None:
    return None if entry.get(key) is None else json_seconds(where, key, entry[key])


class PlainRecordings(RecordingTrace):
    """The plain form with a `scope` column: lines of a scope are consecutive, and `t_s` counts from
    the scope's start.
    """

    def __init__(self, path: Path, line_format: LineFormat) -> None:
        super().__init__(path, line_format.kind)
        self._format = line_format

    def recordings(self) -> Iterator[list[TraceRequest]]:
        """One per scope."""
        scope: str | None = None
        seen: set[str] = set()
        requests: list[TraceRequest] = []
        turns: dict[str, int] = {}
        last_s: dict[str, float] = {}
        skip = self._format.skips_first
        for number, _, text in raw_lines(self.path):
            if skip:
                skip = False
                continue
            where = f"{self.path}:{number}"
            parsed = self._format.parse(where, text)
            if parsed is None:
                continue
            t_s, fields = parsed
            if not fields.scope or fields.session_id is None:
                cause = "the first line has a scope, so each line needs both"
                raise bad(where, "has no scope or no session_id", cause=cause)
            if fields.scope != scope:
                if fields.scope in seen:
                    cause = "the lines of a scope must be consecutive"
                    raise bad(where, f"scope {fields.scope!r} comes back", cause=cause)
                if requests:
                    yield requests
                scope = fields.scope
                seen.add(scope)
                requests, turns, last_s = [], {}, {}
            session = fields.session_id
            if t_s < last_s.get(session, 0.0):
                back_s = last_s[session] - t_s
                raise bad(where, f"the time goes back by {back_s:g} s within its session")
            last_s[session] = t_s
            turn = turns.get(session, 0)
            turns[session] = turn + 1
            ids = "" if fields.hashes_everywhere else fields.scope
            requests.append(fields.request(t_s, turn, number, where, hash_scope=ids))
        if requests:
            yield requests
