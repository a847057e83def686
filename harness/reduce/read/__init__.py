"""Reads a run directory into columns."""
