"""Times of reads: the kernel's stamp of their arrival, whenever the process comes round to them."""

from collections.abc import Callable
from typing import Any

PAIR = """
import json, socket, time
from harness.traffic._locust.stamped_reads import stamped, unstamped
listener = socket.create_server(("127.0.0.1", 0))
reader = socket.create_connection(listener.getsockname())
writer, _ = listener.accept()
writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
reader.setblocking(False)
def offset():
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
def warm(receive):
    # The kernel begins to stamp a moment after it is asked: until then a read has the time of the read.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        before = time.monotonic_ns()
        writer.send(b"x")
        after = time.monotonic_ns()
        time.sleep(0.05)
        data, at_ns = receive(offset(), 0)
        if before <= at_ns <= before + 25_000_000:
            return True
    return False
"""


def test_a_late_read_has_the_time_of_the_arrival(in_child: Callable[[str], Any]) -> None:
    found = in_child(
        PAIR
        + """
receive = stamped(reader)
assert warm(receive)
before = time.monotonic_ns()
writer.send(b"one")
sent = time.monotonic_ns()
while time.monotonic_ns() - sent < 80_000_000:  # the process is busy with something else
    pass
data, at_ns = receive(offset(), 0)
print(json.dumps([data.decode(), at_ns - before, time.monotonic_ns() - before]))
"""
    )
    data, late_ns, now_ns = found
    assert data == "one"
    assert -1_000_000 <= late_ns < now_ns - 40_000_000


def test_a_time_is_never_before_the_one_before_it_nor_after_the_present(
    in_child: Callable[[str], Any],
) -> None:
    found = in_child(
        PAIR
        + """
receive = stamped(reader)
assert warm(receive)
writer.send(b"two")
time.sleep(0.01)
floor = time.monotonic_ns()
_, held = receive(offset(), floor)  # bytes that came before what is known to have been earlier
writer.send(b"three")
time.sleep(0.01)
_, ahead = receive(offset() - 10**12, 0)  # a clock that was set back meanwhile
print(json.dumps([held == floor, ahead <= time.monotonic_ns()]))
"""
    )
    assert found == [True, True]


def test_without_stamps_it_is_the_time_of_the_read(in_child: Callable[[str], Any]) -> None:
    assert in_child(
        PAIR
        + """
receive = unstamped(reader)
writer.send(b"four")
time.sleep(0.03)
before = time.monotonic_ns()
data, at_ns = receive(offset(), 0)
print(json.dumps([data.decode(), at_ns >= before]))
"""
    ) == ["four", True]


def test_busy_streams_are_read_once_a_period_and_all_of_them(
    in_child: Callable[[str], Any],
) -> None:
    """Many small writes of many streams: every byte is read, with fewer looks than writes, and an
    idle set goes back to waking at once.
    """
    found = in_child("""
import gevent.monkey
gevent.monkey.patch_all()
import json, socket, time, gevent
from gevent.hub import get_hub
from harness.traffic._locust import stamped_reads as module
from harness.traffic._locust.stamped_reads import Readiness, stamped
listener = socket.create_server(("127.0.0.1", 0))
pairs = []
for _ in range(20):
    reader = socket.create_connection(listener.getsockname())
    writer, _ = listener.accept()
    writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pairs.append((reader, writer))
readiness, got, times = Readiness(), [0] * len(pairs), []
looks = 0
look = readiness._look
def counted(now_ns):
    global looks
    looks += 1
    return look(now_ns)
readiness._look = counted
for index, (reader, _) in enumerate(pairs):
    receive = stamped(reader._sock)
    def handler(offset_ns, index=index, receive=receive):
        data, at_ns = receive(offset_ns, 0)
        got[index] += len(data)
        times.append(at_ns)
    readiness.add(reader.fileno(), handler)
started = time.monotonic_ns()
writes = 0
for round in range(50):
    for _, writer in pairs:
        writer.send(b"x" * 10)
        writes += 1
    gevent.sleep(0.0005)
deadline = time.monotonic() + 20
while sum(got) < writes * 10 and time.monotonic() < deadline:
    gevent.sleep(0.01)
assert sum(got) == writes * 10, got
while readiness._timer.active and time.monotonic() < deadline:  # nothing comes any more
    gevent.sleep(0.01)
idle = readiness._io.active and not readiness._timer.active
for reader, writer in pairs:
    readiness.remove(reader.fileno())
    readiness.remove(reader.fileno())
print(json.dumps([looks < writes / 2, idle, min(times) >= started - 1_000_000, max(times) <= time.monotonic_ns()]))
""")
    assert found == [True, True, True, True]


def test_a_kernel_without_stamps_is_told(in_child: Callable[[str], Any]) -> None:
    found = in_child(
        """
import errno, json
from harness.traffic._locust.stamped_reads import stamped

class Old:
    def setsockopt(self, *_):
        raise OSError(errno.ENOPROTOOPT, "Protocol not available")

print(json.dumps(stamped(Old()) is None))
"""
    )
    assert found is True
