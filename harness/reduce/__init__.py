"""Run directory -> tidy tables -> Summary. Reads only the directory; the same directory gives the same bytes."""

from harness.reduce.reduction import reduce_run, write_summary
from harness.reduce.summary import Summary

__all__ = ["Summary", "reduce_run", "write_summary"]
