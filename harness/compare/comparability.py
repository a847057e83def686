"""Which runs answer the same question. What does not is refused by the name of the key that
differs, unless that key is allowed.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.artifacts.run_result import RunResult
from harness.core.errors import InvalidRunError, NotComparableError, ProfileError
from harness.core.records import OutputLength, Severity, Status
from harness.core.units import human_number

OUTPUT_LENGTH_TOLERANCE: Final = 0.02
"""Largest relative difference of mean output lengths under `natural` before the sides did different
work.
"""


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
    Identity("schema_version", required=True, read=lambda run: run.summary.schema_version),
    # Token classes are part of a metric's definition, so equal versions mean equal classes.
    Identity("metric_version", required=True, read=lambda run: run.summary.metric_version),
    Identity(
        "workload_sha256",
        required=True,
        read=lambda run: run.summary.profile.workload_sha256 or run.manifest.workload_sha256,
    ),
    Identity(
        "model",
        required=True,
        read=lambda run: run.model.model_id or None,
    ),
    Identity("tokenizer", required=False, read=lambda run: run.model.fingerprint),
    Identity("output_length", required=True, read=lambda run: run.output_length),
    Identity("context_scale", required=True, read=lambda run: _context_scale(run)),
    Identity("boundary", required=False, read=lambda run: _power_boundary(run)),
)
"""Keys that are equal or recorded as allowed. `mean_output_tok` and `verdict` join them with rules
of their own.
"""

MISMATCH_KEYS: Final = (*(identity.key for identity in IDENTITY), "mean_output_tok", "verdict")
"""What `--allow-mismatch` takes."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An identity key that differs and was allowed to."""

    key: str
    baseline: str
    other: str

    def __str__(self) -> str:
        return f"{self.key}: {self.baseline} against {self.other}"


def check_keys(allow: Sequence[str]) -> None:
    """Refuse names that are no identity key.

    Raises:
        ProfileError: one of them is not.
    """
    unknown = [key for key in allow if key not in MISMATCH_KEYS]
    if unknown:
        raise ProfileError(
            f"{unknown[0]!r} is no identity key",
            next_step=f"use one of: {', '.join(MISMATCH_KEYS)}",
        )


def verdicts(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    """Refuse invalid runs.

    Raises:
        InvalidRunError: a run is invalid and `verdict` is not allowed.
    """
    for run in runs:
        if run.status is not Status.INVALID:
            continue
        if "verdict" not in allow:
            reasons = [c.message for c in run.concerns if c.severity is Severity.INVALID]
            raise InvalidRunError(
                f"{run.path} is invalid and cannot be compared",
                cause=reasons[0] if reasons else "its summary has no verdict",
                next_step=(
                    "run it again, or pass --allow-mismatch verdict to see its figures without any"
                    " claim"
                ),
            )
        yield Mismatch("verdict", str(runs[0].status), f"{run.status} ({run.run_id})")


def identities(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    """Hold every run's identity keys against the first one's.

    Raises:
        NotComparableError: a key differs or is not recorded; it and both values are named.
    """
    first = runs[0]
    for identity in IDENTITY:
        mine = identity.read(first)
        if (
            identity.key == "boundary"
            # the first run that has power says it: one without has rows that are absent, not
            # another boundary
        ):
            first = next((run for run in runs if identity.read(run) is not None), runs[0])
            mine = identity.read(first)
        if mine is None and identity.required and identity.key not in allow:
            raise NotComparableError(
                f"{first.path} does not record its {identity.key}, so nothing can be compared"
                " with it",
                cause="it was made by another version, or its manifest is incomplete",
                next_step=f"run it again, or pass --allow-mismatch {identity.key}",
            )
        for run in runs:
            its = identity.read(run)
            if mine == its or (identity.key == "boundary" and None in {mine, its}):
                continue
            yield _mismatch(
                identity.key,
                (_said(mine), str(first.path)),
                (_said(its), str(run.path)),
                run.run_id,
                allow,
            )


def output_lengths(
    sides: Mapping[str, Sequence[RunResult]], allow: Sequence[str]
) -> Iterator[Mismatch]:
    """Under `natural` the server decides how much work it does; beyond 2 %, and beyond chance, it
    was not the same work.

    The means of whole sides are compared: lengths of single repeats differ by their seeds. What
    chance does is known from the runs' own intervals; without these the 2 % decide alone.

    Raises:
        NotComparableError: mean output lengths of two sides lie further apart.
    """
    (first, baseline), *others = sides.items()
    mine = _mean_output(baseline)
    for label, members in others:
        if OutputLength.NATURAL not in {run.output_length for run in (*baseline, *members)}:
            continue
        its = _mean_output(members)
        if mine is None and its is None:
            continue  # neither has an answer: every row about answers is absent
        if (
            mine is not None
            and its is not None
            and not _apart(mine, its, _chance(baseline, members))
        ):
            continue
        said = [
            human_number(value) if value is not None else "nothing recorded"
            for value in (mine, its)
        ]
        yield _mismatch(
            "mean_output_tok",
            (said[0], _where(first, baseline)),
            (said[1], _where(label, members)),
            label,
            allow,
        )


def lengths_by_chance(sides: Mapping[str, Sequence[RunResult]]) -> Iterator[str]:
    """Sides whose mean output lengths lie beyond the tolerance, but not beyond chance: they are
    compared, and it is told.
    """
    (first, baseline), *others = sides.items()
    mine = _mean_output(baseline)
    for label, members in others:
        its = _mean_output(members)
        if (
            mine is None
            or its is None
            or OutputLength.NATURAL not in {run.output_length for run in (*baseline, *members)}
        ):
            continue
        chance = _chance(baseline, members)
        if _apart(mine, its) and not _apart(mine, its, chance):
            yield (
                f"Mean output lengths of {first} and {label}, {human_number(mine)} and"
                f" {human_number(its)} tokens, are more than {OUTPUT_LENGTH_TOLERANCE:.0%} apart;"
                f" so few answers leave that to chance (±{human_number(chance)})."
            )


def unchecked(runs: Sequence[RunResult]) -> list[str]:
    """Keys that no run records, so that nothing was held against anything."""
    return [
        one.key
        for one in IDENTITY
        if not one.required and one.key != "boundary" and all(one.read(run) is None for run in runs)
    ]


def _mismatch(
    key: str, mine: tuple[str, str], its: tuple[str, str], whose: str, allow: Sequence[str]
) -> Mismatch:
    if key not in allow:
        raise NotComparableError(
            f"the runs differ in {key}: {mine[0]} in {mine[1]}, {its[0]} in {its[1]}",
            cause=(
                "they do not answer the same question, so a ratio of their figures would mean"
                " nothing"
            ),
            next_step=(
                f"{_TO_EQUAL.get(key, f'compare runs with equal {key}')}, or pass --allow-mismatch"
                f" {key}, which the result will show"
            ),
        )
    return Mismatch(key, mine[0], f"{its[0]} ({whose})")


_TO_EQUAL: Final[Mapping[str, str]] = {
    "metric_version": "bring both to this harness's definitions with `harness reduce RUN`",
}
"""What makes a key equal, where it is not another run."""


def _where(label: str, members: Sequence[RunResult]) -> str:
    return str(members[0].path) if len(members) == 1 else f"the {len(members)} runs of {label}"


def _mean_output(members: Sequence[RunResult]) -> float | None:
    values = [run.figure("mean_output_tok").value for run in members]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _apart(mine: float, its: float, chance: float = 0.0) -> bool:
    return abs(its - mine) > max(OUTPUT_LENGTH_TOLERANCE * max(abs(mine), abs(its)), chance)


def _chance(*sides: Sequence[RunResult]) -> float:
    """Half-width of the 95 % interval of how far two sides' mean lengths lie apart, by their runs'
    intervals; 0 where a run has none.
    """
    squares = 0.0
    for members in sides:
        for run in members:
            value = run.figure("mean_output_tok")
            if value.ci_low is None or value.ci_high is None:
                return 0.0
            squares += ((value.ci_high - value.ci_low) / 2 / len(members)) ** 2
    return math.sqrt(squares)


def _context_scale(run: RunResult) -> object:
    scale = run.summary.labels.context_scale
    return scale if scale is not None else run.manifest.plan.context_scale


def _power_boundary(run: RunResult) -> str | None:
    """Boundary of the figures at the run's first power boundary; None without power."""
    figures = (run.figure(key) for key in ("power_w", "energy_j", "output_tok_per_j"))
    return next((figure.boundary for figure in figures if figure.value is not None), None)


def _said(value: object) -> str:
    return "nothing recorded" if value is None else str(value)


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}
