"""Reads a run's metrics out of a Prometheus: live figures while it runs, waits for scrapes, and the
raw samples into the run's journal.
"""

import itertools
import math
import statistics
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter, next_part
from harness.artifacts.prometheus_answers import MARK, MATRIX, NS_PER_MS, wrap
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import ArtifactError
from harness.core.metric_names import NAMES, Source
from harness.core.progress import TelemetryProgress
from harness.core.records import Severity
from harness.telemetry.live import SHOWN, figures, together
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError, Samples

OnProblem = Callable[[str, Severity, str, float | None, float | None], None]
"""Code, severity, message, value, limit."""

_UP: Final = "up"
_ZSTD_LEVEL: Final = 3
_SCRAPES_A_READ: Final = 120  # of some 670 series: 80,000 samples, 2 MB of JSON
# Prometheus stamps a scrape with its slot when it began up to 2 ms off it
# (scrape.timestamp-tolerance)
_ALIGNED_MS: Final = 3
_WAIT_POLL_S: Final = 0.1
_DISCOVERY_S: Final = 6.0  # Prometheus takes new targets up every 5 s
_LEAST_WAIT_S: Final = 15.0
_MOST_WAIT_S: Final = 180.0
_INTERVAL_GUESS_S: Final = 60.0  # of a Prometheus of somebody else's, until two scrapes are seen
_WIDE_RANGE_MS: Final = 600_000
_CLOCK_LIMIT_MS: Final = 500.0
"""A server's clock that is further off moves the samples against the requests by more than a short
window's edges bear.
"""


@dataclass(slots=True)
class _Target:
    """One endpoint as that Prometheus sees it."""

    name: str
    selector: str
    read_ms: int
    scrape_ms: int | None = None
    up: bool = False
    interval_s: float | None = None
    shown: dict[str, float] | None = None
    scrapes: int = 0
    failures: int = 0
    told: set[str] = field(default_factory=set)


class PrometheusReader:
    """Follows the run's targets in a Prometheus.

    Args:
        journal: takes the answers; a part of it that exists is continued by a new one.
        api: the server.
        unix_offset_ns: wall clock minus monotonic clock of this host, at the manifest's anchor.
        on_problem: called for what a reader of the run must know, from another thread.
        poll_s: between two looks for live figures.
        read_s: between two readings of all samples into the journal; None: once, at the end.
        managed: the server is the run's own: its list of targets tells why scrapes fail.
        interval_s: of the scrapes, where it is known.
        revive: called when the server does not answer; does what can be done about it.
    """

    def __init__(
        self,
        journal: Path,
        api: PrometheusApi,
        *,
        unix_offset_ns: int,
        on_problem: OnProblem,
        poll_s: float,
        read_s: float | None,
        managed: bool,
        interval_s: float | None = None,
        revive: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._offset_ns = unix_offset_ns
        self._on_problem = on_problem
        self._poll_s, self._read_s = poll_s, read_s
        self._managed = managed
        self._interval_s = interval_s
        self._revive = revive
        self._journal_path = journal
        self._journal: JournalWriter | None = None
        self._rows_lost = 0
        self._targets: dict[str, _Target] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
        self._ahead_ms = 0.0
        self._thread = threading.Thread(target=self._run, name="prometheus-reader", daemon=True)

    def start(self) -> None:
        """Compare clocks and begin to follow targets.

        Raises:
            PrometheusError: the server does not answer.
        """
        clock = self._api.clock(self._offset_ns)
        self._ahead_ms = clock.ahead_ms
        off_ms = max(0.0, abs(clock.ahead_ms) - clock.uncertainty_ms)
        if off_ms > _CLOCK_LIMIT_MS:
            text = (
                f"The clock of {self._api.url} is {clock.ahead_ms / 1e3:+.2f} s off this host's,"
                " and so are its samples."
            )
            self._on_problem(
                "prometheus_clock", Severity.DEGRADED, text, off_ms / 1e3, _CLOCK_LIMIT_MS / 1e3
            )
        self._thread.start()

    def add_target(self, name: str, selector: str) -> None:
        """Follow a target from now on.

        Args:
            name: of the endpoint.
            selector: PromQL label matchers without braces.
        """
        with self._lock:
            self._targets.setdefault(name, _Target(name, selector, self._wall_ms()))

    def point_to(self, api: PrometheusApi) -> None:
        """Go on with another address of the same database."""
        with self._lock:
            self._api = api

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        """Wait for a scrape of every target that began after this call, and mark it.

        Args:
            label: kept with the scrape.
            timeout_s: default: what the targets' intervals ask for, 180 s at most.

        Returns:
            Whether all of them answered with a whole body.
        """
        asked_ms = self._wall_ms() + round(self._ahead_ms) + _ALIGNED_MS
        start_ns = now_ns()
        if not self._targets:
            return False
        waiting = set(self._targets)
        good = True
        while waiting and not self._stopping.is_set():
            with self._lock:
                self._poll()
                for name in sorted(waiting):
                    target = self._targets[name]
                    if target.scrape_ms is None or target.scrape_ms < asked_ms:
                        continue
                    waiting.discard(name)
                    good = good and target.up
                    if target.up:
                        self._write(
                            [
                                self._row(
                                    name,
                                    target.scrape_ms * NS_PER_MS - self._offset_ns,
                                    content_type=MARK,
                                    label=label,
                                )
                            ]
                        )
            limit_s = self._patience_s() if timeout_s is None else timeout_s
            if (now_ns() - start_ns) / NS_PER_S > limit_s:
                break
            if waiting:
                self._stopping.wait(_WAIT_POLL_S if self._managed else min(1.0, self._poll_s))
        return good and not waiting

    def latest(self) -> TelemetryProgress:
        """Newest live values; nothing is known before every target's first scrape."""
        with self._lock:
            targets = list(self._targets.values())
            seen = [target.scrape_ms for target in targets]
            if not seen or any(moment is None for moment in seen):
                return TelemetryProgress()
            oldest_ms = min(moment for moment in seen if moment is not None)
            return TelemetryProgress(
                t_ns=oldest_ms * NS_PER_MS - self._offset_ns,
                scrapes=sum(target.scrapes for target in targets),
                scrape_failures=sum(target.failures for target in targets),
                **together([target.shown for target in targets]),
            )

    def stop(self) -> None:
        """Read what is left and close the journal. May be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            self._poll()
            for target in self._targets.values():
                if target.scrape_ms is None:
                    text = (
                        f"Nothing was found of {target.name} in {self._api.url}"
                        f" ({target.selector}): its metrics are absent."
                    )
                    self._on_problem("prometheus_no_target", Severity.DEGRADED, text, None, None)
            for problem in self._read():
                self._on_problem(
                    "prometheus_not_read",
                    Severity.DEGRADED,
                    f"Samples are missing: {problem}",
                    None,
                    None,
                )
            if self._journal is not None:
                with suppress(ArtifactError):  # it is readable without its end mark
                    self._journal.close()
        if self._rows_lost:
            text = "Answers of Prometheus could not be written."
            self._on_problem(
                "telemetry_rows_lost", Severity.DEGRADED, text, float(self._rows_lost), 0.0
            )

    # --- the thread ---

    def _run(self) -> None:
        read_due_ns = now_ns()
        while not self._stopping.wait(self._poll_s):
            with self._lock:
                answered = self._poll()
                if self._read_s is not None and now_ns() >= read_due_ns:
                    read_due_ns = now_ns() + int(self._read_s * NS_PER_S)
                    list(self._read())  # what fails is tried again, and told at the end
            if not answered:
                self._revive()

    def _poll(self) -> bool:
        """Look at every target; False when the server does not answer."""
        answered = True
        for target in self._targets.values():
            try:
                found = self._api.samples(
                    _matching(target.selector, _LOOKED_AT), self._look_back_ms(target)
                )
            except PrometheusError as error:
                target.shown = None
                answered = False
                self._tell_once(
                    target,
                    "prometheus_unreachable",
                    f"Prometheus did not answer for {target.name}: {error}",
                )
                continue
            self._look(target, found)
            if self._api.warnings:  # Thanos, of a store that is away
                text = (
                    f"{self._api.url} warns that its answers are not whole:"
                    f" {'; '.join(sorted(self._api.warnings))}."
                )
                self._tell_once(target, "prometheus_warning", text)
        return answered

    def _look(self, target: _Target, found: list[tuple[dict[str, str], Samples]]) -> None:
        ups = sorted(
            (samples for labels, samples in found if labels.get("__name__") == _UP and samples),
            key=lambda one: one[-1][0],
        )
        if not ups:
            target.shown = None
            return
        if len(ups) > 1 and ups[-2][-1][0] > ups[-1][0][0]:
            text = (
                f"The selector of {target.name} ({target.selector}) matches {len(ups)} targets:"
                " their figures are added up."
            )
            self._tell_once(target, "selector_ambiguous", text)
        latest = ups[-1]
        moments = [moment for moment, _ in latest]
        if len(moments) > 2:
            target.interval_s = (
                statistics.median(b - a for a, b in itertools.pairwise(moments)) / 1000
            )
        last_ms, last_value = latest[-1]
        figures_at: dict[str, list[tuple[str, dict[str, str], float]]] = {}
        whole = True
        for labels, samples in found:
            name = labels.get("__name__", "")
            if name == _UP or not samples:
                continue
            if samples[-1][0] == last_ms:
                figures_at.setdefault(name, []).append((name, labels, float(samples[-1][1])))
            elif len(samples) > 1 and samples[-1][0] >= moments[-2 if len(moments) > 1 else -1]:
                # a store that takes samples in one by one has not got all of this scrape yet
                whole = False
        up = float(last_value) > 0
        if up and not whole:
            return
        new = [
            (moment, value)
            for moment, value in latest
            if target.scrape_ms is None or moment > target.scrape_ms
        ]
        failed = [moment for moment, value in new if not float(value) > 0]
        target.scrapes += len(new)
        target.failures += len(failed)
        if failed:
            why = self._why(target)
            self._write(
                [
                    self._row(
                        target.name,
                        moment * NS_PER_MS - self._offset_ns,
                        content_type=MARK,
                        error=why,
                    )
                    for moment in failed
                ]
            )
        target.scrape_ms, target.up = last_ms, up
        target.shown = (
            figures([sample for samples in figures_at.values() for sample in samples])
            if up
            else None
        )

    def _why(self, target: _Target) -> str:
        why = "up is 0: Prometheus could not scrape it"
        if self._managed:
            with suppress(PrometheusError):
                why = self._api.last_errors().get(target.name, why)
        return why

    def _read(self) -> list[str]:
        """Read all samples since the last reading, up to each target's last whole scrape. What went
        wrong.
        """
        wrong = []
        for target in self._targets.values():
            step_ms = max(
                1, round(_SCRAPES_A_READ * (target.interval_s or self._interval_s or 1.0) * 1000)
            )
            while target.scrape_ms is not None and target.read_ms < target.scrape_ms:
                until_ms = min(target.scrape_ms, target.read_ms + step_ms)
                asked_ns = now_ns()
                try:
                    answer = self._api.raw(
                        _matching(target.selector), until_ms - target.read_ms, until_ms
                    )
                except PrometheusError as error:
                    wrong.append(f"{target.name}: {error}")
                    break
                body = wrap(answer, target.read_ms, until_ms)
                row = self._row(
                    target.name,
                    asked_ns,
                    content_type=MATRIX,
                    duration_ns=now_ns() - asked_ns,
                    http_status=200,
                )
                self._write(
                    [
                        {
                            **row,
                            "body_zstd": self._codec.compress(body, asbytes=True),
                            "body_bytes": len(body),
                        }
                    ]
                )
                target.read_ms = until_ms
        return wrong

    # --- small things ---

    def _row(
        self,
        target: str,
        t_ns: int,
        *,
        content_type: str,
        duration_ns: int = 0,
        **more: Any,  # noqa: ANN401 - any JSON value
    ) -> dict[str, Any]:
        return {
            "t_ns": t_ns,
            "duration_ns": duration_ns,
            "target": target,
            "content_type": content_type,
            "unix_offset_ns": self._offset_ns,
            **more,
        }

    def _write(self, rows: list[dict[str, Any]]) -> None:
        try:
            if self._journal is None:
                self._journal = JournalWriter(next_part(self._journal_path), tables.SCRAPES_RAW)
            self._journal.append(rows)
        except ArtifactError as error:
            if not self._rows_lost:
                self._on_problem(
                    "telemetry_not_written",
                    Severity.DEGRADED,
                    f"{error.what} ({error.cause})",
                    None,
                    None,
                )
            self._rows_lost += len(rows)

    def _wall_ms(self) -> int:
        return (now_ns() + self._offset_ns) // NS_PER_MS

    def _look_back_ms(self, target: _Target) -> int:
        interval_s = target.interval_s or self._interval_s
        return _WIDE_RANGE_MS if interval_s is None else max(5_000, math.ceil(5_000 * interval_s))

    def _patience_s(self) -> float:
        known = [target.interval_s or self._interval_s for target in self._targets.values()]
        interval_s = max(
            (one if one is not None else _INTERVAL_GUESS_S for one in known),
            default=_INTERVAL_GUESS_S,
        )
        return min(_MOST_WAIT_S, max(_LEAST_WAIT_S, _DISCOVERY_S + 3 * interval_s))

    def _tell_once(self, target: _Target, code: str, message: str) -> None:
        if code not in target.told:
            target.told.add(code)
            self._on_problem(code, Severity.DEGRADED, message, None, None)


def _matching(selector: str, more: str | None = None) -> str:
    """A selector of series: label matchers in braces."""
    matchers = [selector.strip().strip("{}").strip().rstrip(","), *([more] if more else [])]
    return "{" + ",".join(one for one in matchers if one) + "}"


def _names() -> list[str]:
    sources: list[Source] = [
        source
        for concepts in NAMES.values()
        for concept in SHOWN
        for source in concepts.get(concept, ())
    ]
    return sorted({_UP, *(series.name for source in sources for series in source.series)})


_LOOKED_AT: Final = f'__name__=~"{"|".join(_names())}"'
