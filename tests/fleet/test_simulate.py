"""The simulation over time against closed forms, against an event-by-event twin, and against what
must hold whatever is drawn.
"""

from dataclasses import replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import ProfileError
from harness.fleet.over_time.failures import (
    FailureClass,
    Failures,
    count_by_hour,
    failure_blocks,
    failure_classes,
    mean_by_hour,
)
from harness.fleet.over_time.queueing import poisson_quantile
from harness.fleet.over_time.simulate import Pool, closed_forms, diurnal, read_trace, simulate

DAY = FailureClass("any", "any", 1 / 50_677, 1, 0.0, 24.0, 1.0, "Llama 3", "2024-07")
NEVER = replace(DAY, per_gpu_h=0.0)


def pool(nodes=100, *, share=0.5, hours=240, **changes):
    tok = changes.pop("tok_s_per_gpu", 1000.0)
    demand = changes.pop("demand_tok_s", np.full(hours, share * nodes * 8 * tok))
    return Pool(
        nodes=nodes,
        tok_s_per_gpu=tok,
        demand_tok_s=demand,
        **{"failures": (NEVER,), "maintenance_every_h": None, **changes},
    )


def all_failures(classes, nodes, hours, rng):
    """Those of all blocks, eight GPUs a node."""
    blocks = list(failure_blocks(classes, nodes, 8, hours, rng))
    columns = ("start_h", "end_h", "nodes", "kind")
    return Failures(
        *(np.concatenate([getattr(block, column) for block in blocks]) for column in columns)
    )


# --- failures ---


def test_published_failures_add_up_to_the_reports_count():
    assert sum(item.per_gpu_h for item in failure_classes()) == pytest.approx(1 / 50_677, rel=1e-4)
    assert all(item.source and item.date for item in failure_classes())


def test_every_way_to_fail_has_its_own_rate_and_repair_over_all_blocks():
    classes = failure_classes()
    found = simulate(pool(40_000, share=0.1, hours=2000, failures=classes)).events
    drawn = all_failures(classes, 40_000, 2000.0, np.random.default_rng(3))
    for index, item in enumerate(classes):
        units = (
            40_000 * 8 * item.per_gpu_h
            if item.group_nodes == 1
            else 40_000 / item.group_nodes * item.per_group_year / 8766
        )
        due = (
            units * 2000 * (1 if item.group_nodes > 1 else 0.992)
        )  # about 0.8 % of nodes are down and do not fail
        assert found[item.key] == pytest.approx(due, abs=5 * due**0.5 + 0.005 * due)
        lasted = (drawn.end_h - drawn.start_h)[drawn.kind == index]
        assert lasted.mean() == pytest.approx(
            item.repair_h, abs=5 * item.repair_h * item.repair_cv / len(lasted) ** 0.5
        )


def test_the_fewest_spares_that_cover_a_share_of_hours():
    year = replace(simulate(pool(hours=15)), down_nodes=np.arange(15.0))
    assert [year.spares_for(share) for share in (0.9, 14 / 15, 0.94, 1.0)] == [13, 13, 14, 14]


def test_down_nodes_agree_with_m_g_infinity():
    # 25,000 nodes, repairs of a day: mean 95, P99.9 125. Years of 8,760 hours over 12 seeds.
    down = np.concatenate(
        [
            simulate(
                pool(25_000, share=0.1, hours=8760, failures=(DAY,), scale_delay_h=None), seed
            ).down_nodes
            for seed in range(12)
        ]
    )
    form = closed_forms(pool(25_000, failures=(DAY,)))
    assert form["mean"] == pytest.approx(95, rel=0.01)
    assert down.mean() == pytest.approx(form["mean"], rel=0.02)
    assert np.quantile(down, 0.999) == pytest.approx(
        poisson_quantile(form["mean"], 0.999), rel=0.02
    )


@pytest.mark.parametrize("cv", [0.0, 0.5, 2.0])
def test_the_distribution_of_repair_times_does_not_matter_to_the_mean(cv):
    item = replace(DAY, repair_cv=cv)
    down = np.concatenate(
        [
            simulate(pool(50_000, share=0.1, hours=2000, failures=(item,)), seed).down_nodes
            for seed in range(3)
        ]
    )
    assert down.mean() == pytest.approx(
        closed_forms(pool(50_000, failures=(item,)))["mean"], rel=0.03
    )


def test_a_node_that_is_down_does_not_fail_again():
    often = replace(
        DAY, per_gpu_h=1 / 80, repair_h=10.0
    )  # each node fails every 10 hours up and is down for 10: half are down
    down = simulate(pool(2000, share=0.1, hours=400, failures=(often,))).down_nodes
    assert down.max() <= 2000
    assert down.mean() == pytest.approx(1000, rel=0.05)


def test_groups_take_all_their_nodes():
    rows = FailureClass("row", "row", 0.0, 50, 20.0, 5.0, 0.0, "", "")
    found = all_failures((rows,), 120, 5000.0, np.random.default_rng(1))
    assert set(found.nodes) == {50.0, 20.0}  # two whole rows and the rest
    assert np.allclose(found.end_h - found.start_h, 5.0)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 30), st.integers(1, 5)), max_size=30))
@settings(max_examples=40, deadline=None)
def test_adding_up_intervals_agrees_with_counting_them_one_by_one(items):
    start = np.array([item[0] for item in items])
    end = start + np.array([item[1] for item in items])
    weight = np.array([float(item[2]) for item in items])
    items = list(zip(start, end, weight, strict=True))
    mean = [
        sum(w * max(0.0, min(hour + 1, e) - max(hour, s)) for s, e, w in items)
        for hour in range(24)
    ]
    assert mean_by_hour(start, end, weight, 24) == pytest.approx(mean, abs=1e-9)
    count = [sum(w for s, e, w in items if s <= hour < e) for hour in range(24)]
    assert count_by_hour(start, end, weight, 24) == pytest.approx(count)


# --- the twin ---


def event_by_event(config, seed, hours):
    """The same failures, one event after the other with SimPy; the serving nodes integrated
    exactly.
    """
    failures = all_failures(
        config.failures, config.nodes, float(hours), np.random.default_rng([seed, *b"failures"])
    )
    env = simpy.Environment(
        initial_time=float(failures.start_h.min()) - 1 if len(failures.start_h) else 0.0
    )
    state = {"down": 0.0, "over": 0.0, "at": env.now, "area": np.zeros(hours)}

    def account():
        serving = max(
            0.0, min(config.nodes - config.spares - state["over"], config.nodes - state["down"])
        )
        for hour in range(
            max(0, int(np.floor(state["at"]))), min(hours, int(np.floor(env.now)) + 1)
        ):
            state["area"][hour] += serving * max(
                0.0, min(env.now, hour + 1) - max(state["at"], hour)
            )
        state["at"] = env.now

    def change(key, by):
        account()
        state[key] += by

    def fail(start, end, nodes):
        yield env.timeout(start - env.now)
        change("down", nodes)
        change("over", nodes)
        takes = min(config.detect_h + config.failover_h, end - start)
        yield env.timeout(takes)
        change("over", -nodes)
        yield env.timeout(max(0.0, end - env.now))
        change("down", -nodes)

    for start, end, nodes in zip(failures.start_h, failures.end_h, failures.nodes, strict=True):
        env.process(fail(start, end, nodes))
    env.run(until=float(hours))
    account()
    return state["area"]


@pytest.mark.parametrize(("spares", "rate"), [(0, 1), (3, 1), (6, 3), (40, 3)])
def test_serving_nodes_agree_with_an_event_by_event_simulation(spares, rate):
    classes = (
        replace(DAY, per_gpu_h=rate * 8e-5),
        FailureClass("row", "row", 0.0, 10, 8.0, 3.0, 0.5, "", ""),
    )
    config = pool(300, hours=500, spares=spares, failures=classes, scale_delay_h=None)
    twin, ours = event_by_event(config, 5, 500), simulate(config, 5).serving_nodes
    # Hours in which spares run out midway are means of a minimum there and a minimum of means here.
    assert ours.mean() == pytest.approx(twin.mean(), rel=1e-3)
    assert np.abs(ours - twin).max() <= 5.5
    assert np.mean(np.abs(ours - twin) < 1e-6) > 0.85


# --- spares and blast radius ---


def test_spares_take_over_and_more_are_not_needed():
    busy = replace(DAY, per_gpu_h=20 / 50_677)
    none, some = (
        simulate(
            pool(
                1000 + spares,
                spares=spares,
                hours=4000,
                share=0.9,
                failures=(busy,),
                scale_delay_h=None,
                demand_tok_s=np.full(4000, 7.9e6),
            )
        )
        for spares in (0, 120)
    )
    assert none.totals()["shed_tok"] > 10 * some.totals()["shed_tok"]
    needed = none.spares_for(0.999)
    assert np.mean(none.down_nodes > needed) <= 0.001
    assert np.mean(none.down_nodes > needed - 1) > 0.001


def test_a_wide_replica_loses_more_by_each_failure():
    slow = {
        "failover_h": 1.0,
        "spares": 20,
        "failures": (replace(DAY, per_gpu_h=5 / 50_677),),
        "scale_delay_h": None,
    }
    narrow, wide = (
        simulate(
            pool(720, hours=3000, gpus_per_node=4, gpus_per_replica=gpus, **slow)
        ).serving_nodes.mean()
        for gpus in (4, 72)
    )
    assert 700 - wide > 5 * (700 - narrow) > 0


def test_without_spares_a_failure_takes_its_replica_out():
    """Without spares a failure takes its node for the repair and those beside it until they are
    rearranged.
    """
    # Down: N x (failure rate x repair) / (1 + that) = 7,200 / 11. Beside: 17 nodes of each of (N -
    # down) / 1,000 h failures, for an hour.
    often = replace(DAY, per_gpu_h=1 / 4000, repair_h=100.0, repair_cv=0.0)
    config = pool(
        7200,
        hours=2000,
        gpus_per_node=4,
        gpus_per_replica=72,
        failures=(often,),
        detect_h=0.5,
        failover_h=0.5,
        scale_delay_h=None,
    )
    down = 7200 / 11
    beside = 17 * (7200 - down) / 1000
    assert simulate(config).serving_nodes.mean() == pytest.approx(
        7200 - down - beside - 17 / 2, rel=0.004
    )  # whole replicas only


def test_moved_sessions_have_their_caches_to_recompute():
    config = pool(
        500,
        hours=2000,
        failures=(DAY,),
        tok_s_per_session=100.0,
        context_tok=50_000.0,
        cached_share=0.9,
        prefill_tok_s_per_gpu=5000.0,
    )
    found = simulate(config)
    assert found.moved_sessions == pytest.approx(found.events["any"] * 8 * 1000 / 100 * 0.5)
    assert found.recomputed_tok == pytest.approx(found.moved_sessions * 45_000)
    assert simulate(replace(config, tok_s_per_session=None)).moved_sessions is None
    # Computing them again takes capacity: so many tokens at 5,000 a second of a GPU, in which it
    # would have served 1,000 a second.
    full = replace(config, demand_tok_s=config.demand_tok_s * 4, scale_delay_h=None)
    taken = simulate(full)
    lost = simulate(replace(full, cached_share=None)).served_tok_s.sum() - taken.served_tok_s.sum()
    assert lost == pytest.approx(taken.recomputed_tok / 5000 / 3600 * 1000)


def test_what_misses_the_slo_by_itself_is_in_every_hour():
    assert simulate(pool(slo_share=0.9, scale_delay_h=None)).slo_ratio == pytest.approx(
        np.full(240, 0.9)
    )


# --- demand ---


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 0.82, 1.0])
def test_a_day_has_the_load_factor_and_its_peak_is_one(share):
    curve = diurnal(share, 24 * 7, noise=0.0)
    assert curve.max() == pytest.approx(1.0)
    assert curve.mean() == pytest.approx(share, abs=1e-3)
    assert curve.min() > 0


@pytest.mark.parametrize("share", [0.0, 0.05, 1.1, float("nan")])
def test_no_wave_has_such_a_load_factor(share):
    with pytest.raises(ProfileError):
        diurnal(share)


def test_a_trace_is_read_and_repeated(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("hour,tok_s\n0,50\n1,100\n2,25\n")
    assert read_trace(path, 5) == pytest.approx([0.5, 1.0, 0.25, 0.5, 1.0])


@pytest.mark.parametrize("text", ["", "a\n", "1\nx\n", "0\n0\n", "1\n-2\n", "nan\n", "1\ninf\n"])
def test_what_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ProfileError):
        read_trace(path)
    with pytest.raises(ProfileError):
        read_trace(tmp_path / "none.csv")


# --- admission ---


@pytest.mark.parametrize("policy", ["queue", "shed", "degrade"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.3])
def test_what_was_asked_is_served_or_shed(policy, share):
    found = simulate(pool(policy=policy, share=share, scale_delay_h=None))
    assert found.served_tok_s.sum() + found.shed_tok_s.sum() == pytest.approx(
        found.demand_tok_s.sum()
    )
    assert np.all(found.served_tok_s >= 0)
    assert np.all(found.shed_tok_s >= -1e-6)
    assert np.all((found.slo_ratio >= 0) & (found.slo_ratio <= 1))


def test_demand_over_capacity_for_ever_fills_capacity_and_the_rest_is_shed():
    capacity = 100 * 8 * 1000.0
    for policy, served in (("shed", 1.0), ("queue", 1.0), ("degrade", 1.15)):
        found = simulate(pool(policy=policy, share=2.0, scale_delay_h=None))
        assert found.served_tok_s == pytest.approx(np.full(240, capacity * served))
        assert found.shed_tok_s[10:-1] == pytest.approx(np.full(229, capacity * (2 - served)))
    assert simulate(pool(policy="degrade", share=2.0, scale_delay_h=None)).slo_ratio.max() == 0.0


def test_a_queue_serves_later_what_does_not_fit_now():
    demand = np.array([1.5, 0.5, 0.5, 0.5]) * 800_000.0
    found = simulate(pool(policy="queue", demand_tok_s=demand, scale_delay_h=None))
    assert found.served_tok_s == pytest.approx(np.array([1.0, 1.0, 0.5, 0.5]) * 800_000)
    assert found.shed_tok_s.sum() == 0
    assert found.slo_ratio == pytest.approx([0.0, 1.0, 1.0, 1.0])
    short = simulate(pool(policy="queue", demand_tok_s=demand, scale_delay_h=None, patience_h=0.25))
    assert short.shed_tok_s.sum() == pytest.approx(0.25 * 800_000)


# --- autoscaling, maintenance, power ---


def test_an_autoscaler_that_is_late_sheds_at_the_rise():
    demand = np.array([0.2, 0.2, 0.8, 0.8, 0.8]) * 800_000.0
    at_once, late = (
        simulate(pool(demand_tok_s=demand, scale_delay_h=delay)) for delay in (None, 0.5)
    )
    assert at_once.shed_tok_s.sum() == 0
    assert late.shed_tok_s[2] > 0
    assert late.shed_tok_s[4] == 0


def test_maintenance_is_done_in_quiet_hours_and_reaches_every_node():
    demand = np.tile(np.r_[np.full(12, 0.2), np.full(12, 0.9)], 10) * 800_000.0
    found = simulate(
        pool(
            demand_tok_s=demand,
            maintenance_every_h=240.0,
            maintenance_h=6.0,
            maintenance_hours=8,
            scale_delay_h=None,
        )
    )
    out = 100 - found.serving_nodes
    assert out.reshape(-1, 24)[:, 12:].max() == 0
    assert out.sum() == pytest.approx(100 * 6.0)  # each node once in ten days, for six hours


def test_power_is_affine_in_load_and_sleeping_nodes_draw_little():
    full, half = (
        simulate(pool(share=share, scale_delay_h=None, w_per_gpu=1000.0, idle_power_share=0.4))
        for share in (1.0, 0.5)
    )
    assert full.power_mw.mean() == pytest.approx(0.8)
    assert half.power_mw.mean() == pytest.approx(0.8 * (0.4 + 0.6 * 0.5))
    asleep = simulate(
        pool(
            share=0.5, scale_delay_h=0.0, scale_margin=0.0, w_per_gpu=1000.0, sleep_power_share=0.1
        )
    )
    assert asleep.power_mw.mean() == pytest.approx(0.8 * (0.5 + 0.5 * 0.1))
    ready = simulate(
        pool(
            spares=20,
            demand_tok_s=np.full(24, 640_000.0),
            scale_delay_h=None,
            w_per_gpu=1000.0,
            idle_power_share=0.4,
        )
    )
    assert ready.power_mw.mean() == pytest.approx(
        0.8 * (0.8 + 0.2 * 0.4)
    )  # spares are powered and idle
    assert simulate(pool()).power_mw is None


def test_the_same_seed_gives_the_same_year():
    config = pool(1000, failures=failure_classes())
    a, b, c = (simulate(config, seed).totals() for seed in (1, 1, 2))
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    "change",
    [
        {"nodes": 0},
        {"spares": 100},
        {"gpus_per_replica": 801},
        {"gpus_per_node": 0},
        {"tok_s_per_gpu": 0.0, "demand_tok_s": np.ones(3)},
        {"demand_tok_s": np.array([])},
        {"demand_tok_s": np.array([1.0, -1.0])},
        {"demand_tok_s": np.array([np.inf])},
    ],
)
def test_a_pool_that_serves_nothing_is_refused(change):
    with pytest.raises(ProfileError):
        pool(**change)
