"""The `harness` command: parse arguments, call one function, print, map errors to exit codes.

Nothing is imported at the top that `harness --help` does not need: the rooms are imported inside
the commands.
"""

from harness.cli import bench, compare, fleet, measure, read, traces  # noqa: F401 - each adds its commands
from harness.cli.base import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `harness` command."""
    app()
