"""Tokens and server counters over time."""
