"""capacity.json: the answer of a search, the highest load that meets each tier."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.atomic import write_json
from harness.artifacts.typed_json import Number, from_json, to_json
from harness.core.errors import ArtifactError

CAPACITY_FILE: Final = "capacity.json"
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ConditionShare:
    """Requests of a probe that met one condition; `design_effect`: variance of the share over that
    of independent requests.
    """

    condition: str
    target: Number
    met: int
    n: int
    design_effect: Number = 1.0


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
    shares: tuple[ConditionShare, ...]
    stopped: bool = False
    invalid: str | None = None


@dataclass(frozen=True, slots=True)
class TierCapacity:
    """The capacity at one tier.

    Attributes:
        conditions: in words.
        load: the highest load that meets all of them: the posterior's median; None if unknown.
        low: lower end of its 95% interval; `high` the upper end.
        limit: `at_least` if every load that was tried meets the tier, `below` if none does; the
            interval is then not closed.
        binding: the condition with the smallest capacity.
        spread: standard deviation of ln(capacity) between probes.
        outliers: points whose capacity differs from the others'.
        output_tok_s: throughput of the run that measured `low`, with the values below; None for
            tiers without such a run.
        sessions_per_gpu: load of that run / GPUs; None for an arrival rate, as the next.
        sessions_per_mw: load of that run / power of `power_boundary` in MW.
    """

    name: str
    conditions: tuple[str, ...]
    load: Number | None = None
    low: Number | None = None
    high: Number | None = None
    limit: str | None = None
    binding: str | None = None
    spread: Number | None = None
    outliers: tuple[int, ...] = ()
    run: str | None = None
    output_tok_s: Number | None = None
    output_tok_s_per_gpu: Number | None = None
    sessions_per_gpu: Number | None = None
    sessions_per_mw: Number | None = None
    power_boundary: str | None = None
    power_basis: str | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """The whole file.

    Attributes:
        search_id: name of the folder.
        load: `concurrency` or `arrival_rate`.
        confirmed_run: that measured the lower end of the first tier's interval in full.
        ended: why the search ended.
        notes: what the reader must know.
    """

    search_id: str
    load: str
    tiers: tuple[TierCapacity, ...]
    probes: tuple[ProbeRecord, ...]
    confirmed_run: str | None = None
    ended: str | None = None
    notes: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION


def write_capacity(folder: Path, capacity: Capacity) -> None:
    """Write capacity.json into the folder of a search."""
    write_json(folder / CAPACITY_FILE, to_json(capacity))


def read_capacity(folder: Path) -> Capacity:
    """Read capacity.json.

    Raises:
        ArtifactError: missing, damaged, or written by a newer harness.
    """
    path = folder / CAPACITY_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder} has no capacity: {CAPACITY_FILE} cannot be read ({error})",
            next_step=f"finish the search: harness search --resume {folder}",
        ) from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version}; this harness reads up to {SCHEMA_VERSION}",
            next_step="upgrade the harness",
        )
    return from_json(Capacity, raw, "capacity", where=path)
