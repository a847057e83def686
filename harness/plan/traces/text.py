"""Lines and strict values: anything but a valid number, length or time is an error."""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from harness.core.errors import ProfileError
from harness.plan.traces.records import bad

MAX_LINE_BYTES: Final = 256 * 1024**2
"""Longest line that is read: a complete Claude Code session may be one line."""
MAX_TOK: Final = 1_000_000_000
"""Longest plausible length, in tokens."""
MAX_TIME_S: Final = 1e11
"""Latest plausible time: larger values are most likely milliseconds or nanoseconds."""


def raw_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number (from 1), byte offset and text of each line that is not blank, without line ends and
    byte order mark.

    Raises:
        ProfileError: the file cannot be read, or is not UTF-8 text.
    """
    offset = 0
    number = 0
    try:
        with path.open("rb") as file:
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                text = decode(path, number, raw)
                if text and not text.isspace():
                    yield number, offset, text
                offset += len(raw)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> ProfileError:
    """The error for a file that cannot be read."""
    step = "name a readable trace file or folder"
    return bad(path, f"cannot be read: {error.strerror or error}", next_step=step)


def decode(path: Path, number: int, raw: bytes) -> str:
    """Text of one raw line."""
    where = f"{path}:{number}"
    if len(raw) > MAX_LINE_BYTES:
        what = f"has a line of more than {MAX_LINE_BYTES:,} bytes"
        raise bad(where, what, cause="this is not a file of lines")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.startswith(b"\x1f\x8b"):
            raise bad(path, "is compressed with gzip", next_step="unpack it first: gunzip -k FILE")
        if raw.startswith(b"version https://git-lfs"):
            what = "is a Git LFS pointer, not the data"
            raise bad(path, what, next_step="fetch the data with git lfs pull")
    if b"\0" in raw:
        raise bad(where, "contains a zero byte", cause="this is a binary file")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start + 1} of the line)"
        raise bad(where, what, cause="this is a binary file") from None


def read_text(path: Path) -> str:
    """A complete file: one JSON value, or a small one."""
    try:
        with path.open("rb") as file:
            return decode(path, 1, file.read(MAX_LINE_BYTES + 1))
    except OSError as error:
        raise unreadable(path, error) from error


def parse_json(where: str, text: str, file: Path | None = None) -> Any:  # noqa: ANN401 - any JSON value
    """One JSON value, without the NaN and Infinity that Python would accept. With `file`, the text
    is the complete file and errors have its line.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = where if file is None else f"{file}:{error.lineno}"
        what = f"is not JSON: {error.msg} at column {error.colno}"
        raise bad(place, what, cause="the line is broken or cut off") from None
    except RecursionError:
        raise bad(where, "is nested too deeply to be a trace") from None
    except ValueError as error:
        raise bad(where, f"is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def json_tok(where: str, key: str, value: object, least: int) -> int:
    """A length in tokens from JSON: an integer."""
    if type(value) is not int:
        raise bad(where, f"{key} must be a whole number, not {_short(value)}")
    return _checked_tok(where, key, value, least)


def text_tok(where: str, key: str, text: str, least: int) -> int:
    """A length in tokens from CSV: digits only."""
    if len(text) < 10 and text.isdigit() and text.isascii() and (value := int(text)) >= least:
        return value
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        what = f"not a whole number: {_short(text)}" if digits else "missing"
        raise bad(where, f"{key} is {'negative' if digits.startswith('-') else what}")
    return _checked_tok(where, key, int(digits), least)


def _checked_tok(where: str, key: str, value: int, least: int) -> int:
    if not least <= value <= MAX_TOK:
        raise bad(where, f"{key} is {value}; it must be from {least} to {MAX_TOK:,}")
    return value


def json_seconds(where: str, key: str, value: object, per_s: float = 1.0) -> float:
    """A time or duration from JSON, at least 0. `per_s`: its units per second."""
    if type(value) not in (int, float):
        raise bad(where, f"{key} must be a number, not {_short(value)}")
    try:
        seconds = float(value) / per_s  # type: ignore[arg-type]  # checked above
    except OverflowError:
        seconds = math.inf
    return _checked_seconds(where, key, seconds)


def text_seconds(where: str, key: str, text: str, per_s: float = 1.0) -> float:
    """A time or duration from CSV, at least 0. `per_s`: its units per second."""
    try:
        if not text.isascii() or "_" in text:
            raise ValueError
        seconds = float(text) / per_s
    except ValueError:
        what = f"not a number: {_short(text)}" if text.strip() else "missing"
        raise bad(where, f"{key} is {what}") from None
    return _checked_seconds(where, key, seconds)


def _checked_seconds(where: str, key: str, seconds: float) -> float:
    if not math.isfinite(seconds):
        raise bad(where, f"{key} is not finite")
    if seconds < 0:
        raise bad(where, f"{key} is negative: {seconds:g} s")
    if seconds > MAX_TIME_S:
        what = f"{key} is {seconds:g} s, beyond any date"
        raise bad(where, what, cause="it may be in milliseconds or nanoseconds")
    return seconds


class Stamps:
    """Date-times as seconds since 1970, in UTC if they have no zone. Caches the last second and the
    last zone, which the next line usually shares.
    """

    def __init__(self) -> None:
        self._second = ""
        self._at_s = 0.0
        self._zone = ""
        self._zone_shift_s = 0.0

    def seconds(self, where: str, key: str, text: str) -> float:
        """`2023-11-16 18:15:46.6805900` or `2024-05-10 00:00:00.009930+00:00`: any number of
        decimals after a point or a comma, an optional zone.
        """
        second = text[:19]
        try:
            if second != self._second:
                self._at_s = datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()
                if len(second) != 19:
                    raise ValueError
                self._second = second
            if not (self._zone and text.endswith(self._zone)):
                self._zone = text[19:].lstrip(".,0123456789")
                shift = datetime.fromisoformat(f"{second}{self._zone}").utcoffset()
                self._zone_shift_s = 0.0 if shift is None else shift.total_seconds()
            fraction = text[19 : len(text) - len(self._zone)]
            if not fraction:
                return self._at_s - self._zone_shift_s
            # ISO 8601 allows both signs of a decimal fraction.
            if fraction[0] not in ".," or not fraction[1:].isdigit():
                raise ValueError
            return self._at_s + float(f".{fraction[1:]}") - self._zone_shift_s
        except (ValueError, OverflowError):
            self._second = self._zone = ""
            what = f"{key} is not a date and time: {_short(text)}"
            step = "write it as 2024-05-10 00:00:00.123456"
            raise bad(where, what, next_step=step) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
