"""Formats numbers for people; an unknown value is a dash or the word absent, never 0."""

import math
from collections.abc import Callable
from typing import Final

DASH: Final = "—"


def plain(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits and thousands separators."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 10**15:
        return f"{int(value):,}"
    exponent = math.floor(
        math.log10(abs(float(f"{value:.{digits}g}")))
    )  # as it will be read: 0.99996 is 1.000
    if exponent < -4:
        return f"{value:.{digits - 1}g}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def duration(seconds: float | None, digits: int = 3) -> str:
    """A length of time with the unit that suits its size."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    seconds = round(seconds, 9)  # times are whole nanoseconds; what is beyond is rounding of sums
    size = abs(float(f"{seconds:.{digits}g}"))  # as it will be read: 999.9 µs are 1 ms
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
    """A ratio in percent. A share short of all is never rounded up to all, nor one above nothing
    down to nothing.
    """
    if value is None or not math.isfinite(value):
        return DASH
    percent = value * 100
    text = f"{percent:.1f}"
    if text == "100.0" and percent < 100:
        return "> 99.9 %"
    if text == "0.0" and percent > 0:
        return "< 0.1 %"
    return f"{text.removesuffix('.0')} %"


def size(size_bytes: float | None) -> str:
    """Memory in GiB."""
    return DASH if size_bytes is None else f"{plain(size_bytes / 1024**3, 3)} GiB"


def figure(value: float | None, unit: str) -> tuple[str, str]:
    """(number, unit) of a metric's value as people read it: ratios in percent, times in a unit that
    suits.
    """
    if value is None:
        return DASH, ""
    if unit == "s":
        number, _, suffix = duration(value).partition(" ")
        return number, suffix
    if unit == "J":
        return (plain(value / 1000), "kJ") if value >= 10_000 else (plain(value), "J")
    return plain(value), "" if unit == "1" else unit


def interval(low: float | None, high: float | None, unit: str) -> str:
    """An interval in the unit that its ends are read in, empty where there is none."""
    if low is None or high is None:
        return ""
    if unit == "s":
        return _apart(duration, low, high, 3)
    if unit == "J" and high >= 10_000:
        return _apart(plain, low / 1000, high / 1000, 4)
    return _apart(plain, low, high, 4)


def _apart(text: Callable[[float, int], str], low: float, high: float, digits: int) -> str:
    """Two ends with as many digits as tell them apart, up to three more than usual."""
    shown = digits
    while shown < digits + 3 and float(f"{low:.{shown}g}") == float(f"{high:.{shown}g}"):
        shown += 1
    return f"{text(low, shown)} – {text(high, shown)}"
