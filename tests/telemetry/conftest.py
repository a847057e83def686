"""A metrics endpoint that behaves as asked, and run directories."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.artifacts.layout import RunDir
from harness.core.records import Endpoint

BODY = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="a}}b"}} 3.0
vllm:num_requests_running{{engine="1",model_name="a}}b"}} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0"}} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0"}} 0.25
vllm:kv_cache_usage_perc{{engine="1"}} 0.5
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0"}} {tokens}
"""


class MetricsServer:
    """`mode` says how /metrics answers; `hits` counts requests, `connections` the connections they
    came over.
    """

    def __init__(self) -> None:
        self.mode = "good"
        self.hits = 0
        self.connections = 0
        self.authorizations: set[str | None] = set()
        self.release = threading.Event()  # lets `hang` go on
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_GET(self) -> None:
                outer.hits += 1
                outer.authorizations.add(self.headers.get("Authorization"))
                outer.answer(self)

            def log_message(self, *_args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that go away are part of these tests

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"

    def body(self) -> bytes:
        return BODY.format(tokens=100 * self.hits).encode()

    def answer(self, to: http.server.BaseHTTPRequestHandler) -> None:
        body = self.body()
        length: int | None = len(body)
        status = 200
        match self.mode:
            case "error":
                status = 500
            case "garbage":
                body = b"<html>not metrics</html>\n"
                length = len(body)
            case "half":
                body = body[: len(body) // 2]
            case "cut":
                body, length = body[: len(body) // 2], None
            case "hang":
                self.release.wait(20)
            case "close":
                to.close_connection = True
        to.send_response(status)
        to.send_header("Content-Type", "text/plain; version=0.0.4")
        if length is not None:
            to.send_header("Content-Length", str(length))
        to.end_headers()
        if self.mode == "trickle":
            for byte in body:
                to.wfile.write(bytes([byte]))
                if self.release.wait(0.02):
                    break
        else:
            to.wfile.write(body)
        if self.mode in {"half", "cut"}:
            to.close_connection = True

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def metrics_server() -> Iterator[MetricsServer]:
    server = MetricsServer()
    yield server
    server.close()


@pytest.fixture
def endpoint(metrics_server: MetricsServer) -> Endpoint:
    return Endpoint(
        "replica-0", metrics_server.url.removesuffix("/metrics"), "m", metrics_server.url
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


@pytest.fixture
def until() -> Callable[[Callable[[], object], str], None]:
    """Wait until something holds, for at most 20 s."""

    def wait(holds: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 20
        while not holds():
            assert time.monotonic() < deadline, f"not within 20 s: {what}"
            time.sleep(0.01)

    return wait
