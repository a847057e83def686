"""Requests of classes that reason ask the model for it, in the form of each API, where the server
takes it.
"""

import itertools
import json

import pytest
from pydantic import TypeAdapter

from harness.api.messages import LEAST_BUDGET_TOK
from harness.core.records import ModelFacts
from harness.plan.bodies import Conversation
from harness.plan.build import make_plan
from harness.plan.prompt_text import Texts
from harness.profile.schema import Profile

FACTS = ModelFacts("builtin:tiny", max_context_tok=65536, tok_per_word=1.5)
CLOSED = {"kind": "concurrency", "concurrency": 2, "sessions": 40}
MIX = {
    "kind": "mix",
    "parts": [{"weight": 1, "workload": {"kind": kind}} for kind in ("thinking", "chat")],
}


def planned(workload="thinking", *, server=None, load=CLOSED, **traffic):
    workload = {"kind": workload} if isinstance(workload, str) else workload
    profile = {
        "purpose": "smoke",
        "model": {"id": "builtin:tiny"},
        "server": server or {"kind": "torch"},
        "traffic": {
            "api": "messages",
            "workload": workload,
            "load": [load],
            "output_length": "natural",
            **traffic,
        },
    }
    return make_plan(Profile.model_validate(profile), FACTS)


def requests(plan):
    """Session, turn and body of every request."""
    for session in plan.sessions(0):
        talk = Conversation(session, plan.settings, "m", Texts(1, 1.5))
        for turn in session.turns:
            yield session, turn, json.loads(talk.body(turn.index))


def test_a_budget_is_the_planned_reasoning_and_below_the_answer_s_length():
    from anthropic.types import ThinkingConfigParam

    asked = 0
    for _, turn, body in requests(planned()):
        if "thinking" in body:
            TypeAdapter(ThinkingConfigParam).validate_python(body["thinking"])
            assert body["thinking"] == {
                "type": "enabled",
                "budget_tokens": max(LEAST_BUDGET_TOK, turn.thinking_tok),
            }
            assert (
                LEAST_BUDGET_TOK
                <= body["thinking"]["budget_tokens"]
                < body["max_tokens"]
                == turn.target_output_tok
            )
            asked += 1
        else:
            assert turn.target_output_tok <= max(LEAST_BUDGET_TOK, turn.thinking_tok)
    assert asked > 10


@pytest.mark.parametrize(
    ("server", "api", "thinking", "sent"),
    [
        ({"kind": "torch"}, "messages", "auto", True),
        ({"kind": "vllm", "reasoning_parser": "qwen3"}, "messages", "auto", True),
        ({"kind": "vllm"}, "messages", "auto", False),  # refuses a budget without a parser
        ({"kind": "vllm"}, "messages", "budget", True),
        ({"kind": "attach", "urls": ["http://127.0.0.1:1"]}, "messages", "auto", False),
        ({"kind": "torch"}, "messages", "off", False),
        ({"kind": "torch"}, "chat", "auto", False),
    ],
)
def test_auto_sends_a_budget_where_the_server_is_known_to_take_it(server, api, thinking, sent):
    plan = planned(server=server, api=api, thinking=thinking)
    assert any("thinking" in body for _, _, body in requests(plan)) is sent
    assert any("traffic.thinking is off" in note for note in plan.notes) is not sent
    assert any("budget" in note for note in plan.notes) is sent


def test_adaptive_is_in_every_request_of_a_class_that_reasons_and_in_no_other():
    from anthropic.types import OutputConfigParam, ThinkingConfigParam

    seen = set()
    for session, _, body in requests(planned(MIX, thinking="adaptive", thinking_effort="high")):
        if session.workload_class == "thinking":
            assert body["thinking"] == TypeAdapter(ThinkingConfigParam).validate_python(
                {"type": "adaptive"}
            )
            assert body["output_config"] == TypeAdapter(OutputConfigParam).validate_python(
                {"effort": "high"}
            )
        else:
            assert not {"thinking", "output_config"} & set(body)
        seen.add(session.workload_class)
    assert seen == {"thinking", "chat"}
    _, _, body = next(requests(planned("claude-code", thinking="adaptive")))
    assert (body["thinking"], "output_config" in body) == ({"type": "adaptive"}, False)


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_effort_has_the_form_of_each_openai_route(effort):
    from openai.types.shared import ReasoningEffort
    from openai.types.shared_params import Reasoning

    _, _, chat = next(requests(planned(api="chat", thinking="effort", thinking_effort=effort)))
    assert TypeAdapter(ReasoningEffort).validate_python(chat["reasoning_effort"]) == effort
    _, _, responses = next(
        requests(planned(api="responses", thinking="effort", thinking_effort=effort))
    )
    assert TypeAdapter(Reasoning).validate_python(responses["reasoning"]) == {"effort": effort}


def test_a_priming_request_has_no_budget_and_the_same_effort():
    """Its answer is one token, which no budget is below; the effort may change the prompt that a
    template makes.
    """
    for thinking, more in (("budget", {}), ("effort", {"api": "chat", "thinking_effort": "low"})):
        plan = planned(
            {"kind": "thinking", "turns": 6},
            thinking=thinking,
            load={**CLOSED, "start": "steady"},
            **more,
        )
        primed = next(
            session for session in itertools.islice(plan.sessions(0), 2) if session.primed
        )
        body = json.loads(Conversation(primed, plan.settings, "m", Texts(1, 1.5)).priming_body())
        assert body["max_tokens"] == 1
        assert "thinking" not in body
        assert body.get("reasoning_effort") == more.get("thinking_effort")


def test_what_is_asked_for_is_part_of_the_workload():
    hashes = [
        planned(**more).workload_sha256
        for more in ({}, {"thinking": "off"}, {"thinking": "adaptive"})
    ]
    assert len(set(hashes)) == 3
    assert planned("chat").workload_sha256 == planned("chat", thinking="off").workload_sha256
