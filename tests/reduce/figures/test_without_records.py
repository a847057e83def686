"""A run whose request records are lost: unknown is not nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    assert metrics["output_tok_s"].note
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
