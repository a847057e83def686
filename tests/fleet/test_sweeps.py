"""Scaling a sweep, and the refusal of runs that miss their SLOs."""

from dataclasses import replace

import pytest

from harness.artifacts.sweep.index import Axis, PointState, read_sweep, write_sweep
from harness.commands.fleet import FleetRequest, fleet
from harness.core.errors import InvalidRunError, ProfileError
from harness.fleet.estimate.estimate import Options, estimate
from harness.sweeps.best import site_evidence
from harness.sweeps.points import load_sweep

QUICK = Options(draws=50)


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_the_best_point_is_the_run(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (4, 8, 16, 32), statuses={1: "invalid"})
    found = site_evidence(load_sweep(folder))
    # 16 sessions on two threads; 8, 4 and 32 on two threads are other loads, one thread is not
    assert found.run.name == "run-006"
    assert names(found.loads) == ["run-004", "run-005", "run-007"]
    assert (found.limits, found.replicas) == ((), ())


@pytest.mark.parametrize(
    ("key", "kind"), [("server.replicas", "replicas"), ("server.power_limit_w", "limits")]
)
def test_other_points_are_evidence_of_their_kind(tmp_path, made_sweep, key: str, kind: str) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (8, 16))
    index = read_sweep(folder)
    axes = (index.axes[0], Axis(key, (1, 2)))
    points = tuple(
        replace(
            p,
            values={made_sweep.LOAD: p.values[made_sweep.LOAD], key: p.values[made_sweep.THREADS]},
        )
        for p in index.points
    )
    write_sweep(folder, replace(index, axes=axes, points=points))
    found = site_evidence(load_sweep(folder))
    assert names(getattr(found, kind)) == ["run-001"]
    assert names(found.loads) == ["run-002"]


def test_of_repeats_the_median_scales(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (8,), (1,), repeats=3, noise=0.05)
    sweep = load_sweep(folder)
    ordered = sorted(sweep.settings[0].runs, key=lambda run: run.figure("output_tok_s").value)
    assert site_evidence(sweep).run == ordered[1].path


def test_loads_replace_the_assumption(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (1, 4, 16))
    alone = tmp_path / "s" / "run-005"
    by_sweep, by_run = (
        fleet(FleetRequest((path,), ("colossus-1",), options=QUICK)).cases[0].estimate
        for path in (folder, alone)
    )
    assert by_sweep.to_dict()["run"] == by_run.to_dict()["run"]
    bases = [
        {key: factor.basis for key, factor in one.factors.items()} for one in (by_sweep, by_run)
    ]
    changed = {key for key in bases[0] if bases[0][key] != bases[1][key]}
    assert changed == {"idle_power_share"}


def test_a_sweep_without_a_best_point_is_refused(tmp_path, made_sweep) -> None:
    folder = made_sweep.make_sweep(tmp_path / "s", (32, 64), states={0: PointState.FAILED})
    with pytest.raises(InvalidRunError) as refused:
        fleet(FleetRequest((folder,), ("colossus-1",), options=QUICK))
    assert refused.value.cause is not None
    assert "8.3%" in refused.value.cause


# --- attainment ---


def test_a_run_that_misses_its_slos_is_refused(make_run) -> None:
    run = make_run(good_share=0.5, slo_met=(0.5, 0.5))
    with pytest.raises(InvalidRunError, match=r"50\.0%"):
        estimate(run, "colossus-1", options=QUICK)
    accepted = estimate(run, "colossus-1", options=replace(QUICK, min_attainment=0.5))
    assert any("50.0%" in flag for flag in accepted.flags)


def test_enough_attainment_and_no_slos_pass(tmp_path, made_sweep, make_run) -> None:
    assert estimate(make_run(good_share=0.95), "colossus-1", options=QUICK)
    assert estimate(make_run(good_share=None), "colossus-1", options=QUICK)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_attainment_is_a_share(share: float) -> None:
    with pytest.raises(ProfileError):
        Options(min_attainment=share)
