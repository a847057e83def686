"""The queue of a server with a fixed number of slots: first come, first served.

With Poisson arrivals and exponential service times it is the M/M/c queue of Erlang (1917), so the
share of requests that wait longer than a limit is known in closed form.
"""

import random
from collections import deque
from typing import Generic, TypeVar

Waiting = TypeVar("Waiting")


class Slots(Generic[Waiting]):
    """Requests in service and in the queue.

    Args:
        count: requests in service at once.
        mean_s: mean of the exponential service time.
        seed: of the service times, which are drawn in the order of arrival.
    """

    def __init__(self, count: int, mean_s: float, seed: int) -> None:
        if count < 1 or mean_s <= 0:
            raise ValueError(
                f"slots need a count >= 1 and a mean > 0, not {count} and {mean_s:g} s"
            )
        self._free = count
        self._mean_s = mean_s
        self._random = random.Random(seed)  # noqa: S311 - simulated times
        self._queue: deque[Waiting] = deque()

    @property
    def waiting(self) -> int:
        """Length of the queue."""
        return len(self._queue)

    def service_ns(self) -> int:
        """The service time of the next arrival."""
        return round(self._random.expovariate(1 / self._mean_s) * 1e9)

    def enter(self, request: Waiting) -> bool:
        """Whether a slot was free for a new request; otherwise the request waits."""
        if self._free:
            self._free -= 1
            return True
        self._queue.append(request)
        return False

    def leave(self) -> Waiting | None:
        """A request leaves its slot. Returns the one that takes it."""
        if self._queue:
            return self._queue.popleft()
        self._free += 1
        return None

    def abandon(self, request: Waiting) -> None:
        """A request leaves the queue without service."""
        self._queue.remove(request)
