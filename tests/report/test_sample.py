"""The pictures and the sample runs of the documentation."""

import json
import re
import shutil
from pathlib import Path

import pytest

from harness.compare.baseline import list_baselines
from harness.reduce.reduction import reduce_run

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "docs" / "sample"
RUNS = sorted(path.parent for path in SAMPLE.glob("*/*/manifest.json"))
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
SHOWN = {
    (page.parent / name).resolve()
    for page in PAGES
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text())
}


def test_every_picture_exists_is_small_and_is_shown():
    made = set((ROOT / "docs" / "img").iterdir())
    assert made == SHOWN
    assert {path.name: path.stat().st_size for path in made if path.stat().st_size > 150_000} == {}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.parent.name)
def test_a_sample_run_reduces_to_its_committed_summary(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    reduce_run(tmp_path / "run")
    found, committed = (
        json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "run", run)
    )
    assert found == committed, "make docs-images writes it again"


def test_the_sample_is_a_run_of_three_stages_and_a_comparison_of_repeats():
    baselines = {row["name"]: row for row in list_baselines([SAMPLE])}
    assert {name: row["runs"] for name, row in baselines.items()} == {
        "threads-1": 3,
        "threads-2": 3,
        "vllm-cpu": 1,
    }
    assert baselines["vllm-cpu"]["engine"].startswith("vllm")
    (run,) = (path for path in RUNS if path.parent.name == "vllm-cpu")
    summary = json.loads((run / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["c1", "c2", "c4"]
    assert run.name in (SAMPLE / "report.html").read_text()


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 2_200_000
