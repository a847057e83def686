"""Raw scrapes -> tidy samples, from the run directory alone.

prometheus-client parses. Consecutive scrapes differ mostly in their values, so a body is parsed
completely once; from later ones only the numbers are read and new lines parsed.
"""

import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from harness.artifacts import atomic, tables
from harness.artifacts.journal import parts, read_batches
from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus import answers as prometheus_answers
from harness.core.clock import NS_PER_S, seconds
from harness.core.metric_names import MAPPED

UP: Final = "up"
DURATION: Final = "scrape_duration_seconds"
ERROR: Final = "harness_scrape_error"
LABEL: Final = "harness_scrape_label"
PROBLEM: Final = "harness_scrape_problem"

_ROW_GROUP_ROWS: Final = 200_000  # about 6 MB in memory
_COUNTER_WITHOUT_TOTAL = re.compile(
    r"^#[ \t]+TYPE[ \t]+(\S+)(?<!_total)[ \t]+counter[ \t]*$", re.MULTILINE
)
_NEW_LINES: Final = 0.5  # share of new lines above which a body is parsed completely
_AHEAD_S: Final = 1.0  # tolerance for timestamps in the future: clocks of two hosts differ
NOT_A_NUMBER: Final = "NaN samples, treated as absent"
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]")


_ON_GARBAGE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)
"""What the parsers raise on garbage."""

Sample = tuple[str, Mapping[str, str], float]
"""Name as exposed, labels, value."""


class ExpositionError(ValueError):
    """A body that is not a complete exposition."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """Content of one body.

    Attributes:
        samples: each name and label set once.
        problems: kind of unusable samples -> their number.
        plain: in order of the lines, without duplicates and timestamps, so that only the numbers of
            a later body with the same lines must be read.
    """

    samples: list[Sample]
    problems: Mapping[str, int]
    plain: bool


def parse(body: bytes, content_type: str | None) -> list[Sample]:
    """The samples of one exposition. Its own timestamps are ignored: the scrape's time counts.

    The first of duplicate samples counts, as in Prometheus.

    Args:
        body: the exposition.
        content_type: `application/openmetrics-text` for OpenMetrics, else the classic text format.

    Raises:
        ExpositionError: the body is not a complete exposition.
    """
    return parse_whole(body, content_type).samples


def parse_whole(body: bytes, content_type: str | None, wall_s: float | None = None) -> Parsed:
    """As `parse`, with the problems found. `wall_s`: Unix time of the scrape, if known."""
    if not body.strip():
        raise ExpositionError("empty body")
    is_openmetrics = _is_openmetrics(content_type)
    if not body.endswith(b"\n"):
        raise ExpositionError("truncated: the last line has no end")
    try:
        text = body.decode("utf-8")
        families: Iterable[Metric] = (
            parse_openmetrics(text) if is_openmetrics else parse_classic(text)  # type: ignore[no-untyped-call]
        )
        raw = [sample for family in families for sample in family.samples]
        found: list[Sample] = [(sample.name, sample.labels, float(sample.value)) for sample in raw]
        stamps = [float(sample.timestamp) for sample in raw if sample.timestamp is not None]
    except _ON_GARBAGE as error:
        raise ExpositionError(f"{type(error).__name__}: {error}") from error
    if not is_openmetrics:
        # The classic parser adds `_total` to such counters; the table has the exposed name.
        renamed = {f"{name}_total": name for name in _COUNTER_WITHOUT_TOTAL.findall(text)}
        if renamed:
            found = [(renamed.get(name, name), labels, value) for name, labels, value in found]
    problems: Counter[str] = Counter()
    distinct: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for sample in found:
        distinct.setdefault((sample[0], frozenset(sample[1].items())), sample)
    samples = list(distinct.values())
    if len(samples) < len(found):
        problems["duplicate samples; the first is used"] = len(found) - len(samples)
    if stamps:
        problems["samples with their own timestamps, which are ignored"] = len(stamps)
        ahead = 0 if wall_s is None else sum(stamp > wall_s + _AHEAD_S for stamp in stamps)
        if ahead:
            problems["samples with timestamps in the future"] = ahead
    lost = sum(math.isnan(value) for name, _, value in samples if name in MAPPED)
    if lost:
        problems[NOT_A_NUMBER] = lost
    plain = not is_openmetrics and not stamps and len(samples) == len(found)
    return Parsed(samples, dict(problems), plain)


def _is_openmetrics(content_type: str | None) -> bool:
    return (content_type or "").lower().startswith("application/openmetrics-text")


class _Tidy:
    """Gathers samples and writes them in row groups with dictionary-encoded names and labels."""

    def __init__(self, write: Callable[[pa.Table], None]) -> None:
        self._write = write
        self._codes: dict[str, dict[str, int]] = {"target": {}, "metric": {}, "labels": {}}
        self._label_codes: dict[tuple[tuple[str, str], ...], int] = {}
        self._empty()
        self.rows = 0

    def _empty(self) -> None:
        self._t_ns = array("q")
        self._value = array("d")
        self._columns = {name: array("i") for name in self._codes}

    def code(self, column: str, entry: str) -> int:
        codes = self._codes[column]
        return codes.setdefault(entry, len(codes))

    def label_code(self, labels: Mapping[str, str]) -> int:
        key = tuple(labels.items())
        code = self._label_codes.get(key)
        if code is None:
            text = json.dumps(
                dict(labels), sort_keys=True, separators=(",", ":"), ensure_ascii=False
            )
            code = self._label_codes[key] = self.code("labels", text)
        return code

    def add(
        self, t_ns: int, target: str, metric: str, labels: Mapping[str, str], value: float
    ) -> None:
        self.add_scrape(
            t_ns,
            target,
            array("i", [self.code("metric", metric)]),
            array("i", [self.label_code(labels)]),
            [value],
        )

    def add_scrape(
        self,
        t_ns: int,
        target: str,
        metrics: "array[int]",
        labels: "array[int]",
        values: Sequence[float],
    ) -> None:
        """Add all samples of one time."""
        n = len(values)
        self._t_ns.extend(array("q", [t_ns]) * n)
        self._columns["target"].extend(array("i", [self.code("target", target)]) * n)
        self._columns["metric"].extend(metrics)
        self._columns["labels"].extend(labels)
        self._value.extend(values)

    def add_series(self, target: str, series: prometheus_answers.Series) -> None:
        """Add all samples of one series."""
        n = len(series.values)
        self._t_ns.extend(series.times_ns)
        for column, code in (
            ("target", self.code("target", target)),
            ("metric", self.code("metric", series.metric)),
            ("labels", self.label_code(series.labels)),
        ):
            self._columns[column].extend(array("i", [code]) * n)
        self._value.extend(series.values)

    def flush(self, at_least: int = 1) -> None:
        """Write the gathered samples if there are `at_least` so many."""
        if len(self._t_ns) < at_least:
            return
        coded = {
            name: pa.DictionaryArray.from_arrays(
                pa.array(codes, pa.int32()), pa.array(list(self._codes[name]), pa.string())
            )
            for name, codes in self._columns.items()
        }
        self._write(
            pa.table(
                [
                    pa.array(self._t_ns, pa.int64()),
                    coded["target"],
                    coded["metric"],
                    coded["labels"],
                    pa.array(self._value, pa.float64()),
                ],
                schema=tables.SAMPLES,
            )
        )
        self.rows += len(self._t_ns)
        self._empty()


@dataclass(frozen=True, slots=True)
class _Template:
    """The lines of a body without their numbers, and their meaning.

    Attributes:
        lines: comments, and names with labels.
        known: name with labels, as written -> codes of metric and labels, and whether it is mapped.
        metrics: codes of the samples in order, as `labels`.
        mapped: positions of samples whose name is in `MAPPED`.
    """

    lines: list[str]
    known: dict[str, tuple[int, int, bool]]
    metrics: "array[int]"
    labels: "array[int]"
    mapped: list[int]

    @classmethod
    def of(cls, lines: list[str], known: dict[str, tuple[int, int, bool]]) -> "_Template":
        codes = [known[line] for line in lines if not _is_comment(line)]
        return cls(
            lines,
            known,
            array("i", [metric for metric, _, _ in codes]),
            array("i", [labels for _, labels, _ in codes]),
            [position for position, (_, _, mapped) in enumerate(codes) if mapped],
        )


def _is_comment(line: str) -> bool:
    return not line or line[0] == "#"


def _split(body: bytes) -> tuple[list[str], list[str]]:
    """Comments and the part of each line before its number; the numbers."""
    lines: list[str] = []
    numbers: list[str] = []
    for line in body.decode("utf-8").split("\n"):
        if _is_comment(line):
            lines.append(line)
        else:
            series, _, number = line.rpartition(" ")
            lines.append(series)
            numbers.append(number)
    return lines, numbers


class _Scrapes:
    """Converts rows of journals to tidy samples."""

    def __init__(self, tidy: _Tidy) -> None:
        self._tidy = tidy
        self._codec = pa.Codec("zstd")
        self._templates: dict[str, _Template] = {}
        self.first: dict[str, bytes] = {}
        self.last: dict[str, bytes] = {}

    def take(self, row: Mapping[str, Any]) -> None:
        kind = row["content_type"]
        if kind == prometheus_answers.MATRIX:
            self._answer(row)
        elif kind == prometheus_answers.MARK:
            self._marks(row)
        else:
            self._scrape(row)

    def _scrape(self, row: Mapping[str, Any]) -> None:
        t_ns, target, error = row["t_ns"], row["target"], row["error"]
        if error is None:
            try:
                body = self._codec.decompress(row["body_zstd"], row["body_bytes"], asbytes=True)
                self._body(t_ns, target, body, row)
                self.first.setdefault(target, body)
                self.last[target] = body
            except (
                ExpositionError,
                OSError,
                TypeError,
            ) as broken:  # also null or not decompressible
                error = f"not an exposition: {broken}"
        self._tidy.add(t_ns, target, UP, {}, 0.0 if error is not None else 1.0)
        self._tidy.add(t_ns, target, DURATION, {}, seconds(row["duration_ns"]))
        self._marks({**row, "error": error})

    def _marks(self, row: Mapping[str, Any]) -> None:
        if row["error"] is not None:
            self._tidy.add(row["t_ns"], row["target"], ERROR, {"error": row["error"]}, 1.0)
        if row.get("label") is not None:
            self._tidy.add(row["t_ns"], row["target"], LABEL, {"label": row["label"]}, 1.0)

    def _problems(self, t_ns: int, target: str, problems: Mapping[str, int]) -> None:
        for problem, number in problems.items():
            self._tidy.add(t_ns, target, PROBLEM, {"problem": problem}, float(number))

    def _body(self, t_ns: int, target: str, body: bytes, row: Mapping[str, Any]) -> None:
        template = self._templates.get(target)
        if template is not None and self._as_before(
            template, t_ns, target, body, row["content_type"]
        ):
            return
        offset_ns = row.get("unix_offset_ns")
        parsed = parse_whole(
            body, row["content_type"], None if offset_ns is None else (t_ns + offset_ns) / NS_PER_S
        )
        metrics = array("i", [self._tidy.code("metric", name) for name, _, _ in parsed.samples])
        labels = array("i", [self._tidy.label_code(one) for _, one, _ in parsed.samples])
        self._tidy.add_scrape(
            t_ns, target, metrics, labels, [value for _, _, value in parsed.samples]
        )
        self._problems(t_ns, target, parsed.problems)
        self._templates.pop(target, None)
        if parsed.plain:
            lines, numbers = _split(body)
            if _agrees(parsed.samples, lines, numbers):
                series = (line for line in lines if not _is_comment(line))
                codes = zip(
                    metrics, labels, (name in MAPPED for name, _, _ in parsed.samples), strict=True
                )
                self._templates[target] = _Template.of(lines, dict(zip(series, codes, strict=True)))

    def _as_before(
        self, template: _Template, t_ns: int, target: str, body: bytes, content_type: str | None
    ) -> bool:
        """Read only the numbers of a body; False if that is impossible."""
        if _is_openmetrics(content_type) or not body.endswith(b"\n"):
            return False
        try:
            lines, numbers = _split(body)
            if "_" in "".join(numbers):  # float() accepts 1_000, which is invalid here
                return False
            values = array("d", map(float, numbers))
        except ValueError:  # the parser reports it
            return False
        if lines != template.lines:
            changed = self._with_new_lines(template, lines, numbers)
            if changed is None:
                return False
            template = self._templates[target] = changed
        self._tidy.add_scrape(t_ns, target, template.metrics, template.labels, values)
        lost = sum(math.isnan(values[i]) for i in template.mapped)
        if lost:
            self._problems(t_ns, target, {NOT_A_NUMBER: lost})
        return True

    def _with_new_lines(
        self, template: _Template, lines: list[str], numbers: list[str]
    ) -> _Template | None:
        """The template of a body with some new lines; None if it must be parsed completely."""
        if list(filter(_is_comment, lines)) != list(filter(_is_comment, template.lines)):
            return None
        series = [line for line in lines if not _is_comment(line)]
        new = [position for position, line in enumerate(series) if line not in template.known]
        if len(new) > _NEW_LINES * len(series):
            return None
        own = [series[position] for position in new]
        own_numbers = [numbers[position] for position in new]
        # Without comments these samples have no family and keep their exposed names.
        text = "".join(f"{line} {number}\n" for line, number in zip(own, own_numbers, strict=True))
        try:
            parsed = parse_whole(text.encode(), None) if new else Parsed([], {}, plain=True)
        except ExpositionError:
            return None
        if not parsed.plain or not _agrees(parsed.samples, own, own_numbers):
            return None
        known = {line: template.known[line] for line in series if line in template.known}
        for line, (name, labels, _) in zip(own, parsed.samples, strict=True):
            known[line] = (
                self._tidy.code("metric", name),
                self._tidy.label_code(labels),
                name in MAPPED,
            )
        found = _Template.of(lines, known)
        distinct = set(zip(found.metrics, found.labels, strict=True))
        return found if len(distinct) == len(found.metrics) else None

    def _answer(self, row: Mapping[str, Any]) -> None:
        t_ns, target = row["t_ns"], row["target"]
        try:
            body = self._codec.decompress(row["body_zstd"], row["body_bytes"], asbytes=True)
            found, targets = prometheus_answers.read(body, row["unix_offset_ns"])
        except (prometheus_answers.AnswerError, OSError, TypeError) as broken:
            self._problems(t_ns, target, {f"unreadable Prometheus response: {broken}": 1})
            return
        for series in found:
            self._tidy.add_series(target, series)
        mapped = (one.values for one in found if one.metric in MAPPED)
        problems = Counter({NOT_A_NUMBER: sum(math.isnan(v) for values in mapped for v in values)})
        if targets > 1:
            problems["targets match the selector at the same time"] = targets
        self._problems(t_ns, target, +problems)


def _agrees(samples: Sequence[Sample], lines: Sequence[str], numbers: Sequence[str]) -> bool:
    """Whether the lines, split at their last space, match the parser's result."""
    series = [line for line in lines if not _is_comment(line)]
    if not len(series) == len(numbers) == len(samples):
        return False
    try:
        return all(
            line.partition("{")[0].strip() == name and (float(number) == value or math.isnan(value))
            for (name, _, value), line, number in zip(samples, series, numbers, strict=True)
        )
    except ValueError:
        return False


def journals(run: RunDir) -> list[Path]:
    """Scrape journals of a run: of its own scraper and of a Prometheus."""
    return [*parts(run.scrapes_journal), *parts(run.prometheus_journal)]


def _read(run: RunDir, write: Callable[[pa.Table], None]) -> tuple[_Tidy, _Scrapes]:
    tidy = _Tidy(write)
    scrapes = _Scrapes(tidy)
    for journal in journals(run):
        for batch in read_batches(journal):
            for row in batch.to_pylist():
                scrapes.take(row)
            tidy.flush(_ROW_GROUP_ROWS)
    tidy.flush()
    return tidy, scrapes


def samples_table(run: RunDir) -> pa.Table:
    """The tidy samples of a run without samples.parquet."""
    found: list[pa.Table] = []
    _read(run, found.append)
    return pa.concat_tables(found) if found else tables.SAMPLES.empty_table()


def write_samples(run: RunDir, *, stamp: Mapping[str, str] | None = None) -> int:
    """Write scrapes/samples.parquet (`tables.SAMPLES`) and the first and last whole body of each
    target from the scrape journals. Invalid bodies add no samples but `up` 0.

    Args:
        run: the run directory.
        stamp: metadata by which `finalize` recognizes that the file is up to date.

    Returns:
        Rows written.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with atomic.parquet_writer(
        run.samples, tables.SAMPLES.with_metadata(dict(stamp or {}))
    ) as writer:
        tidy, scrapes = _read(run, writer.write_table)
    for which, bodies in (("first", scrapes.first), ("last", scrapes.last)):
        for target, body in bodies.items():
            atomic.write_bytes(body_path(run, target, which), body)
    return tidy.rows


def body_path(run: RunDir, target: str, which: str) -> Path:
    """File with the text of a target's `first` or `last` whole scrape."""
    return run.scrapes_dir / f"{_NOT_IN_FILE_NAMES.sub('_', target)}.{which}.prom"
