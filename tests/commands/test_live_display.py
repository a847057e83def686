"""What is shown while load is under way, at known times."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.events import EventLog
from harness.commands.display import Progress, QuietView, progress_line
from harness.commands.steps.live_display import LiveDisplay, Rate, phase_of
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.plan.types import StagePlan
from harness.traffic.events import StageEnded, StageStarted

S = 1_000_000_000


def stage(name: str = "a", index: int = 0, *, window_s: int | None = 10) -> StagePlan:
    window_ns = None if window_s is None else window_s * S
    return StagePlan(
        index, name, "concurrency", "", 5 * S, window_ns, None, 1, None, False, False, 1
    )


class Seen(QuietView):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.shown: list[Progress] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, progress: Progress) -> None:
        self.shown.append(progress)


class Shown:
    """A display of stages `a` (warm-up 5 s, window 10 s) and `b` (ends with its sessions)."""

    def __init__(self, folder: Path) -> None:
        self.now_ns = 100 * S
        self.view = Seen()
        self._log = folder / "events.jsonl"
        self.display = LiveDisplay(
            [stage(), stage("b", 1, window_s=None)],
            EventLog(self._log),
            self.view,
            clock=lambda: self.now_ns,
        )

    def at(self, t_s: float, telemetry: TelemetryProgress | None = None) -> Progress:
        self.now_ns = round(t_s * S)
        self.display.show(telemetry or TelemetryProgress())
        return self.view.shown[-1]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


@pytest.mark.parametrize(
    ("elapsed_s", "window_s", "phase"),
    [
        (0.0, 10, "warm-up"),
        (4.9, 10, "warm-up"),
        (5.0, 10, "window"),
        (15.0, 10, "window"),
        (15.1, 10, "draining"),
        (4.9, None, "warm-up"),
        (500.0, None, "sessions"),
    ],
)
def test_phases_of_a_stage(elapsed_s: float, window_s: int | None, phase: str) -> None:
    assert phase_of(stage(window_s=window_s), elapsed_s) == phase


def test_before_the_first_report_nothing_is_known(shown: Shown) -> None:
    progress = shown.at(100)
    assert (progress.stage, progress.phase, progress.elapsed_s) == ("a", "warm-up", 0.0)
    assert progress.total_s == 15
    assert progress.traffic == TrafficProgress()
    assert progress.output_tok_s is None


def test_time_runs_from_the_start_of_the_stage_that_traffic_reports(shown: Shown) -> None:
    shown.display.on_traffic_event(StageStarted("a", 0, 101 * S, 106 * S, 116 * S))
    shown.display.on_traffic_event(TrafficProgress(t_ns=102 * S, stage="a", ok=3))
    assert (shown.at(100).elapsed_s, shown.at(113).elapsed_s) == (0.0, 12.0)
    assert (shown.at(113).phase, shown.at(118).phase) == ("window", "draining")
    # primed, and not started yet
    shown.display.on_traffic_event(TrafficProgress(t_ns=119 * S, stage="b"))
    assert shown.at(119).elapsed_s == 0.0
    shown.display.on_traffic_event(StageStarted("b", 1, 120 * S, 125 * S, None))
    later = shown.at(127)
    assert (later.stage, later.phase, later.elapsed_s, later.total_s) == ("b", "sessions", 7, None)
    assert shown.view.notes == ["stage a", "stage b"]


def test_the_run_takes_at_least_the_rest_of_its_stages(shown: Shown) -> None:
    """Stage `b` ends with its sessions: only its warm-up of 5 s is sure."""
    assert shown.at(100).run_left_s == 20
    shown.display.on_traffic_event(StageStarted("a", 0, 101 * S, 106 * S, 116 * S))
    assert shown.at(104).run_left_s == 17
    assert shown.at(130).run_left_s == 5  # still draining
    shown.display.on_traffic_event(TrafficProgress(t_ns=131 * S, stage="b"))
    shown.display.on_traffic_event(StageStarted("b", 1, 131 * S, 136 * S, None))
    assert shown.at(133).run_left_s == 3
    assert shown.at(140).run_left_s == 0
    assert "run: at least 17 s left" in progress_line(replace(shown.at(133), run_left_s=17))
    assert "run:" not in progress_line(shown.at(140))


def test_marks_and_late_timers_are_kept_and_progress_is_not(shown: Shown) -> None:
    shown.display.on_traffic_event(StageStarted("a", 0, 1, 2, None))
    shown.display.on_traffic_event(TrafficProgress(t_ns=3, loop_lag_s=0.005))
    shown.display.on_traffic_event(TrafficProgress(t_ns=4, loop_lag_s=0.0051))
    shown.display.on_traffic_event(StageEnded("a", 0, 5, 5, 1, 2, 3))
    started, lag, ended = shown.events()
    assert list(started) == [
        "t_ns",
        "event",
        "stage",
        "index",
        "start_ns",
        "window_start_ns",
        "window_end_ns",
    ]
    assert (started["event"], started["window_end_ns"]) == ("stage_started", None)
    assert lag == {"t_ns": 4, "event": "loop_lag", "lag_s": 0.0051}
    assert (ended["event"], ended["turns_cut"]) == ("stage_ended", 2)


def test_the_rate_is_over_the_last_readings_that_differ() -> None:
    rate = Rate()
    readings = [(None, 0), (100.0, 1), (100.0, 2), (130.0, 3), (130.0, 4), (190.0, 5)]
    found = [rate.of(counter, t_s * S) for counter, t_s in readings]
    assert found == [None, None, None, 15.0, 15.0, 22.5]
    for second in range(6, 20):  # five readings: four seconds
        last = rate.of(190.0 + (second - 5) * 7, second * S)
    assert last == 7.0
    assert rate.of(1.0, 20 * S) is None  # the server started again


def test_a_counter_that_stands_still_is_no_lasting_rate() -> None:
    rate = Rate()
    assert rate.of(0, 0) is None
    assert rate.of(100, 2 * 10**9) == 50
    assert rate.of(100, 4 * 10**9) == 50  # the next reading is not late yet
    assert rate.of(100, 10 * 10**9) == 10
    assert rate.of(200, 20 * 10**9) == 10
