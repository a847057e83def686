"""Records, units, clocks, errors and metric definitions. Standard library only; imports nothing of
ours.
"""
