"""Exports a run's figures and series as CSV, Parquet and OpenMetrics text.

One row a figure. What is absent has a row without a value and with the reason; it has no sample in
OpenMetrics, where 0 would be a lie.
"""

import csv
import io
import re
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

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "min", "max")
"""Of a distribution, each a row of its own: `ttft_s.p99`."""

FORMATS: Final = ("csv", "parquet", "openmetrics")
"""What can be asked for, beside `all`."""

FIGURES: Final = "figures"
SERIES: Final = "series"
"""Stems of the files: figures.csv, series.parquet, …"""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        run_id: of the run.
        metric: key of the metric, with `.p99` and the like for a statistic of a distribution;
            without `@boundary`, which is a column.
        stage: load stage in whose window it was taken.
        workload_class: class of requests; None for all of them.
        headline: whether it is one of the figures that head the summary.
        value: in `unit`; None when absent.
        unit: as in docs/reference/metrics.md.
        ci_low: lower end of the 95 % interval within this run; None where there is none.
        ci_high: its upper end.
        basis: measured, modelled or absent.
        boundary: what it was taken over.
        token_class: which tokens it counts; None for none.
        note: why it is absent, or where it comes from.
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
"""Headings of figures.csv and figures.parquet."""


def rows(summary: Summary) -> list[Row]:
    """Every figure of a summary: of each stage, and of the headline's window by class."""
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
    for key, figure in metrics.items():
        metric, _, boundary = key.partition("@")
        definition = METRICS.get(metric)
        token_class = definition.token_class if definition is not None else None
        yield Row(
            run_id,
            metric,
            stage,
            workload_class,
            headline,
            _number(figure.value),
            figure.unit,
            _number(figure.ci_low),
            _number(figure.ci_high),
            str(figure.basis),
            figure.boundary or boundary or None,
            token_class,
            figure.note,
        )
    for key, distribution in latency.items():
        for name in STATISTICS:
            value = _number(getattr(distribution, name))
            low, high = distribution.ci.get(name) or (None, None)
            basis, note = (
                (Basis.MEASURED, None) if value is not None else (Basis.ABSENT, _why(distribution))
            )
            yield Row(
                run_id,
                f"{key}.{name}",
                stage,
                workload_class,
                headline,
                value,
                METRICS[key].unit,
                low,
                high,
                str(basis),
                METRICS[key].boundary,
                None,
                note,
            )


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _why(distribution: Distribution) -> str:
    if not distribution.n:
        return "no request got there"
    return (
        f"{distribution.censored} of {distribution.n + distribution.censored} never got there, and"
        " it reaches into their share"
    )


def as_csv(found: Iterable[Row]) -> str:
    """Figures as CSV (RFC 4180, LF); an absent value is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in found:
        writer.writerow(
            [
                "" if cell is None else str(cell).lower() if isinstance(cell, bool) else cell
                for cell in asdict(row).values()
            ]
        )
    return out.getvalue()


def as_parquet(found: Sequence[Row]) -> bytes:
    """Figures as Parquet; an absent value is null."""
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
    """The figures as OpenMetrics 1.0 text: a gauge a metric, its interval's ends beside it, the
    verdict and its concerns.

    Labels are run_id, stage, class, boundary, basis, token_class, unit, headline, and for
    distributions statistic; one without a value is left out.
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
        end = {
            "_ci_low": "Lower end of the 95 % interval within the run: ",
            "_ci_high": "Upper end of the 95 % interval within the run: ",
        }
        start = next((text for suffix, text in end.items() if name == base + suffix), "")
        lines.append(f"# TYPE {name} gauge")
        lines.append(f"# HELP {name} {_escaped(start + words.get(base, base))}")
        lines += [f"{name}{_labels(labels)} {_value(value)}" for labels, value in samples]
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
    yield "# HELP harness_run What was run, and the verdict."
    yield f"harness_run_info{_labels(info)} 1"
    if verdict.concerns:
        yield "# TYPE harness_concern gauge"
        yield "# HELP harness_concern A reason to doubt the run, with how often it was found."
        seen: dict[tuple[str, str], int] = {}
        for concern in verdict.concerns:
            seen[concern.code, str(concern.severity)] = (
                seen.get((concern.code, str(concern.severity)), 0) + 1
            )
        for (code, severity), count in seen.items():
            yield (
                f"harness_concern{_labels({'run_id': summary.run_id, 'code': code, 'severity': severity})}"  # noqa: E501
                f" {count}"
            )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _labels(labels: Mapping[str, str | None]) -> str:
    inside = ",".join(
        f'{key}="{_escaped(value)}"' for key, value in labels.items() if value is not None
    )
    return f"{{{inside}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _value(value: float) -> str:
    return repr(float(value))


def series_table(reduction: Reduction, most_steps: int = 3600) -> Any:  # noqa: ANN401 - pyarrow.Table
    """`harness.reduce.series.frame` as an Arrow table; null is not known."""
    import pyarrow as pa

    return pa.Table.from_pandas(
        frame(reduction, most_steps), preserve_index=False
    ).replace_schema_metadata(None)


def _series_csv(table: Any) -> str:  # noqa: ANN401 - pyarrow.Table
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        writer.writerow(["" if cell is None else cell for cell in row.values()])
    return out.getvalue()


_WRITERS: Final[Mapping[str, Callable[[Reduction], Mapping[str, bytes]]]] = {
    "csv": lambda reduction: {
        f"{FIGURES}.csv": as_csv(rows(reduction.summary)).encode(),
        f"{SERIES}.csv": _series_csv(series_table(reduction)).encode(),
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
    """Write a run directory's figures (and its series, in CSV and Parquet) beside its summary.

    Args:
        path: the run directory.
        reduction: of it.
        formats: of `FORMATS`, or `all`.

    Returns:
        The files, in the order in which they were written.

    Raises:
        ProfileError: there is no such format.
        ArtifactError: no space, no permission.
    """
    check_formats(formats)
    wanted = FORMATS if "all" in formats else tuple(dict.fromkeys(formats))
    written = []
    for name in wanted:
        for file, content in _WRITERS[name](reduction).items():
            write_bytes(path / file, content)
            written.append(path / file)
    return written


def exported_names(formats: Sequence[str]) -> list[str]:
    """Names of the files that `export` writes."""
    wanted = FORMATS if "all" in formats else tuple(dict.fromkeys(formats))
    return [
        f"{stem}.{name}"
        for name in wanted
        for stem in ((FIGURES,) if name == "openmetrics" else (FIGURES, SERIES))
    ]


def check_formats(formats: Sequence[str]) -> None:
    """Whether every format is known, before anything is reduced.

    Raises:
        ProfileError: one is not.
    """
    for name in formats:
        if name not in (*FORMATS, "all"):
            raise ProfileError(
                f"there is no export {name!r}", next_step=f"use one of: {', '.join(FORMATS)}, all"
            )
