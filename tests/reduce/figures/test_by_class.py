"""Figures by class of requests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.run_summary import summary_json
from harness.core.metrics import LATENCY_KEYS, METRICS
from harness.reduce import reduce_run
from harness.reduce.figures.by_class import CLASS_KEYS


def mixed(builder: Any) -> Any:
    """The same run with every third request of another class."""
    for i, row in enumerate(builder.requests):
        row["class"] = "code" if i % 3 == 0 else "chat"
    return builder


def test_every_class_of_a_mix_has_figures_of_its_own_that_add_up(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    builder = mixed(noisy(seed=5))
    cut = builder.requests[
        40
    ]  # a stream without usage: its tokens are an estimate, which is the same in both accounts
    cut.update(outcome="cancelled", output_tok=None, chunk_tok=None)
    summary = reduce_run(builder.write(tmp_path / "run"))
    assert [one.name for one in summary.classes] == ["chat", "code"]
    for key in (
        "output_tok_s",
        "input_tok_s",
        "requests_per_s",
        "goodput_rps",
        "goodput_tok_s",
        "requests_in_flight",
    ):
        parts = [one.metrics[key].value for one in summary.classes]
        assert sum(parts) == pytest.approx(summary.metrics[key].value, rel=1e-9), key
        assert all(part > 0 for part in parts)
    assert sum(one.requests.in_window for one in summary.classes) == summary.requests.in_window
    assert sum(one.requests.failed for one in summary.classes) == summary.requests.failed
    assert sum(one.latency["ttft_s"].n for one in summary.classes) == summary.latency["ttft_s"].n


def test_a_class_has_the_latency_of_its_own_requests(builder: Any, tmp_path: Path) -> None:
    for i in range(20):
        builder.request(3 + i / 2, ttft_s=0.1, **{"class": "fast"})
        builder.request(3.1 + i / 2, ttft_s=0.9, **{"class": "slow"})
    by_name = {one.name: one for one in reduce_run(builder.write(tmp_path / "run")).classes}
    assert by_name["fast"].latency["ttft_s"].p99 == pytest.approx(0.1)
    assert by_name["slow"].latency["ttft_s"].p50 == pytest.approx(0.9)
    assert set(by_name["slow"].latency) == set(LATENCY_KEYS)


def test_priming_requests_belong_to_the_class_of_their_conversation(
    builder: Any, tmp_path: Path
) -> None:
    builder.request(3, **{"class": "chat"})
    builder.request(2.5, **{"class": "code/prime"})
    builder.request(4, **{"class": "code"})
    by_name = {one.name: one for one in reduce_run(builder.write(tmp_path / "run")).classes}
    assert set(by_name) == {"chat", "code"}
    assert (by_name["code"].requests.primed, by_name["chat"].requests.primed) == (1, 0)


def test_a_run_of_one_class_has_that_class_with_the_headlines_figures(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    summary = reduce_run(steady().write(tmp_path / "run"))
    (only,) = summary.classes
    assert (only.name, only.latency) == ("chat", summary.latency)
    assert only.metrics["output_tok_s"] == summary.metrics["output_tok_s"]
    json.dumps(summary_json(summary), allow_nan=False)


def test_what_is_told_apart_by_class_is_defined() -> None:
    assert set(CLASS_KEYS) <= set(METRICS)
    assert not {key for key in CLASS_KEYS if METRICS[key].boundary == "power"}


def test_without_a_window_there_are_no_classes(builder: Any, tmp_path: Path) -> None:
    assert reduce_run(_without_stages(builder, tmp_path)).classes == ()


def _without_stages(builder: Any, tmp_path: Path) -> Path:
    run: Path = builder.write(tmp_path / "run")
    (run / "events.jsonl").unlink()
    return run


@pytest.mark.parametrize("cancelled", [1, 6])
def test_a_class_keeps_its_split_of_input_when_few_requests_lack_it(
    builder: Any, tmp_path: Path, cancelled: int
) -> None:
    """Its prefix hit ratio is that of the requests that told; where many did not, it has none."""
    for number in range(60):
        builder.request(3 + number / 4, **{"class": "code" if number % 2 else "chat"})
    for row in builder.requests[1 : 2 * cancelled : 2]:
        row.update(outcome="cancelled", cache_read_tok=None)
    by_name = {one.name: one.metrics for one in reduce_run(builder.write(tmp_path / "run")).classes}
    assert by_name["chat"]["prefix_hit_ratio"].value == pytest.approx(0.6)
    assert by_name["chat"]["input_cache_read_tok_s"].note is None
    code = by_name["code"]
    if cancelled == 1:
        assert code["prefix_hit_ratio"].value == pytest.approx(0.6)
        assert "without 1 request " in code["input_cache_read_tok_s"].note
    else:
        assert code["prefix_hit_ratio"].value is None
