"""Scenarios against arithmetic, as data that is checked, and wherever they run."""

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from harness.artifacts.run_result import load_result
from harness.artifacts.typed_json import to_json
from harness.checked_yaml.load import load_text
from harness.checked_yaml.problems import InvalidYamlError
from harness.core.errors import PreflightError, ProfileError
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.over_time.forecast import TimeOptions, forecast, outlook_of, pool_of
from harness.fleet.over_time.parallel import spread
from harness.fleet.over_time.scenarios import (
    Outlook,
    Parameter,
    Scenario,
    ScenarioTask,
    choose,
    play,
    scenario_rules,
    shipped_scenarios,
)
from harness.fleet.over_time.simulate import simulate
from harness.fleet.site.catalog import load_site
from harness.fleet.site.types import Site

GRID = np.linspace(0, 2, 201)


def outlook(**changes):
    """A site whose demand needs all of its capacity at all hours, of 1,000 GPUs at $1 M a month."""
    return Outlook(
        **{
            "asked_tok_per_day": 1e9,
            "capacity_grid": GRID,
            "served_of": np.minimum(1.0, GRID),
            "capacity": np.ones(400),
            "gpus": 1000.0,
            "horizon_days": 1000,
            "monthly_usd": 1e6,
            "market_usd_per_gpu_h": 2.0,
            **changes,
        }
    )


def played(key, parameters=None, site=None, **changes):
    scenario = shipped_scenarios()[key]
    changes |= {"parameters": parameters} if parameters else {}
    scenario = scenario.model_copy(update=changes)
    return play(ScenarioTask(scenario, site or outlook(), 3))


def fixed(value):
    return Parameter(low=value, high=value)


def test_every_scenario_has_a_source_and_plays():
    assert len(shipped_scenarios()) == 7
    for scenario in choose(["all"]):
        found = play(ScenarioTask(scenario, outlook(), 1))
        assert scenario.source in found.text
        assert 0 <= found.served_ratio.p5 <= found.served_ratio.p50 <= found.served_ratio.p95 <= 1
        assert found.served_ratio.p95 <= found.base_served_ratio.p95 + 1e-12
        assert found.months[-1][0] == pytest.approx(found.horizon_days / 30.4375, rel=0.01)


def test_waiting_for_a_grid_connection_serves_nothing_until_it_comes():
    found = played("grid_connection", {"years": fixed(5.0)})
    assert found.horizon_days == 3652
    assert found.served_ratio.p50 == pytest.approx(0.5, abs=0.002)
    assert found.capacity_months.p50 == pytest.approx(60, rel=0.01)
    assert found.cost_usd.p50 == pytest.approx(found.base_cost_usd.p50 / 2, rel=0.01)
    assert found.elsewhere_usd.p50 == pytest.approx(1000 * 60 * 730.5 * 2.0, rel=0.01)
    assert found.lost_tok.p50 == pytest.approx(1e9 * 5 * 365.25, rel=0.01)


def test_what_the_estimate_is_unsure_of_is_in_scenarios_too():
    site = outlook(capacity=np.repeat([0.5, 0.8, 1.5], 200))
    base = played("falling_prices", site=site).base_served_ratio
    assert (base.p5, base.p50, base.p95) == pytest.approx((0.5, 0.8, 1.0))
    lost = played(
        "reclaim", {"share": fixed(0.5)}, outlook(capacity=np.repeat([0.5, 0.8, 1.5], 200))
    )
    assert lost.served_ratio.p5 < 0.5 < lost.served_ratio.p95 <= 1.0


def test_a_reclaim_comes_with_notice_and_its_part_is_not_paid():
    site = outlook(notice_days=90.0)
    found = played("reclaim", {"share": fixed(0.5)}, site)
    # It begins at a day that is uniform over the term and takes effect 90 days later.
    start = np.random.default_rng(0).uniform(0, 1000, 400_000) + 90
    lost = 0.5 * np.maximum(0, 1000 - start) / 1000
    assert found.capacity_months.p50 == pytest.approx(np.median(lost) * 1000 / 30.4375, rel=0.1)
    assert found.cost_usd.p50 == pytest.approx(
        found.base_cost_usd.p50 * (1 - np.median(lost)), rel=0.02
    )
    assert found.usd_per_mtok.p50 == pytest.approx(found.base_usd_per_mtok.p50, rel=1e-6)
    paid = played("reclaim", {"share": fixed(0.5)}, site, paid="all")
    assert paid.usd_per_mtok.p50 > found.usd_per_mtok.p50 * 1.05


def test_a_termination_does_not_come_before_it_may():
    found = played("termination", site=outlook(terminable_days=900.0))
    assert found.served_ratio.p5 >= 0.9
    assert played("termination", site=outlook(terminable_days=5000.0)).served_ratio.p5 == 1.0


def test_slack_takes_up_a_loss():
    slack = outlook(
        served_of=np.minimum(1.0, GRID / 0.5)
    )  # half of the site serves all of the demand
    assert played(
        "substation", {"share": fixed(0.5), "days": fixed(1000.0)}, slack
    ).served_ratio.p5 == pytest.approx(1.0)
    assert played("substation", {"share": fixed(0.5), "days": fixed(1e9)}).served_ratio.p5 < 0.6


def test_heat_takes_only_what_the_power_cap_does_not_leave():
    hot = {"days_per_year": fixed(365.25), "pue_more": fixed(0.12), "derate": fixed(0.0)}
    roomy, tight = (
        played("heat_wave", hot, outlook(power=(1.2, mw, 100.0))) for mw in (80.0, 100.0)
    )
    assert roomy.served_ratio.p50 == pytest.approx(1.0)
    assert tight.capacity_months.p50 > 0
    # From the first of 150 to 200 days into a year to its end, at 1.2 / 1.32 of the power.
    assert tight.served_ratio.p5 > 1.2 / 1.32
    derated = played("heat_wave", {**hot, "derate": fixed(0.1)}, outlook(power=None))
    assert derated.served_ratio.p50 < 0.97


def test_bursts_take_their_share_of_their_days():
    found = played(
        "training_bursts",
        {"per_year": fixed(2.0), "days": fixed(10.0), "share": fixed(0.5)},
        outlook(capacity=np.ones(2000)),
    )
    assert found.capacity_months.p50 * 30.4375 == pytest.approx(
        2 * 10 * 0.5 * 1000 / 365.25, rel=0.15
    )


def test_falling_prices_make_the_lease_dear():
    found = played("falling_prices", {"fall_per_year": fixed(0.5)})
    years = 1000 / 365.25
    mean = (1 - 0.5**years) / (np.log(2) * years)
    assert found.market_usd.p50 == pytest.approx(
        1000 * 1000 / 30.4375 * 730.5 * 2.0 * mean, rel=0.001
    )
    assert found.served_ratio.p50 == 1.0
    assert found.elsewhere_usd is None


def test_without_a_price_there_is_no_cost():
    found = played("reclaim", site=outlook(monthly_usd=None, market_usd_per_gpu_h=None))
    assert (found.cost_usd, found.usd_per_mtok, found.elsewhere_usd) == (None, None, None)
    assert to_json(found)["cost_usd"] is None


def test_what_was_never_served_has_no_price_a_token():
    found = played("grid_connection", {"years": fixed(10.5)})
    assert found.served_ratio.p95 == 0.0
    assert found.usd_per_mtok is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("kind: lost, parameters: {share: {low: 0.1, high: 2}}", "x.parameters.share.high"),
        ("kind: lost, parameters: {}", "x.parameters.share"),
        ("kind: lost, parameters: {share: {low: 0.5, high: 0.1}}", "x.parameters.share"),
        ("kind: lost, parameters: {share: 0.5}", "x.parameters.share"),
        (
            "kind: lost, parameters: {share: {low: 0, high: 1}, years: {low: 1, high: 2}}",
            "x.parameters.years",
        ),
        ("kind: storm, parameters: {}", "x.kind"),
        ("kind: delay, parameters: {years: {low: 1, high: 2}}, paid: never", "x.paid"),
        ("kind: delay, parameters: {years: {low: 1, high: 2}}, notice: 90", "x.notice"),
    ],
)
def test_an_error_in_scenarios_names_its_key(text, path):
    with pytest.raises(InvalidYamlError) as error:
        load_text(
            f"x: {{title: x, source: us, date: 2026-01, {text}}}",
            "mine.yaml",
            dict[str, Scenario],
            scenario_rules,
        )
    assert path in {problem.path for problem in error.value.problems}


def test_an_unknown_scenario_names_those_there_are():
    with pytest.raises(ProfileError) as error:
        choose(["flood"])
    assert "heat_wave" in error.value.next_step


# --- a site over time ---


def said(value):
    return {"value": value, "source": "us", "date": "2026-01"}


@pytest.fixture
def site():
    return Site(
        name="ours",
        gpus=said(4000),
        gpu=said("H100"),
        pue=said(1.2),
        power_mw=said(8.0),
        usd_per_month=said(2e7),
    )


def test_a_forecast_says_what_is_served_shed_and_drawn(make_run, site):
    found = forecast(estimate(make_run(), site), TimeOptions(years=2, scenarios=("all",)))
    assert found.nodes == 500
    assert found.spares == 25
    assert 0.95 < found.totals["served_ratio"].p50 <= 1.0
    assert (
        0 < found.totals["down_nodes_mean"].p5 < found.totals["down_nodes_mean"].p95
    )  # each year has failures of its own
    assert found.totals["power_peak_mw"].p95 <= 8.0
    assert [len(found.day[key]) for key in ("demand_tok_s", "served_tok_s", "power_mw")] == [
        24,
        24,
        24,
    ]
    assert len(found.worst["slo_ratio"]) == 168
    assert [item.key for item in found.scenarios] == list(shipped_scenarios())
    assert found.gpus_per_replica == 8
    assert all(text.count("(2") for text in found.assumptions[:8])


def test_scenarios_get_the_sites_terms_and_the_estimates_draws(make_run):
    estimated = estimate(make_run(), load_site("colossus-1"))
    pool = pool_of(estimated, load_result(Path(estimated.run)), TimeOptions())
    seen = outlook_of(estimated, pool, simulate(pool))
    assert seen.notice_days == 90
    assert seen.market_usd_per_gpu_h == 1.3
    assert seen.monthly_usd == pytest.approx(1.25e9)
    assert seen.capacity == pytest.approx(
        estimated.peak_draws[:1000] / estimated.figure("output_tok_s_peak").value
    )
    assert np.ptp(seen.capacity) > 0.1
    assert seen.asked_tok_per_day == pytest.approx(
        estimated.figure("output_tok_per_day").value, rel=0.02
    )


def test_four_gpus_share_a_tray_of_nvl72(make_run):
    place = Site(name="s", gpus=said(400), gpu=said("GB200"))
    found = forecast(
        estimate(make_run(gpus=("NVIDIA GB200",) * 4, power={}), place), TimeOptions(years=1)
    )
    assert (found.nodes, found.gpus_per_node) == (100, 4)


def test_without_power_the_years_have_no_megawatts(make_run, site):
    found = forecast(estimate(make_run(power={}), site), TimeOptions(years=1))
    assert found.totals["power_mean_mw"] is None
    assert found.day["power_mw"] is None


def test_a_demand_beyond_the_site_is_shed_for_ever(make_run, site):
    whole = estimate(make_run(), site)
    found = forecast(
        estimate(
            make_run(),
            site,
            options=Options(demand_tok_s=whole.figure("output_tok_s_peak").value * 10),
        ),
        TimeOptions(years=1),
    )
    assert found.totals["served_ratio"].p50 < 0.3
    assert found.totals["shed_tok"].p50 > found.totals["served_tok"].p50


def test_a_site_of_less_than_a_node_is_refused(make_run):
    with pytest.raises(ProfileError, match="4 powered GPUs"):
        forecast(estimate(make_run(), Site(name="s", gpus=said(4), gpu=said("H100"))))


@pytest.mark.parametrize("years", [0, 501])
def test_no_simulation_is_that_short_or_long(years):
    with pytest.raises(ProfileError, match="from 1 to 500"):
        TimeOptions(years=years)


def test_a_name_that_is_wrong_is_told_beside_all():
    with pytest.raises(ProfileError, match="'flood'"):
        choose(["all", "flood"])


def test_the_same_seed_gives_the_same_answer_in_one_process_and_in_two(make_run, site):
    estimated = estimate(make_run(), site)
    alone, two = (
        forecast(
            estimated, TimeOptions(years=1, scenarios=("reclaim", "heat_wave"), processes=n, seed=4)
        )
        for n in (1, 2)
    )
    assert to_json(alone) == to_json(two)
    other = forecast(estimated, TimeOptions(years=1, scenarios=("reclaim", "heat_wave"), seed=5))
    assert to_json(other) != to_json(alone)


def test_tasks_keep_their_order():
    before = dict(os.environ)
    assert spread(abs, [-3, 2, -1], processes=2) == [3, 2, 1]
    assert dict(os.environ) == before
    assert spread(abs, []) == []


def test_colossus_over_time(make_run):
    found = forecast(
        estimate(make_run(), load_site("colossus-1")),
        TimeOptions(years=1, scenarios=("grid_connection", "reclaim")),
    )
    assert found.horizon_days > 600
    assert found.totals["spares_for_999_pooled"].p50 < found.spares
    assert found.closed["p999"] > found.closed["mean"] > 0


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:port"]
)
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch, address):
    monkeypatch.setitem(
        sys.modules, "ray", types.ModuleType("ray")
    )  # the address is asked before Ray is
    with pytest.raises(PreflightError, match="Ray"):
        spread(abs, [1], ray_address=address)


def test_ray_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PreflightError, match="Ray is not installed"):
        spread(abs, [1], ray_address="auto")
