"""Load stages in a few words. The plan's hash includes them, so they must not change."""

from typing import assert_never

from harness.profile.stages import (
    AllAtOnceStage,
    ArrivalRateStage,
    ConcurrencyStage,
    DiurnalStage,
    OpenStage,
    RampStage,
    ReplayStage,
    Stage,
    StepStage,
)


def in_words(stage: Stage) -> str:
    """A stage for tables: `8 live`, `5/s poisson`, `0 to 20/s in 300 s, gamma (CV 3)`."""
    what = "requests" if stage.over == "requests" else ""
    match stage:
        case ConcurrencyStage():
            return " ".join(filter(None, (str(stage.concurrency), what, "live")))
        case ReplayStage():
            return " ".join(filter(None, (what, "at the trace's times")))
        case AllAtOnceStage():
            return f"{stage.sessions} {what or 'sessions'} at once"
        case ArrivalRateStage():
            rate = f"{stage.rate_per_s:g}/s"
        case RampStage():
            rate = f"{stage.from_per_s:g} to {stage.to_per_s:g}/s in {stage.ramp_s:g} s,"
        case StepStage():
            rate = "".join(f"{one.rate_per_s:g}/s for {one.for_s:g} s, " for one in stage.steps)
            rate = rate.rstrip()
        case DiurnalStage():
            rate = f"a day of {stage.rate_per_s:g}/s, {stage.time_scale:g} times as fast,"
        case _:
            assert_never(stage)
    return " ".join(filter(None, (rate, what, _law(stage))))


def _law(stage: OpenStage) -> str:
    if stage.process == "gamma" and stage.cv is not None:
        return f"gamma (CV {stage.cv:g})"
    if stage.process == "weibull" and stage.weibull_shape is not None:
        return f"weibull (shape {stage.weibull_shape:g})"
    return stage.process
