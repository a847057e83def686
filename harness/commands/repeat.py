"""Repeats of one or several profiles: new seed and new server each, variants in random order, all
in one folder.

A repeat is a block: each variant runs once, in an order drawn from the seed, so that slow drift
affects all variants alike. Variants of one block have the same seed and so the same plan. The
folder's `series.json` lists planned and completed runs; `harness.commands.series` runs them.
"""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from harness.artifacts.atomic import write_bytes, write_json
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.sweep.index import Point, PointState
from harness.commands.display import View
from harness.commands.run import run_profile
from harness.commands.series import Here, InOrder, Outcome, cool_down, recognized, run_points
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
from harness.plan.build import workload_sha256
from harness.plan.rng import stream
from harness.profile.load import load_profile
from harness.profile.schema import Profile

SERIES_FILE: Final = "series.json"
PROFILES_DIR: Final = "profiles"
SCHEMA_VERSION: Final = 1


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
class SeriesResult:
    """Result of a series.

    Attributes:
        folder: folder of the series, as a comparison takes it.
        entries: the runs, in the order in which they are planned.
        exit_code: 130 if interrupted, else that of the first failure, else 0. Verdicts and
            thresholds of single runs do not count: the comparison evaluates them together.
        messages: lines to show.
    """

    folder: Path
    entries: tuple[Point, ...]
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


def plan_entries(variants: Sequence[Variant], repeats: int, seed: int) -> tuple[Point, ...]:
    """All runs in order.

    The k-th repeat has seed `seed` + k - 1 in all variants. If a variant attaches to a running
    server, every run has its own seed. Otherwise the second variant would find the prompts of the
    first in the server's prefix cache.
    """
    shared = (
        all(variant.profile.server.kind != "attach" for variant in variants) or len(variants) == 1
    )
    entries: list[Point] = []
    for repeat in range(repeats):
        names = [variant.name for variant in variants]
        stream(seed, "order", repeat).shuffle(names)
        for name in names:
            at = len(entries)
            entries.append(Point(at, {}, repeat + 1, name, seed + (repeat if shared else at)))
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
    series = _Repeats(folder, view, run_one, calibrate=calibrate)
    entries, interrupted = run_points(series, Here(folder, series.run))
    messages = series.messages
    if interrupted:
        messages.append(f"interrupted; to continue: harness repeat --resume {folder}")
        return SeriesResult(folder, entries, ExitCode.INTERRUPTED, tuple(messages))
    messages += [f"failed: {error.what}" for error in series.failures]
    code = series.failures[0].exit_code if series.failures else ExitCode.OK
    return SeriesResult(folder, entries, code, tuple(messages))


@dataclass(slots=True)
class _Repeats(InOrder):
    """A `Series` of repeats."""

    folder: Path
    view: Callable[[], AbstractContextManager[View]]
    run_one: RunOne
    calibrate: bool
    messages: list[str] = field(default_factory=list)
    failures: list[HarnessError] = field(default_factory=list)
    _fields: dict[str, Any] = field(default_factory=dict)
    _variants: dict[str, Variant] = field(default_factory=dict)
    _failed_before: set[str] = field(default_factory=set)
    _count: int = 0
    _turns: int = 0

    def load(self) -> list[Point]:
        self._fields, points = _load(self.folder)
        self._variants = {variant.name: variant for variant in _variants(self.folder, self._fields)}
        self.messages += map(str, self._fields.get("notes", []))
        self._count = len(points)
        return points

    def save(self, points: Sequence[Point]) -> None:
        _save(self.folder, self._fields, points)

    def run(self, entry: Point) -> RunResult:
        """Run one repeat, after the pause between runs."""
        variant = self._variants[entry.variant]
        with self.view() as watching:
            if self._turns:
                cool_down(float(self._fields.get("cooldown_s") or 0.0), watching)
            self._turns += 1
            watching.note(
                f"run {entry.id + 1} of {self._count}: {entry.variant}, repeat {entry.repeat},"
                f" seed {entry.seed}"
            )
            label = {
                "series": self._fields.get("series_id"),
                "variant": entry.variant,
                "repeat": entry.repeat,
                "of": self._fields.get("repeats"),
            }
            return self.run_one(
                variant.profile.model_copy(update={"seed": entry.seed}),
                out=self.folder,
                view=watching,
                source=variant.source,
                overrides=(*variant.overrides, f"seed={entry.seed}"),
                calibrate=self.calibrate,
                repeat=label,
            )

    def ended(self, points: list[Point], outcome: Outcome) -> None:
        entry, result = points[outcome.point], outcome.result
        title = f"{entry.variant}, repeat {entry.repeat}"
        if outcome.error is not None:
            if entry.variant in self._failed_before:
                raise outcome.error
            with self.view() as watching:
                watching.warn(f"{title} failed: {outcome.error.what}")
            self.failures.append(outcome.error)
            self._failed_before.add(entry.variant)
            return
        self._failed_before.discard(entry.variant)
        judged = () if result is None else result.messages
        self.messages += [f"{title}: {one}" for one in judged if "not judged" not in one]


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


def _save(folder: Path, fields: Mapping[str, Any], entries: Sequence[Point]) -> None:
    runs = [
        {
            "variant": one.variant,
            "repeat": one.repeat,
            "seed": one.seed,
            "state": one.state.value,
            "run": one.run if one.state is PointState.DONE else None,
            "error": one.error,
        }
        for one in entries
    ]
    write_json(folder / SERIES_FILE, {**fields, "runs": runs})


def _load(folder: Path) -> tuple[dict[str, Any], list[Point]]:
    """Fields and entries; those of finished runs are done."""
    path = folder / SERIES_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        entries = [
            Point(at, {}, **{**entry, "state": PointState(entry["state"])})
            for at, entry in enumerate(fields.pop("runs"))
        ]
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
    known = {(entry.variant, entry.repeat): entry.id for entry in entries}

    def which(run: RecordedRun) -> int | None:
        label = run.repeat
        if label.variant is None or label.repeat is None:
            return None
        return known.get((label.variant, label.repeat))

    return fields, recognized(folder, entries, which)
