"""Ratios between types of GPU that were not measured here: stated, or from published throughput."""

import math
from dataclasses import dataclass
from typing import Any, Final

from harness.core.errors import NotComparableError, ProfileError
from harness.fleet.site.catalog import sanity
from harness.fleet.site.types import Prior, SanityRow

TOOL: Final = "aiconfigurator"
"""What the model of NVIDIA's tool goes by."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Throughput of one type of GPU over another's, as a model says.

    Attributes:
        value: central.
        source: of the model, in words.
        low: least; None where the model gives no range.
        high: greatest.
    """

    value: float
    source: str
    low: float | None = None
    high: float | None = None

    def range_of(self, spread: Prior) -> dict[str, Any]:
        """Low, central and high; by the prior's spread where the model gives none."""
        if self.low is not None and self.high is not None:
            return {
                "low": self.low,
                "value": self.value,
                "high": self.high,
                "kind": "triangular" if self.low < self.high else "fixed",
            }
        return {
            "low": spread.low * self.value,
            "value": self.value,
            "high": spread.high * self.value,
        }


def ratio_rows(of: str, to: str) -> list[tuple[SanityRow, float]]:
    """Published throughput of one type of GPU over another's, for every model where both are
    told.
    """
    return [
        (row, row.tok_s_per_gpu[to] / row.tok_s_per_gpu[of])
        for row in sanity()
        if of in row.tok_s_per_gpu and to in row.tok_s_per_gpu
    ]


def no_ratio(of: str, to: str) -> Ratio:
    """Refuse: there is no ratio.

    Raises:
        NotComparableError: always.
    """
    raise NotComparableError(
        f"nothing is scaled from {of} to {to} without a model of their ratio",
        next_step="state one with --modelled",
    )


def check_ratio(text: str) -> tuple[float, float] | None:
    """Low and high of a ratio that is stated as a number or LOW:HIGH; None where a model is named.

    Raises:
        ProfileError: neither.
    """
    if text == "table" or text.partition(":")[0] == TOOL:
        return None
    low_text, _, high_text = text.partition(":")
    try:
        low, high = float(low_text), float(high_text or low_text)
    except ValueError:
        raise ProfileError(
            f"--modelled {text}: no such model",
            next_step=f"use table, {TOOL}, a number, or LOW:HIGH with --modelled-source",
        ) from None
    if not 0 < low <= high < math.inf:
        raise ProfileError(
            f"--modelled {text}: a ratio is above 0, and a range has its low end first"
        )
    return low, high


def parse_ratio(text: str, source: str | None, of: str, to: str) -> Ratio:
    """A ratio from the command line.

    Args:
        text: `table` (published throughput of both types), a number, or LOW:HIGH.
        source: who says so; needed for numbers.
        of: type of the run's GPU.
        to: type of the site's GPU.

    Raises:
        ProfileError: no such model, no number, or a number without its source.
        NotComparableError: no published figure of both types.
    """
    if text == "table":
        rows = ratio_rows(of, to)
        if not rows:
            raise NotComparableError(
                f"no published throughput of both {of} and {to} is known",
                next_step="state a ratio and its source: --modelled 1.2 --modelled-source …",
            )
        ratios = sorted(ratio for _, ratio in rows)
        middle = (
            ratios[len(ratios) // 2]
            if len(ratios) % 2
            else math.fsum(ratios[len(ratios) // 2 - 1 : len(ratios) // 2 + 1]) / 2
        )
        said = ", ".join(f"{ratio:.2f} {row.title}" for row, ratio in rows)
        return Ratio(
            middle,
            f"published throughput: {said}; {rows[0][0].source} ({rows[0][0].date})",
            ratios[0],
            ratios[-1],
        )
    stated = check_ratio(text)
    assert stated is not None
    low, high = stated
    if not source:
        raise ProfileError(
            "a stated ratio needs its source", next_step="add --modelled-source 'who says so'"
        )
    ends = (low, high) if ":" in text else (None, None)
    return Ratio((low + high) / 2, f"stated: {source}", *ends)
