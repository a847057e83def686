"""How often a point of a true frontier is shown, and how large the page of a large sweep is and how
long a browser takes to draw it. Prints JSON.

    python benchmarks/bench_sweeps.py
    python benchmarks/bench_sweeps.py --trials 500

Bars: of the points that are truly on the frontier at least 95% are shown as on it, or as not
distinguishable from it; sweep.html of 200 points below 3 MB, drawn in under 2 s by headless Chromium.

Membership: a concave trade-off of two metrics, all points on it or half of them up to 50% below it;
measured values differ by lognormal noise of the stated standard deviation, which the intervals
state. `probability` is the share of true points with a probability of at least 5%; `shown` adds
those that no other point dominates significantly, as the page does; `off_shown` is the share of
points off the frontier that are shown too.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.core.clock import now_ns, seconds
from harness.report.sweep.write import write_sweep_report
from harness.sweeps.frontier import (
    POSSIBLE,
    Z95,
    at_least_as_good,
    dominance,
    draw,
    non_dominated,
    place,
)
from harness.sweeps.points import Measured

ROOT = Path(__file__).parents[1]
KEYS = ("output_tok_s_per_gpu", "interactivity_tok_s_user")
COVERAGE, MOST_BYTES, MOST_DRAWN_S = 0.95, 3_000_000, 2.0


def load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def measure(rng: np.random.Generator, truth: Any, noise: float) -> list[Measured]:
    values = truth * np.exp(noise * rng.standard_normal(len(truth)))
    ends = np.exp(Z95 * noise)
    return [Measured(float(v), float(v / ends), float(v * ends)) for v in values]


def membership(points: int, noise: float, *, dense: bool, trials: int) -> dict[str, Any]:
    rng = np.random.default_rng([points, round(noise * 1e4), dense])
    on, probable, shown, placed = [], [], [], []
    for _ in range(trials):
        y = np.sort(rng.uniform(0.05, 1, points))
        x = np.sqrt(1 - y**2) + 0.05
        if not dense:
            below = np.where(rng.random(points) < 0.5, rng.uniform(0.5, 0.98, points), 1)
            y, x = y * below, x * below
        on.append(non_dominated(y[None], x[None])[0])
        measured = [measure(rng, truth, noise) for truth in (y, x)]
        drawn = [draw(one, key) for one, key in zip(measured, KEYS, strict=True)]
        shares = non_dominated(*drawn).mean(axis=0)
        chances = (at_least_as_good(one, key) for one, key in zip(measured, KEYS, strict=True))
        p_values = (1 - dominance(*chances).max(axis=0)) * (points - 1)
        probable.append(shares >= POSSIBLE)
        places = [place(float(p), float(q)) for p, q in zip(shares, p_values, strict=True)]
        shown.append(np.array([one != "dominated" for one in places]))
        placed.append(np.array([one == "frontier" for one in places]))
    true, p, s, f = map(np.concatenate, (on, probable, shown, placed))
    return {
        "points": points,
        "noise": noise,
        "dense": dense,
        "on": int(true.sum()),
        "probability": round(float(p[true].mean()), 4),
        "shown": round(float(s[true].mean()), 4),
        "off_shown": None if true.all() else round(float(s[~true].mean()), 4),
        "off_on_frontier": None if true.all() else round(float(f[~true].mean()), 4),
    }


def page(folder: Path, repeats: int) -> dict[str, Any]:
    made = load("made_sweep", ROOT / "tests" / "sweeps" / "made_sweep.py")
    sweep = made.make_sweep(
        folder / "sweep", [2**n for n in range(10)], range(1, 21), half_width=0.02, noise=0.01
    )
    start_ns = now_ns()
    write_sweep_report(sweep)
    written_s = seconds(now_ns() - start_ns)
    html = sweep / "sweep.html"
    browser = load("report_browser", ROOT / "tests" / "report" / "conftest.py").browser
    pages = load("bench_report", ROOT / "benchmarks" / "bench_report.py")
    with browser(folder / "chromium") as opened:
        drawn = pages.drawn(opened, html, repeats)
    return {
        "points": 200,
        "html_bytes": html.stat().st_size,
        "written_s": round(written_s, 2),
        **drawn,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=4)
    arguments = parser.parse_args()
    cases = [
        membership(points, noise, dense=dense, trials=arguments.trials)
        for points in (6, 12, 30, 200)
        for noise in (0.005, 0.02, 0.05)
        for dense in (False, True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        drawn = page(Path(folder), arguments.repeats)
    least = min(case["shown"] for case in cases)
    result = {"least_shown": least, "membership": cases, "page": drawn, "cpus": os.cpu_count()}
    print(json.dumps(result))
    met = least >= COVERAGE and drawn["html_bytes"] <= MOST_BYTES
    return 0 if met and drawn["drawn_s"] <= MOST_DRAWN_S else 1


if __name__ == "__main__":
    sys.exit(main())
