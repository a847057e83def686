"""`harness.compare` is `harness compare`."""

from pathlib import Path

import pytest

import harness
from harness.artifacts.run_result import load_result
from harness.compare.compare import compare_runs


def test_runs_and_paths_compare_as_on_the_command_line(reduced: Path) -> None:
    a, b = (reduced / "repeats" / name for name in ("b16-1", "fp8-1"))
    found = harness.compare([harness.load(a), str(b)])
    assert isinstance(found, harness.Comparison)
    assert found == compare_runs([a, b])
    row = next(row for row in found.metrics if row.key == "output_tok_s")
    before, after = (load_result(path).figure("output_tok_s").value for path in (a, b))
    assert before is not None
    assert after is not None
    assert row.baseline == pytest.approx(before)
    assert row.cells[0].value == pytest.approx(after)


def test_a_baseline_is_side_a_and_gates_are_judged(reduced: Path) -> None:
    a, b = (reduced / "repeats" / name for name in ("b16-1", "fp8-1"))
    found = harness.compare([b], baseline=harness.load(a), gates=["output_tok_s >= 1"])
    assert found.sides[0].paths == (str(a),)
    assert [gate.threshold.text for gate in found.gates] == ["output_tok_s >= 1"]


def test_a_gate_that_is_no_threshold_is_an_error(reduced: Path) -> None:
    with pytest.raises(harness.HarnessError, match="output_tok_s is nice") as caught:
        harness.compare([reduced / "repeats/b16-1"], gates=["output_tok_s is nice"])
    assert caught.value.exit_code == 2


def test_runs_that_answer_other_questions_are_refused(reduced: Path) -> None:
    with pytest.raises(harness.HarnessError) as caught:
        harness.compare([reduced / "repeats/b16-1", reduced / "energy"])
    assert caught.value.exit_code == 8
