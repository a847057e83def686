"""Reads a run's metrics out of a Prometheus: live figures while it runs, waits for scrapes, and the
raw samples into the run's journal.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from harness.artifacts.prometheus.answers import NS_PER_MS, wrap
from harness.core.clock import NS_PER_S, now_ns
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Severity
from harness.telemetry.live import together
from harness.telemetry.prometheus.answers import AnswersJournal, Tell
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError, Samples
from harness.telemetry.prometheus.target import LOOKED_AT, Target

_SCRAPES_A_READ: Final = 120  # of some 670 series: 80,000 samples, 2 MB of JSON
# Prometheus stamps a scrape with its slot when it began up to 2 ms off it
# (scrape.timestamp-tolerance)
_ALIGNED_MS: Final = 3
_WAIT_POLL_S: Final = 0.1
_DISCOVERY_S: Final = 6.0  # Prometheus takes new targets up every 5 s
_LEAST_WAIT_S: Final = 15.0
_MOST_WAIT_S: Final = 180.0
_INTERVAL_GUESS_S: Final = 60.0  # of a Prometheus of somebody else's, until two scrapes are seen
_CLOCK_LIMIT_MS: Final = 500.0
"""A server's clock that is further off moves the samples against the requests by more than a short
window's edges bear.
"""


class PrometheusReader:
    """Follows the run's targets in a Prometheus.

    Args:
        journal: takes the answers; a part of it that exists is continued by a new one.
        api: the server.
        unix_offset_ns: wall clock minus monotonic clock of this host, at the manifest's anchor.
        tell: called for what a reader of the run must know, from another thread.
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
        tell: Tell,
        poll_s: float,
        read_s: float | None,
        managed: bool,
        interval_s: float | None = None,
        revive: Callable[[], None] = lambda: None,
    ) -> None:
        self._api = api
        self._offset_ns = unix_offset_ns
        self._tell = tell
        self._poll_s, self._read_s = poll_s, read_s
        self._managed = managed
        self._interval_s = interval_s
        self._revive = revive
        self._journal = AnswersJournal(journal, unix_offset_ns, tell)
        self._targets: dict[str, Target] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
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
            self._tell(
                Concern(
                    "prometheus_clock", Severity.DEGRADED, text, off_ms / 1e3, _CLOCK_LIMIT_MS / 1e3
                )
            )
        self._thread.start()

    def add_target(self, name: str, selector: str) -> None:
        """Follow a target from now on.

        Args:
            name: of the endpoint.
            selector: PromQL label matchers without braces.
        """
        with self._lock:
            self._targets.setdefault(
                name, Target(name, selector, self._wall_ms(), self._interval_s)
            )

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
                        self._journal.mark(name, target.scrape_ms, label=label, error=None)
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
                    self._tell(Concern("prometheus_no_target", Severity.DEGRADED, text))
            for problem in self._read():
                self._tell(
                    Concern(
                        "prometheus_not_read", Severity.DEGRADED, f"Samples are missing: {problem}"
                    )
                )
            self._journal.close()

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
                found = self._api.samples(target.matching(LOOKED_AT), target.look_back_ms)
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

    def _look(self, target: Target, found: list[tuple[dict[str, str], Samples]]) -> None:
        failed, at_once = target.look(found)
        if at_once > 1:
            text = (
                f"The selector of {target.name} ({target.selector}) matches {at_once} targets:"
                " their figures are added up."
            )
            self._tell_once(target, "selector_ambiguous", text)
        if failed:
            why = self._why(target)
            for moment_ms in failed:
                self._journal.mark(target.name, moment_ms, label=None, error=why)

    def _why(self, target: Target) -> str:
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
            step_ms = max(1, round(_SCRAPES_A_READ * (target.interval_s or 1.0) * 1000))
            while target.scrape_ms is not None and target.read_ms < target.scrape_ms:
                until_ms = min(target.scrape_ms, target.read_ms + step_ms)
                asked_ns = now_ns()
                try:
                    answer = self._api.raw(target.matching(), until_ms - target.read_ms, until_ms)
                except PrometheusError as error:
                    wrong.append(f"{target.name}: {error}")
                    break
                self._journal.answer(target.name, asked_ns, wrap(answer, target.read_ms, until_ms))
                target.read_ms = until_ms
        return wrong

    # --- small things ---

    def _wall_ms(self) -> int:
        return (now_ns() + self._offset_ns) // NS_PER_MS

    def _patience_s(self) -> float:
        known = [target.interval_s for target in self._targets.values()]
        interval_s = max(
            (one if one is not None else _INTERVAL_GUESS_S for one in known),
            default=_INTERVAL_GUESS_S,
        )
        return min(_MOST_WAIT_S, max(_LEAST_WAIT_S, _DISCOVERY_S + 3 * interval_s))

    def _tell_once(self, target: Target, code: str, message: str) -> None:
        if code not in target.told:
            target.told.add(code)
            self._tell(Concern(code, Severity.DEGRADED, message))
