"""The run's own metrics in Prometheus format, for dashboards; served by the supervisor.

Requests are read from the traffic workers' journals as batches are written, so the load generator
has no extra work. Unknown values have no sample. Values are live and coarse; the report's come from
the records.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from harness.artifacts.journal import JournalTail
from harness.artifacts.layout import RunDir
from harness.core.clock import seconds
from harness.core.errors import TelemetryError
from harness.core.latency import tokens_after_first_chunk, tpot_s
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.core.records import CANARY
from harness.plan.types import PRIME_SUFFIX


def _buckets(bounds: str) -> tuple[float, ...]:
    return tuple(float(bound) for bound in bounds.split())


TTFT_BUCKETS_S: Final = _buckets(
    "0.005 0.01 0.02 0.03 0.05 0.075 0.1 0.15 0.2 0.3 0.5 0.75 1 1.5 2 3 5 7.5 10 15 20 30 60 "
    "120 300"
)
"""From a cached prompt of a small model to a long prompt behind a queue. Steps are at most a factor
of 1.7 where SLOs are (0.1 s to 5 s).
"""
TPOT_BUCKETS_S: Final = _buckets(
    "0.001 0.002 0.003 0.005 0.0075 0.01 0.0125 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 "
    "0.15 0.2 0.3 0.5 1 2"
)
"""1 ms to 2 s per token; vLLM's own start at 10 ms, more than fast GPUs take."""
E2E_BUCKETS_S: Final = _buckets(
    "0.05 0.1 0.2 0.5 1 2 3 5 7.5 10 15 20 30 45 60 90 120 180 300 600 1200 1800"
)
LAG_BUCKETS_S: Final = _buckets("0.0005 0.001 0.002 0.005 0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 10")

NAMES: Final = frozenset(
    {
        "harness_requests_total",
        "harness_output_tokens_total",
        "harness_input_tokens_total",
        "harness_ttft_seconds",
        "harness_tpot_seconds",
        "harness_e2e_seconds",
        "harness_schedule_lag_seconds",
        "harness_requests_in_flight",
        "harness_sessions_live",
        "harness_stage_info",
        "harness_run_info",
        "harness_power_watts",
        "harness_server_requests_running",
        "harness_server_requests_waiting",
        "harness_server_kv_usage_ratio",
        "harness_worker_cpu_ratio",
        "harness_event_loop_lag_seconds",
        "harness_scrapes_total",
        "harness_scrape_failures_total",
    }
)
"""All exported metrics; histograms without suffixes. deploy/ is checked against this."""

_TAIL_S: Final = 1.0


class Exporter:
    """Serves `/metrics`. A context manager.

    Args:
        run: its request journals are followed.
        port: 0: any free one.
        info: labels of `harness_run_info` (run_id, profile, purpose, version).
    """

    def __init__(self, run: RunDir, *, host: str, port: int, info: Mapping[str, str]) -> None:
        # Imported only if a run needs it.
        import prometheus_client as prom
        from prometheus_client import core

        self._prom, self._core = prom, core
        self._run = run
        self._host, self._port = host, port
        self._info = dict(info)
        self._registry = prom.CollectorRegistry()

        def counter(name: str, text: str, *more: str) -> Any:  # noqa: ANN401 - an untyped module
            return prom.Counter(name, text, ("stage", "class", *more), registry=self._registry)

        def histogram(name: str, text: str, buckets_s: Sequence[float]) -> Any:  # noqa: ANN401
            by = ("stage", "class")
            return prom.Histogram(name, text, by, buckets=buckets_s, registry=self._registry)

        self._requests = counter("harness_requests", "Ended requests by outcome.", "outcome")
        text = "Output tokens of ended requests, as counted by the server."
        self._output = counter("harness_output_tokens", text)
        text = "Input tokens of ended requests, including cached ones."
        self._input = counter("harness_input_tokens", text)
        text = "Time from the scheduled send time to the first token."
        self._ttft = histogram("harness_ttft_seconds", text, TTFT_BUCKETS_S)
        text = "Mean time per output token after the first chunk, per request."
        self._tpot = histogram("harness_tpot_seconds", text, TPOT_BUCKETS_S)
        text = "Time from the scheduled send time to the last token."
        self._e2e = histogram("harness_e2e_seconds", text, E2E_BUCKETS_S)
        text = "Time from the scheduled send time to the last byte of the request."
        self._lag = histogram("harness_schedule_lag_seconds", text, LAG_BUCKETS_S)
        self._registry.register(self)
        self._lock = threading.Lock()
        self._stage: tuple[str, str] | None = None
        self._traffic = TrafficProgress()
        self._telemetry = TelemetryProgress()
        self._tails: dict[str, JournalTail] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="exporter-tail", daemon=True)
        self._server: Any = None

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._server.server_port}/metrics"

    def start(self) -> Self:
        """Listen, and start following the journals.

        Raises:
            TelemetryError: the port is not available.
        """
        try:
            self._server, self._server_thread = self._prom.start_http_server(
                self._port, self._host, self._registry
            )
        except OSError as error:
            raise TelemetryError(
                f"telemetry.exporter_port: cannot listen on {self._host}:{self._port}:"
                f" {error.strerror or error}",
                cause="another process uses that port",
                next_step="choose another port, or 0 for any free one",
            ) from error
        self._thread.start()
        return self

    def update(
        self, stage: str, phase: str, traffic: TrafficProgress, telemetry: TelemetryProgress
    ) -> None:
        """Set the newest values; called as often as the live view is drawn. `phase` is `warm-up`,
        `window`, `sessions` or `draining`.
        """
        with self._lock:
            self._stage = (stage, phase)
            self._traffic, self._telemetry = traffic, telemetry

    def stop(self) -> None:
        """Read the rest of the journals and stop listening. May be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._server is not None:
            self._thread.join()
            self._server.shutdown()
            self._server.server_close()
            self._server_thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterator[Any]:
        """Metric families of the last update, at each scrape; unknown values are absent."""
        core = self._core
        with self._lock:
            stage, traffic, telemetry = self._stage, self._traffic, self._telemetry
        yield _info(core, "harness_run_info", "The run.", self._info)
        if stage is not None:
            labels = {"stage": stage[0], "phase": stage[1]}
            yield _info(core, "harness_stage_info", "Current load stage.", labels)
        for name, text, value in _gauges(traffic, telemetry):
            if value is not None:
                yield core.GaugeMetricFamily(name, text, value=float(value))
        failures = telemetry.scrape_failures
        for name, text, count in (
            ("harness_scrapes", "Scrapes of the servers.", telemetry.scrapes),
            ("harness_scrape_failures", "Failed scrapes of the servers.", failures),
        ):
            if count is not None:
                yield core.CounterMetricFamily(name, text, value=float(count))

    def _follow(self) -> None:
        while not self._stopping.wait(_TAIL_S):
            self._take_new()
        self._take_new()

    def _take_new(self) -> None:
        for path in self._run.requests_dir.glob("worker-*.arrows"):
            tail = self._tails.setdefault(path.name, JournalTail(path))
            for batch in tail.new_batches():
                self._take(batch)

    def _take(self, batch: pa.RecordBatch) -> None:
        times = ("intended_ns", "sent_ns", "first_token_ns", "last_token_ns")
        columns = ("stage", "class", "outcome", *times, "input_tok", "output_tok")
        rows = batch.select(columns).to_pylist()
        for row, chunk_tok in zip(rows, batch["chunk_tok"], strict=True):
            if row["class"] == CANARY or row["class"].endswith(PRIME_SUFFIX):
                continue  # not part of the load
            by = (row["stage"], row["class"])
            self._requests.labels(*by, row["outcome"]).inc()
            for counter, key in ((self._output, "output_tok"), (self._input, "input_tok")):
                if row[key] is not None:
                    counter.labels(*by).inc(row[key])
            intended, sent, first, last = (row[name] for name in times)
            if sent is not None:
                self._lag.labels(*by).observe(seconds(max(0, sent - intended)))
            if row["outcome"] != "ok" or first is None or last is None:
                continue
            self._ttft.labels(*by).observe(seconds(first - intended))
            self._e2e.labels(*by).observe(seconds(last - intended))
            after = tokens_after_first_chunk(row["output_tok"], *_chunk_tokens(chunk_tok))
            if after is not None and after > 0 and last > first:
                self._tpot.labels(*by).observe(tpot_s(last - first, after))


def _chunk_tokens(chunk_tok: pa.ListScalar) -> tuple[int | None, int | None]:
    """Tokens of all chunks and of the first; None if the stream does not report them."""
    tokens = chunk_tok.values
    if tokens is None or not len(tokens) or tokens.null_count:
        return None, None
    return pc.sum(tokens).as_py(), tokens[0].as_py()


def _gauges(
    traffic: TrafficProgress, telemetry: TelemetryProgress
) -> Iterator[tuple[str, str, float | None]]:
    """Name, help and value."""
    yield "harness_requests_in_flight", "Requests sent and not finished.", traffic.in_flight
    yield "harness_sessions_live", "Sessions in progress.", traffic.live_sessions
    text = "CPU use of the busiest traffic worker, as a share of a core."
    yield "harness_worker_cpu_ratio", text, traffic.cpu
    text = "Largest event-loop lag of a traffic worker since the last report."
    yield "harness_event_loop_lag_seconds", text, traffic.loop_lag_s
    yield "harness_power_watts", "Power of all GPUs of the deployment.", telemetry.power_w
    text = "Running requests in all servers."
    yield "harness_server_requests_running", text, telemetry.running
    text = "Waiting requests in all servers."
    yield "harness_server_requests_waiting", text, telemetry.waiting
    text = "KV cache usage of the fullest replica."
    yield "harness_server_kv_usage_ratio", text, telemetry.kv_usage


def _info(core: Any, name: str, text: str, labels: Mapping[str, str]) -> Any:  # noqa: ANN401 - an untyped module
    family = core.GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family
