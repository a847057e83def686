"""Checks whether runs are comparable. A key that differs is an error with its name, unless it is
allowed to differ.
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
"""Largest relative difference of mean output lengths under `natural` for the same work."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One key that must be equal. `read` gives a run's value, None if it is not recorded. A missing
    value is an error if `required`, else it is noted as unchecked.
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
    Identity("model", required=True, read=lambda run: run.model.model_id or None),
    Identity("tokenizer", required=False, read=lambda run: run.model.fingerprint),
    Identity("output_length", required=True, read=lambda run: run.output_length),
    Identity("context_scale", required=True, read=lambda run: _context_scale(run)),
    Identity("boundary", required=False, read=lambda run: _power_boundary(run)),
)
"""Keys that must be equal. `mean_output_tok` and `verdict` have rules of their own."""

MISMATCH_KEYS: Final = (*(identity.key for identity in IDENTITY), "mean_output_tok", "verdict")
"""Values of `--allow-mismatch`."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An identity key that differs and was allowed to."""

    key: str
    baseline: str
    other: str

    def __str__(self) -> str:
        return f"{self.key}: {self.baseline} vs. {self.other}"


def check_keys(allow: Sequence[str]) -> None:
    """Check the names of identity keys.

    Raises:
        ProfileError: an unknown key.
    """
    unknown = [key for key in allow if key not in MISMATCH_KEYS]
    if unknown:
        raise ProfileError(
            f"unknown identity key {unknown[0]!r}",
            next_step=f"use one of: {', '.join(MISMATCH_KEYS)}",
        )


def verdicts(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    """Check that no run is invalid.

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
                    "run it again, or pass --allow-mismatch verdict to show it without any claim"
                ),
            )
        yield Mismatch("verdict", str(runs[0].status), f"{run.status} ({run.run_id})")


def identities(runs: Sequence[RunResult], allow: Sequence[str]) -> Iterator[Mismatch]:
    """Compare every run's identity keys with the first run's.

    Raises:
        NotComparableError: a key differs or is not recorded.
    """
    first = runs[0]
    for identity in IDENTITY:
        mine = identity.read(first)
        if identity.key == "boundary":
            # Of the first run with power: one without has absent rows, not another boundary.
            first = next((run for run in runs if identity.read(run) is not None), runs[0])
            mine = identity.read(first)
        if mine is None and identity.required and identity.key not in allow:
            raise NotComparableError(
                f"{first.path} does not record its {identity.key} and cannot be compared",
                cause="another version made it, or its manifest is incomplete",
                next_step=f"run it again, or pass --allow-mismatch {identity.key}",
            )
        for run in runs:
            its = identity.read(run)
            if mine == its or (identity.key == "boundary" and None in {mine, its}):
                continue
            pair = (_shown(mine), str(first.path)), (_shown(its), str(run.path))
            yield _mismatch(identity.key, *pair, run.run_id, allow)


def output_lengths(
    sides: Mapping[str, Sequence[RunResult]], allow: Sequence[str]
) -> Iterator[Mismatch]:
    """Under `natural` the server decides how much work it does: mean output lengths of sides must
    agree within 2% or within chance.

    Single repeats are not compared, because their lengths depend on their seeds. Chance is
    estimated from the runs' confidence intervals; without these only the 2% count.

    Raises:
        NotComparableError: mean output lengths of two sides differ by more.
    """
    for (first, baseline, mine), (label, members, its), chance in _natural(sides):
        if mine is None and its is None:
            continue  # neither has a response: every row about responses is absent
        if mine is not None and its is not None and not _apart(mine, its, chance):
            continue
        a, b = (_shown(None if one is None else human_number(one)) for one in (mine, its))
        pair = (a, _where(first, baseline)), (b, _where(label, members))
        yield _mismatch("mean_output_tok", *pair, label, allow)


def lengths_by_chance(sides: Mapping[str, Sequence[RunResult]]) -> Iterator[str]:
    """Notes on sides whose mean output lengths differ by more than the tolerance, but within
    chance.
    """
    for (first, _, mine), (label, _, its), chance in _natural(sides):
        if mine is None or its is None:
            continue
        if _apart(mine, its) and not _apart(mine, its, chance):
            yield (
                f"Mean output lengths of {first} and {label} ({human_number(mine)} and"
                f" {human_number(its)} tokens) differ by more than {OUTPUT_LENGTH_TOLERANCE:.0%},"
                f" but within chance (±{human_number(chance)})."
            )


_Lengths = tuple[str, Sequence[RunResult], float | None]


def _natural(
    sides: Mapping[str, Sequence[RunResult]],
) -> Iterator[tuple[_Lengths, _Lengths, float]]:
    """The baseline and each side with natural lengths: (label, runs, mean output length) of both,
    and the difference that chance explains.
    """
    (first, baseline), *others = sides.items()
    for label, members in others:
        if OutputLength.NATURAL in {run.output_length for run in (*baseline, *members)}:
            pair = (
                (first, baseline, _mean_output(baseline)),
                (label, members, _mean_output(members)),
            )
            yield *pair, _chance(baseline, members)


def unchecked(runs: Sequence[RunResult]) -> list[str]:
    """Optional keys that no run records, so that they were not compared."""
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
            cause="they did not measure the same thing, so ratios of their metrics mean nothing",
            next_step=(
                f"{_TO_EQUAL.get(key, f'compare runs with equal {key}')}, or pass --allow-mismatch"
                f" {key} (the result shows it)"
            ),
        )
    return Mismatch(key, mine[0], f"{its[0]} ({whose})")


_TO_EQUAL: Final[Mapping[str, str]] = {
    "metric_version": "update both with `harness reduce RUN`",
}
"""How to make a key equal without another run."""


def _where(label: str, members: Sequence[RunResult]) -> str:
    return str(members[0].path) if len(members) == 1 else f"the {len(members)} runs of {label}"


def _mean_output(members: Sequence[RunResult]) -> float | None:
    values = [run.figure("mean_output_tok").value for run in members]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _apart(mine: float, its: float, chance: float = 0.0) -> bool:
    return abs(its - mine) > max(OUTPUT_LENGTH_TOLERANCE * max(abs(mine), abs(its)), chance)


def _chance(*sides: Sequence[RunResult]) -> float:
    """Half-width of the 95% interval of the difference of two sides' mean lengths; 0 if a run has
    none.
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
    """The run's first power boundary; None without power."""
    found = (run.figure(key) for key in ("power_w", "energy_j", "output_tok_per_j"))
    return next((one.boundary for one in found if one.value is not None), None)


def _shown(value: object) -> str:
    return "not recorded" if value is None else str(value)


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else {}
