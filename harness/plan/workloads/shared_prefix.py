"""What all sessions of a class have in front of every prompt."""

from dataclasses import dataclass
from typing import Final

from harness.plan.types import Block, ToolDefinition

# Names of Claude Code's own tools come first; the text of each definition is the corpus's.
TOOL_NAMES: Final = (
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

MESSAGE_OVERHEAD_TOK: Final = 6
"""What chat templates add around a message (role markers, line breaks); an estimate that only moves
targets, never counts.
"""
TOOL_OVERHEAD_TOK: Final = 40
"""What the JSON around a tool definition costs; likewise an estimate."""


@dataclass(frozen=True, slots=True)
class Head:
    """What all sessions of a class share, in front of every prompt."""

    system: Block
    tools: tuple[ToolDefinition, ...]

    @property
    def tok(self) -> int:
        """Target length of the head."""
        return (
            self.system.tok
            + MESSAGE_OVERHEAD_TOK
            + sum(tool.block.tok + TOOL_OVERHEAD_TOK for tool in self.tools)
        )


def make_head(
    label: str, scale: float, *, system_tok: int, tools_tok: int = 0, tools: int = 0
) -> Head:
    """The shared head of a class, scaled.

    Args:
        label: the class; heads of different classes share no text.
        scale: factor on all lengths.
        system_tok: length of the system prompt, unscaled.
        tools_tok: length of all tool definitions together, unscaled.
        tools: number of tool definitions; 0 for none.
    """
    system = Block(f"{label}/system", max(1, round(system_tok * scale)))
    if not tools:
        return Head(system, ())
    names = [TOOL_NAMES[i] if i < len(TOOL_NAMES) else f"Tool{i}" for i in range(tools)]
    # A definition below its JSON's own cost would be all overhead: a scaled-down head keeps fewer
    # tools rather than empty ones.
    total = round(tools_tok * scale)
    count = max(1, min(len(names), total // (TOOL_OVERHEAD_TOK + 8)))
    each = max(4, total // count - TOOL_OVERHEAD_TOK)
    return Head(
        system,
        tuple(ToolDefinition(name, Block(f"{label}/tool/{name}", each)) for name in names[:count]),
    )
