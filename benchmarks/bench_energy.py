"""What the energy of a window is worth: known curves through known sensors, held against the truth.

Windows of 5 to 60 s at random places, readings that are dropped, sensors that are renewed at their
own pace. Bars: a curve that the sensor resolves comes back within 0.5 % by counter and 2 % by
integral; for any other the interval contains the truth or the figure is absent. Attribution:
coefficients of noisy runs, how often their intervals hold the truth, how often another law is
refused. Prints one JSON object.
"""

import json
import sys
from collections import defaultdict

import numpy as np

from harness.core.clock import now_ns, seconds
from harness.reduce.energy.attribution import StageSlices, fit
from harness.reduce.energy.devices import energies
from harness.reduce.read.expected_gpus import ExpectedGpus

NS = 1e9
LENGTH_S = 90.0
WINDOWS = 400
FITS = 200
RESOLVED_S = 1.0
"""Periods from which ten readings a second resolve a curve."""
SENSOR_S, COUNTER_S = 0.02, 0.02
"""How often the sensors are renewed. Boards whose counter moves every 100 ms are the same at
windows five times as long.
"""


def curves(rng):
    """Name, whether ten readings a second resolve it, watts and joules over time."""
    low, high = rng.uniform(60, 200), rng.uniform(300, 700)
    yield "constant", True, lambda t: np.full_like(t, high), lambda t: high * t
    slope = (high - low) / LENGTH_S
    yield "ramp", True, lambda t: low + slope * t, lambda t: low * t + slope * t * t / 2
    for name, period in (("slow wave", rng.uniform(4, 30)), ("fast wave", rng.uniform(0.02, 0.3))):
        k, mean, swing, phase = (
            2 * np.pi / period,
            (low + high) / 2,
            (high - low) / 2,
            rng.uniform(0, 6.28),
        )
        yield (
            name,
            period >= RESOLVED_S,
            lambda t, m=mean, s=swing, k=k, p=phase: m + s * np.sin(k * t + p),
            lambda t, m=mean, s=swing, k=k, p=phase: (
                m * t - s / k * (np.cos(k * t + p) - np.cos(p))
            ),
        )
    for name, period in (("steps", rng.uniform(5, 20)), ("bursts", rng.uniform(0.03, 0.4))):
        share = rng.uniform(0.2, 0.8)

        def joules(t, period=period, share=share):
            whole, into = np.divmod(t, period)
            on = np.minimum(into, share * period)
            return (
                whole * period * (share * high + (1 - share) * low) + on * high + (into - on) * low
            )

        yield name, False, lambda t, p=period, s=share: np.where(t % p < s * p, high, low), joules


def rows(rng, watts, joules, method, drop):
    """Columns of the power table as one board's sensors would fill them."""
    t = np.sort(np.arange(0, LENGTH_S, 0.1) + rng.uniform(0, 0.1, round(LENGTH_S / 0.1)))
    t = t[rng.random(len(t)) >= drop]
    c = np.arange(0, LENGTH_S, 1.0) + rng.uniform(0, 0.01)
    c = c[rng.random(len(c)) >= drop] if method == "counter" else c[:0]
    power = np.concatenate([watts(np.floor(t / SENSOR_S) * SENSOR_S), np.full(len(c), np.nan)])
    energy = np.concatenate(
        [np.full(len(t), np.nan), 1e6 + joules(np.floor(c / COUNTER_S) * COUNTER_S)]
    )
    source = np.array(["nvml-instant"] * len(t) + ["nvml-counter"] * len(c), dtype=object)
    order = np.argsort(np.concatenate([t, c]), kind="stable")
    t, power, energy, source = (
        np.concatenate([t, c])[order],
        power[order],
        energy[order],
        source[order],
    )
    text = np.full(len(t), "", dtype=object)
    return {
        "t_ns": t * NS,
        "boundary": text + "gpu_board",
        "device_id": text + "GPU-0",
        "power_w": power,
        "energy_j": energy,
        "source": source,
    }


def windows():
    """Errors by curve and method."""
    found = defaultdict(list)
    for seed in range(WINDOWS):
        rng = np.random.default_rng(seed)
        length = rng.uniform(5, 60)
        start = rng.uniform(3, LENGTH_S - 5 - length)
        drop = rng.choice([0.0, 0.3, 0.7])
        for name, resolved, watts, joules in curves(rng):
            truth = float(np.diff(joules(np.array([start, start + length])))[0])
            for method in ("counter", "integral"):
                energy = energies(
                    rows(rng, watts, joules, method, drop),
                    start * NS,
                    (start + length) * NS,
                    ExpectedGpus(("GPU-0",)),
                )[0]
                found[name, method, resolved].append(
                    None
                    if energy.joules is None
                    else ((energy.joules - truth) / truth, energy.error_ratio, length)
                )
    out = {}
    for (name, method, resolved), results in found.items():
        known = [one for one in results if one is not None]
        errors = np.array([abs(one[0]) for one in known])
        out[f"{name}, by {method}"] = {
            "resolved": resolved,
            "absent": 1 - len(known) / len(results),
            "error_p50": float(np.median(errors)) if known else None,
            "error_p99": float(np.percentile(errors, 99)) if known else None,
            "error_p99_from_30_s": (
                float(np.percentile([abs(e) for e, _, length in known if length >= 30], 99))
                if known
                else None
            ),
            "interval_holds_truth": (
                float(np.mean([abs(e) <= r for e, r, _ in known])) if known else None
            ),
        }
    return out


PLAN = [
    ("idle", 0, 0, 0, 0, None),
    ("prefill", 9000, 60, 600, 16, 0.0),
    ("short-8", 60, 300, 300, 8, 0.0),
    ("short-32", 180, 900, 300, 32, 0.0),
    ("short-128", 400, 2000, 300, 128, 0.0),
    ("long-8", 30, 250, 6000, 8, 0.95),
    ("long-32", 90, 700, 6000, 32, 0.95),
]


def attribution():
    """Coverage of the coefficients, and how often laws that are not the model's are refused."""
    truth = np.array([120.0, 0.02, 0.15, 4e-5])
    held, errors, refused = (
        np.zeros(4),
        [],
        {"its own law": 0, "saturating": 0, "one mix of work": 0},
    )
    stand = 0
    for seed in range(FITS):
        rng = np.random.default_rng(seed)

        def stages(plan=PLAN, bend=0.0, rng=rng):
            for name, computed, output, context, in_flight, cached in plan:
                n = 18
                vary = 1 + 0.05 * rng.standard_normal((n, 2))
                work = np.column_stack(
                    [
                        np.full(n, 5.0),
                        5 * computed * vary[:, 0],
                        5 * output * vary[:, 1],
                        5 * output * context * vary[:, 1],
                    ]
                )
                watts = work @ truth / 5
                # One gain of its own a stage, 1 %: temperature and clocks are not quite the same in
                # two stages.
                watts = (
                    watts
                    * (1 - bend * watts / 700)
                    * (1 + 0.01 * rng.standard_normal())
                    * (1 + 0.01 * rng.standard_normal(n))
                )
                yield StageSlices(name, watts * 5, work, in_flight, cached)

        found = fit(list(stages()))
        if found.stands:
            stand += 1
            apart = np.abs(found.values - truth)
            held += apart <= np.array([c.error for c in found.coefficients])
            errors.append(apart / truth)
        else:
            refused["its own law"] += 1
        refused["saturating"] += not fit(list(stages(bend=0.6))).stands
        mix = [PLAN[0], *((f"c{n}", 30 * n, 20 * n, 900, n, 0.6) for n in (4, 16, 64, 128))]
        refused["one mix of work"] += not fit(list(stages(plan=mix)), check_design=False).stands
    return {
        "interval_holds_truth": dict(
            zip(
                ("time", "computed_input", "output", "output_x_context"),
                (held / max(stand, 1)).tolist(),
                strict=True,
            )
        ),
        "error_p50": np.median(errors, axis=0).tolist(),
        "error_p95": np.percentile(errors, 95, axis=0).tolist(),
        "refused": {key: value / FITS for key, value in refused.items()},
    }


def main():
    start_ns = now_ns()
    found = windows()
    worst = {
        method: max(
            one["error_p99"]
            for key, one in found.items()
            if one["resolved"] and key.endswith(method)
        )
        for method in ("counter", "integral")
    }
    result = {
        "windows": found,
        "attribution": attribution(),
        "bars": {
            "counter_error_p99": {
                "value": worst["counter"],
                "limit": 0.005,
                "met": worst["counter"] <= 0.005,
            },
            "integral_error_p99": {
                "value": worst["integral"],
                "limit": 0.02,
                "met": worst["integral"] <= 0.02,
            },
        },
        "took_s": seconds(now_ns() - start_ns),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
