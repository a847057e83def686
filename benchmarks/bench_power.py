"""What sampling power costs and how late it is: `python benchmarks/bench_power.py [SECONDS]`.

The recorder reads 8 boards of the NVML double (instant power at 10 Hz, the counter at 1 Hz and 2.4
ms a read, state at 1 Hz) and scrapes two endpoints of 55 kB at 1 Hz: alone, then beside busy
processes on every core, then so without permission to raise its priority (for information). Bars:
under 5 % of a core in all, and p99 of the samples' lateness under 20 ms beside the busy processes.
Lateness is told by the recorder itself: when a loop's step began after its moment.
"""

import ctypes
import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.core.clock import now_ns, seconds
from harness.core.records import Endpoint, Gpu
from harness.profile.telemetry import Telemetry
from harness.telemetry.driver import TelemetryRecorder

DOUBLE = Path(__file__).parents[1] / "tests" / "telemetry" / "nvml_double" / "nvml_double.c"
BOARDS = 8
BAR_CPU = 0.05
BAR_LATE_S = 0.020
PR_CAPBSET_DROP, CAP_SYS_NICE = 24, 23  # linux/prctl.h, linux/capability.h
LOOPS = ("nvml-power", "nvml-energy")


def exposition() -> bytes:
    """As many lines and bytes as a real vLLM's."""
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


def serve() -> http.server.ThreadingHTTPServer:
    body = exposition()

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


def measure(folder: Path, url: str, length_s: float, busy: int) -> dict[str, object]:
    gpus = [Gpu(f"GPU-d0ub1e00-0000-0000-0000-{index:012d}", index) for index in range(BOARDS)]
    run = RunDir(folder / f"busy-{busy}")
    recorder = TelemetryRecorder(run, Telemetry(), gpus).start()
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        recorder.add_targets([Endpoint(f"replica-{n}", url, "m", url) for n in range(2)])
        assert recorder.pid is not None
        process = psutil.Process(recorder.pid)
        threading.Event().wait(3)  # imports and first uses
        before, start_ns = process.cpu_times(), now_ns()
        threading.Event().wait(length_s)
        after, took_s = process.cpu_times(), seconds(now_ns() - start_ns)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
        recorder.stop()
    loops = recorder.sampling["loops"]
    cpu = (after.user - before.user + after.system - before.system) / took_s
    return {
        "busy_processes": busy,
        "recorder_nice": recorder.nice,
        "realtime": {name: loops[name]["realtime"] for name in LOOPS},
        "cpu_share_of_a_core": round(cpu, 4),
        "late_p50_ms": {name: round(loops[name]["late_p50_s"] * 1e3, 2) for name in LOOPS},
        "late_p99_ms": {name: round(loops[name]["late_p99_s"] * 1e3, 2) for name in LOOPS},
        "late_max_ms": {name: round(loops[name]["late_max_s"] * 1e3, 2) for name in LOOPS},
        "power_calls": loops["nvml-power"]["calls"],
        "power_calls_expected": round((length_s + 3) / 0.1),
        "power_rows": finalize(run).power,
        "failures": recorder.sampling["failures"],
    }


def main() -> int:
    length_s = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        print(json.dumps({"skipped": "no C compiler for the NVML double"}))
        return 0
    server = serve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, DOUBLE], check=True)
        os.environ.update(
            LD_LIBRARY_PATH=name,
            NVML_DOUBLE_GPUS=str(BOARDS),
            NVML_DOUBLE_COUNTER_LATENCY_US="2400",
        )
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        cores = len(os.sched_getaffinity(0))
        alone, crowded = (measure(folder, url, length_s, busy) for busy in (0, cores))
        ctypes.CDLL(None).prctl(
            PR_CAPBSET_DROP, CAP_SYS_NICE, 0, 0, 0
        )  # for what is started from here on
        unprivileged = measure(folder / "unprivileged", url, length_s, cores)
    server.shutdown()
    late_s = max(crowded["late_p99_ms"].values()) / 1e3
    print(
        json.dumps(
            {
                "boards": BOARDS,
                "power_hz": 10,
                "counter_hz": 1,
                "endpoints_at_1_hz": 2,
                "length_s": length_s,
                "alone": alone,
                "beside_busy_processes": crowded,
                "beside_busy_processes_without_permission": unprivileged,
                "bar_cpu_share": BAR_CPU,
                "bar_late_p99_ms": BAR_LATE_S * 1e3,
                "cpu_within_bar": (
                    max(alone["cpu_share_of_a_core"], crowded["cpu_share_of_a_core"]) < BAR_CPU
                ),
                "lateness_within_bar": late_s < BAR_LATE_S,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
