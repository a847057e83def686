"""Where a replay's sessions come from: its trace, read once a stage; and what identifies a
trace.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from harness.core.errors import ProfileError
from harness.plan.traces import Clock, Trace, open_trace
from harness.plan.types import Session, StagePlan
from harness.plan.workloads.replay import ReplayTally, replay_sessions
from harness.profile.workloads import ReplayWorkload

KEPT: Final = 8192
"""Sessions that were read and not yet asked for, at most. Slots of a closed loop ask for theirs at
their own pace.
"""


class EndOfTraceError(LookupError):
    """A session was asked for that the trace does not have."""


class TraceSource:
    """The sessions of a replay's trace, by stage: in order, or by their number.

    Args:
        workload: the profile's.
        seed: of the run.
        length_scale: factor on all lengths.
        limit_tok: longest input and output together, scaled.
    """

    def __init__(
        self, workload: ReplayWorkload, seed: int, length_scale: float, limit_tok: int
    ) -> None:
        self._workload = workload
        self._seed = seed
        self._length_scale = length_scale
        self._limit_tok = limit_tok
        self.trace: Trace = open_trace(Path(workload.path), workload.format)
        self._reading: dict[int, Iterator[Session]] = {}
        self._read: dict[int, dict[int, Session]] = {}
        self._next: dict[int, int] = {}

    def check(self, stage: StagePlan) -> None:
        """Refuse a stage that wants times which the trace does not have.

        Raises:
            ProfileError: recordings have clocks of their own.
        """
        if stage.kind == "replay" and self.trace.clock is not Clock.TRACE:
            raise ProfileError(
                f"stage {stage.name} replays times, and {self._workload.path} has none: each of its"
                " recordings has a clock of its own",
                next_step=(
                    "use `kind: concurrency` or `kind: arrival_rate`, which start its sessions in"
                    " the trace's order"
                ),
            )

    def sessions(self, stage: StagePlan, tally: ReplayTally | None = None) -> Iterator[Session]:
        """The sessions in the trace's order."""
        workload = self._workload
        read = replay_sessions(
            self.trace,
            seed=self._seed,
            time_scale=workload.time_scale,
            length_scale=self._length_scale,
            limit_tok=self._limit_tok,
            over_limit=workload.over_limit,
            idle_cap_s=workload.idle_cap_s,
            stage=stage.name,
            workload_class=workload.kind,
            rewrites=workload.rewrites,
            tally=tally,
        )
        timed = stage.kind == "replay"
        for session in read:
            turns = (
                session.turns
                if timed
                else tuple(replace(turn, intended_offset_ns=None) for turn in session.turns)
            )
            if stage.single:
                turns = (replace(turns[0], subagents=()),)
            yield replace(
                session,
                turns=turns,
                intended_offset_ns=session.intended_offset_ns if timed else None,
            )

    def session(self, stage: StagePlan, number: int) -> Session:
        """One session by its place in the trace. Cheap where numbers are asked for about in order.

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
    """What a trace holds, wherever it lies: a hash over the names and bytes of its files."""
    root = Path(path)
    digest = hashlib.sha256()
    try:
        files = (
            sorted(file for file in root.iterdir() if file.is_file()) if root.is_dir() else [root]
        )
        for file in files:
            with file.open("rb") as content:
                digest.update(
                    f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
                )
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be read: {error.strerror or error}",
            next_step="name a trace file or folder",
        ) from error
    return digest.hexdigest()
