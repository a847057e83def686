"""Client timing error: records compared with the reference server's timestamps, per request.

Both sides use the same host's monotonic clock, so a difference is an error. Requests are paired by
id and tokens by their place in the response; quantiles are over the differences.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.tables import chunk_times

_S: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles (nearest rank) of errors or delays in seconds; None without a value."""

    p50_s: float | None
    p99_s: float | None
    max_s: float | None
    n: int


def spread(values_s: "npt.ArrayLike") -> Spread:
    """Quantiles of values in seconds, rounded to nanoseconds."""
    ordered = np.sort(np.asarray(values_s, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return Spread(None, None, None, 0)
    p50, p99 = (float(ordered[min(n - 1, int(share * n))]) for share in (0.5, 0.99))
    return Spread(round(p50, 9), round(p99, 9), round(float(ordered[-1]), 9), n)


@dataclass(slots=True)
class Errors:
    """Result of pairing; lists are in seconds.

    Attributes:
        ttft_s: per request, recorded time of the first token - time just before the server wrote
            it.
        gap_s: per pair of adjacent tokens, |recorded gap - true gap|.
        sent_s: per request, recorded send time - the server's receipt of the last byte, at least 0.
            A late `sent` makes latencies from it too short.
        lag_s: per request, actual - scheduled send time.
        events: paired tokens.
        unpaired: completed requests without truth or with other content than the server wrote.
    """

    ttft_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)
    sent_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    events: int = 0
    unpaired: int = 0

    def spreads(self) -> dict[str, Spread]:
        """`ttft_error`, `gap_error`, `sent_error`, `send_lag`."""
        return {
            "ttft_error": spread(self.ttft_s),
            "gap_error": spread(self.gap_s),
            "sent_error": spread(self.sent_s),
            "send_lag": spread(self.lag_s),
        }


def read_truth(path: Path) -> dict[str, Mapping[str, Any]]:
    """Request id -> line of the truth; damaged lines and a missing file are skipped."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return {}
    truth: dict[str, Mapping[str, Any]] = {}
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("request_id"), str):
            truth[value["request_id"]] = value
    return truth


def pair(rows: Iterable[Mapping[str, Any]], truth: Mapping[str, Mapping[str, Any]]) -> Errors:
    """Compare records (columns of `tables.REQUESTS`; only completed ones count) with the truth."""
    found = Errors()
    for row in rows:
        if row["sent_ns"] is not None:
            found.lag_s.append((row["sent_ns"] - row["intended_ns"]) * _S)
        if row["outcome"] != "ok":
            continue
        line = truth.get(row["request_id"])
        errors = None if line is None else _token_errors_ns(row, line)
        if line is None or errors is None:
            found.unpaired += 1
            continue
        found.ttft_s.append(float(errors[0]) * _S)
        found.gap_s.extend((np.abs(np.diff(errors)) * _S).tolist())
        found.sent_s.append(max(0, row["sent_ns"] - line["received_ns"]) * _S)
        found.events += len(errors)
    return found


def _token_errors_ns(
    row: Mapping[str, Any], line: Mapping[str, Any]
) -> npt.NDArray[np.int64] | None:
    """Per token: read time - write time of its last byte; None if the responses differ."""
    written, size = line.get("content_ns"), line.get("content_bytes")
    if (
        not written
        or not size
        or len(written) != len(size)
        or not row["chunk_dt_us"]
        or len(row["chunk_dt_us"]) != len(row["chunk_bytes"])
    ):
        return None
    read_ns = chunk_times(
        np.array([row["first_token_ns"]], dtype=np.int64),
        np.asarray(row["chunk_dt_us"], dtype=np.int64),
        np.array([0, len(row["chunk_dt_us"])]),
    )
    read_bytes = np.cumsum(np.asarray(row["chunk_bytes"], dtype=np.int64))
    written_bytes = np.cumsum(np.asarray(size, dtype=np.int64))
    if read_bytes[-1] != written_bytes[-1]:
        return None
    return np.asarray(
        read_ns[np.searchsorted(read_bytes, written_bytes)] - np.asarray(written, dtype=np.int64),
        dtype=np.int64,
    )
