"""Colossus harness: what AI inference really delivers per GPU, per watt and per dollar."""

__version__ = "0.1.0"
