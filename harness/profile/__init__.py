"""Reads a YAML profile strictly: unknown keys are errors, and all errors are reported at once
with line numbers.
"""
