import math
import shutil
from statistics import fmean, stdev

import pyarrow as pa
import pytest

from harness.artifacts.sweep.index import PointState
from harness.core.records import Basis, Status
from harness.sweeps.points import (
    COLUMNS,
    Measured,
    combine,
    load_sweep,
    points_table,
    short_names,
)


def test_metrics_are_those_of_the_runs(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", loads=(4, 16), threads=(2,), gpus=2))
    first = sweep.settings[0]
    assert first.values == {made_sweep.LOAD: 4, made_sweep.THREADS: 2}
    tok_s = made_sweep.throughput(4, 2)
    watts = 400 + 0.5 * tok_s
    expected = {
        "output_tok_s": tok_s,
        "output_tok_s_per_gpu": tok_s / 2,
        "interactivity_tok_s_user": tok_s / 4,
        "ttft_p50_s": 0.18,
        "ttft_p99_s": 0.36,
        "tpot_p99_s": 2 * 4 / tok_s,
        "power_w": watts,
        "live_sessions": 4,  # of the closed loop, not the requests in flight
        "sessions_per_gpu": 2,
        "sessions_per_mw": 4 / (2 * watts / 1e6),  # at the modeled utility meter
    }
    found = {key: one.value for key, one in first.metrics.items()}
    assert found == pytest.approx(found | expected)
    assert first.metrics["sessions_per_mw"].basis is Basis.MODELLED
    assert first.metrics["sessions_per_mw"].boundary == "facility"
    assert first.metrics["power_w"].sensors == {"GPU-0": 0.025, "GPU-1": 0.025}
    assert first.metrics["live_sessions"].low == first.metrics["live_sessions"].high == 4


def test_what_no_run_has_is_absent(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", loads=(1,), threads=(1,), gpus=0))
    absent = {column.key for column in COLUMNS} - set(sweep.settings[0].metrics)
    assert absent == {
        "output_tok_s_per_gpu",
        "power_w",
        "output_tok_per_j",
        "usd_per_mtok",
        "sessions_per_gpu",
        "sessions_per_mw",
    }
    table = points_table(sweep)
    assert table["power_w"].to_pylist() == [None]
    assert table["power_w_boundary"].to_pylist() == [None]


def test_states_and_reasons(tmp_path, made_sweep) -> None:
    states = {
        0: PointState.FAILED,
        1: PointState.SKIPPED,
        2: PointState.PARTIAL,
        3: PointState.PLANNED,
    }
    folder = made_sweep.make_sweep(
        tmp_path / "s", (1, 2, 4, 8, 16, 32), (1,), states=states, statuses={4: "invalid"}
    )
    settings = load_sweep(folder).settings
    assert [one.state.value for one in settings] == [
        *("failed", "skipped", "partial", "planned"),
        *("done", "done"),
    ]
    assert [one.why for one in settings[:2]] == ["made to fail"] * 2
    assert [one.usable for one in settings] == [False] * 5 + [True]
    assert settings[2].metrics["output_tok_s"].value == made_sweep.throughput(4, 1)
    assert settings[4].status is Status.INVALID
    shutil.rmtree(folder / "run-005")  # a run that is gone is not measured
    gone = load_sweep(folder).settings[5]
    assert (gone.state, gone.metrics, gone.usable) == (PointState.FAILED, {}, False)
    assert gone.why is not None


def test_settings_are_in_order_of_their_values(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", loads=(16, 2, 8), threads=(2, 1)))
    pairs = [tuple(one.values.values()) for one in sweep.settings]
    assert pairs == [(2, 1), (2, 2), (8, 1), (8, 2), (16, 1), (16, 2)]
    assert sweep.settings[0].name == "concurrency 2, threads 1"


# --- repeats ---


def test_repeats_have_the_spread_between_them(tmp_path, made_sweep) -> None:
    sweep = load_sweep(
        made_sweep.make_sweep(tmp_path / "s", (4,), (1,), repeats=3, noise=0.05, half_width=0.001)
    )
    (setting,) = sweep.settings
    logs = [math.log(run.figure("output_tok_s").value) for run in setting.runs]
    half = 4.302653 * stdev(logs) / math.sqrt(3)  # t of two degrees of freedom
    found = setting.metrics["output_tok_s"]
    assert found.value == pytest.approx(math.exp(fmean(logs)))
    assert (found.low, found.high) == pytest.approx(
        (found.value * math.exp(-half), found.value * math.exp(half)), rel=1e-5
    )


def test_two_repeats_that_agree_are_not_exact() -> None:
    same = [Measured(100.0, 90.0, 110.0)] * 2
    found = combine(same)
    assert found is not None
    half = math.log(110 / 90) / 2 / math.sqrt(2)
    assert (found.low, found.high) == pytest.approx((100 * math.exp(-half), 100 * math.exp(half)))


def test_shares_stay_shares() -> None:
    found = combine([Measured(1.0), Measured(0.98)], share=True)
    assert found is not None
    assert found.value == pytest.approx(0.99)
    assert found.high == 1.0
    assert found.low == pytest.approx(0.99 - 12.7062 * 0.01, rel=1e-4)


def test_repeats_at_different_boundaries_have_no_mean() -> None:
    assert combine([Measured(1.0, boundary="node"), Measured(1.0, boundary="gpu_board")]) is None


def test_invalid_repeats_are_left_out(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (4,), (1,), repeats=3, statuses={1: "invalid"})
    (setting,) = load_sweep(folder).settings
    assert [run.path.name for run in setting.runs] == ["run-000", "run-002"]
    assert setting.usable
    assert setting.why is not None


# --- files ---


def test_table_has_a_row_per_setting(tmp_path, made_sweep) -> None:
    sweep = load_sweep(
        made_sweep.make_sweep(
            tmp_path / "s", (1, 2), (1,), repeats=2, states={3: PointState.FAILED}
        )
    )
    table = points_table(sweep)
    assert table[made_sweep.LOAD].to_pylist() == [1, 2]
    assert table.schema.field(made_sweep.LOAD).type == pa.int64()
    assert table["repeats"].to_pylist() == [2, 1]
    assert table["points"].to_pylist() == ["0 1", "2 3"]
    assert table["runs"].to_pylist() == ["run-000 run-001", "run-002"]
    assert table["why"].to_pylist() == [None, "made to fail"]
    row = table.to_pylist()[1]
    assert row["output_tok_s_low"] < row["output_tok_s"] < row["output_tok_s_high"]


def test_names_of_keys_distinguish_them() -> None:
    keys = ["traffic.load.0.concurrency", "server.threads", "model.threads"]
    assert list(short_names(keys).values()) == ["concurrency", "server.threads", "model.threads"]
