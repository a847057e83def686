"""A replay keeps a trace's times, lengths and shared starts."""

import json

import pytest

from harness.api.parts import Role
from harness.core.errors import ProfileError
from harness.plan.prompt_text import Texts
from harness.plan.traces import describe_trace, open_trace
from harness.plan.types import Block
from harness.plan.workloads.replay import ReplayTally, replay_sessions

CACHE_BLOCK_WORDS = 16


def prompts(session):
    """The messages of each request, as they would be sent."""
    said = ()
    for turn in session.turns:
        said = turn.prompt if turn.prompt is not None else (*said, turn.message)
        yield turn, said
        said = (*said, turn.reply)


def words(messages, texts):
    out = []
    for message in messages:
        out.append(f"<{message.role}>")
        for part in message.parts:
            out += texts.text(part.block).split()
    return out


def infinite_cache(sessions, texts):
    """Tokens of all prompts and the share that an infinite cache of 16-word blocks knows, at one
    word a token.
    """
    seen, hit, total = set(), 0, 0
    for session in sessions:
        for _, messages in prompts(session):
            said = words(messages, texts)
            state, live = 0, True
            for at in range(0, len(said) - CACHE_BLOCK_WORDS + 1, CACHE_BLOCK_WORDS):
                state = hash((state, *said[at : at + CACHE_BLOCK_WORDS]))
                live = live and state in seen
                hit += CACHE_BLOCK_WORDS * live
                seen.add(state)
            total += len(said)
    return total, hit / total


def replay(path, **options):
    return list(
        replay_sessions(
            open_trace(path),
            **{"seed": 1, "limit_tok": 10**6, "stage": "replay", "rewrites": "inline", **options},
        )
    )


def write_session(path, requests, scope="local"):
    entries = [
        {
            "t": t,
            "type": "n",
            "in": tok,
            "out": 40,
            "hash_ids": ids,
            "stop": "tool_use",
            "api_time": 2.0,
        }
        for t, tok, ids in requests
    ]
    path.write_text(
        json.dumps({"id": "x", "block_size": 64, "hash_id_scope": scope, "requests": entries})
    )
    return path


@pytest.fixture
def compacted(tmp_path):
    """Grows twice, is compacted to its first 10 blocks, and grows again."""
    ids = list(range(100))
    return write_session(
        tmp_path / "s.json",
        [
            (0, 64 * 30 + 9, ids[:30]),
            (5, 64 * 40, ids[:40]),
            (100, 64 * 50 + 1, ids[:50]),
            (110, 64 * 15, [*ids[:10], 200, 201, 202, 203, 204]),
            (120, 64 * 20, [*ids[:10], 200, 201, 202, 203, 204, 205, 206, 207, 208, 209]),
        ],
    )


def test_text_cut_short_is_the_start_of_the_whole_text():
    texts = Texts(3, 1.0)
    whole = texts.text(Block("k", 500)).split()
    assert all(texts.text(Block("k", n)).split() == whole[:n] for n in (1, 23, 24, 25, 300))


def test_a_session_grows_by_the_recorded_answer_and_the_new_blocks(compacted):
    (session,) = replay(compacted)
    first, second = session.turns[:2]
    assert (second.prompt, first.prompt) == (None, None)
    assert first.reply.parts[0].block.tok == 40
    grown = 64 * 40 - (64 * 30 + 9)
    assert first.reply.parts[0].block.tok + second.message.parts[0].block.tok == pytest.approx(
        grown, abs=12
    )
    assert [turn.target_input_tok for turn in session.turns] == [1929, 2560, 3201, 960, 1280]


def test_a_compaction_keeps_exactly_the_blocks_that_the_trace_kept(compacted):
    (session,) = replay(compacted)
    texts = Texts(1, 1.0)
    said = [words(messages, texts) for _, messages in prompts(session)]
    kept = next(i for i, (a, b) in enumerate(zip(said[2], said[3], strict=False)) if a != b)
    assert kept == pytest.approx(64 * 10, abs=13)  # less the markers' share of the first message
    assert said[4][: len(said[3])] == said[3]
    assert [turn.prompt is not None for turn in session.turns] == [False, False, False, True, False]


def test_splitting_ends_the_session_where_its_context_was_rewritten(compacted):
    tally = ReplayTally()
    sessions = replay(compacted, rewrites="split", tally=tally)
    assert [len(session.turns) for session in sessions] == [3, 2]
    assert all(turn.prompt is None for session in sessions for turn in session.turns)
    assert (tally.sessions, tally.continuations, tally.rewrites, tally.requests) == (2, 1, 1, 5)
    assert len({session.session_id for session in sessions}) == 2


def test_messages_alternate_and_begin_with_the_user(compacted):
    for _, messages in prompts(replay(compacted)[0]):
        assert [message.role for message in messages] == [
            Role.ASSISTANT if i % 2 else Role.USER for i in range(len(messages))
        ]


def test_pauses_are_scaled_then_capped_and_counted(compacted):
    tally = ReplayTally()
    (session,) = replay(compacted, time_scale=0.5, idle_cap_s=10, tally=tally)
    assert [turn.gap_ns / 1e9 for turn in session.turns] == [0, 1.5, 10, 4, 4]
    assert tally.capped_gaps == 1
    assert session.intended_offset_ns is None


def test_equal_ids_of_a_whole_trace_give_equal_starts_in_any_request(tmp_path):
    path = tmp_path / "m.jsonl"
    rows = [(0, 1536, [1, 2, 3]), (1500, 1300, [1, 2, 9]), (3000, 700, [4])]
    path.write_text(
        "\n".join(
            json.dumps({"timestamp": t, "input_length": n, "output_length": 3, "hash_ids": h})
            for t, n, h in rows
        )
    )
    sessions = replay(path, time_scale=2, length_scale=0.5)
    assert [session.intended_offset_ns for session in sessions] == [0, 3_000_000_000, 6_000_000_000]
    texts = Texts(1, 1.0)
    one, two, _ = (
        [*words(messages, texts)] for session in sessions for _, messages in prompts(session)
    )
    assert one[: 1 + 512] == two[: 1 + 512]
    assert one[1 + 512 :][:32] != two[1 + 512 :][:32]
    assert (len(one), len(two)) == (1 + 768, 1 + 650)


def test_requests_without_ids_share_nothing(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("t_s,input_tok,output_tok,session_id\n0,100,5,a\n2,200,5,b\n5,300,0,a\n")
    tally = ReplayTally()
    sessions = replay(path, tally=tally)
    keys = [
        part.block.key
        for session in sessions
        for _, messages in prompts(session)
        for message in messages
        for part in message.parts
    ]
    assert len(set(keys)) == len(keys) == 3
    assert [len(session.turns) for session in sessions] == [2, 1]
    assert (
        sessions[0].turns[1].gap_ns == 5_000_000_000
    )  # the end is not recorded: from start to start
    assert sessions[0].turns[1].target_output_tok == 1
    assert sessions[0].turns[1].intended_offset_ns == 5_000_000_000


def test_a_request_over_the_limit_is_refused_by_line_or_skipped_and_counted(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("t_s,input_tok,output_tok\n0,100,5\n2,200,5\n")
    with pytest.raises(ProfileError, match=r"p.csv:3: 200 input and 5 output tokens"):
        replay(path, limit_tok=150)
    tally = ReplayTally()
    assert len(replay(path, limit_tok=150, over_limit="skip", tally=tally)) == 1
    assert (tally.skipped, tally.requests, tally.longest_tok) == (1, 1, 105)
    assert len(replay(path, limit_tok=150, length_scale=0.5)) == 2


@pytest.mark.parametrize(
    "options", [{"time_scale": 0}, {"length_scale": float("nan")}, {"idle_cap_s": -1}]
)
def test_senseless_factors_are_refused(compacted, options):
    with pytest.raises(ProfileError):
        replay(compacted, **options)


def test_the_same_trace_and_seed_give_the_same_sessions(compacted):
    assert replay(compacted) == replay(compacted)


@pytest.mark.parametrize(
    ("name", "ideal"), [("trace_0142", 0.923), ("trace_0184", 0.736), ("trace_0506", 0.739)]
)
def test_replayed_sessions_have_the_trace_s_own_hit_rate(shared_data, name, ideal):
    sessions = replay(shared_data / "traces" / "claude-code" / f"{name}.json", length_scale=0.2)
    total, hit = infinite_cache(sessions, Texts(1, 1.0))
    assert hit == pytest.approx(ideal, abs=0.005)
    assert total == pytest.approx(
        sum(turn.target_input_tok for session in sessions for turn in session.turns), rel=0.01
    )


def test_a_replayed_mooncake_has_the_trace_s_own_hit_rate(shared_data, tmp_path):
    lines = (
        (shared_data / "traces" / "mooncake" / "conversation_trace.jsonl")
        .read_text()
        .splitlines()[:300]
    )
    path = tmp_path / "conversation_trace.jsonl"
    path.write_text("\n".join(lines))
    _, hit = infinite_cache(replay(path, length_scale=0.125), Texts(1, 1.0))
    assert hit == pytest.approx(describe_trace(path).ideal_hit, abs=0.01)


@pytest.mark.parametrize("label", ["canary", "chat/prime"])
def test_a_class_named_like_the_harness_s_own_is_refused_by_line(tmp_path, label):
    """A class that would be taken for the harness's own requests is refused by line."""
    path = tmp_path / "p.csv"
    path.write_text(f"t_s,input_tok,output_tok,class\n0,100,5,chat\n2,200,5,{label}\n")
    with pytest.raises(ProfileError, match=rf"p.csv:3: .*'{label}'"):
        replay(path)
