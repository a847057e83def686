"""sweep.json: what a sweep or search was asked, and the state of each of its points.

A point is one setting of the varied keys, measured by one ordinary run in the sweep's folder. The
file is rewritten before and after each point; everything else in the folder, except the run
directories and `profile.yaml`, can be made again from it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from harness.artifacts.atomic import write_json
from harness.artifacts.typed_json import Number, from_json, to_json
from harness.core.errors import ArtifactError

SWEEP_FILE: Final = "sweep.json"
SCHEMA_VERSION: Final = 1

Value: TypeAlias = bool | Number | str | None
"""A value of a varied key."""


class PointState(StrEnum):
    """State of a point.

    `partial`: the run was ended early because its result was certain or the server saturated.
    `skipped`: never started; `Point.error` has the reason.
    """

    PLANNED = "planned"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Axis:
    """A varied key of the profile.

    Attributes:
        key: dotted, as in `--set`.
        values: in the order given.
        zipped: number of the group of keys that vary together, from 0; None for a product.
    """

    key: str
    values: tuple[Value, ...]
    zipped: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One planned run.

    Attributes:
        id: number of the point, from 0: its place in the order of measurement.
        values: of the varied keys.
        repeat: number, from 1.
        variant: points with the same label need the same server, so it is kept between them.
        seed: of the plan.
        run: folder of the last run, below the sweep's; None before it.
        error: reason for `failed` and `skipped`.
        wall_s: time from the point's start to its end.
        kept_server: whether the server was already running, started for an earlier point.
        tries: how often the point was started.
    """

    id: int
    values: Mapping[str, Value]
    repeat: int
    variant: str
    seed: int
    state: PointState = PointState.PLANNED
    run: str | None = None
    error: str | None = None
    wall_s: Number | None = None
    kept_server: bool | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True)
class SweepIndex:
    """The whole file.

    Attributes:
        sweep_id: name of the folder.
        kind: `sweep` or `search`.
        profile_sha256: of `profile.yaml` with the overrides; a resumed sweep must have the same.
        overrides: `--set` arguments.
        axes: empty for a search.
        order: `random` or `given`.
        seed: from which order and the points' seeds are drawn.
        repeats: runs of each setting.
        points: by id.
        search: the profile's `search` section of a search, else None.
        notes: what the reader must know, e.g. that prefix caches could not be cleared.
    """

    sweep_id: str
    kind: str
    profile: str
    profile_sha256: str
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    order: str
    seed: int
    repeats: int
    points: tuple[Point, ...]
    search: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def is_sweep(folder: Path) -> bool:
    """Whether a folder is one of a sweep or search."""
    return (folder / SWEEP_FILE).is_file()


def write_sweep(folder: Path, index: SweepIndex) -> None:
    """Write sweep.json, whole or not at all."""
    write_json(folder / SWEEP_FILE, to_json(index))


def read_sweep(folder: Path) -> SweepIndex:
    """Read sweep.json.

    Raises:
        ArtifactError: not the folder of a sweep, damaged, or written by a newer harness.
    """
    path = folder / SWEEP_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} is not a sweep: {SWEEP_FILE} cannot be read ({error})",
            next_step="pass a folder that `harness sweep` or `harness search` created",
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version}; this harness reads up to {SCHEMA_VERSION}",
            next_step="upgrade the harness",
        )
    return from_json(SweepIndex, raw, "sweep", where=path)
