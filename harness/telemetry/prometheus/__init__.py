"""Metrics of a run from a Prometheus server."""
