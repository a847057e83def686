"""What servers' prefix caches see: breakpoints, salts, shared heads, rewritten contexts."""

import hashlib
import itertools
import json

import pytest

from harness.core.errors import ProfileError
from harness.plan.bodies import Conversation
from harness.plan.plan_table import PlanTotals, body_hashes, plan_rows
from harness.plan.prompt_text import Texts
from harness.plan.types import Thread

CLOSED = {"kind": "concurrency", "concurrency": 4, "sessions": 40}


def bodies(plan, session):
    talk = Conversation(session, plan.settings, "m", Texts(plan.seed, plan.tok_per_word))
    return [talk.body(turn.index) for turn in session.turns]


def marks(value):
    """Paths of all cache breakpoints."""
    found = []

    def walk(node, path):
        if isinstance(node, dict):
            if "cache_control" in node:
                assert node["cache_control"] == {"type": "ephemeral"}
                found.append(path)
            for key, item in node.items():
                walk(item, (*path, key))
        elif isinstance(node, list):
            for index, item in enumerate(node):
                walk(item, (*path, index))

    walk(value, ())
    return found


def test_breakpoints_stand_on_tools_system_and_the_last_two_user_messages(make, take):
    plan = make("claude-code", CLOSED)
    session = max(take(plan, 10), key=lambda s: len(s.turns))
    for index, body in enumerate(map(json.loads, bodies(plan, session))):
        last = len(body["messages"]) - 1
        users = [
            ("messages", at, "content", len(body["messages"][at]["content"]) - 1)
            for at in (last - 2, last)
            if at >= 0
        ]
        assert marks(body) == [("tools", len(body["tools"]) - 1), ("system", 0), *users], index


def test_only_the_breakpoints_move_in_the_bytes_of_a_prefix(make, take):
    plan = make("claude-code", CLOSED)
    session = max(
        (s for s in take(plan, 40) if all(t.keeps is None for t in s.turns)),
        key=lambda s: len(s.turns),
    )
    mark = b',"cache_control":{"type":"ephemeral"}'
    plain = [
        body.replace(mark, b"").rsplit(b'],"max_tokens"', 1)[0] for body in bodies(plan, session)
    ]
    assert len(plain) > 3
    for shorter, longer in itertools.pairwise(plain):
        assert longer.startswith(shorter)


@pytest.mark.parametrize(
    ("workload", "traffic", "marked"),
    [
        ("chat", {}, False),
        ("claude-chat", {}, True),
        ("claude-chat", {"api": "chat"}, False),
        ("claude-code", {"cache_control": False}, False),
        ("chat", {"cache_control": True}, True),
    ],
)
def test_breakpoints_are_those_of_claudes_clients_unless_told_otherwise(
    make, take, workload, traffic, marked
):
    plan = make(workload, CLOSED, **traffic)
    assert (b"cache_control" in bodies(plan, take(plan, 1)[0])[0]) is marked


@pytest.mark.parametrize("api", ["messages", "chat", "completions", "responses"])
def test_cold_sessions_share_nothing_and_warm_ones_their_head(make, take, api):
    salted = [
        bodies(plan, session)[0].decode()
        for plan in [make("claude-code", CLOSED, cache="cold", api=api)]
        for session in take(plan, 3)
    ]
    shared = [
        bodies(plan, session)[0].decode()
        for plan in [make("claude-code", CLOSED, api=api)]
        for session in take(plan, 3)
    ]
    for text in salted + shared:
        assert "\x00" not in text
        json.loads(text)
    heads = {
        json.dumps(json.loads(text).get("tools"))[:120] + str(json.loads(text).get("system"))[:60]
        for text in salted
    }
    assert len(heads) == (1 if api == "completions" else 3)
    for number, text in enumerate(salted):
        assert f"[1 0-{number:06d}] " in text
    assert not any("[1 0-" in text for text in shared)


def test_a_salt_is_part_of_the_plan(make):
    warm, cold = make("chat", CLOSED), make("chat", CLOSED, cache="cold")
    assert warm.plan_sha256 != cold.plan_sha256
    assert warm.workload_sha256 != cold.workload_sha256
    assert [r["body_sha256"] for r in plan_rows(warm)] != [
        r["body_sha256"] for r in plan_rows(cold)
    ]
    assert all(
        a["target_input_tok"] < b["target_input_tok"]
        for a, b in zip(plan_rows(warm), plan_rows(cold), strict=False)
        if b["turn"] == 0
    )


def test_hashes_of_bodies_are_those_of_all_their_blocks(make, take):
    """The incremental hash against the plain one, over sessions with compactions and rewrites."""
    plan = make("claude-code", CLOSED)
    cut = 0
    for session in take(plan, 30):
        thread = Thread(session.turns)
        for turn, found in zip(session.turns, body_hashes(session), strict=True):
            messages = [
                *(thread.message(place) for place in thread.before(turn.index)),
                turn.message,
            ]
            blocks = [
                session.system,
                *(tool.block for tool in session.tools),
                *(part.block for m in messages for part in m.parts),
            ]
            text = f"{session.salt}\n" + "".join(f"{block.key}:{block.tok}\n" for block in blocks)
            assert found == hashlib.sha256(text.encode()).hexdigest()
            cut += turn.keeps is not None
    assert cut > 10


def test_targets_are_the_sum_of_what_a_body_holds(make, take):
    plan = make("claude-code", CLOSED)
    for session in take(plan, 20):
        thread = Thread(session.turns)
        head = session.system.tok + 6 + sum(tool.block.tok + 40 for tool in session.tools)
        for turn in session.turns:
            before = [thread.message(place) for place in thread.before(turn.index)]
            said = sum(
                part.block.tok for message in [*before, turn.message] for part in message.parts
            )
            assert turn.target_input_tok == pytest.approx(
                head + said + 6 * (len(before) + 1), abs=13
            )  # a cut may round by two markers


def test_turns_can_be_asked_for_in_any_order(make, take):
    plan = make("claude-code", CLOSED)
    session = next(s for s in take(plan, 30) if sum(t.keeps is not None for t in s.turns) > 2)
    talk = Conversation(session, plan.settings, "m", Texts(plan.seed, plan.tok_per_word))
    backwards = [talk.body(turn.index) for turn in reversed(session.turns)]
    assert backwards[::-1] == bodies(plan, session)


def test_a_context_that_does_not_fit_is_refused_where_the_profile_says_so(make):
    with pytest.raises(ProfileError, match="90%") as caught:
        make("claude-code", CLOSED, context_policy="refuse")
    assert "context_scale of 0.07" in str(caught.value)
    assert make("claude-code", CLOSED, context_policy="refuse", context=262_144).context_scale == 1


def test_what_was_cut_to_fit_is_counted_and_said(make):
    workload = {
        "kind": "chat",
        "user_tok": 3000,
        "system_tok": 100,
        "context_limit_tok": 2000,
        "output_tok": 10,
    }
    plan = make(workload, CLOSED)
    totals = PlanTotals()
    rows = list(plan_rows(plan, totals))
    assert totals.clipped_requests == len(rows) == 40
    assert totals.clipped_tok == sum(3000 + 6 - (row["target_input_tok"] - 106) for row in rows)
    assert str(totals.clipped_tok) in totals.notes()[0]
    whole = PlanTotals()
    list(plan_rows(make("chat", CLOSED, context=262_144), whole))
    assert whole.notes() == ()
