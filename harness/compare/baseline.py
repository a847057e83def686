"""Baselines: runs kept below results/reference/ under a name, small enough for a repository, to
hold later runs against.

A saved run is its two small files and, where they fit into `MOST_BYTES`, everything that the
reduction reads, without journals, logs and pages. Whether the copy reduces to the same summary as
its source is tried when it is saved, and written into its manifest: one that does not says so to
whoever reduces it.
"""

import json
import re
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness import __version__
from harness.artifacts import atomic
from harness.artifacts.finalize import finalize
from harness.artifacts.journal import parts
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest_json
from harness.artifacts.recorded_run import SAVED, HarnessVersion, Saved, saved_of
from harness.artifacts.run_result import RunResult
from harness.artifacts.typed_json import to_json
from harness.compare.comparability import identities, mapping, verdicts
from harness.compare.groups import REFERENCE, Member, RunSet, load_set, treatment
from harness.compare.ratios import CLAIMING, MIN_REPEATS
from harness.core.clock import wall_now
from harness.core.errors import ArtifactError, HarnessError, InvalidRunError, ProfileError
from harness.core.metrics import METRIC_VERSION
from harness.reduce.over_time.counters import wanted
from harness.reduce.read.run import OF_SCRAPES
from harness.reduce.reduction import reduce_run

BASELINE_FILE: Final = "baseline.json"
"""In the folder of a baseline: what it holds and how it was made."""
SCHEMA_VERSION: Final = 1
MOST_BYTES: Final = 5_000_000
"""Most that one saved run takes: it is meant to be committed."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_COMPARED: Final = (
    "request_id",
    "class",
    "outcome",
    "intended_ns",
    "first_token_ns",
    "last_token_ns",
)
"""Columns of the requests that a comparison's latency curves are drawn from."""
_FROM_JOURNALS: Final = frozenset(
    {
        "requests.parquet",
        "scrapes/samples.parquet",
        "power.parquet",
        "boards.parquet",
        "host.parquet",
    }
)
_INPUTS: Final = (
    "profile.yaml",
    "plan.parquet",
    "events.jsonl",
    *sorted(_FROM_JOURNALS),
    "calibration.json",
    "meter-calibration.json",
    "canary-truth.jsonl",
    "quality.json",
    "recount.json",
)
_SMALL: Final = (
    "profile.yaml",
    "events.jsonl",
    "calibration.json",
    "meter-calibration.json",
    "quality.json",
    "recount.json",
)
_NOTE_BYTES: Final = 1000
"""Most that the manifest grows by when it says what is missing."""
_PAGE: Final = "report.html"


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One run of a baseline.

    Attributes:
        run: name of its folder.
        source: name of the folder that it was copied from.
        status: its verdict.
        made: how: profile, overrides, seed, and the harness that made it.
        files: what was kept.
        left_out: what was not, beside journals, logs and pages, with the reason.
        reducible: whether it reduces to the same summary as its source.
        size_bytes: of all its files.
    """

    run: str
    source: str
    status: str
    made: Mapping[str, Any]
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    reducible: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Baseline:
    """A folder of saved runs.

    Attributes:
        name: as `--baseline` takes it.
        folder: where it lies.
        saved_at: UTC.
        command: that saved it.
        harness: version that saved it.
        treatment: what the runs were made with, as comparisons head their tables.
        runs: in the order of their repeats.
        notes: what a person should be told.
    """

    name: str
    folder: Path
    saved_at: str
    command: str
    harness: str
    treatment: Mapping[str, str]
    runs: tuple[SavedRun, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "saved_at": self.saved_at,
            "command": self.command,
            "harness": {"version": self.harness},
            "treatment": dict(self.treatment),
            "runs": [to_json(run) for run in self.runs],
            "notes": list(self.notes),
        }


def save_baseline(
    name: str,
    paths: Sequence[Path],
    *,
    into: Path = REFERENCE,
    variant: str | None = None,
    replace: bool = False,
    allow_invalid: bool = False,
    command: Sequence[str] = (),
) -> Baseline:
    """Copy runs, trimmed, into a folder that `--baseline` finds. It is there whole or not at all.

    Args:
        name: of the baseline.
        paths: run directories, or folders of repeats; together they are repeats of each other.
        into: folder of baselines.
        variant: which one of a series with several.
        replace: take the place of a baseline of that name.
        allow_invalid: keep invalid runs too.
        command: as it was called, for those who read the baseline later.

    Raises:
        ProfileError: no name for a folder, a run twice, or several variants and none chosen.
        ArtifactError: a directory that is no reduced run, there is a baseline of that name, or it
            cannot be written.
        InvalidRunError: an invalid run.
        NotComparableError: the runs do not answer the same question.
    """
    if _NAME.fullmatch(name) is None:
        raise ProfileError(
            f"{name!r} is no name of a baseline",
            next_step="use letters, digits, '.', '_' and '-', a letter or digit first",
        )
    target = into / name
    if target.exists() and not replace:
        raise ArtifactError(
            f"there is a baseline {name!r} already: {target}",
            next_step="choose another name, or pass --replace",
        )
    sets = [load_set(path) for path in paths]
    members = _chosen([Member(run, one) for one in sets for run in one.runs], variant)
    runs = [member.run for member in members]
    _check(runs, allow_invalid=allow_invalid)
    staged = into / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        staged.mkdir(parents=True)
        saved = tuple(
            _save_run(run, staged / folder)
            for run, folder in zip(runs, _folders(runs), strict=True)
        )
        baseline = Baseline(
            name=name,
            folder=target,
            saved_at=wall_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            command=shlex.join(command),
            harness=__version__,
            treatment={
                key: value
                for key, value in treatment(members[0]).items()
                if key not in {"set", "profile"}
            },
            runs=saved,
            notes=tuple(_notes(members, sets, saved)),
        )
        atomic.write_json(staged / BASELINE_FILE, baseline.to_dict())
        _take_place(staged, target, replace=replace)
    except OSError as error:
        raise ArtifactError(
            f"cannot save {target}: {error.strerror or error}",
            cause="no permission, or no space",
            next_step="nothing was changed; another folder can be named with --out",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return baseline


def list_baselines(places: Sequence[Path]) -> list[dict[str, Any]]:
    """Baselines below folders, by name; where two folders have the same name, the first one's. What
    is not known of one is None.
    """
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in found:
                found[folder.name] = _listed(folder)
    return [found[name] for name in sorted(found)]


LIST_COLUMNS: Final = ("baseline", "runs", "verdict", "model", "on", "engine", "metrics", "saved")


def list_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One baseline under `LIST_COLUMNS`."""
    if row["problem"]:
        return (row["name"], "—", f"unreadable: {row['problem']}", *["—"] * (len(LIST_COLUMNS) - 3))
    on = row["cpu"] if row["gpu"] in {None, "none"} else row["gpu"]
    return (
        row["name"],
        str(row["runs"]),
        row["verdict"],
        row["model"] or "—",
        on or "—",
        row["engine"] or "—",
        f"version {row['metric_version']}",
        row["saved_at"] or "—",
    )


def _listed(folder: Path) -> dict[str, Any]:
    fields: Mapping[str, Any] = {}
    with suppress(OSError, ValueError):  # made by hand: the runs say what it is
        fields = mapping(json.loads((folder / BASELINE_FILE).read_text(encoding="utf-8")))
    row: dict[str, Any] = {
        "name": folder.name,
        "folder": str(folder),
        "runs": None,
        "verdict": None,
        "model": None,
        "gpu": None,
        "cpu": None,
        "engine": None,
        "metric_version": None,
        "saved_at": fields.get("saved_at"),
        "command": fields.get("command"),
        "problem": None,
    }
    try:
        members = [Member(run, one) for one in [load_set(folder)] for run in one.runs]
    except HarnessError as error:
        return {**row, "problem": error.what}
    known = treatment(members[0])
    versions = sorted({str(member.run.summary.metric_version) for member in members})
    return {
        **row,
        "runs": len(members),
        "verdict": ", ".join(sorted({str(member.run.status) for member in members})),
        **{key: known.get(key) for key in ("model", "gpu", "cpu", "engine")},
        "metric_version": ", ".join(versions),
    }


def _chosen(members: Sequence[Member], variant: str | None) -> list[Member]:
    names = list(dict.fromkeys(member.variant for member in members if member.variant))
    if variant is not None:
        if variant not in names:
            has = f"they have {', '.join(names)}" if names else "they are of no series of repeats"
            raise ProfileError(
                f"no run is of variant {variant!r}",
                cause=has,
                next_step="leave --variant out, or name one of these",
            )
        members = [member for member in members if member.variant == variant]
    elif len(names) > 1:
        raise ProfileError(
            f"the runs are of {len(names)} variants: {', '.join(names)}",
            cause="a baseline is one side of a comparison",
            next_step="choose one with --variant",
        )
    seen: set[str] = set()
    for member in members:
        if member.run.run_id in seen:
            raise ProfileError(
                f"{member.run.run_id} is named twice",
                next_step="name each run once: a run is no repeat of itself",
            )
        seen.add(member.run.run_id)
    return list(members)


def _check(runs: Sequence[RunResult], *, allow_invalid: bool) -> None:
    """Refuse what nothing could be held against."""
    if not allow_invalid:
        try:
            list(verdicts(runs, ()))
        except InvalidRunError as error:
            raise InvalidRunError(
                error.what, cause=error.cause, next_step="run it again, or pass --allow-invalid"
            ) from None
    for run in runs:
        version = run.summary.metric_version
        if version != METRIC_VERSION:
            raise ArtifactError(
                f"the figures of {run.path} are of metric_version {version}, and this harness's of"
                f" {METRIC_VERSION}",
                cause=(
                    "it was reduced by another version, and nothing that this one measures could be"
                    " compared with it"
                ),
                next_step=f"harness reduce {run.path}",
            )
    list(identities(runs, ()))


def _notes(
    members: Sequence[Member], sets: Sequence[RunSet], saved: Sequence[SavedRun]
) -> Iterator[str]:
    if len(members) < MIN_REPEATS:
        yield (
            "One run alone: comparisons with it show ratios and claim nothing. Five repeats make a"
            " baseline."
        )
    silent = sorted(
        {str(member.run.status) for member in members if member.run.status not in CLAIMING}
    )
    if silent:
        yield f"Runs are {', '.join(silent)}: gates decide, and comparisons with it claim nothing."
    found = [treatment(member) for member in members]
    mixed = [
        key
        for key in dict.fromkeys(k for one in found for k in one)
        if len({one.get(key) for one in found}) > 1
    ]
    if mixed := [key for key in mixed if key not in {"set", "profile"}]:
        yield (
            f"Runs differ in {', '.join(mixed)}: they are taken for repeats of each other all the"
            " same."
        )
    for one in sets:
        yield from (f"{left_out}." for left_out in one.left_out)
    for run in saved:
        if not run.reducible:
            yield f"{run.run} cannot be reduced again: {'; '.join(run.left_out)}."


def _folders(runs: Sequence[RunResult]) -> list[str]:
    """Names of the runs' folders: their ids, as far as those can be names."""
    names: list[str] = []
    for run in runs:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", run.run_id).lstrip(".") or "run"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _take_place(staged: Path, target: Path, *, replace: bool) -> None:
    """Put a folder into its place. Of two that do so at once, unless they replace, the second one
    fails and the first one's stays.
    """
    if not replace or not target.exists():
        staged.rename(target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    target.rename(old)
    try:
        staged.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


# --- one run ---


def _save_run(run: RunResult, to: Path) -> SavedRun:
    """Copy one run, with as much as fits."""
    to.mkdir()
    source = RunDir(run.path)
    written = read_manifest_json(source)
    earlier = saved_of(written)
    left_out: list[str] = list(earlier.left_out) if earlier else []
    reducible = earlier is None or earlier.reducible
    _copy(run.path, to, ("summary.json",))
    if reducible:
        _copy_inputs(source, RunDir(to))
        if not _fits(to) and _trim_samples(RunDir(to)):
            left_out.append("samples of server metrics that no figure takes")
        reducible = _fits(to) and _reduces_alike(run, to)
    if not reducible:
        left_out += _keep_compared(run.path, to)
    saved = Saved(run.path.resolve().name, reducible, tuple(left_out))
    atomic.write_json(to / "manifest.json", {**written, SAVED: saved.to_dict()})
    if not reducible and _fits(to, more=_bytes(run.path / _PAGE)):
        _copy(run.path, to, (_PAGE,))  # the last one that anybody can see of it
    return SavedRun(
        run=to.name,
        source=run.path.resolve().name,
        status=str(run.status),
        made={
            "profile": run.name,
            "overrides": list(run.manifest.overrides),
            "seed": run.manifest.seed,
            "harness": asdict(run.manifest.harness or HarnessVersion()),
            "started_at": _started_at(run),
        },
        files=tuple(str(path.relative_to(to)) for path in sorted(to.rglob("*")) if path.is_file()),
        left_out=tuple(left_out),
        reducible=reducible,
        size_bytes=_size(to),
    )


def _copy(source: Path, to: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to / name)


def _copy_inputs(source: RunDir, to: RunDir) -> None:
    """Everything that the reduction reads. Journals only where their table was never made: it is
    made of them here.
    """
    _copy(source.root, to.root, ("manifest.json", *_INPUTS))
    if all((to.root / name).exists() for name in _FROM_JOURNALS):
        return
    journals = {
        "requests.parquet": sorted(source.requests_dir.glob("worker-*.arrows")),
        "scrapes/samples.parquet": sorted(source.scrapes_dir.glob("*.arrows")),
        "power.parquet": parts(source.power_journal),
        "boards.parquet": parts(source.boards_journal),
        "host.parquet": parts(source.host_journal),
    }
    missing = [
        str(path.relative_to(source.root))
        for name, paths in journals.items()
        if not (to.root / name).exists()
        for path in paths
    ]
    if missing:
        _copy(source.root, to.root, missing)
        finalize(to, remove_journals=True)


def _trim_samples(to: RunDir) -> bool:
    """Keep those samples that take part in a figure; whether any went."""
    if not to.samples.exists():
        return False
    table = pq.read_table(to.samples)
    names = table["metric"].cast(pa.string())
    kept = [name for name in pc.unique(names).to_pylist() if name in OF_SCRAPES or wanted(name)]
    trimmed = table.filter(pc.is_in(names, pa.array(kept, pa.string())))
    if len(trimmed) == len(table):
        return False
    atomic.write_parquet(to.samples, trimmed)
    return True


def _reduces_alike(run: RunResult, to: Path) -> bool:
    try:
        return reduce_run(to) == reduce_run(run.path)
    except ArtifactError:
        return False


def _keep_compared(source: Path, to: Path) -> list[str]:
    """Cut a copy down to what comparisons read; what that leaves out."""
    for path in to.iterdir():
        if path.name in _FROM_JOURNALS | {"scrapes", "plan.parquet", "canary-truth.jsonl"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _copy(source, to, _SMALL)
    left_out = [
        (
            "only what a comparison reads was kept: the whole run takes more than"
            f" {MOST_BYTES / 1e6:.0f} MB"
        )
    ]
    requests = RunDir(source).requests
    if requests.exists():
        columns = [name for name in _COMPARED if name in pq.read_schema(requests).names]
        atomic.write_parquet(RunDir(to).requests, pq.read_table(requests, columns=columns))
    small = sorted(
        (path for path in to.rglob("*") if path.is_file() and path.name not in _KEPT),
        key=lambda path: -path.stat().st_size,
    )
    for path in small:
        if _fits(to):
            break
        path.unlink()
        left_out.append(
            f"{path.relative_to(to)}, which is too large"
            + (": no latency curves" if path.name == "requests.parquet" else "")
        )
    return left_out


_KEPT: Final = frozenset({"manifest.json", "summary.json"})


def _fits(folder: Path, more: int = 0) -> bool:
    return _size(folder) + more + _NOTE_BYTES <= MOST_BYTES


def _size(folder: Path) -> int:
    return sum(_bytes(path) for path in folder.rglob("*") if path.is_file())


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _started_at(run: RunResult) -> str | None:
    times = (anchor.unix_ns for anchor in run.manifest.clock_anchors)
    unix_ns = next((time for time in times if time is not None), None)
    if unix_ns is None:
        return None
    return datetime.fromtimestamp(unix_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
