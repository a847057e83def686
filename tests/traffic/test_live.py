"""`assistant: live` on the wire: what a server said is what the next request carries, whatever the
stream's form.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from harness.api.parts import PartKind
from harness.core.records import Api
from harness.traffic._locust.answer import EndOfStream, read_answer
from harness.traffic._locust.http1 import Framing
from harness.traffic.events import StageEnded

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


def spoken(api: Api, body: bytes, *, at: int | None = None) -> list[tuple[str, str, str, str, str]]:
    """The blocks that the reader keeps of a stream, cut at a byte."""
    framing = Framing()
    for data in (OK, body) if at is None else (OK, body[:at], body[at:]):
        framing.add(data, 0)
    framing.end_of_file()
    answer = read_answer(framing, api, EndOfStream.COMPLETE, keep_parts=True)
    return [(one.kind, one.text, one.tool_id, one.tool_name, one.signature) for one in answer.parts]


EXPECTED = {
    "messages-anthropic": [
        ("thinking", 'Hm, 1 < 2 "quoted"\nso\\', "", "", "abc="),
        ("text", "Grüße 🙂 end.", "", "", ""),
        ("tool_use", '{"input": "ls -l"}', "t1", "Bash", ""),
    ],
    "messages-vllm": [("text", "".join(f" word{i}" for i in range(7)), "", "", "")],
    "chat-continuous": [("text", ' a"b" ü\n c', "", "", "")],
    "chat-tools": [
        ("thinking", "Let me see", "", "", ""),
        ("text", "I look.", "", "", ""),
        ("tool_use", '{"input": "ls"}', "x", "Bash", ""),
    ],
    "completions-continuous": [("text", ' a"b" ü\n c d', "", "", "")],
    "completions-plain": [("text", ' one two "three" 🙂', "", "", "")],
    "responses-openai": [
        ("thinking", 'Hm, "so"', "", "", ""),
        ("text", "Grüße 🙂 end.", "", "", ""),
        ("tool_use", '{"input": "ls -l"}', "call_1", "Bash", ""),
    ],
    "responses-vllm": [
        ("thinking", "Let me see", "", "", ""),
        ("text", "".join(f" word{i}" for i in range(7)), "", "", ""),
    ],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_blocks_of_an_answer_are_put_together_again(
    streams: dict[str, tuple[Api, bytes]], name: str
) -> None:
    api, body = streams[name]
    for _ in range(2):  # the second time events are recognised by their shapes
        assert spoken(api, body) == EXPECTED[name]
    for at in range(1, len(body), 13):
        assert spoken(api, body, at=at) == EXPECTED[name]


def test_a_tool_call_that_vllm_cut_short_is_kept_as_it_came(
    streams: dict[str, tuple[Api, bytes]],
) -> None:
    [(kind, text, tool_id, name, _)] = [
        one for one in spoken(*streams["responses-vllm-0.32-tool"]) if one[0] == PartKind.TOOL_USE
    ]
    assert (kind, bool(tool_id), bool(name)) == ("tool_use", True, True)
    assert text.startswith('["queue", "Bash"')


def test_bytes_that_are_no_text_do_not_reach_the_next_body() -> None:
    event = (
        b"data:"
        b' {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}\n\n'
    )
    for _ in range(2):
        [(_, text, *_)] = spoken(
            Api.MESSAGES, event % b"a" + event % b"b\xff" + event % rb"\ud83d" + event % rb"\ude42"
        )
        assert text in (
            "ab�🙂",
            "a🙂",
        )  # an event that JSON refuses is left out, one that a shape lets through is mended


def test_nothing_is_kept_unless_it_is_asked_for(streams: dict[str, tuple[Api, bytes]]) -> None:
    api, body = streams["messages-anthropic"]
    framing = Framing()
    framing.add(OK + body, 0)
    framing.end_of_file()
    assert read_answer(framing, api, EndOfStream.COMPLETE).parts == ()


class _Scripted(BaseHTTPRequestHandler):
    """Answers with text and a call that name the request, and keeps the bodies."""

    protocol_version = "HTTP/1.1"
    bodies: dict[str, dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ident = self.headers["x-harness-request-id"]
        self.bodies[ident] = body
        events: list[dict[str, Any]] = [
            {
                "type": "message_start",
                "message": {"usage": {"input_tokens": 5, "output_tokens": 0}},
            },
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            },
            *[
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "text_delta", "text": t},
                }
                for t in ("said ", "in ", ident)
            ],
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": f"live_{ident[-1]}", "name": "Grep"},
            },
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"pattern": "x"}'},
            },
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 9},
            },
            {"type": "message_stop"},
        ]
        sent = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def scripted() -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """URL of a server that answers by script, and the bodies that it got, by request id."""
    handler = type("Handler", (_Scripted,), {"bodies": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler.bodies  # type: ignore[attr-defined]
        server.shutdown()


WORKLOAD = {
    "kind": "claude-code",
    "tools_tok": 400,
    "tools": 4,
    "system_tok": 40,
    "first_tok": 30,
    "resumed_share": 0,
    "rewrite_share": 0,
    "append_tok": 20,
    "output_tok": 40,
    "requests": 3,
    "tool_use_share": 0.5,
    "subagents": {"share": 0},
    "tool_gap_s": "10ms",
    "user_gap_s": "10ms",
    "context_limit_tok": 8000,
}


def test_later_requests_carry_what_the_server_said(
    traffic: Callable[..., Any], scripted: tuple[str, dict[str, dict[str, Any]]]
) -> None:
    url, bodies = scripted
    load = [{"kind": "concurrency", "concurrency": 2, "sessions": 6}]
    one = traffic([url], load, replace_workload=WORKLOAD, assistant="live")
    rows = one.run()
    assert {row["outcome"] for row in rows} == {"ok"}
    assert len(bodies) == len(rows) == 18
    calls = 0
    for session in one.plan.sessions(0):
        for turn in session.turns[1:]:
            messages = bodies[f"{session.session_id}/{turn.index}"]["messages"]
            for before in range(turn.index):
                said, *call = messages[2 * before + 1]["content"]
                assert said == {"type": "text", "text": f"said in {session.session_id}/{before}"}
                planned = session.turns[before].reply.parts[-1].tool_id
                assert [one["id"] for one in call] == ([f"live_{before}"] if planned else [])
                if planned:
                    assert (call[0]["name"], call[0]["input"]) == ("Grep", {"pattern": "x"})
                    assert messages[2 * before + 2]["content"][0]["tool_use_id"] == f"live_{before}"
                calls += bool(planned)
    assert calls > 3
    assert one.named(StageEnded)[0].replies_not_carried == 0
