"""events.jsonl: phases and stages of a run, one JSON object per line, appended as they happen."""

import json
from pathlib import Path
from typing import Any

from harness.core.clock import now_ns
from harness.core.errors import ArtifactError


class EventLog:
    """Appends events; each line reaches the kernel before `append` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, event: str, *, t_ns: int | None = None, **fields: Any) -> None:  # noqa: ANN401 - any JSON values
        """Write one event; `t_ns` defaults to now.

        Raises:
            ArtifactError: the file cannot be written.
        """
        line = json.dumps(
            {"t_ns": now_ns() if t_ns is None else t_ns, "event": event, **fields}, allow_nan=False
        )
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode() + b"\n")
        except OSError as error:
            raise ArtifactError(
                f"cannot write {self._path}: {error.strerror or error}",
                cause="no space left, or the folder is gone",
            ) from error
