"""Where built models are kept.

A model is built under a temporary name and renamed when complete, under a lock: readers see all of
it or nothing, and two builders build one model.
"""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.core.cache import cache_dir
from harness.core.errors import PreflightError


def model_dir(name: str) -> Path:
    """The folder that the model called `name` (with its hash) has or will have."""
    return cache_dir() / "models" / name


def is_whole(name: str) -> bool:
    """Whether the model is there. A folder under its final name is always complete; config.json is
    checked in case the cache was emptied.
    """
    return (model_dir(name) / "config.json").is_file()


def write_json(path: Path, value: object) -> None:
    """Write one of a model's configuration files; the same bytes every time."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def make_once(name: str, build: Callable[[Path], None]) -> Path:
    """The model's folder, built first if it is missing.

    Args:
        name: folder name, ending in a hash of the sources.
        build: writes all files into the empty folder that it gets.

    Raises:
        PreflightError: the cache folder is not writable.
    """
    final = model_dir(name)
    if is_whole(name):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with (final.parent / f".{name}.lock").open("a", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if is_whole(name):
                return final
            shutil.rmtree(final, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=final.parent))
            try:
                build(scratch)
                for path in scratch.iterdir():
                    path.chmod(0o644)
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                scratch.chmod(0o755)
                scratch.rename(final)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise PreflightError(
            f"the model cache {final.parent} cannot be written: {error}",
            cause="no permission, or no space left",
            next_step="free space there, or set HARNESS_CACHE_DIR to a writable folder",
        ) from error
    return final
