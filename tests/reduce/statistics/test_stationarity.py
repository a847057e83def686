"""The steady-state test on series whose change points are known, and what becomes of a run's
window.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reduce import reduce_run
from harness.reduce.statistics.stationarity import (
    MIN_SLICES,
    PER_SLICE,
    SLICES,
    examine,
    mser,
    trend,
)


def codes(summary: Any) -> set[str]:
    return {concern.code for concern in summary.verdict.concerns}


def correlated(draw: np.random.Generator, size: int, phi: float) -> np.ndarray:
    series = draw.normal(size=size + 50)
    for i in range(1, len(series)):
        series[i] += phi * series[i - 1]
    return series[50:]


def made(kind: str, seed: int) -> tuple[np.ndarray, float, bool]:
    """(slices, end of the warm-up, drifts): observations with 2 % noise a slice, correlated from
    one to the next.
    """
    draw = np.random.default_rng([9, seed])
    t = np.arange(SLICES * PER_SLICE) / PER_SLICE
    noise = 0.02 * correlated(draw, len(t), 0.5) * 1.2
    at = draw.uniform(4, 24)
    curve, warmup, drifts = {
        "noise": (np.ones(len(t)), 0.0, False),
        "ramp": (np.minimum(1, 0.2 + 0.8 * t / at), at - 0.04 * at / 0.8, False),
        "decay": (1 - 0.6 * np.exp(-t / 1.5), 1.5 * np.log(0.6 / 0.04), False),
        "step": (np.where(t < at, 1.3, 1.0), at, False),
        "late step": (np.where(t < 30 + at, 0.8, 1.0), 0.0, True),
        "drift": (1 + 0.2 * t / SLICES, 0.0, True),
    }[kind]
    return 100 * (curve + noise).reshape(SLICES, PER_SLICE).mean(axis=1), warmup, drifts


@pytest.mark.parametrize("kind", ["noise", "ramp", "decay", "step", "late step", "drift"])
def test_known_change_points_are_found_within_one_slice(kind: str) -> None:
    """19 of 20 seeded cases of each kind; benchmarks/coverage/bench_statistics.py has harder ones and more
    of them.
    """
    right = 0
    for seed in range(20):
        means, warmup, drifts = made(kind, seed)
        found = examine(means)
        right += (
            found.drift
            if drifts
            else not found.drift and abs(found.warmup_slices - np.ceil(warmup)) <= 1
        )
    assert right >= 19


@given(level=st.floats(-1e6, 1e6), slices=st.integers(MIN_SLICES, SLICES))
def test_what_never_changes_is_steady(level: float, slices: int) -> None:
    found = examine(np.full(slices, level))
    assert not found.drift
    assert found.warmup_slices == 0


@given(seed=st.integers(0, 500), scale=st.floats(1e-3, 1e6))
def test_the_unit_does_not_matter(seed: int, scale: float) -> None:
    means = made("ramp" if seed % 2 else "drift", seed)[0]
    a, b = examine(means), examine(scale * means)
    assert (a.warmup_slices, a.drift) == (b.warmup_slices, b.drift)


def test_a_significant_drift_that_is_too_small_to_matter_is_none() -> None:
    means = 100 * (1 + 0.03 * np.arange(SLICES) / SLICES) + np.random.default_rng(1).normal(
        scale=0.1, size=SLICES
    )
    found = examine(means)
    assert found.p_value < 1e-6
    assert not found.drift
    assert examine(100 * (1 + 0.06 * np.arange(SLICES) / SLICES)).drift


def test_a_ratio_is_judged_in_its_own_unit() -> None:
    """From 0.50 to 0.53 is 6 % of the ratio and beyond the 0.02 that are tolerated; from 0.10 to
    0.11 is 10 % of it and within.
    """
    line = np.linspace(0, 1, SLICES)
    assert examine(0.50 + 0.03 * line, ratio=True).drift
    assert not examine(0.10 + 0.01 * line, ratio=True).drift


def test_noise_alone_is_no_drift_however_much_of_it_there_is() -> None:
    """A third of the mean from slice to slice: halves of it differ by more than 5 % by chance,
    which is no shift.
    """
    draw = np.random.default_rng(8)
    assert sum(examine(100 + 33 * draw.normal(size=SLICES)).drift for _ in range(200)) <= 6


def test_mser_cuts_what_is_unlike_the_rest() -> None:
    means = np.concatenate([[9.0, 7.0, 5.0], np.tile([1.0, 1.1], 20)])
    assert mser(means, 20) == 3
    assert mser(np.tile([1.0, 1.1], 20), 20) <= 1


def test_the_trend_test_knows_kendalls_s() -> None:
    """Five ascending values: S = 10, var = 5 * 4 * 15 / 18, z = (10 - 1) / sd (Mann 1945)."""
    found = trend(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert found.slope == 1
    assert found.z == pytest.approx(9 / np.sqrt(5 * 4 * 15 / 18))
    ties = trend(
        np.array([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    )  # S = 12, var = (6 * 5 * 17 - 3 ties of 2: 2 * 1 * 9 each) / 18
    assert ties.z == pytest.approx(11 / np.sqrt((6 * 5 * 17 - 3 * 2 * 1 * 9) / 18))
    assert trend(np.full(5, 3.0)).p_value == 1


def test_a_correlated_series_without_trend_is_seldom_called_one() -> None:
    """At 1 %, of 400 series with a correlation of 0.6: the plain test finds a trend in 15 %."""
    draw = np.random.default_rng(5)
    assert sum(trend(correlated(draw, SLICES, 0.6)).p_value < 0.01 for _ in range(400)) <= 20


class TestRuns:
    """A run whose load grows for the first seconds."""

    @staticmethod
    def growing(builder: Any, grows_s: float, until_s: float, *, shrinks_to: float = 1.0) -> Any:
        """One, two, three, then four streams; `shrinks_to` makes later answers shorter, step by
        step.
        """
        for stream in range(4):
            at = stream * grows_s / 3
            while at < builder.window[1] + 1:
                tokens = max(1, round(10 * (1 - (1 - shrinks_to) * at / until_s)))
                builder.request(at, tokens=tokens)
                at += 0.66
        builder.requests.sort(key=lambda row: row["intended_ns"])
        builder.scrape_counters()
        builder.idle_host()
        return builder

    def test_the_warmup_is_found_where_the_profile_leaves_it_open(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = self.growing(
            new_builder(warmup_s=0.0, find_warmup=True, window_s=90.0, purpose="measure"),
            15.0,
            90.0,
        )
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.window.start_s == pytest.approx(15.0, abs=1.6)  # a slice is 1.5 s
        assert summary.window.end_s == pytest.approx(90.0)
        assert "MSER-5" in summary.window.rule
        assert summary.window.steady is not None
        assert summary.window.steady.steady is True
        assert summary.metrics["requests_in_flight"].value == pytest.approx(
            4 * 0.651 / 0.66, rel=0.02
        )
        assert not {"not_stationary", "warmup_in_window", "steady_state_untested"} & codes(summary)

    def test_a_given_warmup_stands_and_what_is_left_of_it_is_a_concern(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = self.growing(
            new_builder(warmup_s=2.0, window_s=90.0, purpose="measure"), 15.0, 90.0
        )
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.window.start_s == pytest.approx(2.0)
        concern = next(c for c in summary.verdict.concerns if c.code == "warmup_in_window")
        assert concern.value == pytest.approx(13.0, abs=2.0)
        assert concern.severity == "degraded"
        steady = summary.window.steady
        assert steady is not None
        assert (steady.slices, steady.slice_s, steady.slices * steady.slice_s) == (
            60,
            1.5,
            90.0,
        )

    def test_drift_is_called_drift(self, new_builder: Callable[..., Any], tmp_path: Path) -> None:
        builder = self.growing(
            new_builder(warmup_s=2.0, window_s=90.0, purpose="measure"), 0.5, 90.0, shrinks_to=0.4
        )
        summary = reduce_run(builder.write(tmp_path / "run"))
        messages = [c.message for c in summary.verdict.concerns if c.code == "not_stationary"]
        assert any("output tokens per second -" in message for message in messages)
        assert {
            str(c.severity) for c in summary.verdict.concerns if c.code == "not_stationary"
        } == {"degraded"}
        assert "output tokens per second -" in summary.window.rule

    def test_mean_context_and_prefix_hits_are_looked_at_as_well(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = self.growing(
            new_builder(warmup_s=2.0, window_s=60.0, purpose="measure"), 0.5, 60.0
        )
        for i, row in enumerate(builder.requests):
            row["input_tok"] = 100 + 100 * i // len(builder.requests)
        builder.scrapes.clear()
        builder.scrape_counters()
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.window.steady is not None
        drifting = {name for name, test in summary.window.steady.signals.items() if test.drift}
        assert drifting == {
            "mean_context_tok",
            "prefix_hit_ratio",
        }  # 60 of them are read from cache throughout

    def test_prefix_hits_come_from_the_servers_counters_where_answers_do_not_tell(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = self.growing(
            new_builder(warmup_s=2.0, window_s=60.0, purpose="measure"), 0.5, 60.0
        )
        for row in builder.requests:
            row["cache_read_tok"] = None
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.window.steady is not None
        assert "prefix_hit_ratio" in summary.window.steady.signals

    def test_a_short_window_is_not_tested_and_says_so(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        summary = reduce_run(steady(purpose="measure", window_s=12.0).write(tmp_path / "run"))
        assert "12 s" in summary.window.rule
        untested = next(c for c in summary.verdict.concerns if c.code == "steady_state_untested")
        assert untested.severity == "preliminary"
        assert re.search(r"\b12 s\b.*\b20\b.*\b1 s\b", untested.message)
        assert summary.window.steady is None

    def test_a_window_that_was_cut_short_is_not_tested(
        self, steady: Callable[..., Any], times: tuple[int, int], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure", window_s=60.0, state="running", stage_ended=False)
        until = times[0] + 40 * times[1]
        builder.requests = [row for row in builder.requests if row["done_ns"] < until]
        builder.host = [row for row in builder.host if row["t_ns"] < until]
        builder.scrapes = [one for one in builder.scrapes if one[0] < 40]
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.window.steady is None
        assert "steady_state_untested" in codes(summary)
