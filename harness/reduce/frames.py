"""Tables of a run directory as pandas frames, with units in the names of their columns.

Times are seconds from the run's start, as in summary.json. Missing values are NaN or NA, never 0. A
table that the run did not record is an empty frame with the same columns and types.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from harness.artifacts import tables
from harness.artifacts.journal import parts
from harness.artifacts.layout import RunDir
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_summary import StageSummary, Summary
from harness.core.errors import ArtifactError
from harness.core.records import CANARY, Concern
from harness.plan.types import PRIME_SUFFIX
from harness.reduce.over_time.tokens import tpot
from harness.reduce.read.requests import (
    Requests,
    RequestsSource,
    floats,
    hashes,
    read_requests,
)
from harness.reduce.read.run import read_events, start_ns, stored_samples, stored_table

_S: Final = 1e-9
_COUNTS: Final = {pa.int32(): pd.Int64Dtype(), pa.int64(): pd.Int64Dtype()}

REQUESTS: Final[Mapping[str, str]] = {
    "request_id": "str",
    "session_id": "str",
    "turn": "int64",
    "class": "category",
    "stage": "category",
    "replica": "category",
    "worker": "int64",
    "priming": "bool",
    "outcome": "category",
    "scheduled_s": "float64",
    "sent_s": "float64",
    "first_byte_s": "float64",
    "first_token_s": "float64",
    "last_token_s": "float64",
    "done_s": "float64",
    "schedule_lag_s": "float64",
    "ttft_s": "float64",
    "tpot_s": "float64",
    "e2e_s": "float64",
    "target_input_tok": "Int64",
    "target_output_tok": "Int64",
    "input_tok": "Int64",
    "cache_read_tok": "Int64",
    "cache_write_tok": "Int64",
    "output_tok": "Int64",
    "request_bytes": "Int64",
    "response_bytes": "Int64",
    "http_status": "Int64",
    "retry_after_s": "float64",
    "stop_reason": "category",
    "error": "str",
}
"""Columns of the requests and their pandas types."""

CHUNKS: Final[Mapping[str, str]] = {
    "request_id": "category",
    "chunk": "int64",
    "t_s": "float64",
    "gap_s": "float64",
    "content_bytes": "Int64",
    "output_tok": "Int64",
}
"""Columns of the chunks that carry content."""

POWER: Final[Mapping[str, str]] = {
    "t_s": "float64",
    "boundary": "category",
    "device_id": "category",
    "power_w": "float64",
    "energy_j": "float64",
    "source": "category",
}
"""Columns of the power readings."""

METRICS: Final[Mapping[str, str]] = {
    "t_s": "float64",
    "target": "category",
    "metric": "category",
    "labels": "category",
    "value": "float64",
}
"""Columns of the scraped server metrics."""

_COUNTED: Final = ("planned", "sent", "ok", "failed", "dropped", "cancelled", "in_window")
_STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "min", "max")


@dataclass(frozen=True, slots=True)
class Records:
    """A run's requests and their chunks, in the order of scheduled send time.

    Attributes:
        requests: one row per request in columns of `REQUESTS`; no canaries.
        chunks: one row per chunk in columns of `CHUNKS`.
    """

    requests: pd.DataFrame
    chunks: pd.DataFrame


def records(run_dir: RunDir, manifest: RecordedRun) -> Records:
    """The requests of a run and their chunks.

    Raises:
        ArtifactError: the table is damaged, and there is no journal.
    """
    concerns: list[Concern] = []
    source = RequestsSource.of(run_dir, concerns)
    lost = source.parquet is None and not source.journals
    _check(run_dir.requests.name, concerns, lost=lost and run_dir.requests.exists())
    t0_ns = start_ns(manifest.started_ns, read_events(run_dir)[0], source)
    columns, _ = read_requests(source, t0_ns)
    lists = [field.name for field in tables.REQUESTS if pa.types.is_list(field.type)]
    schema = pa.schema([field for field in tables.REQUESTS if field.name not in lists])
    table = pa.Table.from_batches(list(source.batches(schema.names)), schema=schema)
    table = table.filter(pc.not_equal(table["class"], CANARY))
    ids = hashes(table["request_id"].combine_chunks())
    order = np.lexsort((floats(table["turn"]), ids, floats(table["intended_ns"])))
    requests = _requests(_frame(table.take(pa.array(order)), t0_ns), columns)
    return Records(requests, _chunks(requests["request_id"], columns))


def _requests(frame: pd.DataFrame, columns: Requests) -> pd.DataFrame:
    """The recorded columns and those derived from them (docs/reference/metrics.md)."""
    frame = frame.rename(columns={"intended_s": "scheduled_s"})
    scheduled, end = frame["scheduled_s"], frame["last_token_s"].fillna(frame["done_s"])
    derived: dict[str, Any] = {
        "priming": frame["class"].str.endswith(PRIME_SUFFIX),
        "schedule_lag_s": frame["sent_s"] - scheduled,
        "ttft_s": frame["first_token_s"] - scheduled,
        "tpot_s": tpot(columns),
        "e2e_s": end - scheduled,
    }
    return _typed(frame.assign(**derived), REQUESTS)


def _chunks(request_ids: "pd.Series[str]", columns: Requests) -> pd.DataFrame:
    chunks = columns.chunks
    owner = np.repeat(np.arange(len(columns)), chunks.count)
    place = np.arange(len(owner)) - chunks.start[owner]
    gap_s = np.diff(chunks.t, prepend=np.nan) * _S
    gap_s[place == 0] = np.nan
    frame = pd.DataFrame(
        {
            "request_id": request_ids.astype("category").array.take(owner),
            "chunk": place,
            "t_s": chunks.t * _S,
            "gap_s": gap_s,
            "content_bytes": chunks.content_bytes.astype(np.float64),
            "output_tok": chunks.tok.astype(np.float64),
        }
    )
    return _typed(frame, CHUNKS)


def power(run_dir: RunDir, manifest: RecordedRun) -> pd.DataFrame:
    """Power readings of all sources, in columns of `POWER`.

    Raises:
        ArtifactError: the table is damaged, and there is no journal.
    """
    concerns: list[Concern] = []
    table = stored_table(run_dir.power, parts(run_dir.power_journal), tables.POWER, concerns)
    _check(run_dir.power.name, concerns, lost=table is None and run_dir.power.exists())
    found = tables.POWER.empty_table() if table is None else table
    return _typed(_frame(found, _start_ns(run_dir, manifest)), POWER)


def metrics(run_dir: RunDir, manifest: RecordedRun) -> pd.DataFrame:
    """Samples of the scraped server metrics, in columns of `METRICS`.

    Raises:
        ArtifactError: the table is damaged, and there is no journal.
    """
    concerns: list[Concern] = []
    table = stored_samples(run_dir, concerns)
    _check(run_dir.samples.name, concerns, lost=not len(table) and bool(concerns))
    return _typed(_frame(table, _start_ns(run_dir, manifest)), METRICS)


def stages(summary: Summary) -> pd.DataFrame:
    """One row per load stage, with its name as index: window, counts, and every metric by its key
    (`output_tok_s`, `ttft_s.p99`). A metric that is not available is NaN.
    """
    rows = [_stage(stage) for stage in summary.stages]
    return pd.DataFrame(rows, index=pd.Index([one.name for one in summary.stages], name="stage"))


def _stage(stage: StageSummary) -> dict[str, Any]:
    window = stage.window
    row: dict[str, Any] = {"kind": stage.kind}
    times = {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "duration_s": window.duration_s,
        **{f"{name}_requests": getattr(stage.requests, name) for name in _COUNTED},
        **{key: figure.value for key, figure in stage.metrics.items()},
    }
    for key, distribution in stage.latency.items():
        times |= {f"{key}.{name}": getattr(distribution, name) for name in _STATISTICS}
    return row | {key: np.nan if value is None else float(value) for key, value in times.items()}


def _start_ns(run_dir: RunDir, manifest: RecordedRun) -> int:
    if manifest.started_ns is not None:
        return manifest.started_ns
    return start_ns(None, read_events(run_dir)[0], RequestsSource.of(run_dir, []))


def _check(name: str, concerns: list[Concern], *, lost: bool) -> None:
    """Raise if the table is lost, else warn of damage that cost some of it."""
    if lost:
        raise ArtifactError(
            f"{name} cannot be read",
            cause=" ".join(concern.message for concern in concerns) or None,
            next_step="restore the file, or run the benchmark again",
        )
    for concern in concerns:
        if concern.code != "requests_missing":
            warnings.warn(concern.message, stacklevel=4)


def _frame(table: pa.Table, t0_ns: int) -> pd.DataFrame:
    """A table with times on the monotonic clock (`_ns`) as seconds from the run's start (`_s`)."""
    names = [name for name in table.column_names if name.endswith("_ns")]
    times = {name: floats(table[name], t0_ns) * _S for name in names}
    frame: pd.DataFrame = table.drop_columns(names).to_pandas(types_mapper=_COUNTS.get)
    return frame.assign(**{f"{name.removesuffix('_ns')}_s": at for name, at in times.items()})


def _typed(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    return frame[list(types)].astype(dict(types))
