from dataclasses import replace

from harness.sweeps.curve import load_curves, load_key
from harness.sweeps.points import load_sweep


def test_peak_and_knee_by_threads(tmp_path, made_sweep) -> None:
    loads = (1, 8, 64, 152, 512)
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", loads, half_width=0.001))
    two, one = load_curves(sweep)
    assert [curve.others for curve in (two, one)] == [
        {made_sweep.THREADS: 2},
        {made_sweep.THREADS: 1},
    ]
    assert [two.load(setting) for setting in two.settings] == [1, 8, 64, 152, 512]
    assert (two.load(two.peak), two.rising) == (512, True)
    # 152 / (152 + 8) is 95%, of an infinite load; at 64 of one thread it is 89%
    assert one.load(one.knee) == 152
    assert two.load(two.knee) == 512


def test_an_interval_reaches_for_the_knee(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 64, 512), (1,), half_width=0.08))
    (curve,) = load_curves(sweep)
    assert curve.load(curve.knee) == 64
    exact = load_sweep(made_sweep.make_sweep(tmp_path / "e", (1, 64, 512), (1,), half_width=None))
    (curve,) = load_curves(exact)
    assert curve.load(curve.knee) == 512


def test_unusable_points_are_on_no_curve(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (1, 2, 4), (1,), statuses={2: "invalid"})
    (curve,) = load_curves(load_sweep(folder))
    assert curve.load(curve.peak) == 2


def test_the_first_of_equal_peaks(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 2, 4), (1,)))
    flat = [replace(one, metrics=sweep.settings[0].metrics) for one in sweep.settings]
    (curve,) = load_curves(replace(sweep, settings=tuple(flat)))
    assert (curve.load(curve.peak), curve.rising) == (1, False)


def test_no_load_axis_is_no_curve(tmp_path, made_sweep) -> None:
    sweep = load_sweep(made_sweep.make_sweep(tmp_path / "s", (1, 2)))
    without = replace(sweep, keys=(made_sweep.THREADS,))
    assert load_key(without) is None
    assert load_curves(without) == ()
