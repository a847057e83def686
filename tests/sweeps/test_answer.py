"""The capacity at a tier, and the next load, are functions of the probes alone."""

import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from harness.profile.search import Condition, Search
from harness.sweeps.answer import Answer, TierProbe, TierShares, answer
from harness.sweeps.grid import Observation, posterior
from harness.sweeps.probes import Share, design_effect

TARGET = Condition("slos", 0.95, ttft_s=1.0)
NORMAL = NormalDist()


def share_at(load: float, capacity: float, width: float = 0.08) -> float:
    return NORMAL.cdf(NORMAL.inv_cdf(0.95) - math.log(load / capacity) / width)


def probe(point: int, load: float, capacity: float = 50.0, n: int = 1000) -> TierProbe:
    return TierProbe(
        point, load, stopped=False, shares=(Share(round(n * share_at(load, capacity)), n),)
    )


def ask(*probes: TierProbe, **section: object) -> Answer:
    search = Search.model_validate({"from": 1, "to": 512, **section})
    return answer([TierShares("slo", (TARGET,), probes)], search)


def test_the_posterior_covers_the_capacity_and_narrows_with_probes() -> None:
    chance = random.Random(1)
    seen: list[Observation] = []
    widths = []
    for point in range(12):
        load = 50 * math.exp(chance.uniform(-0.1, 0.1))
        good = round(400 * share_at(load * math.exp(chance.gauss(0, 0.01)), 50))
        seen.append(Observation(point, load, good, 400))
        found = posterior(seen, 0.95, 1, 1000)
        inside = [load for load in np.geomspace(10, 200, 2000) if 0.025 < found.below(load) < 0.975]
        widths.append(math.log(inside[-1] / inside[0]))
    assert inside[0] < 50 < inside[-1]
    assert widths[-1] < 0.1 < widths[0]


def test_a_probe_that_lost_a_third_of_its_capacity_is_an_outlier() -> None:
    seen = [
        Observation(at, load, round(400 * share_at(load, 50)), 400)
        for at, load in enumerate((40, 45, 48, 52, 55, 50))
    ]
    slow = Observation(9, 45, round(400 * share_at(45, 33)), 400)
    found = posterior([*seen, slow], 0.95, 1, 1000)
    assert found.outliers == (9,)
    assert found.below(48) < 0.2


def test_a_design_effect_widens_the_interval() -> None:
    def width(effect: float) -> float:
        seen = [
            Observation(at, load, round(400 * share_at(load, 50)), 400, effect)
            for at, load in enumerate((45, 50, 55))
        ]
        found = posterior(seen, 0.95, 1, 1000)
        loads = np.geomspace(10, 200, 2000)
        return sum(0.025 < found.below(load) < 0.975 for load in loads)

    assert width(10.0) > 1.5 * width(1.0)


def test_the_climb_doubles_up_to_the_highest_load() -> None:
    assert ask().next_load == 1
    assert ask(probe(0, 1)).next_load == 2
    assert ask(probe(0, 1), probe(1, 2), probe(2, 4)).next_load == 8
    assert ask(probe(0, 400, capacity=1e6)).next_load == 512
    done = ask(probe(0, 512, capacity=1e6))
    assert (done.next_load, done.tiers[0].limit) == (None, "at_least")


def test_after_a_miss_the_next_load_lies_between() -> None:
    load = ask(probe(0, 32), probe(1, 64)).next_load
    assert load is not None
    assert 32 <= load <= 64
    assert load == int(load)


def test_a_probe_that_was_ended_early_is_only_too_high() -> None:
    ended = TierProbe(1, 64, stopped=True, shares=(Share(10, 100),))
    found = ask(probe(0, 32), ended)
    assert found.tiers[0].high is not None
    assert found.tiers[0].high < 80
    assert found.tiers[0].low is not None
    assert found.tiers[0].low > 25


def test_the_order_of_tiers_and_equal_questions_give_equal_answers() -> None:
    probes = (probe(0, 32), probe(1, 64), probe(2, 48))
    assert ask(*probes) == ask(*probes)


@pytest.mark.parametrize(("run_length", "low", "high"), [(1, 0.99, 2.0), (30, 8, 60)])
def test_misses_in_a_row_have_a_design_effect(run_length: int, low: float, high: float) -> None:
    chance = random.Random(3)
    met: list[float] = []
    while len(met) < 3000:
        met += [float(chance.random() < 0.8)] * run_length
    assert low <= design_effect(np.array(met[:3000])) <= high


def test_a_share_without_variation_has_no_design_effect() -> None:
    assert design_effect(np.ones(500)) == 1.0
    assert design_effect(np.zeros(500)) == 1.0
    assert design_effect(np.array([])) == 1.0
