"""A subagent is started by a tool call of its parent, which waits for it; a session with its
subagents is one unit of the plan.
"""

import itertools
import json

import pytest

from harness.api.parts import PartKind
from harness.plan.bodies import Conversation
from harness.plan.plan_table import PlanTotals, plan_rows
from harness.plan.prompt_text import Texts
from harness.plan.residual_life import REQUEST_NS, span_ns
from harness.plan.traces import open_trace
from harness.plan.workloads.replay import ReplayTally, replay_sessions

CLOSED = {"kind": "concurrency", "concurrency": 3, "sessions": 60}
WORKLOAD = {"kind": "claude-code", "subagents": {"share": 0.4, "requests": 4}, "requests": 12}


@pytest.fixture(name="plan", scope="module")
def _plan(make):
    return make(WORKLOAD, CLOSED, context=65536)


def starts(session):
    """Turns that start something, with the turn after each."""
    return [(a, b) for a, b in itertools.pairwise(session.turns) if a.subagents]


def test_a_tool_call_starts_it_and_the_next_turn_waits_for_nothing_else(plan):
    seen = 0
    for session in plan.sessions(0):
        assert not session.turns[-1].subagents  # nobody would wait for it
        for caller, follower in starts(session):
            (call,) = [part for part in caller.reply.parts if part.kind is PartKind.TOOL_USE]
            assert call.tool_name == "Task"
            assert follower.message.parts[0].tool_id == call.tool_id or follower.keeps is not None
            assert follower.gap_ns == 0
            (child,) = session.subagents(caller)
            assert child.session_id == f"{session.session_id}.{caller.index}"
            assert child.parent_request_id == f"{session.session_id}/{caller.index}"
            assert (child.slot, child.stage, child.number) == (
                session.slot,
                session.stage,
                session.number,
            )
            assert child.workload_class == "claude-code/subagent"
            assert child.turns[0].gap_ns == 0
            seen += 1
    # share / (1 - share) of 60 sessions, three standard deviations
    assert seen == pytest.approx(60 * 0.4 / 0.6, abs=3 * 40**0.5)


def test_the_rest_of_a_session_does_not_depend_on_its_subagents(make, plan):
    alone = make({**WORKLOAD, "subagents": {"share": 0}}, CLOSED, context=65536)
    for ours, theirs in zip(plan.sessions(0), alone.sessions(0), strict=True):
        assert [turn.target_input_tok for turn in ours.turns] == [
            turn.target_input_tok for turn in theirs.turns
        ]
        assert [turn.message for turn in ours.turns] == [turn.message for turn in theirs.turns]
    assert alone.plan_sha256 != plan.plan_sha256
    assert alone.workload_sha256 != plan.workload_sha256


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_together_send_the_trees_that_one_sends(plan, workers):
    alone = {one.session_id: one for session in plan.sessions(0) for one in session.tree()}
    shared = {}
    for worker in range(workers):
        for session in plan.sessions(0, worker=worker, workers=workers):
            for one in session.tree():
                assert one.slot % workers == worker
                assert one.session_id not in shared
                shared[one.session_id] = one
    assert shared == alone


def test_its_requests_are_rows_of_the_plan_with_the_request_that_starts_them(plan):
    totals = PlanTotals()
    rows = {row["request_id"]: row for row in plan_rows(plan, totals)}
    children = [row for row in rows.values() if row["parent_request_id"]]
    assert {row["class"] for row in children} == {"claude-code/subagent"}
    for row in children:
        assert (row["turn"], row["intended_offset_ns"], row["gap_ns"]) == (0, None, None)
        assert rows[row["parent_request_id"]]["slot"] == row["slot"]
    assert totals.sessions == 60 + len(children)
    assert (
        totals.requests
        == len(rows)
        == sum(turn.requests for session in plan.sessions(0) for turn in session.turns)
    )
    assert totals.classes["claude-code/subagent"] == 4 * len(children)


def test_a_cold_subagent_shares_its_prefix_with_nobody(make):
    plan = make(WORKLOAD, CLOSED, context=65536, cache="cold")
    salts = [one.salt for session in plan.sessions(0) for one in session.tree()]
    assert len(set(salts)) == len(salts)
    child = next(
        one for session in plan.sessions(0) for one in session.tree() if one.parent_request_id
    )
    body = json.loads(Conversation(child, plan.settings, "m", Texts(1, 1.5)).body(0))
    assert body["tools"][0]["description"].startswith(child.salt)


def test_what_begins_in_its_middle_starts_the_subagents_it_still_sends(make):
    """Single requests and conversations in their middle start what they still send."""
    single = make(WORKLOAD, {**CLOSED, "over": "requests"}, context=65536)
    assert all(len(list(session.tree())) == 1 for session in single.sessions(0))
    steady = make(WORKLOAD, {**CLOSED, "concurrency": 40, "start": "steady"}, context=65536)
    for session in itertools.islice(steady.sessions(0), 40):
        starting = [
            int(one.session_id.split(".")[1]) for one in session.tree() if one is not session
        ]
        assert all(turn >= session.first_turn for turn in starting)
        assert session.first_gap_ns <= session.turns[session.first_turn].gap_ns


def test_the_planned_time_of_a_session_has_that_of_its_subagents(plan):
    session = next(session for session in plan.sessions(0) if starts(session))
    waits = sum(span_ns(caller.subagents[0].turns) for caller, _ in starts(session))
    assert span_ns(session.turns) == waits + sum(turn.gap_ns + REQUEST_NS for turn in session.turns)


def request(t, n, hashes, api=1.0):
    return {
        "t": t,
        "type": "n",
        "model": "m",
        "in": n,
        "out": 20,
        "hash_ids": hashes,
        "stop": "tool_use",
        "api_time": api,
    }


def recording():
    """A session that starts two subagents at once after its second request, one of which starts
    another.
    """
    nested = {"t": 2, "type": "subagent", "requests": [request(0, 70, [50])]}
    one = {
        "t": 4,
        "type": "subagent",
        "requests": [request(0, 130, [20, 21]), nested, request(9, 200, [20, 21, 22])],
    }
    two = {"t": 5, "type": "subagent", "requests": [request(0, 130, [30, 31])]}
    main = [
        request(0, 130, [1, 2]),
        request(2, 260, [1, 2, 3, 4]),
        one,
        two,
        request(30, 400, [1, 2, 3, 4, 5, 6]),
    ]
    return {
        "id": "a",
        "models": ["m"],
        "block_size": 64,
        "hash_id_scope": "local",
        "tool_tokens": 0,
        "system_tokens": 0,
        "requests": main,
    }


@pytest.fixture(name="recorded")
def _recorded(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(recording()))
    return path


@pytest.mark.parametrize("rewrites", ["inline", "split"])
def test_recorded_subagents_are_started_by_the_turn_before_them(recorded, rewrites):
    tally = ReplayTally()
    (session,) = replay_sessions(
        open_trace(recorded), seed=1, limit_tok=10**6, stage="0", rewrites=rewrites, tally=tally
    )
    assert [one.session_id for one in session.tree()] == [
        "0-000000",
        "0-000000.1",
        "0-000000.1.0",
        "0-000000.1-1",
    ]
    assert [len(one.turns) for one in session.tree()] == [3, 2, 1, 1]
    assert [one.parent_request_id for one in session.tree()] == [
        "",
        "0-000000/1",
        "0-000000.1/0",
        "0-000000/1",
    ]
    assert (tally.sessions, tally.requests) == (4, 7)
    # The recorded pause holds the subagents' time; the next turn is due at the later of its end and
    # theirs.
    assert session.turns[2].gap_ns == 27_000_000_000


def test_a_subagent_whose_parent_was_left_out_is_a_session_of_its_own(tmp_path):
    value = recording()
    for entry in value["requests"]:
        if entry["type"] == "n":
            entry["out"] = 100_000
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    sessions = list(
        replay_sessions(open_trace(path), seed=1, limit_tok=10_000, over_limit="skip", stage="0")
    )
    assert [[len(one.turns) for one in session.tree()] for session in sessions] == [[2, 1], [1]]


def test_parents_that_are_not_there_or_that_go_in_a_circle_lose_no_request(tmp_path):
    path = tmp_path / "p.jsonl"
    sessions = [("a", None), ("b", "nobody"), ("c", "d"), ("d", "c"), ("e", "a")]
    lines = [
        {"t_s": 1, "input_tok": 9, "output_tok": 2, "scope": "s", "session_id": name}
        | ({"parent_id": parent} if parent else {})
        for name, parent in sessions
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    made = list(replay_sessions(open_trace(path), seed=1, limit_tok=100, stage="0"))
    assert sorted(len(list(session.tree())) for session in made) == [1, 2, 2]
    assert sum(turn.requests for session in made for turn in session.turns) == 5
