"""Reads a run's metrics from a Prometheus server."""
