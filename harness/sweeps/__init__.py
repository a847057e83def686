"""Reads a sweep or search: its points as a table, peak and knee of the load curve, Pareto
frontiers, and the capacity at an SLO, each with its uncertainty.
"""
