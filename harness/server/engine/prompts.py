"""Requests as the model reads them: chat template and token ids."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from transformers import AutoTokenizer

from harness.api.base import Ask, BadRequestError
from harness.api.reader import Json

SEGMENT_CACHE_CHARS: Final = 32_000_000
"""Text of tokenized turns that is kept, so that a growing conversation costs only its new turns."""
TURN_START: Final = "<|im_start|>"


@dataclass(slots=True)
class Prompts:
    """The tokenizer and chat template of the model in a folder."""

    model: str
    auto: Any = field(init=False)
    fast: Any = field(init=False)
    _segments: OrderedDict[str, list[int]] = field(init=False, default_factory=OrderedDict)
    _segment_chars: int = field(init=False, default=0)
    # long prompts are tokenized in threads
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _by_turn: bool = field(init=False)

    def __post_init__(self) -> None:
        self.auto = AutoTokenizer.from_pretrained(self.model)
        self.fast = getattr(self.auto, "backend_tokenizer", None)
        if self.fast is None:
            raise BadRequestError(f"{self.model} has no fast tokenizer (tokenizer.json)")
        self._by_turn = self._splits_at_turns()

    def tokens(self, ask: Ask) -> list[int]:
        """The prompt as token ids.

        Raises:
            BadRequestError: no chat template, or one that rejects the messages.
        """
        if isinstance(ask.prompt, list):
            return ask.prompt
        if ask.prompt is not None:
            ids: list[int] = self.fast.encode(ask.prompt).ids
            return ids
        return self._encode(self.render(ask.messages, ask.tools))

    def render(self, messages: Sequence[Json], tools: Sequence[Json]) -> str:
        try:
            text: str = self.auto.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            raise BadRequestError(
                f"the model's chat template rejects the messages: {error}"
            ) from error
        return text

    def _encode(self, text: str) -> list[int]:
        if not self._by_turn:
            return self._ids(text)
        ids: list[int] = []
        for i, part in enumerate(text.split(TURN_START)):
            ids += self._segment(part if i == 0 else TURN_START + part)
        return ids

    def _segment(self, text: str) -> list[int]:
        if not text:
            return []
        with self._lock:
            known = self._segments.get(text)
            if known is not None:
                self._segments.move_to_end(text)
                return known
        ids = self._ids(text)
        with self._lock:
            if text not in self._segments:
                self._segments[text] = ids
                self._segment_chars += len(text)
            while self._segment_chars > SEGMENT_CACHE_CHARS and len(self._segments) > 1:
                dropped, _ = self._segments.popitem(last=False)
                self._segment_chars -= len(dropped)
        return ids

    def _splits_at_turns(self) -> bool:
        """Whether turns can be tokenized one by one: their start is a special token, which no merge
        crosses; verified on examples.
        """
        if self.auto.convert_tokens_to_ids(TURN_START) in (None, self.auto.unk_token_id):
            return False
        turns = [
            f"{TURN_START}user\na b\n\n<|im_end|>\n",
            f"{TURN_START} x<|im_end|>\n",
            f"{TURN_START}assistant\n",
        ]
        return self._ids("".join(turns)) == [i for turn in turns for i in self._ids(turn)]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.fast.encode(text, add_special_tokens=False).ids
        return ids


def read_json(raw: bytes) -> dict[str, Any]:
    """The body as an object.

    Raises:
        BadRequestError: not JSON, or not an object.
    """
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return body
