"""Percentiles, confidence intervals and tests of stationarity."""
