"""Closed forms of queueing: oracles of the simulation, and waiting where simulating requests would
be absurd.

M/G/infinity: in the long run the number of busy servers is Poisson with mean rate x time, whatever
the distribution of times. Erlang C: waiting in M/M/c. Square-root staffing and its limit of many
servers: Halfin and Whitt, Operations Research 29 (1981).
"""

import math


def poisson_quantile(mean: float, q: float) -> int:
    """Smallest n with P(N <= n) >= q for a Poisson count."""
    if mean <= 0:
        return 0
    # Start well below the quantile so that no more than some hundred terms are added, in logarithms
    # so that none is lost.
    n = max(0, math.floor(mean - 10 * math.sqrt(mean)))
    log_p = n * math.log(mean) - mean - math.lgamma(n + 1)
    p = math.exp(log_p)
    total = p
    while total < q:
        n += 1
        p *= mean / n
        total += p
        if p == 0.0:
            break
    return n


def mean_down(nodes: float, per_node_h: float, repair_h: float) -> float:
    """Nodes that are down in the long run (M/G/infinity): none waits for its repair."""
    return nodes * per_node_h * repair_h


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


def halfin_whitt(beta: float) -> float:
    """Chance that an arrival waits with load + beta x sqrt(load) servers, in the limit of many; 1
    for beta <= 0.
    """
    if beta <= 0:
        return 1.0
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + math.erf(beta / math.sqrt(2)))
    return 1 / (1 + beta * below / density) if density > 0 else 0.0


def staffed_utilisation(load: float, beta: float = 1.0) -> float:
    """Utilisation with square-root staffing: load / (load + beta x sqrt(load))."""
    return load / (load + beta * math.sqrt(load))
