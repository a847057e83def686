"""Reads and writes the run directory, the interface between measuring and reading."""
