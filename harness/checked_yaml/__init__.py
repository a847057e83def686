"""Check YAML files that people write: a value of a pydantic type, or every error with its place
and its fix.
"""
