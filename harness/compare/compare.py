"""Runs against each other: refused unless they answer the same question, and judged only where
repeats allow it.

What is named makes sides (`harness.compare.groups`); the first is the baseline A, the others are B,
C, … Hardware and settings are what differs on purpose: they head the table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.artifacts.run_result import RunResult
from harness.compare.comparability import (
    MISMATCH_KEYS,
    Mismatch,
    check_keys,
    identities,
    lengths_by_chance,
    output_lengths,
    unchecked,
    verdicts,
)
from harness.compare.gates import GateResult, Outcome, evaluate_gates
from harness.compare.groups import (
    Member,
    RunSet,
    Treatment,
    group,
    load_set,
    names,
    side_label,
    treatment,
    treatments,
)
from harness.compare.ratios import (
    BOARD_SENSOR_ERROR,
    CLAIMING,
    HEADLINE,
    MIN_REPEATS,
    Cell,
    Row,
    Spread,
    Word,
    rows,
)
from harness.core.errors import ArtifactError, ProfileError
from harness.core.records import Status
from harness.core.units import human_number
from harness.profile.thresholds import Threshold

__all__ = [
    "HEADLINE",
    "MISMATCH_KEYS",
    "Cell",
    "Comparison",
    "Row",
    "Side",
    "Spread",
    "Treatment",
    "Word",
    "compare_runs",
]


@dataclass(frozen=True, slots=True)
class Side:
    """Runs that are repeats of each other.

    Attributes:
        label: A for the baseline, then B, C, …
        name: what tells it from the others.
        runs: their run ids.
        paths: their folders.
        statuses: their verdicts.
        seeds: of their plans.
    """

    label: str
    name: str
    runs: tuple[str, ...]
    paths: tuple[str, ...]
    statuses: tuple[str, ...]
    seeds: tuple[int | None, ...] = ()

    @property
    def title(self) -> str:
        """Label and name."""
        return f"{self.label}: {self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sides, what differs between them on purpose, and a table of ratios to the first; one side
    alone shows its repeats' spread.
    """

    sides: tuple[Side, ...]
    treatments: tuple[Treatment, ...]
    allowed: Annotated[tuple[Mismatch, ...], Field(alias="allowed_mismatches")]
    metrics: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...]

    def treatment_columns(self) -> tuple[str, ...]:
        """Headings of `treatment_rows`."""
        return (
            "treatment",
            *(
                f"{side.label} ({len(side.runs)} run{'s' if len(side.runs) > 1 else ''})"
                for side in self.sides
            ),
        )

    def treatment_rows(self) -> list[tuple[str, ...]]:
        """What heads the table: verdicts, then treatments, those that differ first and marked."""
        verdicts_row = ("verdict", *(", ".join(sorted(set(side.statuses))) for side in self.sides))
        ordered = sorted(self.treatments, key=lambda treatment: not treatment.differs)
        return [verdicts_row, *((f"* {t.key}" if t.differs else t.key, *t.values) for t in ordered)]

    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        if len(self.sides) == 1:
            return ("metric", "unit", "mean", "95 % interval", "CV", "runs")
        others = [side.label for side in self.sides[1:]]
        return (
            "metric",
            "unit",
            "A",
            *(text for label in others for text in (label, f"{label}/A", "says")),
        )

    def rows(self) -> list[tuple[str, ...]]:
        """The table of ratios as text; of one side alone, means with their t-intervals."""
        if len(self.sides) == 1:
            return [(row.name, row.unit, *_spread_text(row.spreads[0])) for row in self.metrics]
        return [
            (
                row.name,
                row.unit,
                human_number(row.baseline),
                *(
                    text
                    for cell in row.cells
                    for text in (human_number(cell.value), cell.text(), cell.says())
                ),
            )
            for row in self.metrics
        ]

    def repeat_columns(self) -> tuple[str, ...]:
        """Headings of `repeat_rows`."""
        return ("side", "run", "seed", *(row.name for row in self._headline()))

    def repeat_rows(self) -> list[tuple[str, ...]]:
        """Every repeat's headline figures; outliers are marked ‡ and kept. Empty where no side has
        two runs.
        """
        if all(len(side.runs) < MIN_REPEATS for side in self.sides):
            return []
        shown = []
        for position, side in enumerate(self.sides):
            for run, seed in zip(side.runs, side.seeds or (None,) * len(side.runs), strict=True):
                spreads = [row.spreads[position] for row in self._headline()]
                figures = [
                    human_number(spread.values[run]) + (" ‡" if run in spread.outliers else "")
                    for spread in spreads
                ]
                shown.append((side.label, run, "—" if seed is None else str(seed), *figures))
        return shown

    def to_markdown(self) -> str:
        """Everything, for a terminal or a pull request."""
        runs = [f"- {side.title}: {', '.join(side.runs)}" for side in self.sides]
        allowed = [f"- **mismatch allowed:** {mismatch}" for mismatch in self.allowed]
        repeats = self.repeat_rows()
        parts = [
            "# Comparison",
            "",
            *runs,
            *allowed,
            "",
            *table(self.treatment_columns(), self.treatment_rows()),
            "",
        ]
        parts += ["Rows marked * differ.", ""] if len(self.sides) > 1 else []
        if self.gates:
            parts += [
                "## Gates",
                "",
                *table(GateResult.COLUMNS, [gate.row() for gate in self.gates]),
                "",
            ]
        parts += [*table(self.columns(), self.rows()), ""]
        if repeats:
            parts += [
                "Every repeat (‡ stands apart from the others; kept):",
                "",
                *table(self.repeat_columns(), repeats),
                "",
            ]
        return "\n".join([*parts, *(f"- {note}" for note in self.notes), ""])

    def _headline(self) -> list[Row]:
        return [row for row in self.metrics if row.key in HEADLINE]


def compare_runs(
    paths: Sequence[Path],
    allow_mismatch: Sequence[str] = (),
    *,
    baseline: Path | None = None,
    group_by: Sequence[str] = (),
    gates: Sequence[Threshold] = (),
    sensor_error: float = BOARD_SENSOR_ERROR,
) -> Comparison:
    """Compare runs with the first one, or sets of repeats with the first set.

    Args:
        paths: run directories, or folders of repeats.
        allow_mismatch: identity keys that may differ all the same (`MISMATCH_KEYS`); what they
            covered is part of the result.
        baseline: run or folder that is side A, before all others.
        group_by: treatment keys whose equal values make a side; default: each variant of each
            folder, or runs of equal treatment.
        gates: conditions on every side but the baseline (on the only side where there is one).
        sensor_error: bound of a board's gain error, relative.

    Raises:
        ProfileError: nothing to compare, one run twice, a baseline of several variants, or an
            unknown key.
        ArtifactError: a directory that is no reduced run, or a series of which no run of its first
            profile has finished.
        InvalidRunError: an invalid run, unless `verdict` is allowed.
        NotComparableError: an identity key differs, or is not recorded; it and both values are
            named.
    """
    check_keys(allow_mismatch)
    sets = [load_set(path) for path in ([baseline] if baseline is not None else []) + list(paths)]
    members = _members(sets)
    if baseline is not None:
        _one_variant(sets[0])
    elif sets[0].missing[:1] == sets[0].variants[:1] != ():
        raise ArtifactError(
            f"no run of {sets[0].missing[0]!r} has finished in {sets[0].path}, and it is the"
            " baseline of that series",
            next_step=f"harness repeat --resume {sets[0].path}",
        )
    runs = [member.run for member in members]
    if len(runs) < 2 and not gates:
        raise ProfileError(
            "a comparison needs at least two runs", next_step="harness compare RUN RUN"
        )
    allowed = [*verdicts(runs, allow_mismatch), *identities(runs, allow_mismatch)]
    sides = group(members, group_by)
    if baseline is not None:
        sides = _with_baseline(sides, sets[0])
    plain = {label: [member.run for member in side] for label, side in sides.items()}
    allowed += output_lengths(plain, allow_mismatch)
    called = names(sides, group_by)
    return Comparison(
        sides=tuple(
            _side(label, name, side)
            for (label, side), name in zip(plain.items(), called, strict=True)
        ),
        treatments=treatments(sides),
        metrics=tuple(rows(plain, sensor_error)),
        allowed=tuple(dict.fromkeys(allowed)),
        notes=tuple(_notes(runs, sides, sets, sensor_error, group_by)),
        gates=(
            _withheld(evaluate_gates(gates, plain, sensor_error=sensor_error), plain)
            if gates
            else ()
        ),
    )


def _one_variant(baseline: RunSet) -> None:
    names = list(dict.fromkeys(str(run.manifest.variant) for run in baseline.runs))
    if len(names) > 1:
        raise ProfileError(
            f"the baseline {baseline.path} holds {len(names)} variants: {', '.join(names)}",
            cause="a baseline is one side",
            next_step=(
                f"keep one of them: harness baseline save NAME {baseline.path} --variant {names[0]}"
            ),
        )


def _withheld(
    results: Sequence[GateResult], sides: Mapping[str, Sequence[RunResult]]
) -> tuple[GateResult, ...]:
    """Gates as they are, but none that passes on invalid runs: those were let in to be looked at,
    without any claim.
    """
    first = next(iter(sides.values()))

    def shown(result: GateResult) -> GateResult:
        invalid = dict.fromkeys(
            run.run_id for run in (*first, *sides[result.side]) if run.status is Status.INVALID
        )
        if not invalid or result.outcome is Outcome.FAILED:
            return result
        return replace(
            result,
            outcome=Outcome.ABSENT,
            reason=f"nothing follows from invalid runs: {', '.join(invalid)}",
        )

    return tuple(shown(result) for result in results)


def _members(sets: Sequence[RunSet]) -> list[Member]:
    members = [Member(run, one) for one in sets for run in one.runs]
    seen: dict[str, Path] = {}
    for member in members:
        run = member.run
        if run.run_id in seen:
            raise ProfileError(
                f"{run.path} and {seen[run.run_id]} are the same run, {run.run_id}",
                next_step="name each run once: a run is no repeat of itself",
            )
        seen[run.run_id] = run.path
    return members


def _with_baseline(sides: Mapping[str, list[Member]], baseline: RunSet) -> dict[str, list[Member]]:
    """Sides with the baseline's runs as one of their own: they never mix with what is held against
    them.
    """
    mine = [member for side in sides.values() for member in side if member.argument is baseline]
    others = [
        kept
        for side in sides.values()
        if (kept := [member for member in side if member.argument is not baseline])
    ]
    return {side_label(position): side for position, side in enumerate([mine, *others])}


def _side(label: str, name: str, members: Sequence[RunResult]) -> Side:
    return Side(
        label=label,
        name=name,
        runs=tuple(run.run_id for run in members),
        paths=tuple(str(run.path) for run in members),
        statuses=tuple(str(run.status) for run in members),
        seeds=tuple(run.manifest.seed for run in members),
    )


def _notes(
    runs: Sequence[RunResult],
    sides: Mapping[str, Sequence[Member]],
    sets: Sequence[RunSet],
    sensor_error: float,
    by: Sequence[str],
) -> Iterator[str]:
    groups = {label: [member.run for member in members] for label, members in sides.items()}
    plain = [
        {key: value for key, value in treatment(m).items() if key not in {"set", "profile"}}
        for side in sides.values()
        for m in side
    ]
    if len(sides) > 1 and all(one == plain[0] for one in plain):
        yield (
            "All runs have the same treatment: ratios show the spread between runs of one system,"
            " no effect."
        )
    few = [label for label, members in groups.items() if len(members) < MIN_REPEATS]
    if few:
        yield (
            f"Too few repeats ({', '.join(few)}): comparisons stand on at least {MIN_REPEATS} runs"
            " a side, each with a fresh seed and a fresh server. Intervals of single runs are"
            " within-run: how steady each was, not whether they differ."
        )
    if len(few) < len(sides) and len(sides) > 1:
        yield (
            "Across repeats: ratios of geometric means with Welch's 95 % t-interval; better and"
            " worse are said after Holm's correction, at 5 % for a side's headline figures"
            " together, and at 5 % for all its others together. Energy on different boards must"
            f" differ by more than their sensors' error as well ({sensor_error:.0%} a board)."
        )
    for label, members in groups.items():
        if len(members) > 1 and len({run.manifest.seed for run in members}) < len(members):
            yield (
                f"Runs of {label} share a seed: they are not independent, and their spread is too"
                " small."
            )
    for label, side in sides.items():
        found = [treatment(member) for member in side]
        mixed = [
            key
            for key in dict.fromkeys(k for one in found for k in one)
            if len({one.get(key) for one in found}) > 1
        ]
        mixed = [key for key in mixed if key not in {"set", "profile", *by}]
        if mixed:
            yield (
                f"Runs of {label} differ in {', '.join(mixed)}: they are taken for repeats of each"
                " other all the same."
            )
    yield from lengths_by_chance(groups)
    for key in unchecked(runs):
        yield f"No run records its {key}: that it is equal was not checked."
    made_by = {(run.manifest.harness and run.manifest.harness.version) or "unknown" for run in runs}
    if len(made_by) > 1:
        yield f"Made by different versions of the harness: {', '.join(sorted(made_by))}."
    for status in dict.fromkeys(run.status for run in runs if run.status not in CLAIMING):
        mine = [run.run_id for run in runs if run.status is status]
        are, them = ("is", "it") if len(mine) == 1 else ("are", "them")
        yield f"{', '.join(mine)} {are} {status}: nothing is claimed from {them}."
    for one in sets:
        for left_out in one.left_out:
            yield f"{left_out}."
        for name in one.missing:
            yield f"No run of {name} has finished in {one.path.name}: it is no side."


def _spread_text(spread: Spread) -> tuple[str, ...]:
    interval = (
        "—"
        if spread.low is None or spread.high is None
        else f"{human_number(spread.low)} – {human_number(spread.high)}"
    )
    return (
        human_number(spread.mean),
        interval,
        "—" if spread.cv is None else f"{spread.cv:.1%}",
        str(len(spread.values)),
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""

    def line(cells: Sequence[str]) -> str:
        return (
            "| "
            + " | ".join(" ".join(cell.replace("|", "\\|").split("\n")) for cell in cells)
            + " |"
        )

    return [line(columns), "|" + " --- |" * len(columns), *(line(row) for row in rows)]
