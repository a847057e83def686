"""Records, units, clocks, errors and metric definitions, on the standard library alone."""
