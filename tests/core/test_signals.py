import os
import signal
from collections.abc import Iterator

import pytest

from harness.core.signals import Signals


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def default_sighup() -> Iterator[None]:
    """As in a terminal; under nohup it is ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def test_under_nohup_a_lost_terminal_is_not_counted() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Signals() as signals:
        signals.only_count()
        send(signal.SIGHUP)
        assert signals.count == 0


def test_the_first_signal_interrupts_and_the_next_ones_are_counted() -> None:
    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            send()
        send(signal.SIGHUP)
        assert signals.count == 2


def test_under_load_signals_are_counted_only() -> None:
    with Signals() as signals:
        signals.only_count()
        send()
        send(signal.SIGINT)
        assert signals.count == 2


def test_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
