"""YAML -> Profile. Strict: unknown keys are errors; every error is told at once, with line
numbers.
"""
