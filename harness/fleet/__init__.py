"""Estimates from a measured run what a site would deliver, draw and cost, with ranges and
refusals.
"""
