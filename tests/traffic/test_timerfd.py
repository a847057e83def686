"""Moments that the dispatcher waits for."""

from collections.abc import Callable
from typing import Any


def test_waits_end_in_the_order_of_their_times_and_never_early(
    in_child: Callable[[str], Any],
) -> None:
    found = in_child("""
import gevent.monkey
gevent.monkey.patch_all()
import json, time, gevent
from harness.traffic._locust.timerfd import PreciseTimer
alarm, woken = PreciseTimer(), []
now = time.monotonic_ns()
def wait(name, at_ns):
    alarm.wait(at_ns)
    woken.append((name, time.monotonic_ns() >= at_ns))
moments = {"late": 430, "past": -5, "soon": 403, "middle": 412, "soon too": 403}  # all wait before the first is due, on a busy machine too
waits = [gevent.spawn(wait, name, now + ms * 1_000_000) for name, ms in moments.items()]
gevent.joinall(waits, timeout=20)
print(json.dumps(woken))
""")
    assert found == [
        ["past", True],
        ["soon", True],
        ["soon too", True],
        ["middle", True],
        ["late", True],
    ]


def test_a_wait_that_was_given_up_holds_up_nobody(in_child: Callable[[str], Any]) -> None:
    assert in_child("""
import gevent.monkey
gevent.monkey.patch_all()
import json, time, gevent
from harness.traffic._locust.timerfd import PreciseTimer
alarm, woken = PreciseTimer(), []
now = time.monotonic_ns()
given_up = gevent.spawn(alarm.wait, now + 405_000_000)
kept = gevent.spawn(lambda: (alarm.wait(now + 410_000_000), woken.append("kept")))
gevent.sleep(0)
given_up.kill()
gevent.joinall([kept], timeout=20)
print(json.dumps(woken))
""") == ["kept"]
