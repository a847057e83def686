"""Reduces a run directory to a summary."""

from harness.artifacts.run_summary import Summary
from harness.reduce.reduction import reduce_run, write_summary

__all__ = ["Summary", "reduce_run", "write_summary"]
