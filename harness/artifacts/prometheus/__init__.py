"""What a run directory holds of Prometheus metrics: raw scrapes and query answers, and how they are read."""
