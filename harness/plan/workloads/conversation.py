"""Workloads whose context only grows: chat, documents, reasoning, batch."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.api.parts import PartKind, Role
from harness.plan.rng import draw, draw_gap_ns, draw_tok
from harness.plan.types import Block, Message, Part, Turn
from harness.plan.workloads.common import LEAST_MESSAGE_TOK, Frame, assistant_text, user_text
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK
from harness.profile.workloads import BatchWorkload, ChatWorkload, DocQaWorkload, ThinkingWorkload


@dataclass(frozen=True, slots=True)
class _Draft:
    """A drawn turn before its lengths are checked against the context.

    Attributes:
        input_tok: the new message.
        output_tok: the response.
        gap_ns: pause before it.
        thinking_tok: part of the response that later turns do not carry.
        question_tok: separate text at the end of the message; 0: the message is one text.
    """

    input_tok: int
    output_tok: int
    gap_ns: int = 0
    thinking_tok: int = 0
    question_tok: int = 0


def _grow(frame: Frame, count: float, draft: Callable[[int], _Draft]) -> tuple[Turn, ...]:
    """Up to `count` turns, as many as fit the context; at least one."""
    context = frame.head_tok
    longest_output = max(1, frame.limit_tok - frame.head_tok - LEAST_MESSAGE_TOK)
    turns: list[Turn] = []
    for index in range(max(1, round(count))):
        drawn = draft(index)
        output = min(drawn.output_tok, longest_output)
        room = frame.limit_tok - context - output - MESSAGE_OVERHEAD_TOK
        if drawn.input_tok > room and turns:
            break
        new = max(1, min(drawn.input_tok, room))
        thinking = min(drawn.thinking_tok, output - 1)
        context += new + MESSAGE_OVERHEAD_TOK
        turns.append(
            Turn(
                index=index,
                gap_ns=drawn.gap_ns if index else 0,
                message=_message(f"{frame.key}/{index}", new, min(drawn.question_tok, new - 1)),
                reply=assistant_text(f"{frame.key}/{index}/assistant", output - thinking),
                target_input_tok=context,
                target_output_tok=output,
                thinking_tok=thinking,
                clipped_tok=drawn.input_tok - new + drawn.output_tok - output,
            )
        )
        context += output - thinking + MESSAGE_OVERHEAD_TOK
    return tuple(turns)


def _message(key: str, tok: int, question_tok: int) -> Message:
    if question_tok < 1:
        return user_text(f"{key}/user", tok)
    blocks = Block(f"{key}/document", tok - question_tok), Block(f"{key}/user", question_tok)
    return Message(Role.USER, tuple(Part(PartKind.TEXT, block) for block in blocks))


def chat_turns(workload: ChatWorkload, frame: Frame) -> tuple[Turn, ...]:
    """Short messages and responses with pauses between them."""
    rng, scale = frame.rng, frame.scale

    def draft(_index: int) -> _Draft:
        gap_ns = draw_gap_ns(workload.think_s, rng)
        new = draw_tok(workload.user_tok, rng, scale)
        return _Draft(new, draw_tok(workload.output_tok, rng, scale), gap_ns)

    return _grow(frame, draw(workload.turns, rng), draft)


def doc_qa_turns(workload: DocQaWorkload, frame: Frame) -> tuple[Turn, ...]:
    """A document with the first question, then further questions."""
    rng, scale = frame.rng, frame.scale

    def draft(index: int) -> _Draft:
        gap_ns = draw_gap_ns(workload.think_s, rng)
        question = draw_tok(workload.question_tok, rng, scale)
        document = 0 if index else draw_tok(workload.document_tok, rng, scale)
        output = draw_tok(workload.output_tok, rng, scale)
        return _Draft(document + question, output, gap_ns, question_tok=question if document else 0)

    return _grow(frame, draw(workload.turns, rng), draft)


def thinking_turns(workload: ThinkingWorkload, frame: Frame) -> tuple[Turn, ...]:
    """Responses with a bimodal share of reasoning."""
    rng, scale = frame.rng, frame.scale

    def draft(_index: int) -> _Draft:
        gap_ns = draw_gap_ns(workload.think_s, rng)
        output = draw_tok(workload.output_tok, rng, scale, least=2)
        high = rng.random() < workload.reasoning_high_share
        mode = workload.reasoning_high if high else workload.reasoning_low
        share = min(1.0, max(0.0, rng.gauss(mode, workload.reasoning_spread)))
        new = draw_tok(workload.user_tok, rng, scale)
        return _Draft(new, output, gap_ns, thinking_tok=round(share * output))

    return _grow(frame, draw(workload.turns, rng), draft)


def batch_turns(workload: BatchWorkload, frame: Frame) -> tuple[Turn, ...]:
    """One request."""
    new = draw_tok(workload.user_tok, frame.rng, frame.scale)
    output = draw_tok(workload.output_tok, frame.rng, frame.scale)
    return _grow(frame, 1, lambda _: _Draft(new, output))
