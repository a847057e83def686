"""`rosetta` of a summary: the same records under other tools' definitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFigure:
    """One term as one tool defines it: a `value`, or statistics of a distribution over `n`. Where
    there is none, all of these are None and `note` says why.
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
    """One tool: for people, where its definitions were read, over what it measures, its figures by
    term.
    """

    title: str
    source: str
    window: str
    figures: Mapping[str, ToolFigure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherTools:
    """The stage that heads the summary under every tool's definitions.

    Attributes:
        requests: that were answered.
        harness: its own figures under the same terms.
        tools: by key of `harness.reduce.figures.other_tools.TOOLS`.
    """

    stage: str
    requests: int
    harness: Mapping[str, ToolFigure] = field(default_factory=dict)
    tools: Mapping[str, ToolFigures] = field(default_factory=dict)
