"""`rosetta` of a summary: the same records under other tools' metric definitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFigure:
    """One term as defined by one tool: a `value`, or statistics of a distribution over `n`. If all
    are None, `note` has the reason.
    """

    unit: str
    definition: str
    value: Number | None = None
    mean: Number | None = None
    p50: Number | None = None
    p90: Number | None = None
    p99: Number | None = None
    n: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFigures:
    """One tool: its values by term, source of the definitions, and what it measures over."""

    title: str
    source: str
    window: str
    figures: Mapping[str, ToolFigure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTools:
    """The headline stage under every tool's definitions.

    Attributes:
        requests: completed ones.
        harness: its own values of the same terms.
        tools: by key of `harness.reduce.figures.other_tools.TOOLS`.
    """

    stage: str
    requests: int
    harness: Mapping[str, ToolFigure] = field(default_factory=dict)
    tools: Mapping[str, ToolFigures] = field(default_factory=dict)
