"""Reads the metrics of a run from a Prometheus server."""
