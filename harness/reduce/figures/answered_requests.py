"""A stage as other load tools see it: completed requests, timed from sending. Arrays are computed
on demand and not kept.
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
from harness.reduce.read.spill import blocks
from harness.reduce.statistics.intervals import QUANTILES, Floats, distribution, percentile
from harness.reduce.windows.measurement_window import StageWindow

NS: Final = 1e-9


class AnsweredRequests:
    """Completed requests of one stage: those of `mine`, at least one.

    Attributes:
        requests: how many.
        duration_s: from the first send to the end of the last response; NaN if not positive.
        output_tok: the server's count over all of them; so is `input_tok`, cached part included.
            NaN if no response has one.
        concurrency: live sessions of a closed loop, else the maximum of requests in flight.
        gpus: of the deployment; None without any.
        gpu_name: of the first GPU.
        energy: of the GPUs over `duration_s`, without sensor calibration and even if throttled;
            None if it was not read.
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
        self.concurrency = window.concurrency or _most_in_flight(sent, done)
        del sent, done  # ten million rows: 160 MB
        self.output_tok = _known_sum(self.column("output_tok"))
        self.input_tok = _known_sum(self.column("input_tok"))
        self.gpus = gpu_count(run)
        self.gpu_name = next((gpu.name for gpu in run.manifest.hardware.gpus), None)
        found = energies(run.power, start, end, expected_gpus(run))
        self.energy: Energy | None = next(
            (energy for energy in found if energy.boundary == Boundary.GPU_BOARD), None
        )

    @classmethod
    def of(cls, run: Run, window: StageWindow, flow: Flows) -> "AnsweredRequests | None":
        """The stage's completed requests; None without any."""
        requests = run.requests
        stage = (requests.stage == window.name) & ~requests.priming
        mine = stage & requests.ok & ~np.isnan(requests.sent) & ~np.isnan(requests.done)
        return cls(run, window, mine, flow) if np.any(mine) else None

    def column(self, name: str) -> Floats:
        return np.asarray(getattr(self._run.requests, name)[self._mine], dtype=np.float64)

    @property
    def output_tok_s(self) -> float:
        return self.output_tok / self.duration_s

    @property
    def total_tok_s(self) -> float:
        return (self.output_tok + self.input_tok) / self.duration_s

    def spread(self, key: str) -> Distribution:
        """Distribution of a key of `ARRAYS`, or of gaps: `chunk_gap`, `token_gap`."""
        return self._both(key)[0]

    def inverse(self, key: str) -> Distribution:
        """Distribution of the inverse of its positive values."""
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
        """Gaps in seconds: between chunks; and between tokens if a chunk's k tokens arrive together
        (k - 1 gaps of 0, then one gap).
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
        """Output tokens after the first chunk; NaN if the stream does not report them."""
        chunks = self._run.requests.chunks
        return np.asarray((chunks.tok_sum - chunks.first_tok)[self._mine], dtype=np.float64)

    def to_first_s(self) -> Floats:
        return (self.column("first_token") - self.column("sent")) * NS

    def to_last_s(self) -> Floats:
        """From sending to the last chunk with content, else to the end of the response."""
        last = self.column("last_token")
        return (np.where(np.isnan(last), self.column("done"), last) - self.column("sent")) * NS

    def to_done_s(self) -> Floats:
        return (self.column("done") - self.column("sent")) * NS


def _known_sum(counts: Floats) -> float:
    known = counts[~np.isnan(counts)]
    return float(np.sum(known)) if len(known) else float("nan")


def _pace(span_s: Floats, tok: Floats) -> Floats:
    out = np.full(len(span_s), np.nan)
    there = tok > 0
    out[there] = span_s[there] / tok[there]
    return out


ARRAYS: Final[Mapping[str, Callable[[AnsweredRequests], Floats]]] = {
    "ttft": AnsweredRequests.to_first_s,
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
"""One value per request, NaN if it has none. `pace`: seconds per output token after the first;
`whole_pace`: over all tokens, from sending.
"""

INVERTED: Final = frozenset({"pace", "pace_to_end", "whole_pace_to_end"})
"""Keys whose inverse is used."""


def _spread(ordered: Floats) -> Distribution:
    n = len(ordered)
    if n == 0:
        return Distribution()
    quantiles: dict[str, Any] = {name: percentile(ordered, q) for name, q in QUANTILES.items()}
    smallest, largest = float(ordered[0]), float(ordered[-1])
    mean = min(max(float(np.sum(ordered)) / n, smallest), largest)
    return Distribution(mean=mean, max=largest, min=smallest, n=n, **quantiles)


def _most_in_flight(sent: Floats, done: Floats) -> int:
    """Maximum of starts - ends; it occurs right after some start. Sorts both."""
    sent.sort()
    done.sort()
    most = 0
    for rows in blocks(len(sent)):
        ended = np.searchsorted(done, sent[rows], side="right")
        most = max(most, int(np.max(np.arange(rows.start + 1, rows.stop + 1) - ended)))
    return most
