"""The paced server's slots are an M/M/c queue: its waits follow Erlang's formula."""

import heapq
import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.reference_server.slots import Slots


def erlang_c(slots: int, offered: float) -> float:
    """Share of arrivals that wait, for an offered load in Erlang (rate x mean service)."""
    blocked = 1.0
    for count in range(1, slots + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return slots * blocked / (slots - offered * (1 - blocked))


def waits_s(slots: int, rate_per_s: float, mean_s: float, count: int, seed: int) -> list[float]:
    """Waits of `count` Poisson arrivals, in simulated time."""
    queue: Slots[tuple[float, float]] = Slots(slots, mean_s, seed)
    gaps, ends, waits = random.Random(seed + 1000), list[float](), list[float]()

    def leave() -> None:
        now = heapq.heappop(ends)
        if (following := queue.leave()) is not None:
            arrived_s, service_s = following
            waits.append(now - arrived_s)
            heapq.heappush(ends, now + service_s)

    now = 0.0
    for _ in range(count):
        now += gaps.expovariate(rate_per_s)
        while ends and ends[0] <= now:
            leave()
        service_s = queue.service_ns() / 1e9
        if queue.enter((now, service_s)):
            waits.append(0.0)
            heapq.heappush(ends, now + service_s)
    while ends:
        leave()
    return waits


@pytest.mark.parametrize(("slots", "load"), [(1, 0.5), (4, 0.7), (16, 0.85)])
def test_waits_follow_erlang_c(slots: int, load: float) -> None:
    mean_s, count = 0.25, 100_000
    rate_per_s = load * slots / mean_s
    waits = waits_s(slots, rate_per_s, mean_s, count, seed=7)
    assert len(waits) == count
    waiting = erlang_c(slots, rate_per_s * mean_s)
    for limit_s in (0.0, mean_s / slots, 4 * mean_s / slots):
        late = sum(wait > limit_s for wait in waits) / count
        expected = waiting * math.exp(-(slots / mean_s - rate_per_s) * limit_s)
        assert late == pytest.approx(expected, abs=0.015)


def test_service_is_exponential_and_repeats_with_its_seed() -> None:
    drawn = [Slots(1, 0.2, seed=5).service_ns() for _ in range(2)]
    assert drawn[0] == drawn[1]
    slots = Slots[int](1, 0.2, seed=5)
    times = [slots.service_ns() / 1e9 for _ in range(50_000)]
    mean = sum(times) / len(times)
    variance = sum((one - mean) ** 2 for one in times) / len(times)
    assert mean == pytest.approx(0.2, rel=0.02)
    assert variance**0.5 == pytest.approx(mean, rel=0.02)


@pytest.mark.parametrize(("count", "mean_s"), [(0, 1.0), (1, 0.0)])
def test_slots_need_a_count_and_a_mean(count: int, mean_s: float) -> None:
    with pytest.raises(ValueError, match="count >= 1"):
        Slots(count, mean_s, 1)


def test_the_server_serves_as_many_as_it_has_slots_and_records_waits(tmp_path: Path) -> None:
    pace = Pace(slots=2, service_ms=30, seed=3, tokens=4)
    body = {"model": MODEL, "max_tokens": 4, "stream": True, "messages": []}
    with PacedServer(pace, tmp_path / "truth.jsonl") as server, httpx.Client() as client:

        def ask(_: int) -> int:
            return client.post(f"{server.url}/v1/messages", json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(24))) == {200}
        metrics = client.get(f"{server.url}/metrics").text
        server.stop()
        truth = server.truth()
    assert 'num_requests_waiting{engine="0",model_name="paced-test-double"} 0' in metrics
    assert 'num_requests_running{engine="0",model_name="paced-test-double"} 0' in metrics
    draws = Slots[int](2, 0.03, seed=3)
    by_arrival = sorted(truth, key=lambda one: one["received_ns"])
    assert [one["service_ns"] for one in by_arrival] == [draws.service_ns() for _ in truth]
    starts = [one["received_ns"] + one["wait_ns"] for one in by_arrival]
    assert starts == sorted(starts)  # first come, first served
    assert max(one["wait_ns"] for one in truth) > 0
    for one in truth:
        started_ns = one["received_ns"] + one["wait_ns"]
        assert one["tokens"] == 4
        # the last token is due after three gaps of a third of the service each
        assert one["done_ns"] - started_ns >= one["service_ns"] - 3
    for moment in starts:  # at no time more than two in service
        serving = sum(
            started <= moment < one["done_ns"]
            for started, one in zip(starts, by_arrival, strict=True)
        )
        assert serving <= 2
    assert len(list(itertools.pairwise(starts))) == 23


def test_a_client_that_leaves_the_queue_frees_no_slot(tmp_path: Path) -> None:
    pace = Pace(slots=1, service_ms=400, seed=1, tokens=2)
    body = {"model": MODEL, "max_tokens": 2, "stream": True, "messages": []}
    with PacedServer(pace, tmp_path / "truth.jsonl") as server:
        url = f"{server.url}/v1/messages"
        with httpx.Client() as first, httpx.Client(timeout=0.01) as hasty:
            with first.stream("POST", url, json=body) as running:
                with pytest.raises(httpx.ReadTimeout):
                    hasty.post(url, json=body)
                hasty.close()
                running.read()
            assert first.post(url, json=body).status_code == 200
        server.stop()
        truth = server.truth()
    assert sorted(one["aborted"] for one in truth) == [False, False, True]
    assert [one["wait_ns"] for one in truth if one["aborted"]] == [None]
