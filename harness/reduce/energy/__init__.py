"""Energy of a window at each power boundary."""
