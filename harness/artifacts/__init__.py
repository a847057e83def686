"""Reads and writes the run directory, the wall between measuring and reading."""
