"""What a run keeps of Prometheus metrics, raw scrapes and query answers, and how they are read."""
