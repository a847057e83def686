"""Passwords and tokens of meters; a profile contains only where they are."""

import os
from pathlib import Path


def read_secret(env: str | None, file: str | None) -> str | None:
    """The secret in an environment variable or a file; None if neither is named.

    Raises:
        ValueError: the variable is not set or the file cannot be read.
    """
    if env is not None:
        value = os.environ.get(env)
        if not value:
            raise ValueError(f"environment variable {env} (the secret) is not set")
        return value
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"cannot read the secret in {file}: {error.strerror or error}") from error
