"""Reads the Prometheus data of a run: raw scrapes and query results."""
