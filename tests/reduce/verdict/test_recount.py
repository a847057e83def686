"""The third account of input tokens, beside the client's usage and the server's counters."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.run_summary import Recount
from harness.reduce import reduce_run
from harness.reduce.verdict.recount import NO_OUTPUT_TEXT

COUNTED = {
    "reason": None,
    "api": "chat",
    "answered": 120,
    "requests": 100,
    "messages": 300,
    "usage_tok": 10_000,
    "text_tok": 9_400,
    "template_tok": 10_000,
}


@pytest.fixture(name="counted")
def _counted(steady: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def make(content: str | dict[str, Any] | None) -> Any:
        run = steady(window_s=4.0).write(tmp_path / "run")
        if content is not None:
            (run / "recount.json").write_text(
                content if isinstance(content, str) else json.dumps(content)
            )
        return reduce_run(run)

    return make


@pytest.mark.parametrize(
    ("changes", "relative", "expected", "ok"),
    [
        ({}, 0.0, 0.005, True),
        ({"template_tok": 9_940}, 0.006, 0.005, False),
        ({"api": "messages", "template_tok": 9_800}, 0.02, 0.03, True),
        ({"api": "messages", "template_tok": 12_000}, -0.2, 0.03, False),
        ({"template_tok": None}, 0.06, 0.005 + 16 * 300 / 10_000, True),
        ({"template_tok": None, "text_tok": 2_000}, 0.8, 0.005 + 16 * 300 / 10_000, False),
        ({"api": "completions", "template_tok": None, "text_tok": 9_900}, 0.01, 0.005 + 0.01, True),
    ],
)
def test_it_is_shown_with_the_deviation_that_is_to_be_expected(
    counted: Callable[..., Any], changes: dict[str, Any], relative: float, expected: float, ok: bool
) -> None:
    summary = counted(COUNTED | changes)
    found = summary.reconciliation["input_tokens"].tokenizer
    assert found.relative_difference == pytest.approx(relative)
    assert found.expected == pytest.approx(expected)
    assert (found.ok, found.requests, found.of) == (ok, 100, 120)
    raised = [
        concern for concern in summary.verdict.concerns if concern.code == "tokenizer_disagrees"
    ]
    assert bool(raised) is not ok
    assert all(
        concern.value == pytest.approx(abs(relative)) and concern.limit == pytest.approx(expected)
        for concern in raised
    )
    assert (
        summary.reconciliation["input_tokens"].ok is True
    )  # a cross-check never replaces the other two


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (None, "recounted"),
        ({"reason": "a reason"}, "a reason"),
        ("{", "recount.json"),
        ("[]", "recount.json"),
        (COUNTED | {"usage_tok": 0}, "counted"),
    ],
)
def test_where_nothing_was_counted_it_is_absent_with_the_reason(
    counted: Callable[..., Any], content: Any, note: str
) -> None:
    found = counted(content).reconciliation["input_tokens"].tokenizer
    assert found == Recount(note=found.note)
    assert note in found.note


def test_the_answers_text_is_not_kept(counted: Callable[..., Any]) -> None:
    assert counted(COUNTED).reconciliation["output_tokens"].tokenizer == Recount(
        note=NO_OUTPUT_TEXT
    )
