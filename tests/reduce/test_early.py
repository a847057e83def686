"""Run directories that earlier commits wrote.

fixtures/run-early is a run of vLLM 0.32 on a CPU as the run room of commit 1833a0c (harness 0.1.0)
recorded it, without its journals, logs and report; paths and the machine's names are taken out.
figures.json is what the reduction of that commit made of it.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.layout import SCHEMA_VERSION
from harness.artifacts.run_summary import Recount, read_summary
from harness.reduce import reduce_run, write_summary

EARLY = Path(__file__).parent / "fixtures" / "run-early"


@pytest.fixture(name="early", scope="module")
def _early(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    root = tmp_path_factory.mktemp("early") / "run"
    shutil.copytree(EARLY, root)
    summary = reduce_run(root)
    assert read_summary(write_summary(root, summary)) == summary
    return summary, json.loads((EARLY / "figures.json").read_text())


def test_its_figures_are_those_of_then(early: tuple[Any, dict[str, Any]]) -> None:
    summary, then = early
    for key, value in then["metrics"].items():
        assert summary.metrics[key].value == (
            None if value is None else pytest.approx(value, rel=1e-9)
        ), key
    for key, distribution in then["latency"].items():
        for name, value in distribution.items():
            assert getattr(summary.latency[key], name) == (
                None if value is None else pytest.approx(value, rel=1e-9)
            ), (key, name)
    for key, agreement in then["reconciliation"].items():
        assert {name: getattr(summary.reconciliation[key], name) for name in agreement} == agreement
    assert (summary.window.start_s, summary.window.end_s) == pytest.approx(
        (then["window"]["start_s"], then["window"]["end_s"])
    )
    assert (summary.requests.sent, summary.requests.ok) == (
        then["requests"]["sent"],
        then["requests"]["ok"],
    )
    assert (str(summary.verdict.status), summary.schema_version) == (
        then["verdict"],
        SCHEMA_VERSION,
    )


def test_what_nobody_recorded_then_is_absent_and_never_nothing(
    early: tuple[Any, dict[str, Any]],
) -> None:
    summary, then = early
    later = set(summary.metrics) - set(then["metrics"])
    assert {"idle_power_w", "kgco2_per_mtok"} <= later
    assert all(
        summary.metrics[key].note for key in summary.metrics if summary.metrics[key].value is None
    )
    assert (summary.quality, summary.client.calibration, summary.client.canary) == (
        None,
        None,
        None,
    )
    assert summary.labels.quality == "quality unverified"
    tokenizer = summary.reconciliation["input_tokens"].tokenizer
    assert "not recounted" in tokenizer.note
    assert replace(tokenizer, note=None) == Recount()


def test_taken_for_a_measurement_it_says_what_it_went_without(tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(EARLY, root)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["profile"]["purpose"] = "measure"
    (root / "manifest.json").write_text(json.dumps(manifest))
    summary = reduce_run(root)
    assert summary.verdict.status == "degraded"
    found = {concern.code for concern in summary.verdict.concerns}
    assert {
        "calibration_missing",
        "quality_missing",
        "steady_state_untested",
        "window_short",
    } <= found
