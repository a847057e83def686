"""Answers that builtin:tiny cannot be made to give, scripted: tool calls, failures, ends of text,
on both wires.
"""

import asyncio
import json
from types import SimpleNamespace

import pytest

from harness.api.base import Ask
from harness.api.table import wire
from harness.core.clock import now_ns
from harness.core.records import Api
from harness.server.engine.api import EngineApp, guarded
from harness.server.engine.batching import EngineDeadError, Generation
from harness.server.engine.output import Output
from harness.server.engine.prompts import Prompts
from harness.server.engine.reply import EventStream, Reply

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"word": "queue"}}\n</tool_call>'


@pytest.fixture(scope="module")
def prompts(tiny_path):
    return Prompts(tiny_path)


@pytest.fixture
def engine(prompts):
    idle = SimpleNamespace(running=lambda: 0.0, waiting=lambda: 0.0, kv_usage=lambda: None)
    return EngineApp(idle, prompts, "tiny")


def scripted(engine, text, finish="stop", error=None, stops=()):
    """A reply whose tokens come three at a time, as if from the generation thread."""
    generation = Generation("r0", 70, now_ns(), frozenset(), lambda: None, cached_tok=32)
    ids = engine.prompts.fast.encode(text).ids
    for at in range(0, len(ids), 3):
        generation.put(ids[at : at + 3], at_ns=now_ns())
    generation.put([], finish, error, at_ns=now_ns())
    return Reply(generation, Output(engine.prompts.fast, stops, ["look_up"]), engine.metrics, 32)


def stream(reply, api):
    """What a client would receive."""
    received = bytearray()

    async def run():
        async def send(message):
            received.extend(message.get("body", b""))

        async def receive():
            await asyncio.Event().wait()

        writer = wire(api).writer("tiny", "1")
        await EventStream(reply, Ask(9), writer, "text/event-stream")({}, receive, send)

    asyncio.run(run())
    return received.decode()


def test_a_written_call_becomes_a_tool_use_block(engine):
    reply = scripted(engine, f"I look it up. {CALL}")
    text = stream(reply, Api.MESSAGES)
    events = [
        json.loads(line.removeprefix("data: "))
        for line in text.splitlines()
        if line.startswith("data: ")
    ]
    kinds = [event["type"] for event in events]
    assert kinds[-5:] == [
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    starts = [event for event in events if event["type"] == "content_block_start"]
    assert [(event["index"], event["content_block"]["type"]) for event in starts] == [
        (0, "text"),
        (1, "tool_use"),
    ]
    block = starts[1]["content_block"]
    assert block["id"].startswith("toolu_")
    assert (block["name"], block["input"]) == ("look_up", {})
    assert events[-4]["delta"] == {"type": "input_json_delta", "partial_json": '{"word": "queue"}'}
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    said = "".join(
        event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta"
    )
    assert said == "I look it up. "
    usage = events[-2]["usage"]
    assert (
        usage["input_tokens"],
        usage["cache_creation_input_tokens"],
        usage["cache_read_input_tokens"],
    ) == (6, 32, 32)
    assert usage["output_tokens"] == len(engine.prompts.fast.encode(f"I look it up. {CALL}").ids)


def test_a_written_call_becomes_tool_calls(engine):
    reply = scripted(engine, f"{CALL}\n{CALL}")
    chunks = [
        json.loads(line[6:])
        for line in stream(reply, Api.CHAT).split("\n\n")
        if line.startswith("data: {")
    ]
    calls = [
        call
        for chunk in chunks
        if chunk["choices"]
        for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert [call["index"] for call in calls] == [0, 1]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"word": "queue"}] * 2
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]][
        -1
    ] == "tool_calls"
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}


def test_an_answer_cut_at_its_length_inside_a_call_is_text(engine):
    reply = scripted(engine, CALL[:40], finish="length")
    text = stream(reply, Api.MESSAGES)
    assert "tool_use" not in text
    assert '"stop_reason":"max_tokens"' in text


def test_a_natural_end_is_end_turn_and_stop(engine):
    reply = scripted(engine, "Done.")
    assert '"stop_reason":"end_turn"' in stream(reply, Api.MESSAGES)
    assert reply.ending.reason == "stop"


def test_a_failure_in_the_middle_is_an_error_event_and_no_end(engine):
    reply = scripted(engine, "Half an ans", finish="error", error="out of memory")
    text = stream(reply, Api.MESSAGES)
    assert text.endswith('{"type":"api_error","message":"out of memory"}}\n\n')
    assert "message_stop" not in text
    assert reply.finish == "error"


@pytest.mark.parametrize("api", list(Api))
def test_failures_have_each_apis_status_and_form(api):
    async def failing(error):
        raise error

    async def foreign():
        with pytest.raises(LookupError):
            await guarded(wire(api), lambda: failing(LookupError("not ours")))
        return await guarded(wire(api), lambda: failing(EngineDeadError("no")))

    response = asyncio.run(foreign())
    body = json.loads(response.body)
    assert response.status_code == 503
    assert body["error"]["type"] == "overloaded_error"
    assert ("type" in body) is (api is Api.MESSAGES)


def test_metrics_count_a_scripted_answer_once(engine):
    reply = scripted(engine, "one two three four five six")

    async def read():
        async for _ in reply.steps():
            pass
        reply.abandon()

    asyncio.run(read())
    text = engine.metrics.exposition().decode()
    assert (
        f'vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {float(reply.output.tokens)}'
        in text
    )
    assert 'finished_reason="stop",model_name="tiny"} 1.0' in text
    assert 'finished_reason="abort",model_name="tiny"} 0.0' in text
    assert 'vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} NaN' in text


def test_a_written_call_becomes_an_item_of_a_response(engine):
    reply = scripted(engine, f"I look it up. {CALL}")
    text = stream(reply, Api.RESPONSES)
    events = [
        json.loads(line.removeprefix("data: "))
        for line in text.splitlines()
        if line.startswith("data: ")
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    final = events[-1]["response"]
    message, call = final["output"]
    assert (final["status"], message["type"], call["type"]) == (
        "completed",
        "message",
        "function_call",
    )
    assert message["content"][0]["text"] == "".join(
        e["delta"] for e in events if e["type"] == "response.output_text.delta"
    )
    (delta,) = [e for e in events if e["type"] == "response.function_call_arguments.delta"]
    assert json.loads(delta["delta"]) == {"word": "queue"} == json.loads(call["arguments"])
    added = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert (
        [item["id"] for item in added]
        == [item["id"] for item in done]
        == [item["id"] for item in final["output"]]
    )
    assert added[1]["call_id"] == call["call_id"]
    assert done == final["output"]
    assert final["usage"]["input_tokens_details"] == {"cached_tokens": 32}


def test_a_failure_in_a_response_is_an_error_event(engine):
    reply = scripted(engine, "So far", "error", "out of memory")
    text = stream(reply, Api.RESPONSES)
    last = json.loads(text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["type"], last["code"], last["message"]) == (
        "error",
        "server_error",
        "out of memory",
    )
