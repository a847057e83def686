"""Which stretch of time is measured."""
