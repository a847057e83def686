"""Request bodies as the model reads them: checked fields, messages in one form, the chat template,
token ids.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from transformers import AutoTokenizer

from harness.server.engine.batching import Sampling

Json = Mapping[str, Any]

SEGMENT_CACHE_CHARS: Final = 32_000_000
"""Text of already tokenised turns that is kept, so that a growing conversation costs only its new
turns.
"""
TURN_START: Final = "<|im_start|>"


class BadRequestError(ValueError):
    """The request is wrong or asks for what this engine does not do; told to the client as status
    400.
    """


@dataclass(frozen=True, slots=True)
class Ask:
    """A request in the engine's own terms.

    Attributes:
        sampling: lengths and temperature.
        stops: stop strings.
        stream: whether events are wanted.
        messages: the conversation in OpenAI form (system, user, assistant with tool_calls, tool).
        tools: functions in OpenAI form.
        parse_tools: names of functions whose calls are to be recognised in the answer.
        prompt: text or token ids instead of messages (completions).
        include_usage: a last event with usage (OpenAI).
        continuous_usage: usage in every event (OpenAI).
    """

    sampling: Sampling
    stops: tuple[str, ...] = ()
    stream: bool = False
    messages: tuple[Json, ...] = ()
    tools: tuple[Json, ...] = ()
    parse_tools: tuple[str, ...] = ()
    prompt: str | list[int] | None = None
    include_usage: bool = False
    continuous_usage: bool = False


@dataclass(slots=True)
class Prompts:
    """The model's tokenizer and chat template.

    Args:
        model: folder of the model.
    """

    model: str
    auto: Any = field(init=False)
    fast: Any = field(init=False)
    _segments: OrderedDict[str, list[int]] = field(init=False, default_factory=OrderedDict)
    _segment_chars: int = field(init=False, default=0)
    _lock: threading.Lock = field(
        init=False, default_factory=threading.Lock
    )  # long prompts are tokenised in threads
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
            BadRequestError: no chat template, or one that refuses the messages.
        """
        if isinstance(ask.prompt, list):
            return ask.prompt
        if ask.prompt is not None:
            ids: list[int] = self.fast.encode(ask.prompt).ids
            return ids
        return self._encode(self.render(ask.messages, ask.tools))

    def render(self, messages: Sequence[Json], tools: Sequence[Json]) -> str:
        """The conversation as the chat template writes it."""
        try:
            text: str = self.auto.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:
            raise BadRequestError(
                f"the model's chat template refuses the messages: {error}"
            ) from error
        return text

    def _encode(self, text: str) -> list[int]:
        if not self._by_turn:
            whole: list[int] = self.fast.encode(text, add_special_tokens=False).ids
            return whole
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
        ids: list[int] = self.fast.encode(text, add_special_tokens=False).ids
        with self._lock:
            if text not in self._segments:
                self._segments[text] = ids
                self._segment_chars += len(text)
            while self._segment_chars > SEGMENT_CACHE_CHARS and len(self._segments) > 1:
                dropped, _ = self._segments.popitem(last=False)
                self._segment_chars -= len(dropped)
        return ids

    def _splits_at_turns(self) -> bool:
        """Whether turns can be tokenised one by one: their start is a special token, which no merge
        crosses; tried on examples.
        """
        if self.auto.convert_tokens_to_ids(TURN_START) in (None, self.auto.unk_token_id):
            return False
        turns = [
            f"{TURN_START}user\na b\n\n<|im_end|>\n",
            f"{TURN_START} x<|im_end|>\n",
            f"{TURN_START}assistant\n",
        ]
        whole = self.fast.encode("".join(turns), add_special_tokens=False).ids
        return bool(
            whole
            == [i for turn in turns for i in self.fast.encode(turn, add_special_tokens=False).ids]
        )


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


def _number(body: Json, key: str, default: float, low: float, high: float) -> float:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequestError(f"{key} must be a number from {low:g} to {high:g}")
    return float(value)


def whole_number(body: Json, key: str, low: int) -> int | None:
    """A whole number of at least `low`; None when it is absent."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise BadRequestError(f"{key} must be a whole number, {low} or more")
    return value


def _strings(body: Json, key: str) -> tuple[str, ...]:
    value = body.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise BadRequestError(f"{key} must be a non-empty string or a list of them")
    return tuple(items)


def _refuse_unsupported(body: Json, temperature: float) -> None:
    """Say no to what would otherwise be ignored silently although it changes the answer."""
    if body.get("top_p") not in (None, 1, 1.0):
        raise BadRequestError("top_p below 1 is not supported by this engine; use temperature")
    if body.get("top_k") not in (None, 0, -1):
        raise BadRequestError("top_k is not supported by this engine; use temperature")
    if body.get("seed") is not None and temperature > 0:
        raise BadRequestError(
            "seed is honoured with temperature 0 only: requests share batches, and with them one"
            " random generator"
        )
    for key in (
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "logit_bias",
        "echo",
        "suffix",
    ):
        if body.get(key) not in (None, 0, 0.0, False, "", {}):
            raise BadRequestError(f"{key} is not supported by this engine")
    for key in ("n", "best_of"):
        if body.get(key) not in (None, 1):
            raise BadRequestError(f"{key} other than 1 is not supported by this engine")
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise BadRequestError(
            "response_format other than text is not supported by this engine: it does not constrain"
            " answers"
        )


def _refuse_forced_tools(choice: object, free: Sequence[str]) -> None:
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in (None, *free):
        raise BadRequestError(
            f"tool_choice {kind!r} is not supported by this engine: it does not constrain answers;"
            f" use one of {', '.join(free)}"
        )


def _streaming(body: Json) -> bool:
    value = body.get("stream")
    if value not in (None, True, False):
        raise BadRequestError("stream must be true or false")
    return bool(value)


@dataclass(frozen=True, slots=True)
class Common:
    """Fields that OpenAI's routes share."""

    temperature: float
    stops: tuple[str, ...]
    stream: bool


def common_fields(body: Json, *, default_temperature: float) -> Common:
    """Read them, and refuse what this engine does not do.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    temperature = _number(body, "temperature", default_temperature, 0.0, 2.0)
    _refuse_unsupported(body, temperature)
    _refuse_forced_tools(body.get("tool_choice"), ("auto", "none"))
    return Common(temperature, _strings(body, "stop"), _streaming(body))


def from_openai(body: Json, *, default_temperature: float, room_tok: int, chat: bool) -> Ask:
    """Read a body of `/v1/chat/completions` or `/v1/completions`.

    Args:
        body: the JSON object.
        default_temperature: where the body names none.
        room_tok: most tokens of an answer whose length is not given (chat); the caller takes off
            the prompt.
        chat: which of the two.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    common = common_fields(body, default_temperature=default_temperature)
    max_tok = whole_number(body, "max_completion_tokens", 1) or whole_number(body, "max_tokens", 1)
    if max_tok is None:
        max_tok = room_tok if chat else 16  # completions: OpenAI's documented default
    min_tok = whole_number(body, "min_tokens", 0) or 0
    if min_tok > max_tok:
        raise BadRequestError(f"min_tokens {min_tok} is over max_tokens {max_tok}")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("stream_options must be an object")
    tools, names = _openai_tools(body) if chat else ((), ())
    return Ask(
        sampling=Sampling(max_tok, min_tok, bool(body.get("ignore_eos")), common.temperature),
        stops=common.stops,
        stream=common.stream,
        messages=_openai_messages(body) if chat else (),
        tools=tools,
        parse_tools=() if body.get("tool_choice") == "none" else names,
        prompt=None if chat else _openai_prompt(body),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
    )


def _openai_prompt(body: Json) -> str | list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if (
        isinstance(prompt, list)
        and prompt
        and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt)
    ):
        return prompt
    raise BadRequestError("prompt must be one string, or one list of token ids")


def _openai_tools(body: Json) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    tools = body.get("tools") or []
    names = []
    for tool in tools if isinstance(tools, list) else [None]:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequestError(
                "each of tools must be an object with type function and a function that has a name"
            )
        names.append(function["name"])
    return tuple(tools), tuple(names)


def _openai_messages(body: Json) -> tuple[Json, ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a non-empty list")
    out = []
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"system", "developer", "user", "assistant", "tool"}:
            raise BadRequestError(f"messages.{at}: unknown role {role!r}")
        plain = {
            "role": role,
            "content": text_parts(message.get("content"), f"messages.{at}.content", ("text",)),
        }
        if message.get("tool_calls"):
            plain["tool_calls"] = [_nested_call(call, at) for call in message["tool_calls"]]
        out.append(plain)
    return tuple(out)


def _nested_call(call: object, at: int) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    return parsed_call(function, f"messages.{at}.tool_calls")


def parsed_call(function: object, where: str) -> Json:
    """A call of an earlier turn; arguments come as JSON text and are parsed, since templates print
    objects.

    Args:
        function: object with name and arguments.
        where: place in the body, for the error.

    Raises:
        BadRequestError: no such object.
    """
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequestError(f"{where}: each call needs a function with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise BadRequestError(f"{where}: arguments are not JSON: {error}") from error
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def text_parts(content: object, where: str, kinds: Sequence[str]) -> str:
    """Content as text: a string, or a list of text parts, joined by line breaks as vLLM joins them.

    Args:
        content: string, list of parts, or None for no text.
        where: place in the body, for the error.
        kinds: types of parts that are text.

    Raises:
        BadRequestError: anything else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequestError(f"{where} must be a string or a list of parts")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, dict)
            and part.get("type") in kinds
            and isinstance(part.get("text"), str)
        ):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BadRequestError(
                f"{where}: parts of type {kind!r} are not supported by this engine"
            )
    return "\n".join(texts)


def from_anthropic(body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
    """Read a body of `/v1/messages` or, with `counting`, of `/v1/messages/count_tokens`.

    Thinking is not refused: these models do not think, so no budget for it changes anything.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    temperature = _number(body, "temperature", default_temperature, 0.0, 1.0)
    _refuse_unsupported(body, temperature)
    max_tok = 1 if counting else whole_number(body, "max_tokens", 1)
    if max_tok is None:
        raise BadRequestError("max_tokens: Field required")
    choice = body.get("tool_choice")
    _refuse_forced_tools(choice, ("auto", "none"))
    tools, names = _anthropic_tools(body)
    return Ask(
        sampling=Sampling(max_tok, temperature=temperature),
        stops=_strings(body, "stop_sequences"),
        stream=_streaming(body),
        messages=tuple(_anthropic_messages(body)),
        tools=tools,
        parse_tools=() if isinstance(choice, dict) and choice.get("type") == "none" else names,
    )


def _anthropic_tools(body: Json) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    tools = body.get("tools") or []
    out, names = [], []
    for at, tool in enumerate(tools if isinstance(tools, list) else [None]):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise BadRequestError(f"tools.{at}: an object with name and input_schema is needed")
        if not isinstance(tool.get("input_schema"), dict):
            raise BadRequestError(
                f"tools.{at}.input_schema: Field required (server-side tools are not supported by"
                " this engine)"
            )
        function = {
            "name": tool["name"],
            "description": tool.get("description", ""),
            "parameters": tool["input_schema"],
        }
        out.append({"type": "function", "function": function})
        names.append(tool["name"])
    return tuple(out), tuple(names)


def _anthropic_messages(body: Json) -> list[Json]:
    """System text and turns in OpenAI form: tool results become messages of their own, before the
    text of the same turn.
    """
    out: list[Json] = []
    if system := text_parts(body.get("system"), "system", ("text",)):
        out.append({"role": "system", "content": system})
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages: a non-empty list is required")
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"user", "assistant", "system"}:
            raise BadRequestError(f"messages.{at}.role: {role!r} is not user or assistant")
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise BadRequestError(f"messages.{at}.content must be a string or a list of blocks")
        out += _anthropic_turn(role, blocks, f"messages.{at}.content")
    return out


def _anthropic_turn(role: str, blocks: Sequence[object], where: str) -> list[Json]:
    texts: list[object] = []
    calls: list[Json] = []
    results: list[Json] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind in {"thinking", "redacted_thinking"}:
            continue  # not part of what the model reads again
        if kind == "tool_use" and role == "assistant" and isinstance(block, dict):
            calls.append(
                {
                    "type": "function",
                    "function": {"name": block.get("name"), "arguments": block.get("input") or {}},
                }
            )
        elif kind == "tool_result" and role == "user" and isinstance(block, dict):
            results.append(
                {"role": "tool", "content": text_parts(block.get("content"), where, ("text",))}
            )
        else:
            texts.append(block)
    text = text_parts(texts, where, ("text",))
    if role == "assistant":
        return [
            (
                {"role": role, "content": text, "tool_calls": calls}
                if calls
                else {"role": role, "content": text}
            )
        ]
    return [*results, {"role": role, "content": text}] if texts or not results else results
