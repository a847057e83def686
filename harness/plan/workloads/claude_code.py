"""Claude Code sessions: a context that grows by tool results, is sometimes rewritten, and is
compacted before it is full.
"""

from dataclasses import dataclass

from harness.api.parts import PartKind, Role
from harness.plan.rng import Law, draw, draw_gap_ns, draw_tok
from harness.plan.types import Block, Message, Part, Turn
from harness.plan.workloads.common import LEAST_MESSAGE_TOK, Frame, assistant_text
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK, TOOL_NAMES
from harness.profile.workloads import ClaudeCodeWorkload

_TOOLS_CALLED = 8
"""Calls use the first tools of the list: those that read, search, write and run."""
_LEAST_CALL_TOK = 8
"""A shorter response has no tool call."""


@dataclass(frozen=True, slots=True)
class _Lengths:
    """The differences between main agents and subagents; one that is `alone` has no user."""

    first: Law
    append: Law
    requests: Law
    resumed_share: float
    tools: int
    alone: bool


def claude_code_turns(
    workload: ClaudeCodeWorkload, frame: Frame, *, subagent: bool = False
) -> tuple[Turn, ...]:
    """The requests of one session of a main agent or of a subagent."""
    sub = workload.subagents
    if subagent:
        laws = _Lengths(sub.first_tok, sub.append_tok, sub.requests, 0.0, sub.tools, alone=True)
    else:
        laws = _Lengths(
            workload.first_tok,
            workload.append_tok,
            workload.requests,
            workload.resumed_share,
            workload.tools,
            alone=False,
        )
    return _Maker(workload, laws, frame).turns()


class _Maker:
    def __init__(self, workload: ClaudeCodeWorkload, laws: _Lengths, frame: Frame) -> None:
        self._workload = workload
        self._laws = laws
        self._frame = frame
        self._turns: list[Turn] = []
        # The turns of the exchanges that the next request carries, and the context up to the end of
        # each reply.
        self._chain: list[Turn] = []
        self._ends: list[int] = []

    def turns(self) -> tuple[Turn, ...]:
        rng = self._frame.rng
        for index in range(max(1, round(draw(self._laws.requests, rng)))):
            # Always drawn in one order, so that a changed parameter changes as little as possible.
            called = ""
            if rng.random() < self._workload.tool_use_share:
                called = TOOL_NAMES[rng.randrange(min(_TOOLS_CALLED, self._laws.tools))]
            output = draw_tok(self._workload.output_tok, rng, self._frame.scale)
            thinks = rng.random() < self._workload.thinking_share
            self._add(index, called, output, round(rng.uniform(0.2, 0.8) * output) if thinks else 0)
        return tuple(self._turns)

    def _add(self, index: int, called: str, drawn_output: int, thinking: int) -> None:
        frame, workload, rng = self._frame, self._workload, self._frame.rng
        output = min(drawn_output, max(1, frame.limit_tok - frame.head_tok - LEAST_MESSAGE_TOK))
        of_tool = self._tool_id() or self._laws.alone
        gap = workload.tool_gap_s if of_tool else workload.user_gap_s
        gap_ns = draw_gap_ns(gap, rng) if index else 0
        new = drawn = self._new_tok(index)
        keeps, again = self._what_stays(index, new + output)
        if keeps is not None:
            del self._chain[keeps:], self._ends[keeps:]
        before = self._ends[-1] if self._ends else frame.head_tok
        room = frame.limit_tok - before - output - MESSAGE_OVERHEAD_TOK
        # The summary is shortened in favor of the message that follows it. A message as long as the
        # model's context is cut, and counted.
        again = max(0, min(again, room - new))
        new = max(1, min(new, room - again))
        context = before + again + new + MESSAGE_OVERHEAD_TOK
        turn = Turn(
            index=index,
            gap_ns=gap_ns,
            message=self._message(index, new, again),
            reply=self._reply(index, output, called),
            target_input_tok=context,
            target_output_tok=output,
            keeps=keeps,
            thinking_tok=min(thinking, output - 1),
            clipped_tok=drawn - new + drawn_output - output,
        )
        self._turns.append(turn)
        self._chain.append(turn)
        self._ends.append(context + output + MESSAGE_OVERHEAD_TOK)

    def _new_tok(self, index: int) -> int:
        rng, scale = self._frame.rng, self._frame.scale
        if index:
            return draw_tok(self._laws.append, rng, scale)
        resumed = rng.random() < self._laws.resumed_share
        return draw_tok(self._workload.resumed_tok if resumed else self._laws.first, rng, scale)

    def _what_stays(self, index: int, needed_tok: int) -> tuple[int | None, int]:
        """Number of exchanges that stay (None: all), and the length of the others' replacement."""
        frame, workload = self._frame, self._workload
        if not index:
            return None, 0
        rewritten_at = frame.rng.random() if frame.rng.random() < workload.rewrite_share else None
        context, own = self._ends[-1], self._ends[-1] - frame.head_tok
        limit = max(workload.compact_at * frame.limit_tok, frame.head_tok + 1)
        if context + needed_tok + MESSAGE_OVERHEAD_TOK > limit:
            return 0, max(1, round(workload.compact_to * context) - frame.head_tok)
        if rewritten_at is None:
            return None, 0
        place = frame.head_tok + rewritten_at * own
        keeps = sum(end <= place for end in self._ends)
        kept = self._ends[keeps - 1] if keeps else frame.head_tok
        return keeps, max(1, context - kept - 2 * MESSAGE_OVERHEAD_TOK)

    def _message(self, index: int, new: int, again: int) -> Message:
        key = f"{self._frame.key}/{index}"
        block = Block(f"{key}/user", new)
        # After a cut the last reply that stays may need its tool's result, which must come first.
        tool_id = self._tool_id()
        first = Part(PartKind.TOOL_RESULT if tool_id else PartKind.TEXT, block, tool_id)
        if not again:
            return Message(Role.USER, (first,))
        restored = Part(PartKind.TEXT, Block(f"{key}/again", again))
        return Message(Role.USER, (first, restored) if tool_id else (restored, first))

    def _reply(self, index: int, tok: int, called: str) -> Message:
        key = f"{self._frame.key}/{index}"
        if not called or tok < _LEAST_CALL_TOK:
            return assistant_text(f"{key}/assistant", tok)
        # A sentence, then the tool's input: most output tokens of real sessions are tool input.
        text_tok = max(1, tok // 4)
        tool_id = f"toolu_{self._frame.key.replace('/', '_')}_{index}"
        text = Part(PartKind.TEXT, Block(f"{key}/assistant", text_tok))
        call = Part(PartKind.TOOL_USE, Block(f"{key}/tool", tok - text_tok), tool_id, called)
        return Message(Role.ASSISTANT, (text, call))

    def _tool_id(self) -> str:
        """Id of the last carried reply's tool call; empty for none."""
        return self._chain[-1].reply.parts[-1].tool_id if self._chain else ""
