"""Accidents: stops, kills, refusals, secrets. Whatever happens, no record that was made is lost and
no process is left.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.artifacts.journal import read_table
from harness.artifacts.tables import REQUESTS
from harness.core.clock import now_ns
from harness.core.errors import TrafficError
from harness.core.progress import TrafficProgress
from harness.reference_server.server import Pace, PacedServer
from harness.traffic.events import Failed, Finished, StageStarted


def closed(**more: Any) -> dict[str, Any]:
    return {"kind": "concurrency", "concurrency": 4, "name": "closed"} | more


def opened(**more: Any) -> dict[str, Any]:
    return {"kind": "arrival_rate", "rate_per_s": 40, "name": "open"} | more


@pytest.mark.parametrize("drain", [True, False])
def test_stop_keeps_every_request(
    traffic: Callable[..., Any], tmp_path: Path, deadline: Callable[..., Any], drain: bool
) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=20), tmp_path / "truth") as server:
        one = traffic(
            [server.url], [closed(window_s=60), opened(window_s=60)], workload={"output_tok": 30}
        )
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event.sent >= 8 for event in one.named(TrafficProgress)))
            driver.stop(drain=drain)
            deadline(lambda: driver.wait(0.1))
        server.stop()
        truth = {line["request_id"]: line for line in server.truth()}
    rows = {row["request_id"]: row for row in one.rows()}
    assert sorted(rows) == sorted(truth)
    outcomes = Counter(row["outcome"] for row in rows.values())
    assert outcomes["ok"] >= 8
    assert set(outcomes) == ({"ok"} if drain else {"ok", "interrupted"})
    for row in rows.values():
        if row["outcome"] == "interrupted":
            assert truth[row["request_id"]]["aborted"]
            assert row["error"]
            assert row["done_ns"] >= row["sent_ns"]
    assert one.named(Finished)[-1].interrupted
    assert not one.named(StageStarted)[1:]  # the second stage never began


def test_sigterm_to_a_worker_loses_no_record(
    traffic: Callable[..., Any], tmp_path: Path, deadline: Callable[..., Any]
) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=50), tmp_path / "truth") as server:
        one = traffic([server.url], [closed(window_s=60)], workload={"output_tok": 1000})
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event.in_flight == 4 for event in one.named(TrafficProgress)))
            os.kill(driver.pids()["traffic:0"], signal.SIGTERM)
            deadline(lambda: driver.wait(0.1))
        server.stop()
        asked = sorted(line["request_id"] for line in server.truth())
    rows = one.rows()
    assert sorted(row["request_id"] for row in rows) == asked
    assert {row["outcome"] for row in rows} == {"interrupted"}


def test_a_killed_worker_fails_the_run_and_leaves_its_records(
    traffic: Callable[..., Any], deadline: Callable[..., Any]
) -> None:
    with PacedServer(Pace(ttft_ms=5, gap_ms=1)) as server:
        one = traffic([server.url], [closed(window_s=60)])
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event.ok >= 20 for event in one.named(TrafficProgress)))
            deadline(lambda: len(one.rows()) >= 20)
            pid = driver.pids()["traffic:0"]
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(TrafficError, match="SIGKILL"):
                deadline(lambda: driver.wait(0.1))
        assert not psutil.pid_exists(pid)
    assert len(one.rows()) >= 20
    assert one.named(Failed)


def test_a_journal_that_cannot_be_written_fails_the_run(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=5, gap_ms=1)) as server:
        one = traffic([server.url], [closed(sessions=3)])
        one.run_dir.requests_dir.mkdir(parents=True)
        one.run_dir.requests_journal(0).touch()  # it is there already: this worker cannot have it
        with one.driver as driver, pytest.raises(TrafficError, match=r"worker-0\.arrows"):
            driver.start()


def test_a_full_disk_fails_the_run_and_keeps_what_was_written(
    traffic: Callable[..., Any], deadline: Callable[..., Any]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with PacedServer(Pace(ttft_ms=5, gap_ms=1)) as server:
        one = traffic([server.url], [closed(window_s=60)])
        with one.driver as driver:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (40_000, hard)
            )  # inherited: a file beyond this is refused as on a full disk
            try:
                driver.start()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            driver.go(now_ns())
            with pytest.raises(TrafficError, match=r"cannot write .*worker-0\.arrows"):
                deadline(lambda: driver.wait(0.1))
    rows = one.rows()
    assert rows
    assert {row["outcome"] for row in rows} == {"ok"}


def test_nobody_listening_is_a_connection_error(traffic: Callable[..., Any]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        rows = traffic([f"http://127.0.0.1:{nobody.getsockname()[1]}"], [opened(sessions=3)]).run()
    assert [row["outcome"] for row in rows] == ["connection_error"] * 3
    assert all(row["sent_ns"] is None and "refused" in row["error"] for row in rows)


def test_the_key_is_sent_and_nowhere_else(traffic: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = traffic(
            [f"http://127.0.0.1:{listener.getsockname()[1]}"],
            [opened(sessions=1)],
            timeouts={"first_byte_s": 0.5},
        )
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            with listener.accept()[0] as connection:
                head = connection.recv(65536).decode().split("\r\n\r\n")[0].lower()
            process = psutil.Process(driver.pids()["traffic:0"])
            seen = " ".join([*process.cmdline(), *process.environ().values()])
            while not driver.wait(1):
                pass
    assert "x-api-key: k3y" in head
    assert "anthropic-version: 2023-06-01" in head
    assert "accept-encoding: identity" in head
    assert "x-harness-request-id: 0-000000/0" in head
    assert "k3y" not in seen
    assert not any(
        b"k3y" in path.read_bytes() for path in one.run_dir.root.rglob("*") if path.is_file()
    )


def test_the_processes_end_with_a_killed_supervisor(
    tmp_path: Path, deadline: Callable[..., Any]
) -> None:
    """kill -9 of the supervisor: workers and master end, and what was in flight is in the journals."""
    script = tmp_path / "supervise.py"
    script.write_text(
        textwrap.dedent(f"""
        import importlib.util, json, sys, time
        from pathlib import Path
        from harness.core.clock import now_ns
        from harness.core.progress import TrafficProgress
        spec = importlib.util.spec_from_file_location("parts", {str(Path(__file__).with_name("conftest.py"))!r})
        parts = importlib.util.module_from_spec(spec)
        sys.modules["parts"] = parts
        spec.loader.exec_module(parts)
        load = [{{"kind": "concurrency", "concurrency": 4, "window_s": 60}}]
        one = parts.Traffic(Path(sys.argv[2]), [sys.argv[1]], load, workers=2, workload={{"output_tok": 1000}})
        one.driver.start()
        one.driver.go(now_ns())
        while not any(event.in_flight == 4 for event in one.named(TrafficProgress)):
            time.sleep(0.05)
        print(json.dumps(one.driver.pids()), flush=True)
        time.sleep(60)
        """)
    )
    with PacedServer(Pace(ttft_ms=10, gap_ms=50)) as server:
        command = [sys.executable, str(script), server.url, str(tmp_path / "run")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:
            assert supervisor.stdout is not None
            pids = json.loads(supervisor.stdout.readline())
            processes = [psutil.Process(pid) for pid in pids.values()]
            supervisor.kill()
        assert sorted(pids) == ["traffic:0", "traffic:1", "traffic:master"]
        deadline(
            lambda: (
                not any(
                    process.is_running() and process.status() != "zombie" for process in processes
                )
            )
        )
    rows = read_table(sorted((tmp_path / "run" / "requests").iterdir()), REQUESTS).to_pylist()
    assert [row["outcome"] for row in rows] == ["interrupted"] * 4


def test_tls_with_a_private_authority(
    traffic: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that the TLS layer holds is drained: an answer of several records in one read
    comes whole.
    """
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    script = tmp_path / "serve.py"
    script.write_text(
        textwrap.dedent("""
        import socket, ssl, sys
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        event = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"' + b"x" * 900 + b'"}}\\n\\n'
        end = b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\\n\\n'
        body = event * 100 + end + b'data: {"type":"message_stop"}\\n\\n'
        head = b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body)
        while True:
            connection = context.wrap_socket(listener.accept()[0], server_side=True)
            for _ in range(2):
                data = b""
                while not data.endswith(b"}"):
                    data += connection.recv(65536)
                connection.sendall(head + body)
        """)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with subprocess.Popen(
        [sys.executable, str(script), str(cert), str(key)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = f"https://localhost:{server.stdout.readline().strip()}"
            rows = traffic(
                [url],
                [closed(concurrency=1, sessions=2)],
                timeouts={"idle_s": 3, "first_byte_s": 3},
            ).run()
        finally:
            server.kill()
    assert [row["outcome"] for row in rows] == [
        "ok",
        "ok",
    ], rows  # the second on the same connection
    assert [sum(row["chunk_bytes"]) for row in rows] == [90_000, 90_000]


def test_locust_stays_out_of_the_supervisor() -> None:
    code = (
        "import sys, harness.traffic.driver; print([m for m in sys.modules if m.split('.')[0] in"
        " ('locust', 'gevent', 'pandas')])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("events", [0, 2])
def test_a_stream_that_stalls_ends_by_its_idle_limit(
    traffic: Callable[..., Any], events: int
) -> None:
    """Also while the limit for the first byte is longer, and after nothing but headers."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 20)
            connection.sendall(head + b": alive\n\n" * events)
            connection.recv(1)  # until the client closes

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        rows = traffic(
            [f"http://127.0.0.1:{listener.getsockname()[1]}"],
            [closed(concurrency=1, sessions=1)],
            timeouts={"idle_s": 0.5, "first_byte_s": 60, "total_s": 20},
        ).run()
    thread.join(10)
    assert [row["outcome"] for row in rows] == ["timeout_idle"]
