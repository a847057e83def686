"""Conversations of each workload. A session is a pure function of (seed, workload, scale, stage, number)."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from harness.plan.draw import draw, draw_gap_ns, draw_tok, stream
from harness.plan.types import Block, Message, Part, PartKind, Role, ToolDefinition, Turn
from harness.profile.schema import ChatWorkload, ClaudeCodeWorkload, Workload

# Names of Claude Code's own tools come first; the text of each definition is the corpus's.
TOOL_NAMES = (
    "Bash",
    "Read",
    "Edit",
    "Write",
    "Grep",
    "Glob",
    "Task",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
    "NotebookEdit",
    "MultiEdit",
    "LS",
    "BashOutput",
    "KillShell",
    "ExitPlanMode",
    "SlashCommand",
    "Skill",
)

MESSAGE_OVERHEAD_TOK = 6
"""What chat templates add around a message (role markers, line breaks); an estimate that only moves targets, never counts."""
TOOL_OVERHEAD_TOK = 40
"""What the JSON around a tool definition costs; likewise an estimate."""


@dataclass(frozen=True, slots=True)
class Head:
    """What all sessions of a workload share, in front of every prompt."""

    system: Block
    tools: tuple[ToolDefinition, ...]

    @property
    def tok(self) -> int:
        """Target length of the head."""
        return self.system.tok + MESSAGE_OVERHEAD_TOK + sum(tool.block.tok + TOOL_OVERHEAD_TOK for tool in self.tools)


def make_head(workload: Workload, scale: float) -> Head:
    """The shared head of a workload, scaled."""
    system = Block(f"{workload.kind}/system", max(1, round(workload.system_tok * scale)))
    if isinstance(workload, ChatWorkload):
        return Head(system, ())
    names = [TOOL_NAMES[i] if i < len(TOOL_NAMES) else f"Tool{i}" for i in range(workload.tools)]
    # A definition below its JSON's own cost would be all overhead: a scaled-down head keeps fewer tools rather than empty ones.
    total = round(workload.tools_tok * scale)
    count = max(1, min(len(names), total // (TOOL_OVERHEAD_TOK + 8)))
    each = max(4, total // count - TOOL_OVERHEAD_TOK)
    return Head(system, tuple(ToolDefinition(name, Block(f"{workload.kind}/tool/{name}", each)) for name in names[:count]))


def make_turns(workload: Workload, *, seed: int, scale: float, limit_tok: int, head: Head, stage: str, number: int) -> tuple[Turn, ...]:
    """The requests of one session: at least one, and as many as fit the context limit.

    Args:
        workload: parameters, unscaled.
        seed: of the run.
        scale: factor on all lengths.
        limit_tok: longest context (input and output), already scaled.
        head: what every prompt starts with.
        stage: name of the stage; sessions of different stages differ.
        number: of the session in its stage.
    """
    rng = stream(seed, "session", stage, number)
    make = _chat_turn if isinstance(workload, ChatWorkload) else _claude_code_turn
    wanted = max(1, round(draw(workload.turns if isinstance(workload, ChatWorkload) else workload.requests, rng)))
    key = f"{stage}/{number}"
    context = head.tok
    turns: list[Turn] = []
    for index in range(wanted):
        draft = make(workload, rng, scale, key, turns)  # type: ignore[arg-type]  # each maker takes its own workload
        output = min(draft.output_tok, max(1, limit_tok - head.tok - 16))
        room = limit_tok - context - output - MESSAGE_OVERHEAD_TOK
        if draft.input_tok > room and turns:
            break  # the real client would compact here; only a first message is cut to what fits
        new_tok = max(1, min(draft.input_tok, room))
        context += new_tok + MESSAGE_OVERHEAD_TOK
        turns.append(
            Turn(
                index=index,
                gap_ns=draft.gap_ns,
                message=draft.message(new_tok),
                reply=draft.reply(output),
                target_input_tok=context,
                target_output_tok=output,
            )
        )
        context += output + MESSAGE_OVERHEAD_TOK
    return tuple(turns)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A drawn turn before its lengths are held against the context."""

    input_tok: int
    output_tok: int
    gap_ns: int
    message: Callable[[int], Message]
    reply: Callable[[int], Message]


def _text(role: Role, key: str) -> Callable[[int], Message]:
    return lambda tok: Message(role, (Part(PartKind.TEXT, Block(key, tok)),))


def _chat_turn(workload: ChatWorkload, rng: Random, scale: float, key: str, turns: list[Turn]) -> _Draft:
    index = len(turns)
    gap_ns = draw_gap_ns(workload.think_s, rng)
    return _Draft(
        input_tok=draw_tok(workload.user_tok, rng, scale),
        output_tok=draw_tok(workload.output_tok, rng, scale),
        gap_ns=gap_ns if turns else 0,
        message=_text(Role.USER, f"{key}/{index}/user"),
        reply=_text(Role.ASSISTANT, f"{key}/{index}/assistant"),
    )


def _claude_code_turn(workload: ClaudeCodeWorkload, rng: Random, scale: float, key: str, turns: list[Turn]) -> _Draft:
    index = len(turns)
    previous_tool = next((part for part in turns[-1].reply.parts if part.kind is PartKind.TOOL_USE), None) if turns else None
    ends_in_tool = rng.random() < workload.tool_use_share
    name = TOOL_NAMES[rng.randrange(min(8, workload.tools, len(TOOL_NAMES)))]
    gap_ns = draw_gap_ns(workload.tool_gap_s if previous_tool else workload.user_gap_s, rng)

    def message(tok: int) -> Message:
        block = Block(f"{key}/{index}/user", tok)
        if previous_tool is None:
            return Message(Role.USER, (Part(PartKind.TEXT, block),))
        return Message(Role.USER, (Part(PartKind.TOOL_RESULT, block, tool_id=previous_tool.tool_id),))

    def reply(tok: int) -> Message:
        if not ends_in_tool or tok < 8:
            return Message(Role.ASSISTANT, (Part(PartKind.TEXT, Block(f"{key}/{index}/assistant", tok)),))
        said = max(1, tok // 4)  # a sentence, then the tool's input: most of the output tokens of real sessions are tool input
        tool_id = f"toolu_{key.replace('/', '_')}_{index}"
        return Message(
            Role.ASSISTANT,
            (
                Part(PartKind.TEXT, Block(f"{key}/{index}/assistant", said)),
                Part(PartKind.TOOL_USE, Block(f"{key}/{index}/tool", max(1, tok - said)), tool_id=tool_id, tool_name=name),
            ),
        )

    return _Draft(
        input_tok=draw_tok(workload.append_tok if turns else workload.first_tok, rng, scale),
        output_tok=draw_tok(workload.output_tok, rng, scale),
        gap_ns=gap_ns if turns else 0,
        message=message,
        reply=reply,
    )
