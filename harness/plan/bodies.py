"""Request bodies of a conversation, turn by turn, as the API's module renders them.

Shared blocks (tools, system prompt) are rendered once per process, each message once.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from harness.api.base import SALT, RequestSettings
from harness.api.parts import ContentPart, Role, Tool
from harness.api.table import wire
from harness.core.records import AS_IT_IS, BodyForm
from harness.plan.assistant_turn import live_turn, planned_part, tool_ids
from harness.plan.prompt_text import Texts
from harness.plan.types import Block, Message, Place, Session, Thread

MARKED_USER_MESSAGES: Final = 2
"""Last user messages with a cache breakpoint. With those of tools and system prompt that is four,
the limit of the Messages API.
"""


_OMITTED: Final = {
    "temperature": re.compile(rb',"temperature":[-+.0-9eE]+'),
    "stream_options": re.compile(rb',"stream_options":\{[^}]*\}'),
    "stream_options.continuous_usage_stats": re.compile(rb',"continuous_usage_stats":true'),
    "min_tokens": re.compile(rb',"min_tokens":[0-9]+'),
    "ignore_eos": re.compile(rb',"ignore_eos":true'),
}
"""How each key of `traffic.omit` stands in a body."""


class Conversation:
    """Renders the bodies of one session; `model` is the name to send."""

    def __init__(
        self, session: Session, settings: RequestSettings, model: str, texts: Texts
    ) -> None:
        self._session = session
        self._settings = settings
        self._api = wire(settings.api)
        self._texts = texts
        self._head = _head(session, settings, model, texts)
        self._adapts = settings.form != AS_IT_IS
        self._thread = Thread(session.turns)
        self._messages: dict[Place, bytes] = {}  # rendered so far
        self._live: dict[Place, tuple[ContentPart, ...]] = {}
        self._tool_ids: dict[str, str] = {}  # the plan's id of a call -> the server's

    def answered(self, turn_index: int, parts: Sequence[ContentPart]) -> bool:
        """Use the server's response to a turn instead of the recorded reply in later bodies.

        Returns:
            False if it has no parts to carry: the recorded reply stays.
        """
        recorded = self._session.turns[turn_index].reply
        carried = live_turn(recorded, parts, self._texts)
        if not carried:
            return False
        self._live[turn_index, 1] = carried
        self._tool_ids |= tool_ids(recorded, carried)
        return True

    def body(self, turn_index: int) -> bytes:
        """The JSON body of one turn, in any order of turns."""
        return self._body(turn_index, self._session.turns[turn_index].target_output_tok)

    def priming_body(self) -> bytes:
        """The body that puts the history of a session that starts midway into the server's cache,
        with one output token.
        """
        return self._body(self._session.priming_turn, 1)

    def _body(self, turn_index: int, output_tok: int) -> bytes:
        places = [*self._thread.before(turn_index), (turn_index, 0)]
        messages = [self._message(place) for place in places]
        if self._settings.cache_control:
            self._mark(places, messages)
        asked = b""
        if self._session.reasons and self._settings.thinking != "off":
            planned_tok = self._session.turns[turn_index].thinking_tok
            asked = self._api.asked(self._settings, planned_tok, output_tok)
        tail = self._api.tail(self._settings, output_tok)
        if self._adapts:
            tail = _adapted(tail, self._settings.form)
        return self._api.body(self._head, messages, asked + tail)

    def _mark(self, places: Sequence[Place], messages: list[bytes]) -> None:
        """Set the moving breakpoints, on the last user messages."""
        left = MARKED_USER_MESSAGES
        for back in range(len(places) - 1, -1, -1):
            if not left:
                return
            if self._thread.message(places[back]).role is Role.USER:
                messages[back] = self._api.mark(messages[back])
                left -= 1

    def _message(self, place: Place) -> bytes:
        if place not in self._messages:
            message = self._thread.message(place)
            parts = self._live.get(place) or self._planned(message)
            self._messages[place] = self._api.message(message.role, parts)
        return self._messages[place]

    def _planned(self, message: Message) -> list[ContentPart]:
        """The plan's parts, with the server's ids of its calls."""
        parts = (planned_part(part, self._texts) for part in message.parts)
        ids = self._tool_ids
        return [
            replace(part, tool_id=ids[part.tool_id]) if part.tool_id in ids else part
            for part in parts
        ]


def _salted(text: bytes) -> bytes:
    """A JSON string with room for a salt at its start."""
    return b'"' + SALT + text[1:]


@lru_cache(maxsize=64)
def _shared_head(
    session_head: tuple[Block, tuple[tuple[str, Block], ...]],
    settings: RequestSettings,
    model: str,
    texts: Texts,
) -> bytes:
    system, named = session_head
    tools = [Tool(name, texts.escaped(block)) for name, block in named]
    if tools:
        tools[0] = replace(tools[0], description=_salted(tools[0].description))
    head = wire(settings.api).head(model, _salted(texts.escaped(system)), tools, settings)
    return _adapted(head, settings.form)


def _adapted(part: bytes, form: BodyForm) -> bytes:
    """The head or tail of a body in another form. Quotes inside its texts are escaped, so that a
    key's pattern matches only the key.
    """
    for key in form.omit:
        part = _OMITTED[key].sub(b"", part, count=1)
    if form.length_key is not None:
        length = b',"%b":' % form.length_key.encode()
        part = part.replace(b',"max_tokens":', length, 1)
    return part


def _head(session: Session, settings: RequestSettings, model: str, texts: Texts) -> bytes:
    shared = _shared_head(
        (session.system, tuple((tool.name, tool.block) for tool in session.tools)),
        settings,
        model,
        texts,
    )
    return shared.replace(SALT, json.dumps(session.salt)[1:-1].encode())
