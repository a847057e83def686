"""The head that all prompts of a class share."""

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
"""Estimated tokens that chat templates add to a message (role markers, line breaks); affects only
targets, never counts.
"""
TOOL_OVERHEAD_TOK: Final = 40
"""Estimated tokens of the JSON around a tool definition."""


@dataclass(frozen=True, slots=True)
class Head:
    """System prompt and tools, which start every prompt of a class."""

    system: Block
    tools: tuple[ToolDefinition, ...]

    @property
    def tok(self) -> int:
        """Target length of the head."""
        tools_tok = sum(tool.block.tok + TOOL_OVERHEAD_TOK for tool in self.tools)
        return self.system.tok + MESSAGE_OVERHEAD_TOK + tools_tok


def make_head(
    label: str, scale: float, *, system_tok: int, tools_tok: int = 0, tools: int = 0
) -> Head:
    """The head of a class, scaled. Heads of different classes share no text. `tools_tok` is the
    total length of all tool definitions.
    """
    system = Block(f"{label}/system", max(1, round(system_tok * scale)))
    if not tools:
        return Head(system, ())
    names = [TOOL_NAMES[i] if i < len(TOOL_NAMES) else f"Tool{i}" for i in range(tools)]
    # A very short definition would be all overhead: a scaled-down head has fewer tools instead.
    total = round(tools_tok * scale)
    count = max(1, min(len(names), total // (TOOL_OVERHEAD_TOK + 8)))
    each = max(4, total // count - TOOL_OVERHEAD_TOK)
    return Head(
        system,
        tuple(ToolDefinition(name, Block(f"{label}/tool/{name}", each)) for name in names[:count]),
    )
