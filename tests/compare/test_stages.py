"""Runs of several load stages: stages are paired by name, in comparisons, gates and thresholds."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts.run_result import load_result
from harness.artifacts.run_summary import (
    Headline,
    StageSummary,
    Summary,
    read_summary,
    summary_json,
)
from harness.artifacts.typed_json import to_json
from harness.compare.compare import Comparison, compare_runs
from harness.compare.gates import Outcome, evaluate_gates
from harness.compare.ratios import Word
from harness.compare.stages import at_stage
from harness.compare.thresholds import evaluate_thresholds
from harness.core.records import Concern, Severity, Status
from harness.profile.thresholds import parse_threshold
from harness.report.comparison.view import compare_view
from harness.report.comparison.write import comparison_html

Sweep = Callable[..., Path]
DRIFT = Concern("not_stationary", Severity.DEGRADED, "Drift.", 0.3, 0.05)
THROTTLED = Concern("throttled", Severity.INVALID, "A GPU was throttled.", 0.5, 0.0)


@pytest.fixture(name="sweep")
def _sweep(make_run: Callable[..., Path]) -> Sweep:
    """A run whose stages have an output throughput each; one of them is the headline."""

    def make(
        run_id: str,
        outputs: Mapping[str, float],
        headline: str = "c64",
        concerns: Mapping[str, Concern] | None = None,
        **changes: object,
    ) -> Path:
        path = make_run(run_id, **changes)
        summary = read_summary(path / "summary.json")
        stages = tuple(_stage(summary, name, value) for name, value in outputs.items())
        stages = tuple(
            replace(one, concerns=(concerns[one.name],)) if one.name in (concerns or {}) else one
            for one in stages
        )
        top = next(stage for stage in stages if stage.name == headline)
        chosen = Headline(stage=headline, rule="best_under_slo", reason="a reason")
        whole = replace(
            summary, stages=stages, headline=chosen, metrics=top.metrics, latency=top.latency
        )
        (path / "summary.json").write_text(json.dumps(summary_json(whole)))
        return path

    return make


def _stage(summary: Summary, name: str, value: float) -> StageSummary:
    figure = replace(summary.metrics["output_tok_s"], value=value, ci_low=None, ci_high=None)
    metrics = {**summary.metrics, "output_tok_s": replace(figure, window=name)}
    counts, latency = summary.requests, summary.latency
    return StageSummary(name, "concurrency", summary.window, counts, metrics, latency)


def _repeats(
    sweep: Sweep, name: str, outputs: Mapping[str, float], **changes: object
) -> list[Path]:
    spread = (0.99, 1.0, 1.01)
    return [
        sweep(
            f"{name}{i}",
            {stage: value * factor for stage, value in outputs.items()},
            seed=10 * ord(name) + i,
            settings={"max_num_seqs": ord(name)},
            **changes,
        )
        for i, factor in enumerate(spread)
    ]


def _word(comparison: Comparison, stage: str, key: str = "output_tok_s") -> Word:
    found = next(one for one in comparison.stages if one.name == stage)
    return next(row for row in found.metrics if row.key == key).cells[0].word


def test_a_loss_in_a_stage_that_is_not_the_headline_is_found(sweep: Sweep) -> None:
    a = _repeats(sweep, "a", {"c16": 100, "c64": 300, "c256": 400})
    b = _repeats(sweep, "b", {"c16": 70, "c64": 300, "c256": 400})
    comparison = compare_runs([*a, *b])
    assert [stage.name for stage in comparison.stages] == ["c16", "c64", "c256"]
    assert _word(comparison, "c16") is Word.WORSE
    assert _word(comparison, "c256") is Word.NO_DIFFERENCE
    headline = next(row for row in comparison.metrics if row.key == "output_tok_s")
    assert headline in comparison.stages[1].metrics
    assert "## Stages" in comparison.to_markdown()
    rows = [row for row in comparison.stage_rows() if row[0] == "c16"]
    assert rows[0][:4] == ("c16", "output_tok_s", "tok/s", "100")
    assert len(comparison.stage_columns()) == len(rows[0])


def test_different_headline_stages_are_not_compared_but_their_stages_are(sweep: Sweep) -> None:
    outputs = {"c16": 100, "c64": 300}
    a, b = _repeats(sweep, "a", outputs), _repeats(sweep, "b", outputs, headline="c16")
    comparison = compare_runs([*a, *b])
    assert comparison.metrics == ()
    assert any("A: c64; B: c16" in note for note in comparison.notes)
    treatment = next(one for one in comparison.treatments if one.key == "headline stage")
    assert (treatment.values, treatment.differs) == (("c64", "c16"), True)
    assert _word(comparison, "c64") is Word.NO_DIFFERENCE
    view = compare_view(comparison)
    assert view.headline == ()
    assert view.stages[0].rows[0][0] == "c16: Output-token throughput"
    assert "c64: " in comparison_html(view)


def test_a_stage_of_one_side_alone_is_listed(sweep: Sweep) -> None:
    a = _repeats(sweep, "a", {"c16": 100, "c64": 300})
    b = _repeats(sweep, "b", {"c64": 300, "c256": 400})
    comparison = compare_runs([*a, *b])
    assert {stage.name: stage.sides for stage in comparison.stages} == {
        "c16": ("A",),
        "c64": ("A", "B"),
        "c256": ("B",),
    }
    assert _word(comparison, "c16") is _word(comparison, "c256") is Word.ABSENT
    assert comparison.stage_remarks() == ["Stage c16: only in A", "Stage c256: only in B"]
    assert to_json(comparison)["stages"][0]["sides"] == ["A"]


def test_nothing_is_claimed_from_a_stage_that_drifts(sweep: Sweep) -> None:
    a = _repeats(sweep, "a", {"c16": 100, "c64": 300})
    b = _repeats(sweep, "b", {"c16": 50, "c64": 200}, concerns={"c16": DRIFT})
    comparison = compare_runs([*a, *b])
    assert _word(comparison, "c64") is Word.WORSE
    assert _word(comparison, "c16") is Word.NO_CLAIM
    assert comparison.stage_remarks() == ["Stage c16: B: not_stationary"]


def test_a_headline_that_drifts_does_not_spoil_the_other_stages(sweep: Sweep) -> None:
    path = sweep("a", {"c16": 100, "c64": 300}, concerns={"c64": DRIFT}, status=Status.DEGRADED)
    summary = read_summary(path / "summary.json")
    whole = replace(summary, verdict=replace(summary.verdict, concerns=(DRIFT,)))
    (path / "summary.json").write_text(json.dumps(summary_json(whole)))
    run = load_result(path)
    assert run.status is Status.DEGRADED
    assert at_stage(run, "c16").status is Status.VALID
    assert at_stage(run, "c64").status is Status.DEGRADED
    assert at_stage(run, "c16").figure("output_tok_s").value == 100
    assert at_stage(run, "c8").figure("output_tok_s").value is None


def test_runs_of_one_stage_have_no_table_of_stages(sweep: Sweep) -> None:
    a, b = _repeats(sweep, "a", {"c64": 300}), _repeats(sweep, "b", {"c64": 200})
    comparison = compare_runs([*a, *b])
    assert comparison.stages == ()
    assert "headline stage" not in {one.key for one in comparison.treatments}


def test_gates_on_a_stage_and_on_every_stage(sweep: Sweep) -> None:
    a = _repeats(sweep, "a", {"c16": 100, "c64": 300})
    b = _repeats(sweep, "b", {"c16": 50, "c64": 300})
    texts = (
        "c16: output_tok_s >= 0.9 * baseline",
        "output_tok_s >= 0.9 * baseline",
        "*: output_tok_s > 60",
        "c8: output_tok_s > 1",
    )
    comparison = compare_runs([*a, *b], gates=[parse_threshold(text) for text in texts])
    assert [(gate.threshold.text, gate.outcome) for gate in comparison.gates] == [
        ("c16: output_tok_s >= 0.9 * baseline", Outcome.FAILED),
        ("output_tok_s >= 0.9 * baseline", Outcome.PASSED),
        ("c16: output_tok_s > 60", Outcome.FAILED),
        ("c64: output_tok_s > 60", Outcome.PASSED),
        ("c8: output_tok_s > 1", Outcome.ABSENT),
    ]


def test_a_gate_on_different_headline_stages_is_absent(sweep: Sweep) -> None:
    outputs = {"c16": 100, "c64": 300}
    a, b = _repeats(sweep, "a", outputs), _repeats(sweep, "b", outputs, headline="c16")
    gates = [parse_threshold("output_tok_s >= 0.5 * baseline"), parse_threshold("output_tok_s > 1")]
    sides = {"A": [load_result(one) for one in a], "B": [load_result(one) for one in b]}
    relative, plain = evaluate_gates(gates, sides)
    assert (relative.outcome, plain.outcome) == (Outcome.ABSENT, Outcome.PASSED)
    assert "B: c16" in relative.reason


def test_a_gate_does_not_pass_on_an_invalid_stage(sweep: Sweep) -> None:
    runs = _repeats(sweep, "a", {"c16": 100, "c64": 300}, concerns={"c16": THROTTLED})
    gates = [parse_threshold("*: output_tok_s > 1")]
    found = compare_runs(runs, group_by=["engine"], gates=gates).gates
    assert [one.outcome for one in found] == [Outcome.ABSENT, Outcome.PASSED]


def test_thresholds_of_a_run_on_its_stages(sweep: Sweep) -> None:
    path = sweep("a", {"c16": 100, "c64": 300}, concerns={"c16": THROTTLED})
    texts = ["c64: output_tok_s >= 300", "*:output_tok_s > 50", "c8: output_tok_s > 1"]
    results = evaluate_thresholds(texts, read_summary(path / "summary.json"))
    assert [(one.threshold.text, one.value, one.passed) for one in results] == [
        ("c64: output_tok_s >= 300", 300, True),
        ("c16: output_tok_s > 50", 100, False),
        ("c64: output_tok_s > 50", 300, True),
        ("c8: output_tok_s > 1", None, False),
    ]
    assert "throttled" in (results[1].reason or "")


def test_every_stage_of_a_run_without_stages_never_passes(summary: Summary) -> None:
    (result,) = evaluate_thresholds(["*: output_tok_s > 0"], summary)
    assert (result.value, result.passed) == (None, False)


def test_runs_of_one_stage_each_are_compared_without_stages(sweep: Sweep) -> None:
    one, other = sweep("a", {"c32": 100.0}, "c32"), sweep("b", {"c64": 150.0}, "c64")
    compared = compare_runs([one, other], allow_mismatch=["workload_sha256"])
    assert compared.stages == ()
    assert compared.metrics
