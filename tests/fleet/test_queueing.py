"""Closed forms against tables and against each other."""

import math

import pytest

from harness.fleet.over_time.queueing import (
    erlang_c,
    halfin_whitt,
    mean_down,
    poisson_quantile,
    staffed_utilisation,
)

LLAMA = 8 / 50_677  # failures of an 8-GPU node an hour
RSC = 6.5 / 1000 / 24


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
    found = mean_down(25_000, per_node_h, repair_h)
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


@pytest.mark.parametrize(
    ("load", "share"), [(10, 0.76), (100, 0.91), (1000, 0.97), (25_000, 0.994)]
)
def test_square_root_staffing(load, share):
    assert staffed_utilisation(load) == pytest.approx(share, abs=0.005)
