"""How large the report of a long run is, how long it takes to write, and how long a browser takes
to draw it. Prints JSON.

    python benchmarks/bench_report.py
    python benchmarks/bench_report.py --hours 4 --keep /tmp/run

Bars: report.html of a run of one hour below 3 MB, drawn in under 2 s by headless Chromium.

The run directory is made here: three load stages of equal length, 72,000 requests an hour of three
classes, a tenth of them with their chunks, 8 boards read at 10 Hz with their counters and clocks at
1 Hz, one of them held back by heat for a while, and vLLM's counters, gauges and histograms at 1 Hz.
`report` is a fresh `harness report`, imports included: wall time and its largest resident size.

`drawn_s` is the page's own clock, which starts with its navigation, at the second frame after its
load event; every chart has its lines then, or the benchmark fails. `painted_s` is the wall time
until a picture of the whole page, 1,100 pixels wide, has come back: an upper bound, for a browser
paints what is below the fold only when somebody scrolls there. Both are medians of `--repeats`
loads, the first of which finds nothing cached; light and dark, desk and phone take their turns.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.tables import BOARDS, HOST, POWER, REQUESTS, SAMPLES

ROOT = Path(__file__).resolve().parents[1]
NS = 1_000_000_000
HOUR_S = 3600.0
RATES = (10.0, 20.0, 30.0)
"""New requests per second, stage by stage."""
CLASSES = ("claude-code/main", "claude-code/subagent", "chat")
BOARD_COUNT = 8
CHUNKS = 50
WARMUP_S = 60.0
BAR_BYTES = 3_000_000
BAR_DRAWN_S = 2.0
LES = ("0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf")


def make_run(root: Path, hours: float, seed: int = 1) -> int:
    """A finished run directory; returns how many requests it has."""
    rng = np.random.default_rng(seed)
    run = RunDir(root)
    root.mkdir(parents=True, exist_ok=True)
    run.scrapes_dir.mkdir()
    stage_s = hours * HOUR_S / len(RATES)
    names = [f"{i}-{rate:g}-per-s" for i, rate in enumerate(RATES)]
    load = [
        {
            "name": name,
            "kind": "arrival_rate",
            "rate_per_s": rate,
            "warmup_s": WARMUP_S,
            "window_s": stage_s - WARMUP_S - 5,
        }
        for name, rate in zip(names, RATES, strict=True)
    ]
    profile = {
        "name": "bench-report",
        "purpose": "measure",
        "slos": {"ttft_s": 1.0, "tpot_s": 0.05},
        "seed": seed,
        "model": {"id": "llama-3.1-8b"},
        "price": {"usd_per_gpu_h": 2.5, "source": "a list", "date": "2026-08"},
        "server": {"kind": "vllm", "gpu_count": BOARD_COUNT},
        "telemetry": {"scrape_interval_s": 1.0},
        "traffic": {"api": "messages", "workload": {"kind": "claude-code"}, "load": load},
    }
    gpus = [
        {
            "uuid": f"GPU-{i}",
            "index": i,
            "name": "NVIDIA H100 80GB HBM3",
            "memory_bytes": 80 * 1024**3,
            "power_limit_w": 700.0,
            "power_limit_default_w": 700.0,
            "sm_clock_max_mhz": 1980,
        }
        for i in range(BOARD_COUNT)
    ]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "run_id": "bench-report",
        "state": "complete",
        "started_ns": 0,
        "ended_ns": int(hours * HOUR_S * NS),
        "profile": profile,
        "plan": {"output_length": "natural", "context_scale": 1.0},
        "hardware": {"gpus": gpus, "cpu": {"usable_cores": 64, "logical_cores": 64}},
        "server": {"kind": "vllm", "version": "0.11"},
        "model": {"model_id": "llama-3.1-8b", "max_context_tok": 131_072},
        "endpoints": [{"name": "replica-0", "gpu_uuids": [gpu["uuid"] for gpu in gpus]}],
    }
    run.manifest.write_text(json.dumps(manifest))
    parts, events = [], []
    for i, (name, rate) in enumerate(zip(names, RATES, strict=True)):
        start = int(i * stage_s * NS)
        window = {
            "window_start_ns": start + int(WARMUP_S * NS),
            "window_end_ns": start + int((stage_s - 5) * NS),
        }
        end = start + int(stage_s * NS)
        events += [
            {
                "event": "stage_started",
                "t_ns": start,
                "stage": name,
                "index": i,
                "start_ns": start,
                **window,
            },
            {
                "event": "stage_ended",
                "t_ns": end,
                "stage": name,
                "end_ns": end,
                "window_end_ns": window["window_end_ns"],
                "turns_not_happened": 0,
                "turns_cut": 0,
            },
        ]
        parts.append(
            _requests(rng, name, start, int(rate * stage_s), rate, sum(len(part) for part in parts))
        )
    run.events.write_text("".join(json.dumps(event) + "\n" for event in events))
    requests = pa.concat_tables(parts)
    pq.write_table(requests, run.requests, compression="zstd")
    _power(rng, run, hours * HOUR_S)
    _server(run, requests, hours * HOUR_S)
    _host(run, hours * HOUR_S)
    return len(requests)


def _requests(
    rng: np.random.Generator, stage: str, start_ns: int, n: int, rate: float, at: int
) -> pa.Table:
    number = np.arange(at, at + n)
    intended = (
        start_ns + (np.arange(n) / rate * NS).astype(np.int64) + rng.integers(0, 50_000_000, n)
    )
    sent = intended + rng.integers(10_000, 1_000_000, n)
    first = sent + (rng.gamma(4, 0.02 + rate / 1000, n) * NS).astype(np.int64)
    failed = rng.random(n) < 0.002
    detailed = (number % 10 == 0) & ~failed
    gaps_us = rng.gamma(3, 5_000 + 100 * rate, (int(detailed.sum()), CHUNKS)).astype(np.uint32)
    gaps_us[:, 0] = 0
    took_us = rng.gamma(40, 20_000, n).astype(np.int64)
    took_us[detailed] = gaps_us.sum(axis=1)
    last = first + took_us * 1000
    offsets = pa.array(
        np.concatenate([[0], np.cumsum(np.where(detailed, CHUNKS, 0))]).astype(np.int32)
    )
    flat = pa.array(gaps_us.ravel(), pa.uint32())

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values, mask=pa.array(~detailed))

    def unless_failed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=failed)

    output_tok = np.where(detailed, CHUNKS, rng.integers(20, 80, n))
    input_tok = rng.integers(5_000, 40_000, n)
    ids = pa.array(number // 4).cast(pa.string())
    turn = number % 4
    columns: dict[str, Any] = {
        "request_id": pa.compute.binary_join_element_wise(
            ids, pa.array(turn).cast(pa.string()), "/"
        ),
        "session_id": ids,
        "turn": turn.astype(np.int32),
        "class": pa.array(np.array(CLASSES)[rng.choice(3, n, p=(0.6, 0.3, 0.1))]),
        "stage": pa.array([stage] * n),
        "replica": pa.array(["replica-0"] * n),
        "worker": np.zeros(n, np.int32),
        "intended_ns": intended,
        "sent_ns": sent,
        "first_byte_ns": unless_failed(first - 1000, pa.int64()),
        "first_token_ns": unless_failed(first, pa.int64()),
        "last_token_ns": unless_failed(last, pa.int64()),
        "done_ns": last + 50_000,
        "outcome": pa.array(np.where(failed, "timeout_first_byte", "ok")),
        "http_status": unless_failed(np.full(n, 200, np.int32), pa.int32()),
        "retry_after_s": pa.nulls(n, pa.float64()),
        "error": pa.array(np.where(failed, "no byte after 60 s", ""), mask=~failed),
        "stop_reason": pa.array(np.array(["tool_use"] * n), mask=failed),
        "content_kinds": pa.array([["text"]] * n, pa.list_(pa.string())),
        "target_input_tok": input_tok,
        "target_output_tok": output_tok,
        "input_tok": unless_failed(input_tok, pa.int64()),
        "cache_read_tok": unless_failed(input_tok * 4 // 5, pa.int64()),
        "cache_write_tok": pa.nulls(n, pa.int64()),
        "output_tok": unless_failed(output_tok, pa.int64()),
        "request_bytes": input_tok * 4,
        "response_bytes": output_tok * 100,
        "chunk_dt_us": lists(flat),
        "chunk_bytes": lists(pa.array(np.full(len(flat), 4, np.uint32))),
        "chunk_tok": lists(pa.array(np.ones(len(flat), np.uint32))),
        "notes": pa.nulls(n, REQUESTS.field("notes").type),
    }
    return pa.table(columns, schema=REQUESTS)


def _power(rng: np.random.Generator, run: RunDir, length_s: float) -> None:
    fast, slow = np.arange(0, length_s, 0.1), np.arange(0, length_s, 1.0)
    tables, boards = [], []
    for gpu in range(BOARD_COUNT):
        watts = (
            350
            + 80 * np.sin(fast / 200 + gpu)
            + rng.normal(0, 15, len(fast))
            + 60 * (fast / length_s)
        )
        joules = np.cumsum(watts)[::10] * 0.1 + 7e5
        for t, kind, w, j in (
            (fast, "nvml-instant", watts, None),
            (slow, "nvml-counter", None, joules),
        ):
            empty = pa.nulls(len(t), pa.float64())
            tables.append(
                pa.table(
                    {
                        "t_ns": (t * NS).astype(np.int64),
                        "boundary": ["gpu_board"] * len(t),
                        "device_id": [f"GPU-{gpu}"] * len(t),
                        "power_w": empty if w is None else w,
                        "energy_j": empty if j is None else j,
                        "source": [kind] * len(t),
                    },
                    schema=POWER,
                )
            )
        hot = (gpu == 3) & (slow > 0.45 * length_s) & (slow < 0.5 * length_s)
        n = len(slow)
        boards.append(
            pa.table(
                {
                    "t_ns": (slow * NS).astype(np.int64),
                    "device_id": [f"GPU-{gpu}"] * n,
                    "sm_clock_mhz": np.where(hot, 1200, 1830),
                    "mem_clock_mhz": np.full(n, 2619),
                    "temperature_c": np.where(hot, 88.0, 61.0),
                    "memory_temperature_c": np.full(n, 70.0),
                    "power_limit_w": np.full(n, 700.0),
                    "utilization_ratio": np.full(n, 0.97),
                    "memory_used_bytes": np.full(n, 70 * 1024**3),
                    "throttle_reasons": np.where(hot, 0x40, 0),
                    "ecc_uncorrected": np.zeros(n, np.int64),
                    "foreign_processes": np.zeros(n, np.int64),
                    "xid": pa.nulls(n, pa.int64()),
                },
                schema=BOARDS,
            )
        )
    pq.write_table(pa.concat_tables(tables), run.power, compression="zstd")
    pq.write_table(pa.concat_tables(boards), run.boards, compression="zstd")


def _server(run: RunDir, requests: pa.Table, length_s: float) -> None:
    """vLLM's counters, as they follow from the requests."""
    ok = requests.filter(pa.compute.equal(requests["outcome"], "ok"))
    first = ok["first_token_ns"].to_numpy()
    done = ok["done_ns"].to_numpy()
    at = (np.arange(0, length_s + 31, 1.0) * NS).astype(
        np.int64
    )  # until the last answers have drained

    def total(column: str, moment: np.ndarray) -> np.ndarray:
        order = np.argsort(moment)
        sums = np.concatenate([[0.0], np.cumsum(ok[column].to_numpy()[order])])
        return np.asarray(sums[np.searchsorted(moment[order], at)])

    answered = np.searchsorted(np.sort(done), at)
    started = np.searchsorted(np.sort(ok["sent_ns"].to_numpy()), at)
    hits = total("cache_read_tok", first)
    prompts = total("input_tok", first)
    series: dict[tuple[str, str], np.ndarray] = {
        ("up", "{}"): np.ones(len(at)),
        ("vllm:generation_tokens_total", "{}"): total("output_tok", done),
        ("vllm:prompt_tokens_total", "{}"): prompts,
        ("vllm:prefix_cache_hits_total", "{}"): hits,
        ("vllm:prefix_cache_queries_total", "{}"): prompts,
        ("vllm:num_requests_running", "{}"): started - answered,
        ("vllm:num_requests_waiting", "{}"): np.maximum(0, started - answered - 25),
        ("vllm:kv_cache_usage_perc", "{}"): np.clip((started - answered) / 60, 0, 1),
        ("vllm:num_preemptions_total", "{}"): np.zeros(len(at)),
        ("vllm:request_success_total", '{"finished_reason":"stop"}'): answered,
    }
    ttft = (first - ok["sent_ns"].to_numpy()) / NS
    order = np.argsort(first)
    came = np.searchsorted(first[order], at)
    for le in LES:
        below = np.concatenate([[0], np.cumsum(ttft[order] <= float(le))])
        series["vllm:time_to_first_token_seconds_bucket", f'{{"le":"{le}"}}'] = below[came]
    series["vllm:time_to_first_token_seconds_sum", "{}"] = np.concatenate(
        [[0.0], np.cumsum(ttft[order])]
    )[came]
    series["vllm:time_to_first_token_seconds_count", "{}"] = came
    marks = pa.table(
        {
            "t_ns": at[[0, -1]],
            "target": ["replica-0"] * 2,
            "metric": ["harness_scrape_label"] * 2,
            "labels": [
                f'{{"label":"{label}"}}' for label in ("first_after_ready", "last_after_drain")
            ],
            "value": [1.0, 1.0],
        }
    )
    tables = [
        pa.table(
            {
                "t_ns": at,
                "target": ["replica-0"] * len(at),
                "metric": [name] * len(at),
                "labels": [labels] * len(at),
                "value": values.astype(float),
            }
        )
        for (name, labels), values in series.items()
    ]
    pq.write_table(
        pa.concat_tables([*tables, marks]).cast(SAMPLES), run.samples, compression="zstd"
    )


def _host(run: RunDir, length_s: float) -> None:
    t = np.arange(0, length_s, 1.0)
    tables = []
    for scope, cores in (("host", 9.0), ("traffic:0", 0.4), ("server:replica-0", 8.0)):
        tables.append(
            pa.table(
                {
                    "t_ns": (t * NS).astype(np.int64),
                    "scope": [scope] * len(t),
                    "cpu_s": 10 + cores * t,
                    "cpus": pa.array([64.0 if scope == "host" else None] * len(t), pa.float64()),
                    "rss_bytes": np.full(len(t), 2 * 1024**3),
                    "processes": np.full(len(t), 3, np.int32),
                    "net_rx_bytes": pa.nulls(len(t), pa.int64()),
                    "net_tx_bytes": pa.nulls(len(t), pa.int64()),
                },
                schema=HOST,
            )
        )
    pq.write_table(pa.concat_tables(tables), run.host, compression="zstd")


def reported(root: Path) -> dict[str, Any]:
    """One `harness report` of a run directory: its time and its largest resident size."""
    before_s = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "report", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)  # of this child alone
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(said.decode()[-2000:])
    wall_s = time.perf_counter() - before_s
    return {
        "wall_s": round(wall_s, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "rss_max_mb": round(usage.ru_maxrss / 1e3, 1),
    }


_DRAWN = """new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
  const shown = [...document.querySelectorAll('figure.chart > div > svg')].filter(s => s.getBoundingClientRect().width > 0);
  const empty = shown.filter(s => ![...s.querySelectorAll('.mark-line path')].some(p => p.getTotalLength() > 20));
  done({at_ms: performance.now(), shown: shown.length, charts: document.querySelectorAll('figure.chart').length, empty: empty.length});
})))"""


def drawn(page: Any, html: Path, repeats: int) -> dict[str, Any]:
    """Times until the page is drawn."""
    drawn_s, painted_s = [], []
    found: dict[str, Any] = {}
    for i in range(repeats):
        before_s = time.perf_counter()
        page.open(
            html,
            width=390 if i % 4 == 3 else 1100,
            mobile=i % 4 == 3,
            theme="dark" if i % 2 else "light",
        )
        answer = page.call(
            "Runtime.evaluate", expression=_DRAWN, returnByValue=True, awaitPromise=True
        )
        found = answer["result"]["value"]
        if (
            found["empty"]
            or found["shown"] != found["charts"]
            or not found["charts"]
            or page.complaints
        ):
            raise RuntimeError(f"not all charts are drawn: {found}, {page.complaints}")
        drawn_s.append(found["at_ms"] / 1e3)
        with tempfile.NamedTemporaryFile(suffix=".png") as picture:
            page.screenshot(Path(picture.name))
        painted_s.append(time.perf_counter() - before_s)
    return {
        "charts": found["charts"],
        "drawn_s": round(statistics.median(drawn_s), 3),
        "drawn_max_s": round(max(drawn_s), 3),
        "painted_s": round(statistics.median(painted_s), 3),
        "loads": repeats,
    }


def _browser() -> ModuleType:
    """The tests' browser; folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(
        "report_browser", ROOT / "tests" / "report" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["report_browser"] = module
    spec.loader.exec_module(module)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--keep",
        type=Path,
        help="make the run directory here and leave it; one that is there is used again",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = args.keep or Path(folder) / "run"
        requests = (
            pq.read_metadata(RunDir(root).requests).num_rows
            if root.exists()
            else make_run(root, args.hours)
        )
        report = reported(root)
        html = RunDir(root).report_html
        size = html.stat().st_size
        with _browser().browser(Path(folder) / "chromium") as page:
            seen = drawn(page, html, args.repeats)
        beside = sum(file.stat().st_size for file in (root / "report-charts").iterdir())
    bars = {"below_3_mb": size < BAR_BYTES, "drawn_below_2_s": seen["drawn_s"] < BAR_DRAWN_S}
    result = {
        "cpus": os.cpu_count(),
        "browser": _version(),
        "hours": args.hours,
        "requests": requests,
        "boards": BOARD_COUNT,
        "report": report,
        "html_bytes": size,
        "charts_bytes": beside,
        **seen,
        "bars": bars,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def _version() -> str | None:
    chromium = next(
        filter(
            None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))
        ),
        None,
    )
    if chromium is None:
        return None
    return (
        subprocess.run(
            [chromium, "--version"], capture_output=True, text=True, check=False
        ).stdout.strip()
        or None
    )


if __name__ == "__main__":
    sys.exit(main())
