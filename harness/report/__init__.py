"""Writes reports of runs, comparisons and fleet estimates as HTML, Markdown and text."""

from harness.report.headline import HeadlineRow, headline_rows
from harness.report.run.write import write_report

__all__ = ["HeadlineRow", "headline_rows", "write_report"]
