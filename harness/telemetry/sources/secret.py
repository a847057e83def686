"""Passwords and tokens of meters: named by the profile, never in it."""

import os
from pathlib import Path


def read_secret(env: str | None, file: str | None) -> str | None:
    """The secret that an environment variable or a file holds, or None where neither is named.

    Raises:
        ValueError: what is named is not there.
    """
    if env is not None:
        value = os.environ.get(env)
        if not value:
            raise ValueError(f"the environment variable {env}, which holds the secret, is not set")
        return value
    if file is None:
        return None
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(
            f"the secret cannot be read from {file}: {error.strerror or error}"
        ) from error
