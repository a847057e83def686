"""Where made models are kept, and how one is put there.

A model's folder is written under a temporary name and renamed when it is whole, under a lock, so
that a reader sees all of it or nothing, and two makers at once make one model. Its name ends in a
hash of everything that it was made from.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.cache import cache_dir
from harness.core.errors import PreflightError


def model_dir(name: str) -> Path:
    """The folder that the model called `name` (with its hash) has or will have."""
    return cache_dir() / "models" / name


def is_whole(name: str) -> bool:
    """Whether the model is there. A folder under its final name is always whole; config.json is
    checked against emptied caches.
    """
    return (model_dir(name) / "config.json").is_file()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the model's folder, building it first if it is not there.

    Args:
        name: folder name, ending in a hash of what it is made from.
        build: writes all files of the model into the empty folder that it is given.

    Raises:
        PreflightError: the cache folder cannot be written.
    """
    final = model_dir(name)
    if is_whole(name):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _locked(final.parent / f".{name}.lock"):
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
            next_step="free space there, or set HARNESS_CACHE_DIR to a folder that can be written",
        ) from error
    return final
