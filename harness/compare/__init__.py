"""Compares runs with each other and a run with its thresholds, from summaries and manifests
only.
"""
