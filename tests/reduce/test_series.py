"""The run on a common time grid, and its export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.reduce.reduction import reduce_fully
from harness.reduce.series import EXPORTED, frame


def test_the_exported_series_adds_up_to_the_windows_figures(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = steady(gpus=1, window_s=40.0)
    builder.constant_power(300)
    reduction = reduce_fully(builder.write(tmp_path / "run"))
    table = frame(reduction)
    inside = table[table["in_window"]]
    metrics = reduction.summary.metrics
    assert len(inside) == 40
    assert set(inside["stage"]) == {"main"}
    for column in (
        "output_tok_s",
        "input_tok_s",
        "requests_in_flight",
        "requests_per_s",
        "power_w",
        "gpu_board_w",
        "prefix_hit_ratio",
    ):
        key = {"gpu_board_w": "power_w"}.get(column, column)
        assert inside[column].mean() == pytest.approx(metrics[key].value, rel=1e-6), column
    assert inside["mean_context_tok"].to_numpy() == pytest.approx(100)
    assert table.attrs["boundary"] == "gpu_board"
    energy_j = (inside["gpu_board_w"] * inside["step_s"]).sum()
    tokens = (inside["output_tok_per_j"] * inside["gpu_board_w"] * inside["step_s"]).sum()
    assert tokens / energy_j == pytest.approx(metrics["output_tok_per_j"].value, rel=1e-6)


def test_what_nobody_tells_is_nan_and_its_column_is_there(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = steady()
    builder.scrapes.clear()
    for row in builder.requests:
        row["cache_read_tok"] = None
    table = frame(reduce_fully(builder.write(tmp_path / "run")))
    assert [name for name in table.columns if name in EXPORTED] == list(EXPORTED)
    unknown = {name for name in EXPORTED if table[name].isna().all()}
    assert unknown == {
        "input_computed_tok_s",
        "input_cache_read_tok_s",
        "prefix_hit_ratio",
        "server_running_requests",
        "server_waiting_requests",
        "kv_usage_ratio",
        "power_w",
        "output_tok_per_j",
    }


def test_a_run_without_a_load_has_an_empty_series(builder: Any, tmp_path: Path) -> None:
    builder.stage_ended = False
    table = frame(reduce_fully(builder.write(tmp_path / "run")))
    assert "output_tok_s" in table.columns
