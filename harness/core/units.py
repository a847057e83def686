"""Plain suffixes of profiles (`30s`, `2m`, `16k`) as numbers, and numbers as text for people."""

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


def _split(text: str, what: str, suffixes: Mapping[str, float]) -> tuple[float, str]:
    match = _NUMBER_AND_SUFFIX.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a {what}; write a number and one of: {', '.join(suffixes)}"
        )
    return float(match[1]), match[2]


def parse_duration_s(value: str | float) -> float:
    """A length of time in seconds, from a bare number of seconds or a number with a suffix of
    `DURATION_S`.

    Raises:
        ValueError: no number, an unknown suffix, negative, or not finite.
    """
    if isinstance(value, bool):
        raise ValueError("a length of time is a number with a unit, not true or false")
    number, suffix = (
        _split(value, "length of time", DURATION_S)
        if isinstance(value, str)
        else (float(value), "s")
    )
    if suffix == "":
        suffix = "s"
    if suffix not in DURATION_S:
        raise ValueError(f"{suffix!r} is not a unit of time; use one of: {', '.join(DURATION_S)}")
    return _finite(number * DURATION_S[suffix], "a length of time")


def parse_count(value: str | float) -> int:
    """A whole count such as tokens or requests: `16k` is 16,000 and `16Ki` is 16,384.

    Raises:
        ValueError: not a whole number, an unknown suffix, or negative.
    """
    if isinstance(value, bool):
        raise ValueError("a count is a whole number, not true or false")
    number, suffix = (
        _split(value, "count", {"": 1, **COUNT}) if isinstance(value, str) else (float(value), "")
    )
    if suffix and suffix not in COUNT:
        raise ValueError(f"{suffix!r} is not a suffix of a count; use one of: {', '.join(COUNT)}")
    result = _finite(number * (COUNT[suffix] if suffix else 1), "a count")
    if result != int(result):
        raise ValueError(f"{value!r} is not a whole number")
    return int(result)


def parse_bytes(value: str | int) -> int:
    """A size in bytes from a number of bytes or a number with a suffix of `BYTES`.

    Raises:
        ValueError: no number, an unknown suffix, or negative.
    """
    if isinstance(value, bool):
        raise ValueError("a size is a number with a unit, not true or false")
    number, suffix = _split(value, "size", BYTES) if isinstance(value, str) else (float(value), "B")
    if suffix not in BYTES:
        raise ValueError(f"{suffix!r} is not a unit of size; use one of: {', '.join(BYTES)}")
    return int(_finite(number * BYTES[suffix], "a size"))


def _finite(number: float, what: str) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite")
    if number < 0:
        raise ValueError(f"{what} cannot be negative")
    return number


def human_duration(duration_s: float) -> str:
    """A length of time for people: `340 ms`, `12.0 s`, `3 min 05 s`, `2 h 10 min`."""
    if duration_s < 1:
        return f"{duration_s * 1000:.3g} ms"
    if duration_s < 60:
        return f"{duration_s:.3g} s"
    whole = round(duration_s)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def human_number(value: float | None, digits: int = 4) -> str:
    """A number to a few significant digits with thousands separators; an unknown one is an em dash,
    never 0.
    """
    if value is None or not math.isfinite(value):
        return "—"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
