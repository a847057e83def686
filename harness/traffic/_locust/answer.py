"""From the reads of a response to what the record says: when which content came, usage, how it
ended.

Runs once, after the last byte. Events that look like one that was parsed before are recognised by a
pattern made from it, so most events cost one match and no JSON; anything else (first events, usage,
stop reasons, escapes, surprises) is parsed as JSON.
"""

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any, Final

from harness.core.records import Api, Outcome
from harness.plan.assistant_turn import ReplyBlock, SpokenKind
from harness.traffic._locust.event_patterns import (
    MAX_LEARNT_PER_STREAM,
    escaped_size,
    known,
    learn,
    size_of,
)
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.http_errors import ERROR_CHARS, error_of, error_text, retry_after_s
from harness.traffic._locust.reply import Reply
from harness.traffic._locust.sse import events, fields

PAUSE_EVENTS: Final = 200
"""Events between two calls of `pause`: about half a millisecond, so that a long answer does not
hold up the timestamps of the others.
"""

_UINT32_MAX: Final = 2**32 - 1


class EndOfStream(Enum):
    """Why reading stopped."""

    COMPLETE = "complete"  # the HTTP message is whole, or its bytes are no HTTP
    EOF = "eof"  # the server closed its side
    RESET = "reset"  # the connection broke
    LOCAL = "local"  # our side stopped: a timeout, the user, the end of the run


@dataclass(slots=True)
class Answer:
    """What a response said. Fields are those of `artifacts.tables.REQUESTS`; None is unknown or did
    not happen.
    """

    outcome: Outcome
    error: str | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    stop_reason: str | None = None
    content_kinds: list[str] = field(default_factory=list)
    input_tok: int | None = None
    cache_read_tok: int | None = None
    cache_write_tok: int | None = None
    output_tok: int | None = None
    response_bytes: int | None = None
    chunk_dt_us: "array[int] | None" = None
    chunk_bytes: "array[int] | None" = None
    chunk_tok: "array[int] | None" = None
    text: str | None = None
    spoken: tuple[ReplyBlock, ...] = ()


def read_answer(
    framing: Framing,
    api: Api,
    ending: EndOfStream,
    *,
    local: Outcome | None = None,
    error: str | None = None,
    pause: Callable[[], None] | None = None,
    keep_text: bool = False,
    keep_reply: bool = False,
) -> Answer:
    """Read a response that is over. Never raises for anything that a server can send.

    Args:
        framing: the reads.
        api: wire API of the stream.
        ending: why reading stopped.
        local: the outcome when `ending` is LOCAL.
        error: words for the record when reading stopped for another reason than the message's end.
        pause: called now and then while a long answer is read.
        keep_text: collect the content as text (tests); every event is then parsed as JSON.
        keep_reply: collect the answer's blocks in `spoken`, for later turns to carry.
    """
    framing.finish()
    answer = Answer(
        Outcome.OK,
        http_status=framing.status,
        response_bytes=len(framing.body) if framing.reads else None,
    )
    if framing.times_ns:
        answer.first_byte_ns = framing.times_ns[0]
    content_type = framing.headers.get("content-type", "")
    stream: _Stream | None = None
    if framing.status is not None:
        answer.retry_after_s = retry_after_s(framing.headers)
    if framing.status == 200 and content_type.split(";")[0].strip().lower() == "text/event-stream":
        stream = _Stream(api, keep_text=keep_text, keep_reply=keep_reply)
        stream.read(framing, whole=framing.complete, pause=pause)
        stream.fill(answer)

    if ending is EndOfStream.LOCAL:
        assert local is not None
        answer.outcome, answer.error = local, error
    elif framing.status is None:
        answer.outcome, answer.error = _no_status(framing, ending, error)
    elif framing.status != 200:
        answer.outcome, answer.error = (
            Outcome.HTTP_ERROR,
            error_text(framing.body) or f"HTTP {framing.status}",
        )
    elif stream is None:
        answer.outcome, answer.error = _no_stream(framing, content_type)
    else:
        answer.outcome, answer.error = _stream_outcome(framing, stream, ending, error)
        if answer.outcome is Outcome.OK and stream.disagreement is not None:
            answer.error = (  # the answer is whole all the same; its last word counts
                f"usage disagrees: {stream.disagreement}"
            )
    return answer


def _no_status(framing: Framing, ending: EndOfStream, error: str | None) -> tuple[Outcome, str]:
    if framing.error is not None:
        return Outcome.MALFORMED, framing.error
    if framing.reads:
        return Outcome.TRUNCATED, "the connection closed within the headers"
    if ending is EndOfStream.EOF:
        return (
            Outcome.CONNECTION_ERROR,
            error or "the server closed the connection without an answer",
        )
    return Outcome.CONNECTION_ERROR, error or "the connection broke before an answer"


def _no_stream(framing: Framing, content_type: str) -> tuple[Outcome, str]:
    text = error_text(framing.body)
    if text is not None and b'"error"' in framing.body:
        return Outcome.API_ERROR, text
    return (
        Outcome.MALFORMED,
        f"status 200 with content-type {content_type or 'none'!r}, not an event stream",
    )


def _stream_outcome(
    framing: Framing, stream: "_Stream", ending: EndOfStream, error: str | None
) -> tuple[Outcome, str | None]:
    if stream.api_error is not None:
        return Outcome.API_ERROR, stream.api_error
    if framing.error is not None:
        return Outcome.MALFORMED, framing.error
    if stream.malformed is not None:
        return Outcome.MALFORMED, stream.malformed
    if not framing.complete:
        cut = "the connection broke" if ending is EndOfStream.RESET else "the connection closed"
        return Outcome.TRUNCATED, error or f"{cut} before the HTTP message was complete"
    if not stream.ended:
        tail = "; bytes followed the end of the HTTP message" if framing.extra else ""
        return Outcome.TRUNCATED, f"the stream ended without {stream.end_marker}{tail}"
    return Outcome.OK, None


# --- streams ---

_END_MARKERS: Final = {
    Api.MESSAGES: "message_stop",
    Api.CHAT: "[DONE]",
    Api.COMPLETIONS: "[DONE]",
    Api.RESPONSES: "response.completed",
}
_RESPONSES_DELTAS: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "thinking",
    "response.reasoning_summary_text.delta": "thinking",
    "response.function_call_arguments.delta": "tool_use",
    "response.custom_tool_call_input.delta": "tool_use",
    "response.mcp_call_arguments.delta": "tool_use",
    "response.code_interpreter_call_code.delta": "tool_use",
}
"""Events of a responses stream whose `delta` is text that the model wrote, and its kind."""


class _Stream:
    """Content, usage and end of one event stream."""

    def __init__(self, api: Api, *, keep_text: bool, keep_reply: bool) -> None:
        self.api = api
        self.end_marker = _END_MARKERS[api]
        self._read_event = {Api.MESSAGES: self._messages, Api.RESPONSES: self._responses}.get(
            api, self._chat
        )
        self.ended = False
        self.api_error: str | None = None
        self.malformed: str | None = None
        self.stop_reason: str | None = None
        self.kinds: list[str] = []
        self.usage: dict[str, Any] = {}
        self.disagreement: str | None = None
        self._prompt_at_start: int | None = None
        self._completion_tok: int | None = None  # so far, where the stream tells as it goes
        self._keep_text = keep_text
        self._text: list[str] = []
        self._reply = Reply() if keep_reply else None
        # One entry a read that carries content: its time, content bytes, and the tokens so far
        # after it.
        self._times_ns: list[int] = []
        self._bytes: list[int] = []
        self._tok: list[int | None] = []

    def read(self, framing: Framing, *, whole: bool, pause: Callable[[], None] | None) -> None:
        """Go through the body's events."""
        body, ends, times, reply = framing.body, framing.body_ends, framing.times_ns, self._reply
        shapes = [] if self._keep_text else list(known[self.api].values())
        shape = shapes[-1] if shapes else None
        match = shape.pattern.fullmatch if shape else None
        learnt = 0
        which = 0  # the read that completed the event
        counted = -1  # the read of the last entry
        last_counted: bytes | None = None
        for number, (event, end) in enumerate(events(body, whole=whole)):
            if pause is not None and number % PAUSE_EVENTS == PAUSE_EVENTS - 1:
                pause()
            while which < len(ends) - 1 and ends[which] < end:
                which += 1
            hit = match(event) if match is not None else None
            if hit is None and shapes:
                for other in shapes:
                    if other is not shape and (hit := other.pattern.fullmatch(event)) is not None:
                        shape, match = other, other.pattern.fullmatch
                        break
            size = -1
            kind = ""
            if hit is not None and not self.ended:
                assert shape is not None
                start, stop = hit.span(shape.content)
                size = stop - start
                if b"\\" in event:
                    size = escaped_size(hit[shape.content])
                kind = shape.kind
                if reply is not None and size >= 0:
                    reply.add(kind, hit[shape.content])
                if shape.tok and size >= 0:
                    self._completion_tok = int(hit[shape.tok])
                    last_counted = event
            if size < 0:
                found = self._parse(event)
                if found is None:
                    continue
                kind, content = found
                size = size_of(content)
                if (
                    learnt < MAX_LEARNT_PER_STREAM
                    and not self._keep_text
                    and (new := learn(self.api, event, kind, content)) is not None
                ):
                    learnt += 1
                    shape, match = new, new.pattern.fullmatch
                    if new not in shapes:
                        shapes.append(new)
            if not size:
                continue
            if kind not in self.kinds:
                self.kinds.append(kind)
            if which == counted:
                self._bytes[-1] += size
                self._tok[-1] = self._completion_tok
            else:
                counted = which
                self._times_ns.append(times[which])
                self._bytes.append(size)
                self._tok.append(self._completion_tok)
        if last_counted is not None and self.usage.get("completion_tokens") != self._completion_tok:
            # No closing usage (the stream was cut short, or its server sends none): every event
            # told as much as the last one did.
            usage = json.loads(fields(last_counted)[1] or b"{}").get("usage")
            self._merge(usage if isinstance(usage, dict) else {})

    def fill(self, answer: Answer) -> None:
        """Write what was found into an answer."""
        answer.stop_reason = self.stop_reason
        answer.content_kinds = self.kinds
        if self._keep_text:
            answer.text = "".join(self._text)
        if self._reply is not None:
            answer.spoken = self._reply.spoken()
        if self._times_ns:
            first = self._times_ns[0]
            answer.first_token_ns, answer.last_token_ns = first, self._times_ns[-1]
            so_far_us = [
                (time - first + 500) // 1000 for time in self._times_ns
            ]  # rounded cumulatively, so that no error adds up
            answer.chunk_dt_us = array(
                "I", [0, *(min(b - a, _UINT32_MAX) for a, b in pairwise(so_far_us))]
            )
            answer.chunk_bytes = array("I", self._bytes)
            told = [tok for tok in self._tok if tok is not None]
            if len(told) == len(self._tok):
                answer.chunk_tok = self._chunk_tok(told)
        if self.api is Api.MESSAGES:
            self._messages_usage(answer)
        elif self.api is Api.RESPONSES:
            self._openai_usage(answer, "input_tokens", "output_tokens")
        else:
            self._openai_usage(answer, "prompt_tokens", "completion_tokens")

    def _chunk_tok(self, told: list[int]) -> "array[int] | None":
        """Tokens of each chunk, where the counts that came with them agree with themselves and with
        the closing usage.
        """
        closing = _count(self.usage.get("completion_tokens"))
        if any(b < a for a, b in pairwise(told)):
            self.disagreement = "the counts of tokens fall within the stream"
        elif closing is not None and told[-1] > closing:
            self.disagreement = (
                f"{told[-1]} tokens came with the chunks, and the end says {closing}"
            )
        else:
            return array("I", [b - a for a, b in pairwise([0, *told])])
        return None

    def _openai_usage(self, answer: Answer, prompt: str, output: str) -> None:
        """OpenAI's usage: the prompt's count is whole, its details are parts of it."""
        answer.input_tok = _count(self.usage.get(prompt))
        answer.output_tok = _count(self.usage.get(output))
        details = self.usage.get(f"{prompt}_details")
        if isinstance(details, dict):
            answer.cache_read_tok = _count(details.get("cached_tokens"))
            answer.cache_write_tok = _count(details.get("cache_write_tokens"))

    def _messages_usage(self, answer: Answer) -> None:
        read = _count(self.usage.get("cache_read_input_tokens"))
        write = _count(self.usage.get("cache_creation_input_tokens"))
        rest = _count(self.usage.get("input_tokens"))
        answer.cache_read_tok, answer.cache_write_tok = read, write
        # `input_tokens` is what follows the cached part; servers that do not tell of caching put
        # the whole prompt there.
        answer.input_tok = None if rest is None else rest + (read or 0) + (write or 0)
        answer.output_tok = _count(self.usage.get("final_output_tokens"))
        if (
            self._prompt_at_start
            and answer.input_tok is not None
            and answer.input_tok != self._prompt_at_start
        ):
            self.disagreement = (
                f"a prompt of {self._prompt_at_start} tokens at the start, of {answer.input_tok} at"
                " the end"
            )

    def _parse(self, event: bytes) -> tuple[str, str] | None:
        """Take one event as JSON; its kind and content when it carries content."""
        name, data = fields(event)
        if data is None:
            return None
        if self.api is not Api.MESSAGES and data.strip() == b"[DONE]":
            # A responses stream ends with its last event; a server that sends this as well ends it
            # no more than once.
            self.ended = self.ended or self.api is not Api.RESPONSES
            return None
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            self.malformed = self.malformed or f"an event's data is no JSON: {data[:80]!r}"
            return None
        if not isinstance(value, dict):
            self.malformed = self.malformed or f"an event's data is no JSON object: {data[:80]!r}"
            return None
        try:
            found = self._read_event(name, value)
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            self.malformed = (
                self.malformed or f"an event has an unexpected form ({error}): {data[:80]!r}"
            )
            return None
        if found is None or not found[1]:
            return None
        if self.ended:
            self.malformed = self.malformed or f"content after {self.end_marker}"
            return None
        if self._keep_text:
            self._text.append(found[1])
        return found

    def _messages(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        match value.get("type", name):
            case "content_block_delta":
                return self._messages_delta(value["delta"])
            case "content_block_start":
                self._messages_block(value.get("content_block") or {})
            case "message_start":
                usage = value["message"].get("usage") or {}
                self._merge(usage)
                parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
                self._prompt_at_start = sum(_count(usage.get(part)) or 0 for part in parts)
            case "message_delta":
                usage = value.get("usage") or {}
                self._merge(usage)
                if usage.get("output_tokens") is not None:
                    self.usage["final_output_tokens"] = usage["output_tokens"]
                self.stop_reason = (value.get("delta") or {}).get("stop_reason") or self.stop_reason
            case "message_stop":
                self.ended = True
            case "error":
                self.api_error = error_of(value) or json.dumps(value)[:ERROR_CHARS]
            case _:  # ping, block starts and stops, and types to come, which clients must ignore
                pass
        return None

    def _messages_delta(self, delta: dict[str, Any]) -> tuple[str, str] | None:
        match delta.get("type"):
            case "text_delta":
                found = "text", _string(delta["text"])
            case "thinking_delta":
                found = "thinking", _string(delta["thinking"])
            case "input_json_delta":
                found = "tool_use", _string(delta["partial_json"])
            case "signature_delta" if self._reply is not None:
                self._reply.sign(_string(delta["signature"]))
                return None
            case _:  # signatures and citations are no tokens of the answer
                return None
        if self._reply is not None:
            self._reply.add_text(*found)
        return found

    def _messages_block(self, block: dict[str, Any]) -> None:
        """A content block begins: what it is matters to a reply alone."""
        if self._reply is None:
            return
        match block.get("type"):
            case "tool_use":
                self._reply.begin(
                    SpokenKind.TOOL_USE,
                    tool_id=_string(block.get("id") or ""),
                    tool_name=_string(block.get("name") or ""),
                )
            case "redacted_thinking":
                self._reply.begin(SpokenKind.REDACTED_THINKING)
                self._reply.add_text(SpokenKind.REDACTED_THINKING, _string(block.get("data") or ""))
            case "thinking":
                self._reply.begin(SpokenKind.THINKING)
            case "text":
                self._reply.begin(SpokenKind.TEXT)
            case _:  # blocks of other kinds are not carried
                pass

    def _merge(self, usage: dict[str, Any]) -> None:
        """Usage is cumulative: later values replace earlier ones, absent ones leave them."""
        for key, value in usage.items():
            if value is not None:
                self.usage[key] = value

    def _chat(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        if value.get("error") is not None or name == "error":
            self.api_error = error_of(value) or json.dumps(value)[:ERROR_CHARS]
            return None
        usage = value.get("usage")
        if usage is not None:
            self._merge(usage)
            if (tok := _count(usage.get("completion_tokens"))) is not None:
                self._completion_tok = tok
        found: tuple[str, str] | None = None
        for choice in value.get("choices") or ():
            self.stop_reason = choice.get("finish_reason") or self.stop_reason
            if self._reply is not None:
                self._chat_reply(self._reply, choice)
            for kind, content in (
                _completions_content(choice)
                if self.api is Api.COMPLETIONS
                else _chat_content(choice.get("delta") or {})
            ):
                if content and found is None:
                    found = kind, content
                elif content and found is not None:
                    found = found[0], found[1] + content
                    if kind not in self.kinds and kind != found[0]:
                        self.kinds += [kind] if found[0] in self.kinds else [found[0], kind]
        return found

    def _chat_reply(self, reply: Reply, choice: dict[str, Any]) -> None:
        """What one parsed choice adds to a reply."""
        if self.api is Api.COMPLETIONS:
            reply.add_text(SpokenKind.TEXT, _string(choice.get("text") or ""))
            return
        delta = choice.get("delta") or {}
        for kind, content in _chat_content(delta):
            if kind != SpokenKind.TOOL_USE:
                reply.add_text(kind, content)
        for call in delta.get("tool_calls") or ():
            function = call.get("function") or {}
            if function.get("name"):
                reply.begin(
                    SpokenKind.TOOL_USE,
                    tool_id=_string(call.get("id") or ""),
                    tool_name=_string(function["name"]),
                )
            reply.add_text(SpokenKind.TOOL_USE, _string(function.get("arguments") or ""))

    def _responses(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        event = str(value.get("type", name))
        if (kind := _RESPONSES_DELTAS.get(event)) is not None:
            delta = _string(value["delta"])
            if self._reply is not None:
                self._reply.add_text(kind, delta)
            return kind, delta
        match event:
            case "response.output_item.added" if self._reply is not None:
                item = value["item"]
                if item.get("type") == "function_call":
                    self._reply.begin(
                        SpokenKind.TOOL_USE,
                        tool_id=_string(item.get("call_id") or ""),
                        tool_name=_string(item.get("name") or ""),
                    )
            case "response.completed" | "response.incomplete":
                # vLLM says `completed` of an answer that was cut too: the status inside tells.
                response = value["response"]
                self._merge(response.get("usage") or {})
                why = (response.get("incomplete_details") or {}).get("reason")
                self.stop_reason = why or response.get("status") or event.removeprefix("response.")
                self.ended = True
            case "response.failed":
                self._merge(value["response"].get("usage") or {})
                self.api_error = (
                    error_of(value["response"])
                    or "the server says that the response failed, and not why"
                )
            case _ if event == "error" or value.get("error") is not None:
                self.api_error = error_of(value) or json.dumps(value)[:ERROR_CHARS]
            case _:  # items and parts that begin or end repeat what the deltas said
                pass
        return None


def _completions_content(choice: dict[str, Any]) -> list[tuple[str, str]]:
    return [("text", _string(choice.get("text") or ""))]


def _chat_content(delta: dict[str, Any]) -> list[tuple[str, str]]:
    """Kinds and contents of one delta. A server that sends its reasoning under both of its names
    sends it once.
    """
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    out = [("thinking", _string(thought)), ("text", _string(delta.get("content") or ""))]
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        out.append(
            (
                "tool_use",
                _string(function.get("name") or "") + _string(function.get("arguments") or ""),
            )
        )
    return out


def _string(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    return value


def _count(value: Any) -> int | None:  # noqa: ANN401 - any JSON value
    """A count of tokens; None for anything that is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
