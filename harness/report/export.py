"""Exports a run's metrics and series as CSV, Parquet and OpenMetrics text.

One row per metric. An absent metric has a row with the reason instead of a value. It has no sample
in OpenMetrics, because 0 would be wrong.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from harness.artifacts.atomic import write_bytes
from harness.artifacts.run_summary import Distribution, Figure, Summary
from harness.core.errors import ProfileError
from harness.core.metrics import METRICS
from harness.core.records import Basis
from harness.reduce.reduction import Reduction
from harness.reduce.series import frame
from harness.report.headline import censored_words

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "min", "max")
"""Of a distribution, each a row of its own: `ttft_s.p99`."""

FORMATS: Final = ("csv", "parquet", "openmetrics")
"""Export formats, in addition to `all`."""

FIGURES: Final = "figures"
SERIES: Final = "series"
"""Stems of the files: `figures.csv`, `series.parquet`, …"""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric; `headline` if it belongs to the window of the headline.

    Attributes:
        metric: key, with a suffix such as `.p99` for a statistic of a distribution; without
            `@boundary`, which is a column.
        workload_class: request class; None for all.
        value: in `unit` (docs/reference/metrics.md); None if absent.
        ci_low: lower end of the 95% confidence interval within this run.
        basis: `measured`, `modelled` or `absent`.
        note: the source, or why the value is absent.
    """

    run_id: str
    metric: str
    stage: str | None
    workload_class: str | None
    headline: bool
    value: float | None
    unit: str
    ci_low: float | None
    ci_high: float | None
    basis: str
    boundary: str | None
    token_class: str | None
    note: str | None


COLUMNS: Final = tuple(
    "class" if field.name == "workload_class" else field.name for field in fields(Row)
)
"""Columns of `figures.csv` and `figures.parquet`."""


def rows(summary: Summary) -> list[Row]:
    """All metrics of a summary: of each stage, and by class in the headline's window."""
    out: list[Row] = []
    window = next((figure.window for figure in summary.metrics.values() if figure.window), None)
    for stage in summary.stages:
        out += _rows(
            summary.run_id,
            stage.name,
            None,
            stage.metrics,
            stage.latency,
            headline=stage.name == window,
        )
    if not any(row.headline for row in out):
        out += _rows(summary.run_id, None, None, summary.metrics, summary.latency, headline=True)
    for one in summary.classes:
        out += _rows(summary.run_id, window, one.name, one.metrics, one.latency, headline=False)
    return out


def _rows(
    run_id: str,
    stage: str | None,
    workload_class: str | None,
    metrics: Mapping[str, Figure],
    latency: Mapping[str, Distribution],
    *,
    headline: bool,
) -> Iterator[Row]:
    of = (stage, workload_class, headline)
    for key, found in metrics.items():
        metric, _, boundary = key.partition("@")
        definition = METRICS.get(metric)
        yield Row(
            run_id,
            metric,
            *of,
            _number(found.value),
            found.unit,
            _number(found.ci_low),
            _number(found.ci_high),
            str(found.basis),
            found.boundary or boundary or None,
            definition.token_class if definition is not None else None,
            found.note,
        )
    for key, distribution in latency.items():
        for name in STATISTICS:
            value = _number(getattr(distribution, name))
            low, high = distribution.ci.get(name) or (None, None)
            yield Row(
                run_id,
                f"{key}.{name}",
                *of,
                value,
                METRICS[key].unit,
                low,
                high,
                str(Basis.ABSENT if value is None else Basis.MEASURED),
                METRICS[key].boundary,
                None,
                censored_words(distribution) if value is None else None,
            )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def as_csv(found: Iterable[Row]) -> str:
    """Metrics as CSV (RFC 4180, LF); an absent value is an empty cell."""
    rows = (asdict(row) | {"headline": str(row.headline).lower()} for row in found)
    return _csv(COLUMNS, (row.values() for row in rows))


def _csv(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def as_parquet(found: Sequence[Row]) -> bytes:
    """Metrics as Parquet; an absent value is null."""
    import pyarrow as pa

    kinds = {"headline": pa.bool_(), **dict.fromkeys(("value", "ci_low", "ci_high"), pa.float64())}
    names = [field.name for field in fields(Row)]
    arrays = [
        pa.array([getattr(row, name) for row in found], kinds.get(name, pa.string()))
        for name in names
    ]
    return _parquet(pa.table(dict(zip(COLUMNS, arrays, strict=True))))


def _parquet(table: Any) -> bytes:  # noqa: ANN401 - pyarrow.Table
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


_PREFIX: Final = "harness_"
_NAME: Final = re.compile(r"[^a-zA-Z0-9_]")


def as_openmetrics(summary: Summary) -> str:
    """The metrics as OpenMetrics 1.0 text: one gauge per metric and per end of its interval, the
    verdict and its concerns.

    Labels are run_id, stage, class, boundary, basis, token_class, unit, headline, and statistic for
    distributions; empty ones are omitted.
    """
    families: dict[str, list[tuple[dict[str, str | None], float]]] = {}
    words: dict[str, str] = {}
    for row in rows(summary):
        metric, _, statistic = row.metric.partition(".")
        labels = {
            "run_id": row.run_id,
            "stage": row.stage,
            "class": row.workload_class,
            "boundary": row.boundary,
            "basis": row.basis,
            "token_class": row.token_class,
            "unit": row.unit,
            "headline": str(row.headline).lower(),
            "statistic": statistic or None,
        }
        name = _PREFIX + _NAME.sub("_", metric)
        definition = METRICS.get(metric)
        if definition is not None:
            words[name] = f"{definition.title}. {definition.formula}"
        for suffix, value in (("", row.value), ("_ci_low", row.ci_low), ("_ci_high", row.ci_high)):
            if value is not None:
                families.setdefault(name + suffix, []).append((labels, value))
    lines = list(_run_lines(summary))
    for name, samples in families.items():
        base = name.removesuffix("_ci_low").removesuffix("_ci_high")
        end = {"_ci_low": "Lower", "_ci_high": "Upper"}.get(name.removeprefix(base))
        start = f"{end} end of the 95% confidence interval within the run: " if end else ""
        lines.append(f"# TYPE {name} gauge")
        lines.append(f"# HELP {name} {_escaped(start + words.get(base, base))}")
        lines += [f"{name}{_labels(labels)} {float(value)!r}" for labels, value in samples]
    return "\n".join([*lines, "# EOF", ""])


def _run_lines(summary: Summary) -> Iterator[str]:
    verdict = summary.verdict
    info = {
        "run_id": summary.run_id,
        "profile": summary.profile.name,
        "purpose": summary.profile.purpose,
        "workload_sha256": summary.profile.workload_sha256,
        "state": summary.state,
        "status": str(verdict.status),
        "quality": summary.labels.quality,
        "metric_version": str(summary.metric_version),
    }
    yield "# TYPE harness_run info"
    yield "# HELP harness_run The run and its verdict."
    yield f"harness_run_info{_labels(info)} 1"
    if verdict.concerns:
        yield "# TYPE harness_concern gauge"
        yield "# HELP harness_concern Number of concerns by code."
        seen = Counter((concern.code, str(concern.severity)) for concern in verdict.concerns)
        for (code, severity), count in seen.items():
            labels = {"run_id": summary.run_id, "code": code, "severity": severity}
            yield f"harness_concern{_labels(labels)} {count}"


def _labels(labels: Mapping[str, str | None]) -> str:
    inside = ",".join(
        f'{key}="{_escaped(value)}"' for key, value in labels.items() if value is not None
    )
    return f"{{{inside}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def series_table(reduction: Reduction, most_steps: int = 3600) -> Any:  # noqa: ANN401 - pyarrow.Table
    """`harness.reduce.series.frame` as an Arrow table; unknown values are null."""
    import pyarrow as pa

    return pa.Table.from_pandas(
        frame(reduction, most_steps), preserve_index=False
    ).replace_schema_metadata(None)


_WRITERS: Final[Mapping[str, Callable[[Reduction], Mapping[str, bytes]]]] = {
    "csv": lambda reduction: {
        f"{FIGURES}.csv": as_csv(rows(reduction.summary)).encode(),
        f"{SERIES}.csv": _csv(
            (table := series_table(reduction)).column_names,
            (row.values() for row in table.to_pylist()),
        ).encode(),
    },
    "parquet": lambda reduction: {
        f"{FIGURES}.parquet": as_parquet(rows(reduction.summary)),
        f"{SERIES}.parquet": _parquet(series_table(reduction)),
    },
    "openmetrics": lambda reduction: {
        f"{FIGURES}.openmetrics": as_openmetrics(reduction.summary).encode()
    },
}


def export(path: Path, reduction: Reduction, formats: Sequence[str]) -> list[Path]:
    """Write a run's metrics, and its series as CSV and Parquet, into its directory.

    Raises:
        ProfileError: unknown format.
        ArtifactError: no space, no permission.
    """
    check_formats(formats)
    written = []
    for name in _expanded(formats):
        for file, content in _WRITERS[name](reduction).items():
            write_bytes(path / file, content)
            written.append(path / file)
    return written


def exported_names(formats: Sequence[str]) -> list[str]:
    """Names of the files that `export` writes."""
    return [
        f"{stem}.{name}"
        for name in _expanded(formats)
        for stem in ((FIGURES,) if name == "openmetrics" else (FIGURES, SERIES))
    ]


def _expanded(formats: Sequence[str]) -> Sequence[str]:
    return FORMATS if "all" in formats else tuple(dict.fromkeys(formats))


def check_formats(formats: Sequence[str]) -> None:
    """Check export formats before a reduction.

    Raises:
        ProfileError: unknown format.
    """
    for name in formats:
        if name not in (*FORMATS, "all"):
            raise ProfileError(
                f"unknown export format {name!r}",
                next_step=f"use one of: {', '.join(FORMATS)}, all",
            )
