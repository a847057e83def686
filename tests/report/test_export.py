"""Figures for other programs, read back by those programs' own libraries."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from typer.testing import CliRunner

from harness.cli import app
from harness.core.errors import ProfileError
from harness.core.metrics import LATENCY_KEYS, VALUE_KEYS
from harness.reduce.reduction import reduce_fully
from harness.report.export import (
    COLUMNS,
    FORMATS,
    STATISTICS,
    as_csv,
    as_openmetrics,
    as_parquet,
    export,
    exported_names,
    rows,
)


@pytest.fixture(name="mixed", scope="module")
def _mixed(new_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two classes on a GPU, with failures: figures of every kind, absent ones among them."""
    builder = new_builder(gpus=1, window_s=12.0)
    for i in range(120):
        builder.request(i / 8, **{"class": "code" if i % 3 else 'chat "a\\b"'})
    for i in range(4):
        builder.lost(5 + i, "timeout_idle", **{"class": "code"})
    builder.constant_power(300.0)
    root: Path = builder.write(tmp_path_factory.mktemp("export") / "run")
    return root


@pytest.fixture(name="reduction", scope="module")
def _reduction(mixed: Path) -> Any:
    return reduce_fully(mixed)


def test_every_figure_has_a_row_and_absence_a_reason(reduction: Any) -> None:
    found = rows(reduction.summary)
    headline = {row.metric for row in found if row.headline}
    assert headline >= set(VALUE_KEYS) | {
        f"{key}.{name}" for key in LATENCY_KEYS for name in STATISTICS
    }
    assert all(row.note for row in found if row.value is None)
    assert all((row.value is None) == (row.basis == "absent") for row in found)
    assert {row.workload_class for row in found} == {None, "code", 'chat "a\\b"'}
    assert {row.stage for row in found} == {"main"}
    keys = [
        (row.metric, row.stage, row.workload_class, row.boundary)
        for row in found
        if row.value is not None
    ]
    assert len(keys) == len(set(keys))


def test_csv_and_parquet_say_the_same(reduction: Any) -> None:
    found = rows(reduction.summary)
    text = list(csv.DictReader(io.StringIO(as_csv(found))))
    table = pq.read_table(pa.BufferReader(as_parquet(found)))
    assert tuple(table.column_names) == tuple(text[0]) == COLUMNS
    assert table["value"].type == pa.float64()
    for line, row in zip(text, table.to_pylist(), strict=True):
        assert {
            key: cell or None
            for key, cell in line.items()
            if key not in ("value", "ci_low", "ci_high", "headline")
        } == {
            key: cell
            for key, cell in row.items()
            if key not in ("value", "ci_low", "ci_high", "headline")
        }
        assert [
            float(line[key]) if line[key] else None for key in ("value", "ci_low", "ci_high")
        ] == [row[key] for key in ("value", "ci_low", "ci_high")]


def test_openmetrics_is_read_by_prometheus_own_parser(reduction: Any) -> None:
    summary = reduction.summary
    families = {
        family.name: family for family in text_string_to_metric_families(as_openmetrics(summary))
    }
    (info,) = families["harness_run"].samples
    assert (info.labels["status"], info.labels["run_id"]) == (
        str(summary.verdict.status),
        summary.run_id,
    )
    whole = [s for s in families["harness_output_tok_s"].samples if s.labels["headline"] == "true"]
    assert [sample.value for sample in whole] == [summary.metrics["output_tok_s"].value]
    assert whole[0].labels["boundary"] == "client"
    assert whole[0].labels["token_class"] == "output"
    ttft = {
        s.labels["statistic"]: s.value
        for s in families["harness_ttft_s"].samples
        if s.labels["headline"] == "true"
    }
    assert ttft["p50"] == summary.latency["ttft_s"].p50
    assert "max" not in ttft  # requests that never got there: absent, not 0
    assert "harness_usd_per_mtok" not in families
    assert {s.labels.get("class") for s in families["harness_ttft_s"].samples} == {
        None,
        "code",
        'chat "a\\b"',
    }
    concerns = {
        (s.labels["code"], s.labels["severity"]): s.value
        for s in families["harness_concern"].samples
    }
    assert sum(concerns.values()) == len(summary.verdict.concerns)
    assert "harness_run_info" in as_openmetrics(summary)
    assert as_openmetrics(summary).endswith("# EOF\n")


def test_the_series_has_a_row_a_step_and_null_for_what_is_not_known(
    reduction: Any, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    files = export(tmp_path / "out", reduction, ["all"])
    assert [file.name for file in files] == exported_names(["all"])
    table = pq.read_table(tmp_path / "out" / "series.parquet")
    assert {"t_s", "step_s", "output_tok_s", "requests_in_flight", "power_w"} <= set(
        table.column_names
    )
    text = list(csv.DictReader(io.StringIO((tmp_path / "out" / "series.csv").read_text())))
    assert len(text) == len(table) > 10
    before = [file.read_bytes() for file in files]
    assert [
        file.read_bytes() for file in export(tmp_path / "out", reduction, [*FORMATS, "csv"])
    ] == before


@pytest.mark.parametrize("command", ["reduce", "report"])
def test_the_commands_write_them_and_json_stays_json(
    command: str, new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    builder = new_builder(window_s=4.0)
    builder.request(3.0)
    run = builder.write(tmp_path / "run")
    done = CliRunner().invoke(
        app, [command, str(run), "--export", "csv", "--export", "openmetrics", "--json"]
    )
    assert json.loads(done.stdout)["run_id"]
    assert sorted(path.name for path in run.glob("figures*")) == [
        "figures.csv",
        "figures.openmetrics",
    ]


def test_an_unknown_format_is_refused_before_anything_is_done(
    reduction: Any, tmp_path: Path
) -> None:
    with pytest.raises(ProfileError, match="xlsx"):
        export(tmp_path, reduction, ["csv", "xlsx"])
    assert list(tmp_path.iterdir()) == []
    done = CliRunner().invoke(app, ["reduce", str(tmp_path), "--export", "xlsx"])
    assert done.exit_code != 0


def test_a_run_without_anything_still_exports(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    run = new_builder().write(tmp_path / "run")
    reduction = reduce_fully(run)
    list(text_string_to_metric_families(as_openmetrics(reduction.summary)))
    assert all(row.value is None or row.value >= 0 for row in rows(reduction.summary))
    assert len(export(run, reduction, ["all"])) == 5
