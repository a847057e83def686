"""What the caller may state beside run and site: further runs, demand, other work, ratios between
types of GPU, the term.
"""

import re

import pytest

from harness.core.errors import ArtifactError, InvalidRunError, NotComparableError, ProfileError
from harness.core.records import Basis, Status
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.estimate.gpu_ratio import parse_ratio
from harness.fleet.site.catalog import gpus, load_site, priors
from harness.fleet.site.types import Site, Sourced

H200 = ("NVIDIA H200",) * 8


def said(value):
    return {"value": value, "source": "us", "date": "2026-01"}


def site(count=1000, gpu="H100", **changes):
    changes = {
        key: said(value) if isinstance(value, int | float) else value
        for key, value in changes.items()
    }
    return Site(
        name="ours",
        title="ours",
        gpus=said(count),
        gpu=said(gpu) if gpu else None,
        **changes,
    )


# --- the tornado ---


def test_the_tornado_ranks_factors_by_how_far_they_move_the_answer(make_run):
    found = estimate(make_run(replicas=2), site(pue=1.2, usd_per_month=6e6))
    of = [swing for swing in found.tornado if swing.figure == "output_tok_s"]
    assert [swing.width for swing in of] == sorted((swing.width for swing in of), reverse=True)
    assert of[0].factor == "load_factor"
    assert {swing.factor for swing in of} == {
        "tok_s_per_gpu",
        "slo_headroom",
        "availability",
        "reserved_spares",
        "load_factor",
    }
    low, high = found.factors["load_factor"].ends()
    value = found.figure("output_tok_s").value
    assert (of[0].at_p5, of[0].at_p95) == pytest.approx(
        (value * low / priors()["load_factor"].value, value * high / priors()["load_factor"].value)
    )


# --- a power cap with and without its curve ---


def test_three_enforced_limits_make_a_curve_and_more_gpus_at_less_power_serve_more(make_run):
    base = make_run(replicas=2)
    further = [
        make_run(
            replicas=2, tok_s_per_gpu=900.0, power={"gpu_board": 400.0 * 8}, power_limit_w=450.0
        ),
        make_run(
            replicas=2, tok_s_per_gpu=700.0, power={"gpu_board": 250.0 * 8}, power_limit_w=300.0
        ),
    ]
    place = site(1000, pue=1.2, power_mw=0.8)
    alone, curve = estimate(base, place), estimate(base, place, options=Options(limits=further))
    assert alone.binding == "power"
    assert curve.figure("output_tok_s").value > alone.figure("output_tok_s").value * 1.05
    assert curve.figure("gpus_powered").value > alone.figure("gpus_powered").value
    assert any("450 W" in text for text in curve.figure("gpus_powered").assumptions)
    assert any("W" in step.label and step.basis is Basis.MEASURED for step in curve.waterfall)
    for part, key in (("tokens", "output_tok_s"), ("power", "power_mean_mw")):
        assert [step for step in curve.waterfall if step.part == part][-1].result == pytest.approx(
            curve.figure(key).value
        )


def test_a_limit_at_which_no_request_meets_its_slos_serves_nothing(make_run):
    base = make_run(replicas=2)
    kept = make_run(
        replicas=2, tok_s_per_gpu=900.0, power={"gpu_board": 400.0 * 8}, power_limit_w=450.0
    )
    late = make_run(
        replicas=2,
        tok_s_per_gpu=890.0,
        power={"gpu_board": 100.0 * 8},
        power_limit_w=300.0,
        good_share=0.0,
    )
    found = estimate(base, site(1000, pue=1.2, power_mw=0.8), options=Options(limits=[kept, late]))
    assert len([step for step in found.waterfall if "450 W" in step.label]) == 2


def test_two_limits_are_no_curve_and_the_site_runs_fewer_gpus(make_run):
    base, other = (
        make_run(replicas=2),
        make_run(replicas=2, tok_s_per_gpu=900.0, power={"gpu_board": 3200.0}, power_limit_w=450.0),
    )
    place = site(1000, pue=1.2, power_mw=0.8)
    found = estimate(base, place, options=Options(limits=[other]))
    assert found.figure("output_tok_s").value == estimate(base, place).figure("output_tok_s").value
    assert any("limits" in flag and "there are 2" in flag for flag in found.flags)


@pytest.mark.parametrize(
    "change",
    [{"model": "org/other"}, {"dtype": "fp8"}, {"workload": {"kind": "chat"}}, {"gpus": H200}],
)
def test_a_further_run_of_other_work_is_refused_by_name(make_run, change):
    with pytest.raises(NotComparableError):
        estimate(
            make_run(),
            site(1000, pue=1.2, power_mw=0.8),
            options=Options(loads=[make_run(**change)]),
        )


def test_an_invalid_further_run_is_refused(make_run):
    with pytest.raises(InvalidRunError):
        estimate(make_run(), site(), options=Options(loads=[make_run(status=Status.INVALID)]))


def test_oversubscription_powers_more_gpus_under_the_same_cap(make_run):
    place = site(1000, pue=1.2, power_mw=0.6)
    plain, over = (
        estimate(make_run(), place, options=Options(oversubscribe=share)) for share in (0.0, 0.3)
    )
    assert over.figure("gpus_powered").value == pytest.approx(
        1.3 * plain.figure("gpus_powered").value
    )
    assert over.figure("power_peak_mw").value == pytest.approx(0.6)
    assert any("POLCA" in text for text in over.assumptions())
    assert any("not modeled" in flag for flag in over.flags)
    assert not any("not modeled" in flag for flag in plain.flags)
    assert any(
        "POLCA" in flag
        for flag in estimate(make_run(), place, options=Options(oversubscribe=0.5)).flags
    )


# --- measured in place of a guess ---


def test_runs_at_two_loads_measure_power_without_load(make_run):
    light = make_run(tok_s_per_gpu=500.0, power={"gpu_board": 400.0 * 8})
    found = estimate(make_run(), site(pue=1.2), options=Options(loads=[light]))
    idle = found.factors["idle_power_share"]
    assert idle.basis is Basis.MEASURED
    assert idle.value == pytest.approx(200.0 / 600.0)
    guessed = estimate(make_run(), site(pue=1.2)).factors["idle_power_share"]
    assert guessed.basis is Basis.MODELLED


def test_a_run_of_four_replicas_measures_what_replicas_cost(make_run):
    found = estimate(
        make_run(), site(), options=Options(replicas=[make_run(replicas=4, tok_s_per_gpu=880.0)])
    )
    factor = found.factors["multi_replica_efficiency"]
    assert (factor.basis, factor.value) == (Basis.MEASURED, pytest.approx(0.88))
    assert not any("two replicas" in flag for flag in found.flags)


# --- demand ---


def test_a_demand_in_tokens_or_sessions_needs_so_many_gpus_and_megawatts(make_run):
    run = make_run(replicas=2)
    whole = estimate(run, site(1000, pue=1.2))
    found = estimate(
        run,
        site(1000, pue=1.2),
        options=Options(demand_tok_s=whole.figure("output_tok_s_peak").value / 4),
    )
    assert found.figure("gpus_needed").value == pytest.approx(250)
    assert found.figure("mw_needed").value == pytest.approx(whole.figure("power_peak_mw").value / 4)
    assert found.figure("demand_met_ratio").value == 1.0
    each = 8000.0 / 64
    assert whole.figure("sessions").value == pytest.approx(
        whole.figure("output_tok_s_peak").value / each
    )
    assert "claude-code" in whole.figure("sessions").title
    by_sessions = estimate(
        run,
        site(1000, pue=1.2),
        options=Options(demand_sessions=whole.figure("sessions").value * 2),
    )
    assert by_sessions.figure("demand_met_ratio").value == pytest.approx(0.5)
    assert "shed" in by_sessions.figure("demand_met_ratio").note
    assert whole.figure("gpus_needed").value is None


def test_sessions_are_absent_where_the_run_did_not_hold_them(make_run):
    run = make_run(concurrency=None)
    assert estimate(run, site()).figure("sessions").basis is Basis.ABSENT
    with pytest.raises(ProfileError, match="sessions"):
        estimate(run, site(), options=Options(demand_sessions=10))


@pytest.mark.parametrize(
    "change",
    [{"demand_tok_s": 0.0}, {"demand_tok_s": float("inf")}, {"oversubscribe": -0.1}, {"draws": 0}],
)
def test_what_makes_no_sense_is_refused(change):
    with pytest.raises(ProfileError):
        Options(**change)


@pytest.mark.parametrize("key", ["limits", "loads", "replicas"])
def test_further_runs_are_looked_at_whether_they_are_needed_or_not(make_run, tmp_path, key):
    # The run has two replicas and no cap binds: none of the three would be used.
    with pytest.raises(ArtifactError):
        estimate(make_run(replicas=2), site(), options=Options(**{key: (tmp_path / "nothing",)}))
    with pytest.raises(NotComparableError, match="model"):
        estimate(
            make_run(replicas=2), site(), options=Options(**{key: (make_run(model="org/other"),)})
        )
    [flag] = estimate(
        make_run(replicas=2), site(power_mw=90.0), options=Options(limits=(make_run(),))
    ).flags
    assert "power limits" in flag


# --- other work ---


def test_work_that_was_measured_passes_and_other_work_is_refused(make_run):
    run = make_run()
    same = {
        "model": "org/some-model",
        "precision": "bfloat16",
        "context_tok": "3200",
        "workload": "claude-code",
    }
    assert estimate(run, site(), options=Options(work=same)).work.context_tok == 3200.0
    for key, value in {
        "model": "other",
        "precision": "fp8",
        "context_tok": "100000",
        "workload": "chat",
    }.items():
        with pytest.raises(NotComparableError, match=key) as error:
            estimate(run, site(), options=Options(work={key: value}))
        assert error.value.exit_code == 8
    for bad in ({"colour": "red"}, {"context_tok": "long"}):
        with pytest.raises(ProfileError):
            estimate(run, site(), options=Options(work=bad))


def test_the_arithmetic_of_the_cache_is_printed(make_run):
    # Llama 3.1 8B: 128 KiB a token; 104k tokens are 13.6 GB; an H100 holds about four of them
    # beside the weights.
    text = estimate(
        make_run(kv_bytes_per_tok=131072, input_tok=103800.0, parameters=8_030_000_000), site()
    ).work.kv
    assert "128 KiB" in text
    assert "13.6 GB" in text
    for amount in ("80 GB", " 4.1 ", "16.1 GB"):
        assert amount in text
    assert "nothing else" in estimate(make_run(kv_bytes_per_tok=131072), site()).work.kv


# --- types of GPU ---


def test_a_ratio_between_types_is_labelled_modelled(make_run):
    ratio = parse_ratio("1.4", "a vendor", "H100", "H200")
    found = estimate(
        make_run(replicas=2), site(1000, "H200", pue=1.2), options=Options(modelled=ratio)
    )
    plain = estimate(make_run(replicas=2), site(1000, pue=1.2))
    assert found.gpu == "H200"
    assert found.figure("output_tok_s").value == pytest.approx(
        1.4 * plain.figure("output_tok_s").value
    )
    assert found.figure("power_peak_mw").value == pytest.approx(
        plain.figure("power_peak_mw").value
    )  # the same 700 W of board and host
    assert any("1.4 (stated: a vendor)" in flag for flag in found.flags)
    assert "stated: a vendor" in [step.source for step in found.waterfall]


def test_boards_of_another_type_draw_the_same_share_of_their_rated_power(make_run):
    found = estimate(
        make_run(),
        site(1000, "B200", pue=1.2),
        options=Options(modelled=parse_ratio("2", "us", "H100", "B200")),
    )
    rated = gpus()["B200"].board_power_w.value
    assert rated > 900
    step = next(step for step in found.waterfall if step.part == "power")
    assert (step.result, step.basis) == (pytest.approx(600.0 * rated / 700.0), Basis.MODELLED)


def test_published_throughput_gives_a_ratio_with_the_range_over_models():
    ratio = parse_ratio("table", None, "H100", "H200")
    assert (ratio.low, ratio.high) == pytest.approx((2587 / 2209, 3288 / 1932))
    assert ratio.low < ratio.value < ratio.high
    assert "TensorRT-LLM" in ratio.source


def test_ratios_without_ground_are_refused():
    with pytest.raises(NotComparableError):
        parse_ratio("table", None, "H100", "MI300X")
    for text, source in (("1.2", None), ("zero", "x"), ("0", "x"), ("2:1", "x"), ("-1", "x")):
        with pytest.raises(ProfileError):
            parse_ratio(text, source, "H100", "H200")


def test_of_a_mix_only_the_measured_type_is_scaled(make_run):
    place = site(
        1000, None, pue=1.2, usd_per_month=6e6, mix={"H100": said(0.75), "H200": said(0.25)}
    )
    found = estimate(make_run(), place)
    assert found.figure("gpus_powered").value == 750
    capped = estimate(
        make_run(), place.model_copy(update={"power_mw": Sourced(**said(0.8))})
    )  # three quarters of the cap are theirs
    assert capped.figure("power_peak_mw").value == pytest.approx(0.6)
    assert found.figure("usd_per_gpu_h").value == pytest.approx(6e6 / 730.5 / 1000)
    assert any("750 GPUs of type H100" in flag for flag in found.flags)
    with pytest.raises(NotComparableError):
        estimate(make_run(gpus=("NVIDIA B200",) * 8), place)


# --- the site ---


def test_a_term_that_is_over_delivers_nothing(make_run):
    with pytest.raises(ProfileError, match="ended 2024-05"):
        estimate(make_run(), site(until="2024-05"))
    estimate(make_run(), site(until="2999-01"))


def test_a_sites_own_figures_replace_priors(make_run):
    found = estimate(make_run(), site(pue=1.2, co2_kg_per_kwh=0.05))
    assert found.factors["co2_kg_per_kwh"].value == 0.05
    assert not found.factors["pue"].spread


def test_prices_by_tier_stand_beside_the_lease(make_run):
    found = estimate(make_run(), load_site("colossus-1"))
    lease = found.figure("usd_per_mtok")
    tiers = [figure for figure in found.figures if figure.key.startswith("usd_per_mtok@")]
    assert len(tiers) == 3
    assert all(figure.value < lease.value for figure in tiers)
    # On the market only GPUs that run are paid; the lease is paid for all of them.
    found = estimate(make_run(), site(1000, pue=1.2, power_mw=0.6))
    price, powered = (
        gpus()["H100"].usd_per_gpu_h["rental_3_years"].value,
        found.figure("gpus_powered").value,
    )
    assert powered < 600
    assert found.figure("usd_per_mtok@rental_3_years").value == pytest.approx(
        price * powered / (found.figure("output_tok_s").value * 0.0036)
    )


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        (
            {"model": "meta/Llama-3.3-70B-Instruct", "tok_s_per_gpu": 3000.0},
            "3000 .* 2209",
        ),
        (
            {"model": "meta/Llama-3.3-70B-Instruct", "j_per_output_tok": 0.05},
            "700 W / 2209",
        ),
        ({"power": {"gpu_board": 8 * 40.0}}, "320 W .* 8 .*70 W"),
    ],
)
def test_published_figures_raise_red_flags(make_run, changes, flag):
    [found] = estimate(make_run(replicas=2, **changes), site()).flags
    assert re.search(flag, found)


def test_a_run_with_no_replica_is_refused(make_run):
    with pytest.raises(InvalidRunError, match="no replica"):
        estimate(make_run(replicas=0), site())
