"""Metric values and distributions of a summary."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.typed_json import Number
from harness.core.records import Basis


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a metric.

    Attributes:
        value: in `unit`; None if absent.
        ci_low: lower end of the 95% confidence interval within this run, `ci_high` its upper end;
            None for too few effective batches.
        basis: measured, modeled (uses a stated assumption such as a price) or absent.
        boundary: `client`, `server`, `deployment` or a power boundary.
        window: name of the stage of its window.
        note: why it is absent, or its source.
        systematic_ratio: 95% bound of an error that repetition does not remove (gain of power
            sensors), relative; None if unknown.
        systematic_low: lower end of the interval of that error alone, `systematic_high` its upper
            end.
    """

    value: Number | None
    unit: str
    ci_low: Number | None = None
    ci_high: Number | None = None
    basis: Basis = Basis.MEASURED
    boundary: str | None = None
    window: str | None = None
    note: str | None = None
    systematic_ratio: Number | None = None
    systematic_low: Number | None = None
    systematic_high: Number | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution over requests (over gaps for itl_s and inter_event_s), in seconds.

    Requests that did not reach the event are right-censored: percentiles that reach into their
    share are None; mean and max are None with any.

    Attributes:
        n: observed values.
        censored: values that are only known to be large.
        ci: 95% confidence intervals within this run of the mean and the percentiles, by name; None
            for too few effective samples.
    """

    mean: Number | None = None
    p50: Number | None = None
    p90: Number | None = None
    p95: Number | None = None
    p99: Number | None = None
    p999: Number | None = None
    max: Number | None = None
    n: int = 0
    min: Number | None = None
    censored: int = 0
    ci: Mapping[str, tuple[Number, Number] | None] = field(default_factory=dict)
