"""Subagents on the wire: started by the end of the turn that calls them, awaited by the next, in
their parent's worker.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.progress import TrafficProgress
from harness.plan.bodies import Conversation
from harness.plan.prompt_text import Texts
from harness.reference_server.faults import Fault
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic.events import StageEnded

WORKLOAD = {
    "kind": "claude-code",
    "tools_tok": 400,
    "tools": 8,
    "system_tok": 40,
    "first_tok": 30,
    "resumed_share": 0,
    "append_tok": 20,
    "output_tok": 20,
    "requests": 4,
    "tool_use_share": 1,
    "tool_gap_s": "20ms",
    "user_gap_s": "20ms",
    "context_limit_tok": 8000,
    "subagents": {
        "share": 0.6,
        "requests": 2,
        "first_tok": 50,
        "append_tok": 20,
        "tools_tok": 200,
        "tools": 4,
        "system_tok": 30,
    },
}


def test_a_subagent_runs_between_the_turn_that_starts_it_and_the_next(
    traffic: Callable[..., Any], tmp_path: Path
) -> None:
    """Two workers send what the plan has and nothing else, with the bytes that any process makes of
    it.
    """
    with PacedServer(Pace(ttft_ms=5, gap_ms=1, hash_bodies=True), tmp_path / "truth") as server:
        load = [{"kind": "concurrency", "concurrency": 3, "sessions": 8}]
        one = traffic([server.url], load, replace_workload=WORKLOAD, workers=2)
        rows = {row["request_id"]: row for row in one.run()}
        server.stop()
        sent = {line["request_id"]: line["body_sha256"] for line in server.truth()}
    assert {row["outcome"] for row in rows.values()} == {"ok"}
    texts = Texts(one.plan.seed, one.plan.tok_per_word)
    children, bodies = 0, {}
    for session in (one for top in one.plan.sessions(0) for one in top.tree()):
        talk = Conversation(session, one.plan.settings, MODEL, texts)
        for turn in session.turns:
            bodies[f"{session.session_id}/{turn.index}"] = hashlib.sha256(
                talk.body(turn.index)
            ).hexdigest()
            row = rows[f"{session.session_id}/{turn.index}"]
            assert (row["worker"], row["class"]) == (session.slot % 2, session.workload_class)
            for child in session.subagents(turn):
                last = rows[f"{child.session_id}/{child.turns[-1].index}"]
                assert rows[f"{child.session_id}/0"]["intended_ns"] == row["done_ns"]
                assert (
                    rows[f"{session.session_id}/{turn.index + 1}"]["intended_ns"] == last["done_ns"]
                )
                children += 1
    assert sent == bodies
    assert children > 4
    (ended,) = one.named(StageEnded)
    assert (ended.turns_not_happened, ended.turns_cut) == (0, 0)
    assert max(event.live_sessions for event in one.named(TrafficProgress)) <= 3


def test_a_parent_goes_on_when_its_subagent_fails_and_what_is_lost_is_counted(
    traffic: Callable[..., Any],
) -> None:
    workload = {
        **WORKLOAD,
        "requests": 3,
        "subagents": {**WORKLOAD["subagents"], "share": 0.9, "requests": 3},
    }  # type: ignore[dict-item]
    # The parent's first answer, then its subagent's: the second request of the run fails.
    with PacedServer(
        Pace(ttft_ms=2, gap_ms=1, faults=(Fault.NONE, Fault.RATE_LIMITED, *(Fault.NONE,) * 30))
    ) as server:
        one = traffic(
            [server.url],
            [{"kind": "concurrency", "concurrency": 1, "sessions": 1}],
            replace_workload=workload,
        )
        rows = one.run()
    (session,) = one.plan.sessions(0)
    assert session.turns[0].subagents
    assert session.turns[1].subagents
    ids = [row["request_id"] for row in rows]
    assert ids[:3] == ["0-000000/0", "0-000000.0/0", "0-000000/1"]
    assert [row["outcome"] for row in rows[:3]] == ["ok", "http_error", "ok"]
    assert ids[3:] == ["0-000000.1/0", "0-000000.1/1", "0-000000.1/2", "0-000000/2"]
    assert rows[2]["intended_ns"] >= rows[1]["done_ns"]
    assert one.named(StageEnded)[0].turns_not_happened == 2
