"""Simulates a site over time: failures, demand and scenarios."""
