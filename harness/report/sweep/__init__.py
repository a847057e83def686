"""The report of a sweep, and of the comparison of two."""
