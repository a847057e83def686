"""What a streamed token costs the load generator, and how wrong its clock gets, against the paced
server's truth. Prints JSON.

    python benchmarks/bench_client.py --streams 100 --gap-ms 20 --ttft-ms 100 --tokens 128

Cost is the slope of the CPU time of all Locust processes between two numbers of requests, so that
start-up does not count. Errors are paired: each token's time in the client's record minus the time
just before the server wrote it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.artifacts.journal import read_table
from harness.artifacts.layout import RunDir
from harness.artifacts.tables import REQUESTS
from harness.core.clock import now_ns
from harness.core.progress import TrafficProgress
from harness.core.records import Endpoint, ModelFacts
from harness.plan.build import make_plan
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL, Pace, PacedServer, token_bytes
from harness.traffic.driver import LocustDriver
from harness.traffic.events import TrafficEvent


def cpu_s(pid: int) -> float:
    """User and system time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_bytes(pid: int) -> int:
    """Largest resident size of one process so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def quantile(values: list[float], share: float) -> float | None:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def quantiles(values: list[float]) -> dict[str, float | None]:
    """p50, p99 and the largest, to a thousandth."""
    named = {
        "p50": quantile(values, 0.5),
        "p99": quantile(values, 0.99),
        "max": max(values, default=None),
    }
    return {name: None if value is None else round(value, 4) for name, value in named.items()} | {
        "n": len(values)
    }


def one_run(args: argparse.Namespace, requests: int) -> dict[str, Any]:
    """One run of so many requests."""
    load: dict[str, Any] = {"sessions": requests, "max_in_flight": 100_000}
    load |= (
        {"kind": "arrival_rate", "rate_per_s": args.rate}
        if args.rate
        else {"kind": "concurrency", "concurrency": args.streams}
    )
    workload = {
        "kind": "chat",
        "system_tok": args.head_tok,
        "user_tok": 20,
        "output_tok": args.tokens,
        "turns": 1,
        "think_s": 0,
        "context_limit_tok": args.head_tok + 10_000,
    }
    profile = Profile.model_validate(
        {
            "purpose": "smoke",
            "model": {"id": MODEL},
            "server": {"kind": "attach", "urls": ["http://127.0.0.1:1"]},
            "traffic": {"api": args.api, "workload": workload, "load": [load], "context_scale": 1},
        }
    )
    facts = ModelFacts(MODEL, tok_per_word=1.35)
    plan = make_plan(profile, facts)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        truth = Path(folder) / "truth.jsonl"
        lag: list[float] = []
        loop_lag: list[float] = []

        def on_event(event: TrafficEvent) -> None:
            if isinstance(event, TrafficProgress):
                loop_lag.append(event.loop_lag_s * 1000)

        with PacedServer(Pace(ttft_ms=args.ttft_ms, gap_ms=args.gap_ms), truth) as server:
            endpoint = Endpoint("replica-0", server.url, MODEL)
            with LocustDriver(
                profile, facts, plan, [endpoint], run_dir, workers=args.workers, on_event=on_event
            ) as driver:
                driver.start()
                driver.go(now_ns() + 1_000_000_000)
                while not driver.wait(1):
                    pass
                client_cpu_s = sum(cpu_s(pid) for pid in driver.pids().values())
                rss = max(rss_bytes(pid) for pid in driver.pids().values())
            server_cpu_s = cpu_s(server.pid)
            server.stop()
            true = {line["request_id"]: line for line in server.truth()}
        rows = read_table(sorted(run_dir.requests_dir.iterdir()), REQUESTS).to_pylist()
    first, each, gap = [], [], []
    for row in rows:
        if row["outcome"] != "ok":
            continue
        lag.append((row["sent_ns"] - row["intended_ns"]) / 1e6)
        written = true[row["request_id"]]["content_ns"]
        at_ns, token, errors = row["first_token_ns"], 0, []
        for dt_us, size in zip(row["chunk_dt_us"], row["chunk_bytes"], strict=True):
            at_ns += dt_us * 1000
            left = size
            while left > 0:
                left -= token_bytes(token)
                errors.append((at_ns - written[token]) / 1e6)
                token += 1
        assert token == len(written), (token, len(written))
        first.append((row["first_token_ns"] - written[0]) / 1e6)
        each += errors
        gap += [abs(b - a) for a, b in pairwise(errors)]
    outcomes: dict[str, int] = {}
    for row in rows:
        outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + 1
    return {
        "requests": requests,
        "outcomes": outcomes,
        "body_bytes": max(row["request_bytes"] for row in rows),
        "client_cpu_s": round(client_cpu_s, 3),
        "server_cpu_s": round(server_cpu_s, 3),
        "tokens": len(each),
        "ttft_error_ms": quantiles(first),
        "token_error_ms": quantiles(each),
        "gap_error_ms": quantiles(gap),
        "send_lag_ms": quantiles(lag),
        "loop_lag_max_ms": round(max(loop_lag, default=0), 3),
        "rss_max_mb": round(rss / 1e6, 1),
    }


def floor(args: argparse.Namespace, requests: tuple[int, int]) -> float:
    """CPU microseconds a token of a minimal C client in the same load, by the same slope."""
    with tempfile.TemporaryDirectory() as folder:
        binary, request = Path(folder) / "floor_client", Path(folder) / "request"
        source = Path(__file__).with_name("floor_client.c")
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(binary), str(source)], check=True
        )
        body = json.dumps(
            {"model": MODEL, "max_tokens": args.tokens, "stream": True, "messages": []}
        )
        path = "/v1/messages" if args.api == "messages" else "/v1/chat/completions"
        request.write_text(
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        )
        cpu = []
        for count in requests:
            with PacedServer(Pace(ttft_ms=args.ttft_ms, gap_ms=args.gap_ms)) as server:
                command = [
                    str(binary),
                    server.url.rpartition(":")[2],
                    str(args.streams),
                    str(count),
                    str(request),
                ]
                cpu.append(
                    json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[
                        "cpu_s"
                    ]
                )
    return (cpu[1] - cpu[0]) / ((requests[1] - requests[0]) * args.tokens) * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--api", default="messages", choices=["messages", "chat"])
    parser.add_argument("--streams", type=int, default=100, help="live streams of a closed loop")
    parser.add_argument(
        "--rate", type=float, help="instead: an open loop of this many requests a second"
    )
    parser.add_argument("--ttft-ms", type=float, default=100)
    parser.add_argument("--gap-ms", type=float, default=20)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--head-tok", type=int, default=100, help="110000 makes bodies of about half a megabyte"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--requests",
        type=int,
        nargs=2,
        default=(400, 1200),
        help="numbers of requests of the two runs",
    )
    parser.add_argument(
        "--floor",
        action="store_true",
        help="run a minimal C client in the same load as well (needs gcc)",
    )
    args = parser.parse_args()
    floor_us = floor(args, tuple(args.requests)) if args.floor and not args.rate else None
    few, many = (one_run(args, requests) for requests in args.requests)
    tokens = many["tokens"] - few["tokens"]
    client_us = (many["client_cpu_s"] - few["client_cpu_s"]) / tokens * 1e6 if tokens else None
    result = {
        "settings": vars(args),
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
        },
        "client_us_per_token": None if client_us is None else round(client_us, 2),
        "floor_us_per_token": None if floor_us is None else round(floor_us, 2),
        "client_over_floor": (
            None if floor_us is None or client_us is None else round(client_us / floor_us, 2)
        ),
        "server_us_per_token": (
            round((many["server_cpu_s"] - few["server_cpu_s"]) / tokens * 1e6, 2)
            if tokens
            else None
        ),
        "runs": [few, many],
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
