"""Records server metrics, power, CPU and memory during a run, in its own process."""
