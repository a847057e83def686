"""Gathers the figures of one window, with what their intervals are made from."""

from collections.abc import Callable
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Figure
from harness.core.metrics import METRICS
from harness.core.records import Basis
from harness.reduce.over_time.flow import Flow, SumOf
from harness.reduce.statistics.intervals import BATCHES, Floats, batch_edges, ratio_interval
from harness.reduce.windows.measurement_window import StageWindow

NS: Final = 1e-9
MIN_BATCH_S: Final = 1.0
"""Intervals are not made of batches shorter than this."""

PerBin = Callable[[Floats], Floats]
"""Amounts between edges of time."""


class FigureSet:
    """Figures of one window.

    Attributes:
        window: name of its stage.
        start: nanoseconds from the run's start, NaN without a window.
        end: likewise.
        length_s: of the window.
        edges: of the batches that intervals are made of; None where the window is too short.
        figures: key -> figure, in the order in which they were added.
    """

    def __init__(self, window: StageWindow) -> None:
        self.window = window.name
        self.start = window.start if window.start is not None else np.nan
        self.end = window.end if window.end is not None else np.nan
        self.length_s = (self.end - self.start) * NS
        fits = self.length_s / BATCHES >= MIN_BATCH_S
        self.edges = batch_edges(self.start, self.end, BATCHES) if fits else None
        self.figures: dict[str, Figure] = {}

    def absent(self, key: str, note: str) -> None:
        """Add a figure without a value, with the reason."""
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
        """Add one figure.

        Args:
            key: of the metric.
            value: None: absent, with the note as its reason.
            interval: statistical, 95 %.
            basis: of the value.
            boundary: where it is not the metric's own.
            note: where it comes from.
            suffix: `@boundary` at further boundaries, where absent figures are left out.
            systematic: ratio, low and high end by the sensors' gain errors.
        """
        if value is None or not np.isfinite(value):
            if not suffix:
                self.absent(key, note or "nothing to take it from")
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
        """95 % interval of the ratio of two amounts, by batches; None where there is none."""
        return None if self.edges is None else ratio_interval(top(self.edges), bottom(self.edges))

    def rate(
        self, key: str, flow: Flow | SumOf, note: str | None = None
    ) -> tuple[float, float] | None:
        """Add an amount in the window per second; returns its interval."""
        if self.edges is None:
            interval, amount = None, flow.between(self.start, self.end)
        else:
            amounts = flow.per_bin(self.edges)
            interval = ratio_interval(amounts, np.diff(self.edges) * NS)
            amount = float(np.sum(amounts))
        self.put(key, amount / self.length_s, interval, note=note)
        return interval
