"""Frontiers against an independent filter in SQL, and against values known by construction."""

from collections.abc import Sequence

import duckdb
import numpy as np
import pandas as pd
import pytest

from harness.artifacts.typed_json import to_json
from harness.sweeps.frontier import (
    at_least_as_good,
    dominance,
    draw,
    frontier_file,
    frontiers,
    hypervolume,
    non_dominated,
)
from harness.sweeps.points import Measured, load_sweep

_FILTER = """
select a.row, a.point from points a where a.x is not null and a.y is not null and not exists (
    select 1 from points b
    where b.row = a.row and b.x >= a.x and b.y >= a.y and (b.x > a.x or b.y > a.y)
)
"""


def test_equals_a_filter_in_sql() -> None:
    rng = np.random.default_rng(7)
    frames = []
    for row in range(1000):
        n = int(rng.integers(1, 25))
        # few different values make ties; a fifth is missing
        x, y = (np.round(rng.lognormal(0, 0.5, n), int(rng.integers(0, 3))) for _ in "xy")
        x, y = (np.where(rng.random(n) < 0.2, np.nan, one) for one in (x, y))
        frames.append(pd.DataFrame({"row": row, "point": range(n), "x": x, "y": y}))
    points = pd.concat(frames)
    with duckdb.connect() as database:
        database.register("frame", points)
        database.execute(
            "create table points as select row, point, nullif(x, 'nan') x, nullif(y, 'nan') y from frame"
        )
        expected = set(database.execute(_FILTER).fetchall())
    found = {
        (row, int(point))
        for row, frame in enumerate(frames)
        for point in np.flatnonzero(
            non_dominated(frame[["y"]].T.to_numpy(), frame[["x"]].T.to_numpy())
        )
    }
    assert found == expected
    assert 1000 < len(found) < len(points)


def test_rows_are_independent() -> None:
    y, x = (
        np.array([[1.0, 2.0, 2.0], [3.0, 2.0, 1.0]]),
        np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]]),
    )
    assert non_dominated(y, x).tolist() == [[False, True, True], [True, True, True]]


def values(sweep, key: str) -> list[float]:
    return [one.metrics[key].value for one in sweep.settings]


def test_exact_values_are_on_the_frontier_or_not(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 2, 4, 8), half_width=None))
    found = {one.key: one for one in frontiers(sweep)}
    throughput = found["output_tok_s_per_gpu-interactivity_tok_s_user"]
    assert throughput.exact == ("output_tok_s_per_gpu", "interactivity_tok_s_user")
    assert {point.probability for point in throughput.points} == {0.0, 1.0}
    # two threads are better than one in both, at every load
    on = {point.values[made_sweep.THREADS] for point in throughput.points if point.probability == 1}
    assert on == {2}
    assert {point.place for point in throughput.points} == {"frontier", "dominated"}
    # lower is better for cost
    cost = found["usd_per_mtok-interactivity_tok_s_user"]
    assert cost.y_better == "lower"
    assert {p.values[made_sweep.THREADS] for p in cost.points if p.place == "frontier"} == {2}
    assert found["output_tok_per_j-ttft_p99_s"].boundary == "gpu_board"
    assert found["sessions_per_mw-slo_met_ratio"].boundary == "facility"


def test_equal_points_cannot_be_distinguished(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (4,), (1,), half_width=0.02)
    (setting,) = load_sweep(folder).settings
    sweep = load_sweep(folder)
    object.__setattr__(sweep, "settings", (setting,) * 4)
    first = frontiers(sweep)[0]
    # of four equal points each is on the frontier of 4 random ones with probability 25/48
    assert [point.probability for point in first.points] == pytest.approx([25 / 48] * 4, abs=0.05)
    assert {point.p_value for point in first.points} == {1.0}


def test_frontiers_without_a_metric_state_why(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 2), (1,), gpus=0))
    found = {one.key: one for one in frontiers(sweep)}
    assert found["output_tok_s-interactivity_tok_s_user"].absent is None
    assert found["output_tok_per_j-ttft_p99_s"].absent is not None
    assert found["output_tok_per_j-ttft_p99_s"].points == ()


def test_the_same_sweep_has_the_same_frontier(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", noise=0.02))
    first, second = (to_json(frontier_file(sweep)) for _ in range(2))
    assert first == second
    assert first["draws"] == 2000
    keys = {key for one in first["frontiers"] for point in one["points"] for key in point}
    assert keys == {"points", "values", "x", "y", "probability", "p_value", "place"}


# --- draws ---


def of(*rows: tuple[float, float | None, float | None]) -> list[Measured]:
    return [Measured(*row) for row in rows]


def test_draws_have_the_interval() -> None:
    drawn = draw(of((100.0, 90.0, 111.0), (1.0, None, None)), "output_tok_s", 50_000)
    assert np.quantile(drawn[:, 0], [0.025, 0.5, 0.975]) == pytest.approx([90, 100, 111], rel=0.01)
    # without an interval: the relative one of the other
    assert np.quantile(drawn[:, 1], [0.025, 0.975]) == pytest.approx([0.9, 1.11], rel=0.01)


def test_shares_are_at_most_one_and_zero_is_exact() -> None:
    drawn = draw(of((0.99, 0.95, 1.0), (0.0, 0.0, 0.01)), "slo_met_ratio")
    assert drawn.max() == 1.0
    assert (drawn[:, 1] == 0).all()


def sensed(value: float, **sensors: float) -> Measured:
    return Measured(value, value, value, boundary="gpu_board", sensors=sensors)


def test_sensor_errors_are_common_to_a_gpu() -> None:
    one, same, other = sensed(1.0, a=0.05), sensed(2.0, a=0.05), sensed(2.0, b=0.05)
    drawn = draw([one, same, other], "output_tok_per_j", 20_000)
    assert drawn[:, 1] / drawn[:, 0] == pytest.approx(np.full(20_000, 2.0))
    assert np.std(np.log(drawn[:, 2] / drawn[:, 0])) == pytest.approx(
        0.05 / 1.96 * 2**0.5, rel=0.03
    )
    chances = at_least_as_good(
        [sensed(1.0, a=0.05), sensed(1.01, a=0.05), sensed(1.01, b=0.05)], "power_w"
    )
    assert chances[0, 1] == 1.0  # less power, with the same sensor
    assert 0.5 < chances[0, 2] < 0.7


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (((1.0, 1.0), (1.0, 1.0)), 0.0),
        (((1.0, 2.0), (1.0, 1.0)), 1.0),
        (((2.0, 1.0), (1.0, 1.0)), 1.0),
        (((2.0, 1.0), (1.0, 1.5)), 0.0),
    ],
)
def test_dominance_without_errors(rows: Sequence[tuple[float, float]], expected: float) -> None:
    y, x = (
        at_least_as_good([sensed(row[axis]) for row in rows], "output_tok_s") for axis in (0, 1)
    )
    assert dominance(y, x)[0, 1] == expected


def test_dominance_is_the_product_of_two_chances() -> None:
    noisy = of((1.1, 1.1 / 1.1, 1.1 * 1.1), (1.0, 1 / 1.1, 1.1))
    chance = at_least_as_good(noisy, "output_tok_s")
    assert chance[0, 1] == pytest.approx(0.917, abs=0.001)  # 1.96 / sqrt(2) deviations
    assert dominance(chance, chance)[0, 1] == pytest.approx(0.917**2, abs=0.002)


# --- area ---


def test_hypervolume_is_the_area_below_the_steps() -> None:
    y, x = np.array([[3.0, 2.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 4.0, 0.5]])
    assert hypervolume(y, x) == pytest.approx([3 + 2 + 2])


def test_frontier_survives_json(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 2)))
    point = to_json(frontiers(sweep)[0])["points"][0]
    assert point["values"] == {made_sweep.LOAD: 1, made_sweep.THREADS: 1}
