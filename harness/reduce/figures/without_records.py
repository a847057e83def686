"""Figures of a run whose request records are lost: what clients saw is unknown then, not
nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from harness.artifacts.run_summary import Figure
from harness.core.records import Basis, Concern
from harness.reduce.figures.window_figures import StageFigures

_CODE: Final = "requests_missing"
_NOTE: Final = "there are no request records"


_READ: Final = frozenset({"power_w", "energy_j", "idle_power_w", "ready_power_w", "active_power_w"})
"""What power meters tell by themselves."""

OTHERS: Final = frozenset({"prefix_hit_ratio", "server_running", "server_waiting", "kv_usage"})
"""Series over time that the server tells; watts have the ending `_w`."""


def lost(concerns: Sequence[Concern]) -> bool:
    """Whether there are no request records at all: nobody knows what was sent."""
    return any(concern.code == _CODE for concern in concerns)


def unless_recorded(figures: StageFigures, concerns: Sequence[Concern]) -> StageFigures:
    """The same figures, without those that zero requests would have yielded where nobody knows how
    many there were.
    """
    if not lost(concerns):
        return figures
    return replace(
        figures, metrics={key: _known(key, figure) for key, figure in figures.metrics.items()}
    )


def _known(key: str, figure: Figure) -> Figure:
    """A figure that the server's counters or the power meters yield; else none."""
    if figure.value is None or figure.boundary == "server" or key.partition("@")[0] in _READ:
        return figure
    return Figure(None, figure.unit, basis=Basis.ABSENT, window=figure.window, note=_NOTE)
