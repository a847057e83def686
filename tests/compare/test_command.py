"""`harness compare` as a person or a CI job calls it, and the page that it writes."""

import json
import re
from xml.etree import ElementTree as ET

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.compare.compare import compare_runs
from harness.profile.thresholds import parse_threshold
from harness.report.comparison.view import compare_view
from harness.report.comparison.write import comparison_html, write_comparison


@pytest.fixture
def harness():
    return lambda *arguments: CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def two_sides(make_run):
    """Three repeats each of two engines; the second is 10 % slower and has the same requests on
    disk.
    """
    found = []
    for name, version, factor in (("a", "0.32.0", 1.0), ("b", "0.33.0", 0.9)):
        for i in range(3):
            tok_s = factor * (1000.0 + 2 * i)
            values = {
                "output_tok_s": tok_s,
                "output_tok_s_per_gpu": tok_s,
                "interactivity_tok_s_user": 50 * factor + i,
                "power_w": 600.0 + i,
            }
            run = make_run(f"{name}{i}", seed=i, engine_version=version, values=values)
            manifest = json.loads((run / "manifest.json").read_text())
            (run / "manifest.json").write_text(json.dumps({**manifest, "started_ns": 0}))
            n = 40
            intended = [
                round((5 + 20 * k) * 1e9) for k in range(n)
            ]  # the first one lies before the window, the last ones after it
            columns = {
                "class": ["chat"] * (n - 2) + ["canary", "chat/prime"],
                "outcome": ["ok"] * (n - 1) + ["timeout_idle"],
                "intended_ns": intended,
                "first_token_ns": [
                    t + round(1e6 * (300 + k) / factor) for k, t in enumerate(intended)
                ],
                "last_token_ns": [
                    t + round(1e6 * (900 + 5 * k) / factor) for k, t in enumerate(intended)
                ],
            }
            pq.write_table(pa.table(columns), run / "requests.parquet")
            found.append(run)
    return found


def test_a_failed_gate_exits_99_and_leaves_what_ci_reads(harness, two_sides, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    gates = tmp_path / "gates.yaml"
    gates.write_text("- output_tok_s >= 0.95 * baseline\n")
    junit, summary, report = (
        tmp_path / "out" / "junit.xml",
        tmp_path / "out" / "summary.md",
        tmp_path / "report",
    )
    done = harness(
        *two_sides,
        "--gate",
        gates,
        "--junit",
        junit,
        "--summary",
        summary,
        "--github",
        "--report",
        report,
    )
    assert done.exit_code == 99, done.output
    assert "::error title=" in done.stdout
    assert "gate failed: side B: output_tok_s" in done.stderr
    assert ET.parse(junit).getroot().attrib["failures"] == "1"
    assert summary.read_text().startswith("## ❌")
    assert page.read_text().startswith("before\n## ❌")
    assert json.loads((report / "comparison.json").read_text())["gates"][0]["outcome"] == "FAILED"
    assert {path.name for path in report.iterdir()} == {
        "comparison.html",
        "comparison.md",
        "comparison.json",
        "comparison-charts",
    }
    text = (report / "comparison.md").read_text()
    named = re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(named) == 8
    assert all((report / name).is_file() for name in named)
    assert "#01010" not in "".join((report / name).read_text() for name in named)


def test_a_gate_that_holds_exits_0_and_json_is_alone_on_stdout(harness, two_sides, tmp_path):
    gates = tmp_path / "gates.yaml"
    gates.write_text("- output_tok_s >= 0.8 * baseline\n")
    done = harness(*two_sides, "--gate", gates, "--json", "--github")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["gates"][0]["outcome"] == "passed"
    assert "::notice" in done.stderr


def test_too_few_repeats_fail_only_under_strict(harness, two_sides, tmp_path):
    gates = tmp_path / "gates.yaml"
    gates.write_text("- output_tok_s >= 0.8 * baseline\n")
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    one_each = (
        two_sides[0],
        two_sides[3],
        "--gate",
        gates,
        "--junit",
        junit,
        "--github",
        "--summary",
        summary,
    )
    done = harness(*one_each)
    root = ET.parse(junit).getroot()
    assert (done.exit_code, root.attrib["failures"], root[0].attrib["skipped"]) == (0, "0", "1")
    assert "::warning " in done.stdout
    assert summary.read_text().startswith("## ⚠️ 1 of 1 gates ")
    done = harness(*one_each, "--strict")
    assert (done.exit_code, ET.parse(junit).getroot().attrib["failures"]) == (99, "1")
    assert "::error " in done.stdout
    assert summary.read_text().startswith("## ❌ 1 of 1 gates failed")


def test_what_is_not_comparable_exits_8(harness, make_run):
    done = harness(make_run("a"), make_run("b", workload="w2"))
    assert done.exit_code == 8
    assert "workload_sha256: w1 in" in done.stderr


def test_one_run_can_be_held_against_numbers(harness, make_run, tmp_path):
    gates = tmp_path / "gates.yaml"
    gates.write_text("- ttft_s.p99 < 1.5\n")
    assert harness(make_run("a"), "--gate", gates).exit_code == 0
    gates.write_text("- output_tok_s >= 0.9 * baseline\n")
    done = harness(make_run("b"), "--gate", gates)
    assert done.exit_code == 2
    assert "needs a baseline" in done.stderr


# --- the page ---


def test_the_page_is_one_file_that_draws_its_charts_and_says_what_it_found(two_sides):
    comparison = compare_runs(two_sides, gates=[parse_threshold("output_tok_s >= 0.95 * baseline")])
    shown = compare_view(comparison)
    page = comparison_html(shown)
    assert set(shown.charts) == {"ratios", "trade", "ttft", "e2e"}
    assert page.count("<svg ") == 8
    assert not re.search(r'(?:src|href)="https?://', page)
    assert "#01010" not in page  # every placeholder of a colour became a variable
    assert "gate failed" in page
    for row in comparison.metrics:
        assert row.title in page


def test_latency_curves_hold_the_requests_of_the_window_alone(two_sides):
    figure = compare_view(compare_runs(two_sides)).charts["ttft"]
    # The window is 10-640 s: of requests intended at 5, 25, 45, … s those at 25 … 625 s, 31 of each
    # of three runs.
    assert [row[-1] for row in figure.table.rows] == ["93", "93"]
    # Their first tokens took 301 … 331 ms: the 47th of 93, three at a time, is the 16th of them.
    assert figure.table.rows[0][1] == "316 ms"


def test_curves_are_left_out_where_a_side_has_no_requests_at_hand(two_sides):
    (two_sides[4] / "requests.parquet").unlink()
    figures = compare_view(compare_runs(two_sides)).charts
    assert "ratios" in figures
    assert "ttft" not in figures


def test_one_side_alone_is_a_page_of_its_spread(two_sides, tmp_path):
    comparison = compare_runs(two_sides[:3], group_by=["engine"])
    html, markdown, _ = write_comparison(comparison, tmp_path / "report")
    assert "3 repeats of" in html.read_text()
    assert "95% CI" in markdown.read_text()
