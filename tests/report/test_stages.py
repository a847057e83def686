"""The table of load stages and its curves: what is shown, marked and left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.run_summary import Headline, Summary
from harness.core.records import Concern, Severity
from harness.profile.recorded import RecordedStage
from harness.reduce.reduction import reduce_fully
from harness.report.charts import HALF, NARROW, draw, line_chart
from harness.report.run.stages import MARK, curves, headline_sentence, stage_table
from harness.report.tables import Table
from harness.report.terminal import result

RUN = Path(__file__).parents[1] / "golden" / "runs" / "attribution"
"""A run of six stages on one GPU."""


@pytest.fixture(name="summary", scope="module")
def _summary() -> Summary:
    return reduce_fully(RUN).summary


def column(table: Table | None, head: str) -> list[str]:
    assert table is not None
    position = list(table.head).index(head)
    return [row[position] for row in table.rows]


def with_stages(summary: Summary, *values: dict[str, float | None], **fields: Any) -> Summary:
    """The first stages, with other values of metrics; everything else of `Summary` as given."""
    stages = []
    for stage, changed in zip(summary.stages, values, strict=False):
        metrics = {key: replace(stage.metrics[key], value=v) for key, v in changed.items()}
        stages.append(replace(stage, metrics={**stage.metrics, **metrics}))
    return replace(summary, stages=tuple(stages), **fields)


def test_one_row_per_stage_with_throughput_per_gpu_latency_and_energy(summary: Summary) -> None:
    table = stage_table(summary)
    assert [name.removesuffix(f" {MARK}") for name in column(table, "Stage")] == [
        stage.name for stage in summary.stages
    ]
    assert column(table, "Output tok/s/GPU")[0] == "15.6"
    assert column(table, "TTFT p50")[0] == "450 ms"
    assert column(table, "TPOT p99")[1] == "20 ms"
    assert column(table, "Output tok/J")[3] == "1.24"
    assert table is not None
    assert "Output tok/s" not in table.head
    assert "24 s" in table.caption  # the windows are equally long


def test_columns_without_any_value_are_left_out(summary: Summary) -> None:
    table = stage_table(summary)
    assert table is not None
    assert "USD per Mtok" not in table.head
    priced = with_stages(summary, {"usd_per_mtok": 2.5}, {})
    assert column(stage_table(priced), "USD per Mtok") == ["2.50", "—"]
    nothing = {"output_tok_s_per_gpu": None}
    total = with_stages(summary, nothing, nothing)
    assert column(stage_table(total), "Output tok/s") == ["15.6", "97.7"]


def test_a_single_stage_has_neither_table_nor_curve_nor_sentence(summary: Summary) -> None:
    one = with_stages(summary, {})
    assert len(one.stages) == 1
    assert stage_table(one) is None
    assert headline_sentence(one) == ""
    assert curves(one) == {"trade": None, "trade_ttft": None}


def test_the_headline_is_marked_and_its_rule_and_reason_are_printed(summary: Summary) -> None:
    chosen = replace(summary, headline=Headline(stage="short-2", rule="last", reason="because"))
    table = stage_table(chosen)
    assert table is not None
    assert table.marked == 1
    assert column(table, "Stage")[:2] == ["prefill", f"short-2 {MARK}"]
    assert {"short-2", "last", "because"} <= set(
        headline_sentence(chosen).replace(",", "").replace(":", "").replace(".", "").split()
    )
    unknown = replace(summary, headline=None)
    table = stage_table(unknown)
    assert table is not None
    assert (table.marked, headline_sentence(unknown)) == (None, "")


def test_a_stage_that_is_worse_than_the_others_is_marked(summary: Summary) -> None:
    clean = [replace(stage, concerns=()) for stage in summary.stages]
    doubt = Concern("drift", Severity.DEGRADED, "it drifts")
    bad = Concern("window_cut", Severity.INVALID, "it was cut")
    clean[1] = replace(clean[1], concerns=(doubt,))
    clean[2] = replace(clean[2], concerns=(bad, doubt))
    mixed = replace(summary, stages=tuple(clean))
    assert column(stage_table(mixed), "Validity")[:4] == ["", "degraded", "invalid", ""]
    same = replace(summary, stages=tuple(replace(stage, concerns=()) for stage in clean))
    table = stage_table(same)
    assert table is not None
    assert "Validity" not in table.head


def test_a_stage_without_a_window_has_dashes_and_others_keep_theirs(summary: Summary) -> None:
    first, second, *_ = summary.stages
    none = replace(first.window, start_s=None, end_s=None, duration_s=None)
    cut = replace(summary, stages=(replace(first, window=none), second))
    assert column(stage_table(cut), "Window") == ["—", "24 s"]


@pytest.mark.parametrize(
    ("load", "head", "cells"),
    [
        (
            [
                RecordedStage(kind="concurrency", concurrency=1, over="requests"),
                RecordedStage(kind="concurrency", concurrency=16, over="requests"),
            ],
            "Requests in flight",
            ["1", "16"],
        ),
        (
            [
                RecordedStage(kind="concurrency", concurrency=4),
                RecordedStage(kind="arrival_rate", rate_per_s=2.5, over="requests"),
            ],
            "Load",
            ["4 live sessions", "2.500 requests per second"],
        ),
    ],
)
def test_the_load_is_a_number_under_its_unit_or_words(
    summary: Summary, load: list[RecordedStage], head: str, cells: list[str]
) -> None:
    two = with_stages(summary, {}, {})
    assert column(stage_table(two, load), head) == cells
    table = stage_table(summary, load)  # not of these six stages
    assert table is not None
    assert head not in table.head


def test_curves_ring_the_headline_and_name_every_point(summary: Summary) -> None:
    user = "interactivity_tok_s_user"
    swept = with_stages(
        summary,
        {user: 80.0, "output_tok_s_per_gpu": 100.0},
        {user: 60.0, "output_tok_s_per_gpu": 300.0},
        {user: 30.0, "output_tok_s_per_gpu": 500.0},
        headline=Headline(stage="short-2", rule="best_under_slo"),
    )
    trade, ttft = curves(swept)["trade"], curves(swept)["trade_ttft"]
    assert trade is not None
    assert ttft is not None
    assert trade.chart.ring == (60.0, 300.0)
    assert trade.chart.lines[0].points == [(80.0, 100.0), (60.0, 300.0), (30.0, 500.0)]
    assert ttft.chart.ring == (0.055, 300.0)
    assert [line.name for line in ttft.chart.lines] == ["TTFT p50", "TTFT p99"]
    for size in (HALF, NARROW):
        drawing = draw(line_chart(trade.chart, size))
        assert all(f">{name}</text>" in drawing for name in ("prefill", "short-2", "short-4"))


def test_names_that_would_cover_each_other_are_drawn_once(summary: Summary) -> None:
    same = {"interactivity_tok_s_user": 50.0, "output_tok_s_per_gpu": 100.0}
    apart = {"interactivity_tok_s_user": 10.0, "output_tok_s_per_gpu": 300.0}
    shown = curves(with_stages(summary, same, same, apart))["trade"]
    assert shown is not None
    drawing = draw(line_chart(shown.chart, HALF))
    assert ">prefill</text>" in drawing
    assert ">short-2</text>" not in drawing
    assert ">short-4</text>" in drawing


def test_the_terminal_has_the_same_table(summary: Summary) -> None:
    shown = result(RUN, summary)
    assert shown.stages is not None
    assert column(shown.stages, "Live sessions") == ["4", "2", "4", "8", "2", "5"]
    assert shown.headline == headline_sentence(summary)
    manifest_less = result(RUN.parent, summary).stages
    assert manifest_less is not None
    assert "Live sessions" not in manifest_less.head
