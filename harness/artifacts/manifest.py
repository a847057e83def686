"""manifest.json: description of a run. Written whole at its start and at every change of state."""

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from harness.artifacts.atomic import write_json
from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.typed_json import read_leniently
from harness.core.errors import ArtifactError
from harness.core.records import Concern, RunState

_SECRET_KEY = re.compile(r"(api[-_]?key|token|secret|password|authorization)$", re.IGNORECASE)
_PLACES = frozenset({"api_key_env", "api_key_file"})
_VARIABLE = re.compile(r"env:\w+")


def plain(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Dataclasses, tuples, enums and paths as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _is_place(key: str, value: str) -> bool:
    """Whether a value under a secret-looking key is the place of a secret."""
    return key in _PLACES or _VARIABLE.fullmatch(value) is not None


def redacted(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same JSON value with strings under secret-looking keys replaced."""
    if isinstance(value, dict):
        return {
            key: (
                "<redacted>"
                if isinstance(item, str) and _SECRET_KEY.search(key) and not _is_place(key, item)
                else redacted(item)
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redacted(item) for item in value]
    return value


class Manifest:
    """The manifest of a run in progress.

    Every `update` replaces the file atomically, so a kill -9 leaves the old or the new one.
    """

    def __init__(self, run_dir: RunDir, fields: Mapping[str, Any]) -> None:
        self._run_dir = run_dir
        self._lock = threading.RLock()
        self._fields: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "state": RunState.RUNNING.value,
            "concerns": [],
            "error": None,
            **redacted(plain(fields)),
        }
        write_json(run_dir.manifest, self._fields)

    @property
    def fields(self) -> Mapping[str, Any]:
        return self._fields

    def update(self, **fields: Any) -> None:  # noqa: ANN401 - any JSON values
        """Set fields and write the file. Safe to call from several threads."""
        with self._lock:
            self._fields.update(redacted(plain(fields)))
            write_json(self._run_dir.manifest, self._fields)

    def add_concern(self, concern: Concern) -> None:
        """Record a concern found during the run, once."""
        entry = plain(concern)
        with self._lock:
            if entry not in self._fields["concerns"]:
                self.update(concerns=[*self._fields["concerns"], entry])

    @property
    def state(self) -> RunState:
        return RunState(self._fields["state"])


def read_manifest(run_dir: RunDir) -> RecordedRun:
    """The typed manifest of a run directory.

    Raises:
        ArtifactError: as `read_manifest_json`.
    """
    return read_leniently(RecordedRun, read_manifest_json(run_dir))


def read_manifest_json(run_dir: RunDir) -> dict[str, Any]:
    """The manifest of a run directory as written.

    Raises:
        ArtifactError: not a run directory, not JSON, or an unknown schema version.
    """
    try:
        text = run_dir.manifest.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ArtifactError(
            f"{run_dir.root} is not a run directory: manifest.json cannot be read ({reason})",
            next_step="use a folder that `harness results` lists",
        ) from error
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{run_dir.manifest} is not JSON: {error}", cause="it was edited or damaged"
        ) from error
    if not isinstance(manifest, dict):
        raise ArtifactError(
            f"{run_dir.manifest} is not a JSON object", cause="it was edited or damaged"
        )
    version = manifest.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{run_dir.manifest} has schema_version {version!r}; this harness reads up to"
            f" {SCHEMA_VERSION}",
            cause="the run was made by a newer harness",
            next_step="reduce it with that version, or upgrade this one",
        )
    return manifest
