"""Measurement windows and the steady-state test."""
