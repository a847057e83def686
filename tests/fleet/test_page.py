"""What people see: the page in a real browser, Markdown, JSON, the command."""

import json
import urllib.request

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.commands.fleet import FleetRequest, fleet
from harness.core.errors import InvalidRunError, NotComparableError
from harness.core.records import Concern, Severity, Status
from harness.fleet.estimate.estimate import Options
from harness.fleet.over_time.forecast import TimeOptions
from harness.report.fleet.figures import scaled
from harness.report.fleet.view import fleet_view
from harness.report.fleet.write import fleet_html, write_fleet
from harness.report.serve import served, show

SITE = """
ours:
  title: Our hall
  gpu: {value: H100, source: us, date: 2026-01}
  gpus: {value: 4000, source: us, date: 2026-01-05}
  power_mw: {value: 5, source: us, date: 2026-01}
  usd_per_month: {value: 2.0e+7, source: us, date: 2026-01}
"""


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "ours.yaml"
    path.write_text(SITE)
    return str(path)


def ask(runs, sites, *, years=1, scenarios=("all",), **changes):
    time = TimeOptions(years=years, scenarios=scenarios) if years else None
    return fleet(FleetRequest(tuple(runs), tuple(sites), time=time, **changes))


def text_of(html):
    return html.replace("\u00a0", " ")


@pytest.fixture(scope="module")
def written(tmp_path_factory, run_maker):
    """One answer over time, written once: drawing is the slow part."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "ours.yaml").write_text(SITE)
    answer = ask([run_maker(folder)()], [str(folder / "ours.yaml")], compare_sites=True)
    return answer, write_fleet(answer, fleet_view(answer), folder / "out")


@pytest.mark.needs("chromium")
def test_the_page_stands_alone_in_every_theme_and_width(written, page):
    html = written[1][0]
    for theme, width, mobile in (
        ("light", 1100, False),
        ("dark", 1100, False),
        ("light", 390, True),
    ):
        page.open(html, theme=theme, width=width, mobile=mobile)
        assert page.complaints == []
        assert page.requested == [html.as_uri()]
        assert page.js(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    # One screen: what it delivers, draws and costs and how sure, before anything else.
    page.open(html, width=1100)
    assert page.js("document.querySelectorAll('.tile').length") == 9
    assert page.js("document.querySelector('.tiles').getBoundingClientRect().bottom") < 1000
    assert page.js("document.querySelectorAll('figure.chart').length") == 9
    # Words beside bars stay inside their charts.
    spills = "s => s.getBBox().x < -14 || s.getBBox().width > s.viewBox.baseVal.width + 14"
    assert page.js(f"[...document.querySelectorAll('.wide svg')].filter({spills}).length") == 0


def test_the_page_says_what_it_stands_on(written):
    answer, (page_path, _, _) = written
    html = text_of(page_path.read_text())
    for words in (
        "P5 to P95",
        "arXiv 2407.21783",
        "ServeGen",
        "claude-code",
    ):
        assert words in html, words
    for factor in answer.cases[0].estimate.factors.values():
        assert factor.title.split("'")[0] in html


def test_the_first_screens_numbers_are_the_estimates(written):
    e, f = written[0].cases[0].estimate, written[0].cases[0].forecast
    shown, tokens = fleet_view(written[0]), e.figure("output_tok_per_day")
    tile = shown.tiles[0]
    assert (tile.high / tile.low, tile.at / tile.low) == pytest.approx(
        (tokens.p95 / tokens.p5, tokens.value / tokens.p5)
    )
    below, above = 100 * (1 - tokens.p5 / tokens.value), 100 * (tokens.p95 / tokens.value - 1)
    assert f"−{below:.0f}% to +{above:.0f}%" in text_of(shown.sure[0])
    row = next(row for row in shown.metrics.rows if row[0] == "Output tokens per day")
    numbers = [float(cell.split()[0]) * 1e9 for cell in row[1:5]]
    assert numbers == pytest.approx([tokens.value, tokens.p5, tokens.p50, tokens.p95], rel=1e-3)
    mean = f.totals["power_mean_mw"].p50
    assert (
        f"Power: {mean:.2f} MW on average here, {e.figure('power_mean_mw').value:.2f} MW in the"
        " estimate" in shown.time_lead
    )


def test_the_scenarios_numbers_stand_in_their_columns(written):
    found = {item.key: item for item in written[0].cases[0].forecast.scenarios}
    rows = {row[0]: row for row in fleet_view(written[0]).scenarios.rows}
    reclaim = rows[found["reclaim"].title]
    for column, figure in (
        (3, found["reclaim"].cost_usd),
        (4, found["reclaim"].usd_per_mtok),
        (5, found["reclaim"].elsewhere_usd),
    ):
        assert reclaim[column].startswith(f"{scaled(figure.p50, like=figure.p95)} (")
    base = found["reclaim"].base_served_ratio.p50
    assert float(rows["Baseline"][1].split("%")[0]) == pytest.approx(100 * base, abs=0.06)
    assert base > found["reclaim"].served_ratio.p50 + 0.01


def test_the_charts_numbers_are_the_estimates(written, monkeypatch):
    e, f = written[0].cases[0].estimate, written[0].cases[0].forecast
    monkeypatch.setattr("harness.report.charts.draw", lambda spec: spec)
    charts = fleet_view(written[0]).charts
    assert (
        charts["waterfall-tokens"].table.rows[-1][2]
        == f"{scaled(e.figure('output_tok_s').value)} tok/s"
    )
    # More load lowers the cost: the end of its P95 is the lower one.
    load = next(
        swing
        for swing in e.tornado
        if (swing.figure, swing.factor) == ("usd_per_mtok", "load_factor")
    )
    drawn = [
        row
        for row in charts["tornado-usd-per-mtok"].wide()["data"]["values"]
        if row["label"] == load.title
    ]
    assert {row["end"]: min(row["a"], row["b"]) == load.at_p95 for row in drawn} == {
        "high": True,
        "low": False,
    }
    row = next(row for row in charts["tornado-usd-per-mtok"].table.rows if row[0] == load.title)
    change = 100 * (load.at_p5 / e.central["usd_per_mtok"] - 1)
    assert text_of(row[3]).endswith(f"to +{change:.0f}%")
    assert charts["worst-week"].table.rows[0][1] == scaled(100 * (1 - f.worst["slo_ratio"][0]))
    assert charts["day-tokens"].table.rows[12][3] == scaled(
        f.day["serving_nodes"][12] * f.node_tok_s
    )


def test_without_power_the_page_says_so(make_run, site):
    answer = ask([make_run(power={})], [site])
    shown = fleet_view(answer)
    [why] = {f.note for f in answer.cases[0].estimate.figures if f.key.startswith("power_")}
    assert why in text_of(fleet_html(shown, {}))
    assert not {"waterfall-power", "tornado-power-mean-mw", "day-power"} & set(shown.charts)


def test_markdown_and_json_hold_the_same(written):
    _, (_, markdown, data) = written
    text = text_of(markdown.read_text())
    assert text.count("<picture>") == 9
    assert all(
        (markdown.parent / "fleet-charts" / f"waterfall-tokens-{theme}.svg").is_file()
        for theme in ("light", "dark")
    )
    assert "| Scenario |" in text
    hours = (markdown.parent / "fleet-hours.csv").read_text().splitlines()
    assert len(hours) == 8761
    assert hours[0].startswith("hour,demand_tok_s,served_tok_s,shed_tok_s,slo_ratio,power_mw")
    loaded = json.loads(data.read_text())
    assert [case["estimate"]["site"]["name"] for case in loaded["cases"]] == [
        "ours",
        "colossus-1",
        "google-110k",
    ]
    first = loaded["cases"][0]
    assert {"value", "p5", "p50", "p95", "basis", "assumptions"} <= set(
        first["estimate"]["figures"]["output_tok_s"]
    )
    assert set(first["forecast"]["scenarios"]) >= {"reclaim", "grid_connection"}
    assert loaded["cases"][1]["forecast"] is None


def test_several_runs_stand_side_by_side_and_other_work_is_told(make_run, site):
    answer = ask(
        [make_run(), make_run(model="org/other"), make_run(gpus=("NVIDIA H200",) * 8)],
        [site],
        years=0,
    )
    shown = fleet_view(answer)
    assert len(shown.side_by_side.head) == 3
    assert "measured different work" in shown.side_by_side.caption
    assert len(shown.refused.rows) == 1
    assert "H200" in shown.refused.rows[0][2]
    assert "Refused" in fleet_html(shown, {})


def test_columns_beside_each_other_are_told_apart_and_keep_their_doubts(make_run, site):
    here, modelled, longer = (
        make_run(),
        make_run(gpus=("NVIDIA H200",) * 8),
        make_run(input_tok=30_000.0),
    )
    shown = fleet_view(ask([here, modelled, longer, here], [site, site], years=0, modelled="table"))
    assert shown.side_by_side.head[1:] == (
        f"ours · {here.name} (H100, valid)",
        f"ours · {modelled.name} (H100, estimated from H200, valid)",
        f"ours · {longer.name} (H100, valid)",
    )
    assert (
        "measured different work" in shown.side_by_side.caption
    )  # contexts of other lengths are other work
    [note] = [note for note in shown.notes if "H200, the site" in note]
    assert note.startswith(f"ours · {modelled.name}")
    assert "H200, the site" in fleet_html(shown, {})
    same = fleet_view(ask([here, make_run(input_tok=3100.0)], [site], years=0))
    assert same.side_by_side.caption == "Side by side: value (P5 to P95)"


@pytest.mark.parametrize(
    ("value", "like", "text"),
    [
        (9.9996, None, "10.0"),
        (93_712.0, 179_000.5, "93.7 k"),
        (9.2e11, 1.5e12, "0.920 T"),
        (1e12, None, "1.00 T"),
        (200_000.0, None, "200,000"),
        (4321.7, None, "4,320"),
        (0.0, 5e9, "0"),
        (0.01234, None, "0.0123"),
        (999_700.0, 1.2e6, "1.00 M"),
        (None, None, "—"),
        (float("nan"), None, "—"),
    ],
)
def test_numbers_have_three_digits_and_ranges_one_letter(value, like, text):
    assert scaled(value, like=like).replace("\u00a0", " ") == text


def test_a_modelled_ratio_reaches_the_site_and_a_mix_is_none(make_run, site, tmp_path):
    h200 = make_run(gpus=("NVIDIA H200",) * 8)
    answer = ask([h200], [site], years=0, modelled="table")
    assert answer.cases[0].estimate.gpu == "H100"
    mixed = tmp_path / "mixed.yaml"
    mixed.write_text(
        "mixed:\n  gpus: {value: 80, source: us, date: 2026-01}\n  mix: {H100: {value: 0.5, source:"
        " us, date: 2026-01}, B200: {value: 0.5, source: us, date: 2026-01}}\n"
    )
    with pytest.raises(NotComparableError, match="mix"):
        ask([h200], [str(mixed)], years=0, modelled="table")


def test_what_an_earlier_answer_left_does_not_stay(make_run, site, tmp_path, undrawn):
    run, out = make_run(), tmp_path / "out"
    first = ask([run], [site], scenarios=())
    write_fleet(first, fleet_view(first), out)
    (out / "fleet-charts").mkdir()
    (out / "fleet-charts" / "tornado-power-mean-mw-dark.svg").write_text("of an earlier answer")
    assert (out / "fleet-hours.csv").is_file()
    second = ask([run], [site], years=0)
    write_fleet(second, fleet_view(second), out)
    assert sorted(path.name for path in out.rglob("*")) == [
        "fleet-charts",
        "fleet.html",
        "fleet.json",
        "fleet.md",
    ]


def test_a_site_that_is_asked_for_less_than_it_can_costs_more_a_token(make_run, site):
    full = ask([make_run()], [site], years=0).cases[0].estimate
    asked = full.central["output_tok_s_peak"] / 2
    shown = fleet_view(ask([make_run()], [site], years=0, options=Options(demand_tok_s=asked)))
    [line] = [line for line in shown.sure if "stated demand" in line]
    assert "meets 100%" in line
    assert f"cost ${2 * full.figure('usd_per_mtok').value:.2f} at" in line
    over = fleet_view(ask([make_run()], [site], years=0, options=Options(demand_tok_s=4 * asked)))
    assert not any("Serving no more" in line for line in over.sure)


def test_a_figure_of_nothing_has_no_bar(make_run, site):
    answer = ask([make_run()], [site], years=0, options=Options(assume=("co2_kg_per_kwh=0",)))
    [tile] = [tile for tile in fleet_view(answer).tiles if tile.title == "CO2 per day"]
    assert (tile.value, tile.low) == ("0.00", None)


def test_a_test_double_is_only_ever_a_demonstration(make_run, site, monkeypatch):
    double = Concern("double_hardware", Severity.INVALID, "Power comes from no real hardware.")
    run = make_run(gpus=("NVML TEST DOUBLE",) * 8, status=Status.INVALID, concerns=(double,))
    ratio = {"modelled": "1", "modelled_source": "a demonstration"}
    with pytest.raises(InvalidRunError) as error:
        ask([run], [site], years=0, **ratio)
    assert "--demonstrate" in error.value.next_step
    answer = ask([run], [site], years=0, options=Options(demonstrate=True), **ratio)
    html = fleet_html(fleet_view(answer), {})
    assert "demonstration, not measured" in html
    assert "H100 (estimated from the run" in html
    assert "test double" in answer.cases[0].estimate.flags[0]
    other = make_run(
        status=Status.INVALID, concerns=(double, Concern("late_sends", Severity.INVALID, "late"))
    )
    with pytest.raises(InvalidRunError):
        ask([other], [site], years=0, options=Options(demonstrate=True))


def test_a_folder_is_served_on_loopback_only_while_it_is_shown(tmp_path, monkeypatch):
    (tmp_path / "fleet.html").write_text("<p>here</p>")
    with served(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}fleet.html", timeout=10) as answer:
            assert answer.read() == b"<p>here</p>"
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}fleet.html", timeout=10)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert show(url) is False


# --- the command ---


def command(*arguments):
    return CliRunner().invoke(app, ["fleet", *map(str, arguments)])


@pytest.fixture
def undrawn(monkeypatch):
    """The command without its charts, which other tests look at."""
    monkeypatch.setattr(
        "harness.report.fleet.view.fleet_charts_of", lambda estimated, forecasted: {}
    )


def test_the_command_writes_three_files_and_prints_them(make_run, site, tmp_path, undrawn):
    run = make_run()
    done = command(
        run,
        "--site",
        site,
        "--years",
        1,
        "--scenario",
        "reclaim",
        "--demand-sessions",
        100,
        "--assume",
        "pue=1.2",
    )
    assert done.exit_code == 0, done.output
    assert "Output tokens per day" in done.output
    assert "The lessor takes part of the site back" in done.output
    for name in ("fleet.html", "fleet.md", "fleet.json"):
        assert (run / "fleet" / name).is_file()
        assert name in done.output


def test_json_is_all_that_the_command_prints(make_run, site, tmp_path, undrawn):
    done = command(make_run(), "--site", site, "--years", 0, "--json", "--out", tmp_path / "o")
    assert json.loads(done.stdout)["cases"][0]["estimate"]["site"]["name"] == "ours"


def test_sites_are_listed_with_what_contradicts_them():
    done = command("sites")
    assert "colossus-1: 200,000 x 1.73 kW" in done.output
    listed = json.loads(command("sites", "--json").stdout)
    assert listed[0]["contradictions"]


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        ({"status": Status.INVALID}, (), 10),
        ({"gpus": (), "power": {}}, (), 10),
        ({"gpus": ("NVIDIA H200",) * 8}, (), 8),
        ({}, ("--work", "model=other"), 8),
        ({}, ("--assume", "pue=0.5"), 2),
        ({}, ("--scenario", "flood"), 2),
        ({}, ("--policy", "pray"), 2),
        ({}, ("--demand-tok-s", "-1"), 2),
        ({}, ("--work", "model"), 2),
        ({}, ("--modelled", "1.2"), 0),
        ({}, ("--modelled", "x"), 2),
        ({}, ("--limits", "nowhere"), 7),
        ({}, ("--years", "501"), 2),
        ({"good_share": 0.0}, (), 10),
    ],
)
def test_each_refusal_has_its_exit_code(make_run, site, tmp_path, undrawn, change, options, code):
    done = command(
        make_run(**change), "--site", site, "--years", 0, "--out", tmp_path / "o", *options
    )
    assert done.exit_code == code, done.output
