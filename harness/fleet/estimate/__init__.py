"""Estimates a site at one moment from a measured run."""
