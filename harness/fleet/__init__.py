"""Estimates of a site's throughput, power and cost from a measured run, with ranges."""
