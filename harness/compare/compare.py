"""Compares runs: only comparable ones, with a verdict only where repeats support it.

Arguments make sides (`harness.compare.groups`); the first is the baseline A, the others are B, C, …
Hardware and settings that differ on purpose head the table.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from harness.artifacts.run_result import RunResult
from harness.compare.comparability import (
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
    members_of,
    mixed,
    names,
    side_label,
    treatments,
)
from harness.compare.ratios import (
    BOARD_SENSOR_ERROR,
    CLAIMING,
    HEADLINE,
    MIN_REPEATS,
    Row,
    Spread,
    rows,
)
from harness.compare.stages import (
    StageComparison,
    at_stage,
    compare_stages,
    headline_difference,
    headline_treatment,
)
from harness.core.errors import ArtifactError, ProfileError
from harness.core.records import Status
from harness.core.units import human_number
from harness.profile.thresholds import Threshold


@dataclass(frozen=True, slots=True)
class Side:
    """Runs that are repeats of each other: A is the baseline, then B, C, … `name` is from what
    distinguishes it from the others.
    """

    label: str
    name: str
    runs: tuple[str, ...]
    paths: tuple[str, ...]
    statuses: tuple[str, ...]
    seeds: tuple[int | None, ...] = ()

    @property
    def title(self) -> str:
        return f"{self.label}: {self.name}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Sides, what differs between them on purpose, and ratios to the first; a single side shows the
    spread of its repeats.

    Attributes:
        metrics: of the headline stage; empty if the sides have different ones.
        stages: the main metrics of every load stage, paired by name; empty if all runs have the
            same single stage.
    """

    sides: tuple[Side, ...]
    treatments: tuple[Treatment, ...]
    allowed: Annotated[tuple[Mismatch, ...], Field(alias="allowed_mismatches")]
    metrics: tuple[Row, ...]
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...]
    stages: tuple[StageComparison, ...] = ()

    def treatment_columns(self) -> tuple[str, ...]:
        return (
            "treatment",
            *(
                f"{side.label} ({len(side.runs)} run{'s' if len(side.runs) > 1 else ''})"
                for side in self.sides
            ),
        )

    def treatment_rows(self) -> list[tuple[str, ...]]:
        """Verdicts, then treatments; those that differ are first and marked."""
        verdicts_row = ("verdict", *(", ".join(sorted(set(side.statuses))) for side in self.sides))
        ordered = sorted(self.treatments, key=lambda treatment: not treatment.differs)
        return [verdicts_row, *((f"* {t.key}" if t.differs else t.key, *t.values) for t in ordered)]

    def columns(self) -> tuple[str, ...]:
        if len(self.sides) == 1:
            return ("metric", "unit", "mean", "95% CI", "CV", "runs")
        others = [side.label for side in self.sides[1:]]
        return (
            "metric",
            "unit",
            "A",
            *(text for label in others for text in (label, f"{label}/A", "result")),
        )

    def rows(self) -> list[tuple[str, ...]]:
        return [self._row(row) for row in self.metrics]

    def _row(self, row: Row) -> tuple[str, ...]:
        if len(self.sides) == 1:
            return (row.name, row.unit, *_spread_text(row.spreads[0]))
        cells = [(human_number(cell.value), cell.text(), cell.says()) for cell in row.cells]
        return (row.name, row.unit, human_number(row.baseline), *itertools.chain(*cells))

    def stage_columns(self) -> tuple[str, ...]:
        return ("stage", *self.columns())

    def stage_rows(self) -> list[tuple[str, ...]]:
        """The main metrics of every stage; the name of a stage is in its first row."""
        return [
            (stage.name if position == 0 else "", *self._row(row))
            for stage in self.stages
            for position, row in enumerate(stage.metrics)
        ]

    def stage_remarks(self) -> list[str]:
        """Stages that are not on all sides, and stages with concerns."""
        found = [(stage.name, stage.remarks(len(self.sides))) for stage in self.stages]
        return [f"Stage {name}: {remark}" for name, remark in found if remark]

    def repeat_columns(self) -> tuple[str, ...]:
        return ("side", "run", "seed", *(row.name for row in self._headline()))

    def repeat_rows(self) -> list[tuple[str, ...]]:
        """Headline metrics of every repeat; outliers are marked ‡ and kept. Empty if no side has
        two runs.
        """
        if not self.metrics or all(len(side.runs) < MIN_REPEATS for side in self.sides):
            return []
        shown = []
        for position, side in enumerate(self.sides):
            for run, seed in zip(side.runs, side.seeds or (None,) * len(side.runs), strict=True):
                spreads = [row.spreads[position] for row in self._headline()]
                values = [
                    human_number(spread.values[run]) + (" ‡" if run in spread.outliers else "")
                    for spread in spreads
                ]
                shown.append((side.label, run, "—" if seed is None else str(seed), *values))
        return shown

    def to_markdown(self) -> str:
        runs = [f"- {side.title}: {', '.join(side.runs)}" for side in self.sides]
        blocks = ["# Comparison", "\n".join([*runs, *self.allowed_lines()])]
        blocks.append(table(self.treatment_columns(), self.treatment_rows()))
        if len(self.sides) > 1:
            blocks.append("Rows marked * differ.")
        if self.gates:
            rows = [gate.row() for gate in self.gates]
            blocks += ["## Gates", table(GateResult.COLUMNS, rows)]
        if self.metrics:
            blocks.append(table(self.columns(), self.rows()))
        blocks += self.stage_blocks()
        if repeats := self.repeat_rows():
            heading = "All repeats (‡ outlier; counted):"
            blocks += [heading, table(self.repeat_columns(), repeats)]
        return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in self.notes)]) + "\n"

    def stage_blocks(self) -> list[str]:
        """Heading, table and remarks of the stages as Markdown; empty without stages."""
        if not self.stages:
            return []
        blocks = ["## Stages", table(self.stage_columns(), self.stage_rows())]
        remarks = [f"- {remark}" for remark in self.stage_remarks()]
        return [*blocks, "\n".join(remarks)] if remarks else blocks

    def allowed_lines(self) -> list[str]:
        return [f"- **mismatch allowed:** {mismatch}" for mismatch in self.allowed]

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
    """Compare runs or folders of repeats with the first one, or with `baseline`, which is side A
    then.

    Args:
        paths: run directories, or folders of repeats.
        allow_mismatch: keys that may differ (`MISMATCH_KEYS`); the result lists the differences.
        baseline: run or folder.
        group_by: treatment keys whose equal values make a side; default: each variant of each
            folder, or runs of equal treatment.
        gates: conditions on every side but the baseline, or on the only side.
        sensor_error: bound of a GPU sensor's gain error, relative.

    Raises:
        ProfileError: nothing to compare, a run twice, a baseline of several variants, or an unknown
            key.
        ArtifactError: not a reduced run, or a series whose first variant has no finished run.
        InvalidRunError: an invalid run, unless `verdict` is allowed.
        NotComparableError: an identity key differs or is not recorded.
    """
    check_keys(allow_mismatch)
    sets = [load_set(path) for path in ([baseline] if baseline is not None else []) + list(paths)]
    members = members_of(sets)
    if baseline is not None:
        _one_variant(sets[0])
    elif sets[0].missing[:1] == sets[0].variants[:1] != ():
        raise ArtifactError(
            f"the baseline variant {sets[0].missing[0]!r} of {sets[0].path} has no finished run",
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
    comparable = headline_difference(plain) is None
    metrics = tuple(rows(plain, sensor_error)) if comparable else ()
    return Comparison(
        sides=tuple(
            Side(
                label=label,
                name=name,
                runs=tuple(run.run_id for run in side),
                paths=tuple(str(run.path) for run in side),
                statuses=tuple(str(run.status) for run in side),
                seeds=tuple(run.manifest.seed for run in side),
            )
            for (label, side), name in zip(plain.items(), called, strict=True)
        ),
        treatments=(*treatments(sides), *headline_treatment(plain)),
        metrics=metrics,
        stages=compare_stages(plain, metrics, sensor_error),
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
            f"the baseline {baseline.path} has {len(names)} variants: {', '.join(names)}",
            cause="a baseline is one side of a comparison",
            next_step=f"harness baseline save NAME {baseline.path} --variant {names[0]}",
        )


def _withheld(
    results: Sequence[GateResult], sides: Mapping[str, Sequence[RunResult]]
) -> tuple[GateResult, ...]:
    """The gates, without any that pass on invalid runs: those are shown without a claim."""
    first = next(iter(sides.values()))

    def shown(result: GateResult) -> GateResult:
        stage = result.threshold.stage
        invalid = dict.fromkeys(
            run.run_id
            for run in (*first, *sides[result.side])
            if (run if stage is None else at_stage(run, stage)).status is Status.INVALID
        )
        if not invalid or result.outcome is Outcome.FAILED:
            return result
        reason = f"invalid runs support no claim: {', '.join(invalid)}"
        return replace(result, outcome=Outcome.ABSENT, reason=reason)

    return tuple(shown(result) for result in results)


def _with_baseline(sides: Mapping[str, list[Member]], baseline: RunSet) -> dict[str, list[Member]]:
    """Sides with the baseline's runs as the first, separate from all others."""
    mine = [member for side in sides.values() for member in side if member.argument is baseline]
    others = [
        kept
        for side in sides.values()
        if (kept := [member for member in side if member.argument is not baseline])
    ]
    return {side_label(position): side for position, side in enumerate([mine, *others])}


def _notes(
    runs: Sequence[RunResult],
    sides: Mapping[str, Sequence[Member]],
    sets: Sequence[RunSet],
    sensor_error: float,
    by: Sequence[str],
) -> Iterator[str]:
    groups = {label: [member.run for member in members] for label, members in sides.items()}
    if len(sides) > 1 and not mixed(member for side in sides.values() for member in side):
        yield (
            "All runs have the same treatment: ratios show the spread between runs of one system,"
            " not an effect."
        )
    if (headlines := headline_difference(groups)) is not None:
        yield (
            f"Headline stages differ ({headlines}), so only stages of the same name are compared."
            " Set `headline` in the profiles to a stage's name to compare it as the headline."
        )
    few = [label for label, members in groups.items() if len(members) < MIN_REPEATS]
    if few:
        yield (
            f"Too few repeats ({', '.join(few)}): a comparison needs at least {MIN_REPEATS} runs"
            " per side, each with a new seed and a newly started server. Intervals of single runs"
            " are within-run: they show how steady a run was, not whether runs differ."
        )
    if len(few) < len(sides) and len(sides) > 1:
        yield (
            "Across repeats: ratios of geometric means with Welch's 95% t-interval. Better and"
            " worse are significant after Holm's correction, at 5% for all headline metrics of a"
            " side and at 5% for all others. Energy on different GPUs must also differ by more than"
            f" their sensor error ({sensor_error:.0%} per GPU)."
        )
        if any(len(run.summary.stages) > 1 for run in runs):
            yield (
                "Stages other than the headline stage: significant after correction for all of"
                " them, at 5% per side."
            )
    for label, members in groups.items():
        if len(members) > 1 and len({run.manifest.seed for run in members}) < len(members):
            yield (
                f"Runs of {label} share a seed: they are not independent, so their spread is"
                " underestimated."
            )
    for label, side in sides.items():
        if found := mixed(side, by):
            yield f"Runs of {label} differ in {', '.join(found)}, but count as repeats."
    yield from lengths_by_chance(groups)
    for key in unchecked(runs):
        yield f"No run records its {key}: it was not compared."
    made_by = {(run.manifest.harness and run.manifest.harness.version) or "unknown" for run in runs}
    if len(made_by) > 1:
        yield f"Made by different versions of the harness: {', '.join(sorted(made_by))}."
    for status in dict.fromkeys(run.status for run in runs if run.status not in CLAIMING):
        mine = [run.run_id for run in runs if run.status is status]
        are, them = ("is", "it") if len(mine) == 1 else ("are", "them")
        yield f"{', '.join(mine)} {are} {status}: no claim is made from {them}."
    for one in sets:
        yield from (f"{left_out}." for left_out in one.left_out)
        for name in one.missing:
            yield f"{name} has no finished run in {one.path.name} and is not a side."


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


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""

    def line(cells: Sequence[str]) -> str:
        shown = (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(shown)} |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])
