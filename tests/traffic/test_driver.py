"""The load generator as a whole: real Locust processes against the paced server, judged by their records and the server's truth."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.core.clock import now_ns
from harness.core.errors import TrafficError
from harness.core.records import Outcome
from harness.testing.faults import SAME_RECORD, Fault
from harness.testing.paced import Pace, PacedServer

SECOND = 1_000_000_000


def run(traffic: Any, *, lead_s: float = 0.3) -> list[dict[str, Any]]:
    """A whole run; its rows."""
    with traffic.driver as driver:
        driver.start()
        driver.go(now_ns() + round(lead_s * SECOND))
        while not driver.wait(5):
            pass
    return traffic.rows()


def closed(**more: Any) -> dict[str, Any]:
    return {"kind": "concurrency", "concurrency": 4, "name": "closed"} | more


def opened(**more: Any) -> dict[str, Any]:
    return {"kind": "arrival_rate", "rate_per_s": 40, "name": "open"} | more


def test_two_stages_window_and_sessions(traffic: Callable[..., Any], tmp_path: Path) -> None:
    pace = Pace(ttft_ms=20, gap_ms=4)
    with PacedServer(pace, tmp_path / "truth-0") as first, PacedServer(pace, tmp_path / "truth-1") as second:
        load = [closed(warmup_s=0.2, window_s=0.6), opened(sessions=12)]
        one = traffic([first.url, second.url], load, workload={"turns": 2, "think_s": 0.05})
        rows = run(one)
        first.stop()
        second.stop()
        lines = [(line, replica) for replica, server in enumerate((first, second)) for line in server.truth()]
    truth = {line["request_id"]: line for line, _ in lines}
    assert {row["outcome"] for row in rows} == {"ok"}
    # nothing lost, nothing invented, nothing sent twice; conversations go round the replicas and stay where they are
    assert sorted((line["request_id"], f"replica-{replica}") for line, replica in lines) == sorted(
        (row["request_id"], row["replica"]) for row in rows
    )
    assert all(row["replica"] == f"replica-{int(row['session_id'].split('-')[1]) % 2}" for row in rows)

    started, ended = one.named("stage_started"), one.named("stage_ended")
    assert [event["stage"] for event in started] == [event["stage"] for event in ended] == ["closed", "open"]
    window = started[0]
    assert window["window_start_ns"] - window["start_ns"] == 0.2 * SECOND
    assert window["window_end_ns"] - window["window_start_ns"] == 0.6 * SECOND == ended[0]["window_end_ns"] - window["window_start_ns"]
    assert started[1]["window_end_ns"] is None
    assert started[1]["start_ns"] >= ended[0]["end_ns"]  # stages do not overlap
    assert [event["interrupted"] for event in one.named("finished")] == [False]
    assert one.named("progress")[-1]["ok"] == len(rows)

    by_stage = {name: [row for row in rows if row["stage"] == name] for name in ("closed", "open")}
    in_flight_when_closed = [row for row in by_stage["closed"] if row["intended_ns"] < window["window_end_ns"]]
    assert all(row["done_ns"] <= ended[0]["end_ns"] for row in in_flight_when_closed)
    assert len(by_stage["open"]) == 24  # all turns of the 12 sessions
    for row in by_stage["open"]:
        if row["turn"] == 0:
            number = int(row["session_id"].split("-")[1])
            planned = next(s for s in one.plan.sessions(1) if s.number == number)
            assert row["intended_ns"] == started[1]["start_ns"] + planned.intended_offset_ns
    done = {(row["session_id"], row["turn"]): row["done_ns"] for row in rows}
    later = [row for row in rows if row["turn"] == 1]
    assert later
    for row in later:
        gap_ns = one.plan.session(0 if row["stage"] == "closed" else 1, int(row["session_id"].split("-")[1])).turns[1].gap_ns
        assert row["intended_ns"] == done[row["session_id"], 0] + gap_ns

    for row in rows:
        written = truth[row["request_id"]]["content_ns"]
        assert row["intended_ns"] <= row["sent_ns"] < row["first_byte_ns"] <= row["first_token_ns"]
        assert row["first_token_ns"] <= row["last_token_ns"] <= row["done_ns"]
        assert row["first_token_ns"] >= written[0]
        assert row["last_token_ns"] >= written[-1]
        assert (row["output_tok"], row["target_output_tok"], row["stop_reason"]) == (6, 6, "max_tokens")
        assert row["input_tok"] == max(1, row["request_bytes"] // 4)
        assert (row["worker"], row["class"], row["content_kinds"]) == (0, "chat", ["text"])
        assert row["chunk_dt_us"][0] == 0
        assert sum(row["chunk_bytes"]) == sum(len(word.encode()) for word in (" the", " load", " is", " paced", " by", " a"))


EXPECTED = {
    **dict.fromkeys((*SAME_RECORD, Fault.NO_USAGE, Fault.CACHE_USAGE), Outcome.OK),
    Fault.RATE_LIMITED: Outcome.HTTP_ERROR,
    Fault.OVERLOADED: Outcome.HTTP_ERROR,
    Fault.UNAVAILABLE: Outcome.HTTP_ERROR,
    Fault.PLAIN_ERROR: Outcome.HTTP_ERROR,
    Fault.NOT_A_STREAM: Outcome.MALFORMED,
    Fault.RESET: Outcome.CONNECTION_ERROR,
    Fault.CLOSE_AT_ONCE: Outcome.CONNECTION_ERROR,
    Fault.GARBAGE: Outcome.MALFORMED,
    Fault.STALL_FIRST: Outcome.TIMEOUT_FIRST_BYTE,
    Fault.ERROR_EVENT: Outcome.API_ERROR,
    Fault.TRUNCATED: Outcome.TRUNCATED,
    Fault.RESET_IN_STREAM: Outcome.TRUNCATED,
    Fault.NO_END_MARKER: Outcome.TRUNCATED,
    Fault.HALF_EVENT: Outcome.TRUNCATED,
    Fault.BAD_JSON: Outcome.MALFORMED,
    Fault.LENGTH_TOO_LONG: Outcome.TRUNCATED,
    Fault.LENGTH_TOO_SHORT: Outcome.TRUNCATED,
    Fault.AFTER_THE_END: Outcome.MALFORMED,
    Fault.STALL: Outcome.TIMEOUT_IDLE,
    Fault.ENDLESS_PINGS: Outcome.TIMEOUT_TOTAL,
}


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_every_fault_has_its_outcome(traffic: Callable[..., Any], tmp_path: Path, api: str) -> None:
    assert set(EXPECTED) == set(Fault)
    faults = tuple(EXPECTED)
    with PacedServer(Pace(ttft_ms=5, gap_ms=2, faults=faults), tmp_path / "truth") as server:
        limits = {"first_byte_s": 0.4, "idle_s": 0.5, "total_s": 1.2}
        one = traffic([server.url], [closed(concurrency=6, sessions=len(faults))], api=api, timeouts=limits)
        rows = run(one)
        server.stop()
        played = {line["request_id"]: line["fault"] for line in server.truth()}
    got = {Fault(played[row["request_id"]]): row for row in rows}
    assert {fault: row["outcome"] for fault, row in got.items()} == {fault: outcome.value for fault, outcome in EXPECTED.items()}
    assert all(row["error"] for row in rows if row["outcome"] != "ok")
    assert all(row["done_ns"] is not None and row["sent_ns"] is not None for row in rows)

    same = [{key: got[fault][key] for key in ("output_tok", "stop_reason", "content_kinds", "http_status")} for fault in SAME_RECORD]
    assert all(one == same[0] for one in same)
    assert {sum(got[fault]["chunk_bytes"]) for fault in SAME_RECORD} == {sum(got[Fault.NONE]["chunk_bytes"])}
    assert (got[Fault.RATE_LIMITED]["http_status"], got[Fault.RATE_LIMITED]["retry_after_s"]) == (429, 2.0)
    assert (got[Fault.OVERLOADED]["http_status"], got[Fault.OVERLOADED]["retry_after_s"]) == (529, 1.5)
    assert got[Fault.UNAVAILABLE]["retry_after_s"] > 0
    assert got[Fault.NO_USAGE]["output_tok"] is None
    assert got[Fault.NO_USAGE]["input_tok"] is None
    cached = got[Fault.CACHE_USAGE]
    assert cached["cache_read_tok"] == cached["input_tok"] // 2
    assert cached["cache_write_tok"] == (cached["input_tok"] // 4 if api == "messages" else None)
    for fault in SAME_RECORD:
        row = got[fault]
        assert row["stop_reason"] == ("max_tokens" if api == "messages" else "length")
        assert len(row["chunk_dt_us"]) == len(row["chunk_bytes"])
        if api == "chat":  # this API tells how many tokens each chunk holds
            assert len(row["chunk_tok"]) == len(row["chunk_dt_us"])
            assert sum(row["chunk_tok"]) == row["output_tok"] == 6
        else:
            assert row["chunk_tok"] is None
    for fault in (Fault.STALL, Fault.ENDLESS_PINGS, Fault.TRUNCATED, Fault.ERROR_EVENT):
        assert sum(got[fault]["chunk_bytes"]) == len(" the load is")  # what came before the fault is kept
    assert got[Fault.ENDLESS_PINGS]["last_token_ns"] < got[Fault.ENDLESS_PINGS]["done_ns"]


def test_a_failed_turn_ends_its_conversation(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=2, gap_ms=1, faults=(Fault.NONE, Fault.RATE_LIMITED, Fault.NONE))) as server:
        one = traffic([server.url], [closed(concurrency=1, sessions=2)], workload={"turns": 3, "think_s": 0.01})
        rows = run(one)
    assert [(row["session_id"], row["turn"], row["outcome"]) for row in rows] == [
        ("0-000000", 0, "ok"), ("0-000000", 1, "http_error"),
        ("0-000001", 0, "ok"), ("0-000001", 1, "ok"), ("0-000001", 2, "http_error"),
    ]  # fmt: skip
    (ended,) = one.named("stage_ended")
    assert ended["turns_not_happened"] == 1
    assert ended["turns_cut"] == 0


def test_over_the_cap_requests_are_dropped_and_never_sent(traffic: Callable[..., Any], tmp_path: Path) -> None:
    with PacedServer(Pace(ttft_ms=300, gap_ms=1), tmp_path / "truth") as server:
        one = traffic([server.url], [opened(rate_per_s=50, process="constant", sessions=20, max_in_flight=3)])
        rows = run(one)
        server.stop()
        asked = len(server.truth())
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes["ok"] + outcomes["dropped"] == 20
    assert outcomes["ok"] == asked >= 3
    dropped = [row for row in rows if row["outcome"] == "dropped"]
    assert dropped
    assert all(row["sent_ns"] is None and row["replica"] is None and row["output_tok"] is None for row in dropped)
    assert one.named("progress")[-1]["dropped"] == len(dropped)
    # at any time at most three were in flight
    marks = sorted([(row["sent_ns"], 1) for row in rows if row["sent_ns"]] + [(row["done_ns"], -1) for row in rows if row["sent_ns"]])
    level = 0
    for _, step in marks:
        level += step
        assert level <= 3


def test_one_worker_and_two_send_the_same(traffic: Callable[..., Any], tmp_path: Path) -> None:
    seen = {}
    for workers in (1, 2):
        with PacedServer(Pace(ttft_ms=5, gap_ms=1, hash_bodies=True), tmp_path / f"truth-{workers}") as server:
            load = [closed(sessions=10), opened(sessions=10)]
            one = traffic([server.url], load, workers=workers, workload={"turns": {"kind": "geometric", "mean": 2}, "think_s": 0.01})
            rows = run(one)
            if workers == 2:
                assert {row["worker"] for row in rows} == {0, 1}
            server.stop()
            seen[workers] = Counter((line["request_id"], line["body_sha256"]) for line in server.truth())
        assert {row["outcome"] for row in rows} == {"ok"}
        assert [event["stage"] for event in one.named("stage_ended")] == ["closed", "open"]
    assert seen[1] == seen[2]
    assert max(seen[1].values()) == 1


def test_least_busy_avoids_the_slow_replica(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=800, gap_ms=1)) as slow, PacedServer(Pace(ttft_ms=5, gap_ms=1)) as quick:
        load = [opened(rate_per_s=60, process="constant", sessions=40)]
        rows = run(traffic([slow.url, quick.url], load, routing="least_busy"))
    assert {row["outcome"] for row in rows} == {"ok"}
    assert 1 <= Counter(row["replica"] for row in rows)["replica-0"] < 15


def test_load_goes_on_until_the_windows_requests_have_ended(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=500, gap_ms=1)) as server:
        one = traffic([server.url], [opened(rate_per_s=30, process="constant", window_s=0.4)])
        rows = run(one)
    (started,), (ended,) = one.named("stage_started"), one.named("stage_ended")
    assert {row["outcome"] for row in rows} == {"ok"}
    inside = [row for row in rows if row["intended_ns"] < started["window_end_ns"]]
    behind = [row for row in rows if row["intended_ns"] >= started["window_end_ns"]]
    assert len(inside) == 11  # every 33 ms for 400 ms
    assert behind  # the load went on while the last of them was answered
    assert max(row["intended_ns"] for row in behind) <= max(row["done_ns"] for row in inside) + 0.3 * SECOND
    assert ended["end_ns"] >= max(row["done_ns"] for row in rows)


def test_what_outlasts_the_drain_is_interrupted(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=1, faults=(Fault.NONE, Fault.STALL_FIRST))) as server:
        rows = run(traffic([server.url], [closed(concurrency=2, window_s=0.3)], drain_timeout_s=0.4))
    stuck = [row for row in rows if row["outcome"] != "ok"]
    assert {row["outcome"] for row in stuck} == {"interrupted"}
    assert all("drain timeout of 0.4 s" in row["error"] for row in stuck)
    assert all(row["sent_ns"] is not None for row in stuck)


@pytest.mark.parametrize("drain", [True, False])
def test_stop_keeps_every_request(traffic: Callable[..., Any], tmp_path: Path, deadline: Callable[..., Any], drain: bool) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=20), tmp_path / "truth") as server:
        one = traffic([server.url], [closed(window_s=60), opened(window_s=60)], workload={"output_tok": 30})
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event["sent"] >= 8 for event in one.named("progress")))
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
            assert row["error"] == "the run was stopped"
            assert row["done_ns"] >= row["sent_ns"]
    assert one.named("finished")[-1]["interrupted"]
    assert not one.named("stage_started")[1:]  # the second stage never began


def test_sigterm_to_a_worker_loses_no_record(traffic: Callable[..., Any], tmp_path: Path, deadline: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=50), tmp_path / "truth") as server:
        one = traffic([server.url], [closed(window_s=60)], workload={"output_tok": 1000})
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event["in_flight"] == 4 for event in one.named("progress")))
            os.kill(driver.pids()["traffic:0"], signal.SIGTERM)
            deadline(lambda: driver.wait(0.1))
        server.stop()
        asked = sorted(line["request_id"] for line in server.truth())
    rows = one.rows()
    assert sorted(row["request_id"] for row in rows) == asked
    assert {row["outcome"] for row in rows} == {"interrupted"}


def test_a_killed_worker_fails_the_run_and_leaves_its_records(traffic: Callable[..., Any], deadline: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=5, gap_ms=1)) as server:
        one = traffic([server.url], [closed(window_s=60)])
        with one.driver as driver:
            driver.start()
            driver.go(now_ns())
            deadline(lambda: any(event["ok"] >= 20 for event in one.named("progress")))
            deadline(lambda: len(one.rows()) >= 20)
            pid = driver.pids()["traffic:0"]
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(TrafficError, match="SIGKILL"):
                deadline(lambda: driver.wait(0.1))
        assert not psutil.pid_exists(pid)
    assert len(one.rows()) >= 20
    assert one.named("error")


def test_a_journal_that_cannot_be_written_fails_the_run(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=5, gap_ms=1)) as server:
        one = traffic([server.url], [closed(sessions=3)])
        one.run_dir.requests_dir.mkdir(parents=True)
        one.run_dir.requests_journal(0).touch()  # it is there already: this worker cannot have it
        with one.driver as driver, pytest.raises(TrafficError, match=r"worker-0\.arrows"):
            driver.start()


def test_nobody_listening_is_a_connection_error(traffic: Callable[..., Any]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        rows = run(traffic([f"http://127.0.0.1:{nobody.getsockname()[1]}"], [opened(sessions=3)]))
    assert [row["outcome"] for row in rows] == ["connection_error"] * 3
    assert all(row["sent_ns"] is None and "refused" in row["error"] for row in rows)


def test_the_key_is_sent_and_nowhere_else(traffic: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = traffic([f"http://127.0.0.1:{listener.getsockname()[1]}"], [opened(sessions=1)], timeouts={"first_byte_s": 0.5})
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
    assert not any(b"k3y" in path.read_bytes() for path in one.run_dir.root.rglob("*") if path.is_file())


def test_the_processes_end_with_a_killed_supervisor(tmp_path: Path, deadline: Callable[..., Any]) -> None:
    """kill -9 of the supervisor: workers and master end, and what was in flight is in the journals."""
    script = tmp_path / "supervise.py"
    script.write_text(
        textwrap.dedent(f"""
        import importlib.util, json, sys, time
        from pathlib import Path
        from harness.core.clock import now_ns
        spec = importlib.util.spec_from_file_location("parts", {str(Path(__file__).with_name("conftest.py"))!r})
        parts = importlib.util.module_from_spec(spec)
        sys.modules["parts"] = parts
        spec.loader.exec_module(parts)
        load = [{{"kind": "concurrency", "concurrency": 4, "window_s": 60}}]
        one = parts.Traffic(Path(sys.argv[2]), [sys.argv[1]], load, workers=2, workload={{"output_tok": 1000}})
        one.driver.start()
        one.driver.go(now_ns())
        while not any(event["in_flight"] == 4 for event in list(one.events) if event["event"] == "progress"):
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
        deadline(lambda: not any(process.is_running() and process.status() != "zombie" for process in processes))
    from harness.artifacts.journal import read_table
    from harness.artifacts.tables import REQUESTS

    rows = read_table(sorted((tmp_path / "run" / "requests").iterdir()), REQUESTS).to_pylist()
    assert [row["outcome"] for row in rows] == ["interrupted"] * 4


def test_tls_with_a_private_authority(traffic: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that the TLS layer holds is drained: an answer of several records in one read comes whole."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    script = tmp_path / "serve.py"
    script.write_text(
        textwrap.dedent("""
        import socket, ssl, sys
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1], flush=True)
        event = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"' + b"x" * 900 + b'"}}\\n\\n'
        body = event * 100 + b'data: {"type":"message_stop"}\\n\\n'
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
    with subprocess.Popen([sys.executable, str(script), str(cert), str(key)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"https://localhost:{server.stdout.readline().strip()}"
            rows = run(traffic([url], [closed(concurrency=1, sessions=2)], timeouts={"idle_s": 3, "first_byte_s": 3}))
        finally:
            server.kill()
    assert [row["outcome"] for row in rows] == ["ok", "ok"], rows  # the second on the same connection
    assert [sum(row["chunk_bytes"]) for row in rows] == [90_000, 90_000]
    assert ssl.OPENSSL_VERSION


def test_locust_stays_out_of_the_supervisor() -> None:
    code = "import sys, harness.traffic.driver; print([m for m in sys.modules if m.split('.')[0] in ('locust', 'gevent', 'pandas')])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == "[]"
