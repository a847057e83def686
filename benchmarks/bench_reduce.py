"""How long `harness reduce` takes on large runs, and how much memory. Prints JSON.

    python benchmarks/bench_reduce.py                         10,000 and 10,000,000 requests
    python benchmarks/bench_reduce.py --rows 1000000

The run directory is made here: an hour of answered requests of two classes, a tenth of them with
their chunks, and power at 10 Hz. Time and the largest resident size are those of a fresh
`harness reduce --json`, imports included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.tables import POWER, REQUESTS

RUN_S = 3600.0
CHUNKS = 50
PART_ROWS = 200_000
NS = 1_000_000_000


def make_run(root: Path, rows: int, seed: int = 1) -> None:
    """A run directory of so many requests, written part by part."""
    rng = np.random.default_rng(seed)
    run = RunDir(root)
    root.mkdir(parents=True, exist_ok=True)
    stage = {
        "name": "steady",
        "kind": "arrival_rate",
        "rate_per_s": rows / RUN_S,
        "warmup_s": 60.0,
        "window_s": RUN_S - 120,
    }
    profile = {
        "name": "bench-reduce",
        "purpose": "smoke",
        "slos": {"ttft_s": 1.0, "tpot_s": 0.05},
        "traffic": {"load": [stage]},
        "server": {"gpu_count": 1},
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "bench-reduce",
        "state": "complete",
        "started_ns": 0,
        "profile": profile,
        "plan": {"output_length": "natural", "context_scale": 1.0},
    }
    (root / "manifest.json").write_text(json.dumps(manifest))
    window = {"window_start_ns": 60 * NS, "window_end_ns": int((RUN_S - 60) * NS)}
    events = [
        {
            "event": "stage_started",
            "t_ns": 0,
            "stage": "steady",
            "index": 0,
            "start_ns": 0,
            **window,
        },
        {
            "event": "stage_ended",
            "t_ns": int(RUN_S * NS),
            "stage": "steady",
            "end_ns": int(RUN_S * NS),
            "window_end_ns": window["window_end_ns"],
            "turns_not_happened": 0,
            "turns_cut": 0,
        },
    ]
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    with pq.ParquetWriter(run.requests, REQUESTS, compression="zstd") as writer:
        for at in range(0, rows, PART_ROWS):
            writer.write_table(_part(rng, at, min(PART_ROWS, rows - at), rows))
    t = np.arange(0, RUN_S, 0.1)
    power = pa.table(
        {
            "t_ns": (t * NS).astype(np.int64),
            "boundary": ["gpu_board"] * len(t),
            "device_id": ["GPU-0"] * len(t),
            "power_w": 400 + 50 * np.sin(t),
            "energy_j": pa.nulls(len(t), pa.float64()),
            "source": ["nvml-instant"] * len(t),
        },
        schema=POWER,
    )
    pq.write_table(power, run.power)


def _part(rng: np.random.Generator, at: int, n: int, rows: int) -> pa.Table:
    number = np.arange(at, at + n)
    intended = (number / rows * (RUN_S - 20) * NS).astype(np.int64) + rng.integers(0, 1_000_000, n)
    sent = intended + rng.integers(10_000, 1_000_000, n)
    first = sent + (rng.gamma(4, 0.05, n) * NS).astype(np.int64)
    gaps_us = rng.gamma(3, 7_000, (n // 10 + 1, CHUNKS)).astype(np.uint32)
    gaps_us[:, 0] = 0
    detailed = number % 10 == 0
    took_us = np.where(detailed, 0, rng.gamma(40, 20_000, n)).astype(np.int64)
    took_us[detailed] = gaps_us[: int(detailed.sum())].sum(axis=1)
    last = first + took_us * 1000
    offsets = np.concatenate([[0], np.cumsum(np.where(detailed, CHUNKS, 0))]).astype(np.int32)
    flat = pa.array(gaps_us[: int(detailed.sum())].ravel(), pa.uint32())
    empty = pa.array(~detailed)

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets), values, mask=empty)

    tok = pa.array(np.ones(len(flat), np.uint32))
    output_tok = np.where(detailed, CHUNKS, rng.integers(20, 80, n))
    input_tok = rng.integers(500, 4000, n)
    session = number // 4
    ids = pa.array(session).cast(pa.string())
    turn = number % 4
    columns: dict[str, Any] = {
        "request_id": pa.compute.binary_join_element_wise(
            ids, pa.array(turn).cast(pa.string()), "/"
        ),
        "session_id": ids,
        "turn": turn.astype(np.int32),
        "class": pa.array(np.where(number % 3 == 0, "agent", "chat")),
        "stage": pa.array(["steady"] * n),
        "replica": pa.array(["replica-0"] * n),
        "worker": np.zeros(n, np.int32),
        "intended_ns": intended,
        "sent_ns": sent,
        "first_byte_ns": first - 1000,
        "first_token_ns": first,
        "last_token_ns": last,
        "done_ns": last + 50_000,
        "outcome": pa.array(["ok"] * n),
        "http_status": np.full(n, 200, np.int32),
        "retry_after_s": pa.nulls(n, pa.float64()),
        "error": pa.nulls(n, pa.string()),
        "stop_reason": pa.array(["end_turn"] * n),
        "content_kinds": pa.array([["text"]] * n, pa.list_(pa.string())),
        "target_input_tok": input_tok,
        "target_output_tok": output_tok,
        "input_tok": input_tok,
        "cache_read_tok": input_tok // 2,
        "cache_write_tok": pa.nulls(n, pa.int64()),
        "output_tok": output_tok,
        "request_bytes": input_tok * 4,
        "response_bytes": output_tok * 100,
        "chunk_dt_us": lists(flat),
        "chunk_bytes": lists(pa.array(np.full(len(flat), 4, np.uint32))),
        "chunk_tok": lists(tok),
        "notes": pa.nulls(n, REQUESTS.field("notes").type),
    }
    return pa.table(columns, schema=REQUESTS)


def measured(root: Path) -> dict[str, Any]:
    """One `harness reduce` of a run directory."""
    before_s = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "reduce", str(root), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        out, err = child.communicate()
    wall_s = time.perf_counter() - before_s
    if child.returncode:
        raise RuntimeError(err.decode()[-2000:])
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(out)
    return {
        "wall_s": round(wall_s, 2),
        "rss_max_mb": round(usage.ru_maxrss / 1e3, 1),
        "requests": summary["requests"]["ok"],
        "output_tok_s": summary["metrics"]["output_tok_s"]["value"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=(10_000, 10_000_000))
    args = parser.parse_args()
    runs = []
    for rows in sorted(
        args.rows
    ):  # the largest last: the largest resident size is over all children so far
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "run"
            make_run(root, rows)
            runs.append({"rows": rows, "chunks": rows // 10 * CHUNKS, **measured(root)})
    sys.stdout.write(json.dumps({"cpus": os.cpu_count(), "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
