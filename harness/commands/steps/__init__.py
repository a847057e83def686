"""The steps of a run; `harness.commands.run` calls them in order."""
