"""Load stages of runs, compared by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Headline, StageSummary, Verdict, Window
from harness.compare.groups import Treatment
from harness.compare.ratios import Row, rows
from harness.core.records import Purpose, Severity
from harness.reduce.verdict.judge import verdict_of

_METRICS: Final = (
    "ttft_s.p50",
    "ttft_s.p99",
    "tpot_s.p50",
    "tpot_s.p99",
    "goodput_rps",
    "output_tok_per_j",
    "usd_per_mtok",
)
"""Compared per stage, after the output throughput: per GPU, else of the deployment."""
_NO_WINDOW: Final = Window(None, None, None, "The run has no such stage.")


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One load stage of all sides.

    Attributes:
        sides: labels of the sides whose runs all have the stage.
        concerns: codes of the stage's concerns by side, without notes; sides without any are left
            out.
        metrics: the main metrics. On a side without the stage they are absent.
    """

    name: str
    sides: tuple[str, ...]
    concerns: Mapping[str, tuple[str, ...]]
    metrics: tuple[Row, ...]

    def remarks(self, sides: int) -> str:
        """Sides that have the stage if not all `sides` do, and concerns; empty without any."""
        found = [] if len(self.sides) == sides else [f"only in {', '.join(self.sides)}"]
        if not self.sides:
            found = ["not in all runs of any side"]
        found += [f"{label}: {', '.join(codes)}" for label, codes in self.concerns.items()]
        return "; ".join(found)


def stage_names(runs: Sequence[RunResult]) -> tuple[str, ...]:
    """Names of all stages of the runs, in their order."""
    return tuple(dict.fromkeys(stage.name for run in runs for stage in run.summary.stages))


def at_stage(run: RunResult, name: str) -> RunResult:
    """The run with a stage as its headline: metrics, latency, window and verdict are the stage's.
    Without the stage it has no metrics.
    """
    if name == run.headline_stage:
        return run
    stage = run.summary.stage(name)
    summary = replace(
        run.summary,
        headline=Headline(stage=name, rule=name),
        verdict=run.summary.verdict if stage is None else _verdict(run, stage),
        window=stage.window if stage is not None else _NO_WINDOW,
        metrics=stage.metrics if stage is not None else {},
        latency=stage.latency if stage is not None else {},
    )
    return replace(run, summary=summary)


def _verdict(run: RunResult, stage: StageSummary) -> Verdict:
    """The run's verdict with the concerns of a stage in place of those of the headline stage."""
    whole, smoke = run.summary.verdict, run.purpose == Purpose.SMOKE
    if verdict_of(whole.concerns, smoke=smoke).status is not whole.status:
        return whole  # not from its concerns, for example in a damaged summary
    top = run.summary.stage(run.headline_stage)
    of_headline = {(one.code, one.message) for one in (top.concerns if top is not None else ())}
    of_run = [
        one
        for one in whole.concerns
        if (one.code, one.message) not in of_headline and one.code != "window_cut"
    ]  # a stage that was cut has its own window_cut
    return verdict_of([*of_run, *stage.concerns], smoke=smoke)


def headline_difference(sides: Mapping[str, Sequence[RunResult]]) -> str | None:
    """The headline stages of all sides if they are not the same stage, else None. Runs of a single
    stage each are compared whatever its name.
    """
    runs = [run for members in sides.values() for run in members]
    if all(len(run.summary.stages) < 2 for run in runs):
        return None
    if len({name for run in runs if (name := run.headline_stage) is not None}) < 2:
        return None
    return "; ".join(f"{label}: {text}" for label, text in _headlines(sides).items())


def headline_treatment(sides: Mapping[str, Sequence[RunResult]]) -> tuple[Treatment, ...]:
    """The headline stages as a row of the table of treatments, if any run has several stages."""
    runs = [run for members in sides.values() for run in members]
    if all(len(run.summary.stages) < 2 for run in runs):
        return ()
    values = tuple(_headlines(sides).values())
    return (Treatment("headline stage", values, len(set(values)) > 1),)


def _headlines(sides: Mapping[str, Sequence[RunResult]]) -> dict[str, str]:
    return {
        label: " / ".join(dict.fromkeys(run.headline_stage or "unknown" for run in members))
        for label, members in sides.items()
    }


def compare_stages(
    sides: Mapping[str, Sequence[RunResult]], headline: Sequence[Row], sensor_error: float
) -> tuple[StageComparison, ...]:
    """All stages, paired by name; empty if every run has a single stage.

    Stages other than the headline stage are corrected for multiple comparisons together. The
    headline stage has the rows of the headline.

    Args:
        sides: runs by label; the first is the baseline.
        headline: rows of the headline, empty if the sides' headline stages differ.
        sensor_error: bound of a GPU sensor's gain error, relative.
    """
    runs = [run for members in sides.values() for run in members]
    names = stage_names(runs)
    if all(len(run.summary.stages) < 2 for run in runs):
        return ()
    throughput = "output_tok_s_per_gpu"
    if all(run.figure(throughput).value is None for run in runs):
        throughput = "output_tok_s"
    keys = (throughput, *_METRICS)
    top = next((run.headline_stage for run in runs if run.headline_stage), None)
    others = [name for name in names if not headline or name != top]
    found = []
    for name in names:
        if name in others:
            there = {label: [at_stage(run, name) for run in sides[label]] for label in sides}
            mine = tuple(rows(there, sensor_error, only=keys, stages=len(others)))
        else:
            mine = tuple(row for row in headline if row.key in keys)
        found.append(_stage(name, sides, mine))
    return tuple(found)


def _stage(
    name: str, sides: Mapping[str, Sequence[RunResult]], metrics: tuple[Row, ...]
) -> StageComparison:
    stages = {label: [run.summary.stage(name) for run in runs] for label, runs in sides.items()}
    codes = {
        label: tuple(
            dict.fromkeys(
                concern.code
                for stage in mine
                if stage is not None
                for concern in stage.concerns
                if concern.severity is not Severity.NOTE
            )
        )
        for label, mine in stages.items()
    }
    return StageComparison(
        name=name,
        sides=tuple(label for label, mine in stages.items() if None not in mine),
        concerns={label: found for label, found in codes.items() if found},
        metrics=metrics,
    )
