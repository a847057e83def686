"""A site over time: failures, demand and scenarios."""
