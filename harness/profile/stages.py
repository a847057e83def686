"""Load stages: when requests are sent."""

from typing import Annotated, Final, Literal

from pydantic import Field

from harness.checked_yaml.fields import Number, Seconds, Strict, Text, Whole

STAGE_NAME: Final = r"[A-Za-z0-9._-]+"
"""Pattern of a stage's name."""


class StageBase(Strict):
    """Settings of every load stage."""

    name: str | None = Field(default=None, pattern=rf"^{STAGE_NAME}$")
    """Label in tables; default: kind and position."""
    warmup_s: Seconds | None = None
    """Warm-up: time from the stage's start that is not measured; default: detected in the data and
    subtracted from the window (docs/explanation/statistics.md).
    """
    window_s: Seconds | None = None
    """Length of the measurement window. Load continues after it until every request scheduled in it
    has finished.
    """
    sessions: Whole | None = Field(default=None, ge=1)
    """Ends the stage after this many sessions, started in plan order, have finished."""
    max_in_flight: Whole = Field(default=10_000, ge=1)
    """Limit of requests in flight, over all workers. One above it is recorded as dropped, never
    delayed.
    """
    part: Text | None = None
    """Use only this part of a `mix` workload, by name; default: all parts by their weights."""


Unit = Literal["sessions", "requests"]


class ConcurrencyStage(StageBase):
    """A closed loop with a fixed number of live sessions; when one ends, the next of the plan
    replaces it.
    """

    kind: Literal["concurrency"]
    concurrency: Whole = Field(ge=1, le=100_000)
    """Live sessions."""
    over: Unit = "sessions"
    """`requests` cuts each session to its first request, so that this many requests are always in
    flight.
    """
    start: Literal["steady", "fresh"] | None = None
    """`steady`: the first session of each slot starts midway, at a random, length-biased age. Its
    cached prefix is primed before the stage's clock starts. `fresh`: all start at their first turn.
    Default: steady under purpose measure, fresh under smoke.
    """


class OpenStage(StageBase):
    """Settings of every open loop with a random schedule."""

    process: Literal["poisson", "constant", "gamma", "weibull"] = "poisson"
    """Distribution of the gaps between starts at a rate of 1; the rate over time scales them."""
    cv: Number | None = Field(default=None, gt=0.05, le=50)
    """Coefficient of variation of gamma gaps: 1 is Poisson, above 1 is bursty (ServeGen's clients:
    p50 1.0 to 2.0, p90 5.6 to 27).
    """
    weibull_shape: Number | None = Field(default=None, gt=0.1, le=20)
    """Shape of Weibull gaps: 1 is Poisson, below 1 is bursty."""
    over: Unit = "sessions"
    """Unit of arrival. `requests` cuts each session to its first request: for single-turn work."""


class ArrivalRateStage(OpenStage):
    """An open loop: sessions start by a schedule drawn before the run, whatever the server does."""

    kind: Literal["arrival_rate"]
    rate_per_s: Number = Field(gt=0, le=100_000)
    """Session starts per second."""


class RampStage(OpenStage):
    """An open loop whose rate changes linearly from one value to another and stays there."""

    kind: Literal["ramp"]
    from_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second at the beginning."""
    to_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second at the end of the ramp and after it."""
    ramp_s: Seconds
    """Length of the ramp."""


class RateStep(Strict):
    """One step of a `step` stage."""

    rate_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second."""
    for_s: Seconds
    """Length of the step; the last one continues until the stage ends."""


class StepStage(OpenStage):
    """An open loop whose rate changes in steps."""

    kind: Literal["step"]
    steps: tuple[RateStep, ...] = Field(min_length=1)
    """The steps, in order."""


class HourFactor(Strict):
    """One point of a `diurnal` stage's curve."""

    hour: Number = Field(ge=0, lt=24)
    """Hour of the day."""
    factor: Number = Field(ge=0)
    """Factor on the rate at that hour."""


class DiurnalStage(OpenStage):
    """An open loop that follows the hours of a day in less time than a day. Only time is
    compressed, not the rates.
    """

    kind: Literal["diurnal"]
    rate_per_s: Number = Field(gt=0, le=100_000)
    """Starts per second at factor 1."""
    curve: tuple[HourFactor, ...] = ()
    """Factors on the rate by hour, interpolated linearly, also across midnight. Default: a sine
    around 1.
    """
    amplitude: Number = Field(default=0.5, ge=0, le=1)
    """Amplitude of the default sine: factor 1 + amplitude at the peak, 1 - amplitude twelve hours
    later.
    """
    peak_hour: Number = Field(default=15.0, ge=0, lt=24)
    """Hour of the sine's peak."""
    start_hour: Number = Field(default=0.0, ge=0, lt=24)
    """Hour at which the stage starts."""
    time_scale: Number = Field(default=60.0, ge=1, le=86_400)
    """Seconds of the day per second of the run: 60 makes a day of 24 minutes."""


class AllAtOnceStage(StageBase):
    """All sessions start with the stage, which ends when the last one finishes."""

    kind: Literal["all_at_once"]
    sessions: Whole = Field(ge=1)
    """Number of sessions."""
    over: Unit = "sessions"
    """`requests` cuts each session to its first request."""


class ReplayStage(StageBase):
    """The times of a trace: each session starts at its recorded time, and a later turn waits for
    its recorded time and for the previous response.
    """

    kind: Literal["replay"]
    over: Unit = "sessions"
    """`requests` cuts each session to its first request."""


Stage = Annotated[
    ConcurrencyStage
    | ArrivalRateStage
    | RampStage
    | StepStage
    | DiurnalStage
    | AllAtOnceStage
    | ReplayStage,
    Field(discriminator="kind"),
]


def stage_name(stage: Stage, index: int) -> str:
    """Name of the stage at a position of the load, as in the plan and the results."""
    return stage.name or f"{index}-{stage.kind}"
