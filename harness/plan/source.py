"""The sessions of a replay, from its trace, which is read once per stage; and a trace's hash."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from harness.core.errors import ProfileError
from harness.plan.traces import Clock, Trace, open_trace
from harness.plan.traces.text import unreadable
from harness.plan.types import Session, StagePlan
from harness.plan.workloads.replay import ReplayTally, replay_sessions
from harness.profile.workloads import ReplayWorkload

KEPT: Final = 8192
"""Most sessions that are read ahead: slots of a closed loop need theirs at their own pace."""


class EndOfTraceError(LookupError):
    """The trace does not have the requested session."""


class TraceSource:
    """The sessions of a replay's trace, by stage: in order, or by their number. `limit_tok` is the
    longest input and output together, scaled by `length_scale`.
    """

    def __init__(
        self, workload: ReplayWorkload, seed: int, length_scale: float, limit_tok: int
    ) -> None:
        self.trace: Trace = open_trace(Path(workload.path), workload.format)
        self._workload = workload
        self._settings = (seed, length_scale, limit_tok)
        self._reading: dict[int, Iterator[Session]] = {}
        self._read: dict[int, dict[int, Session]] = {}
        self._next: dict[int, int] = {}

    def check(self, stage: StagePlan) -> None:
        """Check that the trace has the times that a stage needs.

        Raises:
            ProfileError: each recording has its own clock.
        """
        if stage.kind == "replay" and self.trace.clock is not Clock.TRACE:
            raise ProfileError(
                f"stage {stage.name} replays times, but the recordings in {self._workload.path}"
                " have no common clock",
                next_step=(
                    "use `kind: concurrency` or `kind: arrival_rate`, which start its sessions in"
                    " the trace's order"
                ),
            )

    def sessions(self, stage: StagePlan, tally: ReplayTally | None = None) -> Iterator[Session]:
        """The sessions in the trace's order."""
        workload, (seed, length_scale, limit_tok) = self._workload, self._settings
        read = replay_sessions(
            self.trace,
            seed=seed,
            time_scale=workload.time_scale,
            length_scale=length_scale,
            limit_tok=limit_tok,
            over_limit=workload.over_limit,
            idle_cap_s=workload.idle_cap_s,
            stage=stage.name,
            workload_class=workload.kind,
            rewrites=workload.rewrites,
            tally=tally,
        )
        for session in read:
            turns, offset_ns = session.turns, session.intended_offset_ns
            if stage.kind != "replay":
                offset_ns = None
                turns = tuple(replace(turn, intended_offset_ns=None) for turn in turns)
            if stage.single:
                turns = (replace(turns[0], subagents=()),)
            yield replace(session, turns=turns, intended_offset_ns=offset_ns)

    def session(self, stage: StagePlan, number: int) -> Session:
        """One session by its number in the trace; cheap if numbers come roughly in order.

        Raises:
            EndOfTraceError: the trace has no such session.
        """
        read = self._read.setdefault(stage.index, {})
        if number in read:
            return read.pop(number)
        if stage.index not in self._reading or number < self._next[stage.index]:
            self._reading[stage.index], self._next[stage.index] = self.sessions(stage), 0
            read.clear()
        for session in self._reading[stage.index]:
            self._next[stage.index] += 1
            if session.number == number:
                return session
            read[session.number] = session
            if len(read) > KEPT:
                del read[next(iter(read))]
        raise EndOfTraceError(f"the trace has no session {number}")


@lru_cache(maxsize=8)
def trace_sha256(path: str) -> str:
    """Hash over the names and bytes of a trace's files, independent of its place."""
    root = Path(path)
    digest = hashlib.sha256()
    try:
        for file in sorted(filter(Path.is_file, root.iterdir())) if root.is_dir() else [root]:
            with file.open("rb") as content:
                one = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.name} {one}\n".encode())
    except OSError as error:
        raise unreadable(root, error) from error
    return digest.hexdigest()
