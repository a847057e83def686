"""Summary and run directory -> report.html, report.md, and the headline rows that the terminal
shows too.
"""

from harness.report.headline import HeadlineRow, headline_rows
from harness.report.run.write import write_report

__all__ = ["HeadlineRow", "headline_rows", "write_report"]
