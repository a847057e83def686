"""Answers hold for a day that is stated or the run's, whatever day it is when they are made."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.artifacts.run_result import load_result
from harness.cli import app
from harness.core.clock import wall_now
from harness.core.errors import ProfileError
from harness.fleet.estimate.estimate import Options, as_of_day, estimate, parse_day
from harness.fleet.over_time.forecast import TimeOptions, forecast
from harness.fleet.site.types import GpuCount, Named, Site

ANCHOR = {"monotonic_ns": 5 * 10**9, "unix_ns": 1_790_812_799 * 10**9}  # 2026-09-30T23:59:59Z


def site(**changes: Any) -> Site:
    said = {"source": "us", "date": "2026-01"}
    gpus, gpu = GpuCount(value=1000, **said), Named(value="H100", **said)
    return Site(name="ours", title="Ours", gpus=gpus, gpu=gpu, **changes)


def recorded(run: Path, **fields: Any) -> Path:
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return run


@pytest.mark.parametrize(
    ("fields", "day"),
    [
        ({"clock_anchors": [ANCHOR], "started_ns": 5 * 10**9}, date(2026, 9, 30)),
        ({"clock_anchors": [{}, ANCHOR], "started_ns": 7 * 10**9}, date(2026, 10, 1)),
        ({"clock_anchors": [ANCHOR]}, None),
        ({"clock_anchors": "none", "started_ns": 1}, None),
    ],
)
def test_the_day_of_a_run_is_that_of_its_clock(make_run: Any, fields: Any, day: Any) -> None:
    assert load_result(recorded(make_run(), **fields)).day == day


@pytest.mark.parametrize(
    ("run_id", "day"),
    [
        ("20260801T120000Z-chat-abc123", date(2026, 8, 1)),
        ("20261301T120000Z-chat-abc123", None),
        ("measured", None),
    ],
)
def test_the_day_of_a_run_without_a_clock_is_in_its_id(
    make_run: Any, run_id: str, day: Any
) -> None:
    run = make_run()
    path = run / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_id": run_id}))
    assert load_result(run).day == day


def test_stated_comes_before_the_runs_day_and_that_before_today(make_run: Any) -> None:
    dated = load_result(recorded(make_run(), clock_anchors=[ANCHOR], started_ns=5 * 10**9))
    assert as_of_day(dated, date(2030, 1, 2)).day == date(2030, 1, 2)
    assert as_of_day(dated, None).day == date(2026, 9, 30)
    unknown = as_of_day(load_result(make_run()), None)
    assert abs((unknown.day - wall_now().date()).days) <= 1
    assert "today" in unknown.text()


def test_the_day_decides_what_of_a_sites_term_is_over(make_run: Any) -> None:
    run, place = make_run(), site(available="2026-06", until="2026-09")
    with pytest.raises(ProfileError, match="2026-10-01"):
        estimate(run, place, options=Options(as_of=date(2026, 10, 1)))
    ahead = estimate(run, place, options=Options(as_of=date(2026, 5, 31)))
    within = estimate(run, place, options=Options(as_of=date(2026, 9, 30)))
    assert any("2026-06" in flag for flag in ahead.flags)
    assert not any("2026-06" in flag for flag in within.flags)


def test_scenarios_look_from_that_day_to_the_terms_end(make_run: Any) -> None:
    found = estimate(make_run(), site(until="2026-10-11"), options=Options(as_of=date(2026, 10, 1)))
    assert forecast(found, TimeOptions(years=1, scenarios=("all",))).horizon_days == 10


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13-01", "2026-02-30", "20261130", "2026-W48-1", "30.11.2026", "now"]
)
def test_no_day_is_refused_with_the_form(make_run: Any, text: str) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_day(text)
    assert "YYYY-MM-DD" in (caught.value.next_step or "")
    done = CliRunner().invoke(app, ["fleet", str(make_run()), "--as-of", text])
    assert done.exit_code == 2


def test_the_day_is_shown_everywhere(make_run: Any) -> None:
    run = make_run()
    argv = ["fleet", str(run), "--years", "0", "--draws", "100", "--as-of", "2026-11-30"]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0
    assert "as of 2026-11-30" in done.output
    written = json.loads((run / "fleet" / "fleet.json").read_text())
    assert written["cases"][0]["estimate"]["as_of"] == "2026-11-30"
    for page in ("fleet.html", "fleet.md"):
        assert "2026-11-30" in (run / "fleet" / page).read_text()
