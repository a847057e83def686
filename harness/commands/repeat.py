"""Repeats of one or several profiles: new seed and new server each, variants in random order, all
in one folder.

A repeat is a block: each variant runs once, in an order drawn from the seed, so that slow drift
affects all variants alike. Variants of one block have the same seed and so the same plan. The
folder's `series.json` lists planned and completed runs. It is rewritten before and after each run,
so a kill -9 loses no completed run, and `resume` continues with the missing ones.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from harness.artifacts.atomic import write_bytes, write_json
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.commands.display import View
from harness.commands.run import run_profile
from harness.commands.steps.outcome import RunResult
from harness.compare.comparability import MISMATCH_KEYS
from harness.core.clock import wall_now
from harness.core.errors import (
    ArtifactError,
    ExitCode,
    HarnessError,
    NotComparableError,
    ProfileError,
)
from harness.core.records import RunState
from harness.core.units import human_duration
from harness.plan.build import workload_sha256
from harness.plan.rng import stream
from harness.profile.load import load_profile
from harness.profile.schema import Profile

SERIES_FILE: Final = "series.json"
PROFILES_DIR: Final = "profiles"
SCHEMA_VERSION: Final = 1
DONE: Final = "done"
PLANNED: Final = "planned"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the profiles to compare.

    Attributes:
        name: unique within its series.
        profile: as loaded.
        source: its file.
        overrides: `--set` arguments.
    """

    name: str
    profile: Profile
    source: Path
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One planned run.

    Attributes:
        variant: name of the variant.
        repeat: number, from 1.
        seed: seed of the plan.
        state: planned, done or failed.
        run: folder of the completed run, else None.
        error: reason of a failure.
    """

    variant: str
    repeat: int
    seed: int
    state: str = PLANNED
    run: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """Result of a series.

    Attributes:
        folder: folder of the series, as a comparison takes it.
        entries: in the order in which they ran.
        exit_code: 130 if interrupted, else that of the first failure, else 0. Verdicts and
            thresholds of single runs do not count: the comparison evaluates them together.
        messages: lines to show.
    """

    folder: Path
    entries: tuple[Entry, ...]
    exit_code: ExitCode
    messages: tuple[str, ...] = ()


class RunOne(Protocol):
    """Signature of `harness.commands.run.run_profile`."""

    def __call__(
        self,
        profile: Profile,
        *,
        out: Path,
        view: View,
        source: Path | None = None,
        overrides: Sequence[str] = (),
        calibrate: bool = True,
        repeat: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Run a profile to its end."""


def load_variants(paths: Sequence[Path], overrides: Sequence[str] = ()) -> tuple[Variant, ...]:
    """Load profiles; overrides apply to all of them.

    Raises:
        ProfileError: a profile is invalid.
    """
    variants: list[Variant] = []
    for path in paths:
        profile = load_profile(path, overrides)
        taken = {variant.name for variant in variants}
        name = next(
            one
            for i in range(1, len(paths) + 2)
            if (one := profile.name if i == 1 else f"{profile.name}-{i}") not in taken
        )
        variants.append(Variant(name, profile, path, tuple(overrides)))
    return tuple(variants)


def check_comparable(variants: Sequence[Variant], allow: Sequence[str] = ()) -> None:
    """Check before running whether the variants can be compared.

    Raises:
        NotComparableError: variants differ in traffic, SLOs, model or output lengths, and `allow`
            does not have that key.
        ProfileError: unknown key in `allow`.
    """
    unknown = [key for key in allow if key not in MISMATCH_KEYS]
    if unknown:
        raise ProfileError(
            f"unknown identity key {unknown[0]!r}",
            next_step=f"use one of: {', '.join(MISMATCH_KEYS)}",
        )
    first = variants[0]
    keys: Mapping[str, Callable[[Profile], object]] = {
        "workload_sha256": workload_sha256,
        "model": lambda profile: profile.model_id,
        "output_length": lambda profile: profile.output_length.value,
    }
    for key, read in keys.items():
        for other in variants[1:]:
            if key not in allow and read(first.profile) != read(other.profile):
                raise NotComparableError(
                    f"the profiles differ in {key}: {read(first.profile)} in {first.source},"
                    f" {read(other.profile)} in {other.source}",
                    cause="the runs would not be comparable",
                    next_step=(
                        f"make {'traffic and slos' if key == 'workload_sha256' else key} equal, or"
                        f" pass --allow-mismatch {key}"
                    ),
                )


def plan_entries(variants: Sequence[Variant], repeats: int, seed: int) -> tuple[Entry, ...]:
    """All runs in order.

    The k-th repeat has seed `seed` + k - 1 in all variants. If a variant attaches to a running
    server, every run has its own seed. Otherwise the second variant would find the prompts of the
    first in the server's prefix cache.
    """
    shared = (
        all(variant.profile.server.kind != "attach" for variant in variants) or len(variants) == 1
    )
    entries: list[Entry] = []
    for repeat in range(repeats):
        names = [variant.name for variant in variants]
        stream(seed, "order", repeat).shuffle(names)
        for name in names:
            entries.append(Entry(name, repeat + 1, seed + (repeat if shared else len(entries))))
    return tuple(entries)


def start_series(
    variants: Sequence[Variant],
    *,
    repeats: int | None = None,
    out: Path = Path("results"),
    cooldown_s: float | None = None,
    allow_mismatch: Sequence[str] = (),
) -> Path:
    """Create the folder of a new series and return it. Nothing runs yet.

    Args:
        variants: one or more.
        repeats: runs of each; default: the first profile's.
        out: parent folder.
        cooldown_s: pause between runs; default: the longest of the profiles'.
        allow_mismatch: identity keys in which variants may differ.

    Raises:
        ProfileError: nothing to repeat.
        NotComparableError: the variants are not comparable.
        ArtifactError: the folder cannot be created.
    """
    check_comparable(variants, allow_mismatch)
    first = variants[0].profile
    repeats = first.repeats if repeats is None else repeats
    if repeats < 1 or repeats * len(variants) < 2:
        raise ProfileError(
            "a series requires at least two runs",
            next_step="pass --repeats 5, or set `repeats: 5` in the profile",
        )
    names = "+".join(variant.name for variant in variants)[:60]
    folder = out / f"{wall_now().strftime('%Y%m%dT%H%M%SZ')}-{names}-repeats-{secrets.token_hex(3)}"
    try:
        (folder / PROFILES_DIR).mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot create {folder}: {error.strerror or error}",
            next_step="choose another folder with --out",
        ) from error
    for variant in variants:
        write_bytes(folder / PROFILES_DIR / f"{variant.name}.yaml", variant.source.read_bytes())
    fields = {
        "schema_version": SCHEMA_VERSION,
        "series_id": folder.name,
        "repeats": repeats,
        "cooldown_s": (
            max(v.profile.cooldown_s for v in variants) if cooldown_s is None else cooldown_s
        ),
        "allow_mismatch": list(allow_mismatch),
        "variants": [
            {"name": v.name, "source": str(v.source), "overrides": list(v.overrides)}
            for v in variants
        ],
        "notes": _notes(variants),
    }
    _save(folder, fields, plan_entries(variants, repeats, first.seed))
    return folder


def run_series(
    folder: Path,
    *,
    view: Callable[[], AbstractContextManager[View]],
    calibrate: bool = True,
    run_one: RunOne = run_profile,
) -> SeriesResult:
    """Run what a series has not completed yet.

    Args:
        folder: from `start_series`.
        view: creates the view of each run.
        calibrate: as for a run.
        run_one: runs a profile.

    Raises:
        ArtifactError: no such series.
        ProfileError: a profile of the series no longer loads.
        HarnessError: a variant failed twice in a row; completed runs are kept, and `series.json`
            has the reason.
    """
    fields, entries = _load(folder)
    variants = {variant.name: variant for variant in _variants(folder, fields)}
    messages: list[str] = [str(note) for note in fields.get("notes", [])]
    failures: list[HarnessError] = []
    failed_before: set[str] = set()
    left = [position for position, entry in enumerate(entries) if entry.state != DONE]
    for turn, position in enumerate(left):
        entry = entries[position]
        variant = variants[entry.variant]
        with view() as watching:
            if turn:
                _cool_down(float(fields.get("cooldown_s") or 0.0), watching)
            watching.note(
                f"run {position + 1} of {len(entries)}: {entry.variant}, repeat {entry.repeat},"
                f" seed {entry.seed}"
            )
            entries[position] = replace(entry, state=PLANNED, error=None)
            _save(folder, fields, entries)
            label = {
                "series": fields.get("series_id"),
                "variant": entry.variant,
                "repeat": entry.repeat,
                "of": fields.get("repeats"),
            }
            try:
                result = run_one(
                    variant.profile.model_copy(update={"seed": entry.seed}),
                    out=folder,
                    view=watching,
                    source=variant.source,
                    overrides=(*variant.overrides, f"seed={entry.seed}"),
                    calibrate=calibrate,
                    repeat=label,
                )
            except HarnessError as error:
                entries[position] = replace(entry, state=FAILED, error=error.what)
                _save(folder, fields, entries)
                if error.exit_code is ExitCode.INTERRUPTED or entry.variant in failed_before:
                    raise
                watching.warn(f"{entry.variant}, repeat {entry.repeat} failed: {error.what}")
                failures.append(error)
                failed_before.add(entry.variant)
                continue
        if result.exit_code is ExitCode.INTERRUPTED:
            messages.append(f"interrupted; to continue: harness repeat --resume {folder}")
            return SeriesResult(folder, tuple(entries), ExitCode.INTERRUPTED, tuple(messages))
        failed_before.discard(entry.variant)
        entries[position] = replace(entry, state=DONE, run=result.run_dir.name)
        _save(folder, fields, entries)
        messages += [
            f"{entry.variant}, repeat {entry.repeat}: {message}"
            for message in result.messages
            if "not judged" not in message
        ]
    messages += [f"failed: {error.what}" for error in failures]
    return SeriesResult(
        folder, tuple(entries), failures[0].exit_code if failures else ExitCode.OK, tuple(messages)
    )


def variants_of(folder: Path) -> tuple[Variant, ...]:
    """The variants of a series.

    Raises:
        ArtifactError: no such series.
        ProfileError: a profile of the series no longer loads.
    """
    return _variants(folder, _load(folder)[0])


def allowed_of(folder: Path) -> tuple[str, ...]:
    """Identity keys in which the variants of a series may differ.

    Raises:
        ArtifactError: no such series.
    """
    return tuple(_load(folder)[0].get("allow_mismatch", ()))


def _variants(folder: Path, fields: Mapping[str, Any]) -> tuple[Variant, ...]:
    found = []
    for one in fields["variants"]:
        copy = folder / PROFILES_DIR / f"{one['name']}.yaml"
        overrides = tuple(one.get("overrides", ()))
        profile = load_profile(copy, overrides)
        # A profile without a name takes its file's stem, which the copy changes for duplicates.
        found.append(Variant(one["name"], profile, copy, overrides))
    return tuple(found)


def _notes(variants: Sequence[Variant]) -> list[str]:
    attached = [variant.name for variant in variants if variant.profile.server.kind == "attach"]
    if not attached:
        return []
    return [
        (
            f"Servers of {', '.join(attached)} are not restarted between repeats: their caches stay"
            " filled."
        )
    ]


def _cool_down(duration_s: float, view: View) -> None:
    if duration_s > 0:
        view.phase("cooling down", human_duration(duration_s))
        time.sleep(duration_s)


def _save(folder: Path, fields: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    write_json(folder / SERIES_FILE, {**fields, "runs": [asdict(entry) for entry in entries]})


def _load(folder: Path) -> tuple[dict[str, Any], list[Entry]]:
    """Fields and entries; a run that completed after the file's last update (a kill between the
    two) counts as done.
    """
    path = folder / SERIES_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        entries = [Entry(**entry) for entry in fields.pop("runs")]
        version = fields["schema_version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{folder} is not a series of repeats: {SERIES_FILE} cannot be read ({error})",
            next_step="give a folder that `harness repeat` created",
        ) from error
    if version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version}; this harness reads up to {SCHEMA_VERSION}",
            next_step="upgrade the harness",
        )
    finished = {}
    for manifest_path in sorted(folder.glob("*/manifest.json")):
        manifest = read_manifest(RunDir(manifest_path.parent))
        if manifest.state == RunState.COMPLETE and (manifest_path.parent / "summary.json").exists():
            label = manifest.repeat
            finished[label.variant, label.repeat] = manifest_path.parent.name
    for position, entry in enumerate(entries):
        if entry.state != DONE and (entry.variant, entry.repeat) in finished:
            entries[position] = replace(
                entry, state=DONE, run=finished[entry.variant, entry.repeat], error=None
            )
    return fields, entries
