"""How right the statistics are:
`python benchmarks/coverage/bench_statistics.py [intervals] [steady] [--runs N]`.

Intervals (bar: the 95 % intervals cover the truth in 94 to 96 % of 4,000 simulated runs at each
length, or are absent where the run is too short): the mean of an autoregression of order one with
phi 0.9, and p50 and p99 of the time in an M/M/1 queue at utilisation 0.5 and 0.8. `given` is the
share of runs that have an interval, `covered` the share of those whose interval holds the truth,
`wrong` the share of all runs that have an interval without it. Lengths between `too short` and
`middle`, where some runs have an interval and others have none, are reported too: a run's presence
depends on what it happened to see, and coverage given presence is lower there.

Steady state (bar: right within one slice in at least 95 % of 200 seeded cases, and drift is called
drift): series of 300 observations in 60 slices with a ramp, a decaying warm-up, a drift, an early
step, a late step, noise or nothing. A case is right when drift is called where there is one and
nowhere else and, without one, the end of the warm-up is found within one slice. The true end of a
ramp and of a decay is where the noiseless curve comes within two standard deviations of a slice's
noise: inside of that no slice can tell. `false_calls` are those of one signal of pure noise, by its
correlation.

Everything is seeded. Prints one JSON object.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from harness.reduce.statistics.intervals import Floats, mean_interval, quantile_intervals
from harness.reduce.statistics.stationarity import PER_SLICE, SLICES, examine

RUNS = 4000
PHI = 0.9
AR_LENGTHS = (100, 300, 2_000, 20_000)
"""Too short, in between, middle, long."""
QUEUE_LENGTHS = {0.5: (500, 3_000, 20_000, 100_000), 0.8: (5_000, 30_000, 200_000, 500_000)}
"""Requests, by utilisation: for p99 too short, in between, middle, long; p50 is given at all of
them.
"""
CHUNK = 4_000_000
"""Values simulated at a time."""


def autoregression(runs: int, length: int, phi: float, draw: np.random.Generator) -> Floats:
    """Stationary AR(1) series of mean 0, one a row."""
    series = draw.normal(size=(length, runs))
    series[0] /= math.sqrt(1 - phi * phi)
    for i in range(1, length):
        series[i] += phi * series[i - 1]
    return np.ascontiguousarray(series.T)


def queue(runs: int, length: int, utilisation: float, draw: np.random.Generator) -> Floats:
    """Times in an M/M/1 queue, first come first served, mean service time 1, stationary from the
    first request on; one run a row.

    Lindley's recursion W' = max(0, W + S - A) as a running minimum. The stationary wait is 0 with
    probability 1 - utilisation and else exponential with mean 1 / (1 - utilisation), and so is the
    time in the system without the zero.
    """
    service = draw.exponential(size=(runs, length))
    first = np.where(
        draw.random(runs) < utilisation, draw.exponential(1 / (1 - utilisation), size=runs), 0.0
    )
    steps = -draw.exponential(1 / utilisation, size=(runs, length))
    steps[:, 1:] += service[:, :-1]
    steps[:, 0] = first
    walk = np.cumsum(steps, axis=1)
    return walk - np.minimum(np.minimum.accumulate(walk, axis=1), 0.0) + service


def tally(intervals: list[tuple[float, float] | None], truth: float) -> dict[str, float | None]:
    given = [i for i in intervals if i is not None]
    hit = sum(low <= truth <= high for low, high in given)
    widths = [(high - low) / 2 for low, high in given]
    return {
        "given": round(len(given) / len(intervals), 4),
        "covered": round(hit / len(given), 4) if given else None,
        "wrong": round((len(given) - hit) / len(intervals), 4),
        "half_width_median": round(float(np.median(widths)), 5) if widths else None,
    }


def intervals(runs: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for length in AR_LENGTHS:
        draw = np.random.default_rng([1, length])
        found = []
        for made in range(0, runs, max(1, CHUNK // length)):
            found += [
                mean_interval(row)
                for row in autoregression(
                    min(max(1, CHUNK // length), runs - made), length, PHI, draw
                )
            ]
        out[f"ar1_mean n={length}"] = tally(found, 0.0)
    for utilisation, lengths in QUEUE_LENGTHS.items():
        for length in lengths:
            draw = np.random.default_rng([2, length])
            quantiles = []
            for made in range(0, runs, max(1, CHUNK // length)):
                batch = queue(min(max(1, CHUNK // length), runs - made), length, utilisation, draw)
                quantiles += [quantile_intervals(row) for row in batch]
            for name, q in (("p50", 0.5), ("p99", 0.99)):
                truth = -math.log(1 - q) / (1 - utilisation)
                out[f"mm1 {utilisation:g} {name} n={length}"] = tally(
                    [i[name] for i in quantiles], truth
                )
    return out


KINDS = ("ramp", "decay", "drift", "step", "late step", "noise", "none")
CASES = 200
MORE_CASES = 2_100


@dataclass(frozen=True)
class Case:
    """A series of slices' means; `warmup` is its true end in slices (0 without one)."""

    kind: str
    means: Floats
    warmup: float
    drifts: bool


def steady_case(number: int) -> Case:
    """Case `number`: kinds take turns, everything else is drawn from its own seed.

    The level is 1 to 10,000; a slice's noise is 0.5 to 5 % of it (noise alone: 1 to 10 %);
    observations are correlated as an AR(1) series with phi up to 0.8. Ramps start at 0 to 60 % of
    the level and last 3 to 25 slices, rising by two or more standard deviations a slice. Decays
    begin 30 to 100 % off, with a time constant of half a slice to two. Drifts change by 10 to 50 %
    over the run. Steps are of 20 to 80 %, after 3 to 25 slices or, late, after 35 to 55.
    """
    draw = np.random.default_rng([4, number])
    kind = KINDS[number % len(KINDS)]
    size = SLICES * PER_SLICE
    t = np.arange(size) / PER_SLICE
    level, phi, noise = 10 ** draw.uniform(0, 4), draw.uniform(0, 0.8), draw.uniform(0.005, 0.05)
    curve, warmup = np.ones(size), 0.0
    sign = draw.choice([-1, 1])
    if kind == "ramp":
        end, low = draw.uniform(3, 25), draw.uniform(0, 0.6)
        slope = (1 - low) / end
        noise = min(noise, slope / 2)
        curve = np.minimum(1, low + slope * t)
        warmup = max(0.0, end - 2 * noise / slope)
    elif kind == "decay":
        constant, off = draw.uniform(0.5, 2), draw.uniform(0.3, 1)
        curve = 1 + sign * off * np.exp(-t / constant)
        warmup = max(0.0, constant * math.log(off / noise / 2))
    elif kind == "drift":
        curve = 1 + sign * draw.uniform(0.1, 0.5) * (t / SLICES - 0.5)
    elif kind in {"step", "late step"}:
        at = draw.uniform(3, 25) if kind == "step" else draw.uniform(35, 55)
        curve = np.where(t < at, 1 + sign * draw.uniform(0.2, 0.8), 1.0)
        warmup = at if kind == "step" else 0.0
    elif kind == "noise":
        noise = draw.uniform(0.01, 0.1)
    else:
        noise = 0.0
    lags = np.arange(1, PER_SLICE)
    of_slice = math.sqrt(
        (1 + 2 * np.sum((1 - lags / PER_SLICE) * phi**lags)) / PER_SLICE / (1 - phi * phi)
    )
    series = level * (curve + noise / of_slice * autoregression(1, size, phi, draw)[0])
    return Case(
        kind, series.reshape(SLICES, PER_SLICE).mean(axis=1), warmup, kind in {"drift", "late step"}
    )


def is_right(case: Case) -> bool:
    found = examine(case.means)
    if found.drift or case.drifts:
        return found.drift and case.drifts
    return abs(found.warmup_slices - math.ceil(case.warmup)) <= 1


def false_calls(runs: int = 1000) -> dict[str, dict[str, float]]:
    """How often noise of 10 % a slice, correlated from slice to slice, is called a warm-up or a
    drift.
    """
    out = {}
    for slices in (20, 30, 60):
        for phi in (0.0, 0.3, 0.6, 0.8):
            noise = autoregression(
                runs, slices, phi, np.random.default_rng([5, slices])
            ) * math.sqrt(1 - phi * phi)
            found = [examine(1 + 0.1 * row) for row in noise]
            out[f"{slices} slices, phi {phi:g}"] = {
                "warmup": round(sum(one.warmup_slices > 0 for one in found) / runs, 4),
                "drift": round(sum(one.drift for one in found) / runs, 4),
            }
    return out


def steady() -> dict[str, Any]:
    right = {number: is_right(steady_case(number)) for number in range(MORE_CASES)}

    def share(numbers: list[int]) -> float:
        return round(sum(right[n] for n in numbers) / len(numbers), 4)

    return {
        "false_calls": false_calls(),
        "cases": CASES,
        "right": share(list(range(CASES))),
        "right_by_kind": {
            kind: share(list(range(i, CASES, len(KINDS)))) for i, kind in enumerate(KINDS)
        },
        f"right_of_{MORE_CASES}": share(list(range(MORE_CASES))),
        f"right_of_{MORE_CASES}_by_kind": {
            kind: share(list(range(i, MORE_CASES, len(KINDS)))) for i, kind in enumerate(KINDS)
        },
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=["intervals", "steady", []])
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args(argv)
    parts = options.parts or ["intervals", "steady"]
    result: dict[str, Any] = {"runs": options.runs}
    for part in parts:
        start = perf_counter()
        result[part] = intervals(options.runs) if part == "intervals" else steady()
        result[f"{part}_took_s"] = round(perf_counter() - start, 1)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
