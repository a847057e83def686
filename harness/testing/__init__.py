"""What the harness is tested with, shipped and documented: a paced server with known truth, and the faults that it can play."""
