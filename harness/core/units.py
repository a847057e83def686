"""Parse numbers with suffixes (`30s`, `2m`, `16k`), and format numbers for people."""

import math
import re
from collections.abc import Mapping
from typing import Final

DURATION_S: Final[Mapping[str, float]] = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
COUNT: Final[Mapping[str, int]] = {"k": 1000, "M": 1_000_000, "ki": 1024, "Ki": 1024, "Mi": 1024**2}
BYTES: Final[Mapping[str, int]] = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "TiB": 1024**4,
}

_NUMBER_AND_SUFFIX = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


def parse_duration_s(value: str | float) -> float:
    """Seconds, from a number of seconds or a number with a suffix of `DURATION_S`.

    Raises:
        ValueError: not a number, an unknown suffix, negative, or not finite.
    """
    return _parse(value, "a duration", {"": 1.0, **DURATION_S})


def parse_count(value: str | float) -> int:
    """A count of tokens or requests: `16k` is 16,000 and `16Ki` is 16,384.

    Raises:
        ValueError: not a whole number, an unknown suffix, or negative.
    """
    result = _parse(value, "a count", {"": 1, **COUNT})
    if result != int(result):
        raise ValueError(f"{value!r} is not a whole number")
    return int(result)


def parse_bytes(value: str | int) -> int:
    """Bytes, from a number of bytes or a number with a suffix of `BYTES`.

    Raises:
        ValueError: not a number, an unknown suffix, or negative.
    """
    if isinstance(value, str):
        return int(_parse(value, "a size", BYTES))
    return int(_parse(value, "a size", {"": 1}))


def _parse(value: str | float, what: str, suffixes: Mapping[str, float]) -> float:
    units = ", ".join(filter(None, suffixes))
    if isinstance(value, bool):
        raise ValueError(f"{what} must be a number, not true or false")
    number, suffix = float(value) if not isinstance(value, str) else 0.0, ""
    if isinstance(value, str):
        match = _NUMBER_AND_SUFFIX.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not {what}; use a number and one of: {units}")
        number, suffix = float(match[1]), match[2]
    if suffix not in suffixes:
        raise ValueError(f"{suffix!r} is not a unit for {what}; use one of: {units}")
    number *= suffixes[suffix]
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite")
    if number < 0:
        raise ValueError(f"{what} must not be negative")
    return number


def human_duration(duration_s: float) -> str:
    """`340 ms`, `12 s`, `3 min 05 s` or `2 h 10 min`."""
    if duration_s < 1:
        return f"{duration_s * 1000:.3g} ms"
    if duration_s < 60:
        return f"{duration_s:.3g} s"
    whole = round(duration_s)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_number(value: float | None, digits: int = 4) -> str:
    """A number with a few significant digits and thousands separators; `—` if unknown, never 0."""
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
