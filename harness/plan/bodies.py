"""Request bodies as joins of JSON fragments that were escaped before.

`json.dumps` of a 0.5 MB body takes milliseconds of a load generator's core; a join of escaped blocks takes a tenth of that.
Shared blocks (tools, system prompt) are made once a process.
"""

import json
from functools import lru_cache

from harness.core.records import Api
from harness.plan import corpus, openai_forms
from harness.plan.draw import stream
from harness.plan.types import Block, Message, Part, PartKind, RequestSettings, Role, Session, ToolDefinition

CHUNK_WORDS = 24
"""Length of one run of consecutive words. Shorter, and text stops reading as text; longer, and different blocks share more by chance."""


class Texts:
    """Text of blocks: runs of consecutive words of the corpus, chosen by (seed, key).

    Args:
        seed: of the run; another seed gives other text, so one run's cache is of no use to another.
        tok_per_word: tokens per word of the corpus under the model's tokenizer.
    """

    def __init__(self, seed: int, tok_per_word: float) -> None:
        self._seed = seed
        self._tok_per_word = tok_per_word
        self._words = corpus.words()

    def text(self, block: Block) -> str:
        """Text of about `block.tok` tokens; at least one word."""
        left = max(1, round(block.tok / self._tok_per_word))
        rng = stream(self._seed, "text", block.key)
        words = self._words
        chosen: list[str] = []
        while left > 0:
            start = rng.randrange(len(words))
            take = words[start : start + min(left, CHUNK_WORDS)]
            chosen += take
            left -= len(take)
        return " ".join(chosen)

    def escaped(self, block: Block) -> bytes:
        """The text as a JSON string, quotes included."""
        return json.dumps(self.text(block), ensure_ascii=False).encode()


class Conversation:
    """Renders the bodies of one session, turn by turn.

    Args:
        session: the conversation.
        settings: API and what every request carries.
        model: name to send as `model`.
        texts: source of text.
    """

    def __init__(self, session: Session, settings: RequestSettings, model: str, texts: Texts) -> None:
        self._session = session
        self._settings = settings
        self._texts = texts
        self._head = _head(session, settings, model, texts)
        self._messages: list[bytes] = []  # rendered so far: message 0, reply 0, message 1, …

    def body(self, turn_index: int) -> bytes:
        """The whole JSON body of one turn. Turns may be asked for in any order."""
        turns = self._session.turns
        while len(self._messages) < 2 * turn_index + 1:
            position = len(self._messages)
            turn = turns[position // 2]
            self._messages.append(self._render(turn.reply if position % 2 else turn.message))
        said = self._messages[: 2 * turn_index + 1]
        tail = _tail(self._settings, turns[turn_index].target_output_tok)
        if self._settings.api == Api.COMPLETIONS:
            return b"".join((self._head, *said, openai_forms.CUE, b'"', tail))
        return b"".join((self._head, b",".join(said), b"]", tail))

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
        # vLLM's responses route has no `min_tokens`; without an end token to wait for, `ignore_eos` alone gives the whole length.
        forced = ',"ignore_eos":true' if settings.force_output else ""
        return f',"max_output_tokens":{output_tok}{forced}}}'.encode()
    forced = f',"min_tokens":{output_tok},"ignore_eos":true' if settings.force_output else ""
    return f',"max_tokens":{output_tok}{forced}}}'.encode()


_STREAM_USAGE = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


@lru_cache(maxsize=64)
def _shared_head(session_head: tuple[Block, tuple[tuple[str, Block], ...]], settings: RequestSettings, model: str, texts: Texts) -> bytes:
    system, tools = session_head
    messages = settings.api == Api.MESSAGES
    out = [b'{"model":', json.dumps(model).encode(), b',"stream":true,"temperature":', f"{settings.temperature:g}".encode()]
    if settings.api == Api.COMPLETIONS:
        offered = tuple(ToolDefinition(name, block) for name, block in tools)
        begin = openai_forms.transcript_head(texts.escaped(system), offered, texts)
        return b"".join((*out, _STREAM_USAGE, b',"prompt":"', begin))
    if settings.api == Api.RESPONSES:
        listed = b",".join(openai_forms.responses_tool(name, texts.escaped(block)) for name, block in tools)
        # Not to be kept: a load test has no use for a store that grows.
        return b"".join((*out, b',"store":false,"tools":[', listed, b'],"instructions":', texts.escaped(system), b',"input":['))
    if tools:
        rendered = [_tool(name, texts.escaped(block), messages=messages) for name, block in tools]
        out += [b',"tools":[', b",".join(rendered), b"]"]
    if messages:
        out += [b',"system":[{"type":"text","text":', texts.escaped(system), b'}],"messages":[']
    else:
        out += [
            _STREAM_USAGE,
            b',"messages":[{"role":"system","content":',
            texts.escaped(system),
            b"},",
        ]
    return b"".join(out)


def _head(session: Session, settings: RequestSettings, model: str, texts: Texts) -> bytes:
    return _shared_head((session.system, tuple((tool.name, tool.block) for tool in session.tools)), settings, model, texts)


_TOOL_SCHEMA = b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'


def _tool(name: str, description: bytes, *, messages: bool) -> bytes:
    quoted = json.dumps(name).encode()
    if messages:
        return b"".join((b'{"name":', quoted, b',"description":', description, b',"input_schema":', _TOOL_SCHEMA, b"}"))
    return b"".join(
        (b'{"type":"function","function":{"name":', quoted, b',"description":', description, b',"parameters":', _TOOL_SCHEMA, b"}}")
    )


def _messages_form(message: Message, texts: Texts) -> bytes:
    return b"".join(
        (b'{"role":"', message.role.value.encode(), b'","content":[', b",".join(_messages_part(p, texts) for p in message.parts), b"]}")
    )


def _messages_part(part: Part, texts: Texts) -> bytes:
    text = texts.escaped(part.block)
    match part.kind:
        case PartKind.TEXT:
            return b'{"type":"text","text":' + text + b"}"
        case PartKind.TOOL_USE:
            ids = f'{{"type":"tool_use","id":{json.dumps(part.tool_id)},"name":{json.dumps(part.tool_name)},"input":{{"input":'
            return ids.encode() + text + b"}}"
        case PartKind.TOOL_RESULT:
            return f'{{"type":"tool_result","tool_use_id":{json.dumps(part.tool_id)},"content":'.encode() + text + b"}"


def _chat_form(message: Message, texts: Texts) -> bytes:
    if message.role is Role.USER:
        rendered = []
        for part in message.parts:
            text = texts.escaped(part.block)
            if part.kind is PartKind.TOOL_RESULT:
                rendered.append(f'{{"role":"tool","tool_call_id":{json.dumps(part.tool_id)},"content":'.encode() + text + b"}")
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
            arguments = json.dumps(json.dumps({"input": texts.text(part.block)}, ensure_ascii=False), ensure_ascii=False)
            rendered_calls.append(
                f'{{"id":{json.dumps(part.tool_id)},"type":"function","function":{{"name":{json.dumps(part.tool_name)},"arguments":{arguments}}}}}'
            )
        out.append(f',"tool_calls":[{",".join(rendered_calls)}]'.encode())
    out.append(b"}")
    return b"".join(out)
