"""Runs against each other, and a run against its thresholds. Reads summaries and manifests; says
what may be claimed and no more.
"""
