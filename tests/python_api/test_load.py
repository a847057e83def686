"""`harness.load`: frames that agree with the summary."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness
from harness.core.metrics import LATENCY_KEYS
from harness.core.records import Status
from harness.reduce import frames

FRAMES = {
    "requests": frames.REQUESTS,
    "chunks": frames.CHUNKS,
    "power": frames.POWER,
    "metrics": frames.METRICS,
}


def types(frame: pd.DataFrame) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.mark.parametrize("run", ["energy", "killed", "attribution"])
def test_columns_have_the_documented_types(reduced: Path, run: str) -> None:
    loaded = harness.load(reduced / run)
    for name, documented in FRAMES.items():
        assert types(getattr(loaded, name)) == documented


def test_the_summary_is_typed(reduced: Path) -> None:
    run = harness.load(str(reduced / "energy"))
    assert isinstance(run.summary, harness.Summary)
    assert run.summary.verdict.status is Status.PRELIMINARY
    assert run.manifest.run_id == run.summary.run_id
    assert "preliminary" in repr(run)


def test_a_stage_is_a_row_with_the_metrics_of_the_summary(reduced: Path) -> None:
    run = harness.load(reduced / "attribution")
    assert run.stages.index.name == "stage"
    assert list(run.stages.index) == [stage.name for stage in run.summary.stages]
    for stage in run.summary.stages:
        row = run.stages.loc[stage.name]
        assert row["output_tok_s"] == stage.metrics["output_tok_s"].value
        assert row["ttft_s.p99"] == stage.latency["ttft_s"].p99
        assert row["ok_requests"] == stage.requests.ok
        assert row["duration_s"] == stage.window.duration_s
        assert np.isnan(row["planned_requests"])  # unknown is not 0


def test_latencies_of_requests_have_the_percentiles_of_the_summary(reduced: Path) -> None:
    run = harness.load(reduced / "repeats/b16-1")
    window, requests = run.summary.window, run.requests
    inside = (requests["scheduled_s"] >= window.start_s) & (requests["scheduled_s"] < window.end_s)
    mine = requests[inside & ~requests["priming"]]
    assert set(mine["outcome"]) == {"ok"}
    for key in ("ttft_s", "tpot_s", "e2e_s", "schedule_lag_s"):
        distribution = run.summary.latency[key]
        assert key in LATENCY_KEYS
        assert mine[key].count() == distribution.n
        assert mine[key].median() == pytest.approx(distribution.p50, rel=1e-9)
        assert mine[key].mean() == pytest.approx(distribution.mean, rel=1e-9)


def test_all_requests_but_canaries_are_rows_in_order(reduced: Path) -> None:
    run = harness.load(reduced / "energy")
    stored = pq.read_table(reduced / "energy" / "requests.parquet").to_pandas()
    load = stored[stored["class"] != "canary"].set_index("request_id")
    requests = run.requests
    assert len(load) < len(stored)
    assert set(requests["request_id"]) == set(load.index)
    assert requests["scheduled_s"].is_monotonic_increasing
    own = load.loc[requests["request_id"]]
    sent_s = (own["sent_ns"].to_numpy() - run.manifest.started_ns) / 1e9
    np.testing.assert_allclose(requests["sent_s"], sent_s)
    assert requests["output_tok"].isna().sum() == own["output_tok"].isna().sum() > 0
    assert list(requests["priming"]) == [name.endswith("/prime") for name in own["class"]]


def test_chunks_are_at_their_arrival(reduced: Path) -> None:
    run = harness.load(reduced / "energy")
    stored = pq.read_table(reduced / "energy" / "requests.parquet").to_pandas()
    row = next(one for one in stored.itertuples() if one.outcome == "ok" and one.output_tok > 3)
    mine = run.chunks[run.chunks["request_id"] == row.request_id]
    assert list(mine["chunk"]) == list(range(len(row.chunk_dt_us)))
    first_s = (row.first_token_ns - run.manifest.started_ns) / 1e9
    assert mine["t_s"].iloc[0] == pytest.approx(first_s)
    np.testing.assert_allclose(mine["gap_s"].iloc[1:], row.chunk_dt_us[1:] / 1e6, rtol=1e-6)
    assert np.isnan(mine["gap_s"].iloc[0])
    assert mine["output_tok"].sum() == row.output_tok
    chunks = stored.loc[stored["class"] != "canary", "chunk_dt_us"].dropna()
    assert len(run.chunks) == chunks.map(len).sum()


def test_power_and_server_metrics_are_as_stored(reduced: Path) -> None:
    run = harness.load(reduced / "energy")
    power = pq.read_table(reduced / "energy" / "power.parquet")
    samples = pq.read_table(reduced / "energy" / "scrapes" / "samples.parquet")
    assert len(run.power) == len(power)
    assert run.power["power_w"].mean() == pytest.approx(power.to_pandas()["power_w"].mean())
    assert run.power["power_w"].isna().any()
    assert len(run.metrics) == len(samples)
    assert set(run.metrics["metric"]) == set(samples["metric"].to_pylist())
    assert {"engine": "0"}.items() <= json.loads(run.metrics["labels"].iloc[0]).items()


def test_a_table_without_recording_is_an_empty_frame(reduced: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "summary.json"):
        shutil.copy(reduced / "energy" / name, tmp_path)
    run = harness.load(tmp_path)
    for name, documented in FRAMES.items():
        assert types(getattr(run, name)) == documented
        assert len(getattr(run, name)) == 0


def test_journals_serve_where_there_is_no_table(reduced: Path, tmp_path: Path) -> None:
    shutil.copytree(reduced / "killed", tmp_path / "run")
    whole = harness.load(reduced / "killed")
    (tmp_path / "run" / "requests.parquet").unlink()
    (tmp_path / "run" / "scrapes" / "samples.parquet").unlink()
    run = harness.load(tmp_path / "run")
    pd.testing.assert_frame_equal(run.requests, whole.requests, check_categorical=False)
    pd.testing.assert_frame_equal(run.chunks, whole.chunks, check_categorical=False)
    assert len(run.metrics) == len(whole.metrics) > 0


@pytest.mark.parametrize(
    ("file", "frame"),
    [
        ("requests.parquet", "requests"),
        ("requests.parquet", "chunks"),
        ("power.parquet", "power"),
        ("scrapes/samples.parquet", "metrics"),
    ],
)
def test_a_damaged_table_is_an_error(reduced: Path, tmp_path: Path, file: str, frame: str) -> None:
    shutil.copytree(reduced / "energy", tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(b"PAR1 is not Parquet")
    run = harness.load(tmp_path / "run")
    with pytest.raises(harness.HarnessError, match=Path(file).name):
        getattr(run, frame)


def test_damage_that_costs_rows_is_a_warning(reduced: Path, tmp_path: Path) -> None:
    shutil.copytree(reduced / "energy", tmp_path / "run")
    path = tmp_path / "run" / "power.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["t_ns"] = None
    loose = pa.schema([field.with_nullable(True) for field in table.schema])
    pq.write_table(pa.Table.from_pylist(rows, schema=loose), path)
    run = harness.load(tmp_path / "run")
    with pytest.warns(UserWarning, match="1 of"):
        assert len(run.power) == len(rows) - 1


@pytest.mark.parametrize("missing", ["manifest.json", "summary.json"])
def test_a_folder_that_is_no_reduced_run_is_an_error(
    reduced: Path, tmp_path: Path, missing: str
) -> None:
    shutil.copytree(reduced / "killed", tmp_path / "run")
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(harness.HarnessError, match=missing):
        harness.load(tmp_path / "run")
    with pytest.raises(harness.HarnessError):
        harness.load(tmp_path / "nowhere")
