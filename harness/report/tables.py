"""Tables of text and charts, the building blocks of reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.charts import Chart


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text. The first column names the row; `text` are the positions of other columns
    that hold words, not numbers.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ChartView:
    """A chart with its legend and the table that stands beside it."""

    chart: Chart
    table: Table
