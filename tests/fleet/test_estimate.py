import json
import re

import numpy as np
import pytest

from harness.core.errors import ArtifactError, InvalidRunError, NotComparableError, ProfileError
from harness.core.records import Basis, Status
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.estimate.sampling import draw
from harness.fleet.site.catalog import gpus, load_site, priors
from harness.fleet.site.types import FromOne, Site


def site(count=1000, *, power_mw=None, pue=None, usd_per_month=None, gpu="H100", **changes):
    def said(value):
        return None if value is None else {"value": value, "source": "us", "date": "2026-01"}

    return Site(
        name="ours",
        title="ours",
        gpus=said(count),
        gpu=said(gpu),
        power_mw=said(power_mw),
        pue=said(pue),
        usd_per_month=said(usd_per_month),
        **changes,
    )


# --- what it says ---


def test_tokens_are_the_product_of_the_printed_factors(make_run):
    found = estimate(make_run(), site(count=1000))
    p = priors()
    serving = min(p["availability"].value, 1 - p["reserved_spares"].value)
    peak = 1000.0 * p["multi_replica_efficiency"].value * p["slo_headroom"].value * 1000 * serving
    assert found.figure("output_tok_s_peak").value == pytest.approx(peak)
    assert found.figure("output_tok_s").value == pytest.approx(peak * p["load_factor"].value)
    assert found.figure("output_tok_per_day").value == pytest.approx(
        peak * p["load_factor"].value * 86400
    )


def test_the_waterfall_leads_from_the_measured_number_to_the_answers(make_run):
    found = estimate(make_run(good_share=0.9), site(count=1000, power_mw=0.9))
    for part, keys in (("tokens", ("output_tok_s",)), ("power", ("power_mean_mw",))):
        steps = [step for step in found.waterfall if step.part == part]
        value = 0.0
        for step in steps:
            value = {"=": step.factor, "x": value * step.factor, "+": value + step.factor}[
                step.operation
            ]
            value = value / 1e6 if step.unit == "MW at peak" else value
            assert step.result == pytest.approx(value)
            assert step.source
        assert found.figure(keys[0]).value == pytest.approx(steps[-1].result)
    assert found.waterfall[0].basis is Basis.MEASURED
    assert found.waterfall[0].result == 1000.0


def test_power_adds_hosts_to_measured_boards_and_multiplies_the_rest(make_run):
    found = estimate(make_run(), site(count=1000, pue=1.2))
    host = gpus()["H100"].host_rated_w.value * priors()["host_power_share"].value
    each_w = (600.0 + host) * (1 + priors()["network_storage"].value) * 1.2
    assert found.figure("power_peak_mw").value == pytest.approx(each_w * 1000 / 1e6)
    assert found.figure("power_peak_mw").boundary == "facility"
    day = (
        priors()["idle_power_share"].value
        + (1 - priors()["idle_power_share"].value) * priors()["load_factor"].value
    )
    assert found.figure("power_mean_mw").value == pytest.approx(each_w * 1000 / 1e6 * day)
    per_day = found.figure("power_mean_mw").value * 24 * priors()["co2_kg_per_kwh"].value
    assert found.figure("co2_t_per_day").value == pytest.approx(per_day)
    assert found.figure("co2_kg_per_mtok").value == pytest.approx(
        per_day * 1000 / (found.figure("output_tok_per_day").value / 1e6)
    )


def test_measured_node_power_replaces_the_guess_about_hosts(make_run):
    run = make_run(power={"gpu_board": 4800.0, "node": 8000.0})
    found = estimate(run, site(count=1000, pue=1.2))
    assert found.figure("power_peak_mw").value == pytest.approx(1000.0 * 1.1 * 1.2 * 1000 / 1e6)
    assert not any("host" in text.lower() and "rated" in text for text in found.assumptions())


def test_tok_per_mw_joules_and_dollars_follow_from_the_same_numbers(make_run):
    """Tokens per megawatt joules per token and dollars follow from the same numbers."""
    found = estimate(make_run(), site(count=1000, pue=1.2, usd_per_month=6e6))
    peak, mw = found.figure("output_tok_s_peak").value, found.figure("power_peak_mw").value
    assert found.figure("output_tok_s_per_mw").value == pytest.approx(peak / mw)
    assert found.figure("j_per_output_tok").value == pytest.approx(mw * 1e6 / peak)
    of_day = found.figure("power_mean_mw").value * 1e6 / found.figure("output_tok_s").value
    assert found.figure("j_per_output_tok_mean").value == pytest.approx(of_day)
    hourly = 6e6 / 730.5
    assert found.figure("usd_per_gpu_h").value == pytest.approx(hourly / 1000)
    assert found.figure("usd_per_mtok").value == pytest.approx(
        hourly / (found.figure("output_tok_s").value * 3600 / 1e6)
    )


def test_ranges_hold_the_central_value_and_come_from_the_seed_alone(make_run):
    run = make_run()
    a, b, c = (estimate(run, site(power_mw=0.9), seed=seed) for seed in (1, 1, 2))
    for figure in a.figures:
        if figure.p5 is not None:
            assert figure.p5 <= figure.p50 <= figure.p95
            assert figure.p5 * (1 - 1e-9) <= figure.value <= figure.p95 * (1 + 1e-9)
    assert a.to_dict() == b.to_dict()
    assert a.figure("output_tok_s").p5 != c.figure("output_tok_s").p5


def test_a_run_without_an_interval_says_that_its_own_uncertainty_is_missing(make_run):
    with_it, without = (
        estimate(make_run(interval=interval), site()) for interval in ((500.0, 1500.0), None)
    )
    width = {
        name: e.figure("output_tok_s_peak").p95 - e.figure("output_tok_s_peak").p5
        for name, e in (("with", with_it), ("without", without))
    }
    assert width["with"] > 2 * width["without"]
    assert any("no interval" in text for text in without.assumptions())


def test_tokens_that_missed_an_slo_do_not_count(make_run):
    full, partial = (
        estimate(make_run(good_share=1.0), site()),
        estimate(make_run(good_share=0.75), site()),
    )
    assert partial.figure("output_tok_s").value == pytest.approx(
        0.75 * full.figure("output_tok_s").value
    )


def test_p5_and_p95_are_those_of_the_runs_own_normal_error(make_run):
    # A 95 % interval of +-19.6 is a deviation of 10: P5 and P95 lie 16.45 from the value, where
    # nothing else varies.
    known = Options(
        assume=(
            "multi_replica_efficiency=1",
            "slo_headroom=1",
            "availability=1",
            "reserved_spares=0",
        )
    )
    found = estimate(make_run(interval=(980.4, 1019.6)), site(count=1), options=known).figure(
        "output_tok_s_peak"
    )
    assert (found.p5, found.p50, found.p95) == pytest.approx((983.55, 1000.0, 1016.45), abs=0.5)


def test_factors_are_drawn_independently_and_have_their_p5_below_their_p95(make_run):
    spread = [
        factor for factor in estimate(make_run(), "colossus-1").factors.values() if factor.spread
    ]
    assert len(spread) >= 12
    assert all(factor.ends()[0] < np.median(factor.draws) < factor.ends()[1] for factor in spread)
    correlation = np.corrcoef([factor.draws for factor in spread]) - np.eye(len(spread))
    assert np.abs(correlation).max() < 0.05  # five deviations of chance in 10,000 draws


def test_tokens_of_the_windows_edges_are_no_missed_slo(make_run):
    # 8,000 tok/s arrived in the window; requests intended in it had 7,600 (38 a second of 200), all
    # of them good.
    run = make_run(good_share=0.95, slo_met=(1.0, 38.0))
    assert estimate(run, site()).factors["slo_share"].value == pytest.approx(1.0)
    # Half of the requests are good and have 40 % of the tokens: 20 a second of 40, 3,200 of 8,000
    # tok/s.
    run = make_run(good_share=0.4, slo_met=(0.5, 20.0))
    found = estimate(run, site(), options=Options(min_attainment=0.5))
    assert found.factors["slo_share"].value == pytest.approx(0.4)


def test_an_interval_that_does_not_hold_its_value_is_damage(make_run):
    with pytest.raises(ArtifactError, match="output_tok_s_per_gpu"):
        estimate(make_run(interval=(1020.0, 980.0)), site())


def test_a_cap_or_a_mix_that_leaves_no_gpu_is_refused(make_run):
    with pytest.raises(ProfileError, match="1e-06 MW"):
        estimate(make_run(), site(power_mw=1e-6))
    said = {
        name: {"value": share, "source": "us", "date": "2026-01"}
        for name, share in (("H100", 0.001), ("H200", 0.999))
    }
    with pytest.raises(ProfileError, match="not one H100"):
        estimate(make_run(), site(count=40, gpu=None, mix=said))


def test_few_draws_and_a_site_that_is_yet_to_come_are_flagged(make_run):
    assert any("10 draws" in flag for flag in estimate(make_run(), site(), draws=10).flags)
    for month, flagged in (("2999-01", True), ("2020-01", False)):
        flags = estimate(make_run(), site(available=month)).flags
        assert any(month in flag for flag in flags) == flagged


def test_a_run_of_which_nothing_met_its_slos_is_refused(make_run):
    with pytest.raises(InvalidRunError, match="<= ") as error:
        estimate(make_run(good_share=0.0), site())
    assert error.value.exit_code == 10


def test_a_measured_cost_of_replicas_replaces_the_guess(make_run):
    one, two = estimate(make_run(replicas=1), site()), estimate(make_run(replicas=2), site())
    assert two.figure("output_tok_s").value == pytest.approx(
        one.figure("output_tok_s").value / priors()["multi_replica_efficiency"].value
    )
    [flag] = set(one.flags) - set(two.flags)
    assert "two replicas" in flag


# --- the power cap ---


def test_power_binds_and_fewer_gpus_run(make_run):
    free = estimate(make_run(), site(count=1000, pue=1.2))
    need = free.figure("power_peak_mw").value
    capped = estimate(make_run(), site(count=1000, pue=1.2, power_mw=need / 2))
    assert free.binding == "count"
    assert capped.binding == "power"
    assert capped.figure("power_peak_mw").value == pytest.approx(need / 2)
    assert capped.figure("gpus_powered").value == pytest.approx(500)
    assert capped.figure("output_tok_s").value == pytest.approx(
        free.figure("output_tok_s").value / 2
    )
    assert capped.figure("power_peak_mw").p95 <= need / 2 * (1 + 1e-9)
    assert any(f"{need / 2:g} MW" in flag for flag in capped.flags)


def test_a_cap_that_does_not_bind_changes_nothing(make_run):
    free, capped = (
        estimate(make_run(), site(pue=1.2)),
        estimate(make_run(), site(pue=1.2, power_mw=100.0)),
    )
    assert capped.binding == "count"
    assert capped.figure("output_tok_s").value == free.figure("output_tok_s").value


# --- what is absent ---


def test_without_power_its_figures_are_absent_with_the_reason(
    make_run,
):
    """Without power its figures are absent with the reason and tokens are an upper bound."""
    found = estimate(make_run(power={}), site(power_mw=0.5))
    for key in ("power_peak_mw", "output_tok_s_per_mw", "j_per_output_tok"):
        assert found.figure(key).value is None
        assert found.figure(key).basis is Basis.ABSENT
        assert "power" in found.figure(key).note
    assert found.binding == "unknown"
    assert any("0.5 MW" in flag for flag in found.flags)
    assert found.figure("output_tok_s").value > 0


def test_without_a_sourced_host_constant_power_is_absent(make_run):
    found = estimate(make_run(gpus=("NVIDIA A100-SXM4-80GB",) * 4), site(gpu="A100"))
    assert "host power for A100" in found.figure("power_peak_mw").note


def test_without_a_price_dollars_are_absent(make_run):
    assert estimate(make_run(), site()).figure("usd_per_mtok").value is None


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"status": Status.INVALID}, "invalid"),
        ({"status": Status.FUNCTIONAL, "purpose": "smoke"}, "smoke"),
        ({"gpus": (), "power": {}}, "GPU"),
        ({"gpus": (), "power": {}, "status": Status.FUNCTIONAL, "purpose": "smoke"}, "GPU"),
        ({"tok_s_per_gpu": None}, "no output tokens per second per GPU"),
    ],
)
def test_a_run_that_may_not_be_scaled_is_refused(make_run, changes, why):
    with pytest.raises(InvalidRunError, match=why) as error:
        estimate(make_run(**changes), site())
    assert error.value.exit_code == 10
    assert error.value.next_step


@pytest.mark.parametrize(
    ("names", "gpu"),
    [
        (("NVIDIA H200",) * 8, "H100"),
        (("NVIDIA H100 PCIe",), "H100"),
        (("NVIDIA A100 80GB PCIe",), None),
        (("NVIDIA H100 80GB HBM3", "NVIDIA H200"), "H100"),
    ],
)
def test_nothing_is_scaled_across_types_of_gpu(make_run, names, gpu):
    with pytest.raises(NotComparableError) as error:
        estimate(make_run(gpus=names), site(gpu=gpu))
    assert error.value.exit_code == 8
    assert names[0] in error.value.what


@pytest.mark.parametrize(
    ("includes", "other"),
    [
        (("host", "pue"), "host_rated_w"),
        (("spares", "pue"), "spares .*"),
        (("network", "pue"), "network_storage"),
    ],
)
def test_a_pue_that_covers_something_else_too_overlaps_and_is_refused(make_run, includes, other):
    ladder = {"value": 1.7, "source": "a ladder", "date": "2025-08", "includes": includes}
    place = site(gpu=None).model_copy(update={"pue": FromOne(**ladder)})
    with pytest.raises(ProfileError, match=f"{other} and pue both include {includes[0]}"):
        estimate(make_run(), place)


# --- red flags ---


@pytest.mark.parametrize(
    ("changes", "place", "flag"),
    [
        ({"status": Status.DEGRADED}, {}, "degraded \\(calibration_missing\\)"),
        ({"window_s": 20.0}, {}, "20 s.*30 s"),
        ({"context_scale": 0.25}, {}, "0.25"),
        ({"good_share": None}, {}, "SLO"),
        ({"power": {"gpu_board": 8 * 740.0}}, {}, "5920 W.*5600 W"),
        ({}, {"gpu": None}, "\\(H100\\)"),
    ],
)
def test_red_flags(make_run, changes, place, flag):
    assert not estimate(make_run(replicas=2), site()).flags
    [found] = estimate(make_run(replicas=2, **changes), site(**place)).flags
    assert re.search(flag, found)


# --- the shipped sites ---


def test_colossus_1_is_told_with_its_contradictions(make_run):
    found = estimate(make_run(), "colossus-1")
    assert found.figure("usd_per_gpu_h").value == pytest.approx(8.56, abs=0.005)
    assert "$5.27" in found.figure("usd_per_gpu_h").note
    assert any("346 MW against 300 MW" in text for text in found.contradictions)
    assert any("220,000" in flag for flag in found.flags)
    assert found.figure("power_peak_mw").value <= 300.0 * (1 + 1e-9)
    assert found.binding == "count"
    loaded = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert loaded["figures"]["output_tok_s"]["basis"] == "modelled"
    assert {"value", "p5", "p50", "p95", "basis", "assumptions"} <= set(
        loaded["figures"]["output_tok_s"]
    )


def test_googles_lease_is_limited_by_count_since_nobody_states_its_power(make_run):
    found = estimate(make_run(), load_site("google-110k"))
    assert found.binding == "count"
    assert found.figure("gpus_powered").value == 110_000
    assert found.figure("usd_per_gpu_h").value == pytest.approx(11.45, abs=0.005)


# --- draws ---


@pytest.mark.parametrize("key", list(priors()))
def test_draws_have_the_published_quantiles_or_range(key):
    prior = priors()[key]
    drawn = draw(prior, np.random.default_rng(3), 200_000)
    if prior.kind == "quantiles":
        assert np.quantile(drawn, [0.05, 0.5, 0.95]) == pytest.approx(
            [prior.low, prior.value, prior.high], rel=0.01
        )
        assert drawn.max() <= 1.0
    else:
        assert drawn.min() >= prior.low
        assert drawn.max() <= prior.high
    if prior.kind == "triangular":
        assert drawn.mean() == pytest.approx((prior.low + prior.value + prior.high) / 3, rel=0.01)


def test_the_error_of_sensors_falls_with_the_number_of_boards(
    make_run,
):
    """The error of sensors falls with the number of boards and a node's meter has one too."""

    def width(gpus, power):
        figure = estimate(
            make_run(gpus=("NVIDIA H100 80GB HBM3",) * gpus, power=power), site(pue=1.2)
        ).figure("power_peak_mw")
        return figure.p95 - figure.p5

    assert width(1, {"gpu_board": 600.0}) > width(8, {"gpu_board": 4800.0}) > 0
    assert 0 < width(1, {"node": 1000.0}) < width(1, {"gpu_board": 600.0})
