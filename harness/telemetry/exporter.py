"""The run's own metrics in Prometheus' format, for dashboards: served by the supervisor, fed from
what the run announces anyway.

Requests come from the traffic workers' journals, read as files when their batches are written, so
the load generator does nothing for it, neither per token nor per request. What is not known has no
sample. Figures here are live and coarse; the report's come from the records.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
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

TTFT_BUCKETS_S: Final = (
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    0.75,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    7.5,
    10.0,
    15.0,
    20.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
"""From a cached prompt of a small model to a long prompt behind a queue; a factor of 1.5 or less
where SLOs lie (0.1 s to 5 s).
"""
TPOT_BUCKETS_S: Final = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.0125,
    0.015,
    0.02,
    0.025,
    0.03,
    0.04,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.0,
)
"""1 ms a token to 2 s; vLLM's own begin at 10 ms, above what fast boards do."""
E2E_BUCKETS_S: Final = (
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    3.0,
    5.0,
    7.5,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    90.0,
    120.0,
    180.0,
    300.0,
    600.0,
    1200.0,
    1800.0,
)
LAG_BUCKETS_S: Final = (
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
)

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
"""Everything that is exported; histograms without their suffixes. deploy/ is held against this."""

_TAIL_S: Final = 1.0


class Exporter:
    """Serves `/metrics`. A context manager.

    Args:
        run: whose journals of requests are followed.
        host: address to listen on.
        port: port; 0: any free one.
        info: labels of `harness_run_info` (run_id, profile, purpose, version).
    """

    def __init__(self, run: RunDir, *, host: str, port: int, info: Mapping[str, str]) -> None:
        # Imported where a run wants it: the parser of expositions aside, nobody else needs
        # prometheus-client in this process.
        import prometheus_client as prom
        from prometheus_client import core

        self._prom, self._core = prom, core
        self._run = run
        self._host, self._port = host, port
        self._info = dict(info)
        self._registry = prom.CollectorRegistry()
        by = ("stage", "class")
        registry = self._registry
        self._requests = prom.Counter(
            "harness_requests",
            "Requests that ended, by outcome.",
            (*by, "outcome"),
            registry=registry,
        )
        self._output = prom.Counter(
            "harness_output_tokens",
            "Output tokens of ended requests, by the server.",
            by,
            registry=registry,
        )
        self._input = prom.Counter(
            "harness_input_tokens",
            "Input tokens of ended requests, cached ones included.",
            by,
            registry=registry,
        )
        self._ttft = prom.Histogram(
            "harness_ttft_seconds",
            "From the intended time to the first token.",
            by,
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )
        self._tpot = prom.Histogram(
            "harness_tpot_seconds",
            "Mean time per output token after the first chunk, by request.",
            by,
            buckets=TPOT_BUCKETS_S,
            registry=registry,
        )
        self._e2e = prom.Histogram(
            "harness_e2e_seconds",
            "From the intended time to the last token.",
            by,
            buckets=E2E_BUCKETS_S,
            registry=registry,
        )
        self._lag = prom.Histogram(
            "harness_schedule_lag_seconds",
            "From the intended time to the last byte of the request.",
            by,
            buckets=LAG_BUCKETS_S,
            registry=registry,
        )
        self._registry.register(_Announced(self))
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
        """Listen, and begin to follow the journals.

        Raises:
            TelemetryError: the port cannot be had.
        """
        try:
            self._server, self._server_thread = self._prom.start_http_server(
                self._port, self._host, self._registry
            )
        except OSError as error:
            raise TelemetryError(
                f"telemetry.exporter_port: cannot listen on {self._host}:{self._port}:"
                f" {error.strerror or error}",
                cause="another process has that port",
                next_step="choose another one, or 0 for any free one",
            ) from error
        self._thread.start()
        return self

    def update(
        self, stage: str, phase: str, traffic: TrafficProgress, telemetry: TelemetryProgress
    ) -> None:
        """Take the newest of what the run announces; called as often as the live view is drawn.

        Args:
            stage: load stage that is under way.
            phase: `warm-up`, `window`, `sessions` or `draining`.
            traffic: of the load generator.
            telemetry: of servers and boards.
        """
        with self._lock:
            self._stage = (stage, phase)
            self._traffic, self._telemetry = traffic, telemetry

    def stop(self) -> None:
        """Take what is left in the journals and stop listening. May be called again."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def announced(self) -> Iterator[Any]:
        """Metric families of the last update; nothing for what is not known."""
        core = self._core
        with self._lock:
            stage, traffic, telemetry = self._stage, self._traffic, self._telemetry
        yield _info(core, "harness_run_info", "The run.", self._info)
        if stage is not None:
            yield _info(
                core,
                "harness_stage_info",
                "Load stage that is under way.",
                {"stage": stage[0], "phase": stage[1]},
            )
        for name, text, value in _gauges(traffic, telemetry):
            if value is not None:
                yield core.GaugeMetricFamily(name, text, value=float(value))
        for name, text, count in (
            ("harness_scrapes", "Scrapes of the servers.", telemetry.scrapes),
            (
                "harness_scrape_failures",
                "Scrapes of the servers that failed.",
                telemetry.scrape_failures,
            ),
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
        wanted = (
            "stage",
            "class",
            "outcome",
            "intended_ns",
            "sent_ns",
            "first_token_ns",
            "last_token_ns",
            "input_tok",
            "output_tok",
        )
        for row, chunk_tok in zip(
            batch.select(wanted).to_pylist(), batch["chunk_tok"], strict=True
        ):
            if row["class"] == CANARY or row["class"].endswith(PRIME_SUFFIX):
                continue  # no part of the load
            by = (row["stage"], row["class"])
            self._requests.labels(*by, row["outcome"]).inc()
            for counter, key in ((self._output, "output_tok"), (self._input, "input_tok")):
                if row[key] is not None:
                    counter.labels(*by).inc(row[key])
            intended, sent, first, last = (
                row["intended_ns"],
                row["sent_ns"],
                row["first_token_ns"],
                row["last_token_ns"],
            )
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
    """Tokens of all chunks and of the first; None where the stream does not report them."""
    tokens = chunk_tok.values
    if tokens is None or not len(tokens) or tokens.null_count:
        return None, None
    return pc.sum(tokens).as_py(), tokens[0].as_py()


def _gauges(
    traffic: TrafficProgress, telemetry: TelemetryProgress
) -> Iterator[tuple[str, str, float | None]]:
    """Name, help and value."""
    yield "harness_requests_in_flight", "Requests sent and not finished.", traffic.in_flight
    yield "harness_sessions_live", "Conversations under way.", traffic.live_sessions
    text = "Largest share of a core that a traffic worker uses."
    yield "harness_worker_cpu_ratio", text, traffic.cpu
    text = "Largest lag of a traffic worker's event loop since the last report."
    yield "harness_event_loop_lag_seconds", text, traffic.loop_lag_s
    yield "harness_power_watts", "Power of all boards of the deployment.", telemetry.power_w
    text = "Requests running in the servers, all replicas."
    yield "harness_server_requests_running", text, telemetry.running
    text = "Requests waiting in the servers, all replicas."
    yield "harness_server_requests_waiting", text, telemetry.waiting
    text = "Share of the KV cache in use, of the fullest replica."
    yield "harness_server_kv_usage_ratio", text, telemetry.kv_usage


class _Announced:
    """Asks the exporter at each scrape, so that what has become unknown vanishes."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def collect(self) -> Iterable[Any]:
        return self._exporter.announced()

    def describe(self) -> Iterable[Any]:
        return ()


def _info(core: Any, name: str, text: str, labels: Mapping[str, str]) -> Any:  # noqa: ANN401 - an untyped module and its objects
    family = core.GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family
