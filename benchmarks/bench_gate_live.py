"""Gates on real runs: a paced server, the same one slowed by 10 %, and one that is not slowed, in
`harness repeat` with random order.

Each trial is one series of three variants and three repeats; a gate at 5 % is asked of the slowed
and of the unchanged variant. Right is: failed for the slowed one, not failed for the unchanged one.
The bar: at least 18 of 20 of each. The three servers differ in nothing but their pace, so the truth
is known. Runs are short (`--window-s`): the whole takes some half an hour, and is no part of
`make bench` unless named: `python benchmarks/bench_gate_live.py`.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from harness.artifacts.typed_json import to_json
from harness.commands.display import QuietView
from harness.commands.repeat import load_variants, run_series, start_series
from harness.compare.compare import compare_runs
from harness.compare.gates import Outcome
from harness.core.clock import now_ns, seconds
from harness.profile.thresholds import parse_threshold
from harness.reference_server.server import Pace, PacedServer

PROFILE = """\
purpose: smoke
seed: {seed}
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  api: chat
  output_length: forced
  workload: {{kind: batch, system_tok: 60, user_tok: 20, output_tok: 12, context_limit_tok: 3000}}
  load: [{{kind: concurrency, concurrency: 3, warmup_s: 500ms, window_s: {window_s}s}}]
  drain_timeout_s: 10s
telemetry: {{scrape_interval_s: 1s, host_interval_s: 1s}}
"""
GATES = ("tpot_s.p50 <= 1.05 * baseline", "output_tok_s >= 0.95 * baseline")
SLOWED = 1.10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--window-s", type=float, default=4)
    parser.add_argument("--out", type=Path, help="keep the runs there")
    parser.add_argument("--write", type=Path, help="write the result there after every trial")
    wanted = parser.parse_args()
    gates = [parse_threshold(text) for text in GATES]
    trials: list[dict[str, object]] = []
    pace = Pace(ttft_ms=60, gap_ms=40)
    slowed = Pace(ttft_ms=60 * SLOWED, gap_ms=40 * SLOWED)
    start_ns = now_ns()
    with (
        tempfile.TemporaryDirectory() as scratch,
        PacedServer(pace) as base,
        PacedServer(slowed) as slow,
        PacedServer(pace) as same,
    ):
        folder = wanted.out or Path(scratch)
        for trial in range(wanted.trials):
            paths = []
            for name, server in (("base", base), ("slow", slow), ("same", same)):
                path = Path(scratch) / f"{name}.yaml"
                path.write_text(
                    PROFILE.format(url=server.url, seed=1000 * trial, window_s=wanted.window_s)
                )
                paths.append(path)
            series = start_series(
                load_variants(paths), repeats=wanted.repeats, out=folder, cooldown_s=0
            )
            run_series(series, view=QuietView)
            judged = compare_runs([series], gates=gates)  # the first profile is the baseline
            names = {side.label: side.name for side in judged.sides}
            found: dict[str, list[dict[str, object]]] = {"slow": [], "same": []}
            for gate in judged.gates:
                found[names[gate.side]].append(to_json(gate))
            trials.append(found)
            if wanted.write:
                wanted.write.write_text(
                    json.dumps(_result(trials, seconds(now_ns() - start_ns)), indent=2) + "\n"
                )
            print(
                f"trial {trial + 1}:"
                f" {[(name, [g['outcome'] for g in found[name]]) for name in found]}",
                file=sys.stderr,
                flush=True,
            )
    result = _result(trials, seconds(now_ns() - start_ns))
    print(json.dumps(result, indent=2))
    return 0 if result["met"] else 1


def _result(trials: list[dict[str, object]], took_s: float) -> dict[str, object]:
    slow = [any(gate["outcome"] == Outcome.FAILED for gate in trial["slow"]) for trial in trials]
    same = [all(gate["outcome"] != Outcome.FAILED for gate in trial["same"]) for trial in trials]
    words = {
        name: {
            gate: Counter(str(trial[name][i]["outcome"]) for trial in trials)
            for i, gate in enumerate(GATES)
        }
        for name in ("slow", "same")
    }
    return {
        "trials": len(trials),
        "gates": GATES,
        "slowed_by": SLOWED,
        "slowed_called_worse": sum(slow),
        "unchanged_not_called_worse": sum(same),
        "outcomes": words,
        "met": min(sum(slow), sum(same)) >= 0.9 * len(trials),
        "took_s": took_s,
        "each": trials,
    }


if __name__ == "__main__":
    sys.exit(main())
