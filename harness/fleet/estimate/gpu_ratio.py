"""Ratios between types of GPU: stated, or from published throughput."""

import math
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from harness.core.errors import NotComparableError, ProfileError
from harness.fleet.site.catalog import sanity
from harness.fleet.site.types import Prior, SanityRow

STATE_RATIO: Final = "state a ratio and its source: --modelled 1.2 --modelled-source …"
TOOL: Final = "aiconfigurator"
"""Name of NVIDIA's tool as a model."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Modeled throughput of one type of GPU over another's; low and high are None without a
    range.
    """

    value: float
    source: str
    low: float | None = None
    high: float | None = None

    def range_of(self, spread: Prior) -> dict[str, Any]:
        """Low, central and high; by the prior's spread without a range."""
        low, high, more = self.low, self.high, {}
        if low is None or high is None:
            low, high = spread.low * self.value, spread.high * self.value
        else:
            more = {"kind": "triangular" if low < high else "fixed"}
        return {"low": low, "value": self.value, "high": high, **more}


def ratio_rows(of: str, to: str) -> list[tuple[SanityRow, float]]:
    """Published throughput of one type of GPU over another's, for every model with both."""
    return [
        (row, row.tok_s_per_gpu[to] / row.tok_s_per_gpu[of])
        for row in sanity()
        if of in row.tok_s_per_gpu and to in row.tok_s_per_gpu
    ]


def no_ratio(of: str, to: str) -> Ratio:
    """Raise NotComparableError: there is no ratio."""
    raise NotComparableError(
        f"nothing is scaled from {of} to {to} without a model of their ratio",
        next_step="state one with --modelled",
    )


def check_ratio(text: str) -> tuple[float, float] | None:
    """Low and high of a ratio stated as a number or LOW:HIGH; None for the name of a model.

    Raises:
        ProfileError: none of these.
    """
    if text == "table" or text.partition(":")[0] == TOOL:
        return None
    low_text, _, high_text = text.partition(":")
    try:
        low, high = float(low_text), float(high_text or low_text)
    except ValueError:
        raise ProfileError(
            f"--modelled {text}: unknown model",
            next_step=f"use table, {TOOL}, a number, or LOW:HIGH with --modelled-source",
        ) from None
    if not 0 < low <= high < math.inf:
        raise ProfileError(f"--modelled {text}: must be > 0, and LOW <= HIGH")
    return low, high


def parse_ratio(text: str, source: str | None, of: str, to: str) -> Ratio:
    """A ratio from the command line.

    Args:
        text: `table` (published throughput of both types), a number, or LOW:HIGH.
        source: required for numbers.
        of: type of the run's GPU.
        to: type of the site's GPU.

    Raises:
        ProfileError: unknown model, not a number, or a number without source.
        NotComparableError: no published throughput of both types.
    """
    if text == "table":
        rows = ratio_rows(of, to)
        if not rows:
            raise NotComparableError(
                f"no published throughput of both {of} and {to} is known", next_step=STATE_RATIO
            )
        ratios = [ratio for _, ratio in rows]
        texts = ", ".join(f"{ratio:.2f} {row.title}" for row, ratio in rows)
        source = f"published throughput: {texts}; {rows[0][0].source} ({rows[0][0].date})"
        return Ratio(median(ratios), source, min(ratios), max(ratios))
    stated = check_ratio(text)
    assert stated is not None
    low, high = stated
    if not source:
        raise ProfileError(
            "a stated ratio needs its source", next_step="add --modelled-source 'SOURCE'"
        )
    ends = (low, high) if ":" in text else (None, None)
    return Ratio((low + high) / 2, f"stated: {source}", *ends)
