"""Running the points of a folder: order, states on disk, and one process at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest

from harness.artifacts.sweep.index import Point, PointState
from harness.commands.series import (
    LOCK_FILE,
    Here,
    InOrder,
    Outcome,
    only_runner,
    recognized,
    run_points,
)
from harness.commands.steps.outcome import RunResult
from harness.core.errors import ArtifactError, ExitCode, InterruptedRunError, ServerError


def planned(count: int) -> list[Point]:
    return [Point(at, {"x": at}, 1, "server", at) for at in range(count)]


class Listed(InOrder):
    """A series whose points are in memory; `saved` has their states at each save."""

    def __init__(self, folder: Path, points: list[Point]) -> None:
        super().__init__()
        self.folder, self.points = folder, points
        self.saved: list[list[str]] = []
        self.outcomes: list[Outcome] = []

    def load(self) -> list[Point]:
        return list(self.points)

    def save(self, points: Sequence[Point]) -> None:
        self.points = list(points)
        self.saved.append([point.state.value for point in points])

    def ended(self, points: list[Point], outcome: Outcome) -> None:
        self.outcomes.append(outcome)


class Asking(Listed):
    """Makes each point from the finished ones: three of them, each twice as large."""

    def next_point(self, points: Sequence[Point], running: Collection[int]) -> Point | None:
        if running or len(points) == 3:
            return None
        return Point(len(points), {"x": 2 ** len(points)}, 1, "server", 0)


def fake_run(folder: Path, point: Point, *, state: str = "complete", code: ExitCode = ExitCode.OK):
    run = folder / f"run-{point.id}-{len(list(folder.iterdir()))}"
    run.mkdir()
    fields = {"schema_version": 1, "run_id": run.name, "state": state}
    (run / "manifest.json").write_text(
        json.dumps({**fields, "sweep": {"id": folder.name, "point": point.id}})
    )
    (run / "summary.json").write_text("{}")
    return RunResult(run, None, code)


def test_states_are_saved_before_and_after_each_point(tmp_path):
    series = Listed(tmp_path, planned(2))
    points, interrupted = run_points(series, Here(tmp_path, lambda p: fake_run(tmp_path, p)))
    assert not interrupted
    assert series.saved == [
        ["planned", "planned"],
        ["done", "planned"],
        ["done", "planned"],
        ["done", "done"],
    ]
    assert [(point.run, point.tries) for point in points] == [("run-0-1", 1), ("run-1-2", 1)]
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_series_may_make_points_from_those_that_have_ended(tmp_path):
    series = Asking(tmp_path, [])
    points, _ = run_points(series, Here(tmp_path, lambda p: fake_run(tmp_path, p)))
    assert [point.values["x"] for point in points] == [1, 2, 4]


def test_a_failed_point_is_recorded_and_the_next_one_runs(tmp_path):
    def run(point: Point) -> RunResult:
        if point.id == 0:
            fake_run(tmp_path, point, state="failed")
            raise ServerError("it died")
        return fake_run(tmp_path, point)

    series = Listed(tmp_path, planned(2))
    points, _ = run_points(series, Here(tmp_path, run))
    assert [point.state for point in points] == [PointState.FAILED, PointState.DONE]
    assert (points[0].error, points[0].run) == ("it died", "run-0-1")


def test_points_that_are_over_are_not_run_again(tmp_path):
    ran: list[int] = []

    def run(point: Point) -> RunResult:
        ran.append(point.id)
        return fake_run(tmp_path, point)

    states = [PointState.DONE, PointState.PARTIAL, PointState.SKIPPED, PointState.FAILED]
    points = [Point(at, {}, 1, "s", 0, state) for at, state in enumerate(states)]
    run_points(Listed(tmp_path, points), Here(tmp_path, run))
    assert ran == [3]


def test_an_interrupted_point_is_planned_again(tmp_path):
    series = Listed(tmp_path, planned(2))
    here = Here(tmp_path, lambda p: fake_run(tmp_path, p, code=ExitCode.INTERRUPTED))
    points, interrupted = run_points(series, here)
    assert interrupted
    assert [point.state for point in points] == [PointState.PLANNED] * 2
    assert series.outcomes == []


def test_an_interruption_before_the_load_ends_the_series(tmp_path):
    def run(point: Point) -> RunResult:
        raise InterruptedRunError("interrupted")

    series = Listed(tmp_path, planned(2))
    with pytest.raises(InterruptedRunError):
        run_points(series, Here(tmp_path, run))
    assert series.points[0].state is PointState.FAILED


def test_an_executor_with_several_slots_gets_as_many_points(tmp_path):
    class Two:
        slots = 2

        def __init__(self) -> None:
            self.waiting: list[Point] = []
            self.most = 0

        def submit(self, point: Point) -> None:
            self.waiting.append(point)
            self.most = max(self.most, len(self.waiting))

        def finished(self, timeout_s: float) -> Iterator[Outcome]:
            yield Outcome(self.waiting.pop().id)

        def cancel(self) -> None:
            self.waiting.clear()

    executor = Two()
    points, _ = run_points(Listed(tmp_path, planned(5)), executor)
    assert executor.most == 2
    assert {point.state for point in points} == {PointState.DONE}


def test_finished_runs_are_recognized_by_their_manifests(tmp_path):
    points = planned(4)
    fake_run(tmp_path, points[1])
    fake_run(tmp_path, points[2], state="running")
    unreduced = fake_run(tmp_path, points[3]).run_dir
    (unreduced / "summary.json").unlink()
    found = recognized(tmp_path, points, lambda run: run.sweep.point)
    assert [point.state.value for point in found] == ["planned", "done", "planned", "done"]
    # killed between its end and its reduction: reduced now, not measured again
    assert (unreduced / "summary.json").is_file()


def test_a_run_that_was_ended_early_makes_its_point_partial(tmp_path):
    run = fake_run(tmp_path, planned(1)[0]).run_dir
    fields = json.loads((run / "manifest.json").read_text())
    concern = {"code": "stopped_early", "severity": "note", "message": "certain"}
    (run / "manifest.json").write_text(json.dumps({**fields, "concerns": [concern]}))
    found = recognized(tmp_path, planned(1), lambda run: run.sweep.point)
    assert found[0].state is PointState.PARTIAL


def test_a_second_runner_is_refused_and_the_first_one_is_named(tmp_path):
    with only_runner(tmp_path), pytest.raises(ArtifactError, match=str(os.getpid())):
        run_points(Listed(tmp_path, planned(1)), Here(tmp_path, lambda p: fake_run(tmp_path, p)))
    with only_runner(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, False),  # its process has ended
        ({"place": {"boot_id": "another"}}, False),  # rebooted since
        ({"place": {"host": "another"}}, True),  # cannot be known from here
        ({"place": {"pid_namespace": "another"}}, True),
        ({"place": None}, False),  # damaged
    ],
)
def test_the_lock_of_a_killed_runner_is_taken_over(tmp_path, change, refused):
    code = (
        "import os, sys; from pathlib import Path; from harness.commands.series import only_runner\n"
        "with only_runner(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    lock = json.loads((tmp_path / LOCK_FILE).read_text())
    place = change.get("place", {})
    lock["place"] = place and {**lock["place"], **place} if change else lock["place"]
    (tmp_path / LOCK_FILE).write_text(json.dumps(lock))
    if refused:
        with pytest.raises(ArtifactError), only_runner(tmp_path):
            pass
    else:
        with only_runner(tmp_path):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
