"""Whether a run can be trusted."""
