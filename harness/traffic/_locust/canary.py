"""A worker's canary: streams continuously from a paced server on this host, through the same reader
and recorder as the real load.

The paced server records when it wrote each token, so these records show this worker's timing error
while the engine competes for cores. They have their own class and replica and are in no metric of
the real load: not in flight, not sent, not in the display.
"""

import json
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from random import Random
from time import monotonic_ns
from typing import Final

import gevent

from harness.core.clock import NS_PER_S
from harness.core.records import CANARY, Api, Outcome
from harness.traffic._locust.answer import Answer, read_answer
from harness.traffic._locust.http_client import Cancelled, Target
from harness.traffic._locust.record import Record
from harness.traffic._locust.recorder import Recorder

STREAM_TOK: Final = 130
"""Tokens per canary response. At 20 ms per token a stream lasts longer than the longest period:
there is always one, so a stalled worker is noticed at any time.
"""

LONGEST_PERIOD_S: Final = 2.0
SHORTEST_PERIOD_S: Final = 0.2
"""At most five per second: about 13 streams, 650 tokens/s, 1% of a core."""

SHARE: Final = 0.01
"""Canaries per request of the real load, within the two periods."""

JITTER: Final = 0.25
"""Periods vary by this share either way, so that canaries do not synchronize with anything."""


@dataclass(eq=False)
class Canary:
    """Canaries of one worker. `api` is that of the real load; `sent` returns the number of real
    requests that this worker has sent so far.
    """

    target: Target
    api: Api
    recorder: Recorder
    _: KW_ONLY
    worker: int
    sent: Callable[[], int]

    def __post_init__(self) -> None:
        self._stage = ""
        self._number = 0
        self._rng = Random(self.worker)  # noqa: S311 - spreads times, guards nothing
        self._loop: gevent.Greenlet | None = None
        self._live: set[gevent.Greenlet] = set()
        fields: dict[str, object] = {
            "model": self.target.model,
            "stream": True,
            "messages": [{"role": "user", "content": "tweet"}],
            "max_tokens": STREAM_TOK,
        }
        self._body = json.dumps(fields).encode()

    def start(self, stage: str, start_ns: int) -> None:
        """A stage begins; the first one starts the canaries, which run until `stop`."""
        self._stage = stage
        if self._loop is None:
            self._loop = gevent.spawn(self._run, start_ns)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.kill()
        live = list(self._live)
        for greenlet in live:
            greenlet.kill(Cancelled(Outcome.INTERRUPTED, "the load was over"), block=False)
        gevent.joinall(live)

    def _run(self, start_ns: int) -> None:
        due_ns = start_ns
        before = (start_ns, self.sent())
        while True:
            gevent.sleep(max(0.0, (due_ns - monotonic_ns()) / NS_PER_S))
            greenlet = gevent.spawn(self._one, due_ns)
            self._live.add(greenlet)
            greenlet.link(self._live.discard)
            now_ns, sent = monotonic_ns(), self.sent()
            rate = (sent - before[1]) * NS_PER_S / max(1, now_ns - before[0])
            before = (now_ns, sent)
            period_s = LONGEST_PERIOD_S
            if rate > 0:
                period_s = min(LONGEST_PERIOD_S, max(SHORTEST_PERIOD_S, 1 / (SHARE * rate)))
            due_ns += round(period_s * self._rng.uniform(1 - JITTER, 1 + JITTER) * NS_PER_S)

    def _one(self, intended_ns: int) -> None:
        record = Record(
            session_id=f"{CANARY}-{self.worker}",
            turn=self._number,
            workload_class=CANARY,
            stage=self._stage,
            worker=self.worker,
            intended_ns=intended_ns,
            target_input_tok=0,
            target_output_tok=STREAM_TOK,
            answer=Answer(Outcome.INTERRUPTED),
            replica=self.target.name,
            request_bytes=len(self._body),
        )
        self._number += 1
        exchange = self.target.send(self._body, record.request_id)
        record.sent_ns, record.done_ns = exchange.sent_ns, exchange.done_ns
        record.answer = read_answer(
            exchange.framing, self.api, exchange.ending, local=exchange.local, error=exchange.error
        )
        self.recorder.add(record)
