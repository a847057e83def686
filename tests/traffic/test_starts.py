"""How conversations begin and end: primed in their middle, given up by their user, at the times of
a trace.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.progress import TrafficProgress
from harness.plan.types import PRIME_SUFFIX
from harness.reference_server.server import Pace, PacedServer
from harness.traffic.events import StageEnded, StagePrimed, StageStarted

CHAT = {"turns": 6, "think_s": "60ms"}


@pytest.mark.parametrize("workers", [1, 2])
def test_conversations_in_their_middle_are_primed_before_the_stage_begins(
    traffic: Callable[..., Any], tmp_path: Path, workers: int
) -> None:
    load = [
        {"kind": "concurrency", "concurrency": 6, "sessions": 9, "start": "steady", "name": "s"}
    ]
    with PacedServer(Pace(ttft_ms=5, gap_ms=2), tmp_path / "truth") as server:
        one = traffic([server.url], load, workload=CHAT, workers=workers)
        rows = one.run()
    sessions = {session.session_id: session for session in one.plan.sessions(0)}
    primes = {row["session_id"]: row for row in rows if row["class"] == f"chat{PRIME_SUFFIX}"}
    started_ns = one.named(StageStarted)[0].start_ns
    assert set(primes) == {name for name, session in sessions.items() if session.primed}
    assert len(primes) > 2
    for name, row in primes.items():
        assert (row["outcome"], row["turn"], row["target_output_tok"]) == (
            "ok",
            sessions[name].first_turn - 1,
            1,
        )
        assert row["done_ns"] < started_ns
    [primed] = one.named(StagePrimed)
    assert (primed.primed, primed.failed) == (len(primes), 0)
    assert primed.end_ns <= started_ns

    load_rows = [row for row in rows if row["class"] == "chat"]
    sent = {(row["session_id"], row["turn"]) for row in load_rows}
    assert sent == {
        (name, turn.index) for name, session in sessions.items() for turn in session.live_turns
    }
    for row in load_rows:
        session = sessions[row["session_id"]]
        if session.primed and row["turn"] == session.first_turn:
            assert row["intended_ns"] == started_ns + session.first_gap_ns
    assert one.named(StageEnded)[0].turns_cut == 0


def test_a_user_who_gives_up_cancels_the_stream(
    traffic: Callable[..., Any], tmp_path: Path
) -> None:
    workload = {**CHAT, "output_tok": 400, "abandon_share": 0.4, "abandon_after_s": "150ms"}
    with PacedServer(Pace(ttft_ms=5, gap_ms=2), tmp_path / "truth") as server:
        one = traffic(
            [server.url],
            [{"kind": "concurrency", "concurrency": 4, "sessions": 8}],
            workload=workload,
        )
        rows = one.run()
    planned = {(s.session_id, t.index): t for s in one.plan.sessions(0) for t in s.turns}
    assert {(row["session_id"], row["turn"]) for row in rows} == set(planned)
    given_up = [
        row for row in rows if planned[row["session_id"], row["turn"]].cancel_after_ns is not None
    ]
    assert given_up
    assert {row["outcome"] for row in given_up} == {"cancelled"}
    assert {row["outcome"] for row in rows if row not in given_up} <= {"ok"}
    for row in given_up:
        assert row["done_ns"] - row["sent_ns"] >= 150_000_000
        assert len(row["chunk_bytes"]) > 0  # in mid-stream
        assert row["error"]
    assert one.named(StageEnded)[0].turns_not_happened == 0
    progress = one.named(TrafficProgress)
    assert progress
    assert (
        max(told.failed for told in progress) == 0
    )  # on the console too, what the plan cancelled is no failure


def test_a_trace_is_replayed_at_its_times_and_turns_wait_for_answers(
    traffic: Callable[..., Any], tmp_path: Path
) -> None:
    """Two turns of one conversation, 50 ms apart in the trace: the second waits for the first
    answer. Another comes at its own time.
    """
    trace = tmp_path / "trace.csv"
    trace.write_text(
        "t_s,input_tok,output_tok,session_id\n0,60,30,a\n0.05,120,5,a\n0.2,50,5,b\n0.9,150,5,a\n"
    )
    with PacedServer(Pace(ttft_ms=100, gap_ms=5), tmp_path / "truth") as server:
        workload = {"kind": "replay", "path": str(trace)}
        one = traffic([server.url], [{"kind": "replay"}], replace_workload=workload)
        rows = one.run()
    started_ns = one.named(StageStarted)[0].start_ns
    by_id = {(row["session_id"], row["turn"]): row for row in rows}
    a, b = [session.session_id for session in one.plan.sessions(0)]
    assert set(by_id) == {(a, 0), (a, 1), (a, 2), (b, 0)}
    assert all(row["outcome"] == "ok" for row in rows)
    assert by_id[a, 0]["intended_ns"] == started_ns
    assert by_id[b, 0]["intended_ns"] == started_ns + 200_000_000
    gap_ns = next(one.plan.sessions(0)).turns[1].gap_ns
    assert by_id[a, 1]["intended_ns"] == by_id[a, 0]["done_ns"] + gap_ns > started_ns + 50_000_000
    assert by_id[a, 2]["intended_ns"] >= started_ns + 900_000_000


def test_a_closed_loop_over_a_trace_ends_with_the_trace(
    traffic: Callable[..., Any], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        "".join(f'{{"t_s": {i}, "input_tok": 40, "output_tok": 3}}\n' for i in range(7))
    )
    with PacedServer(Pace(ttft_ms=5, gap_ms=2), tmp_path / "truth") as server:
        load = [{"kind": "concurrency", "concurrency": 3, "window_s": 20}]
        one = traffic(
            [server.url], load, replace_workload={"kind": "replay", "path": str(trace)}, workers=2
        )
        rows = one.run()
    assert sorted(row["session_id"] for row in rows) == [f"0-{number:06d}" for number in range(7)]
