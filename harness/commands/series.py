"""A folder of runs that belong together: which run comes next, its state on disk, and who runs it.

`repeat`, `sweep` and `search` are each a `Series`. The first two make all points at the start; a
search makes the next one from those that have ended. `run_points` asks the series for points, gives
them to an executor and saves their state before and after each, so that a kill -9 loses at most the
point that was running. An executor decides where a point runs: `Here`, one after the other in this
process, is the default.
"""

import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from harness.artifacts.atomic import alone_in, write_json
from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.sweep.index import Point, PointState
from harness.commands.display import View
from harness.commands.steps.outcome import RunResult
from harness.core.clock import now_ns, seconds, wall_now
from harness.core.errors import ArtifactError, ExitCode, HarnessError
from harness.core.records import RunState
from harness.core.units import human_duration
from harness.processes import identity
from harness.processes.registry import Place
from harness.report.terminal import reduce_and_report

LOCK_FILE: Final = "runner.json"
"""In the folder while a process runs its points."""

STOPPED_EARLY: Final = "stopped_early"
"""Concern of a run that was ended before its planned time; its point is `partial`."""

OVER: Final = frozenset({PointState.DONE, PointState.PARTIAL, PointState.SKIPPED})
"""States of points that are not run again. A failed one is, when the series is resumed."""

_POLL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of a point.

    Attributes:
        point: its id.
        run: folder of its run; None if there is none.
        result: of the run, if it ended in this process without an error.
        error: what ended it, else None.
        wall_s: time from its start to its end.
        partial: whether the run was ended early.
        kept_server: whether its server was running already; None if unknown.
    """

    point: int
    run: str | None = None
    result: RunResult | None = None
    error: HarnessError | None = None
    wall_s: float | None = None
    partial: bool = False
    kept_server: bool | None = None

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it. The point is then planned again."""
        ended = self.result if self.error is None else self.error
        return ended is not None and ended.exit_code is ExitCode.INTERRUPTED


class Series(Protocol):
    """Points to run, and the file that lists them."""

    @property
    def folder(self) -> Path:
        """Where the run directories are."""

    def load(self) -> list[Point]:
        """All points so far, by id; those that a finished run belongs to are done (`recognized`).

        Raises:
            ArtifactError: not such a folder.
        """

    def save(self, points: Sequence[Point]) -> None:
        """Write the points' states.

        Raises:
            ArtifactError: the disk is full.
        """

    def next_point(self, points: Sequence[Point], running: Collection[int]) -> Point | None:
        """The point to start next; None if there is none until another one has ended.

        Args:
            points: all so far. A new point's id is their number.
            running: ids of those that have been started and have not ended.
        """

    def ended(self, points: list[Point], outcome: Outcome) -> None:
        """A point has ended, and `points` has its new state; may change the state of others.

        Raises:
            HarnessError: ends the series.
        """


class Executor(Protocol):
    """Runs points."""

    @property
    def slots(self) -> int:
        """How many points at a time."""

    def submit(self, point: Point) -> None:
        """Start a point, or keep it for `finished`."""

    def finished(self, timeout_s: float) -> Iterator[Outcome]:
        """Points that have ended; waits up to `timeout_s` for the first one."""

    def cancel(self) -> None:
        """End what is running; its points are planned again."""


class Here:
    """Runs points one after the other in this process. Two runs at once on one machine would share
    cores, PCIe, power and heat.

    Args:
        folder: of the series.
        run: runs a point to its end.
    """

    slots = 1

    def __init__(self, folder: Path, run: Callable[[Point], RunResult]) -> None:
        self._folder = folder
        self._run = run
        self._waiting: list[Point] = []

    def submit(self, point: Point) -> None:
        self._waiting.append(point)

    def finished(self, timeout_s: float) -> Iterator[Outcome]:  # noqa: ARG002 - it runs the point
        while self._waiting:
            yield self._outcome(self._waiting.pop(0))

    def cancel(self) -> None:
        self._waiting.clear()

    def _outcome(self, point: Point) -> Outcome:
        began_ns = now_ns()
        before = set(run_names(self._folder))
        result, error = None, None
        try:
            result = self._run(point)
        except HarnessError as raised:
            error = raised
        made = [name for name in run_names(self._folder) if name not in before]
        run = result.run_dir.name if result is not None else (made[-1] if made else None)
        recorded = RecordedRun() if run is None else read_manifest(RunDir(self._folder / run))
        return Outcome(
            point.id,
            run,
            result,
            error,
            wall_s=round(seconds(now_ns() - began_ns), 3),
            partial=_is_partial(recorded),
            kept_server=None if recorded.server is None else recorded.server.kept_from is not None,
        )


def run_points(series: Series, executor: Executor) -> tuple[tuple[Point, ...], bool]:
    """Run the points of a series until it has no further one.

    Returns:
        All points, and whether a signal interrupted the series.

    Raises:
        ArtifactError: the folder is not such a series, or another process runs it.
        HarnessError: raised by the series, or interrupted before a point's load; all states are
            saved.
    """
    with only_runner(series.folder):
        points = series.load()
        running: set[int] = set()
        while True:
            _fill(series, executor, points, running)
            if not running:
                return tuple(points), False
            for outcome in executor.finished(_POLL_S):
                running.discard(outcome.point)
                if outcome.interrupted:
                    executor.cancel()
                    _interrupted(series, points, outcome)
                    return tuple(points), True
                points[outcome.point] = _after(points[outcome.point], outcome)
                try:
                    series.ended(points, outcome)
                finally:
                    series.save(points)


def _fill(series: Series, executor: Executor, points: list[Point], running: set[int]) -> None:
    """Start points while the executor has a free slot."""
    while len(running) < executor.slots:
        point = series.next_point(points, running)
        if point is None:
            return
        started = replace(point, state=PointState.PLANNED, error=None, tries=point.tries + 1)
        points[point.id : point.id + 1] = [started]
        series.save(points)
        running.add(point.id)
        executor.submit(started)


def _after(point: Point, outcome: Outcome) -> Point:
    state = PointState.PARTIAL if outcome.partial else PointState.DONE
    return replace(
        point,
        state=state if outcome.error is None else PointState.FAILED,
        run=outcome.run,
        error=None if outcome.error is None else outcome.error.what,
        wall_s=outcome.wall_s,
        kept_server=outcome.kept_server,
    )


def _interrupted(series: Series, points: list[Point], outcome: Outcome) -> None:
    if outcome.error is None:
        return
    at = outcome.point
    points[at] = replace(points[at], state=PointState.FAILED, error=outcome.error.what)
    series.save(points)
    raise outcome.error


@dataclass(slots=True)
class InOrder:
    """Chooses points in the order of their ids, each once, without those that are `OVER`."""

    _started: set[int] = field(default_factory=set, init=False)

    def next_point(self, points: Sequence[Point], running: Collection[int]) -> Point | None:  # noqa: ARG002
        """See `Series.next_point`."""
        left = (one for one in points if one.state not in OVER and one.id not in self._started)
        point = next(left, None)
        if point is not None:
            self._started.add(point.id)
        return point


def cool_down(duration_s: float, view: View) -> None:
    """Pause between runs."""
    if duration_s > 0:
        view.phase("cooling down", human_duration(duration_s))
        time.sleep(duration_s)


# --- what finished runs record ---


def run_names(folder: Path) -> list[str]:
    """Names of the run directories in a folder, in order."""
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def recognized(
    folder: Path, points: Sequence[Point], which: Callable[[RecordedRun], int | None]
) -> list[Point]:
    """The points, with those as ended that a finished run belongs to: it may have ended after the
    last save (a kill between the two).

    Args:
        folder: of the series.
        points: by id, as saved.
        which: id of the point that a run records; None for none of them.
    """
    found = list(points)
    for name in run_names(folder):
        run = read_manifest(RunDir(folder / name))
        at = which(run) if run.state == RunState.COMPLETE else None
        if at is None or not 0 <= at < len(found) or found[at].state in OVER:
            continue
        if not _reduced(RunDir(folder / name)):
            continue
        state = PointState.PARTIAL if _is_partial(run) else PointState.DONE
        found[at] = replace(found[at], state=state, run=name, error=None)
    return found


def _reduced(run_dir: RunDir) -> bool:
    """Whether a complete run has its summary; made now, if a kill came before it."""
    if not run_dir.summary.exists():
        try:
            finalize(run_dir)
            reduce_and_report(run_dir.root, report=True)
        except HarnessError:  # then it is measured again
            return False
    return True


def _is_partial(run: RecordedRun) -> bool:
    return any(concern.code == STOPPED_EARLY for concern in run.concerns)


# --- one process per folder ---


@contextmanager
def only_runner(folder: Path) -> Iterator[None]:
    """Record this process as the only one that runs the series in a folder.

    Raises:
        ArtifactError: another process does, or the folder cannot be written.
    """
    path = folder / LOCK_FILE
    me = identity.read(os.getpid())
    assert me is not None
    mine = {"place": asdict(Place.here()), "pid": me.pid, "start_ticks": me.start_ticks}
    try:
        with alone_in(folder):
            if (other := _read_lock(path)) is not None and not _is_stale(other):
                raise _taken(folder, path, other)
            write_json(path, {**mine, "since": wall_now().isoformat(timespec="seconds")})
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder} not found", next_step="check the path") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _read_lock(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        Place(**found["place"]), int(found["pid"]), int(found["start_ticks"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or cut off by a full disk
        return None
    return dict(found)


def _is_stale(lock: Mapping[str, Any]) -> bool:
    """Whether the recorded process has certainly ended."""
    here, place = Place.here(), Place(**lock["place"])
    if place.host != here.host:
        return False
    if place.boot_id != here.boot_id:
        return True
    known = place.pid_namespace == here.pid_namespace
    return known and not identity.same(int(lock["pid"]), int(lock["start_ticks"]))


def _taken(folder: Path, path: Path, lock: Mapping[str, Any]) -> ArtifactError:
    return ArtifactError(
        f"{folder} is being run by process {lock['pid']} on {lock['place']['host']} since"
        f" {lock.get('since')}",
        cause="it was started twice, or it was killed on another host or in another container",
        next_step=f"wait for its end; if that process has ended, remove {path}",
    )
