"""Metrics of a window."""
