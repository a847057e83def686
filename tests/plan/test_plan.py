"""A plan is a pure function of profile, facts and seed."""

import itertools
import json
import statistics
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api.parts import PartKind
from harness.core.errors import ProfileError
from harness.core.records import ModelFacts
from harness.plan.bodies import Conversation
from harness.plan.build import make_plan, workload_sha256
from harness.plan.plan_table import PlanTotals, body_hashes, plan_rows
from harness.plan.prompt_text import Texts
from harness.profile.schema import Profile

FACTS = ModelFacts("builtin:tiny", max_context_tok=16384, tok_per_word=1.5)


def profile(workload="chat", *, seed=1, api="messages", load=None, **traffic):
    return Profile.model_validate(
        {
            "purpose": "smoke",
            "seed": seed,
            "model": {"id": "builtin:tiny"},
            "traffic": {
                "api": api,
                "workload": workload if isinstance(workload, dict) else {"kind": workload},
                "load": load or [{"kind": "concurrency", "concurrency": 4, "window_s": 20}],
                **traffic,
            },
        }
    )


def first(plan, count, stage=0, **kwargs):
    return list(itertools.islice(plan.sessions(stage, **kwargs), count))


@pytest.mark.parametrize("workload", ["chat", "claude-code"])
def test_the_same_inputs_give_the_same_sessions_and_bytes(workload):
    one, two = make_plan(profile(workload), FACTS), make_plan(profile(workload), FACTS)
    assert one.plan_sha256 == two.plan_sha256
    assert first(one, 20) == first(two, 20)
    session = first(one, 1)[0]
    bodies = [
        Conversation(session, plan.settings, "m", Texts(plan.seed, plan.tok_per_word)).body(0)
        for plan in (one, two)
    ]
    assert bodies[0] == bodies[1]


def test_another_process_makes_the_same_plan():
    code = (
        "import sys, json; from harness.profile.schema import Profile; from harness.core.records"
        " import ModelFacts;from harness.plan.build import make_plan;p ="
        " Profile.model_validate(json.loads(sys.argv[1]));print(make_plan(p,"
        " ModelFacts('builtin:tiny', max_context_tok=16384, tok_per_word=1.5)).plan_sha256)"
    )
    mine = profile("claude-code", seed=7)
    other = subprocess.run(
        [sys.executable, "-c", code, mine.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout.strip() == make_plan(mine, FACTS).plan_sha256


def test_the_seed_changes_the_plan_and_not_the_workload():
    one, two = make_plan(profile(seed=1), FACTS), make_plan(profile(seed=2), FACTS)
    assert one.plan_sha256 != two.plan_sha256
    assert one.workload_sha256 == two.workload_sha256


def test_the_number_of_workers_changes_neither_hash():
    one, two = profile(workers=1), profile(workers=4)
    assert workload_sha256(one) == workload_sha256(two)
    assert make_plan(one, FACTS).plan_sha256 == make_plan(two, FACTS).plan_sha256


@pytest.mark.parametrize(
    "load",
    [
        {"kind": "concurrency", "concurrency": 7, "sessions": 60},
        {"kind": "arrival_rate", "rate_per_s": 5, "sessions": 60},
    ],
)
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_workers_together_start_what_one_starts(load, workers):
    plan = make_plan(profile("claude-code", load=[load]), FACTS)
    alone = list(plan.sessions(0))
    shared = [
        session
        for worker in range(workers)
        for session in plan.sessions(0, worker=worker, workers=workers)
    ]
    assert sorted(shared, key=lambda s: s.number) == alone
    assert len({s.session_id for s in shared}) == len(alone) == 60


def test_a_closed_loop_keeps_a_slot_on_one_worker():
    plan = make_plan(
        profile(load=[{"kind": "concurrency", "concurrency": 6, "sessions": 48}]), FACTS
    )
    for worker in range(4):
        assert all(
            s.slot % 4 == worker and s.slot == s.number % 6
            for s in plan.sessions(0, worker=worker, workers=4)
        )


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process():
    plan = make_plan(
        profile(load=[{"kind": "arrival_rate", "rate_per_s": 20, "window_s": 10}]), FACTS
    )
    starts = [s.intended_offset_ns / 1e9 for s in first(plan, 4000)]
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    # Standard error of the mean and of the CV of 4,000 exponential gaps is 1.6 %: five of them.
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.08)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(1, rel=0.08)


def test_constant_arrivals_do_not_drift():
    plan = make_plan(
        profile(
            load=[{"kind": "arrival_rate", "rate_per_s": 3, "process": "constant", "window_s": 10}]
        ),
        FACTS,
    )
    assert [s.intended_offset_ns for s in first(plan, 3000)][-1] == 1_000_000_000_000


@pytest.mark.parametrize("workload", ["chat", "claude-code"])
def test_contexts_grow_by_what_was_said_and_stay_within_the_limit(workload):
    plan = make_plan(profile(workload), FACTS)
    assert plan.context_limit_tok <= 0.9 * 16384
    for session in first(plan, 50):
        assert session.turns
        for earlier, later in itertools.pairwise(session.turns):
            grows = later.target_input_tok > earlier.target_input_tok + earlier.target_output_tok
            assert grows or later.keeps is not None
        assert all(
            turn.target_input_tok + turn.target_output_tok <= plan.context_limit_tok
            for turn in session.turns
        )


def test_the_scale_is_said_in_words_and_notes():
    plan = make_plan(profile("claude-code"), FACTS)
    assert 0 < plan.context_scale < 1
    assert any("scaled by" in note for note in plan.notes)
    assert make_plan(profile("chat", context_scale=0.1), FACTS).context_scale == 0.1


def test_a_scale_that_cannot_fit_is_refused_with_the_one_that_would():
    with pytest.raises(ProfileError, match="context_scale 1") as caught:
        make_plan(profile("claude-code", context_scale=1.0), FACTS)
    assert "auto" in str(caught.value)


def test_a_head_that_fills_the_context_is_refused():
    with pytest.raises(ProfileError, match="max_context_tok"):
        make_plan(profile({"kind": "chat", "system_tok": 31900}, context_scale=0.4), FACTS)


def longest_that_only_grows(plan):
    """A session without compactions and rewrites."""
    growing = [
        session for session in first(plan, 60) if all(turn.keeps is None for turn in session.turns)
    ]
    return max(growing, key=lambda session: len(session.turns))


@pytest.mark.parametrize("workload", ["chat", "claude-code"])
def test_a_transcript_extends_the_one_before_and_ends_with_the_cue(workload):
    plan = make_plan(profile(workload, api="completions"), FACTS)
    session = longest_that_only_grows(plan)
    talk = Conversation(session, plan.settings, "the-model", Texts(plan.seed, plan.tok_per_word))
    bodies = [json.loads(talk.body(turn.index)) for turn in session.turns]
    texts = Texts(plan.seed, plan.tok_per_word)
    for turn, body in zip(session.turns, bodies, strict=True):
        assert set(body) == {
            "model",
            "stream",
            "temperature",
            "stream_options",
            "prompt",
            "max_tokens",
        }
        assert (body["stream"], body["max_tokens"]) == (True, turn.target_output_tok)
        assert body["prompt"].startswith("System: " + texts.text(session.system))
        assert body["prompt"].endswith("\n\nAssistant:")
        for part in turn.message.parts:
            assert texts.text(part.block) in body["prompt"]
    for shorter, longer in itertools.pairwise(bodies):
        assert longer["prompt"].startswith(shorter["prompt"])
    if workload == "claude-code":
        offered = bodies[0]["prompt"].split("\n\nTools: ")[1].split("\n\nUser:")[0]
        assert [tool["name"] for tool in json.loads(offered)] == [
            tool.name for tool in session.tools
        ]
        calls = [
            line
            for line in bodies[-1]["prompt"].split("\n\n")
            if line.startswith("Assistant: Call: ")
        ]
        results = [
            line for line in bodies[-1]["prompt"].split("\n\n") if line.startswith("Result of ")
        ]
        assert [json.loads(call.removeprefix("Assistant: Call: "))["id"] for call in calls] == [
            line.removeprefix("Result of ").split(":")[0] for line in results
        ]
        assert len(calls) > 3


@pytest.mark.parametrize("workload", ["chat", "claude-code"])
def test_responses_bodies_are_what_the_official_types_describe(workload):
    from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
    from pydantic import TypeAdapter

    plan = make_plan(profile(workload, api="responses", output_length="forced"), FACTS)
    session = longest_that_only_grows(plan)
    talk = Conversation(session, plan.settings, "the-model", Texts(plan.seed, plan.tok_per_word))
    bodies = [json.loads(talk.body(turn.index)) for turn in session.turns]
    for turn, body in zip(session.turns, bodies, strict=True):
        assert (body["stream"], body["store"], body["max_output_tokens"]) == (
            True,
            False,
            turn.target_output_tok,
        )
        assert body["ignore_eos"] is True
        assert bool(body["tools"]) == (workload == "claude-code")
        assert "min_tokens" not in body
    TypeAdapter(ResponseCreateParamsStreaming).validate_python(
        {k: v for k, v in bodies[-1].items() if k != "ignore_eos"}
    )
    for shorter, longer in itertools.pairwise(bodies):
        assert longer["input"][: len(shorter["input"])] == shorter["input"]
        assert (longer["instructions"], longer["tools"]) == (
            shorter["instructions"],
            shorter["tools"],
        )
    calls = [item for item in bodies[-1]["input"] if item.get("type") == "function_call"]
    results = [item for item in bodies[-1]["input"] if item.get("type") == "function_call_output"]
    assert [call["call_id"] for call in calls] == [result["call_id"] for result in results]
    assert all(set(json.loads(call["arguments"])) == {"input"} for call in calls)
    assert (len(calls) > 3) == (workload == "claude-code")
    said = [item for item in bodies[-1]["input"] if item.get("role") == "assistant"]
    # llama.cpp answers 400 to a turn of the assistant without a type or with plain text
    assert {item["type"] for item in said} == {"message"}
    assert {part["type"] for item in said for part in item["content"]} == {"output_text"}
    texts = {item["content"][0]["text"] for item in said}
    assert len({item["id"] for item in said}) == len(texts) > 1


@pytest.mark.parametrize("api", ["messages", "chat"])
@pytest.mark.parametrize("workload", ["chat", "claude-code", "doc-qa", "thinking", "batch"])
def test_bodies_are_json_and_each_turn_extends_the_one_before(api, workload):
    plan = make_plan(profile(workload, api=api), FACTS)
    session = max(first(plan, 30), key=lambda s: len(s.turns))
    talk = Conversation(session, plan.settings, "the-model", Texts(plan.seed, plan.tok_per_word))
    bodies = [json.loads(talk.body(turn.index)) for turn in session.turns]
    for turn, body in zip(session.turns, bodies, strict=True):
        assert body["model"] == "the-model"
        assert body["stream"] is True
        assert body["max_tokens"] == turn.target_output_tok
        assert bool(body.get("tools")) == (workload == "claude-code")
    for turn, shorter, longer in zip(session.turns[1:], bodies, bodies[1:], strict=False):
        before = [_unmarked(message) for message in shorter["messages"]]
        after = [_unmarked(message) for message in longer["messages"]]
        assert longer.get("system") == shorter.get("system")
        if turn.keeps is None:
            assert after[: len(before)] == before
        elif api == "messages":
            assert after[:-1] == [*before, None][: 2 * turn.keeps]


def _unmarked(message):
    """A message without its cache breakpoints, which move on from turn to turn."""
    if isinstance(message["content"], list):
        return {
            **message,
            "content": [
                {k: v for k, v in part.items() if k != "cache_control"}
                for part in message["content"]
            ],
        }
    return message


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_every_tool_result_answers_the_tool_use_before_it(api):
    plan = make_plan(profile("claude-code", api=api), FACTS)
    session = max(first(plan, 30), key=lambda s: len(s.turns))
    body = json.loads(
        Conversation(session, plan.settings, "m", Texts(1, 1.5)).body(len(session.turns) - 1)
    )
    asked = None
    answered = 0
    names = {tool.get("name") or tool["function"]["name"] for tool in body["tools"]}
    for message in body["messages"]:
        if api == "chat":
            if message["role"] == "tool":
                assert message["tool_call_id"] == asked
                answered += 1
            for call in message.get("tool_calls", []):
                asked = call["id"]
                assert set(json.loads(call["function"]["arguments"])) == {"input"}
            continue
        for part in message["content"]:
            if part["type"] == "tool_result":
                assert part["tool_use_id"] == asked
                answered += 1
            if part["type"] == "tool_use":
                asked = part["id"]
                assert part["name"] in names or len(names) < 8
    assert answered > 3


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_forced_lengths_are_asked_for_where_the_route_has_fields_for_it(api):
    body = json.loads(_body(profile(api=api, output_length="forced")))
    assert body["ignore_eos"] is True
    assert body["min_tokens"] == body["max_tokens"]
    assert "ignore_eos" not in json.loads(_body(profile(api=api, output_length="natural")))
    assert "ignore_eos" not in json.loads(_body(profile(api="messages", output_length="forced")))


def _body(wanted):
    plan = make_plan(wanted, FACTS)
    return Conversation(first(plan, 1)[0], plan.settings, "m", Texts(1, 1.5)).body(0)


def test_another_seed_gives_another_text_from_the_first_words_on():
    plan = make_plan(profile(), FACTS)
    session = first(plan, 1)[0]
    one, two = (Texts(seed, 1.5).text(session.system) for seed in (1, 2))
    assert one.split()[:3] != two.split()[:3]


@given(tok=st.integers(1, 5000), tok_per_word=st.floats(0.5, 8))
def test_a_text_has_the_words_that_its_target_asks_for(tok, tok_per_word):
    from harness.plan.types import Block

    words = Texts(3, tok_per_word).text(Block("k", tok)).split()
    assert len(words) == max(1, round(tok / tok_per_word))


def test_plan_rows_say_what_the_sessions_are():
    plan = make_plan(
        profile("claude-code", load=[{"kind": "concurrency", "concurrency": 3, "sessions": 9}]),
        FACTS,
    )
    totals = PlanTotals()
    rows = list(plan_rows(plan, totals))
    sessions = [one for session in plan.sessions(0) for one in session.tree()]
    assert len(rows) == sum(len(s.turns) for s in sessions) == totals.requests
    assert len({row["request_id"] for row in rows}) == len(rows)
    assert len({row["body_sha256"] for row in rows}) == len(rows)
    assert rows[0]["body_sha256"] == next(body_hashes(sessions[0]))
    assert all((row["gap_ns"] is None) == (row["turn"] == 0) for row in rows)


def test_an_open_loop_is_written_down_up_to_the_end_of_its_window():
    load = [
        {
            "kind": "arrival_rate",
            "rate_per_s": 10,
            "process": "constant",
            "warmup_s": 2,
            "window_s": 3,
        }
    ]
    plan = make_plan(profile(load=load), FACTS)
    assert len(list(plan.horizon(0))) == 49  # at 0.1, 0.2, … 4.9 s
    assert plan.is_bounded(0)
    assert not make_plan(profile(), FACTS).is_bounded(0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    context=st.integers(3000, 300_000),
    kind=st.sampled_from(["chat", "claude-code"]),
    tool_share=st.floats(0, 1),
)
def test_any_seed_and_context_give_sessions_that_fit(seed, context, kind, tool_share):
    workload = {"kind": kind} | ({"tool_use_share": tool_share} if kind == "claude-code" else {})
    plan = make_plan(profile(workload, seed=seed), ModelFacts("m", max_context_tok=context))
    for session in first(plan, 5):
        for turn in session.turns:
            assert turn.target_input_tok + turn.target_output_tok <= context
            assert turn.target_output_tok >= 1
            assert turn.gap_ns >= 0
            kinds = [part.kind for part in turn.message.parts]
            assert kinds in ([PartKind.TEXT], [PartKind.TOOL_RESULT]) or turn.keeps is not None


@pytest.mark.parametrize("api", ["messages", "chat", "completions", "responses"])
@pytest.mark.parametrize(
    "omit", [["temperature"], ["stream_options"], ["min_tokens", "ignore_eos"]]
)
def test_keys_that_a_server_refuses_are_left_out(api, omit):
    plain, changed = (
        make_plan(profile("chat", api=api, **more), FACTS)
        for more in ({}, {"omit": omit, "length_key": "max_completion_tokens"})
    )
    session = first(plain, 1)[0]
    texts = Texts(plain.seed, plain.tok_per_word)
    before, after = (
        json.loads(Conversation(session, plan.settings, "m", texts).body(0))
        for plan in (plain, changed)
    )
    expected = {key: value for key, value in before.items() if key not in omit}
    if "max_tokens" in expected:
        expected["max_completion_tokens"] = expected.pop("max_tokens")
    assert after == expected
    assert changed.settings.form.adapt(before) == expected


def test_one_inner_key_is_left_out():
    plan = make_plan(
        profile("chat", api="chat", omit=["stream_options.continuous_usage_stats"]), FACTS
    )
    texts = Texts(plan.seed, plan.tok_per_word)
    body = json.loads(Conversation(first(plan, 1)[0], plan.settings, "m", texts).body(0))
    assert body["stream_options"] == {"include_usage": True}
