"""The report of a fleet estimate."""
