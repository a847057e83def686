"""Waiting for the servers to be idle after the load."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from harness.commands.steps.idle import IDLE_SCRAPE, IDLE_WAIT_S, wait_until_idle
from harness.core.progress import TelemetryProgress

S = 1_000_000_000


class Telemetry:
    """Reports at given times, and counts how often it was asked."""

    def __init__(self, latest: Callable[[int], TelemetryProgress], *, scrapes: bool = True) -> None:
        self.asked = 0
        self.labels: list[str] = []
        self._latest = latest
        self._scrapes = scrapes

    def scrape_now(self, label: str, timeout_s: float) -> bool:
        self.labels.append(label)
        return self._scrapes

    def latest(self) -> TelemetryProgress:
        self.asked += 1
        return self._latest(self.asked)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that passes by sleeping alone."""
    one = SimpleNamespace(now_ns=0)

    def sleep(duration_s: float) -> None:
        one.now_ns += round(duration_s * S)

    monkeypatch.setattr("harness.commands.steps.idle.now_ns", lambda: one.now_ns)
    monkeypatch.setattr("harness.commands.steps.idle.time.sleep", sleep)
    return one


def test_it_waits_for_a_newer_report_of_idle_servers(clock: SimpleNamespace) -> None:
    reports = [
        TelemetryProgress(t_ns=0, running=0.0, waiting=0.0),  # from before the end of the load
        TelemetryProgress(t_ns=1, running=2.0, waiting=0.0),
        TelemetryProgress(t_ns=2, running=0.0, waiting=1.0),
        TelemetryProgress(t_ns=3, running=0.0, waiting=0.0),
    ]
    telemetry = Telemetry(lambda asked: reports[asked - 1])
    wait_until_idle(telemetry)
    assert telemetry.asked == 4
    assert telemetry.labels == [IDLE_SCRAPE] * 4


def test_without_telemetry_it_does_not_wait(clock: SimpleNamespace) -> None:
    telemetry = Telemetry(lambda _: TelemetryProgress())
    wait_until_idle(telemetry)
    assert telemetry.asked == 1


def test_it_does_not_wait_for_ever(clock: SimpleNamespace) -> None:
    wait_until_idle(Telemetry(lambda asked: TelemetryProgress(t_ns=asked, running=1.0)))
    assert clock.now_ns == pytest.approx(IDLE_WAIT_S * S, abs=0.1 * S)


def test_without_a_scrape_it_looks_less_often(clock: SimpleNamespace) -> None:
    telemetry = Telemetry(lambda asked: TelemetryProgress(t_ns=asked, running=1.0), scrapes=False)
    wait_until_idle(telemetry)
    assert len(telemetry.labels) == 15
