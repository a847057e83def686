"""Whether the answers were right, from what a run wrote down."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.quality import Answer
from harness.artifacts.run_summary import Likeness
from harness.reduce import reduce_run
from harness.reduce.verdict.answers import agreement, logprob_differences

WORDS = ["the", "sky", "is", "blue", "since", "light", "of", "short", "waves"]


def answers(
    words: list[str] = WORDS, logprob: float | None = -0.5, texts: int = 3
) -> list[dict[str, Any]]:
    """One answer a text, all alike."""
    told = logprob is not None
    one = {
        "text": " ".join(words),
        "tokens": words if told else None,
        "logprobs": [logprob] * len(words) if told else None,
        "input_tok": 12,
        "output_tok": len(words),
    }
    return [one] * texts


def asked(
    found: list[dict[str, Any]], status: int | None = None, error: str | None = None
) -> dict[str, Any]:
    return {
        "replica-0": {
            "route": "completions",
            "logprobs": True,
            "answers": found,
            "status": status,
            "error": error,
        }
    }


@pytest.fixture(name="checked")
def _checked(steady: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def make(
        *,
        before: Any = None,
        after: Any = None,
        reference: Any = None,
        smoke: bool = False,
        **fields: Any,
    ) -> Any:
        builder = steady(window_s=6.0, purpose="smoke" if smoke else "measure")
        load_format = fields.pop("load_format", "auto")
        state = fields.pop("state", "complete")
        builder.state = state
        run = builder.write(tmp_path / "run")
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["profile"]["model"]["load_format"] = load_format
        (run / "manifest.json").write_text(json.dumps(manifest))
        content = {
            "check_version": 1,
            "texts": 3,
            "max_output_tok": 24,
            "min_agreement": 0.7,
            "logprob_tolerance": 0.1,
            "recorded": False,
            "reference_path": None,
            "reference": None,
            "before": asked(answers()),
            "after": asked(answers()),
        }
        if reference is not None:
            content |= {
                "reference": {"model_id": "m", "dtype": "bfloat16", "answers": reference},
                "reference_path": "ref.json",
            }
        content |= {
            key: value for key, value in (("before", before), ("after", after)) if value is not None
        }
        (run / "quality.json").write_text(json.dumps(content | fields))
        return reduce_run(run)

    return make


def concerns(summary: Any) -> dict[str, Any]:
    return {
        concern.code: concern
        for concern in summary.verdict.concerns
        if concern.code.startswith("quality")
    }


def test_the_references_answers_before_and_after_the_load_are_verified(
    checked: Callable[..., Any],
) -> None:
    summary = checked(reference=answers())
    assert (summary.quality.label, summary.quality.basis, summary.quality.passed) == (
        "verified",
        "reference",
        True,
    )
    assert summary.labels.quality == "verified"
    assert concerns(summary) == {}
    assert summary.quality.reference.dtype == "bfloat16"
    assert summary.quality.before == Likeness(agreement=1.0, logprob_difference=0.0, texts_equal=3)


@pytest.mark.parametrize(
    ("wrong", "value", "limit"),
    [
        (answers(["purple"] * 9), 0.0, 0.7),
        (answers(WORDS[:4] + ["x"] * 5), 4 / 9, 0.7),
        (answers(logprob=-0.9), 0.4, 0.1),
        (answers(["purple"] * 9, logprob=None), 0.0, 0.7),
    ],
)
@pytest.mark.parametrize("smoke", [True, False])
def test_answers_that_are_not_the_references_make_a_run_invalid(
    checked: Callable[..., Any], wrong: Any, value: float, limit: float, smoke: bool
) -> None:
    summary = checked(reference=answers(), before=asked(wrong), after=asked(wrong), smoke=smoke)
    assert summary.verdict.status == "invalid"
    found = concerns(summary)["quality_failed"]
    assert found.severity == "invalid"
    assert (found.value, found.limit) == (pytest.approx(value), limit)
    assert summary.quality.label == "quality unverified"


def test_a_near_tie_that_turns_around_late_is_no_failure(checked: Callable[..., Any]) -> None:
    summary = checked(
        reference=answers(), before=asked(answers([*WORDS[:8], "rays"], logprob=-0.52))
    )
    assert summary.quality.passed is True
    assert summary.quality.before.agreement == pytest.approx(8 / 9)


def test_answers_that_the_load_changed_are_a_failure_without_any_reference(
    checked: Callable[..., Any],
) -> None:
    summary = checked(after=asked(answers(["gibberish"] * 9)))
    assert summary.verdict.status == "invalid"
    found = concerns(summary)["quality_failed"]
    assert (found.value, found.limit) == (summary.quality.change.agreement, 0.7)
    assert summary.quality.before is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "no reference"),
        ({"recorded": True}, "recorded"),
        ({"load_format": "dummy", "reference": answers()}, "dummies"),
    ],
)
def test_without_a_reference_or_weights_quality_is_unverified(
    checked: Callable[..., Any], fields: dict[str, Any], says: str
) -> None:
    summary = checked(**fields)
    assert summary.quality.passed is True
    assert summary.labels.quality == "quality unverified"
    found = concerns(summary)["quality_unverified"]
    assert (found.severity, says in found.message) == ("note", True)


def test_a_smoke_run_claims_nothing_of_its_answers(checked: Callable[..., Any]) -> None:
    summary = checked(smoke=True)
    assert concerns(summary) == {}
    assert summary.labels.quality == "quality unverified"


@pytest.mark.parametrize(
    ("fields", "code", "severity"),
    [
        ({"before": asked([], 404, "no such route")}, "quality_missing", "degraded"),
        ({"after": asked([], 500, "engine died")}, "quality_failed", "invalid"),
        ({"before": asked([], 429, "too many requests")}, "quality_failed", "invalid"),
        ({"before": asked([], 408, "timeout")}, "quality_failed", "invalid"),
        ({"after": asked(answers(texts=1), None, "ConnectError")}, "quality_failed", "invalid"),
        ({"after": {}}, "quality_missing", "degraded"),
        ({"after": {}, "state": "interrupted"}, "quality_missing", "note"),
        (
            {"before": asked(answers([])), "after": asked(answers([]))},
            "quality_missing",
            "degraded",
        ),
        ({"before": "damaged", "after": [1]}, "quality_missing", "degraded"),
        ({"before": asked([{"txt": 1}]), "after": asked([None])}, "quality_missing", "degraded"),
        ({"after": {}, "reference": answers()}, "quality_missing", "degraded"),
        ({"after": asked([None]), "reference": answers()}, "quality_missing", "degraded"),
        (
            {"before": {**asked(answers()), "replica-1": asked(answers())["replica-0"]}},
            "quality_missing",
            "degraded",
        ),
        (
            {"after": asked([], 404, "no such route"), "reference": answers(["no"] * 9)},
            "quality_failed",
            "invalid",
        ),
        (
            {"after": asked([{**answers()[0], "logprobs": [-1.0, math.inf]}] * 3)},
            "quality_missing",
            "degraded",
        ),
        ({"before": asked(answers(texts=2))}, "quality_missing", "degraded"),
        (
            {
                "before": asked(answers([]), None, None),
                "after": asked(answers([])),
                "reference": answers(),
            },
            "quality_failed",
            "invalid",
        ),
    ],
)
def test_a_check_that_is_not_whole_says_so(
    checked: Callable[..., Any], fields: dict[str, Any], code: str, severity: str
) -> None:
    found = concerns(checked(**fields))
    assert {one.code: str(one.severity) for one in found.values()} == {code: severity}


def test_a_torn_file_is_no_traceback(checked: Callable[..., Any], tmp_path: Path) -> None:
    checked()
    (tmp_path / "run" / "quality.json").write_text('{"before": ')
    summary = reduce_run(tmp_path / "run")
    assert "quality.json" in concerns(summary)["quality_missing"].message


def test_a_measurement_without_a_check_is_degraded(
    checked: Callable[..., Any], tmp_path: Path
) -> None:
    """A measurement without a check is degraded and one of dummy weights is labelled."""
    checked()
    (tmp_path / "run" / "quality.json").unlink()
    summary = reduce_run(tmp_path / "run")
    assert (concerns(summary)["quality_missing"].severity, summary.labels.quality) == (
        "degraded",
        "quality unverified",
    )
    assert summary.quality is None
    path = tmp_path / "run" / "manifest.json"
    path.write_text(path.read_text().replace('"load_format": "auto"', '"load_format": "dummy"'))
    assert {
        code: str(one.severity) for code, one in concerns(reduce_run(tmp_path / "run")).items()
    } == {"quality_unverified": "note"}


def test_the_checks_own_prompts_do_not_make_a_server_warm(checked: Callable[..., Any]) -> None:
    """What it asked before the load is known where every answer came with its count, and else not."""
    assert checked().quality.input_tok == 3 * 12


def test_prompts_of_the_check_of_which_one_was_not_counted_are_not_known(
    checked: Callable[..., Any],
) -> None:
    found = checked(before=asked([*answers(texts=2), {**answers()[0], "input_tok": None}])).quality
    assert (found.input_tok, found.basis) == (None, "self")


def test_where_nothing_could_be_compared_there_is_no_basis(checked: Callable[..., Any]) -> None:
    found = checked(after={}).quality
    assert (found.basis, found.passed, found.change) == (None, None, None)


def test_the_worst_replica_counts(checked: Callable[..., Any]) -> None:
    two = {**asked(answers()), "replica-1": asked(answers(["no"] * 9))["replica-0"]}
    assert checked(reference=answers(), before=two, after=two).quality.before.agreement == 0.0


@given(
    a=st.lists(st.sampled_from("abc"), max_size=6), b=st.lists(st.sampled_from("abc"), max_size=6)
)
def test_agreement_is_a_share_and_symmetric(a: list[str], b: list[str]) -> None:
    left = Answer("".join(a), tuple(a), tuple(0.0 for _ in a))
    right = Answer("".join(b), tuple(b), tuple(-1.0 for _ in b))
    share = agreement(left, right)
    assert 0 <= share <= 1
    assert share == agreement(right, left)
    assert (share == 1) == (a == b)
    steps = logprob_differences(left, right)
    assert len(steps) == round(share * max(len(a), len(b)))
    assert all(step == 1.0 for step in steps)
