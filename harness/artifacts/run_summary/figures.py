"""Figures and distributions of a summary."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.typed_json import Number
from harness.core.records import Basis


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a metric.

    Attributes:
        value: in `unit`; None when absent.
        unit: as in the metric's definition.
        ci_low: lower end of the 95 % interval within this run; None where there are too few
            effective batches.
        ci_high: its upper end.
        basis: measured, modelled (uses a stated assumption such as a price) or absent.
        boundary: `client`, `server`, `deployment` or a power boundary; None when absent.
        window: name of the stage in whose window it was taken.
        note: why it is absent, or where it comes from.
        systematic_ratio: 95 % bound of an error that no repetition removes, relative to the value
            (gain of the power sensors); None where there is none or nobody knows it.
        systematic_low: lower end of the interval of that error alone.
        systematic_high: its upper end.
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

    Requests that never came to the moment in question are right-censored: percentiles that reach
    into their share are None, and so are mean and max as soon as there is one.

    Attributes:
        n: observed values.
        censored: values that are only known to be larger than what was waited for.
        ci: 95 % intervals within this run of the mean and the percentiles, by name, None where
            there are too few effective samples; empty where none were asked for.
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
