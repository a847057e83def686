"""Request bodies as joins of JSON fragments that were escaped before.

`json.dumps` of a 0.5 MB body takes milliseconds of a load generator's core; a join of escaped
blocks takes a tenth of that. Shared blocks (tools, system prompt) are made once a process, each
message of a conversation once.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Final

from harness.core.records import Api
from harness.plan import corpus, openai_forms
from harness.plan.assistant_turn import LiveTurn, ReplyBlock, live_turn, render, tool_ids
from harness.plan.rng import stream
from harness.plan.types import (
    Block,
    Message,
    Part,
    PartKind,
    Place,
    RequestSettings,
    Role,
    Session,
    Thread,
    ToolDefinition,
)

CHUNK_WORDS = 24
"""Length of one run of consecutive words. Shorter, and text stops reading as text; longer, and
different blocks share more by chance.
"""

MARKED_USER_MESSAGES: Final = 2
"""User messages that carry a cache breakpoint, counted from the end: with those of tools and system
prompt four, which is all that the Messages API allows.
"""


LEAST_BUDGET_TOK: Final = 1024
"""Smallest `budget_tokens` that the Messages API takes (anthropic 2.12
`ThinkingConfigEnabledParam`; vLLM 0.32 refuses less as well).
"""


class Texts:
    """Text of blocks: runs of consecutive words of the corpus, chosen by (seed, key).

    Args:
        seed: of the run; another seed gives other text, so one run's cache is of no use to another.
        tok_per_word: tokens per word of the corpus under the model's tokenizer.
    """

    def __init__(self, seed: int, tok_per_word: float) -> None:
        self._seed = seed
        self._tok_per_word = tok_per_word
        self._plain, self._escaped = _running(escape=False), _running(escape=True)

    def text(self, block: Block) -> str:
        """Text of about `block.tok` tokens; at least one word."""
        return " ".join(self._plain[start:end] for start, end in self._runs(block, 0))

    def escaped(self, block: Block) -> bytes:
        """The text as a JSON string, quotes included."""
        return f'"{" ".join(self._escaped[start:end] for start, end in self._runs(block, 1))}"'.encode()  # noqa: E501

    def _runs(self, block: Block, form: int) -> Iterator[tuple[int, int]]:
        """Where in the running text its runs of words begin and end: in the plain form (0) or the
        escaped one (1).
        """
        starts, ends = _offsets()[form]
        count = len(starts)
        left = max(1, round(block.tok / self._tok_per_word))
        draw = stream(self._seed, "text", block.key).random
        while left > 0:
            first = int(draw() * count)
            last = min(first + min(left, CHUNK_WORDS), count) - 1
            yield starts[first], ends[last]
            left -= last - first + 1


def _escape(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)[1:-1]


@cache
def _running(*, escape: bool) -> str:
    """The corpus as one line of words, each escaped for JSON or as it is."""
    return " ".join(map(_escape, corpus.words())) if escape else " ".join(corpus.words())


@cache
def _offsets() -> tuple[tuple[list[int], list[int]], ...]:
    """Where each word begins and ends, in the plain and in the escaped running text."""
    forms = []
    for words in (corpus.words(), tuple(map(_escape, corpus.words()))):
        starts = list(itertools.accumulate((len(word) + 1 for word in words[:-1]), initial=0))
        forms.append(
            (starts, [start + len(word) for start, word in zip(starts, words, strict=True)])
        )
    return tuple(forms)


class Conversation:
    """Renders the bodies of one session, turn by turn.

    Args:
        session: the conversation.
        settings: API and what every request carries.
        model: name to send as `model`.
        texts: source of text.
    """

    def __init__(
        self, session: Session, settings: RequestSettings, model: str, texts: Texts
    ) -> None:
        self._session = session
        self._settings = settings
        self._texts = texts
        self._head = _head(session, settings, model, texts)
        self._thread = Thread(session.turns)
        self._messages: dict[Place, bytes] = {}  # rendered so far
        self._live: dict[Place, LiveTurn] = {}
        self._tool_ids: dict[str, str] = {}  # the plan's id of a call -> the server's

    def answered(self, turn_index: int, spoken: Sequence[ReplyBlock]) -> bool:
        """Take what the server answered to a turn; later bodies carry it in place of the recorded
        reply.

        Returns:
            False where it holds nothing to carry: the recorded reply stays.
        """
        recorded = self._session.turns[turn_index].reply
        turn = live_turn(recorded, spoken)
        if turn is None:
            return False
        self._live[turn_index, 1] = turn
        self._tool_ids |= tool_ids(recorded, turn)
        return True

    def body(self, turn_index: int) -> bytes:
        """The whole JSON body of one turn. Turns may be asked for in any order."""
        return self._body(turn_index, self._session.turns[turn_index].target_output_tok)

    def priming_body(self) -> bytes:
        """The body that brings the history of a session which starts in its middle into the
        server's cache: one token of answer.
        """
        return self._body(self._session.priming_turn, 1)

    def _body(self, turn_index: int, output_tok: int) -> bytes:
        places = [*self._thread.before(turn_index), (turn_index, 0)]
        messages = [self._message(place) for place in places]
        if self._settings.cache_control:
            self._mark(places, messages)
        tail = self._asked(turn_index, output_tok) + _tail(self._settings, output_tok)
        if self._settings.api == Api.COMPLETIONS:
            return b"".join((self._head, *messages, openai_forms.CUE, b'"', tail))
        return b"".join((self._head, b",".join(messages), b"]", tail))

    def _asked(self, turn_index: int, output_tok: int) -> bytes:
        """How the request asks for reasoning; nothing where it does not."""
        settings = self._settings
        if not self._session.reasons or settings.thinking == "off":
            return b""
        effort = json.dumps(settings.effort).encode()
        if settings.thinking == "effort":
            reasoning = (
                b'"reasoning":{"effort":' + effort + b"}"
                if settings.api == Api.RESPONSES
                else b'"reasoning_effort":' + effort
            )
            return b"," + reasoning
        if settings.thinking == "adaptive":
            config = (
                b"" if settings.effort is None else b',"output_config":{"effort":' + effort + b"}"
            )
            return b',"thinking":{"type":"adaptive"}' + config
        planned = self._session.turns[turn_index].thinking_tok
        budget = max(LEAST_BUDGET_TOK, planned)
        # The API takes no budget that is as long as the answer may be.
        return (
            b',"thinking":{"type":"enabled","budget_tokens":%d}' % budget
            if planned and budget < output_tok
            else b""
        )

    def _mark(self, places: Sequence[Place], messages: list[bytes]) -> None:
        """Set the moving breakpoints: on the last user messages."""
        left = MARKED_USER_MESSAGES
        for back in range(len(places) - 1, -1, -1):
            if not left:
                return
            if self._thread.message(places[back]).role is Role.USER:
                messages[back] = _marked(messages[back])
                left -= 1

    def _message(self, place: Place) -> bytes:
        if place not in self._messages:
            message = self._thread.message(place)
            if place in self._live:
                self._messages[place] = render(
                    self._live[place], message, Api(self._settings.api), self._texts
                )
            else:
                self._messages[place] = self._render(
                    self._renamed(message) if self._tool_ids else message
                )
        return self._messages[place]

    def _renamed(self, message: Message) -> Message:
        """With the server's ids of the calls that it made."""
        ids = self._tool_ids
        return replace(
            message,
            parts=tuple(
                replace(part, tool_id=ids.get(part.tool_id, part.tool_id)) for part in message.parts
            ),
        )

    def _render(self, message: Message) -> bytes:
        match self._settings.api:
            case Api.MESSAGES:
                return _messages_form(message, self._texts)
            case Api.COMPLETIONS:
                return openai_forms.transcript(message, self._texts)
            case Api.RESPONSES:
                return openai_forms.responses_items(message, self._texts)
            case _:
                return _chat_form(message, self._texts)


def _tail(settings: RequestSettings, output_tok: int) -> bytes:
    """What follows the conversation in a body: the answer's length."""
    if settings.api == Api.RESPONSES:
        # vLLM's responses route has no `min_tokens`; without an end token to wait for, `ignore_eos`
        # alone gives the whole length.
        forced = ',"ignore_eos":true' if settings.force_output else ""
        return f',"max_output_tokens":{output_tok}{forced}}}'.encode()
    forced = f',"min_tokens":{output_tok},"ignore_eos":true' if settings.force_output else ""
    return f',"max_tokens":{output_tok}{forced}}}'.encode()


_STREAM_USAGE = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


_BREAKPOINT: Final = b',"cache_control":{"type":"ephemeral"}'
_SALT: Final = b"\x00"
"""Stands in a shared head for the salt of a session; no JSON text has it."""


def _marked(message: bytes) -> bytes:
    """A rendered message of the Messages API with a cache breakpoint on its last content block."""
    return message[:-3] + _BREAKPOINT + message[-3:]


def _salted(text: bytes) -> bytes:
    """A JSON string with room for a salt at its beginning."""
    return b'"' + _SALT + text[1:]


@lru_cache(maxsize=64)
def _shared_head(
    session_head: tuple[Block, tuple[tuple[str, Block], ...]],
    settings: RequestSettings,
    model: str,
    texts: Texts,
) -> bytes:
    system, tools = session_head
    messages = settings.api == Api.MESSAGES
    mark = _BREAKPOINT if settings.cache_control else b""
    said = _salted(texts.escaped(system))
    described = [(name, texts.escaped(block)) for name, block in tools]
    if described:
        described[0] = (described[0][0], _salted(described[0][1]))
    out = [
        b'{"model":',
        json.dumps(model).encode(),
        b',"stream":true,"temperature":',
        f"{settings.temperature:g}".encode(),
    ]
    if settings.api == Api.COMPLETIONS:
        offered = tuple(ToolDefinition(name, block) for name, block in tools)
        begin = openai_forms.transcript_head(said, offered, texts)
        return b"".join((*out, _STREAM_USAGE, b',"prompt":"', begin))
    if settings.api == Api.RESPONSES:
        listed = b",".join(openai_forms.responses_tool(name, text) for name, text in described)
        # Not to be kept: a load test has no use for a store that grows.
        return b"".join(
            (*out, b',"store":false,"tools":[', listed, b'],"instructions":', said, b',"input":[')
        )
    if tools:
        rendered = [_tool(name, text, messages=messages) for name, text in described]
        if mark:
            rendered[-1] = rendered[-1][:-1] + mark + b"}"
        out += [b',"tools":[', b",".join(rendered), b"]"]
    if messages:
        out += [b',"system":[{"type":"text","text":', said, mark, b'}],"messages":[']
    else:
        out += [
            _STREAM_USAGE,
            b',"messages":[{"role":"system","content":',
            said,
            b"},",
        ]
    return b"".join(out)


def _head(session: Session, settings: RequestSettings, model: str, texts: Texts) -> bytes:
    shared = _shared_head(
        (session.system, tuple((tool.name, tool.block) for tool in session.tools)),
        settings,
        model,
        texts,
    )
    return shared.replace(_SALT, json.dumps(session.salt)[1:-1].encode())


_TOOL_SCHEMA = b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'


def _tool(name: str, description: bytes, *, messages: bool) -> bytes:
    quoted = json.dumps(name).encode()
    if messages:
        return b"".join(
            (
                b'{"name":',
                quoted,
                b',"description":',
                description,
                b',"input_schema":',
                _TOOL_SCHEMA,
                b"}",
            )
        )
    return b"".join(
        (
            b'{"type":"function","function":{"name":',
            quoted,
            b',"description":',
            description,
            b',"parameters":',
            _TOOL_SCHEMA,
            b"}}",
        )
    )


def _messages_form(message: Message, texts: Texts) -> bytes:
    return b"".join(
        (
            b'{"role":"',
            message.role.value.encode(),
            b'","content":[',
            b",".join(_messages_part(p, texts) for p in message.parts),
            b"]}",
        )
    )


def _messages_part(part: Part, texts: Texts) -> bytes:
    text = texts.escaped(part.block)
    match part.kind:
        case PartKind.TEXT:
            return b'{"type":"text","text":' + text + b"}"
        case PartKind.TOOL_USE:
            ids = f'{{"type":"tool_use","id":{json.dumps(part.tool_id)},"name":{json.dumps(part.tool_name)},"input":{{"input":'  # noqa: E501
            return ids.encode() + text + b"}}"
        case PartKind.TOOL_RESULT:
            return (
                f'{{"type":"tool_result","tool_use_id":{json.dumps(part.tool_id)},"content":'.encode()
                + text
                + b"}"
            )


def _chat_form(message: Message, texts: Texts) -> bytes:
    if message.role is Role.USER:
        rendered = []
        for part in message.parts:
            text = texts.escaped(part.block)
            if part.kind is PartKind.TOOL_RESULT:
                rendered.append(
                    f'{{"role":"tool","tool_call_id":{json.dumps(part.tool_id)},"content":'.encode()
                    + text
                    + b"}"
                )
            else:
                rendered.append(b'{"role":"user","content":' + text + b"}")
        return b",".join(rendered)
    said = [part for part in message.parts if part.kind is PartKind.TEXT]
    calls = [part for part in message.parts if part.kind is PartKind.TOOL_USE]
    out = [b'{"role":"assistant","content":', texts.escaped(said[0].block) if said else b"null"]
    if calls:
        rendered_calls = []
        for part in calls:
            # `arguments` is JSON inside a JSON string: escaped twice.
            arguments = json.dumps(
                json.dumps({"input": texts.text(part.block)}, ensure_ascii=False),
                ensure_ascii=False,
            )
            rendered_calls.append(
                f'{{"id":{json.dumps(part.tool_id)},"type":"function","function":{{"name":{json.dumps(part.tool_name)},"arguments":{arguments}}}}}'
            )
        out.append(f',"tool_calls":[{",".join(rendered_calls)}]'.encode())
    out.append(b"}")
    return b"".join(out)
