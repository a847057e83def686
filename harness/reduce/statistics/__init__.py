"""Percentiles, confidence intervals and tests of stationarity: numbers in, numbers out."""
