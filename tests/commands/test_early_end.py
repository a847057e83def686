"""A probe ends early only if its outcome is certain or its server saturates."""

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for mmc

from mmc import NS, capacity_per_s, open_loop

from harness.commands.steps.early_end import EarlyEnd, LoadState, scheduled_in_window
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.core.records import ModelFacts
from harness.plan.build import make_plan
from harness.profile.load import load_profile_text
from harness.profile.search import Condition

TTFT = Condition("ttft_s.p95 < 1s", 0.95, ttft_s=1.0)
TPOT = Condition("tpot_s.p80 < 0.1s", 0.8, tpot_s=0.1)


def state(
    t_s: float,
    judged: int,
    *missed: int,
    in_flight: int = 4,
    scheduled: int | None = 100,
    waiting: float | None = None,
) -> LoadState:
    """In a window from 10 s to 110 s."""
    traffic = TrafficProgress(
        t_ns=round(t_s * NS),
        in_flight=in_flight,
        judged=judged,
        missed=missed,
        window_judged=judged,
        window_missed=missed,
    )
    return LoadState(traffic, TelemetryProgress(waiting=waiting), 10 * NS, 110 * NS, scheduled)


def first_reason(rule: EarlyEnd, states: Iterable[LoadState]) -> str | None:
    return next((reason for one in states if (reason := rule(one)) is not None), None)


def test_it_ends_at_the_miss_after_which_the_rest_cannot_help() -> None:
    # 95% of 100: below 75% means more than 25 misses
    assert EarlyEnd([[TTFT]])(state(20, 30, 25)) is None
    reason = EarlyEnd([[TTFT]])(state(20, 30, 26))
    assert reason is not None
    assert "26 misses" in reason
    assert "100 requests" in reason


def test_every_tier_must_be_lost_and_one_condition_loses_a_tier() -> None:
    # TPOT at 80% is lost above 40 misses
    assert EarlyEnd([[TTFT], [TPOT]])(state(20, 60, 30, 40)) is None
    assert EarlyEnd([[TTFT], [TPOT]])(state(20, 60, 30, 41)) is not None
    assert EarlyEnd([[TTFT, TPOT]])(state(20, 60, 0, 41)) is not None
    assert EarlyEnd([[TTFT], [TTFT, TPOT]])(state(20, 60, 30, 0)) is None


def test_outside_of_the_window_nothing_ends() -> None:
    rule = EarlyEnd([[TTFT]])
    assert rule(state(9.9, 100, 100)) is None
    assert rule(state(110, 100, 100)) is None
    unknown = LoadState(TrafficProgress(), TelemetryProgress(), 0, 1)
    assert rule(unknown) is None
    assert rule(state(50, 100, 100)) is not None


def test_a_closed_loop_counts_on_twice_its_rate_so_far() -> None:
    # at half of the window 100 ended or in flight: at most 300 in all, lost above 75 misses
    assert EarlyEnd([[TTFT]])(state(60, 96, 75, scheduled=None)) is None
    assert EarlyEnd([[TTFT]])(state(60, 96, 76, scheduled=None)) is not None


@pytest.mark.parametrize(("waiting", "ends"), [(None, True), (0.0, False), (1.0, True)])
def test_requests_in_flight_and_the_queue_must_both_rise(waiting: float | None, ends: bool) -> None:
    """`waiting`: growth per report; None is unknown."""
    states = [
        state(
            10 + n / 2,
            10 * n,
            8 * n,
            in_flight=20 + 10 * n,
            scheduled=100_000,
            waiting=None if waiting is None else 5 + waiting * n,
        )
        for n in range(30)
    ]
    reason = first_reason(EarlyEnd([[TTFT]]), states)
    assert (reason is not None) == ends
    if reason is not None:
        assert "saturated" in reason


def test_a_rise_without_misses_is_no_saturation() -> None:
    states = [
        state(10 + n / 2, 10 * n, 0, in_flight=20 + 10 * n, scheduled=100_000) for n in range(60)
    ]
    assert first_reason(EarlyEnd([[TTFT]]), states) is None


# --- bar: 200 trials on an M/M/c queue in simulated time ---

SLOTS, MEAN_S, LIMIT_S, WARMUP_S, WINDOW_S, TRIALS = 64, 2.0, 0.5, 15.0, 60.0, 200


@pytest.mark.parametrize("known", [True, False])
def test_twice_the_capacity_ends_within_a_quarter_and_less_than_it_never(known: bool) -> None:
    capacity = capacity_per_s(SLOTS, MEAN_S, LIMIT_S, 0.95)
    condition = Condition("wait", 0.95, ttft_s=LIMIT_S)

    def ended_at_s(factor: float, seed: int) -> float | None:
        rule = EarlyEnd([[condition]])
        states = open_loop(
            SLOTS,
            MEAN_S,
            LIMIT_S,
            factor * capacity,
            warmup_s=WARMUP_S,
            window_s=WINDOW_S,
            seed=seed,
            known=known,
        )
        found = next((one for one in states if rule(one) is not None), None)
        if found is None or found.traffic.t_ns is None:
            return None
        return found.traffic.t_ns / NS - WARMUP_S

    twice = [ended_at_s(2.0, seed) for seed in range(TRIALS)]
    quick = sum(one is not None and one <= WINDOW_S / 4 for one in twice)
    assert quick >= 0.95 * TRIALS
    assert [seed for seed in range(TRIALS) if ended_at_s(0.95, seed) is not None] == []


def plan_of(load: str):
    profile = load_profile_text(
        "purpose: smoke\nmodel: {id: builtin:tiny}\nserver: {kind: torch}\ntraffic:\n"
        "  workload: {kind: chat, system_tok: 10, user_tok: 10, output_tok: 4, turns: 2,"
        " context_limit_tok: 1000}\n"
        f"  load: [{load}]\n"
    )
    return make_plan(profile, ModelFacts("m", "m", 4000, tok_per_word=1.3))


def test_the_plan_knows_the_requests_of_an_open_loop_of_single_requests() -> None:
    plan = plan_of(
        "{kind: arrival_rate, rate_per_s: 10, process: constant, over: requests,"
        " warmup_s: 2s, window_s: 3s}"
    )
    offsets = [one.intended_offset_ns for one in itertools.islice(plan.sessions(0), 100)]
    inside = sum(2 * NS <= (one or 0) < 5 * NS for one in offsets)
    assert scheduled_in_window(plan, 0) == inside
    assert inside in {30, 31}
    many = "{kind: arrival_rate, rate_per_s: 10, warmup_s: 2s, window_s: 3s}"
    assert scheduled_in_window(plan_of(many), 0) is None
    closed = "{kind: concurrency, concurrency: 2, over: requests, warmup_s: 1s, window_s: 3s}"
    assert scheduled_in_window(plan_of(closed), 0) is None
