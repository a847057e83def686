"""Metrics of a run without request records: what clients saw is unknown, not 0."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from harness.artifacts.run_summary import Figure
from harness.core.records import Basis, Concern
from harness.reduce.figures.window_figures import StageFigures

_CODE: Final = "requests_missing"
_NOTE: Final = "there are no request records"


_READ: Final = frozenset({"power_w", "energy_j", "idle_power_w", "ready_power_w", "active_power_w"})
"""Metrics that need no request records."""

OTHERS: Final = frozenset({"prefix_hit_ratio", "server_running", "server_waiting", "kv_usage"})
"""Time series from the server; those of power end with `_w`."""


def lost(concerns: Sequence[Concern]) -> bool:
    """Whether the request records are missing."""
    return any(concern.code == _CODE for concern in concerns)


def unless_recorded(figures: StageFigures, concerns: Sequence[Concern]) -> StageFigures:
    """The metrics, without those that depend on request records if these are missing."""
    if not lost(concerns):
        return figures
    return replace(
        figures, metrics={key: _known(key, figure) for key, figure in figures.metrics.items()}
    )


def _known(key: str, figure: Figure) -> Figure:
    """The metric if it comes from the server's counters or power meters, else an absent one."""
    if figure.value is None or figure.boundary == "server" or key.partition("@")[0] in _READ:
        return figure
    return Figure(None, figure.unit, basis=Basis.ABSENT, window=figure.window, note=_NOTE)
