"""Search on real runs: a paced server with slots and exponential service is an M/M/c queue, so the
arrival rate at which 95% of requests wait at most a limit is Erlang's formula.

Each seed is one `harness search` by arrival rate, with its own server. The bar: the found load is
within 5% of the true one in 5 of 5 seeds, in at most 10 minutes each on two cores. It is no part of
`make bench` unless named: `python benchmarks/bench_search_live.py`.
"""

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

from harness.commands.display import QuietView
from harness.commands.search import run_search, source_of, start_search
from harness.core.clock import now_ns, seconds
from harness.reference_server.server import Pace, PacedServer

PROFILE = """\
purpose: smoke
seed: {seed}
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  api: chat
  workload: {{kind: chat, system_tok: 20, user_tok: 20, output_tok: 4, turns: 1, context_limit_tok: 3000}}
  load: [{{kind: arrival_rate, rate_per_s: 10, over: requests, warmup_s: 3s, window_s: 20s}}]
  drain_timeout_s: 10s
slos: {{ttft_s: {limit_s}s}}
telemetry: {{scrape_interval_s: 500ms, host_interval_s: 1s}}
search: {{load: arrival_rate, from: 10, to: 80, precision: 3%, max_points: {points}, max_time_s: 9m,
         probe_s: {probe_s}s, probe_requests: 100000, confirm: false}}
"""
SLOTS, SERVICE_S, LIMIT_S, SHARE, BAR, MOST_S = 8, 0.16, 0.08, 0.95, 0.05, 600.0


def true_capacity_per_s() -> float:
    """The rate at which `SHARE` of the requests wait at most `LIMIT_S` (Erlang C)."""

    def share(rate_per_s: float) -> float:
        offered, blocked = rate_per_s * SERVICE_S, 1.0
        for count in range(1, SLOTS + 1):
            blocked = offered * blocked / (count + offered * blocked)
        waiting = SLOTS * blocked / (SLOTS - offered * (1 - blocked))
        return 1 - waiting * math.exp(-(SLOTS / SERVICE_S - rate_per_s) * LIMIT_S)

    low, high = 0.0, SLOTS / SERVICE_S
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) >= SHARE else (low, middle)
    return low


def one(seed: int, scratch: Path, *, points: int, probe_s: float) -> dict[str, object]:
    """One search."""
    pace = Pace(slots=SLOTS, service_ms=SERVICE_S * 1000, seed=seed)
    start_ns = now_ns()
    with PacedServer(pace) as server:
        path = scratch / f"search-{seed}.yaml"
        path.write_text(
            PROFILE.format(
                seed=1000 * seed, url=server.url, limit_s=LIMIT_S, points=points, probe_s=probe_s
            )
        )
        folder = start_search(source_of(path), out=scratch)
        result = run_search(folder, view=QuietView)
    tier = result.capacity.tiers["slo"]
    return {
        "seed": seed,
        "found_per_s": None if tier.load is None else round(tier.load, 3),
        "low": tier.low,
        "high": tier.high,
        "error": None if tier.load is None else round(tier.load / true_capacity_per_s() - 1, 4),
        "probes": len(result.capacity.probes),
        "stopped": sum(probe.stopped for probe in result.capacity.probes),
        "loads": [probe.load for probe in result.capacity.probes],
        "wall_s": round(seconds(now_ns() - start_ns), 1),
        "ended": result.capacity.ended,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--points", type=int, default=14)
    parser.add_argument("--probe-s", type=float, default=30)
    parser.add_argument("--out", type=Path, help="keep the runs there")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = wanted.out or Path(scratch)
        found = []
        for seed in wanted.seeds:
            found.append(one(seed, place, points=wanted.points, probe_s=wanted.probe_s))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    errors = [each["error"] for each in found]
    right = sum(isinstance(error, float) and abs(error) <= BAR for error in errors)
    quick = sum(float(str(each["wall_s"])) <= MOST_S for each in found)
    print(
        json.dumps(
            {
                "true_per_s": round(true_capacity_per_s(), 3),
                "within_5_percent": f"{right} of {len(found)}",
                "within_10_minutes": f"{quick} of {len(found)}",
                "searches": found,
            }
        )
    )
    return 0 if right == quick == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
