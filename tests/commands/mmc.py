"""Progress of a load on a server with slots and exponential service, in simulated time."""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator

from harness.commands.steps.early_end import LoadState
from harness.core.progress import TelemetryProgress, TrafficProgress

NS = 1_000_000_000


def erlang_c(slots: int, offered: float) -> float:
    """Share of arrivals that wait."""
    blocked = 1.0
    for count in range(1, slots + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return slots * blocked / (slots - offered * (1 - blocked))


def share_within(slots: int, rate_per_s: float, mean_s: float, limit_s: float) -> float:
    """Share of requests that wait at most `limit_s` for a slot; 0 without a steady state."""
    if rate_per_s * mean_s >= slots:
        return 0.0
    waiting = erlang_c(slots, rate_per_s * mean_s)
    return 1 - waiting * math.exp(-(slots / mean_s - rate_per_s) * limit_s)


def capacity_per_s(slots: int, mean_s: float, limit_s: float, share: float) -> float:
    """Highest arrival rate at which a share of the requests waits at most `limit_s`."""
    low, high = 0.0, slots / mean_s
    for _ in range(100):
        middle = (low + high) / 2
        inside = share_within(slots, middle, mean_s, limit_s) >= share
        low, high = (middle, high) if inside else (low, middle)
    return low


def open_loop(
    slots: int,
    mean_s: float,
    limit_s: float,
    rate_per_s: float,
    *,
    warmup_s: float,
    window_s: float,
    seed: int,
    known: bool = True,
) -> Iterator[LoadState]:
    """States every half second of a Poisson load; TTFT is the wait for a slot."""
    chance = random.Random(seed)
    arrivals, now = [], chance.expovariate(rate_per_s)
    while now < warmup_s + window_s:
        arrivals.append(now)
        now += chance.expovariate(rate_per_s)
    total = sum(one >= warmup_s for one in arrivals)
    ends: list[tuple[float, float, bool]] = []  # end, arrival, missed
    queue: deque[float] = deque()
    judged = missed = window_judged = window_missed = at = 0
    tick = 0.0

    def serve(arrived: float, start: float) -> None:
        late = start - arrived > limit_s
        heapq.heappush(ends, (start + chance.expovariate(1 / mean_s), arrived, late))

    while (tick := tick + 0.5) <= warmup_s + window_s:
        while True:
            arrival = arrivals[at] if at < len(arrivals) else math.inf
            end = ends[0][0] if ends else math.inf
            if min(arrival, end) > tick:
                break
            if arrival <= end:
                at += 1
                if len(ends) < slots:
                    serve(arrival, arrival)
                else:
                    queue.append(arrival)
                continue
            _, arrived, late = heapq.heappop(ends)
            judged, missed = judged + 1, missed + late
            window_judged += arrived >= warmup_s
            window_missed += arrived >= warmup_s and late
            if queue:
                serve(queue.popleft(), end)
        yield LoadState(
            TrafficProgress(
                t_ns=round(tick * NS),
                in_flight=len(ends) + len(queue),
                judged=judged,
                missed=(missed,),
                window_judged=window_judged,
                window_missed=(window_missed,),
            ),
            TelemetryProgress(waiting=float(len(queue))),
            round(warmup_s * NS),
            round((warmup_s + window_s) * NS),
            total if known else None,
        )
