"""Named baselines below results/reference/, small enough to commit.

A saved run has its manifest and summary and, if it fits into `MOST_BYTES`, everything that the
reduction reads, without journals, logs and pages. Saving checks whether the copy reduces to the
same summary as its source and records the result in its manifest, so that a later reduction can
report it.
"""

import json
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from harness.compare.groups import REFERENCE, Member, RunSet, load_set, members_of, mixed, treatment
from harness.compare.ratios import CLAIMING, MIN_REPEATS
from harness.core.clock import wall_now
from harness.core.errors import ArtifactError, HarnessError, InvalidRunError, ProfileError
from harness.core.metrics import METRIC_VERSION
from harness.reduce.over_time.counters import wanted
from harness.reduce.read.run import OF_SCRAPES
from harness.reduce.reduction import reduce_run

BASELINE_FILE: Final = "baseline.json"
"""In a baseline's folder: its contents and how it was made."""
SCHEMA_VERSION: Final = 1
MOST_BYTES: Final = 5_000_000
"""Largest size of a saved run, which is meant to be committed."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_COMPARED: Final = (
    "request_id",
    "class",
    "outcome",
    "intended_ns",
    "first_token_ns",
    "last_token_ns",
)
"""Columns of the requests that latency curves of a comparison need."""
_FROM_JOURNALS: Final = frozenset(
    {
        "requests.parquet",
        "scrapes/samples.parquet",
        "power.parquet",
        "boards.parquet",
        "host.parquet",
    }
)
_SMALL: Final = (
    "profile.yaml",
    "events.jsonl",
    "calibration.json",
    "meter-calibration.json",
    "quality.json",
    "recount.json",
)
_INPUTS: Final = (*_SMALL, "plan.parquet", "canary-truth.jsonl", *sorted(_FROM_JOURNALS))
_NOTE_BYTES: Final = 1000
"""Largest growth of the manifest by the list of missing files."""
_PAGE: Final = "report.html"
_UTC: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class SavedRun:
    """One run of a baseline, in the folder `run`. `source` is the name of the folder that it was
    copied from.

    Attributes:
        made: how it was made, such as profile and seed.
        left_out: what was not kept, except journals, logs and pages, with the reason.
        reducible: whether it reduces to the same summary as its source.
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
    """A folder of saved runs, with the command and the version of the harness that saved it (UTC).
    `treatment` is as comparisons show it.
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
    """Copy trimmed runs, which are repeats of each other, into a folder that `--baseline` finds,
    atomically. `variant` chooses one of a series with several; `command` is recorded.

    Raises:
        ProfileError: an invalid name, a run twice, or several variants and none chosen.
        ArtifactError: not a reduced run, the baseline exists (without `replace`), or it cannot be
            written.
        InvalidRunError: an invalid run, without `allow_invalid`.
        NotComparableError: the runs are not comparable.
    """
    if _NAME.fullmatch(name) is None:
        raise ProfileError(
            f"{name!r} is not a valid baseline name",
            next_step="use letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    target = into / name
    if target.exists() and not replace:
        raise ArtifactError(
            f"baseline {name!r} already exists: {target}",
            next_step="choose another name, or pass --replace",
        )
    sets = [load_set(path) for path in paths]
    members = _chosen(members_of(sets), variant)
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
            saved_at=wall_now().strftime(_UTC),
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
            next_step="nothing was changed; name another folder with --out",
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return baseline


def list_baselines(places: Sequence[Path]) -> list[dict[str, Any]]:
    """Baselines below folders, by name; for a name in two folders, the first folder's. Unknown
    values are None.
    """
    found: dict[str, dict[str, Any]] = {}
    for place in places:
        for folder in sorted(place.iterdir()) if place.is_dir() else []:
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in found:
                found[folder.name] = _listed(folder)
    return [found[name] for name in sorted(found)]


LIST_COLUMNS: Final = (
    "baseline",
    "runs",
    "verdict",
    "model",
    "hardware",
    "engine",
    "metrics",
    "saved",
)


def list_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One baseline, under `LIST_COLUMNS`."""
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
    with suppress(OSError, ValueError):  # made by hand: taken from the runs
        fields = mapping(json.loads((folder / BASELINE_FILE).read_text(encoding="utf-8")))
    unknown = ("runs", "verdict", "model", "gpu", "cpu", "engine", "metric_version")
    row: dict[str, Any] = {
        "name": folder.name,
        "folder": str(folder),
        **dict.fromkeys(unknown),
        "saved_at": fields.get("saved_at"),
        "command": fields.get("command"),
        "problem": None,
    }
    try:
        members = members_of([load_set(folder)])
    except HarnessError as error:
        return row | {"problem": error.what}
    known = treatment(members[0])
    row |= {key: known.get(key) for key in ("model", "gpu", "cpu", "engine")}
    return row | {
        "runs": len(members),
        "verdict": ", ".join(sorted({str(member.run.status) for member in members})),
        "metric_version": ", ".join(
            sorted({str(member.run.summary.metric_version) for member in members})
        ),
    }


def _chosen(members: Sequence[Member], variant: str | None) -> list[Member]:
    names = list(dict.fromkeys(member.variant for member in members if member.variant))
    if variant is not None:
        if variant not in names:
            raise ProfileError(
                f"no run has variant {variant!r}",
                cause=f"variants: {', '.join(names) or 'none'}",
                next_step="omit --variant, or name one of these",
            )
        members = [member for member in members if member.variant == variant]
    elif len(names) > 1:
        raise ProfileError(
            f"the runs have {len(names)} variants: {', '.join(names)}",
            cause="a baseline is one side of a comparison",
            next_step="choose one with --variant",
        )
    return list(members)


def _check(runs: Sequence[RunResult], *, allow_invalid: bool) -> None:
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
                f"{run.path} has metric_version {version}, but this harness has {METRIC_VERSION}",
                cause="another version reduced it, so new runs could not be compared with it",
                next_step=f"harness reduce {run.path}",
            )
    list(identities(runs, ()))


def _notes(
    members: Sequence[Member], sets: Sequence[RunSet], saved: Sequence[SavedRun]
) -> Iterator[str]:
    if len(members) < MIN_REPEATS:
        yield (
            "A single run: comparisons with it show ratios but no verdicts. Save five repeats for a"
            " baseline."
        )
    if silent := sorted({str(member.run.status) for member in members} - CLAIMING):
        yield f"Runs are {', '.join(silent)}: gates decide, but comparisons make no claim."
    if found := mixed(members):
        yield f"Runs differ in {', '.join(found)}, but count as repeats."
    for one in sets:
        yield from (f"{left_out}." for left_out in one.left_out)
    for run in saved:
        if not run.reducible:
            yield f"{run.run} cannot be reduced again: {'; '.join(run.left_out)}."


def _folders(runs: Sequence[RunResult]) -> list[str]:
    """Names of the runs' folders: their ids, as far as those are valid names."""
    names: list[str] = []
    for run in runs:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", run.run_id).lstrip(".") or "run"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _take_place(staged: Path, target: Path, *, replace: bool) -> None:
    """Move a folder to its place. Of two concurrent moves without `replace`, the second fails."""
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
            left_out.append("samples of server metrics that no metric needs")
        reducible = _fits(to) and _reduces_alike(run, to)
    if not reducible:
        left_out += _keep_compared(run.path, to)
    saved = Saved(run.path.resolve().name, reducible, tuple(left_out))
    atomic.write_json(to / "manifest.json", {**written, SAVED: saved.to_dict()})
    if not reducible and _fits(to, run.path / _PAGE):
        _copy(run.path, to, (_PAGE,))  # it cannot be made again
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
        size_bytes=_size(to.rglob("*")),
    )


def _copy(source: Path, to: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, to / name)


def _copy_inputs(source: RunDir, to: RunDir) -> None:
    """Copy everything that the reduction reads. Journals only if their table is missing, which is
    then made from them.
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
    """Keep only the samples that a metric needs; returns whether any were removed."""
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
    """Reduce a copy to what comparisons read; returns what that leaves out."""
    for path in to.iterdir():
        if path.name in _FROM_JOURNALS | {"scrapes", "plan.parquet", "canary-truth.jsonl"}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    _copy(source, to, _SMALL)
    limit = f"{MOST_BYTES / 1e6:.0f} MB"
    left_out = [f"only what a comparison reads was kept: the complete run is over {limit}"]
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
            f"{path.relative_to(to)} (too large)"
            + (": no latency curves" if path.name == "requests.parquet" else "")
        )
    return left_out


_KEPT: Final = frozenset({"manifest.json", "summary.json"})


def _fits(folder: Path, *more: Path) -> bool:
    return _size(folder.rglob("*")) + _size(more) + _NOTE_BYTES <= MOST_BYTES


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


def _started_at(run: RunResult) -> str | None:
    times = (anchor.unix_ns for anchor in run.manifest.clock_anchors)
    unix_ns = next((time for time in times if time is not None), None)
    return None if unix_ns is None else datetime.fromtimestamp(unix_ns // 10**9, UTC).strftime(_UTC)
