"""Tables of text and charts, the building blocks of reports."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.charts import Chart


@dataclass(frozen=True, slots=True)
class Table:
    """A table as text. The first column names the row; `text` lists the positions of other columns
    with words instead of numbers; `marked` is the row to highlight.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class ChartView:
    """A chart with the same data as a table."""

    chart: Chart
    table: Table
