"""A server that streams at a set pace and records the true time of each write."""
