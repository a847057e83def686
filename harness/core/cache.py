"""Cache folder of the harness, kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$HARNESS_CACHE_DIR`, else `$XDG_CACHE_HOME/colossus-harness`, else
    `~/.cache/colossus-harness`.
    """
    if own := os.environ.get("HARNESS_CACHE_DIR"):
        return Path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "colossus-harness"
    return Path.home() / ".cache" / "colossus-harness"
