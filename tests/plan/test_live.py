"""Later turns carry what the server answered: text always, a call where the plan has one, reasoning
only in front of a call.
"""

import json

import pytest

from harness.api.parts import ContentPart, PartKind
from harness.core.records import Api
from harness.plan.bodies import Conversation
from harness.plan.plan_table import plan_rows
from harness.plan.prompt_text import Texts

CLOSED = {"kind": "concurrency", "concurrency": 2, "sessions": 6}
TEXT = ContentPart(PartKind.TEXT, rb"Gr\u00fc\u00dfe \"live\"")
CALL = ContentPart(
    PartKind.TOOL_USE, rb"{\"command\": \"ls\"}", tool_id="toolu_live", tool_name="Bash"
)
THOUGHT = ContentPart(PartKind.THINKING, b"hm", signature="sig=")
SECRET = ContentPart(PartKind.REDACTED_THINKING, b"c2VjcmV0")


def spoken(kind, text, **more):
    return ContentPart(PartKind(kind), json.dumps(text)[1:-1].encode(), **more)


def talk(plan, *, calls):
    """A conversation whose first reply has a call or has none, and that goes on from there."""
    session = next(
        s
        for s in plan.sessions(0)
        if len(s.turns) > 2
        and s.turns[1].keeps is None
        and any(part.kind is PartKind.TOOL_USE for part in s.turns[0].reply.parts) is calls
    )
    return session, Conversation(session, plan.settings, "m", Texts(plan.seed, plan.tok_per_word))


@pytest.fixture(name="plan")
def _plan(make):
    return lambda api, workload="claude-code", **more: make(
        workload, CLOSED, api=api, assistant="live", output_length="natural", **more
    )


def test_messages_carry_text_call_and_the_reasoning_in_front_of_it(plan):
    _, conversation = talk(plan("messages"), calls=True)
    assert conversation.answered(
        0, [THOUGHT, SECRET, TEXT, CALL, spoken("tool_use", "{}", tool_id="b", tool_name="Read")]
    )
    _, assistant, user = json.loads(conversation.body(1))["messages"][:3]
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "sig="},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": 'Grüße "live"'},
        {"type": "tool_use", "id": "toolu_live", "name": "Bash", "input": {"command": "ls"}},
    ]
    assert (user["content"][0]["type"], user["content"][0]["tool_use_id"]) == (
        "tool_result",
        "toolu_live",
    )


def test_a_call_that_the_plan_has_not_and_reasoning_are_dropped(plan):
    _, conversation = talk(plan("messages"), calls=False)
    assert conversation.answered(0, [THOUGHT, TEXT, CALL])
    assert json.loads(conversation.body(1))["messages"][1]["content"] == [
        {"type": "text", "text": 'Grüße "live"'}
    ]


def test_the_planned_call_stays_where_the_server_made_none(plan):
    session, conversation = talk(plan("messages"), calls=True)
    assert conversation.answered(0, [TEXT])
    said, call = json.loads(conversation.body(1))["messages"][1]["content"]
    assert said == {"type": "text", "text": 'Grüße "live"'}
    planned = next(part for part in session.turns[0].reply.parts if part.kind is PartKind.TOOL_USE)
    assert (call["id"], call["name"]) == (planned.tool_id, planned.tool_name)
    assert (
        json.loads(conversation.body(1))["messages"][2]["content"][0]["tool_use_id"]
        == planned.tool_id
    )


@pytest.mark.parametrize("nothing", [[], [THOUGHT], [CALL], [spoken("text", " \n")]])
def test_an_answer_with_nothing_to_carry_leaves_the_recorded_one(plan, nothing):
    live, recorded = (talk(plan("messages"), calls=False)[1] for _ in range(2))
    assert not live.answered(0, nothing)
    assert live.body(1) == recorded.body(1)


@pytest.mark.parametrize(
    ("came", "carried"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ("", {}),
        ('{"input": "cut', {"input": '{"input": "cut'}),
        ("17", {"input": "17"}),
        ("[" * 5000, {"input": "[" * 5000}),
    ],
)
@pytest.mark.parametrize("api", ["messages", "chat", "responses", "completions"])
def test_a_call_s_input_is_an_object_whatever_came(plan, api, came, carried):
    _, conversation = talk(plan(api), calls=True)
    assert conversation.answered(0, [spoken("tool_use", came, tool_id="x", tool_name="Bash")])
    body = json.loads(conversation.body(1))
    match api:
        case "messages":
            (call,) = body["messages"][1]["content"]
            found = call["name"], call["id"], call["input"]
        case "chat":
            assert body["messages"][2]["content"] is None
            (call,) = body["messages"][2]["tool_calls"]
            found = call["function"]["name"], call["id"], json.loads(call["function"]["arguments"])
            assert body["messages"][3]["tool_call_id"] == "x"
        case "responses":
            call = body["input"][1]
            found = call["name"], call["call_id"], json.loads(call["arguments"])
            assert body["input"][2]["call_id"] == "x"
        case _:
            call = json.loads(body["prompt"].split("Assistant: Call: ")[1].split("\n\n")[0])
            found = call["name"], call["id"], call["arguments"]
            assert "\n\nResult of x: " in body["prompt"]
    assert found == ("Bash", "x", carried)


@pytest.mark.parametrize("api", ["chat", "responses", "completions"])
def test_text_is_carried_as_it_came(plan, api):
    _, conversation = talk(plan(api), calls=False)
    assert conversation.answered(0, [TEXT, spoken("text", "\n😀")])
    body = json.loads(conversation.body(1))
    said = 'Grüße "live"\n😀'
    if api == "completions":
        assert f"\n\nAssistant:{said}\n\n" in body["prompt"]
    elif api == "chat":
        assert {"role": "assistant", "content": said} in body["messages"]
    else:
        (turn,) = [item for item in body["input"] if item["role"] == "assistant"]
        assert [(part["type"], part["text"]) for part in turn["content"]] == [("output_text", said)]


def test_without_answers_the_bodies_are_the_recorded_ones(make, plan):
    """The option changes nothing of a first turn, and a later one only by what was answered."""
    live, recorded = (
        plan("messages"),
        make("claude-code", CLOSED, api="messages", output_length="natural"),
    )
    assert live.settings.live
    assert not recorded.settings.live
    (_, one), (_, two) = talk(live, calls=True), talk(recorded, calls=True)
    assert [one.body(turn) for turn in range(3)] == [two.body(turn) for turn in range(3)]


def test_the_plan_says_that_it_cannot_tell_the_bodies(make, plan):
    live, recorded = (
        plan("messages"),
        make("claude-code", CLOSED, api="messages", output_length="natural"),
    )
    assert live.plan_sha256 != recorded.plan_sha256
    assert live.workload_sha256 != recorded.workload_sha256
    assert any("live" in note for note in live.notes)
    assert not any("live" in note for note in recorded.notes)
    assert all((row["body_sha256"] is None) == (row["turn"] > 0) for row in plan_rows(live))
    assert all(row["body_sha256"] for row in plan_rows(recorded))


def test_every_api_of_the_harness_renders_it():
    assert {api.value for api in Api} == {"messages", "chat", "responses", "completions"}
