"""capacity.json: the result of a search, per tier. None is unknown, never 0."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.atomic import write_json
from harness.artifacts.typed_json import Number, from_json, to_json
from harness.core.errors import ArtifactError

CAPACITY_FILE: Final = "capacity.json"
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The highest load at which a tier is met.

    Attributes:
        found: `interval`; `below`: no load from the lowest on meets the tier; `beyond`: every load
            up to the highest does; `unknown`: no valid probe.
        load: concurrency or rate; `low` and `high` are the ends of its 95% interval.
        tok_s: output tokens per second at that load, also `tok_s_per_gpu`.
        sessions_per_gpu: live sessions; None for a rate.
        sessions_per_mw: live sessions per megawatt at `boundary`, by power of `basis`.
        binding: text of the condition that is missed first.
        share_at_start: share of good requests at the lowest load that was probed.
        probes: number of probes that were used.
        outliers: run directories of probes that the others do not explain.
        tau: standard deviation of ln(capacity) between probes.
        confirmed: run directory of the confirmation run.
    """

    found: str
    load: Number | None = None
    low: Number | None = None
    high: Number | None = None
    tok_s: Number | None = None
    tok_s_per_gpu: Number | None = None
    sessions_per_gpu: Number | None = None
    sessions_per_mw: Number | None = None
    boundary: str | None = None
    basis: str | None = None
    binding: str | None = None
    share_at_start: Number | None = None
    probes: int = 0
    outliers: tuple[str, ...] = ()
    tau: Number | None = None
    confirmed: str | None = None


@dataclass(frozen=True, slots=True)
class ConditionShare:
    """Requests of a probe that met one condition: `good` of `n`, which say as much as `effective`
    independent ones.
    """

    condition: str
    share: Number
    good: int
    n: int
    effective: Number


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """A run of the search.

    Attributes:
        point: id in sweep.json.
        load: sessions, or session starts per second.
        shares: of each condition of each tier, in order.
        stopped: ended early, because its load misses every tier.
        invalid: why it was not used; None if it was.
    """

    point: int
    run: str
    load: Number
    shares: tuple[ConditionShare, ...] = ()
    stopped: bool = False
    invalid: str | None = None


@dataclass(frozen=True, slots=True)
class CapacityFile:
    """The whole file.

    Attributes:
        load: `concurrency` or `arrival_rate`.
        tiers: by name.
        probes: all runs, in order.
        confirmed_run: that measured the lower end of the first tier's interval in full.
        ended: why the search ended; None if it goes on.
        notes: what the reader must know.
    """

    load: str
    tiers: Mapping[str, Capacity]
    probes: tuple[ProbeRecord, ...] = ()
    confirmed_run: str | None = None
    ended: str | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def write_capacity(folder: Path, found: CapacityFile) -> None:
    """Write capacity.json, whole or not at all."""
    write_json(folder / CAPACITY_FILE, to_json(found))


def read_capacity(folder: Path) -> CapacityFile:
    """Read capacity.json.

    Raises:
        ArtifactError: missing, damaged, or written by a newer harness.
    """
    path = folder / CAPACITY_FILE
    again = f"rewrite it with `harness search --resume {folder}`"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} has no capacity: {CAPACITY_FILE} cannot be read ({error})",
            cause="it is not the folder of a search, or no probe has finished",
            next_step=again,
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version}; this harness reads up to {SCHEMA_VERSION}",
            next_step="upgrade the harness",
        )
    return from_json(CapacityFile, raw, "capacity", where=path, next_step=again)
