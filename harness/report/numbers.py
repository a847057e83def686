"""Formats numbers for people; an unknown value is a dash, never 0."""

import math
from collections.abc import Callable
from typing import Final

DASH: Final = "—"


def plain(value: float | None, digits: int = 4) -> str:
    """A number with significant digits and thousands separators."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 10**15:
        return f"{int(value):,}"
    # Of the number as shown: 0.99996 is 1.000.
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits}g}"))))
    if exponent < -4:
        return f"{value:.{digits - 1}g}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def duration(seconds: float | None, digits: int = 3) -> str:
    """A duration in a suitable unit."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    seconds = round(seconds, 9)  # times are whole nanoseconds; the rest is rounding
    size = abs(float(f"{seconds:.{digits}g}"))  # as shown: 999.9 µs is 1 ms
    if size == 0:
        return "0 s"
    if size < 1e-3:
        return f"{plain(seconds * 1e6, digits)} µs"
    if size < 1:
        return f"{plain(seconds * 1e3, digits)} ms"
    if size < 120:
        return f"{plain(seconds, digits)} s"
    if size < 7200:
        return f"{plain(seconds / 60, digits)} min"
    return f"{plain(seconds / 3600, digits)} h"


def share(value: float | None) -> str:
    """A ratio in percent. It is never rounded up to 100% or down to 0%."""
    if value is None or not math.isfinite(value):
        return DASH
    percent = value * 100
    text = f"{percent:.1f}"
    if text == "100.0" and percent < 100:
        return "> 99.9%"
    if text == "0.0" and percent > 0:
        return "< 0.1%"
    return f"{text.removesuffix('.0')}%"


def size(size_bytes: float | None) -> str:
    """Memory in GiB."""
    return DASH if size_bytes is None else f"{plain(size_bytes / 1024**3, 3)} GiB"


def figure(value: float | None, unit: str) -> tuple[str, str]:
    """(number, unit) of a metric's value: ratios in percent, times in a suitable unit."""
    if value is None:
        return DASH, ""
    if unit == "s":
        number, _, suffix = duration(value).partition(" ")
        return number, suffix
    if unit == "J":
        return (plain(value / 1000), "kJ") if value >= 10_000 else (plain(value), "J")
    return plain(value), "" if unit == "1" else unit


def interval(low: float | None, high: float | None, unit: str) -> str:
    """An interval in the unit of its ends; empty without one."""
    if low is None or high is None:
        return ""
    if unit == "s":
        return _apart(duration, low, high, 3)
    if unit == "J" and high >= 10_000:
        return _apart(plain, low / 1000, high / 1000, 4)
    return _apart(plain, low, high, 4)


def _apart(text: Callable[[float, int], str], low: float, high: float, digits: int) -> str:
    """Two ends with enough digits to distinguish them, up to three more than usual."""
    shown = digits
    while shown < digits + 3 and float(f"{low:.{shown}g}") == float(f"{high:.{shown}g}"):
        shown += 1
    return f"{text(low, shown)} – {text(high, shown)}"
