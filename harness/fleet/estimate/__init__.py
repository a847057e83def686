"""Estimates of a site at one time from a measured run."""
