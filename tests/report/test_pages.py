"""One page of each report, word for word. All other tests look at keys and numbers.

After a change that is meant to alter a page:

    HARNESS_GOLDEN_UPDATE=1 python -m pytest tests/report/test_pages.py
"""

import difflib
import os
import shutil
from datetime import date
from pathlib import Path

import pytest

from harness.commands.fleet import FleetRequest, fleet
from harness.compare.compare import compare_runs
from harness.fleet.estimate.estimate import Options
from harness.profile.thresholds import parse_threshold
from harness.reduce.reduction import reduce_fully, reduce_run, write_summary
from harness.report.comparison.view import compare_view
from harness.report.comparison.write import comparison_markdown
from harness.report.fleet.view import fleet_view
from harness.report.fleet.write import fleet_markdown
from harness.report.run.view import view
from harness.report.run.write import markdown

PAGES = Path(__file__).parent / "pages"
RUNS = Path(__file__).parents[1] / "golden" / "runs"


def run_page(folder: Path) -> str:
    return markdown(view(reduce_fully(RUNS / "energy")))


def comparison_page(folder: Path) -> str:
    copy = shutil.copytree(RUNS / "repeats", folder / "repeats")
    for manifest in copy.glob("*/manifest.json"):
        write_summary(manifest.parent, reduce_run(manifest.parent))
    gates = [parse_threshold("output_tok_s >= 0.95 * baseline"), parse_threshold("power_w < 1k")]
    comparison = compare_runs([copy], gates=gates)
    return comparison_markdown(comparison, compare_view(comparison))


def fleet_page(folder: Path) -> str:
    request = FleetRequest(
        runs=[RUNS / "fleet" / "two"],
        sites=[str(RUNS / "fleet" / "hall.yaml")],
        options=Options(draws=200, as_of=date(2026, 11, 30)),
    )
    return fleet_markdown(fleet_view(fleet(request)))


@pytest.mark.parametrize("page", [run_page, comparison_page, fleet_page])
def test_the_page_is_word_for_word_as_expected(page, tmp_path: Path) -> None:
    expected = PAGES / f"{page.__name__.removesuffix('_page')}.md"
    text = page(tmp_path).replace(str(RUNS), "RUNS")
    if os.environ.get("HARNESS_GOLDEN_UPDATE") == "1":
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(text)
    difference = difflib.unified_diff(expected.read_text().splitlines(), text.splitlines())
    assert not list(difference)
