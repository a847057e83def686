"""The pages and files of a sweep: what they show, and in a browser."""

import json
import shutil
from dataclasses import replace

import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from harness.artifacts.sweep.index import PointState, read_sweep, write_sweep
from harness.cli import app
from harness.core.errors import ArtifactError, InvalidRunError
from harness.profile.load import load_profile, load_profile_text
from harness.report.sweep.best_profile import best_profile, put
from harness.report.sweep.view import MARK, sweep_view
from harness.report.sweep.write import write_sweep_report
from harness.sweeps.best import best, site_evidence
from harness.sweeps.points import load_sweep


@pytest.fixture
def folder(tmp_path, made_sweep):
    """Points 4 and 10 miss the SLOs in part, 5 is invalid, 11 failed."""
    return made_sweep.make_sweep(
        tmp_path / "s", states={11: PointState.FAILED}, statuses={5: "invalid"}, noise=0.01
    )


def test_all_files_are_written(folder) -> None:
    report = write_sweep_report(folder)
    names = ["sweep.html", "sweep.md", "points.csv", "points.parquet", "frontier.json", "best.yaml"]
    assert [path.name for path in report.paths] == names
    rows = (
        pc.read_csv(folder / "points.csv").num_rows,
        pq.read_table(folder / "points.parquet").num_rows,
    )
    assert rows == (12, 12)
    frontier = json.loads((folder / "frontier.json").read_text())
    assert [one["y"] for one in frontier["frontiers"]] == [
        *("output_tok_s_per_gpu", "output_tok_per_j", "usd_per_mtok"),
        *("sessions_per_gpu", "sessions_per_mw"),
    ]
    drawings = {path.name for path in (folder / "sweep-charts").iterdir()}
    linked = {
        part.split("/")[1]
        for part in (folder / "sweep.md").read_text().split('"')
        if part.startswith("sweep-charts/")
    }
    assert drawings == linked
    assert len(drawings) == 2 * len(report.view.charts) == 20


def test_pages_are_the_same_every_time(folder) -> None:
    names = [path.name for path in write_sweep_report(folder).paths]
    before = [(folder / name).read_bytes() for name in names]
    write_sweep_report(folder)
    assert [(folder / name).read_bytes() for name in names] == before


def test_view_has_points_reasons_and_the_best(folder, made_sweep) -> None:
    shown = sweep_view(load_sweep(folder))
    assert shown.points is not None
    assert len(shown.points.rows) == 11
    marked = [n for n, row in enumerate(shown.points.rows) if MARK in row[0]]
    assert marked == [shown.points.marked]
    assert shown.left_out is not None
    assert [row[1:] for row in shown.left_out.rows] == [
        ("invalid", "Made by a test."),
        ("failed", "made to fail"),
    ]
    assert (shown.tone, shown.badge.split()[0]) == ("degraded", "10")
    assert shown.curves == [
        f"load-{key}"
        for key in ("output_tok_s", "ttft_p99_s", "tpot_p99_s", "slo_met_ratio", "power_w")
    ]
    assert shown.absent == []


def test_without_gpus_there_is_no_empty_column(tmp_path, made_sweep) -> None:
    shown = sweep_view(load_sweep(made_sweep.make_sweep(tmp_path / "s", gpus=0)))
    assert shown.points is not None
    assert shown.points.head == [
        *("Concurrency", "Threads", "Output tok/s", "Tok/s per user", "TTFT p50", "TTFT p99"),
        *("TPOT p99", "SLOs met"),
    ]
    assert len(shown.absent) == 4


def test_nothing_measured_is_a_page_too(tmp_path, made_sweep, page) -> None:
    states = {0: PointState.FAILED, 1: PointState.SKIPPED, 2: PointState.PLANNED}
    folder = made_sweep.make_sweep(tmp_path / "s", (1, 2, 4), (1,), states=states)
    (folder / "best.yaml").write_text("old")
    report = write_sweep_report(folder)
    assert not (folder / "best.yaml").exists()
    assert (report.view.tone, report.view.points, report.view.charts) == ("invalid", None, {})
    page.open(folder / "sweep.html")
    assert page.complaints == []


# --- best.yaml ---


def test_best_profile_is_the_profile_with_its_values(folder, made_sweep) -> None:
    sweep = load_sweep(folder)
    chosen = best(sweep)
    assert chosen.setting is not None
    # the highest throughput per GPU of those with 90% within the SLOs
    assert chosen.setting.values == {made_sweep.LOAD: 16, made_sweep.THREADS: 2}
    text = best_profile(sweep, chosen)
    assert text is not None
    assert text.startswith("# Best point of s: concurrency 16, threads 2.\n")
    mine = load_profile_text(text, name="threads-1")
    changed = (f"{made_sweep.LOAD}=16", f"{made_sweep.THREADS}=2")
    assert mine == load_profile(made_sweep.SAMPLE / "threads-1.yaml", changed)
    assert "# One side of the sample comparison" in text  # comments of the profile stay


def test_best_profile_has_the_overrides_but_no_sweep(folder, made_sweep) -> None:
    overrides = ("seed=9", f'sweep={{"over": {{"{made_sweep.LOAD}": [1, 2]}}}}')
    write_sweep(folder, replace(read_sweep(folder), overrides=overrides))
    sweep = load_sweep(folder)
    text = best_profile(sweep, best(sweep))
    assert text is not None
    profile = load_profile_text(text)
    assert profile.seed == 9
    assert "\nsweep:" not in text


def test_no_best_point_has_a_reason(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "slow", (32, 64), (1,)))
    chosen = best(sweep)
    assert chosen.setting is None
    assert "8.3%" in chosen.why
    assert best_profile(sweep, chosen) is None
    degraded = load_sweep(made_sweep.make_sweep(tmp_path / "d", (1, 2), (1,), status="degraded"))
    assert best(degraded).setting is None
    without_profile = made_sweep.make_sweep(tmp_path / "w", (1, 2), (1,))
    (without_profile / "profile.yaml").unlink()
    sweep = load_sweep(without_profile)
    assert best_profile(sweep, best(sweep)) is None


def test_close_points_are_named(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (8, 9), (1,), half_width=0.1))
    chosen = best(sweep)
    assert chosen.setting is not None
    assert chosen.setting.values[made_sweep.LOAD] == 9
    assert [one.values[made_sweep.LOAD] for one in chosen.close] == [8]


def test_dotted_keys_make_sections() -> None:
    document = {"traffic": {"load": [{"concurrency": 1}]}, "server": None}
    put(document, "traffic.load.0.concurrency", 8)
    put(document, "server.threads", 2)
    put(document, "telemetry.power.0.kind", "csv")
    put(document, "traffic.load.1", {"concurrency": 2})
    assert document == {
        "traffic": {"load": [{"concurrency": 8}, {"concurrency": 2}]},
        "server": {"threads": 2},
        "telemetry": {"power": [{"kind": "csv"}]},
    }


# --- browser and command ---


@pytest.mark.parametrize(("width", "theme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_page_fits_and_asks_for_nothing(folder, page, width: int, theme: str) -> None:
    write_sweep_report(folder)
    page.open(folder / "sweep.html", width=width, theme=theme, mobile=width < 500)
    assert page.complaints == []
    assert page.requested == [(folder / "sweep.html").as_uri()]
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js("document.querySelectorAll('figure svg').length") == 20
    hidden = "[...document.querySelectorAll('figure')].filter(f => f.getBoundingClientRect().height < 150).length"
    assert page.js(hidden) == 0


def test_command_prints_the_table(folder) -> None:
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    assert str(folder / "best.yaml") in result.output
    assert "made to fail" in result.output
    result = CliRunner().invoke(app, ["report", str(folder), "--json"])
    assert json.loads(result.output)["sweep_id"] == "s"
    assert CliRunner().invoke(app, ["report", str(folder), "--export", "csv"]).exit_code == 2


def test_damaged_sweep_is_refused(folder) -> None:
    shutil.copy(folder / "profile.yaml", folder / "sweep.json")
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code != 0


class TestSearch:
    @pytest.fixture
    def search(self, tmp_path, made_sweep):
        return made_sweep.as_search(made_sweep.make_sweep(tmp_path / "s", threads=(1,)))

    def test_capacity_of_every_tier_is_shown(self, search) -> None:
        view = sweep_view(load_sweep(search))
        assert view.kind == "search"
        assert view.tiers is not None
        rows = {row[0]: row[1:] for row in view.tiers.rows}
        assert rows["slo"][:2] == ("11", "10.5 – 11.6")
        assert rows["slo"][-1] == "slos"
        assert rows["fast"][0] == "≥ 32"
        assert "gpu_board" in view.lead[0]

    def test_shares_are_drawn_over_the_load(self, search) -> None:
        chart = sweep_view(load_sweep(search)).charts["search-share"]
        assert [name for _, name in chart.legend] == ["slos", "e2e_s.p90 < 9s"]
        assert len(chart.table.rows) == 12
        shares = {row[1]: row[2] for row in chart.table.rows if row[0] == "slos"}
        assert (shares["8"], shares["16"]) == ("99%", "40%")

    def test_interval_of_a_share_is_wilsons(self, search) -> None:
        rows = sweep_view(load_sweep(search)).charts["search-share"].table.rows
        (found,) = (row[3] for row in rows if row[:2] == ("slos", "16"))
        interval = binomtest(80, 200).proportion_ci(method="wilson")
        assert found == f"{interval.low:.1%} – {interval.high:.1%}"

    def test_page_has_it_in_html_and_markdown(self, search) -> None:
        write_sweep_report(search)
        assert "| 11 |" in (search / "sweep.md").read_text()
        assert "<h2>Capacity</h2>" in (search / "sweep.html").read_text()

    def test_confirmed_run_scales_to_a_site(self, search) -> None:
        sweep = load_sweep(search)
        assert best(sweep).setting is not None
        assert site_evidence(sweep).run == search / "run-003"

    def test_unconfirmed_search_does_not_scale(self, search, made_sweep) -> None:
        made_sweep.as_search(search, confirmed=False)
        with pytest.raises(InvalidRunError):
            site_evidence(load_sweep(search))

    def test_damaged_capacity_is_named(self, search) -> None:
        (search / "capacity.json").write_text("{")
        with pytest.raises(ArtifactError, match=r"capacity\.json"):
            load_sweep(search)
