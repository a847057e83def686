"""How right the capacity search is: `python benchmarks/bench_search.py [--seeds N]`.

Each probe has 300 independent requests, of which the share given by a true curve is good; the target
is 95 %. Noise is the standard deviation of ln(capacity) between probes. The first load is off by up
to 25 %. Bars: within 3 % of the truth in >= 95 % of seeds, the 95 % interval covers it in >= 93 %
(>= 88 % for the queues, whose curve the model does not have), mean half width <= 3 %. Beside them, on
the same truth: bisection with as many probes (doubling, then halving the bracket of the last pass
and fail), and isotonic regression on the search's own probes. `tiers`: probes until three tiers are
known within 3 %, over those of the tightest alone (bar: 1.5). `replayed`: whether the recorded
outcomes, replayed, give the same loads. `ask_s`: one ask after 30 probes (bar: 0.05).

500 seeds take 20 minutes of two cores; the default of 40 fits `make bench`. Prints one JSON object.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from time import perf_counter
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two processes use the two cores

import numpy as np

from harness.sweeps.probe_likelihood import Observation
from harness.sweeps.threshold import Limits, Observed, estimate, next_load, posterior

TARGET = 0.95
N = 300
NORMAL = NormalDist()
FREE = Limits(1e-3, 1e3, whole=False, precision=0.0)


def on_time(load: float, servers: int, limit: float) -> float:
    """Share of requests that wait at most `limit` service times in an M/M/c queue (Erlang C)."""
    if load >= servers:
        return 0.0
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    waits = blocked * servers / (servers - load * (1 - blocked))
    return 1 - waits * math.exp(-(servers - load) * limit)


@cache
def queue_capacity(servers: int, limit: float) -> float:
    low, high = 0.01, servers * (1 - 1e-9)
    for _ in range(60):
        middle = (low + high) / 2
        if on_time(middle, servers, limit) >= TARGET:
            low = middle
        else:
            high = middle
    return low


def share(truth: str, x: float) -> float:
    """Share of good requests at a load relative to the capacity."""
    kind, *numbers = truth.split()
    if kind == "queue":
        servers, limit = int(numbers[0]), float(numbers[1])
        return on_time(x * queue_capacity(servers, limit), servers, limit)
    return NORMAL.cdf(NORMAL.inv_cdf(TARGET) - math.log(x) / float(numbers[0]))


@dataclass(frozen=True)
class Setting:
    truth: str
    noise: float
    probes: int
    slow_every: int = 0
    covers: float = 0.93


SETTINGS = (
    Setting("probit 0.08", 0.01, 10),
    Setting("probit 0.08", 0.05, 30),
    Setting("probit 0.01", 0.01, 10),
    Setting("probit 0.01", 0.05, 30),
    Setting("queue 16 1", 0.01, 10, covers=0.88),
    Setting("queue 16 1", 0.05, 30, covers=0.88),
    Setting("probit 0.08", 0.01, 12, slow_every=10),
)


def prober(one: Setting, draw: np.random.Generator) -> Callable[[float, int], Observation]:
    def probe(load: float, number: int) -> Observation:
        x = load * math.exp(one.noise * draw.standard_normal())
        if one.slow_every and number % one.slow_every == one.slow_every - 1:
            x /= 0.7
        return Observation(load, float(draw.binomial(N, share(one.truth, x))), N)

    return probe


def search(one: Setting, seed: int) -> dict[str, float]:
    draw = np.random.default_rng([5, seed])
    guess = math.exp(draw.uniform(-0.25, 0.25))
    probe = prober(one, draw)
    done: list[Observation] = []
    limits = Limits(
        FREE.start, FREE.end, whole=False, precision=0, max_points=one.probes, guess=guess
    )
    while (load := next_load([[Observed(TARGET, tuple(done))]], limits)) is not None:
        done.append(probe(load, len(done)))
    found = estimate([Observed(TARGET, tuple(done))], limits)
    again = all(
        next_load([[Observed(TARGET, tuple(done[:i]))]], limits) == done[i].load
        for i in (1, len(done) // 2, len(done) - 1)
    )
    return {
        "error": math.log(found.load or math.inf),
        "covered": float((found.low or 0) < 1 < (found.high or math.inf)),
        "half": found.half_width or math.inf,
        "isotonic": math.log(isotonic(done)),
        "bisection": math.log(bisection(one, np.random.default_rng([6, seed]), guess)),
        "replayed": float(again),
    }


def bisection(one: Setting, draw: np.random.Generator, guess: float) -> float:
    probe = prober(one, draw)
    low, high = 0.0, math.inf
    for i in range(one.probes):
        load = guess if i == 0 else low * 2 if high == math.inf else math.sqrt(low * high)
        if low == 0 and i:
            load = high / 2
        found = probe(load, i)
        low, high = (load, high) if found.good >= TARGET * N else (low, load)
    return math.sqrt(low * high) if low and high < math.inf else low or high


def isotonic(done: list[Observation]) -> float:
    """Where the pooled shares (Ayer et al. 1955) cross the target, linear in ln(load)."""
    blocks: list[list[float]] = []
    for one in sorted(done, key=lambda o: o.load):
        blocks.append([math.log(one.load), one.good / one.n, 1.0])
        while len(blocks) > 1 and blocks[-1][1] > blocks[-2][1]:
            (xa, ya, a), (xb, yb, b) = blocks[-2:]
            blocks[-2:] = [[(xa * a + xb * b) / (a + b), (ya * a + yb * b) / (a + b), a + b]]
    x, y = [block[0] for block in blocks], [block[1] for block in blocks]
    return math.exp(float(np.interp(-TARGET, [-value for value in y], x)))


def row(results: list[dict[str, float]], one: Setting) -> dict[str, Any]:
    values = {key: np.array([r[key] for r in results]) for key in results[0]}

    def within(key: str) -> float:
        return round(float(np.mean(np.abs(values[key]) < 0.03)), 3)

    covered, half = float(np.mean(values["covered"])), float(np.mean(values["half"]))
    return {
        "truth": one.truth,
        "noise": one.noise,
        "probes": one.probes,
        "slow_every": one.slow_every,
        "within_3": within("error"),
        "rms": round(float(np.sqrt(np.mean(values["error"] ** 2))), 4),
        "bias": round(float(np.mean(values["error"])), 4),
        "covered": round(covered, 3),
        "half_width_mean": round(half, 4),
        "half_width_median": round(float(np.median(values["half"])), 4),
        "bisection_within_3": within("bisection"),
        "isotonic_within_3": within("isotonic"),
        "replayed": bool(np.all(values["replayed"] == 1)),
        "passed": bool(within("error") >= 0.95 and covered >= one.covers and half <= 0.03),
    }


TIERS = (0.5, 1.0, 2.0)
"""Limits of the wait, in service times, at 16 servers; noise 1 %."""


def tiers(seed: int) -> dict[str, float]:
    limits = Limits(0.5, 64, whole=False, max_points=40)

    def cost(asked: tuple[float, ...]) -> int:
        draw = np.random.default_rng([8, seed])
        done: list[list[Observation]] = [[] for _ in asked]
        while True:
            now = [[Observed(TARGET, tuple(probes))] for probes in done]
            load = next_load(now, limits)
            if load is None:
                return len(done[0])
            x, wait = load * math.exp(0.01 * draw.standard_normal()), draw.random(N)
            for probes, limit in zip(done, asked, strict=True):
                good = float(np.sum(wait < on_time(x, 16, limit)))
                probes.append(Observation(load, good, N))

    return {"three": cost(TIERS), "one": cost(TIERS[:1])}


def ask_s() -> float:
    """Median time of one ask with 30 probes, in a process that has seen 29 of them."""
    probe, took = prober(SETTINGS[5], np.random.default_rng(9)), []
    done = [probe(math.exp(0.01 * (i - 15)), i) for i in range(30)]
    for i in range(20, 30):
        posterior(Observed(TARGET, tuple(done[:i])))
        start = perf_counter()
        posterior(Observed(TARGET, tuple(done[: i + 1])))
        took.append(perf_counter() - start)
    return float(np.median(took))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=40)
    seeds = parser.parse_args().seeds
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for one in SETTINGS:
            found = list(pool.map(search, [one] * seeds, range(seeds), chunksize=5))
            rows.append(row(found, one))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        costs = list(pool.map(tiers, range(max(1, seeds // 2)), chunksize=5))
    three, alone = (float(np.mean([c[key] for c in costs])) for key in ("three", "one"))
    print(
        json.dumps(
            {
                "seeds": seeds,
                "rows": rows,
                "tiers": {"three": three, "tightest": alone, "ratio": round(three / alone, 3)},
                "ask_s": round(ask_s(), 4),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
