"""Runs against each other: refused unless they answer the same question, and judged only where repeats allow it.

Runs with equal treatments form one side (repeats of each other); the first run's side is the baseline A, the others are B, C, …
Where all runs have the same treatment each is a side of its own: that shows the spread of one system, and nothing is claimed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from harness.artifacts.results import RunResult, Value, load_result
from harness.compare.statistics import Difference, holm, welch
from harness.core.errors import InvalidRunError, NotComparableError, ProfileError
from harness.core.metrics import METRICS, Better, MetricDef
from harness.core.records import OutputLength, Status
from harness.core.units import human_number

MIN_REPEATS: Final = 2
"""Fewest runs a side before anything is said about better or worse: one run has no spread."""

BOARD_SENSOR_ERROR: Final = 0.05
"""Gain error of a board's power sensor that repeats do not remove, as a bound; common to runs on one board, independent between boards."""

OUTPUT_LENGTH_TOLERANCE: Final = 0.02
"""Largest relative difference of mean output lengths under `natural` before the runs did different work."""

_STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
_CLAIMING: Final = frozenset({Status.VALID, Status.PRELIMINARY})
_NO_SETTING: Final = ("port", "path", "url", "seed", "host", "log")  # settings that name a place or differ between repeats on purpose


class Word(StrEnum):
    """What may be said of one figure."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no detectable difference"
    TOO_FEW = "too few repeats"
    NO_CLAIM = "no claim"
    NOT_JUDGED = "not judged"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Identity:
    """One key that must be equal before figures mean the same thing.

    Attributes:
        key: its name, as `--allow-mismatch` takes it.
        required: whether runs that do not say it are refused; else it is noted as unchecked.
        read: the value of one run, None when it is not recorded.
    """

    key: str
    required: bool
    read: Callable[[RunResult], object]


IDENTITY: Final = (
    Identity("schema_version", required=True, read=lambda run: run.summary.get("schema_version")),
    # Token classes are part of a metric's definition, so equal versions mean equal classes.
    Identity("metric_version", required=True, read=lambda run: run.summary.get("metric_version")),
    Identity("workload_sha256", required=True, read=lambda run: _either(run, "workload_sha256")),
    Identity("model", required=True, read=lambda run: run.model.get("model_id") or _mapping(run.profile.get("model")).get("id")),
    Identity("tokenizer", required=False, read=lambda run: run.model.get("fingerprint")),
    Identity("output_length", required=True, read=lambda run: _output_length(run)),
    Identity("context_scale", required=True, read=lambda run: _context_scale(run)),
    Identity("boundary", required=False, read=lambda run: _power_boundary(run)),
)
"""Keys that are equal or recorded as allowed. `mean_output_tok` and `verdict` join them with rules of their own."""

MISMATCH_KEYS: Final = (*(identity.key for identity in IDENTITY), "mean_output_tok", "verdict")
"""What `--allow-mismatch` takes."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An identity key that differs and was allowed to."""

    key: str
    baseline: str
    other: str

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return {"key": self.key, "baseline": self.baseline, "other": self.other}

    def __str__(self) -> str:
        return f"{self.key}: {self.baseline} against {self.other}"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What differs on purpose, or might have.

    Attributes:
        key: `gpu`, `precision`, `engine`, …
        values: of each side, in the sides' order.
    """

    key: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the sides differ in it."""
        return len(set(self.values)) > 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"key": self.key, "values": list(self.values), "differs": self.differs}


@dataclass(frozen=True, slots=True)
class Side:
    """Runs with equal treatments.

    Attributes:
        label: A for the baseline, then B, C, …
        runs: their run ids.
        paths: their folders.
        statuses: their verdicts.
    """

    label: str
    runs: tuple[str, ...]
    paths: tuple[str, ...]
    statuses: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"label": self.label, "runs": list(self.runs), "paths": list(self.paths), "statuses": list(self.statuses)}


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one side against the baseline.

    Attributes:
        side: its label.
        value: mean over the side's runs; None when any of them lacks it.
        ratio: value / baseline's; None when either is absent or the baseline's is 0.
        low: lower end of the ratio's 95 % interval; None where there is none.
        high: its upper end.
        interval: `within-run` (two single runs: says how steady they were, not whether they differ), `across repeats`, or None.
        word: what may be said.
        note: why, where the word does not say it all.
    """

    side: str
    value: float | None
    ratio: float | None
    low: float | None
    high: float | None
    interval: str | None
    word: Word
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "side": self.side, "value": self.value, "ratio": self.ratio, "ratio_low": self.low, "ratio_high": self.high,
            "interval": self.interval, "word": str(self.word), "note": self.note,
        }  # fmt: skip

    def text(self) -> str:
        """The ratio with its interval."""
        if self.ratio is None:
            return "—"
        if self.low is None or self.high is None:
            return f"{self.ratio:.3f}"
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all sides.

    Attributes:
        key: metric, or metric.statistic.
        baseline: A's mean; None when any of its runs lacks it.
        boundary: of the figure, as A's runs name it.
        cells: the other sides, in order.
    """

    key: str
    title: str
    unit: str
    better: Better
    boundary: str | None
    baseline: float | None
    cells: tuple[Cell, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "key": self.key, "title": self.title, "unit": self.unit, "better": self.better, "boundary": self.boundary,
            "baseline": self.baseline, "sides": [cell.to_dict() for cell in self.cells],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sides, what differs between them on purpose, and a table of ratios to the first."""

    sides: tuple[Side, ...]
    treatments: tuple[Treatment, ...]
    metrics: tuple[Row, ...]
    allowed: tuple[Mismatch, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "sides": [side.to_dict() for side in self.sides],
            "treatments": [treatment.to_dict() for treatment in self.treatments],
            "allowed_mismatches": [mismatch.to_dict() for mismatch in self.allowed],
            "metrics": [row.to_dict() for row in self.metrics],
            "notes": list(self.notes),
        }

    def treatment_columns(self) -> tuple[str, ...]:
        """Headings of `treatment_rows`."""
        return ("treatment", *(f"{side.label} ({len(side.runs)} run{'s' if len(side.runs) > 1 else ''})" for side in self.sides))

    def treatment_rows(self) -> list[tuple[str, ...]]:
        """What heads the table: verdicts, then treatments, those that differ first and marked."""
        verdicts = ("verdict", *(", ".join(sorted(set(side.statuses))) for side in self.sides))
        ordered = sorted(self.treatments, key=lambda treatment: not treatment.differs)
        return [verdicts, *((f"* {t.key}" if t.differs else t.key, *t.values) for t in ordered)]

    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        others = [side.label for side in self.sides[1:]]
        return ("metric", "unit", "A", *(text for label in others for text in (label, f"{label}/A", "says")))

    def rows(self) -> list[tuple[str, ...]]:
        """The table of ratios as text."""
        return [
            (
                f"{row.key} @ {row.boundary}" if row.boundary and METRICS[_base(row.key)].boundary == "power" else row.key,
                row.unit,
                human_number(row.baseline),
                *(text for cell in row.cells for text in (human_number(cell.value), cell.text(), str(cell.word))),
            )
            for row in self.metrics
        ]

    def to_markdown(self) -> str:
        """Everything, for a report or a pull request."""
        runs = [f"- {side.label}: {', '.join(side.runs)}" for side in self.sides]
        allowed = [f"- **mismatch allowed:** {mismatch}" for mismatch in self.allowed]
        return "\n".join(
            [
                "# Comparison",
                "",
                *runs,
                *allowed,
                "",
                *_table(self.treatment_columns(), self.treatment_rows()),
                "",
                "Rows marked * differ.",
                "",
                *_table(self.columns(), self.rows()),
                "",
                *(f"- {note}" for note in self.notes),
                "",
            ]
        )


def compare_runs(paths: Sequence[Path], allow_mismatch: Sequence[str] = ()) -> Comparison:
    """Compare runs with the first one.

    Args:
        paths: two or more run directories; the first one's treatment is the baseline.
        allow_mismatch: identity keys that may differ all the same (`MISMATCH_KEYS`); what they covered is part of the result.

    Raises:
        ProfileError: fewer than two runs, one run twice, or an unknown key.
        ArtifactError: a directory that is no reduced run.
        InvalidRunError: an invalid run, unless `verdict` is allowed.
        NotComparableError: an identity key differs, or is not recorded; it and both values are named.
    """
    unknown = [key for key in allow_mismatch if key not in MISMATCH_KEYS]
    if unknown:
        raise ProfileError(f"{unknown[0]!r} is no identity key", next_step=f"use one of: {', '.join(MISMATCH_KEYS)}")
    runs = _load(paths)
    allowed = [*_verdicts(runs, allow_mismatch), *_identities(runs, allow_mismatch)]
    sides = _sides(runs)
    notes = list(_notes(runs, sides))
    rows = tuple(_rows(sides))
    return Comparison(
        sides=tuple(
            Side(label, tuple(r.run_id for r in members), tuple(str(r.path) for r in members), tuple(str(r.status) for r in members))
            for label, members in sides.items()
        ),
        treatments=_treatments(sides),
        metrics=rows,
        allowed=tuple(dict.fromkeys(allowed)),
        notes=tuple(notes),
    )


# --- may they be compared? --------------------------------------------------------------------------------------------------------


def _load(paths: Sequence[Path]) -> list[RunResult]:
    if len(paths) < 2:
        raise ProfileError("a comparison needs at least two runs", next_step="harness compare RUN RUN")
    runs = [load_result(path) for path in paths]
    seen: dict[str, Path] = {}
    for run in runs:
        if run.run_id in seen:
            raise ProfileError(
                f"{run.path} and {seen[run.run_id]} are the same run, {run.run_id}",
                next_step="name each run once: a run is no repeat of itself",
            )
        seen[run.run_id] = run.path
    return runs


def _verdicts(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    for run in runs:
        if run.status is not Status.INVALID:
            continue
        if "verdict" not in allow:
            reasons = [str(concern.get("message")) for concern in run.concerns if concern.get("severity") == "invalid"]
            raise InvalidRunError(
                f"{run.path} is invalid and cannot be compared",
                cause=reasons[0] if reasons else "its summary has no verdict",
                next_step="run it again, or pass --allow-mismatch verdict to see its figures without any claim",
            )
        yield Mismatch("verdict", str(runs[0].status), f"{run.status} ({run.run_id})")


def _identities(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    first = runs[0]
    for identity in IDENTITY:
        mine = identity.read(first)
        if mine is None and identity.required and identity.key not in allow:
            raise NotComparableError(
                f"{first.path} does not record its {identity.key}, so nothing can be compared with it",
                cause="it was made by another version, or its manifest is incomplete",
                next_step=f"run it again, or pass --allow-mismatch {identity.key}",
            )
        for run in runs[1:]:
            if (mismatch := _mismatch(identity.key, mine, identity.read(run), run, first, allow)) is not None:
                yield mismatch
    for run in runs[1:]:
        if (mismatch := _output_mismatch(first, run, allow)) is not None:
            yield mismatch


def _mismatch(key: str, mine: object, its: object, run: RunResult, first: RunResult, allow: Sequence[str]) -> Mismatch | None:
    if mine == its or (key == "boundary" and None in {mine, its}):  # a run without power has rows that are absent, not another boundary
        return None
    if key not in allow:
        raise NotComparableError(
            f"the runs differ in {key}: {_said(mine)} in {first.path}, {_said(its)} in {run.path}",
            cause="they do not answer the same question, so a ratio of their figures would mean nothing",
            next_step=f"compare runs with equal {key}, or pass --allow-mismatch {key}, which the result will show",
        )
    return Mismatch(key, _said(mine), f"{_said(its)} ({run.run_id})")


def _output_mismatch(first: RunResult, run: RunResult, allow: Sequence[str]) -> Mismatch | None:
    """Under `natural` the server decides how much work it does; beyond 2 % it was not the same work."""
    if OutputLength.NATURAL not in {_output_length(first), _output_length(run)}:
        return None
    mine, its = first.figure("mean_output_tok").value, run.figure("mean_output_tok").value
    if mine is not None and its is not None and abs(its - mine) <= OUTPUT_LENGTH_TOLERANCE * max(abs(mine), abs(its)):
        return None
    if mine is None and its is None:
        return None  # neither has an answer: every row about answers is absent
    return _mismatch("mean_output_tok", mine, its, run, first, allow)


def _output_length(run: RunResult) -> object:
    return run.labels.get("output_length") or _mapping(run.profile.get("traffic")).get("output_length")


def _context_scale(run: RunResult) -> object:
    scale = run.labels.get("context_scale")
    return scale if scale is not None else _mapping(run.manifest.get("plan")).get("context_scale")


def _power_boundary(run: RunResult) -> str | None:
    """Boundary of the figures at the run's first power boundary; None without power."""
    figures = (run.figure(key) for key in ("power_w", "energy_j", "output_tok_per_j"))
    return next((figure.boundary for figure in figures if figure.value is not None), None)


def _either(run: RunResult, key: str) -> object:
    return _mapping(run.summary.get("profile")).get(key) or run.manifest.get(key)


def _said(value: object) -> str:
    return "nothing recorded" if value is None else str(value)


# --- who is a repeat of whom ------------------------------------------------------------------------------------------------------


def _treatment(run: RunResult) -> dict[str, str]:
    """Everything that may differ on purpose, as text; equal for repeats."""
    model = _mapping(run.profile.get("model"))
    settings = dict(run.settings)
    names: dict[str, int] = {}
    for gpu in run.gpus:
        names[gpu.name or "unknown GPU"] = names.get(gpu.name or "unknown GPU", 0) + 1
    cpu = _mapping(_mapping(run.manifest.get("hardware")).get("cpu"))
    parallel = {short: settings.pop(key, None) for short, key in _PARALLEL.items()}
    precision = [str(value) for key in ("dtype", "quantization") if (value := settings.pop(key, None) or model.get(key))]
    replicas = f"{run.replicas or 'unknown number of'} replica{'' if run.replicas == 1 else 's'}"
    watts = {gpu.power_limit_w for gpu in run.gpus}
    drivers = {gpu.driver_version or "unknown" for gpu in run.gpus}
    found = {
        "gpu": " + ".join(f"{count} x {name}" for name, count in sorted(names.items())) or "none",
        "cpu": str(cpu.get("model") or cpu.get("name") or "unknown"),
        "precision": " ".join(precision) or "unknown",
        "load_format": str(settings.pop("load_format", None) or model.get("load_format") or "unknown"),
        "engine": " ".join(str(value) for value in (run.server.get("kind"), run.server.get("version")) if value) or "unknown",
        "parallelism": ", ".join([*(f"{short} {value}" for short, value in parallel.items() if value is not None), replicas]),
        "power_limit_w": ", ".join(sorted(human_number(limit) for limit in watts)) or "none",
        "driver": ", ".join(sorted(drivers)) or "none",
    }
    for key in sorted(settings):
        if not any(part in key.lower().split("_") for part in _NO_SETTING):
            found[f"settings.{key}"] = str(settings[key])
    return found


_PARALLEL: Final = {"tp": "tensor_parallel_size", "dp": "data_parallel_size", "pp": "pipeline_parallel_size", "ep": "expert_parallel_size"}


def _sides(runs: Sequence[RunResult]) -> dict[str, list[RunResult]]:
    groups: dict[tuple[tuple[str, str], ...], list[RunResult]] = {}
    for run in runs:
        groups.setdefault(tuple(sorted(_treatment(run).items())), []).append(run)
    members = list(groups.values())
    if len(members) == 1:  # nothing was treated differently: the runs show the spread of one system
        members = [[run] for run in runs]
    return {_label(position): side for position, side in enumerate(members)}


def _label(position: int) -> str:
    return chr(ord("A") + position) if position < 26 else f"S{position + 1}"


def _treatments(sides: Mapping[str, Sequence[RunResult]]) -> tuple[Treatment, ...]:
    found = [_treatment(members[0]) for members in sides.values()]
    keys = dict.fromkeys(key for treatment in found for key in treatment)
    return tuple(Treatment(key, tuple(treatment.get(key, "—") for treatment in found)) for key in keys)


def _notes(runs: Sequence[RunResult], sides: Mapping[str, Sequence[RunResult]]) -> Iterator[str]:
    if len({tuple(sorted(_treatment(run).items())) for run in runs}) == 1:
        yield "All runs have the same treatment: ratios show the spread between runs of one system, no effect."
    few = [label for label, members in sides.items() if len(members) < MIN_REPEATS]
    if few:
        yield (
            f"Too few repeats ({', '.join(few)}): comparisons stand on at least {MIN_REPEATS} runs a side, each with a fresh seed and a "
            "fresh server. Intervals of single runs are within-run: how steady each was, not whether they differ."
        )
    if len(few) < len(sides):
        yield (
            "Across repeats: ratios of geometric means with Welch's 95 % t-interval; better and worse are said after Holm's correction for "
            "all judged figures of a side. Energy on different boards must differ by more than their sensors' error as well "
            f"({BOARD_SENSOR_ERROR:.0%} a board)."
        )
    for label, members in sides.items():
        seeds = [run.manifest.get("seed") for run in members]
        if len(members) > 1 and len(set(map(str, seeds))) < len(members):
            yield f"Runs of {label} share a seed: they are not independent, and their spread is too small."
    for identity in IDENTITY:
        if not identity.required and identity.key != "boundary" and all(identity.read(run) is None for run in runs):
            yield f"No run records its {identity.key}: that it is equal was not checked."
    made_by = {str(_mapping(run.manifest.get("harness")).get("version") or "unknown") for run in runs}
    if len(made_by) > 1:
        yield f"Made by different versions of the harness: {', '.join(sorted(made_by))}."
    for run in runs:
        if run.status not in _CLAIMING:
            yield f"{run.run_id} is {run.status}: nothing is claimed from it."


# --- the table --------------------------------------------------------------------------------------------------------------------


def _rows(sides: Mapping[str, Sequence[RunResult]]) -> Iterator[Row]:
    """Rows of every figure that at least one run has, in the order of their definitions."""
    runs = [run for members in sides.values() for run in members]
    baseline = next(iter(sides.values()))
    wanted = list(_wanted(runs))
    drafts: dict[str, list[Cell]] = {key: [] for key, _, _ in wanted}
    for label, members in list(sides.items())[1:]:
        tests: dict[str, float] = {}
        cells: dict[str, tuple[Cell, Better, Difference | None]] = {}
        for key, definition, read in wanted:
            cell, difference = _cell(label, definition, [read(run) for run in baseline], [read(run) for run in members], baseline, members)
            cells[key] = (cell, definition.better, difference)
            if difference is not None and difference.p_value is not None:
                tests[key] = difference.p_value
        standing = holm(tests)
        for key, (cell, better, difference) in cells.items():
            drafts[key].append(_judged(cell, better, difference, stands=key in standing) if key in tests else cell)
    for key, definition, read in wanted:
        values = [read(run) for run in baseline]
        yield Row(
            key=key,
            title=definition.title,
            unit=definition.unit,
            better=definition.better,
            boundary=values[0].boundary,
            baseline=_mean(values),
            cells=tuple(drafts[key]),
        )


def _wanted(runs: Sequence[RunResult]) -> Iterator[tuple[str, MetricDef, Callable[[RunResult], Value]]]:
    keys = dict.fromkeys(key for run in runs for key in (*run.latencies, *run.metrics) if _base(key) in METRICS)
    order = list(METRICS)
    for key in sorted(keys, key=lambda key: (order.index(_base(key)), key)):
        definition = METRICS[_base(key)]
        if definition.kind == "distribution":
            for statistic in _STATISTICS:
                if any(run.statistic(key, statistic).value is not None for run in runs):
                    yield f"{key}.{statistic}", definition, _statistic_reader(key, statistic)
        elif any(run.figure(key).value is not None for run in runs):
            yield key, definition, _figure_reader(key)


def _figure_reader(key: str) -> Callable[[RunResult], Value]:
    return lambda run: run.figure(key)


def _statistic_reader(key: str, statistic: str) -> Callable[[RunResult], Value]:
    return lambda run: run.statistic(key, statistic)


def _base(key: str) -> str:
    return key.partition("@")[0].partition(".")[0]


def _mean(values: Sequence[Value]) -> float | None:
    known = [value.value for value in values if value.value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _cell(
    label: str, definition: MetricDef, a: Sequence[Value], b: Sequence[Value], runs_a: Sequence[RunResult], runs_b: Sequence[RunResult]
) -> tuple[Cell, Difference | None]:
    mean_a, mean_b = _mean(a), _mean(b)
    if mean_a is None or mean_b is None:
        missing, values = ("A", a) if mean_a is None else (label, b)
        why = next(value.note for value in values if value.value is None)
        return Cell(label, mean_b, None, None, None, None, Word.ABSENT, f"absent in {missing}: {why}"), None
    known_a = [value.value for value in a if value.value is not None]
    known_b = [value.value for value in b if value.value is not None]
    logs = min(*known_a, *known_b) > 0
    plain_ratio = mean_b / mean_a if mean_a != 0 else None
    enough = len(a) >= MIN_REPEATS and len(b) >= MIN_REPEATS
    if not enough:
        low, high = _within_run(a, b) if len(a) == len(b) == 1 else (None, None)
        word = Word.NOT_JUDGED if definition.better == "neither" else Word.TOO_FEW
        return Cell(label, mean_b, plain_ratio, low, high, "within-run" if low is not None else None, word), None
    systematic = _systematic(definition, runs_a, runs_b) if logs else 0.0
    difference = welch(
        [math.log(x) for x in known_a] if logs else known_a, [math.log(x) for x in known_b] if logs else known_b, systematic=systematic
    )
    ratio, low, high = plain_ratio, None, None
    if logs:
        ratio = math.exp(difference.difference)
        if difference.half_width is not None:
            low, high = math.exp(difference.difference - difference.half_width), math.exp(difference.difference + difference.half_width)
    interval = "across repeats" if low is not None else None
    if definition.better == "neither":
        return Cell(label, mean_b, ratio, low, high, interval, Word.NOT_JUDGED), None
    silent = sorted({str(run.status) for run in (*runs_a, *runs_b) if run.status not in _CLAIMING})
    if silent:
        return Cell(label, mean_b, ratio, low, high, interval, Word.NO_CLAIM, f"runs are {', '.join(silent)}"), None
    boundaries = sorted({value.boundary for value in (*a, *b) if value.boundary})
    if len(boundaries) > 1:
        return Cell(label, mean_b, ratio, low, high, interval, Word.NO_CLAIM, f"boundaries differ: {', '.join(boundaries)}"), None
    if difference.p_value is None:
        same = difference.difference == 0
        note = None if same else "the repeats do not differ at all, so no interval follows from them"
        return Cell(label, mean_b, ratio, low, high, interval, Word.NO_DIFFERENCE if same else Word.TOO_FEW, note), None
    return Cell(label, mean_b, ratio, low, high, interval, Word.NO_DIFFERENCE), difference


def _judged(cell: Cell, better: Better, difference: Difference | None, *, stands: bool) -> Cell:
    assert difference is not None
    if not stands:
        return cell
    improved = (difference.difference > 0) == (better == "higher")
    word = Word.BETTER if improved else Word.WORSE
    return Cell(cell.side, cell.value, cell.ratio, cell.low, cell.high, cell.interval, word, cell.note)


def _within_run(a: Sequence[Value], b: Sequence[Value]) -> tuple[float, float] | tuple[None, None]:
    """Interval of a ratio of two independent figures by propagating their relative half-widths on the logarithm."""
    half = 0.0
    for value in (a[0], b[0]):
        if value.value is None or value.ci_low is None or value.ci_high is None or value.ci_low <= 0:
            return None, None
        half = math.hypot(half, math.log(value.ci_high / value.ci_low) / 2)
    assert a[0].value is not None
    assert b[0].value is not None
    ratio = b[0].value / a[0].value
    return ratio * math.exp(-half), ratio * math.exp(half)


def _systematic(definition: MetricDef, runs_a: Sequence[RunResult], runs_b: Sequence[RunResult]) -> float:
    """Bound of the ratio's error (on its logarithm) from the boards' sensors: none when both sides used the same boards."""
    if definition.boundary != "power":
        return 0.0
    boards_a, boards_b = ({gpu.uuid for run in runs for gpu in run.gpus} for runs in (runs_a, runs_b))
    if boards_a == boards_b or not boards_a or not boards_b:
        return 0.0
    return math.hypot(BOARD_SENSOR_ERROR / math.sqrt(len(boards_a)), BOARD_SENSOR_ERROR / math.sqrt(len(boards_b)))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), "|" + " --- |" * len(columns), *(line(row) for row in rows)]
