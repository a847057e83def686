"""The recorder's process as the supervisor sees it."""

import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter

from harness.artifacts.layout import RunDir
from harness.core.errors import TelemetryError
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Severity
from harness.processes import lines
from harness.processes.child import Child, ChildSpec, exit_text
from harness.processes.registry import RunRegistry
from harness.processes.start import own_environment, own_module
from harness.telemetry.recorder import RecorderConfig

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 10.0
_SEVERITIES: Final = {"telemetry_scope_gone": Severity.NOTE, "telemetry_control": Severity.NOTE}


class RecorderProcess:
    """The recorder. If it dies it is restarted once, in new parts of its journals. `on_concern` is
    called from another thread.
    """

    def __init__(
        self,
        run: RunDir,
        config: RecorderConfig,
        registry: RunRegistry | None,
        on_concern: Callable[[Concern], None],
    ) -> None:
        self.failed: Concern | None = None
        """Set when the second one died too."""
        self.ready: Mapping[str, Any] = {}
        """Its message when the samplers ran: `nice`, `power`."""
        self.sampling: dict[str, Any] = {}
        """Its sampling statistics, after it stopped."""
        self.child: Child | None = None
        self._spec = ChildSpec(
            name="telemetry",
            argv=own_module("harness.telemetry.recorder"),
            env=own_environment(),
            log=run.logs_dir / "telemetry.log",
            speaks=True,
            error=TelemetryError,
        )
        self._config = TypeAdapter(RecorderConfig).dump_json(config) + b"\n"
        self._registry = registry
        self._tell = on_concern
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._restarts = 0
        self._ended = False
        self._stopping = False
        self._targets: list[Mapping[str, Any]] = []
        self._scopes: dict[str, int] = {}
        self._live = TelemetryProgress()
        self._requests = 0
        self._pending: dict[int, str] = {}
        self._answers: dict[int, dict[str, bool]] = {}

    def start(self) -> None:
        """Start it and wait until its samplers run. Raises TelemetryError if that fails."""
        self.child = self._spawn()
        self._reader = threading.Thread(
            target=self._read, args=(self.child,), name="telemetry-events", daemon=True
        )
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self.ready or self._ended, timeout=_START_TIMEOUT_S)
            ready, ended = self.ready, self._ended
        if not ready:
            self.stop()
            how = "died at start" if ended else f"did not start within {_START_TIMEOUT_S:g} s"
            raise TelemetryError(
                f"the telemetry recorder {how}",
                next_step=f"read {self._spec.log}",
                details=self.child.log_tail(),
            )

    def _spawn(self) -> Child:
        child = Child.start(self._spec, self._registry)
        child.tell(self._config)
        return child

    def _send(self, message: Mapping[str, Any]) -> None:
        if self.child is not None:
            self.child.tell(lines.encode(message))

    def add_targets(self, targets: Sequence[Mapping[str, Any]]) -> None:
        self._targets += targets
        if targets:
            self._send({"add_targets": targets})

    def add_scopes(self, scopes: Mapping[str, int]) -> None:
        self._scopes.update(scopes)
        if scopes:
            self._send({"add_scopes": scopes})

    def scrape_now(self, label: str, timeout_s: float) -> bool:
        """Scrape every target; True if all succeeded in time."""
        with self._changed:
            self._requests += 1
            request_id = self._requests
            self._pending[request_id] = label  # sent again to a restarted recorder
        self._send({"scrape_now": label, "id": request_id})
        with self._changed:
            self._changed.wait_for(
                lambda: request_id in self._answers or self._ended, timeout=timeout_s
            )
            self._pending.pop(request_id, None)
            answer = self._answers.pop(request_id, {})
        return bool(answer) and all(answer.values())

    def wake(self, label: str) -> None:
        """Read energy counters now; a Prometheus scrapes at the same time."""
        self._send({"scrape_now": label, "id": 0})  # no one waits for this id

    def live(self) -> TelemetryProgress:
        """Newest live values; unknown once it is lost."""
        with self._changed:
            return TelemetryProgress() if self._ended else self._live

    def stop(self) -> None:
        """Stop it, by force if necessary. May be called again."""
        with self._changed:
            self._stopping = True
            child = self.child
        if child is None:
            return
        child.tell(lines.encode({"stop": True}))
        child.hang_up()
        child.wait(_STOP_TIMEOUT_S)
        child.stop(0)  # the journals are readable anyway
        if self._reader is not None:
            self._reader.join(timeout=_STOP_TIMEOUT_S)

    def _read(self, child: Child) -> None:
        """In a thread: handle a recorder's messages until it ends, then those of its
        replacement.
        """
        current: Child | None = child
        while current is not None:
            try:
                for line in current.lines():
                    self._take(lines.decode(line))
            except lines.LineError as error:
                self._problem("telemetry_control", f"the recorder sent {error}")
                current.signal(signal.SIGKILL)
            status = current.wait()
            assert status is not None
            current = self._after_end(current, exit_text(status))

    def _after_end(self, dead: Child, how: str) -> Child | None:
        """Report an unexpected end, and start another recorder once."""
        with self._changed:
            unexpected = not self._stopping and bool(self.ready)
            again = unexpected and not self._restarts
            if again:
                self._restarts += 1
                try:
                    dead.stop(0)
                    self.child = self._spawn()
                except TelemetryError:
                    again = False
            if not again:
                self._ended = True
                self._changed.notify_all()
        if again:
            text = (
                f"The telemetry recorder ended during the run ({how}) and was restarted; readings"
                " in between are missing."
            )
            self._tell(Concern("telemetry_restarted", Severity.DEGRADED, text))
            for message in ({"add_targets": self._targets}, {"add_scopes": self._scopes}):
                if any(message.values()):
                    self._send(message)
            with self._changed:
                waiting = dict(self._pending)
            for request_id, label in waiting.items():
                self._send({"scrape_now": label, "id": request_id})
            return self.child
        if unexpected:
            text = (
                f"the telemetry recorder ended during the run ({how}); scrapes, power and host"
                " readings end there"
            )
            self.failed = Concern("telemetry_died", Severity.DEGRADED, text)
            self._tell(self.failed)
        return None

    def _take(self, message: dict[str, Any]) -> None:
        event = message.pop("event", None)
        with self._changed:
            if event == "ready":
                self.ready = message
            elif event == "live":
                self._live = TelemetryProgress(**message)
            elif event == "scraped":
                self._answers[message["id"]] = message["ok"]
            self._changed.notify_all()
        if event == "problem":
            self._problem(message["code"], message["message"])
        elif event == "stopped":
            self.sampling = message["power"]
            if lost := message["rows_lost"]:
                text = "telemetry rows could not be written"
                self._problem("telemetry_rows_lost", text, value=float(lost), limit=0.0)

    def _problem(
        self, code: str, text: str, value: float | None = None, limit: float | None = None
    ) -> None:
        self._tell(Concern(code, _SEVERITIES.get(code, Severity.DEGRADED), text, value, limit))
