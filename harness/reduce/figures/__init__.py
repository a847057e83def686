"""The figures of a window."""
