"""What `harness fleet` costs and how right it is: `python benchmarks/coverage/bench_fleet.py [--quick]`.
Prints one JSON object.

1. 10,000 Monte Carlo draws of a whole site, bar 2 s.
2. One simulated year of 25,000 8-GPU nodes by the hour, with failures, repairs, demand and a queue:
  bars 30 s and 1 GB; the same at up to
   10^6 GPUs and in other settings, where CPU time must grow no worse than linearly in nodes
   (exponent 1).
3. Failed nodes against M/G/infinity over repeated seeds: mean and P99.9 within 2 %. Nodes that are
  down do not fail again here, so that the
   mean lies below that of M/G/infinity by the share of nodes that are down.
4. Out of sample, on this machine: throughput of four replicas predicted from one and two, with the
  error and whether P5 to P95 held the
   truth. The replicas are paced servers under laws of scaling that are known here and not told to
   the prediction; `harness run` measures them. The last law is one that no two points could tell.
"""

import argparse
import contextlib
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.fleet.estimate.estimate import estimate
from harness.fleet.estimate.extra_runs import REPEAT_ERROR
from harness.fleet.over_time.failures import FailureClass, failure_classes
from harness.fleet.over_time.queueing import poisson_quantile
from harness.fleet.over_time.simulate import Pool, diurnal, simulate
from harness.fleet.site.catalog import load_site
from harness.reference_server.server import Pace, PacedServer

LLAMA_PER_GPU_H = 1 / 50_677


def run_directory(folder: Path) -> Path:
    """Two small files of a measured run: 8 H100 at 1,000 output tok/s and 600 W a GPU. The numbers
    are made up; the cost is not.
    """
    figure = {"basis": "measured", "ci_low": None, "ci_high": None}
    summary = {
        "schema_version": 1,
        "run_id": "bench",
        "verdict": {"status": "valid", "concerns": []},
        "window": {"duration_s": 600.0},
        "profile": {"name": "bench", "purpose": "measure"},
        "labels": {"context_scale": 1.0},
        "slos": {"ttft_s": 1.5},
        "metrics": {
            "output_tok_s": {**figure, "value": 8000.0},
            "goodput_tok_s": {**figure, "value": 7800.0},
            "output_tok_s_per_gpu": {**figure, "value": 1000.0, "ci_low": 980.0, "ci_high": 1020.0},
            "power_w": {**figure, "value": 4800.0, "boundary": "gpu_board"},
        },
    }
    gpus = [
        {"uuid": f"GPU-{i}", "index": i, "name": "NVIDIA H100 80GB HBM3", "power_limit_w": 700.0}
        for i in range(8)
    ]
    manifest = {
        "schema_version": 1,
        "run_id": "bench",
        "state": "complete",
        "hardware": {"gpus": gpus},
        "endpoints": [{}, {}],
        "profile": {},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def draws(repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        run, site = run_directory(Path(name)), load_site("colossus-1")
        seconds = []
        for seed in range(repeats):
            start = time.perf_counter()
            estimate(run, site, draws=10_000, seed=seed)
            seconds.append(time.perf_counter() - start)
    return {
        "seconds_median": round(statistics.median(seconds), 3),
        "seconds_max": round(max(seconds), 3),
        "bar_s": 2.0,
    }


NODES = (1_000, 5_000, 25_000, 62_500, 125_000)
RSC = FailureClass(
    "rsc",
    "RSC's rate",
    1 / (1.8 * 16_384),
    1,
    0.0,
    24.0,
    1.0,
    "Meta RSC, 1.8 h at 16,384 GPUs (secondary)",
    "2024-10",
)
DELTA = FailureClass(
    "delta",
    "Delta's rate of H100 memory",
    1 / 88_768,
    1,
    0.0,
    2.2,
    1.0,
    "arXiv 2503.11901",
    "2025-03",
)

SETTINGS: dict[str, dict[str, Any]] = {
    "Llama 3's rates, groups, spares of 5 %, a queue": {},
    "RSC's rate": {"failures": (RSC,)},
    "Delta's rate": {"failures": (DELTA,)},
    "groups fail 100 times as often": {
        "failures": tuple(
            replace(item, per_group_year=100 * item.per_group_year) for item in failure_classes()
        )
    },
    "no spares, what does not fit is shed": {"spares": 0, "policy": "shed"},
    "replicas of 72 GPUs on nodes of 4": {"gpus_per_node": 4, "gpus_per_replica": 72},
    "no failures at all": {"failures": (replace(RSC, per_gpu_h=0.0),), "maintenance_every_h": None},
}
"""What a year is simulated with; all but the first change it."""


def pool_of(nodes: int, setting: Mapping[str, Any]) -> Pool:
    demand = diurnal(0.55) * nodes * setting.get("gpus_per_node", 8) * 900.0
    rates = {"tok_s_per_gpu": 1000.0, "w_per_gpu": 1400.0, "tok_s_per_session": 100.0}
    return Pool(
        **{
            "nodes": nodes,
            "spares": nodes // 20,
            "demand_tok_s": demand,
            "policy": "queue",
            **rates,
            **setting,
        }
    )


def peak(nodes: int) -> Any:
    """Memory, in a process of its own, and the longest of three years on the clock."""
    done = subprocess.run(
        [sys.executable, __file__, "--year", str(nodes)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def print_peak(nodes: int) -> None:
    pool, wall = pool_of(nodes, {}), []
    for seed in range(3):
        start = time.perf_counter()
        found = simulate(pool, seed)
        wall.append(time.perf_counter() - start)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "seconds_max": round(max(wall), 3),
                "peak_mb": round(used),
                "failures": sum(found.events.values()),
            }
        )
    )


def cpu_seconds(pools: Sequence[Pool], rounds: int) -> list[list[float]]:
    """CPU seconds of a year of each pool, in rounds, so that what else the machine does meets all
    alike.
    """
    found: list[list[float]] = [[] for _ in pools]
    for seed in range(-1, rounds):
        for pool, seconds in zip(pools, found, strict=True):
            start = time.process_time()
            simulate(pool, seed + 1)
            if seed >= 0:  # the first round makes what later ones find
                seconds.append(time.process_time() - start)
    return found


def exponent(small: float, large: float, factor: float) -> float:
    return round(math.log(large / small) / math.log(factor), 2)


def years(quick: bool) -> dict[str, Any]:
    sizes, rounds = ((25_000, 62_500, 125_000), 7) if quick else (NODES, 21)
    # The least of many rounds: what other work on the machine adds is not the simulation's.
    least = {
        n: min(s)
        for n, s in zip(sizes, cpu_seconds([pool_of(n, {}) for n in sizes], rounds), strict=True)
    }
    rows = [
        {
            "nodes": n,
            "cpu_s": round(least[n], 4),
            "cpu_us_per_node": round(least[n] / n * 1e6, 2),
            **peak(n),
        }
        for n in sizes
    ]
    settings = {}
    for name, setting in SETTINGS.items():
        at = [min(s) for s in cpu_seconds([pool_of(n, setting) for n in (25_000, 125_000)], rounds)]
        settings[name] = {"cpu_s": [round(s, 4) for s in at], "exponent": exponent(at[0], at[1], 5)}
    return {
        "rows": rows,
        # Cost has a part that no node adds to (hours), so the exponent is below 1 and comes nearer
        # to it as pools grow.
        "exponent_25k_nodes_to_1M_gpus": exponent(least[25_000], least[125_000], 5),
        "exponent_62k_nodes_to_1M_gpus": exponent(least[62_500], least[125_000], 2),
        "settings_at_25k_and_125k_nodes": settings,
        "bars": {"seconds": 30.0, "peak_mb": 1024, "exponent": 1.0},
    }


def against_closed_form(seeds: int) -> dict[str, Any]:
    rows = []
    for repair_h in (2.2, 24.0, 96.0):
        item = FailureClass(
            "any", "any", LLAMA_PER_GPU_H, 1, 0.0, repair_h, 1.0, "Llama 3 report", "2024-07"
        )
        pool = Pool(
            nodes=25_000,
            tok_s_per_gpu=1.0,
            demand_tok_s=np.ones(8760),
            failures=(item,),
            maintenance_every_h=None,
            scale_delay_h=None,
        )
        down = np.concatenate([simulate(pool, seed).down_nodes for seed in range(seeds)])
        mean = 25_000 * 8 * LLAMA_PER_GPU_H * repair_h
        p999 = poisson_quantile(mean, 0.999)
        seen = float(np.quantile(down, 0.999))
        rows.append(
            {
                "repair_h": repair_h,
                "mean": round(float(down.mean()), 2),
                "mean_closed": round(mean, 2),
                "p999": seen,
                "p999_closed": p999,
                "mean_error": round(float(down.mean()) / mean - 1, 4),
                "p999_error": round(seen / p999 - 1, 4),
            }
        )
    return {"seeds": seeds, "rows": rows, "bar": 0.02}


# --- out of sample ---

PROFILE = """\
purpose: smoke
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: {urls}}}
traffic:
  api: chat
  workload: {{kind: chat, system_tok: 50, user_tok: 20, output_tok: 60, turns: 2, think_s: 1ms, context_limit_tok: 3000}}
  load: [{{kind: concurrency, concurrency: {concurrency}, warmup_s: 1s, window_s: {window_s}s}}]
  drain_timeout_s: 10s
telemetry: {{scrape_interval_s: 500ms, host_interval_s: 1s}}
"""

# Throughput of one replica among k, over that of a lone one. The prediction sees one and two only.
# It was settled before these laws were written; a rule before it, whose P5 was the serial share,
# covered none of four others by up to 6 % and gave way to it.
LAWS: dict[str, Callable[[int], float]] = {
    "no loss": lambda _k: 1.0,
    "serial share of 10 %": lambda k: 1 / (1 + 0.10 * (k - 1)),
    "loss of 15 % from two on": lambda k: 1.0 if k == 1 else 0.85,
    "serial share of 2 % and 2 % of waiting for each other": (
        lambda k: 1 / (1 + 0.02 * (k - 1) + 0.02 * k * (k - 1))
    ),
    "none until four, then 12 %": lambda k: 1.0 if k < 4 else 0.88,
}


def throughput(replicas: int, share: float, window_s: int, folder: Path) -> tuple[float, float]:
    """Output tokens per second of so many paced servers, as `harness run` measures it, and half of
    its relative 95 % interval.
    """
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(PacedServer(Pace(ttft_ms=20, gap_ms=20 / share)))
            for _ in range(replicas)
        ]
        profile = folder / f"p{replicas}.yaml"
        urls = json.dumps([server.url for server in servers])
        profile.write_text(PROFILE.format(urls=urls, concurrency=4 * replicas, window_s=window_s))
        command = [
            sys.executable,
            "-m",
            "harness",
            "run",
            str(profile),
            "--json",
            "--quiet",
            "--out",
            str(folder / "results"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    figure = json.loads(done.stdout)["metrics"]["output_tok_s"]
    low, high = figure["ci_low"], figure["ci_high"]
    return figure["value"], (
        0.0 if low is None or high is None else (high - low) / 2 / figure["value"]
    )


@dataclass(frozen=True, slots=True)
class Replicas:
    """Throughput of k replicas, predicted from measurements of one and two.

    Attributes:
        value: P50.
        low: P5.
        high: P95.
    """

    value: float
    low: float
    high: float


def predict_replicas(one: float, two: float, k: int, relative_error: float = 0.0) -> Replicas:
    """Whole throughput of k replicas from that of one and two.

    Two points leave open how a loss grows. P95: not at all (the efficiency of two holds for k).
    P50: as a serial share does, T(k) = k T(1) / (1 + s (k - 1)), Amdahl's law with s from the two
    points. P5: as waiting for each other does, T(k) = k T(1) / (1 + w k (k - 1)), the second term
    of Gunther's universal scalability law. P5 and P95 are widened by the measurements' error. This
    predicts a few replicas behind one client; over thousands of independent replicas neither law
    holds, so a site is never predicted with it.

    Args:
        one: throughput of one replica.
        two: of two.
        k: replicas to predict, two or more.
        relative_error: standard deviation of a measured throughput over it.
    """
    lost = max(0.0, 2 * one / two - 1)  # what two replicas lose, over what they keep
    kept = k / 2 * two
    serial = k * one / (1 + lost * (k - 1)) if lost else kept
    waiting = k * one / (1 + lost / 2 * k * (k - 1)) if lost else kept
    error = 1.645 * max(relative_error, REPEAT_ERROR) * math.sqrt(2)
    return Replicas(serial, waiting * (1 - error), kept * (1 + error))


def out_of_sample(window_s: int, names: Sequence[str]) -> dict[str, Any]:
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            measured = {k: throughput(k, LAWS[name](k), window_s, Path(folder)) for k in (1, 2, 4)}
        one, two, four = (measured[k][0] for k in (1, 2, 4))
        predicted = predict_replicas(one, two, 4, max(measured[k][1] for k in (1, 2)) / 1.96)
        found[name] = {
            "one": round(one, 1),
            "two": round(two, 1),
            "four": round(four, 1),
            "predicted": round(predicted.value, 1),
            "p5": round(predicted.low, 1),
            "p95": round(predicted.high, 1),
            "error": round(predicted.value / four - 1, 4),
            "covered": predicted.low <= four <= predicted.high,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--year", type=int)
    parser.add_argument("--only", choices=("draws", "year", "closed", "replicas"))
    given = parser.parse_args()
    if given.year:
        print_peak(given.year)
        return
    quick = given.quick
    parts: dict[str, Callable[[], Any]] = {
        "draws": lambda: draws(3 if quick else 10),
        "year": lambda: years(quick),
        "closed": lambda: against_closed_form(8 if quick else 40),
        "replicas": lambda: out_of_sample(5 if quick else 10, list(LAWS)[: 2 if quick else None]),
    }
    result = {name: part() for name, part in parts.items() if given.only in (None, name)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
