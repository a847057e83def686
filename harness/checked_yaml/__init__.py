"""YAML that people write: text in, a value of a pydantic type out, or every error with its place
and its fix.
"""
