"""What telemetry costs: `python benchmarks/bench_telemetry.py [EXPOSITION]`.

Prints, for one exposition (a real vLLM's, if a path is given; else one made of as many lines): CPU of recording a scrape, bytes on disk an
hour, the whole parse against prometheus-client's alone, and the CPU share of the recorder process with two endpoints at 1 Hz. Where gcc is
there, also with 8 boards of the NVML double (instant power at 10 Hz, counter at 1 Hz and 2.4 ms a read). CPU time is what counts, so other
work on the machine disturbs the figures little.
"""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow as pa
from prometheus_client.parser import text_string_to_metric_families

from harness.artifacts import tables
from harness.artifacts.expositions import write_samples
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.core.records import Endpoint, Gpu
from harness.profile.schema import Telemetry
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.live import LiveReader
from harness.telemetry.scrape import MetricsClient

SCRAPES = 200
WARM_UP = 5  # first uses: Arrow imports pandas here (the recorder keeps it from that), the live figures learn their names
DOUBLE = Path(__file__).parents[1] / "tests" / "telemetry" / "nvml_double" / "nvml_double.c"


def synthetic() -> bytes:
    lines = ['vllm:num_requests_running{engine="0",model_name="m"} 3.0', 'vllm:generation_tokens_total{engine="0",model_name="m"} 100.0']
    lines += [
        f'vllm:h{h}_seconds_bucket{{engine="0",le="{b / 7:.4f}",model_name="some/model-name"}} {b * h}.0'
        for h in range(26)
        for b in range(25)
    ]
    return ("\n".join(lines) + "\n").encode()


def serve(body: bytes) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def recording(body: bytes, url: str, folder: Path) -> Path:
    """CPU of this thread alone: fetching (client side), compressing, journalling, live figures."""
    client, reader = MetricsClient("replica-0", url, 5.0), LiveReader()
    run = RunDir(folder / "recording")
    steps = dict.fromkeys(("fetch", "live figures", "compress", "journal"), 0.0)
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
            row = {"t_ns": scrape.t_ns, "duration_ns": scrape.duration_ns, "target": "replica-0", "http_status": 200}
            journal.append([row | {"content_type": scrape.content_type, "body_zstd": packed, "body_bytes": len(body)}])
            t.append(time.thread_time())
            for i, step in enumerate(steps if n >= 0 else ()):
                steps[step] += t[i + 1] - t[i]
    client.close()
    for step, total_s in steps.items():
        print(f"  {step:<14} {total_s / SCRAPES * 1e3:.3f} ms CPU a scrape")
    together_ms = sum(steps.values()) / SCRAPES * 1e3
    fetch_ms = steps["fetch"] / SCRAPES * 1e3
    print(f"  recording      {together_ms - fetch_ms:.3f} ms CPU a scrape (bar: 1 ms); with the fetch {together_ms:.3f} ms")
    print(f"  on disk        {run.scrapes_journal.stat().st_size / (SCRAPES + WARM_UP) * 3600 / 1e6:.1f} MB an hour at 1 Hz (bar: 30 MB)")
    return run.root


def parsing(body: bytes, root: Path) -> None:
    start = time.process_time()
    for _ in range(50):
        for family in text_string_to_metric_families(body.decode()):
            list(family.samples)
    alone_s = (time.process_time() - start) / 50
    start = time.process_time()
    rows = write_samples(RunDir(root))
    ours_s = (time.process_time() - start) / (SCRAPES + WARM_UP)
    print(f"  whole parse    {ours_s * 1e3:.2f} ms a scrape, {ours_s / alone_s:.2f} x prometheus-client's parser (bar: 1.2), {rows} rows")


def process_share(url: str, folder: Path, gpus: tuple[Gpu, ...], seconds: float = 10.0) -> None:
    with TelemetryRecorder(RunDir(folder), Telemetry(), gpus) as recorder:
        recorder.add_targets([Endpoint(f"replica-{i}", "http://x", "m", url) for i in range(2)])
        recorder.scrape_now("ready")
        assert recorder.pid is not None
        process = psutil.Process(recorder.pid)
        used = process.cpu_times()
        start = time.perf_counter()
        time.sleep(seconds)
        now = process.cpu_times()
        share = (now.user + now.system - used.user - used.system) / (time.perf_counter() - start)
    print(f"  2 endpoints at 1 Hz, {len(gpus)} boards: {share:.1%} of one core, {len(psutil.pids())} processes on the host (bar: 5 %)")


def main() -> None:
    body = Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else synthetic()
    print(f"exposition of {len(body.splitlines())} lines, {len(body)} bytes")
    server = serve(body)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parsing(body, recording(body, url, folder))
        process_share(url, folder / "no-gpu", ())
        compiler = shutil.which("gcc")
        if compiler is None:
            print("  no gcc: the NVML double was not built")
            return
        library = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, DOUBLE], check=True)
        os.environ |= {"LD_LIBRARY_PATH": str(folder), "NVML_DOUBLE_GPUS": "8", "NVML_DOUBLE_COUNTER_LATENCY_US": "2400"}
        process_share(url, folder / "gpu", tuple(Gpu(f"GPU-d0ub1e00-0000-0000-0000-{i:012d}", i) for i in range(8)))
    server.shutdown()


if __name__ == "__main__":
    main()
