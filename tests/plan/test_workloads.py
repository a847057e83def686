"""Generated sessions are what was published, within stated tolerances; what deviates is written in
docs/explanation/traffic.md.
"""

import itertools
import statistics
from collections import Counter

import pytest

from harness.api.parts import PartKind
from harness.plan.plan_table import known_prefixes
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK

OPEN = {"kind": "arrival_rate", "rate_per_s": 1, "window_s": 3600}
UNSCALED = 262_144


def quantile(values, share):
    return sorted(values)[int(share * len(values))]


@pytest.fixture(name="claude_code", scope="module")
def _claude_code(make):
    """740 sessions of Claude Code with contexts of 200k tokens, main agents apart from their
    subagents.
    """
    plan = make("claude-code", OPEN, context=UNSCALED)
    assert plan.context_scale == 1
    sessions = [
        one for session in itertools.islice(plan.sessions(0), 740) for one in session.tree()
    ]
    assert {s.workload_class for s in sessions} == {"claude-code", "claude-code/subagent"}
    return {
        label: [s for s in sessions if s.workload_class == label]
        for label in ("claude-code", "claude-code/subagent")
    }


def figures(sessions):
    turns = [turn for session in sessions for turn in session.turns]
    known = [tok for session in sessions for tok in known_prefixes(session, head_is_known=False)]
    inputs = [turn.target_input_tok for turn in turns]
    return {
        "input": inputs,
        "new": [a - b for a, b in zip(inputs, known, strict=True)],
        "output": [turn.target_output_tok for turn in turns],
        "requests": [len(session.turns) for session in sessions],
        "first": [session.turns[0].target_input_tok for session in sessions],
        "longest": [max(turn.target_input_tok for turn in session.turns) for session in sessions],
        "hit": sum(known) / sum(inputs),
    }


@pytest.mark.parametrize(
    ("what", "share", "published", "tolerance"),
    [
        ("input", 0.5, 104_000, 0.10),
        ("input", 0.05, 30_500, 0.15),
        ("input", 0.25, 66_500, 0.15),
        ("input", 0.75, 139_000, 0.10),
        ("output", 0.05, 89, 0.05),
        ("output", 0.5, 216, 0.05),
        ("output", 0.9, 898, 0.05),
        ("output", 0.99, 3687, 0.10),
        ("new", 0.05, 190, 0.10),
        ("new", 0.25, 377, 0.15),
        ("new", 0.5, 727, 0.15),
        ("new", 0.75, 1777, 0.15),
        ("new", 0.9, 4804, 0.20),
        ("new", 0.99, 94_000, 0.35),
        ("requests", 0.5, 45, 0.15),
        ("requests", 0.9, 156, 0.15),
        ("first", 0.5, 24_500, 0.20),
        ("first", 0.75, 104_000, 0.20),
        ("longest", 0.5, 148_000, 0.15),
    ],
)
def test_claude_code_has_the_published_quantiles(claude_code, what, share, published, tolerance):
    assert quantile(figures(claude_code["claude-code"])[what], share) == pytest.approx(
        published, rel=tolerance
    )


def test_claude_code_has_the_published_means_and_prefix_hit(claude_code):
    found = figures(claude_code["claude-code"])
    assert statistics.mean(found["output"]) == pytest.approx(440, rel=0.05)
    assert statistics.mean(found["new"]) == pytest.approx(4509, rel=0.25)
    assert found["hit"] == pytest.approx(0.963, abs=0.01)


def test_subagents_have_the_published_context_and_prefix_hit(claude_code):
    subagents = claude_code["claude-code/subagent"]
    assert len(subagents) == pytest.approx(
        64, abs=25
    )  # 8 % of all sessions, three standard deviations
    found = figures(subagents)
    assert quantile(found["input"], 0.5) == pytest.approx(45_000, rel=0.35)
    assert found["hit"] == pytest.approx(0.87, abs=0.05)
    main = claude_code["claude-code"][0]
    assert subagents[0].system != main.system
    assert {tool.block.key for tool in subagents[0].tools}.isdisjoint(
        tool.block.key for tool in main.tools
    )


def test_a_compaction_goes_on_with_a_summary_and_a_rewrite_keeps_the_front(claude_code):
    compactions = rewrites = 0
    for session in claude_code["claude-code"]:
        head_tok = (
            session.turns[0].target_input_tok
            - MESSAGE_OVERHEAD_TOK
            - sum(p.block.tok for p in session.turns[0].message.parts)
        )
        assert head_tok == session.system.tok + MESSAGE_OVERHEAD_TOK + sum(
            tool.block.tok + 40 for tool in session.tools
        )
        for before, turn in itertools.pairwise(session.turns):
            if turn.keeps is None:
                continue
            assert any(part.block.key.endswith("/again") for part in turn.message.parts)
            compact = turn.keeps == 0 and turn.target_input_tok < 0.6 * before.target_input_tok
            compactions += compact
            rewrites += not compact
    turns = sum(len(session.turns) for session in claude_code["claude-code"])
    assert (
        0.003 < compactions / turns < 0.012
    )  # published: 0.0045, with contexts above 200k among them
    assert 0.01 < rewrites / turns < 0.022


def test_a_request_after_a_cut_answers_the_tool_call_that_stays_last(claude_code):
    seen = Counter()
    for session in claude_code["claude-code"]:
        chain = []
        for turn in session.turns:
            chain = chain if turn.keeps is None else chain[: turn.keeps]
            asked = chain[-1].reply.parts[-1].tool_id if chain else ""
            first = turn.message.parts[0]
            assert first.tool_id == asked
            assert (first.kind is PartKind.TOOL_RESULT) == bool(asked)
            seen[turn.keeps is None, bool(asked)] += 1
            chain = [*chain, turn]
    assert seen[False, True] > 10
    assert seen[False, False] > 10


def test_reasoning_has_two_modes_and_is_not_carried(make, take):
    plan = make("thinking", OPEN, context=65536)
    turns = [
        turn
        for session in take(plan, 1500)
        for turn in session.turns
        if turn.target_output_tok > 50
    ]
    shares = [turn.thinking_tok / turn.target_output_tok for turn in turns]
    assert statistics.mean(shares) == pytest.approx(0.70, abs=0.03)
    near = [
        sum(abs(share - mode) < 0.15 for share in shares) / len(shares) for mode in (0.4, 0.65, 0.9)
    ]
    assert near[0] > 0.3 and near[2] > 0.5 and near[1] < 0.12  # noqa: PT018 - one shape
    outputs = [turn.target_output_tok for session in take(plan, 1500) for turn in session.turns]
    assert quantile(outputs, 0.5) == pytest.approx(792, rel=0.1)
    assert statistics.mean(outputs) == pytest.approx(1527, rel=0.12)
    for turn in turns:
        assert (
            sum(part.block.tok for part in turn.reply.parts)
            == turn.target_output_tok - turn.thinking_tok
        )


def test_a_document_is_asked_about_and_shared_with_nobody(make, take):
    sessions = take(make("doc-qa", OPEN, context=UNSCALED), 100)
    documents = [session.turns[0].message.parts[0].block for session in sessions]
    assert len({block.key for block in documents}) == 100
    assert all(30_000 <= block.tok <= 150_000 for block in documents)
    assert {len(session.turns) for session in sessions} == {1, 2, 3, 4}
    assert all(
        200 <= turn.target_output_tok <= 800 for session in sessions for turn in session.turns
    )
    assert [
        len(turn.message.parts) for turn in next(s for s in sessions if len(s.turns) == 3).turns
    ] == [2, 1, 1]


def test_batch_is_single_requests(make, take):
    assert all(len(session.turns) == 1 for session in take(make("batch", OPEN, context=32768), 50))


MIX = {
    "kind": "mix",
    "parts": [
        {"weight": 3, "workload": {"kind": "chat"}},
        {"weight": 1, "workload": {"kind": "batch"}, "name": "nightly"},
        {"weight": 4, "workload": {"kind": "claude-code", "subagents": {"share": 0.25}}},
    ],
}


def test_a_mix_has_its_weights_and_each_class_its_head(make, take):
    sessions = [
        one for session in take(make(MIX, OPEN, context=UNSCALED), 1600) for one in session.tree()
    ]
    counts = Counter(session.workload_class for session in sessions)
    # A quarter of the sessions of Claude Code are subagents: one for three main agents.
    shares = {
        "chat": 3 / 8,
        "nightly": 1 / 8,
        "claude-code": 4 / 8,
        "claude-code/subagent": 4 / 8 / 3,
    }
    for label, share in shares.items():
        assert counts[label] / 1600 == pytest.approx(share, abs=0.04)  # three standard deviations
    heads = {session.workload_class: session.system.key for session in sessions}
    assert len(set(heads.values())) == 4


def test_a_class_does_not_depend_on_what_else_is_asked_for(make, take):
    """One worker or eight: the class is a function of the session's number."""
    plan = make(MIX, {**OPEN, "sessions": 40}, context=UNSCALED)
    alone = [session.workload_class for session in plan.sessions(0)]
    shared = sorted(
        (s for w in range(3) for s in plan.sessions(0, worker=w, workers=3)), key=lambda s: s.number
    )
    assert [session.workload_class for session in shared] == alone


def test_a_user_who_gives_up_ends_the_session(make, take):
    workload = {"kind": "chat", "abandon_share": 0.2, "abandon_after_s": "2s"}
    sessions = take(make(workload, OPEN, context=65536), 400)
    turns = [turn for session in sessions for turn in session.turns]
    given_up = [turn for turn in turns if turn.cancel_after_ns is not None]
    assert len(given_up) / len(turns) == pytest.approx(0.2, abs=0.05)
    assert {turn.cancel_after_ns for turn in given_up} == {2_000_000_000}
    for session in sessions:
        assert all(turn.cancel_after_ns is None for turn in session.turns[:-1])
    # Nothing else about the sessions changes.
    for ours, theirs in zip(sessions, take(make("chat", OPEN, context=65536), 400), strict=True):
        assert [t.target_input_tok for t in ours.turns] == [
            t.target_input_tok for t in theirs.turns[: len(ours.turns)]
        ]


def test_single_requests_are_the_first_of_their_sessions(make, take):
    whole = take(make("claude-code", OPEN), 20)
    single = take(make("claude-code", {**OPEN, "over": "requests"}), 20)
    assert [session.turns for session in single] == [session.turns[:1] for session in whole]
    closed = make(
        "claude-code",
        {"kind": "concurrency", "concurrency": 3, "window_s": 5, "over": "requests"},
        purpose="measure",
    )
    assert not closed.stages[0].steady
    assert all(len(session.turns) == 1 for session in take(closed, 10))
