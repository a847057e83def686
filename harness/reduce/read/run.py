"""Reads a run directory into columns. Only the directory is read; what is missing or torn becomes a
concern, never a traceback.

Times are nanoseconds from the run's start as float64 (exact up to 104 days), NaN where it did not
happen or is not known.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.artifacts import tables
from harness.artifacts.canary_truth import read_truth
from harness.artifacts.journal import parts, read_table
from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.recorded_run import RecordedRun, saved_of
from harness.artifacts.run_summary import Calibration
from harness.artifacts.typed_json import from_json, loads, read_leniently
from harness.core.errors import ArtifactError
from harness.core.records import Concern, RunState, Severity
from harness.profile.recorded import RecordedProfile
from harness.reduce.read.requests import Requests, RequestsSource, floats, read_requests
from harness.reduce.read.truncated import torn, torn_events
from harness.reduce.statistics.intervals import Floats

_UP: Final = "up"  # as in harness.artifacts.prometheus.text, whose import would load the parser
_LABEL: Final = "harness_scrape_label"
_ERROR: Final = "harness_scrape_error"
_PROBLEM: Final = "harness_scrape_problem"
OF_SCRAPES: Final = frozenset({_UP, _LABEL, _ERROR, _PROBLEM})
"""Samples that tell of the scrapes themselves."""

Columns = Mapping[str, npt.NDArray[Any]]
"""A table in memory, by name of the column."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One time series a (target, metric, labels)."""

    series: Mapping[tuple[str, str, str], tuple[Floats, Floats]]
    scrapes: Mapping[str, Floats]
    """Per target, times of all successful scrapes."""
    marks: Mapping[tuple[str, str], float]
    """(target, label) -> time of the scrape that was labelled so, those that bound the
    reconciliation above all.
    """
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(target, why a scrape of it failed) -> how often."""
    problems: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(target, what could not be used of its scrapes) -> how many samples."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory in memory.

    Attributes:
        root: the folder.
        manifest: manifest.json, of which nothing is recorded when it is not there.
        profile_json: the resolved profile as it was written, {} when it is not known.
        state: complete, interrupted or failed.
        t0_ns: the run's start on the monotonic clock; all times count from it.
        events: events.jsonl, whole lines only.
        requests: all records of the load.
        canary: records of the canaries, which are no part of the load, ordered by intended time.
        canary_truth: request id -> what the canary's server wrote, and when.
        calibration: calibration.json; None without a certificate.
        samples: the server's samples; None when nothing was scraped.
        failed_scrapes: per target.
        power: POWER's columns, None when no power was read.
        host: HOST's columns, None when it is not there.
        boards: BOARDS' columns: clocks, limits and errors of the GPUs; None when nobody watched
            them.
        meter_calibration: meter-calibration.json, {} without one.
        concerns: what reading found missing or torn, and what the run itself put into its manifest.
    """

    root: Path
    manifest: RecordedRun
    profile_json: Mapping[str, Any]
    state: RunState
    t0_ns: int
    events: Sequence[Mapping[str, Any]]
    requests: Requests
    samples: Samples | None
    failed_scrapes: Mapping[str, int]
    power: Columns | None
    host: Columns | None
    concerns: tuple[Concern, ...] = field(default=())
    canary: Sequence[Mapping[str, Any]] = ()
    canary_truth: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: Calibration | None = None
    boards: Columns | None = None
    meter_calibration: Mapping[str, Any] = field(default_factory=dict)

    def at(self, t_ns: float) -> float:
        """A monotonic reading as nanoseconds from the run's start."""
        return float(int(t_ns) - self.t0_ns)

    @property
    def profile(self) -> RecordedProfile:
        """What readers use of the resolved profile."""
        return self.manifest.profile

    @property
    def run_id(self) -> str:
        """Id of the run; the folder's name where none was written."""
        return self.manifest.run_id or self.root.resolve().name


# For what has no type here: events.jsonl, manifest.json with the profile in it, and
# meter-calibration.json.


def mapping(value: object) -> Mapping[str, Any]:
    """The value where it is a mapping, else {}."""
    return value if isinstance(value, Mapping) else {}


def sequence(value: object) -> Sequence[Any]:
    """The value where it is a list, else ()."""
    return value if isinstance(value, list | tuple) else ()


def number(value: object) -> float | None:
    """The value where it is a finite number, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return None
    return found if math.isfinite(found) else None


def load_run(root: Path, *, wanted: Callable[[str], bool]) -> Run:
    """Read a run directory.

    Args:
        root: the folder.
        wanted: whether samples of this name are needed.

    Raises:
        ArtifactError: not a run directory, or written by a newer version.
    """
    run_dir = RunDir(root)
    concerns: list[Concern] = []
    written = _manifest(run_dir, concerns)
    manifest = read_leniently(RecordedRun, written)
    events, unreadable_events = _events(run_dir)
    state = _state(manifest, concerns)
    source = RequestsSource.of(run_dir, concerns)
    if state is RunState.COMPLETE:  # else the last line and the last batch may be cut
        concerns += torn(source.journals)
        concerns += torn_events(unreadable_events)
    t0_ns = _start(manifest.started_ns, events, source.batches)
    requests, canary = read_requests(source, t0_ns)
    samples, failed_scrapes = _samples(run_dir, t0_ns, wanted, concerns)

    def columns(table: Path, journal: Path, schema: pa.Schema) -> Columns | None:
        return _columns(_table(table, parts(journal), schema, concerns), t0_ns)

    power = columns(run_dir.power, run_dir.power_journal, tables.POWER)
    host = columns(run_dir.host, run_dir.host_journal, tables.HOST)
    boards = columns(run_dir.boards, run_dir.boards_journal, tables.BOARDS)
    certificate = _calibration(run_dir.calibration, concerns)
    calibration = _certificate(certificate, concerns) if certificate else None
    meter_calibration = _calibration(run_dir.meter_calibration, concerns)
    found = (recorded.concern() for recorded in manifest.concerns)
    concerns += [concern for concern in found if concern is not None]
    return Run(
        root=root,
        manifest=manifest,
        profile_json=mapping(written.get("profile")),
        state=state,
        t0_ns=t0_ns,
        events=events,
        requests=requests,
        samples=samples,
        failed_scrapes=failed_scrapes,
        power=power,
        host=host,
        concerns=tuple(concerns),
        canary=canary,
        canary_truth=read_truth(run_dir.canary_truth),
        calibration=calibration,
        boards=boards,
        meter_calibration=meter_calibration,
    )


def _calibration(path: Path, concerns: list[Concern]) -> Mapping[str, Any]:
    try:
        return mapping(loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        concerns.append(
            Concern(
                "calibration_unreadable", Severity.DEGRADED, f"{path.name} cannot be read: {error}."
            )
        )
        return {}


def _certificate(raw: Mapping[str, Any], concerns: list[Concern]) -> Calibration | None:
    try:
        return from_json(Calibration, raw, "certificate")
    except ArtifactError as error:
        text = f"calibration.json cannot be used: {error.what}."
        concerns.append(Concern("calibration_unreadable", Severity.DEGRADED, text))
        return None


def _manifest(run_dir: RunDir, concerns: list[Concern]) -> Mapping[str, Any]:
    if not run_dir.root.is_dir():
        raise ArtifactError(
            f"{run_dir.root} is not a folder",
            next_step="give the path of a run directory; `harness results` lists them",
        )
    if not run_dir.manifest.exists():
        if not run_dir.requests_dir.is_dir() and not run_dir.requests.exists():
            raise ArtifactError(
                f"{run_dir.root} is not a run directory: it has neither manifest.json nor requests",
                next_step="give the path of a run directory; `harness results` lists them",
            )
        concerns.append(
            Concern(
                "manifest_missing",
                Severity.INVALID,
                "manifest.json is missing, so nobody knows what was run.",
            )
        )
        return {}
    try:
        manifest = json.loads(run_dir.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        concerns.append(
            Concern(
                "manifest_unreadable", Severity.INVALID, f"manifest.json cannot be read: {error}."
            )
        )
        return {}
    if not isinstance(manifest, dict):
        concerns.append(
            Concern("manifest_unreadable", Severity.INVALID, "manifest.json is no JSON object.")
        )
        return {}
    version = manifest.get("schema_version")
    if isinstance(version, int | float) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{run_dir.root} has schema_version {version}; this harness reads up to"
            f" {SCHEMA_VERSION}",
            cause="a newer harness wrote it",
            next_step="reduce it with that version, or upgrade this one",
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        text = (
            f"manifest.json has schema_version {version!r}, which no harness wrote: it was edited"
            " or damaged."
        )
        concerns.append(Concern("manifest_unreadable", Severity.INVALID, text))
    saved = saved_of(manifest)
    if saved is not None and not saved.reducible:
        raise ArtifactError(
            f"{run_dir.root} is a trimmed copy and cannot be reduced again; its summary stands",
            cause="; ".join(saved.left_out) or None,
            next_step=(
                "compare and fleet read it as it is; reduce the run that it was copied from,"
                f" {saved.source}"
            ),
        )
    return manifest


def _state(manifest: RecordedRun, concerns: list[Concern]) -> RunState:
    raw = manifest.state
    if raw == RunState.COMPLETE:
        return RunState.COMPLETE
    if raw == RunState.INTERRUPTED:
        concerns.append(
            Concern(
                "interrupted",
                Severity.DEGRADED,
                "The run was interrupted before its load had ended.",
            )
        )
        return RunState.INTERRUPTED
    if raw == RunState.RUNNING:
        text = (
            "The manifest still says running: the run was killed (or still goes on). Figures cover"
            " what was recorded."
        )
        concerns.append(Concern("killed", Severity.INVALID, text))
        return RunState.INTERRUPTED
    if manifest.error is not None and manifest.error.what:
        text = f"The run failed: {manifest.error.what}"
    else:
        text = (
            "The run failed."
            if raw == RunState.FAILED
            else "The run's state is missing, so it counts as failed."
        )
    concerns.append(Concern("failed", Severity.INVALID, text))
    return RunState.FAILED


def _events(run_dir: RunDir) -> tuple[list[Mapping[str, Any]], int]:
    """All events, and how many lines are none."""
    try:
        text = run_dir.events.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return [], 0
    unreadable = 0
    events: list[Mapping[str, Any]] = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict) and "event" in event:
            events.append(event)
        elif line.strip():
            unreadable += 1
    return events, unreadable


def _table(
    path: Path, journals: Sequence[Path], schema: pa.Schema, concerns: list[Concern]
) -> pa.Table | None:
    """The finished table where it is whole, else the journals, else None."""
    table = _finished(path, schema, concerns)
    if table is None:
        found = [journal for journal in journals if journal.exists()]
        table = read_table(found, schema) if found else None
    return None if table is None else _told(table, schema, path.name, concerns)


def _finished(path: Path, schema: pa.Schema, concerns: list[Concern]) -> pa.Table | None:
    """A finished table in the columns of this version; None where there is none, or it cannot be
    read.
    """
    if not path.exists():
        return None
    try:
        table = _parquet(path)
        return table if table.schema.equals(schema) else _fit(table, schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        concerns.append(_unreadable(path, error))
        return None


def _told(table: pa.Table, schema: pa.Schema, name: str, concerns: list[Concern]) -> pa.Table:
    """The rows that say when and of what they are: nothing follows from others."""
    lacking = [f.name for f in schema if not f.nullable and table[f.name].null_count]
    if not lacking:
        return table
    keep = pc.is_valid(table[lacking[0]])
    for column in lacking[1:]:
        keep = pc.and_(keep, pc.is_valid(table[column]))
    kept = table.filter(keep)
    lost = len(table) - len(kept)
    text = (
        f"{lost} of {len(table)} rows of {name} lack {', '.join(lacking)} and are left out: the"
        " file is damaged, or of another harness."
    )
    concerns.append(Concern("rows_damaged", Severity.DEGRADED, text, lost, 0))
    return kept


def _parquet(path: Path) -> pa.Table:
    # Not pyarrow.parquet.read_table, which imports pyarrow.dataset first.
    with pq.ParquetFile(path) as file:
        return file.read()


def _unreadable(path: Path, error: Exception) -> Concern:
    text = (
        f"{path.name} cannot be read ({type(error).__name__}); its journal is used in its place, if"
        " there is one."
    )
    return Concern("table_unreadable", Severity.NOTE, text)


def _fit(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table of an older or newer harness in the columns of this one; missing ones are null."""
    have = set(table.column_names)
    columns = [
        table[f.name].cast(f.type) if f.name in have else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def _start(
    started_ns: int | None,
    events: Sequence[Mapping[str, Any]],
    batches: Callable[[], Iterable[pa.RecordBatch]],
) -> int:
    if started_ns is not None:
        return started_ns
    times = [event["t_ns"] for event in events if isinstance(event.get("t_ns"), int)]
    firsts = [pc.min(batch["intended_ns"]).as_py() for batch in batches()]
    times += [first for first in firsts if first is not None]
    return min(times, default=0)


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    return np.asarray(column.to_numpy(), dtype=object)


def _samples(
    run_dir: RunDir, t0_ns: int, wanted: Callable[[str], bool], concerns: list[Concern]
) -> tuple[Samples | None, Mapping[str, int]]:
    table = _finished(run_dir.samples, tables.SAMPLES, concerns)
    if table is None:
        # Killed before samples.parquet was made. The parser is needed only here.
        from harness.artifacts.prometheus.text import samples_table

        table = samples_table(run_dir)
    table = None if table is None else _told(table, tables.SAMPLES, run_dir.samples.name, concerns)
    if table is None or len(table) == 0:
        return None, {}
    series = _series(table, t0_ns, lambda name: name in OF_SCRAPES or wanted(name))
    scrapes: dict[str, Floats] = {}
    failed: dict[str, int] = {}
    marks: dict[tuple[str, str], float] = {}
    errors: dict[tuple[str, str], int] = {}
    problems: dict[tuple[str, str], int] = {}
    for (target, metric, labels), (t, values) in series.items():
        if metric == _UP:
            scrapes[target] = t[values > 0]
            failed[target] = int(np.sum(values <= 0))
        elif metric == _LABEL:
            marks[target, str(json.loads(labels).get("label"))] = float(t[-1])
        elif metric == _ERROR:
            errors[target, str(json.loads(labels).get("error"))] = len(values)
        elif metric == _PROBLEM:
            problems[target, str(json.loads(labels).get("problem"))] = int(np.sum(values))
    kept = {key: value for key, value in series.items() if key[1] not in OF_SCRAPES}
    return Samples(kept, scrapes or _scrape_times(table, t0_ns), marks, errors, problems), failed


def _scrape_times(table: pa.Table, t0_ns: int) -> dict[str, Floats]:
    targets = _strings(table["target"])
    times = floats(table["t_ns"], t0_ns)
    return {target: np.unique(times[targets == target]) for target in sorted(set(targets))}


def _series(
    table: pa.Table, t0_ns: int, wanted: Callable[[str], bool]
) -> dict[tuple[str, str, str], tuple[Floats, Floats]]:
    """Split by (target, metric, labels), keeping wanted metrics, dropping NaN, ordered by time."""
    table = table.unify_dictionaries().combine_chunks()
    names, name_codes = _codes(table["metric"])
    keep = np.isin(name_codes, [code for code, name in enumerate(names) if wanted(name)])
    value = floats(table["value"])
    keep &= ~np.isnan(value)
    table_index = np.flatnonzero(keep)
    if len(table_index) == 0:
        return {}
    t = floats(table["t_ns"], t0_ns)[table_index]
    value = value[table_index]
    targets, target_codes = _codes(table["target"])
    labels, label_codes = _codes(table["labels"])
    combined = (target_codes[table_index] * len(names) + name_codes[table_index]) * len(
        labels
    ) + label_codes[table_index]
    order = np.lexsort((t, combined))
    combined, t, value = combined[order], t[order], value[order]
    cuts = np.flatnonzero(np.diff(combined)) + 1
    out: dict[tuple[str, str, str], tuple[Floats, Floats]] = {}
    for begin, end in zip(
        np.concatenate([[0], cuts]), np.concatenate([cuts, [len(combined)]]), strict=True
    ):
        code = int(combined[begin])
        rest, label = divmod(code, len(labels))
        target, name = divmod(rest, len(names))
        out[str(targets[target]), str(names[name]), str(labels[label])] = (
            t[begin:end],
            value[begin:end],
        )
    return dict(sorted(out.items()))


def _codes(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    return array.dictionary.to_pylist(), np.asarray(
        array.indices.to_numpy(zero_copy_only=False), dtype=np.int64
    )


def _columns(table: pa.Table | None, t0_ns: int) -> Columns | None:
    """Columns ordered by time: numbers as float64 with NaN for null, times from the run's start,
    text as objects.
    """
    if table is None or len(table) == 0:
        return None
    keys = [
        ("t_ns", "ascending"),
        *((f.name, "ascending") for f in table.schema if pa.types.is_string(f.type)),
    ]
    table = table.take(pc.sort_indices(table, sort_keys=keys))
    return {
        f.name: (
            _strings(table[f.name])
            if pa.types.is_string(f.type)
            else floats(table[f.name], t0_ns if f.name == "t_ns" else 0)
        )
        for f in table.schema
    }


def last_evidence(run: Run) -> float | None:
    """The latest moment that anything was recorded at, None when nothing was."""
    r = run.requests
    times: list[Floats] = [r.done, r.last_token, r.sent, r.intended]
    if run.samples is not None:
        times += list(run.samples.scrapes.values())
    if run.host is not None:
        times.append(run.host["t_ns"])
    latest = [float(np.nanmax(t)) for t in times if len(t) and not np.all(np.isnan(t))]
    return max(latest, default=None)


def gpu_count(run: Run) -> int | None:
    """All GPUs that the deployment holds; None where there is none or it is not known."""
    return run.profile.server.gpu_count or len(run.manifest.hardware.gpus) or None


def gpu_uuids(run: Run) -> list[str]:
    """UUIDs of the deployment's boards on this machine."""
    return [gpu.uuid for gpu in run.manifest.hardware.gpus if gpu.uuid]
