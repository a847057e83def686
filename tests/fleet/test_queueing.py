"""Closed forms against tables and against each other."""

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.fleet.over_time.failures import FailureClass
from harness.fleet.over_time.queueing import halfin_whitt, poisson_quantile
from harness.fleet.over_time.simulate import Pool, simulate

LLAMA = 8 / 50_677  # failures of an 8-GPU node an hour
RSC = 6.5 / 1000 / 24
NEVER = FailureClass("any", "any", 0.0, 1, 0.0, 24.0, 1.0, "", "")


def erlang_c(servers: int, load: float) -> float:
    """Chance that an arrival waits in M/M/c, for a load in erlangs; 1 where the load is more than
    the servers can do.
    """
    if load <= 0:
        return 0.0
    if load >= servers:
        return 1.0
    blocked = 1.0  # Erlang B by its recursion, which neither overflows nor cancels
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@pytest.mark.parametrize(
    ("per_node_h", "repair_h", "mean", "p999"),
    [
        (LLAMA, 2.2, 9, 18),
        (RSC, 2.2, 15, 27),
        (LLAMA, 24, 95, 125),
        (RSC, 24, 163, 202),
        (LLAMA, 96, 379, 439),
        (RSC, 96, 651, 730),
    ],
)
def test_nodes_that_are_down_of_twenty_five_thousand(per_node_h, repair_h, mean, p999):
    found = 25_000 * per_node_h * repair_h
    assert found == pytest.approx(mean, rel=0.01, abs=0.7)
    assert poisson_quantile(found, 0.999) == pytest.approx(p999, rel=0.02, abs=1.1)


@pytest.mark.parametrize("mean", [0.5, 3.0, 40.0, 95.0, 1000.0, 50_000.0])
@pytest.mark.parametrize("q", [0.5, 0.99, 0.999])
def test_a_poisson_quantile_is_the_first_count_that_reaches_it(mean, q):
    def below(n):
        terms = (
            k * math.log(mean) - mean - math.lgamma(k + 1)
            for k in range(max(0, int(mean - 12 * mean**0.5 - 30)), n + 1)
        )
        return math.fsum(math.exp(term) for term in terms)

    n = poisson_quantile(mean, q)
    assert below(n) >= q - 1e-9
    assert n == 0 or below(n - 1) < q + 1e-9


def test_erlang_c_of_one_server_is_its_utilisation():
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # a textbook case
    assert (erlang_c(5, 0.0), erlang_c(5, 5.0), erlang_c(5, 9.0)) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0, 2.0])
def test_erlang_c_of_many_servers_comes_to_halfin_and_whitts_limit(beta):
    load = 40_000.0
    servers = round(load + beta * math.sqrt(load))
    assert erlang_c(servers, load) == pytest.approx(halfin_whitt(beta), rel=0.02)
    assert halfin_whitt(0.0) == 1.0


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0])
def test_waiting_below_the_hour_agrees_with_erlang_c(beta):
    # 400 sessions on slots with square-root staffing: one node a slot.
    load = 400
    slots = round(load + beta * load**0.5)
    config = Pool(
        nodes=slots,
        tok_s_per_gpu=10.0,
        demand_tok_s=np.full(4, load * 80.0),
        tok_s_per_session=80.0,
        policy="queue",
        scale_delay_h=None,
        failures=(NEVER,),
        maintenance_every_h=None,
        wait_slack=0.05,
    )
    late = erlang_c(slots, load) * np.exp(-(slots - load) * 0.05)
    assert 1 - simulate(config).slo_ratio[0] == pytest.approx(
        late, rel=0.15
    )  # it uses the limit of many servers
    assert simulate(replace(config, policy="shed")).slo_ratio[0] == 1.0
