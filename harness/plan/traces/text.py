"""Lines and strict values: what is not exactly a number, a length or a time is an error that names
its line.
"""

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

from harness.core.errors import ProfileError
from harness.plan.traces.records import bad

MAX_LINE_BYTES: Final = 256 * 1024**2
"""Longest line that is read: a whole Claude Code session may be one. Anything longer is no line of
text.
"""
MAX_TOK: Final = 1_000_000_000
"""Longest length that is believed, in tokens."""
MAX_TIME_S: Final = 1e11
"""Latest time that is believed, in seconds: later is most likely milliseconds or nanoseconds."""


def raw_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number (from 1), byte offset and text of each line that is not blank; line ends and a byte
    order mark are taken off.

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
        raise ProfileError(
            f"{path} cannot be read: {error.strerror or error}",
            next_step="name a readable trace file",
        ) from error


def decode(path: Path, number: int, raw: bytes) -> str:
    """Text of one raw line."""
    if len(raw) > MAX_LINE_BYTES:
        raise bad(
            f"{path}:{number}",
            f"has a line of more than {MAX_LINE_BYTES:,} bytes",
            cause="this is no file of lines",
        )
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.startswith(b"\x1f\x8b"):
            raise bad(path, "is compressed with gzip", next_step="unpack it first: gunzip -k FILE")
        if raw.startswith(b"version https://git-lfs"):
            raise bad(
                path,
                "is a Git LFS pointer, not the data",
                next_step="fetch the data with git lfs pull",
            )
    if b"\0" in raw:
        raise bad(f"{path}:{number}", "holds a zero byte", cause="this is a binary file")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise bad(
            f"{path}:{number}",
            f"is not UTF-8 text (byte {error.start + 1} of the line)",
            cause="this is a binary file",
        ) from None


def read_text(path: Path) -> str:
    """The whole of a file that is one JSON value, or one that is small."""
    try:
        with path.open("rb") as file:
            return decode(path, 1, file.read(MAX_LINE_BYTES + 1))
    except OSError as error:
        raise ProfileError(
            f"{path} cannot be read: {error.strerror or error}",
            next_step="name a readable trace file",
        ) from error


def parse_json(where: str, text: str, file: Path | None = None) -> Any:  # noqa: ANN401 - any JSON value
    """One JSON value; NaN and Infinity, which Python would accept, are refused. `file`: the text is
    all of it, so lines count in it.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = where if file is None else f"{file}:{error.lineno}"
        raise bad(
            place,
            f"is not JSON: {error.msg} at column {error.colno}",
            cause="the line is broken or cut off",
        ) from None
    except RecursionError:
        raise bad(where, "is nested too deeply to be a trace") from None
    except ValueError as error:
        raise bad(where, f"is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def json_tok(where: str, key: str, value: object, least: int) -> int:
    """A length in tokens from JSON: an integer, not a fraction, not a text."""
    if type(value) is not int:
        raise bad(where, f"{key} must be a whole number, not {_short(value)}")
    return _checked_tok(where, key, value, least)


def text_tok(where: str, key: str, text: str, least: int) -> int:
    """A length in tokens from CSV: digits only."""
    if len(text) < 10 and text.isdigit() and text.isascii() and (value := int(text)) >= least:
        return value
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 15:
        what = (
            "negative"
            if digits.startswith("-")
            else "missing"
            if not digits
            else f"not a whole number: {_short(text)}"
        )
        raise bad(where, f"{key} is {what}")
    return _checked_tok(where, key, int(digits), least)


def _checked_tok(where: str, key: str, value: int, least: int) -> int:
    if not least <= value <= MAX_TOK:
        raise bad(where, f"{key} is {value}; it must be from {least} to {MAX_TOK:,}")
    return value


def json_seconds(where: str, key: str, value: object, per_s: float = 1.0) -> float:
    """A time or a length of time from JSON, at least 0. `per_s`: how many of its unit a second
    has.
    """
    if type(value) not in (int, float):
        raise bad(where, f"{key} must be a number, not {_short(value)}")
    try:
        seconds = float(value) / per_s  # type: ignore[arg-type]  # checked above
    except OverflowError:
        seconds = math.inf
    return _checked_seconds(where, key, seconds)


def text_seconds(where: str, key: str, text: str, per_s: float = 1.0) -> float:
    """A time or a length of time from CSV, at least 0."""
    try:
        if not text.isascii() or "_" in text:
            raise ValueError
        seconds = float(text) / per_s
    except ValueError:
        raise bad(
            where, f"{key} is {'missing' if not text.strip() else f'not a number: {_short(text)}'}"
        ) from None
    return _checked_seconds(where, key, seconds)


def _checked_seconds(where: str, key: str, seconds: float) -> float:
    if not math.isfinite(seconds):
        raise bad(where, f"{key} is not finite")
    if seconds < 0:
        raise bad(where, f"{key} is negative: {seconds:g} s")
    if seconds > MAX_TIME_S:
        raise bad(
            where,
            f"{key} is {seconds:g} s, beyond any date",
            cause="it may be in milliseconds or nanoseconds",
        )
    return seconds


class Stamps:
    """Date-times as seconds since 1970, in UTC where they name no zone. Remembers the last second
    and the last zone: the next line mostly shares them.
    """

    def __init__(self) -> None:
        self._second = ""
        self._at_s = 0.0
        self._zone = ""
        self._zone_shift_s = 0.0

    def seconds(self, where: str, key: str, text: str) -> float:
        """`2023-11-16 18:15:46.6805900` or `2024-05-10 00:00:00.009930+00:00`: any number of
        decimals, an optional zone.
        """
        second = text[:19]
        try:
            if second != self._second:
                self._at_s = datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()
                if len(second) != 19:
                    raise ValueError
                self._second = second
            if not (self._zone and text.endswith(self._zone)):
                self._zone = text[19:].lstrip(".0123456789")
                shift = datetime.fromisoformat(f"{second}{self._zone}").utcoffset()
                self._zone_shift_s = 0.0 if shift is None else shift.total_seconds()
            fraction = text[19 : len(text) - len(self._zone)]
            if not fraction:
                return self._at_s - self._zone_shift_s
            if fraction[0] != "." or not fraction[1:].isdigit():
                raise ValueError
            return self._at_s + float(fraction) - self._zone_shift_s
        except (ValueError, OverflowError):
            self._second = self._zone = ""
            raise bad(
                where,
                f"{key} is not a date and time: {_short(text)}",
                next_step="write it as 2024-05-10 00:00:00.123456",
            ) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
