"""Pages that are written by hand name everything that they promise to name."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from harness.artifacts import tables
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Summary
from harness.checked_yaml.problems import InvalidYamlError
from harness.core.records import Outcome, RunState
from harness.profile.load import load_profile_text

DOCS = Path(__file__).resolve().parents[2] / "docs"
PACKAGE = DOCS.parent / "harness"
PAGES = sorted(
    (
        *DOCS.rglob("*.md"),
        *DOCS.parent.glob("*.md"),
        *DOCS.parent.glob("deploy/**/*.md"),
        DOCS.parent / "results/README.md",
    )
)
RUN_DIRECTORY = (DOCS / "reference" / "run-directory.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(
        r"^## ", RUN_DIRECTORY.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE
    )[0]


@pytest.mark.parametrize(
    ("title", "schemas"),
    [
        ("requests", [tables.REQUESTS]),
        ("plan", [tables.PLAN]),
        ("scrapes", [tables.SCRAPES_RAW, tables.SAMPLES]),
        ("power", [tables.POWER]),
        ("GPU state", [tables.BOARDS]),
        ("host", [tables.HOST]),
    ],
)
def test_every_column_of_a_table_is_explained_in_its_order(title, schemas):
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", section(title), flags=re.MULTILINE)
    assert [name for name, _ in rows] == [name for schema in schemas for name in schema.names]
    nullable = [field.nullable for schema in schemas for field in schema]
    assert [null.startswith("never") and not null.startswith("never sent") for _, null in rows] == [
        not may for may in nullable
    ]


def test_every_outcome_and_state_is_named():
    for word in (*Outcome, *RunState):
        assert f"`{word}`" in RUN_DIRECTORY


def test_every_file_of_a_run_directory_is_named(tmp_path):
    run = RunDir(tmp_path)
    values = {name: getattr(run, name) for name in dir(run) if not name.startswith("_")}
    paths = {value for value in values.values() if isinstance(value, Path)} - {tmp_path}
    assert len(paths) > 20
    for path in paths:
        assert str(path.relative_to(tmp_path)) in RUN_DIRECTORY


def test_every_key_of_the_summary_is_named():
    text = section("summary.json")
    for field in fields(Summary):
        assert f"`{field.name}`" in text


def test_every_environment_variable_is_on_its_page():
    text = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    options = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bHARNESS_[A-Z_]+\b", code))
    assert "HARNESS_CACHE_DIR" in named
    assert [name for name in sorted(named) if f"`{name}`" not in text + options] == []


def test_every_page_that_code_names_exists():
    named = {
        (path.name, page)
        for path in PACKAGE.rglob("*.py")
        for page in re.findall(r"(?<![\w/@])docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))
        if path.name != "metric_names.py"  # names pages of other projects
    }
    assert len(named) > 5
    assert [(name, page) for name, page in named if not (DOCS.parent / page).exists()] == []


def test_the_errors_shown_in_the_first_tutorial_are_those_of_the_loader():
    shown = (
        (DOCS / "tutorials" / "first-run.md")
        .read_text(encoding="utf-8")
        .split("```text\nerror: ")[1]
        .split("```")[0]
    )
    profile = (DOCS.parent / "loadprofiles" / "cpu-smoke.yaml").read_text(encoding="utf-8")
    broken = profile.replace("      concurrency: 8", "      concurency: 8").replace(
        "window_s: 15s", "window_s: 15 sec"
    )
    with pytest.raises(InvalidYamlError) as caught:
        load_profile_text(broken, source="mine.yaml")
    assert str(caught.value) == shown.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
