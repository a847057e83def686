"""What a report says of classes, other tools' terms, the tokenizer's count and the quality of the
answers.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.run_summary import Recount
from harness.reduce.reduction import reduce_fully
from harness.report import numbers
from harness.report.run.accounts import _cell, classes, quality, recount_row, rosetta, rosetta_notes
from harness.report.run.view import view
from harness.report.run.write import markdown


@pytest.fixture(name="run")
def _run(new_builder: Callable[..., Any], tmp_path: Path) -> Path:
    builder = new_builder(window_s=6.0)
    for i in range(40):
        builder.request(
            1.5 + i / 6, ttft_s=0.1 + i / 100, **{"class": "code" if i % 2 else "chat | talk"}
        )
    root: Path = builder.write(tmp_path / "run")
    return root


def test_classes_stand_beside_each_other(run: Path) -> None:
    summary = reduce_fully(run).summary
    found = classes(summary)
    assert found is not None
    assert [row[0] for row in found.rows] == ["chat | talk", "code"]
    assert all(len(row) == len(found.head) for row in found.rows)
    code = next(one for one in summary.classes if one.name == "code")
    rate, ttft = code.metrics["output_tok_s"].value, code.latency["ttft_s"]
    good, bad = code.metrics["slo_met_ratio"].value, code.metrics["error_ratio"].value
    assert list(found.rows[1]) == [
        "code",
        numbers.plain(code.requests.in_window),
        f"{numbers.plain(rate)} tok/s",
        f"{numbers.plain(code.metrics['input_computed_tok_s'].value)} tok/s",
        numbers.duration(ttft.p50),
        numbers.duration(ttft.p99),
        numbers.duration(code.latency["tpot_s"].p50),
        numbers.duration(code.latency["e2e_s"].p99),
        numbers.share(good),
        numbers.share(bad),
    ]
    one = replace(summary, classes=(replace(code, metrics={}), code))
    table = classes(one)
    assert table is not None
    assert [table.rows[0][i] for i in (2, 3, 8, 9)] == [numbers.DASH] * 4
    assert classes(replace(summary, classes=(code,))) is None


@pytest.mark.parametrize(
    ("cell", "unit", "text"),
    [
        (None, "s", numbers.DASH),
        ((0.1, 0.2), "s", "100 / 200 ms"),
        ((0.1, 2.0), "s", "100 ms / 2 s"),
        ((1.5, 2.5), "tok/s", "1.500 / 2.500"),
        (90.0, "s", "90 s"),
        (38.844, "tok/s", "38.84"),
        (0.5, "1", "0.5000"),
    ],
)
def test_cells_of_the_dictionary_carry_units_only_where_these_differ(
    cell: Any, unit: str, text: str
) -> None:
    assert _cell(cell, unit) == text


def test_other_tools_stand_below_each_other_and_empty_terms_are_left_out(run: Path) -> None:
    summary = reduce_fully(run).summary
    found = rosetta(summary)
    assert found is not None
    head, rows = found.head, found.rows
    assert [row[0] for row in rows][:3] == ["this harness", "vllm bench serve", "AIPerf"]
    assert all(len(row) == len(head) for row in rows)
    assert not {"Per GPU", "Power", "Per J", "Per MW"} & set(head)  # no GPU here
    assert head[-1] == "Window"
    assert "Output, tok/s" in head
    assert "TTFT, p50 / p99" in head
    ttft = summary.latency["ttft_s"]
    assert rows[0][list(head).index("TTFT, p50 / p99")] == _cell((ttft.p50, ttft.p99), "s")
    assert rows[0][list(head).index("Output, tok/s")] == numbers.plain(
        summary.metrics["output_tok_s"].value
    )
    notes = rosetta_notes(summary)
    assert any("upper bound" in note for note in notes)
    assert not any("None" in note for note in notes)  # terms without a remark have no line


def test_the_tokenizers_row_says_what_was_to_be_expected() -> None:
    counted = Recount(
        requests=100,
        of=120,
        usage=10_000.0,
        tokenizer=9_900.0,
        relative_difference=0.01,
        expected=0.03,
        ok=True,
        note="rendered",
    )
    assert recount_row("input_tokens", counted)[3:6] == ("100", "3% expected", "as expected")
    assert recount_row("input_tokens", replace(counted, ok=False))[5] != "as expected"
    assert recount_row("output_tokens", Recount(note="not kept"))[5:] == (
        "not available",
        "not kept",
    )
    assert recount_row("output_tokens", Recount())[5] == "not available"


def test_the_quality_of_the_answers_is_told_with_its_tolerance(run: Path) -> None:
    (line,) = quality(reduce_fully(run).summary)
    assert line.startswith("Quality unverified")
    answer = {"text": "a b", "tokens": ["a", " b"], "logprobs": [-1.0, -1.0]}
    asked = {"replica-0": {"answers": [answer], "status": None, "error": None}}
    content = {
        "min_agreement": 0.7,
        "logprob_tolerance": 0.1,
        "texts": 1,
        "max_output_tok": 24,
        "before": asked,
        "after": asked,
        "reference": {
            "model_id": "m",
            "dtype": "bfloat16",
            "engine": "vllm 1",
            "answers": [answer],
        },
    }
    (run / "quality.json").write_text(json.dumps(content))
    lines = quality(reduce_fully(run).summary)
    assert lines[0].startswith("Quality verified")
    assert "Reference: m (bfloat16) on vllm 1." in lines
    assert any("70%" in line and "0.1 nats" in line for line in lines)
    starts = [line.partition(":")[0] for line in lines[-3:]]
    assert len(set(starts)) == 3
    assert all("100%" in line and "1 of 1" in line and "0 nats" in line for line in lines[-3:])
    (run / "quality.json").write_text(json.dumps(content | {"reference": None}))
    lines = quality(reduce_fully(run).summary)
    assert lines[0].startswith("Quality unverified")
    assert [line.partition(":")[0] for line in lines[2:]] == starts[2:]


def test_markdown_has_all_four(run: Path) -> None:
    text = markdown(view(reduce_fully(run)))
    for heading in (
        "## Request classes",
        "## Output quality",
        "## Same data under other tools' metric definitions",
        "model's tokenizer",
    ):
        assert heading in text
    assert "chat \\| talk" in text
