"""Closed forms of queueing theory, instead of simulating requests.

M/G/infinity: in steady state, the number of busy servers is Poisson with mean rate x time, for any
distribution of times. Square-root staffing and its many-server limit: Halfin and Whitt, Operations
Research 29 (1981).
"""

import math


def poisson_quantile(mean: float, q: float) -> int:
    """Smallest n with P(N <= n) >= q for a Poisson count."""
    if mean <= 0:
        return 0
    # Start well below the quantile, to add a few hundred terms only; in logarithms, against
    # underflow.
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


def halfin_whitt(beta: float) -> float:
    """Probability that an arrival waits with load + beta x sqrt(load) servers, in the many-server
    limit; 1 for beta <= 0.
    """
    if beta <= 0:
        return 1.0
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + math.erf(beta / math.sqrt(2)))
    return 1 / (1 + beta * below / density) if density > 0 else 0.0
