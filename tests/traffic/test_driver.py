"""The load generator as a whole: real Locust processes against the paced server, judged by their
records and the server's truth.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.progress import TrafficProgress
from harness.core.records import Outcome
from harness.reference_server.faults import Fault
from harness.reference_server.server import Pace, PacedServer
from harness.traffic.events import Finished, StageEnded, StageStarted

SECOND = 1_000_000_000

SAME_RECORD = (
    Fault.NONE,
    Fault.CRLF,
    Fault.SPLIT_BYTES,
    Fault.SEVERAL_PER_WRITE,
    Fault.COMMENTS,
    Fault.EVENT_OVER_WRITES,
    Fault.CONTENT_LENGTH,
    Fault.UNTIL_CLOSE,
)
"""Answers whose records may differ in times and sizes only."""


def closed(**more: Any) -> dict[str, Any]:
    return {"kind": "concurrency", "concurrency": 4, "name": "closed"} | more


def opened(**more: Any) -> dict[str, Any]:
    return {"kind": "arrival_rate", "rate_per_s": 40, "name": "open"} | more


def test_two_stages_window_and_sessions(traffic: Callable[..., Any], tmp_path: Path) -> None:
    pace = Pace(ttft_ms=20, gap_ms=4)
    with (
        PacedServer(pace, tmp_path / "truth-0") as first,
        PacedServer(pace, tmp_path / "truth-1") as second,
    ):
        load = [closed(warmup_s=0.2, window_s=0.6), opened(sessions=12)]
        one = traffic([first.url, second.url], load, workload={"turns": 2, "think_s": 0.05})
        rows = one.run()
        first.stop()
        second.stop()
        lines = [
            (line, replica)
            for replica, server in enumerate((first, second))
            for line in server.truth()
        ]
    truth = {line["request_id"]: line for line, _ in lines}
    assert {row["outcome"] for row in rows} == {"ok"}
    # nothing lost, nothing invented, nothing sent twice; conversations go round the replicas and
    # stay where they are
    assert sorted((line["request_id"], f"replica-{replica}") for line, replica in lines) == sorted(
        (row["request_id"], row["replica"]) for row in rows
    )
    assert all(
        row["replica"] == f"replica-{int(row['session_id'].split('-')[1]) % 2}" for row in rows
    )

    started, ended = one.named(StageStarted), one.named(StageEnded)
    assert (
        [event.stage for event in started] == [event.stage for event in ended] == ["closed", "open"]
    )
    window = started[0]
    assert window.window_start_ns - window.start_ns == 0.2 * SECOND
    assert (
        window.window_end_ns - window.window_start_ns
        == 0.6 * SECOND
        == ended[0].window_end_ns - window.window_start_ns
    )
    assert started[1].window_end_ns is None
    assert started[1].start_ns >= ended[0].end_ns  # stages do not overlap
    assert [event.interrupted for event in one.named(Finished)] == [False]
    assert one.named(TrafficProgress)[-1].ok == len(rows)

    by_stage = {name: [row for row in rows if row["stage"] == name] for name in ("closed", "open")}
    in_flight_when_closed = [
        row for row in by_stage["closed"] if row["intended_ns"] < window.window_end_ns
    ]
    assert all(row["done_ns"] <= ended[0].end_ns for row in in_flight_when_closed)
    assert len(by_stage["open"]) == 24  # all turns of the 12 sessions
    for row in by_stage["open"]:
        if row["turn"] == 0:
            number = int(row["session_id"].split("-")[1])
            planned = next(s for s in one.plan.sessions(1) if s.number == number)
            assert row["intended_ns"] == started[1].start_ns + planned.intended_offset_ns
    done = {(row["session_id"], row["turn"]): row["done_ns"] for row in rows}
    later = [row for row in rows if row["turn"] == 1]
    assert later
    for row in later:
        gap_ns = (
            one.plan.session(
                0 if row["stage"] == "closed" else 1, int(row["session_id"].split("-")[1])
            )
            .turns[1]
            .gap_ns
        )
        assert row["intended_ns"] == done[row["session_id"], 0] + gap_ns

    for row in rows:
        written = truth[row["request_id"]]["content_ns"]
        assert row["intended_ns"] <= row["sent_ns"] <= row["first_byte_ns"] <= row["first_token_ns"]
        assert row["first_token_ns"] <= row["last_token_ns"] <= row["done_ns"]
        assert row["first_token_ns"] >= written[0]
        assert row["last_token_ns"] >= written[-1]
        assert (row["output_tok"], row["target_output_tok"], row["stop_reason"]) == (
            6,
            6,
            "max_tokens",
        )
        assert row["input_tok"] == max(1, row["request_bytes"] // 4)
        assert (row["worker"], row["class"], row["content_kinds"]) == (0, "chat", ["text"])
        assert row["chunk_dt_us"][0] == 0
        assert sum(row["chunk_bytes"]) == sum(
            len(word.encode()) for word in (" the", " load", " is", " paced", " by", " a")
        )


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


@pytest.mark.parametrize("api", ["messages", "chat", "completions", "responses"])
def test_every_fault_has_its_outcome(traffic: Callable[..., Any], tmp_path: Path, api: str) -> None:
    assert set(EXPECTED) == set(Fault)
    faults = tuple(EXPECTED)
    with PacedServer(Pace(ttft_ms=5, gap_ms=2, faults=faults), tmp_path / "truth") as server:
        limits = {"first_byte_s": 0.4, "idle_s": 0.5, "total_s": 1.2}
        one = traffic(
            [server.url], [closed(concurrency=6, sessions=len(faults))], api=api, timeouts=limits
        )
        rows = one.run()
        server.stop()
        played = {line["request_id"]: line["fault"] for line in server.truth()}
    got = {Fault(played[row["request_id"]]): row for row in rows}
    assert {fault: row["outcome"] for fault, row in got.items()} == {
        fault: outcome.value for fault, outcome in EXPECTED.items()
    }
    assert all(row["error"] for row in rows if row["outcome"] != "ok")
    assert all(row["done_ns"] is not None and row["sent_ns"] is not None for row in rows)

    same = [
        {
            key: got[fault][key]
            for key in ("output_tok", "stop_reason", "content_kinds", "http_status")
        }
        for fault in SAME_RECORD
    ]
    assert all(one == same[0] for one in same)
    assert {sum(got[fault]["chunk_bytes"]) for fault in SAME_RECORD} == {
        sum(got[Fault.NONE]["chunk_bytes"])
    }
    assert (got[Fault.RATE_LIMITED]["http_status"], got[Fault.RATE_LIMITED]["retry_after_s"]) == (
        429,
        2.0,
    )
    assert (got[Fault.OVERLOADED]["http_status"], got[Fault.OVERLOADED]["retry_after_s"]) == (
        529,
        1.5,
    )
    assert got[Fault.UNAVAILABLE]["retry_after_s"] > 0
    assert got[Fault.NO_USAGE]["output_tok"] is None
    assert got[Fault.NO_USAGE]["input_tok"] is None
    cached = got[Fault.CACHE_USAGE]
    assert cached["cache_read_tok"] == cached["input_tok"] // 2
    assert cached["cache_write_tok"] == (cached["input_tok"] // 4 if api == "messages" else None)
    for fault in SAME_RECORD:
        row = got[fault]
        assert row["stop_reason"] == {
            "messages": "max_tokens",
            "responses": "max_output_tokens",
        }.get(api, "length")
        assert len(row["chunk_dt_us"]) == len(row["chunk_bytes"])
        if api in ("chat", "completions"):  # these APIs tell how many tokens each chunk holds
            assert len(row["chunk_tok"]) == len(row["chunk_dt_us"])
            assert sum(row["chunk_tok"]) == row["output_tok"] == 6
        else:
            assert row["chunk_tok"] is None
    for fault in (Fault.STALL, Fault.ENDLESS_PINGS, Fault.TRUNCATED, Fault.ERROR_EVENT):
        assert sum(got[fault]["chunk_bytes"]) == len(
            " the load is"
        )  # what came before the fault is kept
    assert got[Fault.ENDLESS_PINGS]["last_token_ns"] < got[Fault.ENDLESS_PINGS]["done_ns"]


def test_a_failed_turn_ends_its_conversation(traffic: Callable[..., Any]) -> None:
    with PacedServer(
        Pace(ttft_ms=2, gap_ms=1, faults=(Fault.NONE, Fault.RATE_LIMITED, Fault.NONE))
    ) as server:
        one = traffic(
            [server.url],
            [closed(concurrency=1, sessions=2)],
            workload={"turns": 3, "think_s": 0.01},
        )
        rows = one.run()
    assert [(row["session_id"], row["turn"], row["outcome"]) for row in rows] == [
        ("0-000000", 0, "ok"),
        ("0-000000", 1, "http_error"),
        ("0-000001", 0, "ok"),
        ("0-000001", 1, "ok"),
        ("0-000001", 2, "http_error"),
    ]
    (ended,) = one.named(StageEnded)
    assert ended.turns_not_happened == 1
    assert ended.turns_cut == 0


def test_over_the_cap_requests_are_dropped_and_never_sent(
    traffic: Callable[..., Any], tmp_path: Path
) -> None:
    with PacedServer(Pace(ttft_ms=300, gap_ms=1), tmp_path / "truth") as server:
        one = traffic(
            [server.url], [opened(rate_per_s=50, process="constant", sessions=20, max_in_flight=3)]
        )
        rows = one.run()
        server.stop()
        asked = len(server.truth())
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes["ok"] + outcomes["dropped"] == 20
    assert outcomes["ok"] == asked >= 3
    dropped = [row for row in rows if row["outcome"] == "dropped"]
    assert dropped
    assert all(
        row["sent_ns"] is None and row["replica"] is None and row["output_tok"] is None
        for row in dropped
    )
    assert one.named(TrafficProgress)[-1].dropped == len(dropped)
    # at any time at most three were in flight
    marks = sorted(
        [(row["sent_ns"], 1) for row in rows if row["sent_ns"]]
        + [(row["done_ns"], -1) for row in rows if row["sent_ns"]]
    )
    level = 0
    for _, step in marks:
        level += step
        assert level <= 3


def test_one_worker_and_two_send_the_same(traffic: Callable[..., Any], tmp_path: Path) -> None:
    seen = {}
    for workers in (1, 2):
        with PacedServer(
            Pace(ttft_ms=5, gap_ms=1, hash_bodies=True), tmp_path / f"truth-{workers}"
        ) as server:
            load = [closed(sessions=10), opened(sessions=10)]
            one = traffic(
                [server.url],
                load,
                workers=workers,
                workload={"turns": {"kind": "geometric", "mean": 2}, "think_s": 0.01},
            )
            rows = one.run()
            if workers == 2:
                assert {row["worker"] for row in rows} == {0, 1}
            server.stop()
            seen[workers] = Counter(
                (line["request_id"], line["body_sha256"]) for line in server.truth()
            )
        assert {row["outcome"] for row in rows} == {"ok"}
        assert [event.stage for event in one.named(StageEnded)] == ["closed", "open"]
    assert seen[1] == seen[2]
    assert max(seen[1].values()) == 1


def test_least_busy_avoids_the_slow_replica(traffic: Callable[..., Any]) -> None:
    with (
        PacedServer(Pace(ttft_ms=1500, gap_ms=1)) as slow,
        PacedServer(Pace(ttft_ms=5, gap_ms=1)) as quick,
    ):
        load = [opened(rate_per_s=30, process="constant", sessions=40)]
        rows = traffic([slow.url, quick.url], load, routing="least_busy").run()
    assert {row["outcome"] for row in rows} == {"ok"}
    assert 1 <= Counter(row["replica"] for row in rows)["replica-0"] < 15


def test_load_goes_on_until_the_windows_requests_have_ended(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=500, gap_ms=1)) as server:
        one = traffic([server.url], [opened(rate_per_s=30, process="constant", window_s=0.4)])
        rows = one.run()
    (started,), (ended,) = one.named(StageStarted), one.named(StageEnded)
    assert {row["outcome"] for row in rows} == {"ok"}
    inside = [row for row in rows if row["intended_ns"] < started.window_end_ns]
    behind = [row for row in rows if row["intended_ns"] >= started.window_end_ns]
    assert len(inside) == 11  # every 33 ms for 400 ms
    assert behind  # the load went on while the last of them was answered
    assert ended.end_ns >= max(row["done_ns"] for row in rows)


def test_what_outlasts_the_drain_is_interrupted(traffic: Callable[..., Any]) -> None:
    with PacedServer(Pace(ttft_ms=10, gap_ms=1, faults=(Fault.NONE, Fault.STALL_FIRST))) as server:
        rows = traffic(
            [server.url], [closed(concurrency=2, window_s=0.3)], drain_timeout_s=0.4
        ).run()
    stuck = [row for row in rows if row["outcome"] != "ok"]
    assert {row["outcome"] for row in stuck} == {"interrupted"}
    assert all("0.4 s" in row["error"] for row in stuck)
    assert all(row["sent_ns"] is not None for row in stuck)
