"""Request bodies of a conversation, turn by turn, as the API's module renders them.

Shared blocks (tools, system prompt) are rendered once a process, each message of a conversation
once.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from harness.api.base import SALT, RequestSettings
from harness.api.parts import ContentPart, Role, Tool
from harness.api.table import wire
from harness.plan.assistant_turn import live_turn, planned_part, tool_ids
from harness.plan.prompt_text import Texts
from harness.plan.types import Block, Message, Place, Session, Thread

MARKED_USER_MESSAGES: Final = 2
"""User messages that carry a cache breakpoint, counted from the end: with those of tools and system
prompt four, which is all that the Messages API allows.
"""


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
        self._api = wire(settings.api)
        self._texts = texts
        self._head = _head(session, settings, model, texts)
        self._thread = Thread(session.turns)
        self._messages: dict[Place, bytes] = {}  # rendered so far
        self._live: dict[Place, tuple[ContentPart, ...]] = {}
        self._tool_ids: dict[str, str] = {}  # the plan's id of a call -> the server's

    def answered(self, turn_index: int, parts: Sequence[ContentPart]) -> bool:
        """Take what the server answered to a turn; later bodies carry it in place of the recorded
        reply.

        Returns:
            False where it holds nothing to carry: the recorded reply stays.
        """
        recorded = self._session.turns[turn_index].reply
        carried = live_turn(recorded, parts, self._texts)
        if not carried:
            return False
        self._live[turn_index, 1] = carried
        self._tool_ids |= tool_ids(recorded, carried)
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
        asked = b""
        if self._session.reasons and self._settings.thinking != "off":
            planned_tok = self._session.turns[turn_index].thinking_tok
            asked = self._api.asked(self._settings, planned_tok, output_tok)
        tail = self._api.tail(self._settings, output_tok)
        return self._api.body(self._head, messages, asked + tail)

    def _mark(self, places: Sequence[Place], messages: list[bytes]) -> None:
        """Set the moving breakpoints: on the last user messages."""
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
        """The plan's parts, with the server's ids of the calls that it made."""
        parts = [planned_part(part, self._texts) for part in message.parts]
        ids = self._tool_ids
        return [
            replace(part, tool_id=ids[part.tool_id]) if part.tool_id in ids else part
            for part in parts
        ]


def _salted(text: bytes) -> bytes:
    """A JSON string with room for a salt at its beginning."""
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
    return wire(settings.api).head(model, _salted(texts.escaped(system)), tools, settings)


def _head(session: Session, settings: RequestSettings, model: str, texts: Texts) -> bytes:
    shared = _shared_head(
        (session.system, tuple((tool.name, tool.block) for tool in session.tools)),
        settings,
        model,
        texts,
    )
    return shared.replace(SALT, json.dumps(session.salt)[1:-1].encode())
