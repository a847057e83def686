"""Reading summary.json of any version that this harness knows, brought to the present one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from harness.artifacts.layout import SCHEMA_VERSION
from harness.core.errors import ArtifactError

Migration = Callable[[Mapping[str, Any]], dict[str, Any]]
"""A summary of one version as one of the next; it need not set `schema_version`."""

MIGRATIONS: Final[Mapping[int, Migration]] = {}
"""Version -> what makes the next one of it. Version 1 is the first, so there is none yet.

Fields that were added to a version since it began are filled with their defaults by the types; only
a key that changes its name or meaning raises the version and needs a line here.
"""


def read_summary_json(path: Path) -> dict[str, Any]:
    """A summary.json in the present version's form.

    Raises:
        ArtifactError: it cannot be read, is no JSON object, holds NaN or infinity, or is of a
            version that this harness does not know.
    """
    folder = path.parent
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArtifactError(
            f"{folder} has no summary: {path.name} cannot be read ({error.strerror or error})",
            cause="the run was killed before it was reduced",
            next_step=f"harness reduce {folder}",
        ) from error
    try:
        raw = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not JSON: {error}", next_step=f"harness reduce {folder} writes it again"
        ) from error
    return migrated(
        raw,
        str(path),
        next_step=f"harness reduce {folder} writes it again, or upgrade this harness",
    )


def migrated(
    raw: object,
    name: str = "the summary",
    *,
    next_step: str = "reduce its run directory again, or upgrade this harness",
    table: Mapping[int, Migration] = MIGRATIONS,
    to: int = SCHEMA_VERSION,
) -> dict[str, Any]:
    """A summary of any known version in the form of the present one.

    Args:
        raw: what was read.
        name: for messages.
        next_step: for messages.
        table: version -> what makes the next one of it.
        to: the version that is wanted.

    Raises:
        ArtifactError: no object, no version, a newer one, or one that nothing leads away from.
    """
    if not isinstance(raw, Mapping):
        raise ArtifactError(
            f"{name} holds no JSON object", cause="it was edited or damaged", next_step=next_step
        )
    summary: dict[str, Any] = dict(raw)
    version = summary.get("schema_version")
    if isinstance(version, bool) or not isinstance(version, int) or version > to:
        raise ArtifactError(
            f"{name} has schema_version {version!r}; this harness reads up to {to}",
            cause="it was made by a newer harness, or damaged",
            next_step=next_step,
        )
    while version < to:
        if version not in table:
            raise ArtifactError(
                f"{name} has schema_version {version}, which this harness no longer reads",
                cause="it was made by an older harness, or damaged",
                next_step=next_step,
            )
        summary = table[version](summary)
        version += 1
        summary["schema_version"] = version
    return summary


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
