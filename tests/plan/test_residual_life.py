"""Conversations of a closed loop start where they would be if it had been going on for long."""

import itertools
import statistics
from bisect import bisect_right
from random import Random

import pytest

from harness.api.parts import Role
from harness.plan.bodies import Conversation
from harness.plan.plan_table import PlanTotals, plan_rows
from harness.plan.prompt_text import Texts
from harness.plan.residual_life import REQUEST_NS, Pool
from harness.plan.types import PRIME_SUFFIX, Message, Turn

CLOSED = {"kind": "concurrency", "concurrency": 200, "window_s": 60}


def conversation(*gaps_s):
    said = Message(Role.USER, ())
    return tuple(Turn(i, round(gap * 1e9), said, said, 1, 1) for i, gap in enumerate(gaps_s))


def test_a_slot_holds_long_conversations_more_often():
    """One of 1 s and one of 9 s (its requests and pauses): nine of ten slots hold the long one."""
    pool = Pool([conversation(0), conversation(0, 3, 3)])
    ages = [pool.age(Random(i)) for i in range(4000)]
    assert sum(age.candidate == 1 for age in ages) / 4000 == pytest.approx(
        0.9, abs=0.025
    )  # five standard errors
    # Of its 9 s: 1 s in its first request, 3 s before the second, 1 s in it, 3 s before the third,
    # 1 s in that.
    long = [age for age in ages if age.candidate == 1]
    for turn, share in ((0, 1 / 9), (1, 4 / 9), (2, 4 / 9)):
        assert sum(age.turn == turn for age in long) / len(long) == pytest.approx(share, abs=0.04)
    left_s = [age.gap_ns / 1e9 for age in long if age.gap_ns]
    assert statistics.mean(left_s) == pytest.approx(1.5, abs=0.1)
    assert max(left_s) <= 3


def test_ages_are_those_of_a_loop_that_has_gone_on_for_long(make, take):
    """Against a simulation: slots that run one session after the other, looked at after a long
    time.
    """
    plan = make("chat", {**CLOSED, "start": "steady"}, context=65536)
    fresh = make("chat", CLOSED, context=65536)
    started = take(plan, 200)
    seen = []
    rng = Random(5)
    sessions = itertools.islice(fresh.sessions(0), 6000)
    spans = [
        (sum(turn.gap_ns + REQUEST_NS for turn in session.turns), session) for session in sessions
    ]
    ends = list(itertools.accumulate(span for span, _ in spans))
    for _ in range(2000):
        at = rng.randrange(ends[-1])
        place = bisect_right(ends, at)
        span, session = spans[place]
        at -= ends[place] - span
        for turn in session.turns:
            at -= turn.gap_ns + REQUEST_NS
            if at < 0:
                seen.append((turn.index, turn.target_input_tok))
                break
    ours = [session.first_turn for session in started]
    assert statistics.mean(ours) == pytest.approx(
        statistics.mean(turn for turn, _ in seen), rel=0.25
    )
    contexts = [session.turns[session.first_turn].target_input_tok for session in started]
    assert statistics.mean(contexts) == pytest.approx(
        statistics.mean(tok for _, tok in seen), rel=0.1
    )
    assert statistics.mean(len(session.turns) for session in started) > 1.3 * statistics.mean(
        len(s.turns) for _, s in spans
    )


def test_only_the_first_conversation_of_each_slot_starts_in_its_middle(make, take):
    plan = make("claude-code", {**CLOSED, "concurrency": 20}, purpose="measure")
    sessions = take(plan, 60)
    assert sum(session.primed for session in sessions[:20]) >= 17
    assert not any(session.primed or session.first_gap_ns for session in sessions[20:])
    for session in sessions[:20]:
        assert 0 <= session.first_turn < len(session.turns)
        assert 0 <= session.first_gap_ns <= session.turns[session.first_turn].gap_ns
        assert session.live_turns == session.turns[session.first_turn :]
    assert len({turn.message for session in sessions for turn in session.turns}) == sum(
        len(session.turns) for session in sessions
    )


@pytest.mark.parametrize(
    ("load", "purpose", "steady"),
    [
        ({}, "measure", True),
        ({}, "smoke", False),
        ({"start": "fresh"}, "measure", False),
        ({"start": "steady"}, "smoke", True),
        ({"over": "requests"}, "measure", False),
    ],
)
def test_steady_is_the_default_under_purpose_measure(make, load, purpose, steady):
    plan = make("claude-code", {**CLOSED, "concurrency": 3, **load}, purpose=purpose)
    assert plan.stages[0].steady is steady
    assert any("length-biased" in note for note in plan.notes) is steady


def test_an_open_loop_starts_empty(make, take):
    plan = make(
        "claude-code", {"kind": "arrival_rate", "rate_per_s": 1, "window_s": 10}, purpose="measure"
    )
    assert not any(session.primed for session in take(plan, 20))


def test_a_priming_request_is_the_turn_before_with_one_token_of_answer(make, take):
    plan = make("claude-code", {**CLOSED, "concurrency": 5, "start": "steady", "sessions": 8})
    texts = Texts(plan.seed, plan.tok_per_word)
    session = next(session for session in take(plan, 5) if session.primed)
    talk = Conversation(session, plan.settings, "m", texts)
    prime, whole = talk.priming_body(), talk.body(session.priming_turn)
    tail = b'"max_tokens":'
    assert prime.split(tail)[0] == whole.split(tail)[0]
    assert prime.endswith(b'"max_tokens":1}')


def test_the_plan_says_which_requests_are_priming(make):
    plan = make("claude-code", {**CLOSED, "concurrency": 5, "start": "steady", "sessions": 8})
    totals = PlanTotals()
    rows = list(plan_rows(plan, totals))
    primes = [row for row in rows if row["class"].endswith(PRIME_SUFFIX)]
    assert len(primes) == totals.primes == sum(session.primed for session in plan.sessions(0))
    assert len(rows) == totals.primes + totals.requests
    assert {row["target_output_tok"] for row in primes} == {1}
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    for session in plan.sessions(0):
        if session.primed:
            first = by_id[f"{session.session_id}/{session.first_turn}"]
            assert first["intended_offset_ns"] == session.first_gap_ns
            assert first["gap_ns"] is None
            assert f"{session.session_id}/{session.first_turn - 2}" not in by_id


def test_the_same_seed_gives_the_same_ages_in_every_worker(make):
    plan, other = (
        make("claude-code", {**CLOSED, "concurrency": 9, "start": "steady", "sessions": 12})
        for _ in range(2)
    )
    assert plan.plan_sha256 == other.plan_sha256
    shared = sorted(
        (s for w in range(4) for s in other.sessions(0, worker=w, workers=4)),
        key=lambda s: s.number,
    )
    assert shared == list(plan.sessions(0))
