"""Who is held against whom: sets of repeats, treatments, and the sides that they make."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.run_result import RunResult, load_result
from harness.compare.comparability import mapping
from harness.core.errors import ArtifactError, ProfileError
from harness.core.records import RunState
from harness.core.units import human_number

REFERENCE: Final = Path("results") / "reference"
"""Folder of named baselines, below the working directory or the checkout."""
SERIES_FILE: Final = "series.json"
"""Marks a folder of repeats, as `harness repeat` makes it."""

GROUP_KEYS: Final = (
    "set",
    "variant",
    "profile",
    "model",
    "gpu",
    "cpu",
    "precision",
    "load_format",
    "engine",
    "parallelism",
    "power_limit_w",
    "driver",
)
"""What `--group-by` takes, beside `settings.<name>`."""

_PARALLEL: Final = {
    "tp": "tensor_parallel_size",
    "dp": "data_parallel_size",
    "pp": "pipeline_parallel_size",
    "ep": "expert_parallel_size",
}
_NO_SETTING: Final = (
    "port",
    "path",
    "url",
    "seed",
    "host",
    "log",
)  # settings that name a place or differ between repeats on purpose
_NO_TREATMENT: Final = (
    "set",
    "profile",
    "model",
)  # keys that group, but are no treatment by themselves


@dataclass(frozen=True, slots=True)
class RunSet:
    """What one argument names: a run, or a folder of repeats.

    Attributes:
        path: as it was given.
        name: for people.
        runs: those that finished.
        several: whether it is a folder of runs.
        left_out: runs in it that did not finish, with the reason.
        variants: profiles of a series, as they were named; the first is its baseline.
        missing: those of them of which no run has finished.
    """

    path: Path
    name: str
    runs: tuple[RunResult, ...]
    several: bool
    left_out: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Treatment:
    """What differs on purpose, or might have.

    Attributes:
        key: `gpu`, `precision`, `engine`, …
        values: of each side, in the sides' order; several of one side are joined by a slash.
        differs: whether the sides differ in it.
    """

    key: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A run with the argument that brought it."""

    run: RunResult
    argument: RunSet

    @property
    def variant(self) -> str | None:
        """Its variant in a series of repeats."""
        return self.run.manifest.variant


def load_set(path: Path) -> RunSet:
    """The run, or the finished runs of the folder, at a path.

    Raises:
        ArtifactError: neither a run nor a folder with one that finished, or a run in it that cannot
            be read.
    """
    if (path / "manifest.json").exists() or not path.is_dir():
        return RunSet(path, path.name, (load_result(path),), several=False)
    folders = sorted(manifest.parent for manifest in path.glob("*/manifest.json"))
    if not folders:
        raise ArtifactError(
            f"{path} is no run directory, and holds none",
            next_step=(
                "name a folder that `harness run` or `harness repeat` made; `harness results` lists"
                " runs"
            ),
        )
    runs, left_out = [], []
    for folder in folders:
        state = read_manifest(RunDir(folder)).state
        if state != RunState.COMPLETE:
            left_out.append(
                f"{folder.name} did not finish ({'killed' if state == RunState.RUNNING else state})"
                " and is left out"
            )
            continue
        runs.append(load_result(folder))
    order = _variant_order(path)
    runs.sort(
        key=lambda run: order.get(str(run.manifest.variant), len(order))
    )  # stable: then by time
    if not runs:
        raise ArtifactError(
            f"no run in {path} has finished", next_step=f"harness repeat --resume {path}"
        )
    there = {str(run.manifest.variant) for run in runs}
    missing = tuple(name for name in order if name not in there)
    return RunSet(
        path, path.resolve().name, tuple(runs), True, tuple(left_out), tuple(order), missing
    )


def _variant_order(path: Path) -> dict[str, int]:
    """Position of each variant of a series as its profiles were named: runs are in random order,
    and the first profile is the baseline.
    """
    try:
        raw = mapping(json.loads((path / SERIES_FILE).read_text(encoding="utf-8"))).get("variants")
    except (OSError, ValueError):
        return {}
    listed = raw if isinstance(raw, list) else []
    return {str(mapping(one).get("name")): position for position, one in enumerate(listed)}


def reference_folders() -> tuple[Path, ...]:
    """Where baselines lie: results/reference/ of the working directory, then of the checkout."""
    here, checkout = REFERENCE, Path(__file__).resolve().parents[2] / REFERENCE
    return (here,) if here.resolve() == checkout else (here, checkout)


def find_baseline(name: str) -> Path:
    """Folder of a baseline: a name below results/reference/ of the working directory or the
    checkout, or a path.

    Raises:
        ArtifactError: there is none.
    """
    named = (
        [folder / name for folder in reference_folders()]
        if name and not set(name) & {"/", "\\"} and name not in {".", ".."}
        else []
    )
    for place in (*named, Path(name)):
        if place.is_dir():
            return place
    known = sorted(
        {
            one.name
            for folder in reference_folders()
            if folder.is_dir()
            for one in folder.iterdir()
            if one.is_dir() and one.name[0] != "."
        }
    )
    raise ArtifactError(
        f"there is no baseline {name!r}",
        cause=f"it is no folder, and {REFERENCE} has {', '.join(known) if known else 'none'}",
        next_step=(
            "name a run, a folder of repeats, or one that `harness baseline save NAME RUN…` kept"
        ),
    )


def treatment(member: Member) -> dict[str, str]:
    """Everything that may differ on purpose, as text, with the keys that only group."""
    run = member.run
    model = run.profile.model
    settings = dict(run.settings)
    names: dict[str, int] = {}
    for gpu in run.gpus:
        names[gpu.name or "unknown GPU"] = names.get(gpu.name or "unknown GPU", 0) + 1
    cpu = run.manifest.hardware.cpu
    engine = (run.server.kind, run.server.version) if run.server is not None else ()
    parallel = {short: settings.pop(key, None) for short, key in _PARALLEL.items()}
    precision = [
        str(value)
        for key, asked in (("dtype", model.dtype), ("quantization", model.quantization))
        if (value := settings.pop(key, None) or asked)
    ]
    replicas = f"{run.replicas or 'unknown number of'} replica{'' if run.replicas == 1 else 's'}"
    watts = {gpu.power_limit_w for gpu in run.gpus}
    drivers = {gpu.driver_version or "unknown" for gpu in run.gpus}
    found = {
        "set": member.argument.name,
        "profile": run.name,
        "model": run.model.model_id or "unknown",
        **({"variant": member.variant} if member.variant else {}),
        "gpu": " + ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "none",
        "cpu": (cpu.model if cpu else None) or "unknown",
        "precision": " ".join(precision) or "unknown",
        "load_format": str(settings.pop("load_format", None) or model.load_format or "unknown"),
        "engine": " ".join(value for value in engine if value) or "unknown",
        "parallelism": ", ".join(
            [
                *(f"{short} {value}" for short, value in parallel.items() if value is not None),
                replicas,
            ]
        ),
        "power_limit_w": ", ".join(sorted(human_number(limit) for limit in watts)) or "none",
        "driver": ", ".join(sorted(drivers)) or "none",
    }
    for key in sorted(settings):
        if not any(part in key.lower().split("_") for part in _NO_SETTING):
            found[f"settings.{key}"] = "default" if settings[key] is None else str(settings[key])
    return found


def group(members: Sequence[Member], by: Sequence[str] = ()) -> dict[str, list[Member]]:
    """Members as sides, in the order in which they were named; the first is the baseline A.

    With keys, equal values of them make a side. Without: runs of one variant of one folder of
    repeats, else runs of equal treatment. Where only single runs were named and all have the same
    treatment, each is a side of its own: that shows the spread of one system.

    Raises:
        ProfileError: a key that no run has.
    """
    found = [treatment(member) for member in members]
    there = dict.fromkeys(key for one in found for key in one)
    for key in by:
        if key in there:
            continue
        if key in GROUP_KEYS:
            raise ProfileError(
                f"no run has a {key!r}, so it groups nothing",
                next_step=f"these do: {', '.join(there)}",
            )
        raise ProfileError(
            f"there is no treatment key {key!r}",
            next_step=f"use one of: {', '.join([*GROUP_KEYS, 'settings.<name>'])}",
        )
    sides: dict[tuple[tuple[str, str], ...], list[Member]] = {}
    sets = any(member.argument.several for member in members)
    for member, values in zip(members, found, strict=True):
        if by:
            chosen = {key: values.get(key, "—") for key in by}
        elif sets and member.variant:
            series = str(member.run.manifest.repeat.series)
            chosen = {
                "set": str(member.argument.path) if member.argument.several else series,
                "variant": member.variant,
            }
        else:
            chosen = {key: value for key, value in values.items() if key not in _NO_TREATMENT}
            if member.argument.several:
                chosen["set"] = str(member.argument.path)
        sides.setdefault(tuple(sorted(chosen.items())), []).append(member)
    listed = list(sides.values())
    if len(listed) == 1 and not by and not sets:
        listed = [[member] for member in listed[0]]
    return {side_label(position): side for position, side in enumerate(listed)}


def side_label(position: int) -> str:
    """A, B, …, Z, S27, …"""
    return chr(ord("A") + position) if position < 26 else f"S{position + 1}"


def treatments(sides: Mapping[str, Sequence[Member]]) -> tuple[Treatment, ...]:
    """Treatment keys with the values of each side."""
    found = [[treatment(member) for member in members] for members in sides.values()]
    keys = dict.fromkeys(
        key for side in found for one in side for key in one if key not in _NO_TREATMENT
    )
    listed = {
        key: tuple(" / ".join(dict.fromkeys(one.get(key, "—") for one in side)) for side in found)
        for key in keys
    }
    return tuple(Treatment(key, values, len(set(values)) > 1) for key, values in listed.items())


def names(sides: Mapping[str, Sequence[Member]], by: Sequence[str]) -> tuple[str, ...]:
    """What each side is called: by what tells it from the others."""
    found = {key: treatment(members[0]) for key, members in sides.items()}
    keys = dict.fromkeys(key for one in found.values() for key in one)
    telling = [key for key in keys if len({one.get(key) for one in found.values()}) > 1]
    more = {
        label: len({member.argument.name for member in members}) - 1
        for label, members in sides.items()
    }
    # A side of runs that were named one by one has no name of its own.
    first = (
        ("variant", "engine", "gpu", "precision", "set")
        if any(more.values())
        else ("variant", "set", "engine", "gpu", "precision")
    )
    chosen = [key for key in by if key in telling] or next(
        ([key] for key in first if key in telling and _apart(key, found)), telling[:2]
    )
    return tuple(
        ", ".join(
            one.get(key, "—") + (f" and {more[label]} more" if key == "set" and more[label] else "")
            for key in chosen
        )
        or one["profile"]
        for label, one in found.items()
    )


def _apart(key: str, found: Mapping[str, Mapping[str, str]]) -> bool:
    values = [one.get(key) for one in found.values()]
    return len(set(values)) == len(values)
