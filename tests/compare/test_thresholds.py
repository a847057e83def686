from dataclasses import replace

import pytest

from harness.artifacts.run_summary import Figure
from harness.compare.thresholds import COLUMNS, evaluate_thresholds
from harness.core.errors import ProfileError


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("ttft_s.p99 < 1.5", True),
        ("ttft_s.p99 < 1.2", False),
        ("ttft_s.p99 <= 1.2", True),
        ("ttft_s.p99 < 1300ms", True),
        ("ttft_s.p50 < 200ms", False),
        ("output_tok_s >= 1k", True),
        ("output_tok_s > 1k", False),
        ("ttft_s.max < 2", True),
    ],
)
def test_a_figure_is_held_against_the_limit_in_its_own_unit(summary, text, passed):
    [result] = evaluate_thresholds([text], summary)
    assert result.passed is passed
    assert result.value is not None
    assert result.reason is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("goodput_rps >= 0", "the profile has no SLO"),
        ("goodput_rps < 1", "the profile has no SLO"),
        ("power_w < 1e9", "the summary has no power_w"),
        ("tpot_s.p99 < 100", "10 of 90 requests"),
        ("power_w@node < 1e9", "the summary has no power_w@node"),
        ("e2e_s.p99 < 100", "the summary has no e2e_s"),
    ],
)
def test_an_absent_figure_fails_whatever_the_limit_and_says_why(summary, text, why):
    [result] = evaluate_thresholds([text], summary)
    assert result.passed is False
    assert result.value is None
    assert result.reason is not None
    assert "is absent" in result.reason
    assert why in result.reason


def test_a_boundary_names_the_figure_at_that_boundary(summary):
    metrics = {
        "power_w": Figure(600.0, "W", boundary="gpu_board"),
        "power_w@node": Figure(900.0, "W", boundary="node"),
    }
    both = replace(summary, metrics={**summary.metrics, **metrics})
    values = [
        result.value
        for result in evaluate_thresholds(
            ["power_w < 1", "power_w@gpu_board < 1", "power_w@node < 1", "power_w@rack < 1"], both
        )
    ]
    assert values == [600.0, 600.0, 900.0, None]


@pytest.mark.parametrize(
    "text", ["ttft_s.p99 == 1", "ttft_s < 1", "output_tok_s.p99 < 1", "nonsense_s < 1", ""]
)
def test_a_threshold_outside_the_grammar_is_a_profile_error(summary, text):
    with pytest.raises(ProfileError):
        evaluate_thresholds([text], summary)


def test_results_show_as_rows(summary):
    results = evaluate_thresholds(["ttft_s.p99 < 1.5", "goodput_rps >= 1"], summary)
    assert all(len(result.row()) == len(COLUMNS) for result in results)
    assert [result.row()[3] for result in results] == ["passed", "FAILED"]
