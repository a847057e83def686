"""Raw scrapes -> tidy samples. Works from the run directory alone, so `harness reduce` does it anywhere."""

import json
import re
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from harness.artifacts import atomic, tables
from harness.artifacts.journal import read_batches
from harness.artifacts.layout import RunDir
from harness.core.clock import seconds

UP: Final = "up"
DURATION: Final = "scrape_duration_seconds"
ERROR: Final = "harness_scrape_error"
LABEL: Final = "harness_scrape_label"

_ROW_GROUP_ROWS: Final = 200_000  # some 6 MB while they gather
_COUNTER_WITHOUT_TOTAL = re.compile(r"^#[ \t]+TYPE[ \t]+(\S+)(?<!_total)[ \t]+counter[ \t]*$", re.MULTILINE)
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")


Sample = tuple[str, Mapping[str, str], float]
"""Name as exposed, labels, value."""


class ExpositionError(ValueError):
    """A body that is no whole exposition."""


def parse(body: bytes, content_type: str | None) -> list[Sample]:
    """The samples of one exposition: name as exposed, labels, value. Timestamps inside it are left out: the scrape's own time counts.

    Args:
        body: the exposition.
        content_type: OpenMetrics where it says `application/openmetrics-text`, else the classic text format.

    Raises:
        ExpositionError: the body is no exposition, or not a whole one.
    """
    if not body.strip():
        raise ExpositionError("empty body")
    is_openmetrics = (content_type or "").lower().startswith("application/openmetrics-text")
    if not body.endswith(b"\n"):
        raise ExpositionError("cut off: the last line has no end")
    try:
        text = body.decode("utf-8")
        families: Iterable[Metric] = parse_openmetrics(text) if is_openmetrics else parse_classic(text)  # type: ignore[no-untyped-call]
        samples: list[Sample] = [(sample.name, sample.labels, float(sample.value)) for family in families for sample in family.samples]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:  # what those parsers raise on garbage
        raise ExpositionError(f"{type(error).__name__}: {error}") from error
    if not is_openmetrics:
        # The classic parser names such counters as OpenMetrics would; the table has the name that the server exposed.
        renamed = {f"{name}_total": name for name in _COUNTER_WITHOUT_TOTAL.findall(text)}
        if renamed:
            samples = [(renamed.get(name, name), labels, value) for name, labels, value in samples]
    return samples


class _Samples:
    """Gathers samples and writes them in row groups, each name and label set once."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._codes: dict[str, dict[str, int]] = {"target": {}, "metric": {}, "labels": {}}
        self._label_json: dict[tuple[tuple[str, str], ...], str] = {}
        self._t_ns = array("q")
        self._value = array("d")
        self._columns = {name: array("i") for name in self._codes}
        self.rows = 0

    def add(self, t_ns: int, target: str, metric: str, labels: Mapping[str, str], value: float) -> None:
        key = tuple(labels.items())
        text = self._label_json.get(key)
        if text is None:
            text = self._label_json[key] = json.dumps(dict(labels), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for name, entry in (("target", target), ("metric", metric), ("labels", text)):
            codes = self._codes[name]
            self._columns[name].append(codes.setdefault(entry, len(codes)))
        self._t_ns.append(t_ns)
        self._value.append(value)

    def flush(self, at_least: int = 1) -> None:
        if len(self._t_ns) < at_least:
            return
        coded = {
            name: pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(self._codes[name]), pa.string()))
            for name, codes in self._columns.items()
        }
        self._writer.write_table(
            pa.table(
                [pa.array(self._t_ns, pa.int64()), coded["target"], coded["metric"], coded["labels"], pa.array(self._value, pa.float64())],
                schema=tables.SAMPLES,
            )
        )
        self.rows += len(self._t_ns)
        self._t_ns = array("q")
        self._value = array("d")
        self._columns = {name: array("i") for name in self._codes}


def write_samples(run: RunDir, *, stamp: Mapping[str, str] | None = None) -> int:
    """Write scrapes/samples.parquet and the first and last whole body of each target from the journal of scrapes.

    Each scrape adds `up` (1, or 0 when it failed or was no exposition) and `scrape_duration_seconds`, as Prometheus does, and where they
    apply `harness_scrape_error{error}` and `harness_scrape_label{label}`. Nothing of a broken body becomes a sample.

    Args:
        run: the run directory.
        stamp: metadata kept in the file, by which `finalize` knows that it is up to date.

    Returns:
        Rows written.

    Raises:
        ArtifactError: the journal is not there, or the file cannot be written.
    """
    first: dict[str, bytes] = {}
    last: dict[str, bytes] = {}
    codec = pa.Codec("zstd")
    with atomic.parquet_writer(run.samples, tables.SAMPLES.with_metadata(dict(stamp or {}))) as writer:
        samples = _Samples(writer)
        for batch in read_batches(run.scrapes_journal):
            for row in batch.to_pylist():
                t_ns, target, error = row["t_ns"], row["target"], row["error"]
                if error is None:
                    try:
                        body = codec.decompress(row["body_zstd"], row["body_bytes"], asbytes=True)
                        for name, labels, value in parse(body, row["content_type"]):
                            samples.add(t_ns, target, name, labels, value)
                        first.setdefault(target, body)
                        last[target] = body
                    except (ExpositionError, OSError, TypeError) as broken:  # a body that is null or does not decompress counts as broken
                        error = f"not an exposition: {broken}"
                samples.add(t_ns, target, UP, {}, 0.0 if error is not None else 1.0)
                samples.add(t_ns, target, DURATION, {}, seconds(row["duration_ns"]))
                if error is not None:
                    samples.add(t_ns, target, ERROR, {"error": error}, 1.0)
                if row.get("label") is not None:
                    samples.add(t_ns, target, LABEL, {"label": row["label"]}, 1.0)
            samples.flush(_ROW_GROUP_ROWS)
        samples.flush()
    for which, bodies in (("first", first), ("last", last)):
        for target, body in bodies.items():
            atomic.write_bytes(body_path(run, target, which), body)
    return samples.rows


def body_path(run: RunDir, target: str, which: str) -> Path:
    """Where the text of a target's `first` or `last` whole scrape is kept."""
    return run.scrapes_dir / f"{_NOT_IN_FILE_NAMES.sub('_', target)}.{which}.prom"
