"""Which stretch is measured: from what a run's events, its profile and its records say."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.layout import RunDir
from harness.reduce import reduce_run
from harness.reduce.over_time.counters import wanted
from harness.reduce.read.run import load_run
from harness.reduce.statistics.stationarity import SignalTest, SteadyState
from harness.reduce.windows.measurement_window import (
    StageWindow,
    drift_in_words,
    settled,
    stage_windows,
)

S = 1_000_000_000


@pytest.fixture(name="windows")
def _windows(
    builder: Any, times: tuple[int, int], tmp_path: Path
) -> Callable[..., list[StageWindow]]:
    """The windows of a run of five requests, at 1, 3, 5, 7 and 9 s, each done after 0.651 s; times
    of events in seconds.
    """

    def make(
        *events: dict[str, Any],
        state: str = "complete",
        load: list[dict[str, Any]] | None = None,
        stage: str = "main",
        host: bool = False,
    ) -> list[StageWindow]:
        for start_s in (1, 3, 5, 7, 9):
            builder.request(start_s, stage=stage)
        builder.state = state
        if host:
            builder.idle_host()  # readings until 28 s
        root = builder.write(tmp_path / "run")
        run = RunDir(root)
        lines = [
            {
                key: times[0] + round(value * S) if key.endswith("_ns") else value
                for key, value in {"t_ns": 0.0, **event}.items()
            }
            for event in events
        ]
        run.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
        manifest = json.loads(run.manifest.read_text())
        if load is not None:
            manifest["profile"]["traffic"]["load"] = load
        run.manifest.write_text(json.dumps(manifest))
        return stage_windows(load_run(root, wanted=wanted))

    return make


def began(end_s: float | None = 8.0, **fields: Any) -> dict[str, Any]:
    times = {"start_ns": 0.0, "window_start_ns": 2.0} | (
        {"window_end_ns": end_s} if end_s is not None else {}
    )
    return {"event": "stage_started", "stage": "main", **times, **fields}


def over(end_s: float | None = 8.0, **fields: Any) -> dict[str, Any]:
    return {
        "event": "stage_ended",
        "stage": "main",
        "end_ns": 10.0,
        **({"window_end_ns": end_s} if end_s is not None else {}),
        **fields,
    }


def span(window: StageWindow) -> tuple[float | None, float | None]:
    return None if window.start is None else window.start / S, (
        None if window.end is None else round(window.end / S, 6)
    )


class TestBounds:
    def test_by_time(self, windows: Callable[..., list[StageWindow]]) -> None:
        (window,) = windows(began(), over(turns_not_happened=3))
        assert span(window) == (2, 8)
        assert (window.bounded_by, window.cut, window.turns_not_happened, window.warmup_given) == (
            "window_s",
            False,
            3,
            True,
        )
        assert re.search(r"main\b.*\b2 s\b.*warmup_s.*\b6 s\b.*window_s", window.rule)

    def test_sessions_that_were_over_before_the_time_was(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(), over(6.0))
        assert span(window) == (2, 6)
        assert (window.bounded_by, window.cut) == ("sessions", False)
        assert "(sessions)" in window.rule
        assert "window_s" not in window.rule

    def test_sessions_alone(self, windows: Callable[..., list[StageWindow]]) -> None:
        (window,) = windows(began(None), over(9.5))
        assert (span(window), window.bounded_by, window.cut) == ((2, 9.5), "sessions", False)

    def test_an_interrupted_stage_was_cut_short_where_it_ended(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(), over(6.0), state="interrupted")
        assert (span(window), window.bounded_by, window.cut) == ((2, 6), "window_s", True)

    def test_a_killed_run_ends_where_its_records_end(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(20.0), state="running")
        assert (span(window), window.cut) == ((2, 9.651), True)

    def test_a_killed_run_of_sessions_ends_with_its_last_request(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        """A killed run of sessions ends with the last of its requests however long others wrote."""
        (window,) = windows(began(None), state="running", host=True)
        assert (span(window), window.cut) == ((2, 9.651), True)

    def test_a_run_that_was_killed_after_its_window_has_the_whole_of_it(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(8.0), state="running")
        assert (span(window), window.cut) == ((2, 8), False)

    def test_a_stage_whose_window_never_opened_has_none(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(20.0, window_start_ns=15.0), state="running")
        assert span(window) == (None, None)
        assert "main" in window.rule
        assert "warmup_s" not in window.rule

    def test_a_stage_that_ended_without_a_window_of_its_own_lasts_until_it_ended(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(began(None), over(None))
        assert (span(window), window.cut) == ((2, 10), False)


class TestWithoutEvents:
    def test_stages_are_those_of_the_records_and_last_as_long(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows()
        assert window.name == "main"
        assert span(window) == (1, 9.651)
        assert window.end > 9.651 * S - 1  # the last token is inside
        assert window.cut
        assert "warmup_s" not in window.rule

    def test_a_stage_that_the_profile_does_not_name_goes_by_its_place(
        self, windows: Callable[..., list[StageWindow]]
    ) -> None:
        (window,) = windows(stage="elsewhere", load=[{"kind": "concurrency", "concurrency": 7}])
        assert (window.name, window.kind, window.concurrency) == ("elsewhere", "concurrency", 7)


@pytest.mark.parametrize(
    ("load", "opens_s", "given"),
    [
        ({"warmup_s": None}, 0.0, False),
        ({"warmup_s": None}, 2.0, True),
        ({"warmup_s": 0.0}, 0.0, True),
        ({}, 0.0, True),
    ],
)
def test_a_warmup_is_detected_where_the_profile_leaves_it_open(
    windows: Callable[..., list[StageWindow]], load: dict[str, Any], opens_s: float, given: bool
) -> None:
    """A warmup is looked for where the profile leaves it open and the window opens with its
    stage.
    """
    (window,) = windows(
        began(window_start_ns=opens_s),
        over(),
        load=[{"kind": "concurrency", "name": "main", **load}],
    )
    assert window.warmup_given is given


class TestSettled:
    def window(self, **fields: Any) -> StageWindow:
        values: dict[str, Any] = {
            "name": "main",
            "kind": None,
            "stage_start": 0.0,
            "stage_end": None,
            "start": 10.0 * S,
            "end": 70.0 * S,
            "cut": False,
            "bounded_by": "window_s",
            "concurrency": None,
            "turns_not_happened": None,
            "rule": "R.",
        }
        return StageWindow(**values | fields)

    def test_the_slowest_signals_warmup_is_left_out_where_none_was_given(self) -> None:
        tests = {
            "requests_in_flight": SignalTest(2, False, 0.0, 1.0),
            "output_tok_s": SignalTest(5, False, 0.0, 1.0),
        }
        found = settled(self.window(warmup_given=False), SteadyState(1.5, 40, 5, tests))
        assert found.start == 17.5 * S
        assert "7.5 s (output tokens per second)" in found.rule
        assert "warmup_s" not in found.rule
        kept = settled(self.window(), SteadyState(1.5, 40, 5, tests))
        assert kept.start == 10 * S
        assert "7.5 s (output tokens per second)" in kept.rule
        assert "warmup_s" in kept.rule

    def test_drift_is_told_in_the_signals_own_unit(self) -> None:
        assert drift_in_words("output_tok_s", -0.123) == "output tokens per second -12.3%"
        assert drift_in_words("prefix_hit_ratio", -0.123) == "prefix hit ratio -0.123"
        assert drift_in_words("output_tok_s", None) == "output tokens per second"
        tests = {
            "prefix_hit_ratio": SignalTest(0, True, 0.05, 1e-9),
            "output_tok_s": SignalTest(0, False, 0.01, 0.5),
        }
        rule = settled(self.window(), SteadyState(1.0, 60, 0, tests)).rule
        assert rule.startswith("R. ")
        assert re.search(r"prefix hit ratio and output tokens per second\b.*\b1 s\b", rule)
        assert rule.endswith("prefix hit ratio +0.050.")


@pytest.mark.parametrize("cut_s", [8.0, 13.37])
def test_what_neighbouring_windows_hold_adds_up_to_what_both_hold(
    cut_s: float, steady: Callable[..., Any], times: tuple[int, int], tmp_path: Path
) -> None:
    """Tokens, answers, good requests, joules and the server's own counters at once, by one
    directory whose window is moved.
    """
    builder = steady(gpus=2)
    builder.constant_power(300.0)
    for i, row in enumerate(builder.power):  # a slow wave, and a counter of the one board only
        if row["power_w"] is not None:
            row["power_w"] += 10 * math.sin(i / 300)
    builder.power = [
        row for row in builder.power if row["power_w"] is not None or row["device_id"] == "GPU-0"
    ]
    root = builder.write(tmp_path / "run")
    events = RunDir(root).events
    lines = [json.loads(line) for line in events.read_text().splitlines()]

    def of(start_s: float, end_s: float) -> dict[str, float]:
        bounds = {
            "window_start_ns": times[0] + round(start_s * S),
            "window_end_ns": times[0] + round(end_s * S),
        }
        events.write_text(
            "".join(
                json.dumps({**line, **{k: v for k, v in bounds.items() if k in line}}) + "\n"
                for line in lines
            )
        )
        summary = reduce_run(root)
        length_s = summary.window.duration_s
        rates = (
            "output_tok_s",
            "input_tok_s",
            "input_computed_tok_s",
            "total_tok_s",
            "requests_per_s",
            "goodput_rps",
            "goodput_tok_s",
        )
        found = {
            key: summary.metrics[key].value * length_s for key in (*rates, "requests_in_flight")
        }
        found |= {
            key: getattr(summary.server, key)
            for key in ("prompt_tokens", "generated_tokens", "cached_tokens", "finished")
        }
        return found | {
            "energy_j": summary.metrics["energy_j"].value,
            "in_window": float(summary.requests.in_window),
        }

    first, second, both = of(2.0, cut_s), of(cut_s, 22.0), of(2.0, 22.0)
    assert {key: first[key] + second[key] for key in both} == pytest.approx(both, rel=1e-9)
