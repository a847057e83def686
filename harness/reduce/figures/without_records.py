"""Metrics of a run without request records or token counts: what is unknown is not 0."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Figure
from harness.core.metrics import METRICS
from harness.core.records import Basis, Concern
from harness.reduce.figures.window_figures import StageFigures, tried
from harness.reduce.over_time.flows import Flows
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests

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
    return _absent(figure, _NOTE)


def _absent(figure: Figure, note: str) -> Figure:
    return Figure(None, figure.unit, basis=Basis.ABSENT, window=figure.window, note=note)


_OF_REQUESTS: Final = frozenset({"mean_output_tok", "mean_input_tok", "goodput_tok_s"})
"""Metrics of tokens that cover only requests with a count."""


def unless_counted(
    figures: StageFigures, requests: Requests, flow: Flows, who: Bools | None = None
) -> StageFigures:
    """The metrics, without those of tokens that no response counts: their sum is not 0.

    Output tokens are unknown if any content could not be estimated, prompt tokens if no request
    has a count. `who` are the requests of the metrics; None: all.
    """
    mine = np.ones(len(requests), dtype=bool) if who is None else who
    sent = mine & tried(requests)
    output = int(np.sum(sent & (requests.chunks.bytes_sum > 0) & np.isnan(flow.output.per_request)))
    prompt = bool(np.any(sent)) and bool(np.all(np.isnan(requests.input_tok[sent])))
    unknown: dict[str, str] = {}
    if output:
        have = "1 response has" if output == 1 else f"{output} responses have"
        note = f"{have} content, but no usable count of output tokens"
        unknown |= dict.fromkeys(("output", "total"), note)
    if prompt:
        unknown |= dict.fromkeys(("input", "total"), "no response has a count of prompt tokens")
    if not unknown:
        return figures
    return replace(
        figures, metrics={k: _counted(k, one, unknown) for k, one in figures.metrics.items()}
    )


def _counted(key: str, figure: Figure, unknown: Mapping[str, str]) -> Figure:
    plain = key.partition("@")[0]
    note = unknown.get(METRICS[plain].token_class or "")
    if note is None or figure.value is None or plain in _OF_REQUESTS or "interactivity" in plain:
        return figure
    return _absent(figure, note)
