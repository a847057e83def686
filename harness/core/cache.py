"""Cache folder of the harness, kept between runs."""

import os
from pathlib import Path

from harness.core.errors import PreflightError


def cache_dir() -> Path:
    """`$HARNESS_CACHE_DIR`, else `$XDG_CACHE_HOME/colossus-harness`, else
    `~/.cache/colossus-harness`.

    Raises:
        PreflightError: neither is set, and there is no home folder.
    """
    if own := os.environ.get("HARNESS_CACHE_DIR"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "colossus-harness"
    try:
        return Path.home() / ".cache" / "colossus-harness"
    except RuntimeError as error:
        raise PreflightError(
            "there is no home folder: HOME is not set, and this user is not in the password"
            " database",
            next_step="set HARNESS_CACHE_DIR to a writable folder",
        ) from error


def expand_user(path: str) -> Path:
    """A path with its `~` expanded; unchanged if there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
