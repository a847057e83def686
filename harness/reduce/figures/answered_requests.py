"""What any load tool sees of a stage: its answered requests, timed from sending. Arrays are made
when asked for and not kept.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from harness.artifacts.run_summary import Distribution
from harness.core.records import Boundary
from harness.reduce.energy.devices import Energy, energies
from harness.reduce.over_time.flows import Flows
from harness.reduce.over_time.tokens import gaps
from harness.reduce.read.categorical import Bools
from harness.reduce.read.expected_gpus import expected_gpus
from harness.reduce.read.run import Run, gpu_count
from harness.reduce.statistics.intervals import QUANTILES, Floats, distribution, percentile
from harness.reduce.windows.measurement_window import StageWindow

NS: Final = 1e-9


class AnsweredRequests:
    """Answered requests of one stage.

    Args:
        run: the run.
        window: of the stage.
        mine: which requests; at least one.
        flow: of all requests.

    Attributes:
        requests: how many.
        duration_s: from the first sending to the last answer's end; NaN where that is no time.
        output_tok: the server's count over all of them.
        input_tok: likewise, of whole prompts.
        concurrency: live conversations of a closed loop, else the highest number of requests in
            flight.
        gpus: that the deployment holds; None without any.
        gpu_name: of the first board; None if unknown.
        energy: of the boards from first sending to last answer, as read: without the sensors'
            calibration, and whether they were throttled or not; None where it was not read.
    """

    def __init__(self, run: Run, window: StageWindow, mine: Bools, flow: Flows) -> None:
        self._run = run
        self._mine = mine
        self._told = flow.output.told
        self._spreads: dict[str, tuple[Distribution, Distribution]] = {}
        sent, done = self.column("sent"), self.column("done")
        start, end = float(np.min(sent)), float(np.max(done))
        self.requests = len(sent)
        self.duration_s = (end - start) * NS if end > start else float("nan")
        self.output_tok = float(np.nansum(self.column("output_tok")))
        self.input_tok = float(np.nansum(self.column("input_tok")))
        self.concurrency = window.concurrency or _most_in_flight(sent, done)
        self.gpus = gpu_count(run)
        self.gpu_name = next((gpu.name for gpu in run.manifest.hardware.gpus), None)
        found = energies(run.power, start, end, expected_gpus(run))
        self.energy: Energy | None = next(
            (energy for energy in found if energy.boundary == Boundary.GPU_BOARD), None
        )

    @classmethod
    def of(cls, run: Run, window: StageWindow, flow: Flows) -> "AnsweredRequests | None":
        """The stage's answered requests; None where there is none."""
        requests = run.requests
        stage = (requests.stage == window.name) & ~requests.priming
        mine = stage & requests.ok & ~np.isnan(requests.sent) & ~np.isnan(requests.done)
        return cls(run, window, mine, flow) if np.any(mine) else None

    def column(self, name: str) -> Floats:
        """One column of the requests."""
        return np.asarray(getattr(self._run.requests, name)[self._mine], dtype=np.float64)

    @property
    def output_tok_s(self) -> float:
        """Output tokens of all answered requests by the time that they took."""
        return self.output_tok / self.duration_s

    @property
    def total_tok_s(self) -> float:
        """Likewise, whole prompts included."""
        return (self.output_tok + self.input_tok) / self.duration_s

    def spread(self, key: str) -> Distribution:
        """Distribution of one of `ARRAYS`, or of the gaps: `chunk_gap`, `token_gap`."""
        return self._both(key)[0]

    def inverse(self, key: str) -> Distribution:
        """Distribution of its inverse, of values above 0."""
        return self._both(key)[1]

    def _both(self, key: str) -> tuple[Distribution, Distribution]:
        if key not in self._spreads:
            if key in ("token_gap", "chunk_gap"):
                self._spreads["chunk_gap"], self._spreads["token_gap"] = (
                    (one, Distribution()) for one in self._gaps()
                )
            else:
                values = ARRAYS[key](self)
                ordered = values[~np.isnan(values)]
                ordered.sort()
                above = ordered[np.searchsorted(ordered, 0.0, side="right") :]
                self._spreads[key] = (
                    _spread(ordered),
                    _spread(1.0 / above[::-1]) if key in INVERTED else Distribution(),
                )
        return self._spreads[key]

    def _gaps(self) -> tuple[Distribution, Distribution]:
        """Gaps between chunks in seconds: whole ones, and with every token of a chunk at the
        chunk's arrival: k - 1 gaps of nothing, then one whole gap.
        """
        gap_s, many = gaps(self._run.requests, self._mine, told=self._told, by_tok=False)
        whole = distribution(gap_s, weights=many)
        count = whole.n
        if not self._told or not count:
            return whole, whole
        together = max(0, int(np.nansum(np.maximum(self.column("output_tok") - 1, 0))) - count)
        weights = np.append(np.ones(len(gap_s)) if many is None else many, float(together))
        return whole, distribution(np.append(gap_s, 0.0), weights=weights)

    def after_first_tok(self) -> Floats:
        """Output tokens after the first chunk; NaN where the stream does not tell."""
        chunks = self._run.requests.chunks
        return np.asarray((chunks.tok_sum - chunks.first_tok)[self._mine], dtype=np.float64)

    def to_first_s(self) -> Floats:
        """From sending to the first chunk with content."""
        return (self.column("first_token") - self.column("sent")) * NS

    def to_last_s(self) -> Floats:
        """From sending to the last chunk with content, else to the answer's end."""
        last = self.column("last_token")
        return (np.where(np.isnan(last), self.column("done"), last) - self.column("sent")) * NS

    def to_done_s(self) -> Floats:
        """From sending to the answer's end."""
        return (self.column("done") - self.column("sent")) * NS


def _pace(span_s: Floats, tok: Floats) -> Floats:
    out = np.full(len(span_s), np.nan)
    there = tok > 0
    out[there] = span_s[there] / tok[there]
    return out


ARRAYS: Final[Mapping[str, Callable[[AnsweredRequests], Floats]]] = {
    "ttft": lambda seen: seen.to_first_s(),
    "ttft_of_several": lambda seen: np.where(
        seen.column("output_tok") > 1, seen.to_first_s(), np.nan
    ),
    "pace": lambda seen: _pace(seen.to_last_s() - seen.to_first_s(), seen.column("output_tok") - 1),
    "pace_to_end": lambda seen: _pace(
        seen.to_done_s() - seen.to_first_s(), seen.column("output_tok") - 1
    ),
    "pace_after_chunk": lambda seen: _pace(
        seen.to_done_s() - seen.to_first_s(), seen.after_first_tok()
    ),
    "whole_pace": lambda seen: _pace(seen.to_last_s(), seen.column("output_tok")),
    "whole_pace_to_end": lambda seen: _pace(seen.to_done_s(), seen.column("output_tok")),
}
"""One value a request, NaN where it has none. `pace`: seconds per output token after the first;
`whole_pace`: the first included.
"""

INVERTED: Final = frozenset({"pace", "pace_to_end", "whole_pace_to_end"})
"""Those whose inverse is asked for."""


def _spread(ordered: Floats) -> Distribution:
    """Of ascending values."""
    n = len(ordered)
    if n == 0:
        return Distribution()
    quantiles: dict[str, Any] = {name: percentile(ordered, q) for name, q in QUANTILES.items()}
    smallest, largest = float(ordered[0]), float(ordered[-1])
    mean = min(max(float(np.sum(ordered)) / n, smallest), largest)
    return Distribution(mean=mean, max=largest, min=smallest, n=n, **quantiles)


def _most_in_flight(sent: Floats, done: Floats) -> int:
    """Starts before a moment less ends up to it, at its highest: right after some start."""
    starts = np.sort(sent)
    ended = np.searchsorted(np.sort(done), starts, side="right")
    return int(np.max(np.arange(1, len(starts) + 1) - ended))
