"""Collects the metrics of one window, with the batches for their intervals."""

from collections.abc import Callable
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Figure
from harness.core.metrics import METRICS
from harness.core.records import Basis
from harness.reduce.over_time.flow import Flow, SumOf
from harness.reduce.statistics.intervals import BATCHES, Floats, ratio_interval
from harness.reduce.windows.measurement_window import StageWindow

NS: Final = 1e-9
MIN_BATCH_S: Final = 1.0
"""Minimum length of a batch for an interval."""

PerBin = Callable[[Floats], Floats]
"""Amounts between edges of time."""


class FigureSet:
    """Metrics of one window.

    Attributes:
        window: name of its stage.
        start, end: nanoseconds from the run's start, NaN without a window.
        edges: of the batches for intervals; None if the window is too short.
    """

    def __init__(self, window: StageWindow) -> None:
        self.window = window.name
        self.start = window.start if window.start is not None else np.nan
        self.end = window.end if window.end is not None else np.nan
        self.length_s = (self.end - self.start) * NS
        fits = self.length_s / BATCHES >= MIN_BATCH_S
        self.edges = np.linspace(self.start, self.end, BATCHES + 1) if fits else None
        self.figures: dict[str, Figure] = {}  # in order of addition

    def absent(self, key: str, note: str) -> None:
        """Add a metric without a value, with the reason."""
        self.figures[key] = Figure(
            None, METRICS[key].unit, basis=Basis.ABSENT, window=self.window, note=note
        )

    def put(
        self,
        key: str,
        value: float | None,
        interval: tuple[float, float] | None = None,
        *,
        basis: Basis = Basis.MEASURED,
        boundary: str | None = None,
        note: str | None = None,
        suffix: str = "",
        systematic: tuple[float, float, float] | None = None,
    ) -> None:
        """Add one metric; absent without a value, with the note as its reason.

        Args:
            key: of the metric.
            value: in the metric's unit.
            interval: statistical, 95%.
            basis: of the value.
            boundary: if not the metric's own.
            note: source of the value.
            suffix: `@boundary` at further boundaries, which omit absent values.
            systematic: ratio, low and high end from the sensors' gain errors.
        """
        if value is None or not np.isfinite(value):
            if not suffix:
                self.absent(key, note or "no data")
            return
        definition = METRICS[key]
        low, high = interval or (None, None)
        ratio, systematic_low, systematic_high = systematic or (None, None, None)
        self.figures[key + suffix] = Figure(
            float(value),
            definition.unit,
            low,
            high,
            basis,
            boundary or definition.boundary,
            self.window,
            note,
            ratio,
            systematic_low,
            systematic_high,
        )

    def interval(self, top: PerBin, bottom: PerBin) -> tuple[float, float] | None:
        """95% interval of the ratio of two amounts, by batches, or None."""
        return None if self.edges is None else ratio_interval(top(self.edges), bottom(self.edges))

    def rate(
        self, key: str, flow: Flow | SumOf, note: str | None = None
    ) -> tuple[float, float] | None:
        """Add an amount in the window per second; returns its interval."""
        interval = None
        if self.edges is None:
            amount = flow.between(self.start, self.end)
        else:
            amounts = flow.per_bin(self.edges)
            interval = ratio_interval(amounts, np.diff(self.edges) * NS)
            amount = float(np.sum(amounts))
        self.put(key, amount / self.length_s, interval, note=note)
        return interval
