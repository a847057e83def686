"""Writes records as requests finish: batches to the worker's journal, in a thread so that no stream
waits for it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gevent
import pyarrow as pa
from gevent.event import Event

from harness.artifacts.journal import JournalWriter
from harness.artifacts.tables import REQUESTS
from harness.core.errors import HarnessError
from harness.core.records import Outcome
from harness.traffic._locust.answer import Answer
from harness.traffic._locust.record import Record, to_batch

_log = logging.getLogger(__name__)

_FAILURES: Final = (HarnessError, OSError, pa.ArrowException)

WRITE_INTERVAL_S: Final = 0.25
"""Minimum time between two writes. A batch costs about 5 kB of its own; a kill -9 of this worker
loses at most this much time.
"""


class Recorder:
    """Writes records to one journal.

    Attributes:
        error: why writing failed, else None. A failed recorder discards further records: the run is
            over.
    """

    def __init__(self, path: Path) -> None:
        self.error: str | None = None
        self._waiting: list[Record] = []
        self._wake = Event()
        self._closing = False
        self._warm_up()
        self._journal = JournalWriter(path, REQUESTS)
        self._pool = gevent.get_hub().threadpool
        self._greenlet = gevent.spawn(self._run)

    def add(self, record: Record) -> None:
        self._waiting.append(record)
        self._wake.set()

    def close(self) -> None:
        """Write everything and the journal's end marker. Idempotent."""
        self._closing = True
        self._wake.set()
        self._greenlet.join()

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait()
                self._wake.clear()
                # records that finish during the write are the next batch
                batch, self._waiting = self._waiting, []
                if batch:
                    self._in_thread(self._write, batch)
                if self._closing and not self._waiting:
                    break
                if not self._closing:
                    self._pause()
            self._in_thread(self._journal.close)
        except Exception as error:  # noqa: BLE001 - whatever ends the recorder ends the run
            self.error = str(error) if isinstance(error, _FAILURES) else repr(error)
            _log.error("records cannot be written: %s", error)

    def _in_thread(self, job: Callable[..., None], *args: object) -> None:
        """Run in the thread pool and raise its exception here; the pool itself would log a
        traceback.
        """

        def guarded() -> Exception | None:
            try:
                job(*args)
            except Exception as error:  # noqa: BLE001 - raised where the recorder runs
                return error
            return None

        if (error := self._pool.apply(guarded)) is not None:
            raise error

    def _pause(self) -> None:
        end = gevent.get_hub().loop.now() + WRITE_INTERVAL_S
        while not self._closing and (left := end - gevent.get_hub().loop.now()) > 0:
            gevent.sleep(min(left, 0.05))

    def _write(self, batch: list[Record]) -> None:
        self._journal.append_batch(to_batch(batch))

    def _warm_up(self) -> None:
        """Pay pyarrow's first-use costs before any stream runs."""
        record = Record("", 0, "", "", 0, 0, 0, 0, Answer(Outcome.OK))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, REQUESTS) as stream:
            stream.write_batch(to_batch([record, record]))
