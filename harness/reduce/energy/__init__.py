"""Joules of a window at each power boundary."""
