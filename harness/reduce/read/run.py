"""Reads a run directory into columns. Missing or damaged files become concerns, never tracebacks.

Times are nanoseconds from the run's start as float64 (exact up to 104 days); NaN: did not happen or
unknown.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
from harness.reduce.read.categorical import Categorical
from harness.reduce.read.requests import (
    Requests,
    RequestsSource,
    fit,
    floats,
    read_requests,
    unreadable,
)
from harness.reduce.read.truncated import torn, torn_events
from harness.reduce.statistics.intervals import Floats

_UP: Final = "up"  # as in harness.artifacts.prometheus.text, whose import would load the parser
_LABEL: Final = "harness_scrape_label"
_ERROR: Final = "harness_scrape_error"
_PROBLEM: Final = "harness_scrape_problem"
OF_SCRAPES: Final = frozenset({_UP, _LABEL, _ERROR, _PROBLEM})
"""Samples about the scrapes themselves."""

Columns = Mapping[str, npt.NDArray[Any]]
"""A table in memory, by name of the column."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Times and values per (target, metric, labels)."""

    series: Mapping[tuple[str, str, str], tuple[Floats, Floats]]
    scrapes: Mapping[str, Floats]
    """Per target, times of all successful scrapes."""
    marks: Mapping[tuple[str, str], float]
    """(target, label) -> time of the scrape with that label, such as those for reconciliation."""
    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(target, why a scrape failed) -> number of scrapes."""
    problems: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(target, why samples were unusable) -> number of samples."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory in memory.

    Attributes:
        manifest: manifest.json; empty if missing.
        profile_json: the resolved profile as it was written, {} if unknown.
        state: complete, interrupted or failed.
        t0_ns: the run's start on the monotonic clock.
        events: events.jsonl, complete lines only.
        requests: all records of the load.
        canary: records of the canaries (not load), ordered by scheduled time.
        canary_truth: request id -> what the canary's server wrote, and when.
        calibration: calibration.json; None without a certificate.
        samples: the server's samples; None if nothing was scraped.
        failed_scrapes: number per target.
        power: columns of `tables.POWER`, or None.
        host: columns of `tables.HOST`, or None.
        concerns: problems found while reading, and those in the manifest.
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
    """Columns of `tables.BOARDS` (clocks, limits and errors of the GPUs), or None."""
    meter_calibration: Mapping[str, Any] = field(default_factory=dict)
    """meter-calibration.json, {} without one."""

    def at(self, t_ns: float) -> float:
        """A monotonic reading as nanoseconds from the run's start."""
        return float(int(t_ns) - self.t0_ns)

    @property
    def profile(self) -> RecordedProfile:
        return self.manifest.profile

    @property
    def run_id(self) -> str:
        """Id of the run; else the folder's name."""
        return self.manifest.run_id or self.root.resolve().name


# For untyped JSON: events.jsonl, manifest.json and meter-calibration.json.


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else {}."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer in JSON may have any size
        return None
    return found if math.isfinite(found) else None


def load_run(root: Path, *, wanted: Callable[[str], bool]) -> Run:
    """Read a run directory, with the server's samples whose name is `wanted`.

    Raises:
        ArtifactError: not a run directory, or written by a newer version.
    """
    run_dir = RunDir(root)
    concerns: list[Concern] = []
    written = _manifest(run_dir, concerns)
    manifest = read_leniently(RecordedRun, written)
    events, unreadable_events = read_events(run_dir)
    state = _state(manifest, concerns)
    source = RequestsSource.of(run_dir, concerns)
    if state is RunState.COMPLETE:  # else the last line and the last batch may be incomplete
        concerns += torn(source.journals)
        concerns += torn_events(unreadable_events)
    t0_ns = start_ns(manifest.started_ns, events, source)
    requests, canary = read_requests(source, t0_ns)
    samples, failed_scrapes = _samples(run_dir, t0_ns, wanted, concerns)

    def columns(table: Path, journal: Path, schema: pa.Schema) -> Columns | None:
        return _columns(stored_table(table, parts(journal), schema, concerns), t0_ns)

    found = (recorded.concern() for recorded in manifest.concerns)
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
        power=columns(run_dir.power, run_dir.power_journal, tables.POWER),
        host=columns(run_dir.host, run_dir.host_journal, tables.HOST),
        boards=columns(run_dir.boards, run_dir.boards_journal, tables.BOARDS),
        canary=canary,
        canary_truth=read_truth(run_dir.canary_truth),
        calibration=_certificate(_calibration(run_dir.calibration, concerns), concerns),
        meter_calibration=_calibration(run_dir.meter_calibration, concerns),
        concerns=(*concerns, *(concern for concern in found if concern is not None)),  # last
    )


def _calibration(path: Path, concerns: list[Concern]) -> Mapping[str, Any]:
    try:
        return mapping(loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        text = f"{path.name} cannot be read: {error}."
        concerns.append(Concern("calibration_unreadable", Severity.DEGRADED, text))
        return {}


def _certificate(raw: Mapping[str, Any], concerns: list[Concern]) -> Calibration | None:
    try:
        return from_json(Calibration, raw, "certificate") if raw else None
    except ArtifactError as error:
        text = f"calibration.json is invalid: {error.what}."
        concerns.append(Concern("calibration_unreadable", Severity.DEGRADED, text))
        return None


def _manifest(run_dir: RunDir, concerns: list[Concern]) -> Mapping[str, Any]:
    root = run_dir.root
    has_requests = run_dir.requests_dir.is_dir() or run_dir.requests.exists()
    if not run_dir.manifest.exists() and not has_requests:
        expected = "run directory: no manifest.json, no requests" if root.is_dir() else "directory"
        raise ArtifactError(
            f"{root} is not a {expected}",
            next_step="give the path of a run directory; `harness results` lists them",
        )

    def invalid(text: str, code: str = "manifest_unreadable") -> None:
        concerns.append(Concern(code, Severity.INVALID, text))

    if not run_dir.manifest.exists():
        invalid("manifest.json is missing: the run's profile is unknown.", "manifest_missing")
        return {}
    try:
        manifest = json.loads(run_dir.manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        invalid(f"manifest.json cannot be read: {error}.")
        return {}
    if not isinstance(manifest, dict):
        invalid("manifest.json is not a JSON object.")
        return {}
    version = manifest.get("schema_version")
    if isinstance(version, int | float) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{root} has schema_version {version}; this harness reads up to {SCHEMA_VERSION}",
            cause="a newer harness wrote it",
            next_step="reduce it with that version, or upgrade this one",
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        invalid(f"manifest.json has schema_version {version!r}: it was edited or is damaged.")
    saved = saved_of(manifest)
    if saved is not None and not saved.reducible:
        raise ArtifactError(
            f"{root} is a trimmed copy and cannot be reduced again; its summary remains valid",
            cause="; ".join(saved.left_out) or None,
            next_step=f"use it with compare or fleet, or reduce the original run, {saved.source}",
        )
    return manifest


def _state(manifest: RecordedRun, concerns: list[Concern]) -> RunState:
    raw = manifest.state
    if raw == RunState.COMPLETE:
        return RunState.COMPLETE
    if raw == RunState.INTERRUPTED:
        text = "The run was interrupted before its load ended."
        concerns.append(Concern("interrupted", Severity.DEGRADED, text))
        return RunState.INTERRUPTED
    if raw == RunState.RUNNING:
        text = (
            "The manifest's state is still running: the run was killed or is in progress. Results"
            " cover only what was recorded."
        )
        concerns.append(Concern("killed", Severity.INVALID, text))
        return RunState.INTERRUPTED
    if manifest.error is not None and manifest.error.what:
        text = f"The run failed: {manifest.error.what}"
    elif raw == RunState.FAILED:
        text = "The run failed."
    else:
        text = "The run's state is missing, so it counts as failed."
    concerns.append(Concern("failed", Severity.INVALID, text))
    return RunState.FAILED


def read_events(run_dir: RunDir) -> tuple[list[Mapping[str, Any]], int]:
    """All events, and the number of lines that are not events."""
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


def stored_table(
    path: Path, journals: Sequence[Path], schema: pa.Schema, concerns: list[Concern]
) -> pa.Table | None:
    """The finished table if it is intact, else the journals, else None."""
    table = _finished(path, schema, concerns)
    if table is None:
        found = [journal for journal in journals if journal.exists()]
        table = read_table(found, schema) if found else None
    return None if table is None else _identified(table, schema, path.name, concerns)


def _finished(path: Path, schema: pa.Schema, concerns: list[Concern]) -> pa.Table | None:
    """A finished table in the columns of this version; None if missing or unreadable."""
    if not path.exists():
        return None
    try:
        # Not pyarrow.parquet.read_table, which imports pyarrow.dataset first.
        with pq.ParquetFile(path) as file:
            return fit(file.read(), schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        concerns.append(unreadable(path, error))
        return None


def _identified(table: pa.Table, schema: pa.Schema, name: str, concerns: list[Concern]) -> pa.Table:
    """Drop rows without a time or identity; nothing can be computed from them."""
    lacking = [f.name for f in schema if not f.nullable and table[f.name].null_count]
    if not lacking:
        return table
    keep = np.all([table[column].is_valid().to_numpy() for column in lacking], axis=0)
    kept = table.filter(pa.array(keep))
    lost = len(table) - len(kept)
    text = (
        f"{lost} of {len(table)} rows of {name} lack {', '.join(lacking)} and are ignored: the"
        " file is damaged or from an incompatible harness."
    )
    concerns.append(Concern("rows_damaged", Severity.DEGRADED, text, lost, 0))
    return kept


def start_ns(
    started_ns: int | None, events: Sequence[Mapping[str, Any]], source: RequestsSource
) -> int:
    """The run's start on the monotonic clock: as recorded, else the earliest event or request."""
    if started_ns is not None:
        return started_ns
    times = [event.get("t_ns") for event in events]
    times += [pc.min(batch["intended_ns"]).as_py() for batch in source.batches(("intended_ns",))]
    return min((time for time in times if isinstance(time, int)), default=0)


def stored_samples(run_dir: RunDir, concerns: list[Concern]) -> pa.Table:
    """The server's samples, in columns of `tables.SAMPLES`."""
    table = _finished(run_dir.samples, tables.SAMPLES, concerns)
    if table is None:
        # Killed before samples.parquet was made. The parser is needed only here.
        from harness.artifacts.prometheus.text import samples_table

        table = samples_table(run_dir)
    return _identified(table, tables.SAMPLES, run_dir.samples.name, concerns)


def _samples(
    run_dir: RunDir, t0_ns: int, wanted: Callable[[str], bool], concerns: list[Concern]
) -> tuple[Samples | None, Mapping[str, int]]:
    table = stored_samples(run_dir, concerns)
    if len(table) == 0:
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
    targets, times = Categorical.of(table["target"]), floats(table["t_ns"], t0_ns)
    return {target: np.unique(times[targets == target]) for target in targets.counts()}


def _series(
    table: pa.Table, t0_ns: int, wanted: Callable[[str], bool]
) -> dict[tuple[str, str, str], tuple[Floats, Floats]]:
    """By (target, metric, labels), ordered by time; without NaN and unused metrics."""
    metrics, value = Categorical.of(table["metric"]), floats(table["value"])
    rows = np.flatnonzero(metrics.where(wanted) & ~np.isnan(value))
    t, value = floats(table["t_ns"], t0_ns)[rows], value[rows]
    targets, labels = Categorical.of(table["target"]), Categorical.of(table["labels"])
    combined = targets.codes[rows].astype(np.int64)
    for column in (metrics, labels):
        combined = combined * len(column.names) + column.codes[rows]
    order = np.lexsort((t, combined))
    codes, begins = np.unique(combined[order], return_index=True)
    out: dict[tuple[str, str, str], tuple[Floats, Floats]] = {}
    for code, part in zip(codes.tolist(), np.split(order, begins[1:]), strict=False):
        rest, label = divmod(code, len(labels.names))
        target, metric = divmod(rest, len(metrics.names))
        key = targets.names[target], metrics.names[metric], labels.names[label]
        out[key] = t[part], value[part]
    return dict(sorted(out.items()))


def _columns(table: pa.Table | None, t0_ns: int) -> Columns | None:
    """Columns ordered by time: numbers as float64 with NaN for null, text as objects."""
    if table is None or len(table) == 0:
        return None
    texts = [f.name for f in table.schema if pa.types.is_string(f.type)]
    table = table.sort_by([(name, "ascending") for name in ("t_ns", *texts)])
    return {
        name: (
            np.asarray(table[name].to_numpy(), dtype=object)
            if name in texts
            else floats(table[name], t0_ns if name == "t_ns" else 0)
        )
        for name in table.column_names
    }


def last_evidence(run: Run) -> float | None:
    """The latest time with any record, or None."""
    requests = run.requests
    times = [requests.done, requests.last_token, requests.sent, requests.intended]
    if run.samples is not None:
        times += run.samples.scrapes.values()
    if run.host is not None:
        times.append(run.host["t_ns"])
    latest = [float(np.nanmax(t)) for t in times if len(t) and not np.all(np.isnan(t))]
    return max(latest, default=None)


def gpu_count(run: Run) -> int | None:
    """Number of GPUs of the deployment; None if none or unknown."""
    return run.profile.server.gpu_count or len(run.manifest.hardware.gpus) or None


def gpu_uuids(run: Run) -> list[str]:
    """UUIDs of the deployment's GPUs on this machine."""
    return [gpu.uuid for gpu in run.manifest.hardware.gpus if gpu.uuid]
