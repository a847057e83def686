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


@dataclass(frozen=True, slots=True)
class DrawnChart:
    """A chart as SVG in placeholder colors, with the same data as a table.

    Attributes:
        caption: what it shows; also the alternative text.
        y_title: above the chart, if its y axis has no title.
        legend: (position in the palette from 1, name) of the series.
        wide: for a desktop.
        narrow: for a phone.
    """

    key: str
    title: str
    caption: str
    y_title: str
    legend: Sequence[tuple[int, str]]
    wide: str
    narrow: str
    table: Table
