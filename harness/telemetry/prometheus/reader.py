"""Reads a run's metrics from a Prometheus: live values, waits for scrapes, and raw samples into the
run's journal.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.prometheus.answers import NS_PER_MS, wrap
from harness.core.clock import NS_PER_S, now_ns
from harness.core.progress import TelemetryProgress
from harness.telemetry.live import together
from harness.telemetry.prometheus.answers import AnswersJournal, OnConcern, degraded
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError, Samples
from harness.telemetry.prometheus.target import LOOKED_AT, Target

_SCRAPES_A_READ: Final = 120  # of about 670 series: 80,000 samples, 2 MB of JSON
# Prometheus gives a scrape its slot's time if it starts within 2 ms (scrape.timestamp-tolerance).
_ALIGNED_MS: Final = 3
_WAIT_POLL_S: Final = 0.1
_DISCOVERY_S: Final = 6.0  # Prometheus loads new targets every 5 s
_LEAST_WAIT_S: Final = 15.0
_MOST_WAIT_S: Final = 180.0
_INTERVAL_GUESS_S: Final = 60.0  # of an external Prometheus, until two scrapes are seen
_CLOCK_LIMIT_MS: Final = 500.0
"""A larger clock offset shifts samples too far relative to the edges of a short window."""


@dataclass(eq=False, repr=False)
class PrometheusReader:
    """Follows the run's targets in a Prometheus.

    Attributes:
        journal: path for the responses; continued in a new part if it exists.
        unix_offset_ns: this host's wall clock minus monotonic clock, at the manifest's anchor.
        on_concern: called from another thread.
        poll_s: between two polls for live values.
        read_s: between two reads of all samples into the journal; None: once, at the end.
        managed: the run started the server, so its target list has the scrape errors.
        interval_s: of the scrapes, if known.
        revive: called when the server does not respond.
    """

    journal: Path
    api: PrometheusApi
    _: KW_ONLY
    unix_offset_ns: int
    on_concern: OnConcern
    poll_s: float
    read_s: float | None
    managed: bool
    interval_s: float | None
    revive: Callable[[], None]

    def __post_init__(self) -> None:
        self._journal = AnswersJournal(self.journal, self.unix_offset_ns, self.on_concern)
        self._targets: dict[str, Target] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._ahead_ms = 0.0
        self._thread = threading.Thread(target=self._run, name="prometheus-reader", daemon=True)

    def start(self) -> None:
        """Compare clocks and start following targets. Raises PrometheusError without a response."""
        clock = self.api.clock(self.unix_offset_ns)
        self._ahead_ms = clock.ahead_ms
        off_ms = max(0.0, abs(clock.ahead_ms) - clock.uncertainty_ms)
        if off_ms > _CLOCK_LIMIT_MS:
            text = (
                f"The clock of {self.api.url}, and so the time of its samples, is"
                f" {clock.ahead_ms / 1e3:+.2f} s off this host's."
            )
            limit_s = _CLOCK_LIMIT_MS / 1e3
            self.on_concern(degraded("prometheus_clock", text, off_ms / 1e3, limit_s))
        self._thread.start()

    def add_target(self, name: str, selector: str) -> None:
        """Follow an endpoint by its PromQL label matchers (without braces)."""
        with self._lock:
            self._targets.setdefault(name, Target(name, selector, self._wall_ms(), self.interval_s))

    def point_to(self, api: PrometheusApi) -> None:
        """Continue with another address of the same database."""
        with self._lock:
            self.api = api

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        """Wait for a scrape of every target that began after this call, and label it.

        Returns:
            Whether all succeeded within `timeout_s` (default: from the targets' intervals, at most
                180 s).
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
                        self._journal.mark(name, target.scrape_ms, label=label, error=None)
            limit_s = self._patience_s() if timeout_s is None else timeout_s
            if (now_ns() - start_ns) / NS_PER_S > limit_s:
                break
            if waiting:
                self._stopping.wait(_WAIT_POLL_S if self.managed else min(1.0, self.poll_s))
        return good and not waiting

    def latest(self) -> TelemetryProgress:
        """Newest live values; unknown before every target's first scrape."""
        with self._lock:
            targets = list(self._targets.values())
            seen = [target.scrape_ms for target in targets if target.scrape_ms is not None]
            if not seen or len(seen) < len(targets):
                return TelemetryProgress()
            return TelemetryProgress(
                t_ns=min(seen) * NS_PER_MS - self.unix_offset_ns,
                scrapes=sum(target.scrapes for target in targets),
                scrape_failures=sum(target.failures for target in targets),
                **together([target.shown for target in targets]),
            )

    def stop(self) -> None:
        """Read the rest and close the journal. May be called again."""
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
                        f"{self.api.url} has no metrics of {target.name} ({target.selector}):"
                        " they are absent."
                    )
                    self.on_concern(degraded("prometheus_no_target", text))
            for problem in self._read():
                self.on_concern(degraded("prometheus_not_read", f"Samples are missing: {problem}"))
            self._journal.close()

    def _run(self) -> None:
        read_due_ns = now_ns()
        while not self._stopping.wait(self.poll_s):
            with self._lock:
                answered = self._poll()
                if self.read_s is not None and now_ns() >= read_due_ns:
                    read_due_ns = now_ns() + int(self.read_s * NS_PER_S)
                    self._read()  # failures are retried, and reported at the end
            if not answered:
                self.revive()

    def _poll(self) -> bool:
        """Poll every target; False if the server does not respond."""
        answered = True
        for target in self._targets.values():
            try:
                found = self.api.samples(target.matching(LOOKED_AT), target.look_back_ms)
            except PrometheusError as error:
                target.shown = None
                answered = False
                text = f"Prometheus did not respond for {target.name}: {error}"
                self._tell_once(target, "prometheus_unreachable", text)
                continue
            self._look(target, found)
            if self.api.warnings:  # Thanos: a store is unreachable
                warnings = "; ".join(sorted(self.api.warnings))
                text = f"{self.api.url} warns that its responses are incomplete: {warnings}."
                self._tell_once(target, "prometheus_warning", text)
        return answered

    def _look(self, target: Target, found: list[tuple[dict[str, str], Samples]]) -> None:
        failed, at_once = target.look(found)
        if at_once > 1:
            text = (
                f"The selector of {target.name} ({target.selector}) matches {at_once} targets;"
                " their values are added up."
            )
            self._tell_once(target, "selector_ambiguous", text)
        if failed:
            why = self._why(target)
            for moment_ms in failed:
                self._journal.mark(target.name, moment_ms, label=None, error=why)

    def _why(self, target: Target) -> str:
        why = "up is 0: Prometheus could not scrape it"
        if self.managed:
            with suppress(PrometheusError):
                why = self.api.last_errors().get(target.name, why)
        return why

    def _read(self) -> list[str]:
        """Read all new samples up to each target's last complete scrape; the errors."""
        wrong = []
        for target in self._targets.values():
            step_ms = max(1, round(_SCRAPES_A_READ * (target.interval_s or 1.0) * 1000))
            while target.scrape_ms is not None and target.read_ms < target.scrape_ms:
                until_ms = min(target.scrape_ms, target.read_ms + step_ms)
                asked_ns = now_ns()
                try:
                    answer = self.api.raw(target.matching(), until_ms - target.read_ms, until_ms)
                except PrometheusError as error:
                    wrong.append(f"{target.name}: {error}")
                    break
                self._journal.answer(target.name, asked_ns, wrap(answer, target.read_ms, until_ms))
                target.read_ms = until_ms
        return wrong

    def _wall_ms(self) -> int:
        return (now_ns() + self.unix_offset_ns) // NS_PER_MS

    def _patience_s(self) -> float:
        known = (target.interval_s or _INTERVAL_GUESS_S for target in self._targets.values())
        interval_s = max(known, default=_INTERVAL_GUESS_S)
        return min(_MOST_WAIT_S, max(_LEAST_WAIT_S, _DISCOVERY_S + 3 * interval_s))

    def _tell_once(self, target: Target, code: str, message: str) -> None:
        if code not in target.reported:
            target.reported.add(code)
            self.on_concern(degraded(code, message))
