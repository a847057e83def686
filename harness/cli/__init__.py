"""The `harness` command: parse arguments, call one function, print, map errors to exit codes.

Modules that `harness --help` does not need are imported inside the commands.
"""

from harness.cli import bench, compare, fleet, learn, measure, read, sweep, traces  # noqa: F401 - each adds its commands
from harness.cli.base import app
from harness.cli.console import make_steady

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the `harness` command."""
    make_steady()
    app()
