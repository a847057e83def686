"""Open a trace and detect its format from its content."""

from pathlib import Path
from typing import Final

from harness.core.errors import ProfileError
from harness.plan.traces.lines import (
    AzureFormat,
    BurstGptFormat,
    CsvFormat,
    LineTrace,
    MooncakeFormat,
    PlainCsvFormat,
    PlainJsonFormat,
    split_csv,
)
from harness.plan.traces.recordings import ClaudeCodeTrace, PlainRecordings
from harness.plan.traces.records import Trace, bad
from harness.plan.traces.servegen import TRACE_NAME, ServeGenTrace
from harness.plan.traces.text import decode, parse_json, raw_lines, unreadable

KINDS: Final = ("auto", "claude-code", "mooncake", "azure", "burstgpt", "servegen", "csv", "jsonl")
"""Formats; `csv` and `jsonl` are the plain form."""

START_BYTES: Final = 1024**2
"""Bytes of a file's first line that are examined: it may be a complete session."""

_CSV: Final[dict[str, type[CsvFormat]]] = {
    "azure": AzureFormat,
    "burstgpt": BurstGptFormat,
    "csv": PlainCsvFormat,
}


def open_trace(path: Path, kind: str = "auto") -> Trace:
    """A trace for reading. This examines only its first line.

    Args:
        path: file, or folder for some formats (claude-code, servegen).
        kind: one of `KINDS`.

    Raises:
        ProfileError: file not found, unknown kind, or unknown format.
    """
    if kind not in KINDS:
        step = f"use one of {', '.join(KINDS)}"
        raise ProfileError(f"unknown trace kind {kind!r}", next_step=step)
    try:
        if path.is_dir():
            return _open_folder(path, kind)
        first = _first_line(path)
    except OSError as error:
        raise unreadable(path, error) from error
    chosen = _detect(path, first) if kind == "auto" else kind
    match chosen:
        case "claude-code":
            return ClaudeCodeTrace(path)
        case "servegen":
            if not TRACE_NAME.fullmatch(path.name):
                what = "is not named chunk-<n>-trace.csv, so its dataset cannot be found"
                raise bad(path, what, next_step="name the client's folder")
            return ServeGenTrace(path)
        case "mooncake":
            value = parse_json(f"{path}:1", next(raw_lines(path), (0, 0, ""))[2])
            return LineTrace(path, MooncakeFormat(value if isinstance(value, dict) else {}))
        case "jsonl":
            value = parse_json(f"{path}:1", next(raw_lines(path), (0, 0, ""))[2])
            plain = PlainJsonFormat()
            if isinstance(value, dict) and value.get("scope") is not None:
                return PlainRecordings(path, plain)
            return LineTrace(path, plain)
        case _:
            table = _CSV[chosen](path, first)
            if chosen == "csv" and "scope" in split_csv(f"{path}:1", first):
                return PlainRecordings(path, table)
            return LineTrace(path, table)


def _open_folder(path: Path, kind: str) -> Trace:
    names = [file.name for file in path.iterdir()]
    servegen = any(TRACE_NAME.fullmatch(name) for name in names)
    sessions = not servegen and any(name.endswith(".json") for name in names)
    if servegen and kind in ("auto", "servegen"):
        return ServeGenTrace(path)
    if sessions and kind in ("auto", "claude-code"):
        return ClaudeCodeTrace(path)
    raise bad(
        path,
        f"is a folder without files of {'a known format' if kind == 'auto' else f'kind {kind}'}",
        next_step=(
            "name a folder with Claude Code sessions (*.json) or ServeGen clients"
            " (chunk-<n>-trace.csv) directly in it, or a file"
        ),
    )


def _first_line(path: Path) -> str:
    """The start of the first line that is not blank; a longer line is cut."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(START_BYTES):
            number += 1
            cut = len(raw) == START_BYTES and not raw.endswith(b"\n")
            # The cut may split a character.
            text = decode(path, number, raw) if not cut else raw.decode("utf-8", errors="ignore")
            if text and not text.isspace():
                return text
    raise bad(path, "is empty", next_step="name a trace with at least one request")


def _detect(path: Path, first: str) -> str:
    if first.lstrip().startswith("{"):
        return _detect_json(path, first)
    if TRACE_NAME.fullmatch(path.name):
        return "servegen"
    cells = split_csv(f"{path}:1", first) if len(first) < 10_000 else ()
    columns = {cell.strip() for cell in cells}
    if set(AzureFormat.columns) <= columns:
        return "azure"
    if set(BurstGptFormat.columns) <= columns:
        return "burstgpt"
    if {"input_tok", "output_tok"} & columns:
        return "csv"
    raise bad(
        path,
        f"has an unknown format; its first line is {first[:80]!r}",
        cause=(
            "it has neither the columns of a known trace nor JSON objects; known kinds are"
            f" {', '.join(KINDS[1:])}"
        ),
        next_step="write it as a plain trace: a CSV with the columns t_s,input_tok,output_tok",
    )


def _detect_json(path: Path, first: str) -> str:
    # Keys are searched for in the text, since a JSON value may be longer than this line or its cut.
    if '"input_length"' in first:
        return "mooncake"
    if '"input_tok"' in first and '"requests"' not in first:
        return "jsonl"
    keys = ('"hash_id_scope"', '"requests"', '"block_size"')
    if path.suffix == ".json" or any(key in first for key in keys):
        return "claude-code"
    raise bad(
        path,
        f"has an unknown format; its first line is {first[:80]!r}",
        cause="its JSON is neither a Claude Code session, a Mooncake request nor a plain request",
        next_step="write it as a plain trace: JSON lines with t_s, input_tok and output_tok",
    )
