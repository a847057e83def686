"""Reading from a Prometheus that behaves badly: told, and the rest goes on. The server here is a
small one with scripted answers.
"""

import http.server
import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest

from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus.text import write_samples
from harness.core.clock import now_ns, take_anchor
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Endpoint
from harness.profile.telemetry import Telemetry
from harness.telemetry.prometheus.run import RunPrometheus

ANCHOR = take_anchor()
OFFSET_NS = ANCHOR.unix_ns - ANCHOR.monotonic_ns


class Scripted:
    """Answers /api/v1/query as if it had scraped each target every 200 ms: `targets` are label
    sets, `ahead_s` is its clock's error.
    """

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.targets: list[dict[str, str]] = [{"job": "vllm", "instance": "a"}]
        self.broken = False
        self.warnings: list[str] = []
        self.queries: list[str] = []
        self.headers: set[str | None] = set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.headers.add(self.headers.get("X-Scope-OrgID"))
                status, body = outer.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/prometheus"

    def now_s(self) -> float:
        return (now_ns() + OFFSET_NS) / 1e9 + self.ahead_s

    def answer(self, path: str) -> tuple[int, bytes]:
        parts = urlsplit(path)
        if parts.path != "/prometheus/api/v1/query":
            return 404, b"404 page not found"
        if self.broken:
            return 503, json.dumps({"status": "error", "error": "the store is away"}).encode()
        parameters = parse_qs(parts.query)
        query = parameters["query"][0]
        if query == "time()":
            return (
                200,
                json.dumps(
                    {
                        "status": "success",
                        "data": {
                            "resultType": "scalar",
                            "result": [self.now_s(), str(self.now_s())],
                        },
                    }
                ).encode(),
            )
        self.queries.append(query)
        length = re.search(r"\[(\d+)ms\]$", query)
        assert length is not None
        until_ms = math.floor(float(parameters.get("time", [self.now_s()])[0]) * 1000 + 0.01)
        result = []
        for position, labels in enumerate(self.targets):
            step_ms = 200
            first = (until_ms - int(length[1])) // step_ms + 1
            times = [i * step_ms / 1000 for i in range(first, until_ms // step_ms + 1)]
            for name in ("up", "vllm:generation_tokens_total"):
                values = [[t, "1" if name == "up" else str(1000 * position + t)] for t in times]
                result.append({"metric": {"__name__": name, **labels}, "values": values})
        whole = {
            "status": "success",
            "data": {"resultType": "matrix", "result": result},
            "warnings": self.warnings,
        }
        return 200, json.dumps(whole).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.close()


@contextmanager
def following(
    run: RunDir, scripted: Scripted, told: list[Concern], **settings: object
) -> Iterator[RunPrometheus]:
    wanted = {"prometheus": scripted.url, "selectors": {"replica-0": 'job="vllm"'}, **settings}
    one = RunPrometheus(
        run,
        Telemetry(**wanted),
        network=Network(),
        unix_offset_ns=OFFSET_NS,
        on_concern=told.append,
    )
    try:
        one.start()
        yield one
    finally:
        one.stop()


ENDPOINT = Endpoint("replica-0", "http://127.0.0.1:1", "m")


def test_a_gateway_under_a_path_with_a_tenant(
    run: RunDir, scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROM_AUTH", "X-Scope-OrgID: tenant")
    told: list[Concern] = []
    with following(run, scripted, told, prometheus_auth_env="PROM_AUTH") as one:
        one.add_targets([ENDPOINT])
        assert one.scrape_now("first_after_ready")
        assert one.latest().generated_tokens is not None
        assert one.scrape_now("last_after_drain")
    assert told == []
    assert scripted.headers == {"tenant"}
    assert all(query.startswith('{job="vllm"') for query in scripted.queries)
    write_samples(run)
    rows = pq.read_table(run.samples).to_pylist()
    assert {row["labels"] for row in rows if row["metric"] == "vllm:generation_tokens_total"} == {
        "{}"
    }
    marks = [row["t_ns"] for row in rows if row["metric"] == "harness_scrape_label"]
    assert len(marks) == 2
    assert set(marks) <= {row["t_ns"] for row in rows if row["metric"] == "up"}


def test_a_selector_that_is_too_wide_is_told(run: RunDir, scripted: Scripted) -> None:
    scripted.targets.append({"job": "vllm", "instance": "b"})
    told: list[Concern] = []
    with following(run, scripted, told) as one:
        one.add_targets([ENDPOINT])
        assert one.scrape_now("first_after_ready")
    assert [concern.code for concern in told] == ["selector_ambiguous"]
    assert 'replica-0 (job="vllm") matches 2 ' in told[0].message


def test_a_selector_that_matches_nothing_and_an_endpoint_without_one_are_told(
    run: RunDir, scripted: Scripted
) -> None:
    scripted.targets.clear()
    told: list[Concern] = []
    with following(run, scripted, told) as one:
        one.add_targets([ENDPOINT, Endpoint("replica-1", "http://127.0.0.1:2", "m")])
        assert not one.scrape_now("first_after_ready", timeout_s=0.2)
        assert one.latest() == TelemetryProgress()
    assert {concern.code for concern in told} == {"selector_missing", "prometheus_no_target"}


def test_answers_that_are_not_whole_are_told_once(run: RunDir, scripted: Scripted) -> None:
    scripted.warnings = ["store a is away"]
    told: list[Concern] = []
    with following(run, scripted, told) as one:
        one.add_targets([ENDPOINT])
        assert one.scrape_now("first_after_ready")
        assert one.scrape_now("last_after_drain")
    assert [concern.code for concern in told] == ["prometheus_warning"]
    assert "store a is away" in told[0].message


def test_a_clock_that_is_off_is_told(run: RunDir, scripted: Scripted) -> None:
    scripted.ahead_s = -3.0
    told: list[Concern] = []
    with following(run, scripted, told) as one:
        one.add_targets([ENDPOINT])
        assert one.scrape_now("first_after_ready")  # waits by the server's clock
    (concern,) = told
    assert concern.code == "prometheus_clock"
    assert concern.value == pytest.approx(3.0, abs=0.2)


def test_a_store_that_goes_away_is_told_and_what_it_could_not_give_is_missing(
    run: RunDir, scripted: Scripted
) -> None:
    told: list[Concern] = []
    with following(run, scripted, told) as one:
        one.add_targets([ENDPOINT])
        assert one.scrape_now("first_after_ready")
        scripted.broken = True
        assert not one.scrape_now("last_after_drain", timeout_s=0.2)
    assert [concern.code for concern in told] == ["prometheus_unreachable", "prometheus_not_read"]
    assert "the store is away" in told[1].message


def test_a_page_that_is_no_prometheus_stops_the_start(run: RunDir, scripted: Scripted) -> None:
    scripted.url = scripted.url.removesuffix("/prometheus")
    with pytest.raises(TelemetryError, match="404"), following(run, scripted, []):
        pass
