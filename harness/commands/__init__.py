"""What the commands do: run, check, repeat, fleet."""
