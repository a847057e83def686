"""Power sources, one per module; `select` builds those that a profile names."""
