"""Reduces a run directory to a summary; the same directory yields the same bytes."""

from harness.artifacts.run_summary import Summary
from harness.reduce.reduction import reduce_run, write_summary

__all__ = ["Summary", "reduce_run", "write_summary"]
