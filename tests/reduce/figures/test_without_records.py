"""A run whose request records are lost: unknown is not nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.reduce.reduction import reduce_fully
from harness.reduce.series import series
from harness.report.run.view import view
from harness.report.run.write import markdown


def written(new_builder: Callable[..., Any], root: Path, *, lost: bool) -> Path:
    builder = new_builder(
        gpus=1, window_s=40.0, price={"usd_per_gpu_h": 2.0, "source": "s", "date": "2026-08"}
    )
    if lost:
        for i in range(30):
            builder.request(1 + i / 2)
    builder.scrape_counters()
    builder.constant_power(400)
    run: Path = builder.write(root)
    if lost:
        for journal in (run / "requests").iterdir():
            journal.unlink()
    return run


def test_what_clients_saw_is_absent_and_what_others_read_is_not(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    reduction = reduce_fully(written(new_builder, tmp_path / "run", lost=True))
    metrics = reduction.summary.metrics
    assert {key for key, figure in metrics.items() if figure.value is not None} == {
        "power_w",
        "energy_j",
        "input_computed_tok_s",
        "input_cache_read_tok_s",
        "prefix_hit_ratio",
    }
    assert "request records" in metrics["output_tok_s"].note
    assert metrics["output_tok_s"].note == metrics["output_tok_per_j"].note
    assert metrics["output_tok_s"].unit == "tok/s"
    assert not {"output_tok_s", "requests_in_flight", "output_tok_per_j"} & set(
        series(reduction).columns
    )
    assert {"kv_usage", "power_w"} <= set(series(reduction).columns)
    text = markdown(view(reduction))
    assert "| Complete run | 30 | — | — | — | — |" in text
    assert "There are no request records." in text


def test_a_run_that_sent_nothing_is_known_to_have_sent_nothing(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    metrics = reduce_fully(written(new_builder, tmp_path / "run", lost=False)).summary.metrics
    assert metrics["output_tok_s"].value == 0
    assert metrics["requests_per_s"].value == 0


def changed(new_builder: Callable[..., Any], root: Path, rows: slice, **fields: Any) -> Any:
    """The summary of 30 requests, some of which have other fields."""
    builder = new_builder(
        gpus=1, window_s=40.0, price={"usd_per_gpu_h": 2.0, "source": "s", "date": "2026-08"}
    )
    for i in range(30):
        builder.request(1 + i / 2)
    for row in builder.requests[rows]:
        row.update(fields)
    builder.constant_power(400)
    return reduce_fully(builder.write(root)).summary


UNCOUNTED = {"output_tok": None, "chunk_tok": None}


def test_tokens_that_no_response_counts_are_unknown(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    summary = changed(new_builder, tmp_path / "run", slice(None), **UNCOUNTED)
    absent = {
        "output_tok_s",
        "output_tok_s_per_gpu",
        "total_tok_s",
        "mean_output_tok",
        "output_tok_per_j",
        "j_per_output_tok",
        "usd_per_mtok",
    }
    metrics = summary.metrics
    assert {key: metrics[key].value for key in absent} == dict.fromkeys(absent)
    assert {metrics[key].basis for key in absent} == {"absent"}
    assert metrics["input_tok_s"].value
    assert metrics["requests_per_s"].value
    assert summary.classes[0].metrics["output_tok_s"].value is None


def test_a_few_uncounted_responses_are_estimated(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    whole = changed(new_builder, tmp_path / "whole", slice(0)).metrics["output_tok_s"]
    some = changed(new_builder, tmp_path / "some", slice(3), **UNCOUNTED).metrics["output_tok_s"]
    assert some.value == whole.value
    assert "3 streams without usage" in str(some.note)


def test_prompts_that_no_response_counts_are_unknown(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    metrics = changed(new_builder, tmp_path / "run", slice(None), input_tok=None).metrics
    assert (metrics["input_tok_s"].value, metrics["total_tok_s"].value) == (None, None)
    assert metrics["output_tok_s"].value


def test_responses_in_bursts_have_no_tpot(new_builder: Callable[..., Any], tmp_path: Path) -> None:
    plain = changed(new_builder, tmp_path / "plain", slice(0)).latency
    some = changed(new_builder, tmp_path / "some", slice(10, 20), notes="burst").latency
    assert some["tpot_s"].n == plain["tpot_s"].n - 10 > 0
    assert some["itl_s"].n * plain["tpot_s"].n == plain["itl_s"].n * some["tpot_s"].n
    assert some["ttft_s"] == plain["ttft_s"]


@pytest.mark.parametrize(("count", "buffered"), [(2, False), (20, True)])
def test_only_many_bursts_point_to_a_buffer(
    new_builder: Callable[..., Any], tmp_path: Path, count: int, buffered: bool
) -> None:
    summary = changed(new_builder, tmp_path / "run", slice(count), notes="burst")
    (found,) = [one for one in summary.verdict.concerns if one.code == "stream_in_bursts"]
    assert found.value == count
    assert ("proxy_buffering off" in found.message) is buffered


def test_responses_in_bursts_meet_a_pace_slo_only_by_their_whole_time(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    met = {}
    for notes in (None, "burst"):
        builder = new_builder(gpus=1, window_s=40.0, slos={"tpot_s": 0.06})
        for i in range(30):
            builder.request(1 + i / 2, notes=notes)  # 50 ms per token, 72 ms from sending
        summary = reduce_fully(builder.write(tmp_path / str(notes))).summary
        met[notes] = summary.metrics["slo_met_ratio"].value
    assert met == {None: 1.0, "burst": 0.0}


def test_failures_are_quoted_and_stop_reasons_counted(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    fields = {"outcome": "aborted", "error": "stop reason 'abort'", "stop_reason": "abort"}
    summary = changed(new_builder, tmp_path / "run", slice(2), **fields)
    assert summary.requests.by_outcome == {"aborted": 2, "ok": 28}
    assert summary.requests.by_stop_reason["abort"] == 2
    found = {concern.code: concern.message for concern in summary.verdict.concerns}
    assert "\"stop reason 'abort'\"" in found["requests_failed"]
