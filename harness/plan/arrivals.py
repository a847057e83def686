"""Start times of an open loop, drawn before the run from the seed.

A renewal process of rate 1 (gaps of mean 1: constant, exponential, gamma, Weibull) gives the marks
0 < m1 < m2 < …; the n-th start is when the integral of the rate reaches m_n. For Poisson gaps that
is the inhomogeneous Poisson process of that rate; for the others, the rate scales the gaps.
"""

import itertools
import math
from collections.abc import Iterator
from random import Random
from typing import Final

from harness.core.clock import NS_PER_S
from harness.plan.rng import stream
from harness.plan.types import Schedule, Segment
from harness.profile.stages import ArrivalRateStage, DiurnalStage, OpenStage, RampStage, StepStage

SINE_POINTS: Final = 96
"""Points of a diurnal sine: one per quarter of an hour, interpolated linearly (error at most 0.02%
of the mean).
"""
_DAY_H: Final = 24


def schedule_of(stage: OpenStage) -> Schedule:
    """The schedule of an open-loop stage."""
    shape = None
    if stage.process == "gamma":
        shape = (1.0 if stage.cv is None else stage.cv) ** -2
    elif stage.process == "weibull":
        shape = 1.0 if stage.weibull_shape is None else stage.weibull_shape
    return Schedule(stage.process, shape, _segments(stage), repeats=isinstance(stage, DiurnalStage))


def _segments(stage: OpenStage) -> tuple[Segment, ...]:
    match stage:
        case ArrivalRateStage():
            return (Segment(1.0, stage.rate_per_s, stage.rate_per_s),)
        case RampStage():
            return (Segment(stage.ramp_s, stage.from_per_s, stage.to_per_s),)
        case StepStage():
            return tuple(
                Segment(step.for_s, step.rate_per_s, step.rate_per_s) for step in stage.steps
            )
        case DiurnalStage():
            return _day(stage)
        case _:
            raise TypeError(f"{type(stage).__name__} has no schedule")


def _day(stage: DiurnalStage) -> tuple[Segment, ...]:
    """One day of the curve from its start hour, in seconds of the run."""
    points = sorted((point.hour, point.factor) for point in stage.curve)
    if not points:
        hours = [_DAY_H * i / SINE_POINTS for i in range(SINE_POINTS)]
        points = [
            (hour, 1 + stage.amplitude * math.cos(2 * math.pi * (hour - stage.peak_hour) / _DAY_H))
            for hour in hours
        ]

    def factor(hour: float) -> float:
        after = next((i for i, (at, _) in enumerate(points) if at > hour), len(points))
        (h0, f0), (h1, f1) = points[after - 1], points[after % len(points)]
        length = (h1 - h0) % _DAY_H or _DAY_H
        return f0 + (f1 - f0) * ((hour - h0) % _DAY_H) / length

    start = stage.start_hour
    marks = sorted({0.0, float(_DAY_H), *((hour - start) % _DAY_H for hour, _ in points)})
    per_hour_s = 3600 / stage.time_scale
    # The curve is continuous, so a segment ends with the value that begins the next one.
    return tuple(
        Segment(
            (b - a) * per_hour_s,
            stage.rate_per_s * factor((start + a) % _DAY_H),
            stage.rate_per_s * factor((start + b) % _DAY_H),
        )
        for a, b in itertools.pairwise(marks)
    )


LAST_START_S: Final = 1e9
"""Later starts, over 30 years ahead, are dropped: times stay within 64 bits of nanoseconds."""


def arrivals_ns(schedule: Schedule, seed: int, stage_name: str) -> Iterator[int]:
    """Starts in nanoseconds from the stage's start, in order. Ends only when the rate stays at 0,
    or too low for `LAST_START_S`.
    """
    if schedule.process == "all_at_once":
        yield from itertools.repeat(0)
        return
    segments = _endless(schedule)
    at_s, passed = 0.0, 0.0  # the beginning of the segment, and the integral of the rate up to it
    segment = Segment(0.0, 0.0, 0.0)
    for mark in _marks(schedule, stream(seed, "arrivals", stage_name)):
        while True:
            area = (segment.from_per_s + segment.to_per_s) / 2 * segment.length_s
            if mark <= passed + area:
                break
            at_s, passed = at_s + segment.length_s, passed + area
            try:
                segment = next(segments)
            except StopIteration:
                return
        start_s = at_s + _inverse(segment, mark - passed)
        if start_s > LAST_START_S:
            return
        yield round(start_s * NS_PER_S)


def _inverse(segment: Segment, area: float) -> float:
    """Time in a segment at which the integral of its rate reaches `area`."""
    slope = (segment.to_per_s - segment.from_per_s) / segment.length_s  # 0 for an endless one
    root = math.sqrt(max(0.0, segment.from_per_s**2 + 2 * slope * area))
    return 2 * area / (segment.from_per_s + root) if area else 0.0


def _endless(schedule: Schedule) -> Iterator[Segment]:
    """The segments, then the first again, or the final rate forever."""
    if schedule.repeats:
        yield from itertools.cycle(schedule.segments)
    last = schedule.segments[-1]
    if len(schedule.segments) > 1 or last.from_per_s != last.to_per_s:
        yield from schedule.segments
    if last.to_per_s > 0:
        yield Segment(math.inf, last.to_per_s, last.to_per_s)


def _marks(schedule: Schedule, rng: Random) -> Iterator[float]:
    """The renewal process of rate 1."""
    if schedule.process == "constant":
        yield from map(float, itertools.count(1))  # a sum would drift by rounding
        return
    at = 0.0
    shape = schedule.shape or 1.0
    weibull_scale = 1 / math.gamma(1 + 1 / shape)
    while True:
        match schedule.process:
            case "poisson":
                at += rng.expovariate(1.0)
            case "gamma":
                at += rng.gammavariate(shape, 1 / shape)
            case "weibull":
                at += rng.weibullvariate(weibull_scale, shape)
            case _:
                raise ValueError(f"unknown process {schedule.process}")
        yield at
