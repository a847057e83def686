"""The journal of a Prometheus server's responses."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter, next_part
from harness.artifacts.prometheus.answers import MARK, MATRIX, NS_PER_MS
from harness.core.clock import now_ns
from harness.core.errors import ArtifactError
from harness.core.records import Concern, Severity

OnConcern = Callable[[Concern], None]

_ZSTD_LEVEL: Final = 3


def degraded(
    code: str, text: str, value: float | None = None, limit: float | None = None
) -> Concern:
    """A concern that degrades the run."""
    return Concern(code, Severity.DEGRADED, text, value, limit)


class AnswersJournal:
    """Created with its first row, as a new part if one exists already.

    Args:
        unix_offset_ns: wall clock minus monotonic clock of this host.
        on_concern: called when rows cannot be written.
    """

    def __init__(self, path: Path, unix_offset_ns: int, on_concern: OnConcern) -> None:
        self._path = path
        self._offset_ns = unix_offset_ns
        self._tell = on_concern
        self._writer: JournalWriter | None = None
        self._rows_lost = 0
        self._codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)

    def mark(self, target: str, scrape_ms: int, *, label: str | None, error: str | None) -> None:
        """Record a scrape's purpose or error, by its time in that Prometheus."""
        t_ns = scrape_ms * NS_PER_MS - self._offset_ns
        more = {"label": label} if error is None else {"error": error}
        self._write(
            {"t_ns": t_ns, "duration_ns": 0, "target": target, "content_type": MARK, **more}
        )

    def answer(self, target: str, asked_ns: int, body: bytes) -> None:
        """Record raw samples, requested at `asked_ns`."""
        self._write(
            {
                "t_ns": asked_ns,
                "duration_ns": now_ns() - asked_ns,
                "target": target,
                "content_type": MATRIX,
                "http_status": 200,
                "body_zstd": self._codec.compress(body, asbytes=True),
                "body_bytes": len(body),
            }
        )

    def _write(self, row: dict[str, Any]) -> None:
        try:
            if self._writer is None:
                self._writer = JournalWriter(next_part(self._path), tables.SCRAPES_RAW)
            self._writer.append([{**row, "unix_offset_ns": self._offset_ns}])
        except ArtifactError as error:
            if not self._rows_lost:
                self._tell(degraded("telemetry_not_written", f"{error.what} ({error.cause})"))
            self._rows_lost += 1

    def close(self) -> None:
        """Close it, and report lost rows."""
        if self._writer is not None:
            with suppress(ArtifactError):  # readable without its end mark
                self._writer.close()
        if self._rows_lost:
            text = "Responses of Prometheus could not be written."
            self._tell(degraded("telemetry_rows_lost", text, float(self._rows_lost), 0.0))
