"""Groups runs into sides of a comparison by their sets of repeats and treatments."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
"""Folder of named baselines."""
SERIES_FILE: Final = "series.json"
"""Marks a folder of repeats made by `harness repeat`."""

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
"""Values of `--group-by`, in addition to `settings.<name>`."""

_PARALLEL: Final = {
    "tp": "tensor_parallel_size",
    "dp": "data_parallel_size",
    "pp": "pipeline_parallel_size",
    "ep": "expert_parallel_size",
}
# Settings that name a place or differ between repeats on purpose.
_NO_SETTING: Final = ("port", "path", "url", "seed", "host", "log")
# Keys that group, but are not a treatment.
_NO_TREATMENT: Final = ("set", "profile", "model")


@dataclass(frozen=True, slots=True)
class RunSet:
    """One argument of a comparison: a run, or a folder of repeats (`several`).

    Attributes:
        runs: the finished ones.
        left_out: unfinished runs, with the reason.
        variants: profiles of a series, in the order given; the first is its baseline.
        missing: variants without a finished run.
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
    """A property in which sides may differ on purpose, such as `gpu`, with the values of each side.
    Several of one side are joined by a slash.
    """

    key: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A run and the argument that it came from."""

    run: RunResult
    argument: RunSet

    @property
    def variant(self) -> str | None:
        return self.run.manifest.variant


def load_set(path: Path) -> RunSet:
    """The run, or the finished runs of the folder, at a path.

    Raises:
        ArtifactError: neither a run nor a folder with a finished run, or a run in it cannot be
            read.
    """
    if (path / "manifest.json").exists() or not path.is_dir():
        return RunSet(path, path.name, (load_result(path),), several=False)
    folders = sorted(manifest.parent for manifest in path.glob("*/manifest.json"))
    if not folders:
        raise ArtifactError(
            f"{path} is neither a run directory nor a folder of runs",
            next_step="name a folder of `harness run` or `harness repeat` (see `harness results`)",
        )
    runs, left_out = [], []
    for folder in folders:
        state = read_manifest(RunDir(folder)).state
        if state != RunState.COMPLETE:
            ended = "killed" if state == RunState.RUNNING else state
            left_out.append(f"{folder.name} did not finish ({ended}) and is left out")
            continue
        runs.append(load_result(folder))
    order = _variant_order(path)
    # A stable sort: by time within a variant.
    runs.sort(key=lambda run: order.get(str(run.manifest.variant), len(order)))
    if not runs:
        raise ArtifactError(
            f"{path} has no finished run", next_step=f"harness repeat --resume {path}"
        )
    there = {str(run.manifest.variant) for run in runs}
    missing = tuple(name for name in order if name not in there)
    return RunSet(
        path, path.resolve().name, tuple(runs), True, tuple(left_out), tuple(order), missing
    )


def members_of(sets: Iterable[RunSet]) -> list[Member]:
    """All runs of some sets.

    Raises:
        ProfileError: a run is given twice.
    """
    found = [Member(run, one) for one in sets for run in one.runs]
    seen: dict[str, Path] = {}
    for run in (member.run for member in found):
        if run.run_id in seen:
            raise ProfileError(
                f"{run.path} and {seen[run.run_id]} are the same run, {run.run_id}",
                next_step="name each run once: a run is not a repeat of itself",
            )
        seen[run.run_id] = run.path
    return found


def _variant_order(path: Path) -> dict[str, int]:
    """Position of each variant of a series in the order given: runs are in random order, and the
    first variant is the baseline.
    """
    try:
        raw = mapping(json.loads((path / SERIES_FILE).read_text(encoding="utf-8"))).get("variants")
    except (OSError, ValueError):
        return {}
    listed = raw if isinstance(raw, list) else []
    return {str(mapping(one).get("name")): position for position, one in enumerate(listed)}


def reference_folders() -> tuple[Path, ...]:
    """Folders of baselines: results/reference/ of the working directory, then of the checkout."""
    here, checkout = REFERENCE, Path(__file__).resolve().parents[2] / REFERENCE
    return (here,) if here.resolve() == checkout else (here, checkout)


def find_baseline(name: str) -> Path:
    """Folder of a baseline, by name (below `reference_folders`) or path.

    Raises:
        ArtifactError: not found.
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
        f"baseline {name!r} not found",
        cause=f"it is not a folder, and {REFERENCE} has {', '.join(known) if known else 'none'}",
        next_step=(
            "name a run, a folder of repeats, or a baseline saved by `harness baseline save`"
        ),
    )


def treatment(member: Member) -> dict[str, str]:
    """All properties that may differ on purpose, and the keys that only group."""
    run = member.run
    model = run.profile.model
    settings = dict(run.settings)
    names = Counter(gpu.name or "unknown GPU" for gpu in run.gpus)
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


def mixed(members: Iterable[Member], ignore: Sequence[str] = ()) -> list[str]:
    """Treatment keys, other than set and profile, in which runs differ."""
    found = [treatment(member) for member in members]
    keys = dict.fromkeys(key for one in found for key in one)
    return [
        key
        for key in keys
        if key not in {"set", "profile", *ignore} and len({one.get(key) for one in found}) > 1
    ]


def group(members: Sequence[Member], by: Sequence[str] = ()) -> dict[str, list[Member]]:
    """Members as sides, in the order given; the first is the baseline A.

    With keys, runs with equal values make a side. Without, runs of one variant of one folder of
    repeats do, else runs of equal treatment. If only single runs of the same treatment were given,
    each is a side of its own, which shows the spread of one system.

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
                f"cannot group by {key!r}: no run has it",
                next_step=f"use one of: {', '.join(there)}",
            )
        raise ProfileError(
            f"unknown treatment key {key!r}",
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
    """A to Z, then S27, S28, …"""
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
    """Names of the sides, from the properties that distinguish them."""
    found = {key: treatment(members[0]) for key, members in sides.items()}
    keys = dict.fromkeys(key for one in found.values() for key in one)
    differing = [key for key in keys if len({one.get(key) for one in found.values()}) > 1]
    more = {
        label: len({member.argument.name for member in members}) - 1
        for label, members in sides.items()
    }
    # A side of runs that were named one by one has no name of its own.
    first = ["variant", "engine", "gpu", "precision"]
    first.insert(4 if any(more.values()) else 1, "set")
    unique = [
        key for key in differing if len({one.get(key) for one in found.values()}) == len(found)
    ]
    chosen = [key for key in by if key in differing] or next(
        ([key] for key in first if key in unique), differing[:2]
    )
    return tuple(
        ", ".join(
            one.get(key, "—") + (f" and {more[label]} more" if key == "set" and more[label] else "")
            for key in chosen
        )
        or one["profile"]
        for label, one in found.items()
    )
