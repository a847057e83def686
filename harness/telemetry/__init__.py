"""Records server metrics, power, processor and memory during a run, in a process of its own."""
