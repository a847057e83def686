"""A real Prometheus in the scraper's place: the same tidy table, the same figures, and nothing left
behind.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import Manifest
from harness.core.clock import NS_PER_S, now_ns, take_anchor
from harness.core.errors import TelemetryError
from harness.core.metric_names import Concept
from harness.core.network import Network
from harness.core.records import Concern, Endpoint
from harness.processes.registry import RunRegistry
from harness.profile.telemetry import Telemetry
from harness.reduce.over_time.counters import ServerCounters, wanted
from harness.reduce.read.run import load_run
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.prometheus.http_api import PrometheusApi
from harness.telemetry.prometheus.server import ManagedPrometheus, configuration

needs_prometheus = pytest.mark.needs("prometheus")
FAST = Telemetry(scrape_interval_s=0.5, scrape_timeout_s=2.0, host_interval_s=2.0)
MANAGED = FAST.model_copy(update={"prometheus": "managed"})
RATE = 1000.0  # tokens a second that the server claims


class ColumnBuilder:
    """An exposition whose counters grow with time between `go` and `hold`, as under steady load.
    `go` again begins again from 0.
    """

    def __init__(self) -> None:
        self.status = 200
        self.keys: set[str | None] = set()
        self._start: float | None = None
        self._end: float | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.keys.add(self.headers.get("Authorization"))
                body = outer.body()
                self.send_response(outer.status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self.endpoint = Endpoint("replica-0", self.base, "m", f"{self.base}/metrics")

    def go(self) -> None:
        self._start, self._end = time.monotonic(), None

    def hold(self) -> float:
        self._end = time.monotonic()
        return self.tokens()

    def tokens(self) -> float:
        end = time.monotonic() if self._end is None else self._end
        return 0.0 if self._start is None else RATE * (end - self._start)

    def body(self) -> bytes:
        tokens = self.tokens()
        lines = [
            "# TYPE vllm:generation_tokens_total counter",
            *(
                f'vllm:generation_tokens_total{{engine="{engine}",model_name="a,b=\\"c\\""}}'
                f" {tokens * (engine + 1):.3f}"
                for engine in (0, 1)
            ),
            "# TYPE vllm:prompt_tokens_total counter",
            f'vllm:prompt_tokens_total{{job="its own",engine="0"}} {tokens * 2:.3f}',
            "# TYPE vllm:num_requests_running gauge",
            'vllm:num_requests_running{engine="0"} 3.0',
            "# TYPE vllm:time_to_first_token_seconds histogram",
            *(
                f'vllm:time_to_first_token_seconds_bucket{{le="{le}"}} {tokens / 10 * k:.0f}'
                for le, k in (("0.5", 0), ("1.0", 1.5), ("+Inf", 2))
            ),
            f"vllm:time_to_first_token_seconds_sum {tokens / 9:.3f}",
            f"vllm:time_to_first_token_seconds_count {tokens / 5:.0f}",
            "nothing_yet NaN",
        ]
        return ("\n".join(lines) + "\n").encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def growing() -> Iterator[ColumnBuilder]:
    server = ColumnBuilder()
    yield server
    server.close()


def rows(run: RunDir) -> list[dict]:
    return pq.read_table(run.samples).to_pylist()


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def counters(run: RunDir) -> ServerCounters:
    samples = load_run(run.root, wanted=wanted).samples
    assert samples is not None
    return ServerCounters(samples)


class Somebodys(ManagedPrometheus):
    """A Prometheus as others run it: labels of the target win, several of them, other names than
    ours.
    """

    def add_targets(self, endpoints) -> None:
        config = configuration(0.5, 0.5, Network(), None)
        host = endpoints[0].base_url.removeprefix("http://")
        static = [{"targets": [host], "labels": {"engine": "of the target", "cluster": "a"}}]
        config["scrape_configs"] = [{"job_name": "vllm", "static_configs": static}]
        (self.run.prometheus_dir / "prometheus.yml").write_text(json.dumps(config))


@needs_prometheus
def test_embedded_managed_and_external_give_the_same_table(
    tmp_path: Path, growing: ColumnBuilder, until
) -> None:
    """One server, one stretch of time, scraped three ways."""
    anchor = take_anchor()
    runs = {name: RunDir(tmp_path / name) for name in ("embedded", "managed", "url")}
    other = Somebodys(RunDir(tmp_path / "other"), interval_s=0.5, timeout_s=0.5, network=Network())
    other.start()
    try:
        other.add_targets([growing.endpoint])
        assert other.pid is not None
        os.kill(other.pid, signal.SIGHUP)  # read the configuration again
        selectors = {"replica-0": f'job="vllm", instance="{growing.base.removeprefix("http://")}"'}
        by_url = FAST.model_copy(update={"prometheus": other.url, "selectors": selectors})
        told: list[Concern] = []
        started_ns = now_ns()
        recorders = {}
        for name, settings in (("embedded", FAST), ("managed", MANAGED), ("url", by_url)):
            runs[name].root.mkdir()
            Manifest(runs[name], {"run_id": name, "started_ns": started_ns})
            recorders[name] = TelemetryRecorder(
                runs[name], settings, on_concern=told.append, anchor=anchor
            ).start()
        try:
            for recorder in recorders.values():
                recorder.add_targets([growing.endpoint])
            for recorder in recorders.values():
                assert recorder.scrape_now("first_after_ready")
            begin_ns = now_ns()
            for recorder in recorders.values():
                assert recorder.scrape_now("before")
            growing.go()
            for name in ("managed", "url"):
                until(lambda name=name: recorders[name].latest().running == 3.0, "live figures")
            middle_ns = now_ns() + NS_PER_S
            until(lambda: now_ns() - middle_ns > 2 * NS_PER_S, "three seconds")
            truth = growing.hold()
            for recorder in recorders.values():
                assert recorder.scrape_now("last_after_drain")
            end_ns = now_ns()
            for recorder in recorders.values():
                assert recorder.scrape_now("after")
        finally:
            for recorder in recorders.values():
                recorder.stop()
    finally:
        other.stop()
    assert told == []
    assert recorders["managed"].prometheus["kind"] == "managed"
    assert recorders["url"].prometheus["version"] == recorders["managed"].prometheus["version"]
    start, middle, end = (float(t_ns - started_ns) for t_ns in (begin_ns, middle_ns, end_ns))
    keys, found, halves = {}, {}, {}
    for name, run in runs.items():
        finalize(run)
        keys[name] = {
            (row["target"], row["metric"], row["labels"])
            for row in rows(run)
            if not row["metric"].startswith("harness_")
        }
        read = counters(run)
        histogram = read.histogram(Concept.TTFT, start, end)
        assert histogram is not None
        found[name] = [
            read.difference(Concept.GENERATED_TOKENS, start, end),
            read.difference(Concept.PROMPT_TOKENS, start, end),
        ]
        found[name] += [histogram.count, histogram.mean_s]
        halves[name] = read.difference(Concept.GENERATED_TOKENS, middle, end)
        assert histogram.p50_bucket_s == (0.5, 1.0)
        marks = [
            key for key in read.samples.marks if key[1] in ("first_after_ready", "last_after_drain")
        ]
        assert len(marks) == 2
        times = sorted(
            row["t_ns"] for row in rows(run) if row["metric"] == "up" and row["value"] == 1
        )
        assert len(times) == len(set(times)), "no scrape is read twice"
        tokens = sorted(
            (row["t_ns"], row["value"])
            for row in rows(run)
            if row["metric"] == "vllm:prompt_tokens_total"
        )
        assert [t for t, _ in tokens] == times, "every sample bears the time of its scrape"
    assert keys["managed"] == keys["embedded"]
    assert keys["url"] == keys["embedded"]
    assert found["embedded"][:2] == pytest.approx([3 * truth, 2 * truth], rel=0.005)
    for name in ("managed", "url"):
        assert found[name] == pytest.approx(found["embedded"], rel=0.005), name
        # In the middle of the growth the samples' own times count; a busy machine delays the
        # server's answers by some ms.
        assert halves[name] == pytest.approx(halves["embedded"], rel=0.05), name


@needs_prometheus
def test_what_goes_wrong_is_told_and_the_run_goes_on(
    run: RunDir, growing: ColumnBuilder, until
) -> None:
    """A key, a failing target, a server that starts again, a Prometheus that dies: one run."""
    told: list[Concern] = []
    run.root.mkdir()
    Manifest(run, {"run_id": "run", "started_ns": now_ns()})
    growing.go()
    with TelemetryRecorder(
        run, MANAGED, on_concern=told.append, api_key="a-secret-key"
    ) as recorder:
        recorder.add_targets([growing.endpoint])
        assert recorder.scrape_now("first_after_ready")
        assert growing.keys == {"Bearer a-secret-key"}
        growing.status = 500
        assert not recorder.scrape_now("failing")
        assert recorder.latest().running is None
        assert recorder.latest().scrape_failures >= 1
        growing.status = 200
        growing.go()
        assert recorder.scrape_now("well again")
        first = recorder.prometheus_pids()["prometheus"]
        os.kill(first, signal.SIGKILL)
        until(lambda: any(one.code == "prometheus_restarted" for one in told), "its death is told")
        until(lambda: recorder.scrape_now("last_after_drain"), "the second one scrapes")
        second = recorder.prometheus_pids()["prometheus"]
        assert second != first
    assert gone(second)
    assert {one.code for one in told} <= {"prometheus_restarted", "prometheus_unreachable"}
    finalize(run)
    errors = {
        json.loads(row["labels"])["error"]
        for row in rows(run)
        if row["metric"] == "harness_scrape_error"
    }
    assert any("500" in error for error in errors), errors
    assert [row for row in rows(run) if row["metric"] == "up" and row["value"] == 0]
    assert counters(run).resets() >= 1
    labels = {
        json.loads(row["labels"])["label"]
        for row in rows(run)
        if row["metric"] == "harness_scrape_label"
    }
    assert labels == {
        "first_after_ready",
        "well again",
        "last_after_drain",
    }  # a scrape that failed bounds nothing
    secret = [
        path
        for path in run.root.rglob("*")
        if path.is_file() and b"a-secret-key" in path.read_bytes()
    ]
    assert secret == []


SUPERVISOR = """
import sys
from pathlib import Path
from harness.artifacts.layout import RunDir
from harness.core.network import Network
from harness.telemetry.prometheus.server import ManagedPrometheus
managed = ManagedPrometheus(RunDir(Path(sys.argv[1])), interval_s=1.0, timeout_s=1.0, network=Network())
managed.start()
print(managed.pid, flush=True)
sys.stdin.read()
"""


@needs_prometheus
def test_the_supervisors_kill_9_ends_prometheus(run: RunDir, until) -> None:
    run.root.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, run.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert psutil.pid_exists(pid)
        supervisor.kill()
        supervisor.wait()
        until(lambda: gone(pid), "Prometheus is gone")


@needs_prometheus
def test_its_process_group_is_recorded_while_it_lives(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    registry = RunRegistry.open("run-p", run.root)
    run.root.mkdir()
    managed = ManagedPrometheus(
        run, interval_s=1.0, timeout_s=5.0, network=Network(), registry=registry
    )
    managed.start()
    assert [(group.pgid, group.label) for group in registry.groups] == [(managed.pid, "prometheus")]
    assert os.getpgid(managed.pid) == managed.pid
    managed.stop()
    managed.stop()
    assert registry.groups == []


def test_a_command_that_is_not_there_is_told_before_anything_starts(run: RunDir) -> None:
    managed = ManagedPrometheus(
        run, interval_s=1.0, timeout_s=1.0, network=Network(), command="no-such-prometheus"
    )
    with pytest.raises(TelemetryError, match="no-such-prometheus") as caught:
        managed.start()
    assert "apt-get install prometheus" in (caught.value.next_step or "")


def test_one_that_ends_at_once_shows_its_last_words(run: RunDir, tmp_path: Path) -> None:
    command = tmp_path / "prometheus"
    command.write_text("#!/bin/sh\necho 'opening storage failed' >&2\nexit 3\n")
    command.chmod(0o755)
    managed = ManagedPrometheus(
        run, interval_s=1.0, timeout_s=1.0, network=Network(), command=str(command)
    )
    with pytest.raises(TelemetryError, match="exit code 3") as caught:
        managed.start()
    assert "opening storage failed" in (caught.value.details or "")
    managed.stop()


@pytest.mark.needs("promtool")
def test_the_generated_configuration_is_valid_with_every_setting(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    network = Network(ca_file=str(tmp_path / "ca.pem"), verify=False)
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(configuration(0.25, 10.0, network, "/proc/self/fd/9"))
    )
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_url_where_nothing_answers_stops_the_start(run: RunDir) -> None:
    settings = FAST.model_copy(
        update={"prometheus": "http://127.0.0.1:1", "selectors": {"replica-0": 'job="x"'}}
    )
    recorder = TelemetryRecorder(run, settings)
    with pytest.raises(TelemetryError, match=r"telemetry\.prometheus: http://127\.0\.0\.1:1 "):
        recorder.start()
    assert recorder.pid is not None
    assert gone(recorder.pid)


def test_its_key_comes_from_the_environment(
    run: RunDir, growing: ColumnBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.telemetry.prometheus.http_api import headers_from

    with pytest.raises(TelemetryError, match="PROM_AUTH"):
        headers_from("PROM_AUTH")
    monkeypatch.setenv("PROM_AUTH", "Bearer abc")
    assert headers_from("PROM_AUTH") == {"Authorization": "Bearer abc"}
    monkeypatch.setenv("PROM_AUTH", "Authorization: Basic eDp5\nX-Scope-OrgID: tenant")
    assert headers_from("PROM_AUTH") == {"Authorization": "Basic eDp5", "X-Scope-OrgID": "tenant"}
    api = PrometheusApi(growing.base, headers={"Authorization": "Bearer abc"})
    assert b"vllm:" in api.get("/metrics")
    api.close()
    assert growing.keys == {"Bearer abc"}
