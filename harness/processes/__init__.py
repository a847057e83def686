"""Child processes: start, communicate, stop, record. No other package starts processes."""
