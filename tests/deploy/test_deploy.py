"""What deploy/ ships: valid by Prometheus' own tool, and no metric in it that nobody exports."""

import json
import re
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from harness.core.metric_names import MAPPED
from harness.telemetry.exporter import NAMES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FOLDER = DEPLOY / "prometheus"
HISTOGRAMS = {
    name for name in NAMES if name.endswith("_seconds") and name != "harness_event_loop_lag_seconds"
}
EXPORTED = (NAMES - HISTOGRAMS) | {
    f"{name}{end}" for name in HISTOGRAMS for end in ("_bucket", "_sum", "_count")
}

needs_promtool = pytest.mark.needs("promtool")


def yaml(path: Path) -> dict:
    return YAML(typ="safe").load(path)


def rules() -> list[dict]:
    return [
        rule
        for path in sorted(FOLDER.glob("*.rules.yml"))
        for group in yaml(path)["groups"]
        for rule in group["rules"]
    ]


RECORDED = {rule["record"] for rule in rules() if "record" in rule}
KNOWN = EXPORTED | RECORDED | MAPPED | {"up"}


def metrics(expression: str) -> set[str]:
    """Names of the metrics in an expression: what is left without texts, label lists, durations and
    functions.
    """
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\s*\(|[A-Za-z0-9_:])", bare)
    return set(names) - {"and", "or", "unless", "bool", "offset", "sum", "max", "min", "avg"}


def dashboard() -> list[dict]:
    return [
        panel
        for panel in json.loads((DEPLOY / "grafana" / "harness.json").read_text())["panels"]
        if panel["type"] != "row"
    ]


def test_names_are_found_in_an_expression() -> None:
    text = (
        'sum by (le) (rate(a_bucket{x="b"}[1m])) / on (job) group_left () max(c:d:e{y=~"f|g"} >'
        " 0.5) unless on () h"
    )
    assert metrics(text) == {"a_bucket", "c:d:e", "h"}


def test_every_metric_of_the_dashboard_is_exported_recorded_or_a_servers() -> None:
    named = {
        name: panel["title"]
        for panel in dashboard()
        for target in panel["targets"]
        for name in metrics(target["expr"])
    }
    assert {name: title for name, title in named.items() if name not in KNOWN} == {}
    assert len(named) > 20


def test_every_metric_of_the_rules_is_exported_recorded_or_a_servers() -> None:
    named = {name for rule in rules() for name in metrics(rule["expr"])}
    assert named - KNOWN == set()


def test_every_exported_metric_is_explained() -> None:
    text = (ROOT / "docs" / "how-to" / "prometheus.md").read_text()
    assert {name for name in NAMES if f"`{name}" not in text} == set()


def test_panels_have_words_units_and_a_place_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in dashboard():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        own = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    identities = [panel["id"] for panel in dashboard()]
    assert len(identities) == len(set(identities))


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "recording.rules.yml", "alerts.rules.yml"),
        ("test", "rules", "rules.test.yml"),
    ],
    ids=["configuration", "rules", "what the rules say"],
)
def test_promtool_accepts_them(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


DEBIAN_12_PYTHON = "3.11.2"


def test_pinned_versions_install_on_the_python_of_debian_12():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    names = [pin.partition("==")[0] for pin in pins if "==" in pin and not pin.startswith("#")]
    required = {}
    for name in names:
        with suppress(PackageNotFoundError):  # hatchling and ray are not in every environment
            required[name] = metadata(name).get("Requires-Python", "")
    assert len(required) > 100
    too_new = {n: r for n, r in required.items() if DEBIAN_12_PYTHON not in SpecifierSet(r)}
    assert too_new == {}
