"""Parts for the traffic tests: profiles against the paced server, a driver that collects its
events, recorded streams.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness.artifacts.journal import read_table
from harness.artifacts.layout import RunDir
from harness.artifacts.tables import REQUESTS
from harness.core.clock import now_ns
from harness.core.records import Api, Endpoint, ModelFacts
from harness.plan.build import make_plan
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL
from harness.traffic.driver import LocustDriver
from harness.traffic.events import TrafficEvent

FACTS = ModelFacts(MODEL, tok_per_word=1.35)
E = TypeVar("E", bound=TrafficEvent)


class Traffic:
    """One run of the load generator against given URLs."""

    def __init__(
        self,
        folder: Path,
        urls: list[str],
        load: list[dict[str, Any]],
        *,
        workers: int = 1,
        canary: Endpoint | None = None,
        **traffic: Any,
    ) -> None:
        workload = {
            "kind": "chat",
            "system_tok": 30,
            "user_tok": 10,
            "output_tok": 6,
            "turns": 1,
            "think_s": 0,
        }
        self.profile = Profile.model_validate(
            {
                "purpose": "smoke",
                "model": {"id": MODEL},
                "server": {"kind": "attach", "urls": urls},
                "traffic": {
                    "api": "messages",
                    "workload": (
                        traffic.pop("replace_workload", None)
                        or workload | traffic.pop("workload", {})
                    ),
                    "load": load,
                    "context_scale": 1,
                    **traffic,
                },
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        self.run_dir = RunDir(folder)
        self.plan = make_plan(self.profile, FACTS)
        self.events: list[TrafficEvent] = []
        endpoints = [Endpoint(f"replica-{i}", url, MODEL) for i, url in enumerate(urls)]
        self.driver = LocustDriver(
            self.profile,
            FACTS,
            self.plan,
            endpoints,
            self.run_dir,
            workers=workers,
            canary=canary,
            api_key="k3y",
            on_event=self.events.append,
        )

    def run(self) -> list[dict[str, Any]]:
        """The whole run; its rows."""
        with self.driver as driver:
            driver.start()
            driver.go(now_ns() + 300_000_000)
            while not driver.wait(5):
                pass
        return self.rows()

    def rows(self) -> list[dict[str, Any]]:
        """The journals' rows in order of their ends."""
        rows = read_table(sorted(self.run_dir.requests_dir.iterdir()), REQUESTS).to_pylist()
        return sorted(rows, key=lambda row: row["done_ns"])

    def named(self, kind: type[E]) -> list[E]:
        """Events of one kind."""
        return [one for one in list(self.events) if isinstance(one, kind)]

    def log(self) -> str:
        """All logs."""
        return "\n".join(path.read_text() for path in sorted(self.run_dir.logs_dir.iterdir()))


@pytest.fixture
def traffic(tmp_path: Path) -> Callable[..., Traffic]:
    """Makes a `Traffic` in a folder of its own."""
    made: list[Traffic] = []

    def make(urls: list[str], load: list[dict[str, Any]], **more: Any) -> Traffic:
        one = Traffic(tmp_path / f"run-{len(made)}", urls, load, **more)
        made.append(one)
        return one

    return make


# --- recorded streams ---


def sse(value: dict[str, Any], name: str | None = None) -> bytes:
    """One event."""
    head = f"event: {name}\n" if name else ""
    return (
        f"{head}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
    )


def _messages(events: list[dict[str, Any]]) -> bytes:
    return b"".join(sse(event, event["type"]) for event in events)


def _delta(index: int, **delta: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _message_start(**usage: int) -> dict[str, Any]:
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return {"type": "message_start", "message": message}


def _message_end(stop: str, **usage: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop, "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]


MESSAGES_ANTHROPIC = _messages(
    [
        _message_start(
            input_tokens=12,
            cache_creation_input_tokens=3,
            cache_read_input_tokens=1000,
            output_tokens=1,
        ),
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "ping"},
        _delta(0, type="thinking_delta", thinking='Hm, 1 < 2 "quoted"'),
        _delta(0, type="thinking_delta", thinking="\nso\\"),
        _delta(0, type="signature_delta", signature="abc="),
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        _delta(1, type="text_delta", text="Grüße"),
        _delta(1, type="text_delta", text=" 🙂 "),
        _delta(1, type="text_delta", text=""),
        _delta(1, type="text_delta", text="end."),
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}},
        },
        _delta(2, type="input_json_delta", partial_json=""),
        _delta(2, type="input_json_delta", partial_json='{"input": "l'),
        _delta(2, type="input_json_delta", partial_json='s -l"}'),
        {"type": "content_block_stop", "index": 2},
        *_message_end("tool_use", output_tokens=42),
    ]
)
"""As Anthropic's API sends it: the prompt's counts at the start, all kinds of content."""

MESSAGES_VLLM = _messages(
    [
        _message_start(input_tokens=2418, output_tokens=0),
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[_delta(0, type="text_delta", text=f" word{i}") for i in range(7)],
        {"type": "content_block_stop", "index": 0},
        *_message_end(
            "end_turn",
            input_tokens=114,
            cache_creation_input_tokens=2304,
            cache_read_input_tokens=0,
            output_tokens=7,
        ),
    ]
)
"""As vLLM 0.32 sends it with --enable-prompt-tokens-details: the whole prompt at the start, its
parts at the end.
"""


def _chat(
    delta: dict[str, Any] | None,
    finish: str | None = None,
    usage: dict[str, Any] | None = None,
    ident: str = "c-1",
) -> bytes:
    choices = (
        []
        if delta is None
        else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    )
    value = {
        "id": ident,
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-7b",
        "choices": choices,
    }
    return sse(value if usage is None else value | {"usage": usage})


def _usage(completion: int, **more: Any) -> dict[str, Any]:
    return {
        "prompt_tokens": 50,
        "total_tokens": 50 + completion,
        "completion_tokens": completion,
        **more,
    }


CHAT_CONTINUOUS = (
    _chat({"role": "assistant", "content": ""}, usage=_usage(0))
    + b": a comment\n\n"
    + b"".join(
        _chat({"content": text}, usage=_usage(n))
        for text, n in ((" a", 1), ('"b"', 3), ("", 4), (" ü", 5), ("\n", 6), (" c", 7))
    )
    + _chat({}, "stop", _usage(8))
    + _chat(None, usage=_usage(8, prompt_tokens_details={"cached_tokens": 48}))
    + b"data: [DONE]\n\n"
)
"""As vLLM sends it with continuous_usage_stats."""

CHAT_TOOLS = (
    _chat({"role": "assistant", "content": None})
    + _chat({"reasoning_content": "Let me"})
    + _chat({"reasoning_content": " see"})
    + _chat({"content": "I look."})
    + _chat(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "x",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": ""},
                }
            ]
        }
    )
    + _chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"input":'}}]})
    + _chat({"tool_calls": [{"index": 0, "function": {"arguments": ' "ls"}'}}]})
    + _chat({}, "tool_calls")
    + _chat(None, usage=_usage(9))
    + b"data: [DONE]\n\n"
)
"""Reasoning, text and a tool call; usage at the end only."""


def _completion(
    text: str | None, finish: str | None = None, usage: dict[str, Any] | None = None
) -> bytes:
    choices = (
        []
        if text is None
        else [
            {
                "index": 0,
                "text": text,
                "logprobs": None,
                "finish_reason": finish,
                "stop_reason": None,
            }
        ]
    )
    value = {
        "id": "cmpl-9f3",
        "object": "text_completion",
        "created": 1,
        "model": "m-7b",
        "choices": choices,
    }
    return sse(value if usage is None else value | {"usage": usage})


COMPLETIONS_CONTINUOUS = (
    b"".join(
        _completion(text, usage=_usage(n))
        for text, n in ((" a", 1), ('"b"', 3), ("", 4), (" ü", 5), ("\n", 6), (" c", 7))
    )
    + _completion(" d", "length", _usage(8))
    + _completion(None, usage=_usage(8, prompt_tokens_details={"cached_tokens": 48}))
    + b"data: [DONE]\n\n"
)
"""As vLLM sends it with continuous_usage_stats: the last text comes with the finish reason."""

COMPLETIONS_PLAIN = (
    b"".join(_completion(text) for text in (" one", " two", ' "three"', " 🙂"))
    + _completion("", "stop")
    + _completion(None, usage=_usage(6))
    + b"data: [DONE]\n\n"
)
"""Usage at the end only."""


def _responses(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        sse(event | {"sequence_number": number}, event["type"])
        for number, event in enumerate(events)
    )


def _response(
    status: str,
    output: list[dict[str, Any]],
    usage: dict[str, Any] | None = None,
    why: str | None = None,
) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": "m",
        "output": output,
        "error": None,
        "incomplete_details": {"reason": why} if why else None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "usage": usage,
        "tools": [
            {"type": "function", "name": "Bash", "parameters": {"type": "object"}, "strict": False}
        ],
        "instructions": "content",
        "metadata": {},
        "temperature": 0.0,
        "top_p": 1.0,
    }


def _responses_usage(read: int, output: int, **more: int) -> dict[str, Any]:
    details = {"cached_tokens": read, **more}
    return {
        "input_tokens": 1015,
        "input_tokens_details": details,
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 1015 + output,
    }


def _item_events(
    index: int, item: dict[str, Any], done: dict[str, Any], deltas: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    at = {"item_id": item["id"], "output_index": index}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": item},
        *[at | delta for delta in deltas],
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]


def _message_item(index: int, texts: list[str]) -> list[dict[str, Any]]:
    item = {
        "id": f"msg_8f{index}a",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    part = {"type": "output_text", "text": "".join(texts), "annotations": []}
    return _item_events(
        index,
        item,
        item | {"status": "completed", "content": [part]},
        [
            {
                "type": "response.content_part.added",
                "content_index": 0,
                "part": part | {"text": ""},
            },
            *[
                {
                    "type": "response.output_text.delta",
                    "content_index": 0,
                    "delta": text,
                    "logprobs": [],
                }
                for text in texts
            ],
            {
                "type": "response.output_text.done",
                "content_index": 0,
                "text": part["text"],
                "logprobs": [],
            },
            {"type": "response.content_part.done", "content_index": 0, "part": part},
        ],
    )


_THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": []}
_SUMMARY = {"type": "summary_text", "text": 'Hm, "so"'}
_CALL = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": "Bash",
    "arguments": "",
    "status": "in_progress",
}
_CALLED = _CALL | {"arguments": '{"input": "ls -l"}', "status": "completed"}
_SAID = ["Grüße", " 🙂 ", "", "end."]
_MESSAGE = _message_item(1, _SAID)

RESPONSES_OPENAI = _responses(
    [
        {"type": "response.created", "response": _response("in_progress", [])},
        {"type": "response.in_progress", "response": _response("in_progress", [])},
        *_item_events(
            0,
            _THOUGHT,
            _THOUGHT | {"summary": [_SUMMARY]},
            [
                {
                    "type": "response.reasoning_summary_part.added",
                    "summary_index": 0,
                    "part": _SUMMARY | {"text": ""},
                },
                {
                    "type": "response.reasoning_summary_text.delta",
                    "summary_index": 0,
                    "delta": "Hm, ",
                },
                {
                    "type": "response.reasoning_summary_text.delta",
                    "summary_index": 0,
                    "delta": '"so"',
                },
                {
                    "type": "response.reasoning_summary_text.done",
                    "summary_index": 0,
                    "text": _SUMMARY["text"],
                },
                {
                    "type": "response.reasoning_summary_part.done",
                    "summary_index": 0,
                    "part": _SUMMARY,
                },
            ],
        ),
        *_MESSAGE,
        *_item_events(
            2,
            _CALL,
            _CALLED,
            [
                {
                    "type": "response.function_call_arguments.delta",
                    "delta": '{"input": "l',
                    "obfuscation": "x8",
                },
                {
                    "type": "response.function_call_arguments.delta",
                    "delta": 's -l"}',
                    "obfuscation": "aQ1",
                },
                {
                    "type": "response.function_call_arguments.done",
                    "arguments": _CALLED["arguments"],
                    "name": "Bash",
                },
            ],
        ),
        {
            "type": "response.completed",
            "response": _response(
                "completed",
                [_THOUGHT | {"summary": [_SUMMARY]}, _MESSAGE[-1]["item"], _CALLED],
                _responses_usage(1000, 42, cache_write_tokens=3),
            ),
        },
    ]
)
"""As OpenAI's API sends it: a summary of the reasoning, text and a call; the counts come with the
last event.
"""

RESPONSES_VLLM = _responses(
    [
        {"type": "response.created", "response": _response("in_progress", [])},
        {"type": "response.in_progress", "response": _response("in_progress", [])},
        *_item_events(
            0,
            _THOUGHT,
            _THOUGHT | {"content": [{"type": "reasoning_text", "text": "Let me see"}]},
            [
                {"type": "response.reasoning_text.delta", "content_index": 0, "delta": "Let me"},
                {"type": "response.reasoning_text.delta", "content_index": 0, "delta": " see"},
                {"type": "response.reasoning_text.done", "content_index": 0, "text": "Let me see"},
            ],
        ),
        *_message_item(1, [f" word{i}" for i in range(7)]),
        {
            "type": "response.completed",
            "response": _response("incomplete", [], _responses_usage(0, 12), "max_output_tokens"),
        },
    ]
)
"""As vLLM sends an answer that reached its length: the event says `completed`, the response inside
`incomplete`.
"""

RESPONSES_INCOMPLETE = RESPONSES_VLLM.replace(b"response.completed", b"response.incomplete")
"""As OpenAI's API sends that."""

_RECORDED = Path(__file__).with_name("fixtures")

STREAMS = {
    "completions-vllm-0.32": (Api.COMPLETIONS, (_RECORDED / "vllm-completions.sse").read_bytes()),
    "responses-vllm-0.32": (Api.RESPONSES, (_RECORDED / "vllm-responses.sse").read_bytes()),
    "responses-vllm-0.32-tool": (
        Api.RESPONSES,
        (_RECORDED / "vllm-responses-tool.sse").read_bytes(),
    ),
    "completions-continuous": (Api.COMPLETIONS, COMPLETIONS_CONTINUOUS),
    "completions-plain": (Api.COMPLETIONS, COMPLETIONS_PLAIN),
    "responses-openai": (Api.RESPONSES, RESPONSES_OPENAI),
    "responses-vllm": (Api.RESPONSES, RESPONSES_VLLM),
    "responses-incomplete": (Api.RESPONSES, RESPONSES_INCOMPLETE),
    "messages-anthropic": (Api.MESSAGES, MESSAGES_ANTHROPIC),
    "messages-vllm": (Api.MESSAGES, MESSAGES_VLLM),
    "chat-continuous": (Api.CHAT, CHAT_CONTINUOUS),
    "chat-tools": (Api.CHAT, CHAT_TOOLS),
}


# What is cut at every byte: not the long ones, nor the one that differs from another in a word.
@pytest.fixture(
    params=sorted(name for name in STREAMS if "0.32" not in name and name != "responses-incomplete")
)
def stream(request: pytest.FixtureRequest) -> tuple[Api, bytes]:
    """API and body of one recorded stream."""
    return STREAMS[request.param]


@pytest.fixture
def streams() -> dict[str, tuple[Api, bytes]]:
    """All recorded streams."""
    return STREAMS


@pytest.fixture
def deadline() -> Callable[[Callable[[], Any]], Any]:
    """Polls a condition until it holds, for at most 20 s."""

    def until(condition: Callable[[], Any]) -> Any:
        end = time.monotonic() + 20
        while not (value := condition()):
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.01)
        return value

    return until
