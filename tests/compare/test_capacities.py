"""Capacities of two searches: ratios by tier, and gates."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from harness.artifacts.sweep.capacity import read_capacity, write_capacity
from harness.artifacts.sweep.index import read_sweep, write_sweep
from harness.cli import app
from harness.compare.gates import Outcome
from harness.compare.sweeps import compare_sweeps
from harness.core.errors import NotComparableError, ProfileError
from harness.profile.thresholds import parse_threshold


@pytest.fixture(name="pair")
def _pair(tmp_path, made_sweep) -> list[Path]:
    """Two searches: capacity 11 (10.5 to 11.6), and half of that with twice the width."""
    pair = [
        made_sweep.as_search(made_sweep.make_sweep(tmp_path / name, threads=(1,))) for name in "ab"
    ]
    change(pair[1], load=5.5, low=5.0, high=6.1)
    return pair


def change(folder: Path, tier: str = "slo", **values: object) -> None:
    found = read_capacity(folder)
    tiers = {**found.tiers, tier: replace(found.tiers[tier], **values)}
    write_capacity(folder, replace(found, tiers=tiers))


def gate(pair: list[Path], text: str) -> tuple[Outcome, float | None]:
    (found,) = compare_sweeps(pair, gates=[parse_threshold(text)]).gates
    return found.outcome, found.value


def test_ratio_with_the_noise_of_both(pair) -> None:
    slo, fast = compare_sweeps(pair).capacities
    assert (slo.tier, slo.a, slo.b, slo.ratio) == ("slo", 11.0, 5.5, 0.5)
    assert slo.low == pytest.approx(0.5 * math.exp(-math.hypot(math.log(1.1), math.log(11.6 / 11))))
    assert slo.high == pytest.approx(
        0.5 * math.exp(math.hypot(math.log(6.1 / 5.5), math.log(11 / 10.5)))
    )
    assert (fast.ratio, fast.note is not None) == (None, True)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("capacity.slo >= 4", Outcome.PASSED),
        ("capacity.slo >= 5.5", Outcome.TOO_FEW),
        ("capacity.slo >= 7", Outcome.FAILED),
        ("capacity.slo < 7", Outcome.PASSED),
        ("capacity.slo >= 0.4 * baseline", Outcome.PASSED),
        ("capacity.slo >= 0.95 * baseline", Outcome.FAILED),
        ("capacity.slo >= 0.48 * baseline", Outcome.TOO_FEW),
        # a loss that is significant, by more than the margin: its interval may include the limit
        ("capacity.slo >= 0.52 * baseline", Outcome.FAILED),
        ("capacity.fast >= 32", Outcome.PASSED),  # beyond the highest load of the search
        ("capacity.fast >= 33", Outcome.TOO_FEW),
        ("capacity.fast >= 0.5 * baseline", Outcome.ABSENT),
    ],
)
def test_gates(pair, text: str, outcome: Outcome) -> None:
    assert gate(pair, text)[0] is outcome


def test_a_tier_that_no_load_meets(pair) -> None:
    change(pair[1], found="below", load=None, low=None, high=1.0)
    assert gate(pair, "capacity.slo >= 2") == (Outcome.FAILED, None)
    assert gate(pair, "capacity.slo >= 0.5 * baseline")[0] is Outcome.ABSENT


@pytest.mark.parametrize("text", ["capacity.other >= 2", "ttft_s.p99 < 1"])
def test_gates_on_anything_else_are_refused(pair, text: str) -> None:
    with pytest.raises(ProfileError):
        gate(pair, text)


def test_sweeps_have_no_capacities(tmp_path, made_sweep) -> None:
    pair = [made_sweep.make_sweep(tmp_path / name) for name in "ab"]
    assert compare_sweeps(pair).capacities == ()
    with pytest.raises(ProfileError):
        gate(pair, "capacity.slo >= 2")


def test_tiers_that_mean_something_else_are_not_compared(pair) -> None:
    for folder, share in zip(pair, (0.95, 0.9), strict=True):
        tiers = [{"name": "slo", "share": share, "conditions": []}, {"name": "fast"}]
        write_sweep(folder, replace(read_sweep(folder), search={"tiers": tiers}))
    with pytest.raises(NotComparableError, match=r"0\.9 "):
        compare_sweeps(pair)


def test_other_loads_are_not_compared(pair) -> None:
    write_capacity(pair[1], replace(read_capacity(pair[1]), load="arrival_rate"))
    with pytest.raises(NotComparableError, match="arrival_rate"):
        compare_sweeps(pair)


def test_the_command_gates_and_writes(pair, tmp_path) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text("- capacity.slo >= 0.95 * baseline\n- capacity.slo >= 5.5\n")
    junit, report = tmp_path / "junit.xml", tmp_path / "report"
    argv = ["compare", *map(str, pair), "--gate", str(gates), "--junit", str(junit)]
    done = CliRunner().invoke(app, [*argv, "--report", str(report)])
    assert done.exit_code == 99
    assert "0.500" in done.stdout
    suite = ET.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    written = json.loads((report / "comparison.json").read_text())
    assert [one["outcome"] for one in written["gates"]] == ["FAILED", "too few repeats"]
    page = (report / "comparison.html").read_text()
    assert page.count("<table") >= 6
    unclear = tmp_path / "unclear.yaml"
    unclear.write_text("- capacity.slo >= 5.5\n")
    codes = [
        CliRunner().invoke(app, [*argv[:3], "--gate", str(unclear), *more]).exit_code
        for more in ([], ["--strict"])
    ]
    assert codes == [0, 99]
