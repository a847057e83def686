"""The recorder process: `python -m harness.telemetry.recorder`.

It is a separate process, with raised priority if permitted, so that a busy load generator cannot
starve it. It reads its configuration as one line of JSON, then control lines, and writes lines of
JSON (`harness.processes.lines`):

in   {"add_targets": [{"name", "url", "keyed"}]}   {"add_scopes": {scope: pid}}
     {"scrape_now": label, "id": n}   {"stop": true}
out  {"event": "ready", "nice", "power": [{source, devices, why_not, origin, double}]}
     {"event": "live"} and the fields of `TelemetryProgress`
     {"event": "scraped", "id", "label", "ok": {target: bool}}
     {"event": "problem", "code", "message"}
     {"event": "stopped", "scrapes", "scrape_failures", "rows_lost",
      "power": {loops: {name: calls, lateness}, failures: {message: n}}}

The end of the input means that the supervisor is gone: the recorder closes its journals and ends.
"""

import io
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pyarrow as pa
from pydantic import TypeAdapter

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter, next_part
from harness.artifacts.layout import RunDir
from harness.core.clock import now_ns
from harness.core.errors import ArtifactError, HarnessError
from harness.core.imports import keep_pandas_out
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.processes import lines
from harness.profile.telemetry import Telemetry
from harness.telemetry.host import HostSampler
from harness.telemetry.live import LiveReader, together
from harness.telemetry.sampling import Loop, PowerSampler
from harness.telemetry.scrape import MetricsClient, Scrape, Scraper
from harness.telemetry.sources.gpu_state import RUN_MARK, BoardReader
from harness.telemetry.sources.select import SourceContext, make_source, specs_of

_NICE: Final = -5
_ZSTD_LEVEL: Final = 3  # 55 kB of vLLM's exposition: 6.4 kB in 0.08 ms
_LIVE_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RecorderConfig:
    """First line of the input.

    Attributes:
        supervisor_pid: for the scope `supervisor`.
        gpu_uuids: the deployment's GPUs on this machine.
        count_foreign: count processes on the GPUs that are not of this run.
        api_key: sent to targets that are `keyed`.
        unix_offset_ns: wall clock minus monotonic clock, recorded with each scrape; None: unknown.
    """

    run_dir: str
    supervisor_pid: int
    telemetry: Telemetry
    network: Network = field(default_factory=Network)
    gpu_uuids: tuple[str, ...] = ()
    count_foreign: bool = True
    api_key: str | None = None
    unix_offset_ns: int | None = None


class _StopSignal(BaseException):
    """Raised by the signal handlers, out of the wait for control lines."""


class _Commands(io.RawIOBase):
    """The command pipe. A signal that arrives just before a read ends the wait too: its handler
    runs between bytecodes, and a blocking read would delay it until the next command.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        self._poll = select.poll()  # unlike select, for any descriptor number
        self._poll.register(fd, select.POLLIN)
        self._poll.register(self._woken, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a writable buffer
        while self._fd not in dict(self._poll.poll()):
            os.read(self._woken, 64)
        return os.readv(self._fd, [buffer])


class _Journal:
    """A thread-safe journal, created with its first row."""

    def __init__(
        self, path: Path, schema: pa.Schema, on_problem: Callable[[str, str], None]
    ) -> None:
        self._path = path
        self._schema = schema
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._writer: JournalWriter | None = None
        self._closed = False
        self.rows_lost = 0

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        with self._lock:
            if self._closed:
                return
            try:
                if self._writer is None:
                    self._writer = JournalWriter(next_part(self._path), self._schema)
                self._writer.append(rows)
            except ArtifactError as error:
                if not self.rows_lost:
                    self._on_problem("telemetry_not_written", f"{error.what} ({error.cause})")
                self.rows_lost += len(rows)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._writer is not None:
                try:
                    self._writer.close()
                except ArtifactError as error:
                    self._on_problem("telemetry_not_written", error.what)


class Recorder:
    """Sampling threads and their journals."""

    def __init__(self, config: RecorderConfig, emit: Callable[[dict[str, Any]], None]) -> None:
        run = RunDir(Path(config.run_dir))
        self._config = config
        self._emit = emit
        self._stop = threading.Event()
        self._scrapes = _Journal(run.scrapes_journal, tables.SCRAPES_RAW, self._problem)
        self._power = _Journal(run.power_journal, tables.POWER, self._problem)
        self._boards = _Journal(run.boards_journal, tables.BOARDS, self._problem)
        self._host = _Journal(run.host_journal, tables.HOST, self._problem)
        self._sampler = HostSampler()
        self._sampler_lock = threading.Lock()
        self._scrapers: dict[str, Scraper] = {}
        self._state = threading.Lock()
        self._readers: dict[str, LiveReader] = {}
        self._shown: dict[str, dict[str, float] | None] = {}  # None: the last scrape failed
        self._scrape_count = 0
        self._failure_count = 0
        self._threads: list[threading.Thread] = []
        specs = specs_of(config.telemetry.model_dump(mode="json")["power"], config.gpu_uuids)
        around = SourceContext(
            config.gpu_uuids,
            config.telemetry.power_interval_s,
            config.telemetry.energy_interval_s,
            config.network,
        )
        gpu_state = None
        if config.gpu_uuids and any(spec["kind"] == "nvml" for spec in specs):
            run_id = os.environ.get(RUN_MARK) if config.count_foreign else None
            gpu_state = BoardReader(config.gpu_uuids, run_id=run_id)
        self._power_sampler = PowerSampler(
            [make_source(spec, around) for spec in specs],
            gpu_state,
            self._power.append,
            self._boards.append,
            self._problem,
        )

    def start(self) -> None:
        """Probe, start the samplers, and emit `ready`."""
        config = self._config
        self.add_scopes({"telemetry": os.getpid(), "supervisor": config.supervisor_pid})
        self._power_sampler.start()
        for loop in (
            Loop("host", self._sample_host, config.telemetry.host_interval_s, self._stop),
            Loop("live", self._report, _LIVE_INTERVAL_S, self._stop),
        ):
            loop.on_error = self._loop_failed
            thread = threading.Thread(target=loop.run, name=loop.name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._emit({"event": "ready", "nice": os.nice(0), "power": self._power_sampler.described()})

    def control(self, line: bytes) -> bool:
        """Execute one control line; False for the last one."""
        try:
            message = lines.decode(line)
            if message.get("stop"):
                return False
            self.add_targets(message.get("add_targets", []))
            self.add_scopes(message.get("add_scopes", {}))
            if "scrape_now" in message:
                self._scrape_now(str(message["scrape_now"]), message.get("id"))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            text = line.strip()[:200].decode(errors="replace")
            self._problem("telemetry_control", f"cannot execute {text!r}: {error}")
        return True

    def add_targets(self, targets: Sequence[Mapping[str, str]]) -> None:
        """Scrape further targets; existing names are unchanged."""
        for target in targets:
            try:
                self._add_target(target)
            except (HarnessError, ValueError, KeyError) as error:
                self._problem("telemetry_control", f"cannot scrape {dict(target)}: {error}")

    def _add_target(self, target: Mapping[str, str]) -> None:
        name = target["name"]
        if name in self._scrapers:
            return
        key = self._config.api_key if target.get("keyed") else None
        settings = self._config.telemetry
        client = MetricsClient(
            name, target["url"], settings.scrape_timeout_s, self._config.network, api_key=key
        )
        with self._state:
            self._readers[name] = LiveReader()
            self._shown[name] = None
        scraper = Scraper(client, settings.scrape_interval_s, self._record_scrape)
        self._scrapers[name] = scraper
        scraper.start()

    def add_scopes(self, scopes: Mapping[str, int]) -> None:
        """Watch further process trees."""
        for scope, pid in scopes.items():
            with self._sampler_lock:
                there = self._sampler.add(scope, int(pid))
            if not there:
                text = f"process {pid} of {scope} has already ended; its CPU and memory are missing"
                self._problem("telemetry_scope_gone", text)

    def _scrape_now(self, label: str, request_id: int | None) -> None:
        demands = {name: scraper.demand(label) for name, scraper in self._scrapers.items()}
        self._power_sampler.wake()

        def answer() -> None:
            for demand in demands.values():
                demand.done.wait()
            ok = {name: demand.ok for name, demand in demands.items()}
            self._report()  # first: whoever waits for the scrape then sees its values
            self._emit({"event": "scraped", "id": request_id, "label": label, "ok": ok})

        threading.Thread(target=answer, name="scrape-now", daemon=True).start()

    def _record_scrape(self, scrape: Scrape) -> None:
        row = {**asdict(scrape), "unix_offset_ns": self._config.unix_offset_ns}
        del row["body"]
        shown: dict[str, float] | None = None
        if scrape.body is not None:
            codec = pa.Codec("zstd", compression_level=_ZSTD_LEVEL)
            row["body_zstd"] = codec.compress(scrape.body, asbytes=True)
            row["body_bytes"] = len(scrape.body)
            shown = self._readers[scrape.target].read(scrape.body)
        self._scrapes.append([row])
        with self._state:
            self._scrape_count += 1
            self._failure_count += scrape.error is not None
            self._shown[scrape.target] = shown

    def _sample_host(self) -> None:
        with self._sampler_lock:
            rows = self._sampler.sample()
        self._host.append(rows)

    def _report(self) -> None:
        with self._state:
            shown = list(self._shown.values())
            live = TelemetryProgress(
                t_ns=now_ns(),
                power_w=self._power_sampler.power_now_w(),
                scrapes=self._scrape_count,
                scrape_failures=self._failure_count,
                **together(shown),
            )
        self._emit({"event": "live", **asdict(live)})

    def _loop_failed(self, why: str) -> None:
        self._problem("telemetry_loop_failed", f"{why} (these readings are missing)")

    def _problem(self, code: str, message: str) -> None:
        self._emit({"event": "problem", "code": code, "message": message})

    def close(self) -> None:
        """Stop the samplers, close the journals, and emit `stopped`."""
        self._stop.set()
        for scraper in self._scrapers.values():
            scraper.stop()
        for thread in (*self._threads, *self._scrapers.values()):
            thread.join(timeout=2.0)
        self._power_sampler.stop()
        journals = (self._scrapes, self._power, self._boards, self._host)
        for journal in journals:
            journal.close()
        self._power_sampler.close()
        self._emit(
            {
                "event": "stopped",
                "scrapes": self._scrape_count,
                "scrape_failures": self._failure_count,
                "rows_lost": sum(journal.rows_lost for journal in journals),
                "power": self._power_sampler.summary(),
            }
        )


def _emitter(fd: int) -> tuple[Callable[[dict[str, Any]], None], Callable[[], None]]:
    """A function that queues a message without ever waiting for the reader, and one that waits
    until all are written.
    """
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def write() -> None:
        while (message := messages.get()) is not None:
            try:
                os.write(fd, lines.encode(message))
            except OSError:
                return  # no reader any more; the end of the commands follows

    thread = threading.Thread(target=write, name="emit", daemon=True)
    thread.start()

    def finish() -> None:
        messages.put(None)
        thread.join(timeout=2.0)

    return messages.put, finish


def _ignore_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _handle_signals() -> None:
    """SIGTERM closes the journals. The kernel sends it when the supervisor dies, even if another
    process still has the command pipe open.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        _ignore_signals()  # a second one would interrupt closing the journals
        raise _StopSignal

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides when telemetry ends


def main() -> int:
    """Run until stopped.

    Returns:
        Exit status: 0, or 2 for an invalid configuration.
    """
    keep_pandas_out()
    commands, events = lines.inherited()
    emit, finish = _emitter(events)
    control = lines.split(io.BufferedReader(_Commands(commands)))
    try:
        config = TypeAdapter(RecorderConfig).validate_json(next(control, b""))
    except ValueError as error:
        text = f"invalid configuration: {error}"
        emit({"event": "problem", "code": "telemetry_config", "message": text})
        finish()
        return 2
    with suppress(OSError):  # not permitted: normal priority, as reported in `ready`
        os.nice(_NICE)
    recorder = Recorder(config, emit)
    try:
        _handle_signals()
        recorder.start()
        for line in control:
            if not recorder.control(line):
                break
        _ignore_signals()  # within the try: a signal may arrive during this call
    except _StopSignal:
        pass
    recorder.close()
    finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
