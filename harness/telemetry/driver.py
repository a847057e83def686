"""The supervisor's side of the recorder process."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, ClockAnchor, now_ns, take_anchor
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.core.records import Boundary, Concern, Endpoint, Gpu, Severity
from harness.hardware.gpus import simulated_by
from harness.profile.telemetry import Telemetry
from harness.telemetry.prometheus.run import EMBEDDED, RunPrometheus
from harness.telemetry.prometheus.server import Registry, same_origin
from harness.telemetry.recorder import RecorderConfig
from harness.telemetry.sources.select import specs_of

_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 10.0
_LOG_LINES: Final = 30


class TelemetryRecorder:
    """Starts, feeds and ends the recorder process. A context manager.

    Losing the recorder does not end a run. It is started again once, in new parts of its journals,
    and `on_concern` is called; when that one ends as well, `failed` is set and every later call
    does nothing.

    Args:
        run: an existing run directory; journals and logs/telemetry.log go there.
        settings: the profile's telemetry.
        gpus: boards of the deployment on this machine.
        on_concern: called for what a reader of the run must know, from another thread.
        count_foreign: count processes on the boards that are not of this run; false where the
            server's own cannot be told.
        double_severity: of the concern that power comes from no real hardware.
        network: certificates to trust when scraping.
        api_key: of the endpoints; sent to metrics of an endpoint's own origin.
        registry: of the run's process groups, for a Prometheus that is started.
        anchor: the manifest's; turns wall times of a Prometheus into monotonic ones. Default: one
            taken now.
    """

    def __init__(
        self,
        run: RunDir,
        settings: Telemetry,
        gpus: Sequence[Gpu] = (),
        *,
        on_concern: Callable[[Concern], None] | None = None,
        count_foreign: bool = True,
        double_severity: Severity = Severity.INVALID,
        network: Network | None = None,
        api_key: str | None = None,
        registry: Registry | None = None,
        anchor: ClockAnchor | None = None,
    ) -> None:
        self.failed: Concern | None = None
        self.concerns: list[Concern] = []
        self.power: tuple[dict[str, Any], ...] = ()
        """What each source of power can do here (`source`, `devices`, `why_not`, `origin`,
        `double`). Known after `start`.
        """
        self.sampling: dict[str, Any] = {}
        """How sampling went: `loops` (calls, lateness), `failures` (message: how often). Known
        after `stop`.
        """
        self.nice: int | None = None
        """Scheduling priority that the recorder got; -5 where that is permitted."""
        self._run = run
        self._settings = settings
        self._gpus = tuple(gpus)
        self._on_concern = on_concern
        at = anchor or take_anchor()
        unix_offset_ns = at.unix_ns - at.monotonic_ns
        self._config = RecorderConfig(
            run_dir=str(run.root.resolve()),
            scrape_interval_s=settings.scrape_interval_s,
            scrape_timeout_s=settings.scrape_timeout_s,
            power_interval_s=settings.power_interval_s,
            energy_interval_s=settings.energy_interval_s,
            host_interval_s=settings.host_interval_s,
            supervisor_pid=os.getpid(),
            gpu_uuids=tuple(gpu.uuid for gpu in gpus),
            power=tuple(
                dict(spec)
                for spec in specs_of(
                    settings.model_dump(mode="json")["power"], [gpu.uuid for gpu in gpus]
                )
            ),
            count_foreign=count_foreign,
            ca_file=None if network is None else network.ca_file,
            verify_tls=network is None or network.verify,
            api_key=api_key,
            unix_offset_ns=unix_offset_ns,
        )
        self._prometheus: RunPrometheus | None = None
        if settings.prometheus != EMBEDDED:
            self._prometheus = RunPrometheus(
                run,
                settings,
                network=network or Network(),
                unix_offset_ns=unix_offset_ns,
                tell=self._tell,
                api_key=api_key,
                registry=registry,
            )
        self._added: list[dict[str, Any]] = []
        self._scopes: dict[str, int] = {}
        self._pending: dict[int, str] = {}
        self._restarts = 0
        self._double_severity = double_severity
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._ready = False
        self._ended = False
        self._stopping = False
        self._live = TelemetryProgress()
        self._answers: dict[int, dict[str, bool]] = {}
        self._requests = 0
        self._targets: dict[str, str] = {}
        self._send_lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The recorder's process, None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def log(self) -> Path:
        """What the recorder says for people."""
        return self._run.logs_dir / "telemetry.log"

    def start(self) -> Self:
        """Start the process and wait until its samplers run.

        Raises:
            TelemetryError: it does not start, or power is required and cannot be had.
        """
        self._run.logs_dir.mkdir(parents=True, exist_ok=True)
        self._process = self._spawn()
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name="telemetry-events", daemon=True
        )
        self._reader.start()
        self._send(asdict(self._config))
        ready = self._wait_ready()
        if not ready:
            self.stop()
            raise TelemetryError(
                (
                    "the telemetry recorder died at start"
                    if self._ended
                    else f"the telemetry recorder is not up after {_START_TIMEOUT_S:g} s"
                ),
                next_step=f"read {self.log}",
                details=self._log_tail(),
            )
        self._judge_sources()
        if "gpu_power" in self._settings.require and not self._has_gpu_power():
            why = self._power_why_not()
            self.stop()
            raise TelemetryError(
                "telemetry.require asks for gpu_power, and it cannot be read",
                cause=why,
                next_step=(
                    "take gpu_power out of telemetry.require, or run where boards tell their power"
                    " (`harness check --system`)"
                ),
            )
        if self._prometheus is not None:
            try:
                self._prometheus.start()
            except BaseException:
                self.stop()
                raise
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.telemetry.recorder"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _wait_ready(self) -> bool:
        deadline_ns = now_ns() + int(_START_TIMEOUT_S * NS_PER_S)
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, timeout=_left_s(deadline_ns))
            return self._ready

    def _judge_sources(self) -> None:
        """Tell of doubles, and of sources that the profile names and that give nothing."""
        named = not isinstance(self._settings.power, str)
        boards = simulated_by(self._gpus)
        if boards is not None and not any(
            probe["double"] for probe in self.power if probe["source"] == "nvml"
        ):
            self._tell(
                Concern(
                    "double_hardware",
                    self._double_severity,
                    f"The deployment's boards are no real hardware: {boards}.",
                )
            )
        for probe in self.power:
            if probe["double"] is not None:
                text = f"Power comes from no real hardware and measures nothing: {probe['double']}."
                self._tell(Concern("double_hardware", self._double_severity, text))
            if named and not probe["devices"]:
                text = (
                    f"telemetry.power names {probe['source']}, which gives nothing here:"
                    f" {probe['why_not']}."
                )
                self._tell(Concern("power_source_missing", Severity.DEGRADED, text))

    def _has_gpu_power(self) -> bool:
        devices = [
            device
            for probe in self.power
            for device in probe["devices"]
            if device["boundary"] == Boundary.GPU_BOARD
        ]
        known = {device["device_id"] for device in devices if device["power"] or device["energy"]}
        wanted = self._config.gpu_uuids or tuple(device["device_id"] for device in devices)
        return bool(wanted) and known.issuperset(wanted)

    def _power_why_not(self) -> str:
        reasons = [
            reason
            for probe in self.power
            for reason in (probe["why_not"], *(device["why_not"] for device in probe["devices"]))
        ]
        if not self._config.gpu_uuids:
            reasons.insert(0, "the deployment has no GPU on this machine")
        if not self.power:
            reasons.append("telemetry.power names no source")
        return "; ".join(reason for reason in reasons if reason)

    @property
    def prometheus(self) -> Mapping[str, Any] | None:
        """What scrapes in the harness's place, for the manifest; None: the harness itself."""
        return None if self._prometheus is None else self._prometheus.info

    def prometheus_pids(self) -> dict[str, int]:
        """The Prometheus that was started, for `add_scopes`; empty without one."""
        pid = None if self._prometheus is None else self._prometheus.pid
        return {} if pid is None else {"prometheus": pid}

    def add_targets(self, endpoints: Iterable[Endpoint]) -> None:
        """Scrape these endpoints from now on; those without a metrics URL are left out."""
        if self._prometheus is not None:
            self._targets.update(self._prometheus.add_targets(tuple(endpoints)))
            return
        targets = [
            {"name": e.name, "url": e.metrics_url, "keyed": same_origin(e.metrics_url, e.base_url)}
            for e in endpoints
            if e.metrics_url is not None
        ]
        self._targets.update({str(target["name"]): str(target["url"]) for target in targets})
        self._added += targets
        if targets:
            self._send({"add_targets": targets})

    def add_scopes(self, scopes: Mapping[str, int]) -> None:
        """Watch process trees: scope (`server:replica-0`, `traffic:0`, `traffic:master`) -> pid of
        the root.

        `host`, `host-loopback`, `telemetry` and `supervisor` are always there.
        """
        if scopes:
            self._scopes.update(scopes)
            self._send({"add_scopes": dict(scopes)})

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        """Scrape every target at once and wait until that is recorded.

        Args:
            label: kept with the scrape: `ready`, `drained`.
            timeout_s: default: the scrape's own timeout and two seconds.

        Returns:
            True when every target answered with a whole body; False when one did not, when there is
            none, or when the recorder is gone.
        """
        with self._changed:
            self._requests += 1
            request_id = self._requests
        if not self._targets:
            return False
        if self._prometheus is not None:
            self._send(
                {"scrape_now": label, "id": request_id}
            )  # its energy counters are read then, too
            return self._prometheus.scrape_now(label, timeout_s)
        with self._changed:
            self._pending[request_id] = (
                label  # asked again of a recorder that takes this one's place
            )
        limit_s = self._settings.scrape_timeout_s + 2 if timeout_s is None else timeout_s
        self._send({"scrape_now": label, "id": request_id})
        with self._changed:
            self._changed.wait_for(
                lambda: request_id in self._answers or self._ended, timeout=limit_s
            )
            self._pending.pop(request_id, None)
            answer = self._answers.pop(request_id, {})
        return bool(answer) and all(answer.values())

    def ensure_required(self) -> None:
        """Check `server_metrics` of telemetry.require with a scrape labelled `required`; call it
        when the server is ready.

        Raises:
            TelemetryError: server metrics are required and not every endpoint gives them.
        """
        if "server_metrics" in self._settings.require and not self.scrape_now("required"):
            where = ", ".join(self._targets.values()) or "no endpoint has a metrics URL"
            raise TelemetryError(
                "telemetry.require asks for server_metrics, and not every endpoint gives them",
                cause=f"asked: {where}",
                next_step=(
                    "open that URL by hand; SGLang needs --enable-metrics, llama.cpp --metrics"
                ),
            )

    def latest(self) -> TelemetryProgress:
        """Newest live values, at most a second old; nothing is known once the recorder is gone."""
        with self._changed:
            live = TelemetryProgress() if self._ended else self._live
        if self._prometheus is not None:
            seen = self._prometheus.latest()
            # Without a scrape the server's figures are unknown, whatever the recorder, which
            # scrapes nothing, says.
            return seen if seen.t_ns is None else replace(seen, power_w=live.power_w)
        return live

    def stop(self) -> None:
        """End the recorder: asked first, then told. Leaves no process; may be called again."""
        if self._prometheus is not None:
            self._prometheus.stop()
        with self._changed:
            self._stopping = True
            process = self._process
        if process is None:
            return
        self._send({"stop": True})
        assert process.stdin is not None
        with self._send_lock, suppress(OSError):  # it is gone already
            process.stdin.close()
        try:
            process.wait(timeout=_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # the journals are readable all the same
            process.wait()
        if self._reader is not None:
            self._reader.join(timeout=_STOP_TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _send(self, message: Mapping[str, Any]) -> bool:
        process = self._process
        if process is None or process.stdin is None:
            return False
        with self._send_lock:
            try:
                process.stdin.write((json.dumps(message) + "\n").encode())
                process.stdin.flush()
            except (OSError, ValueError):  # it is gone, or stopped; the reader tells
                return False
        return True

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Take a recorder's messages until it ends, and those of the one in its place."""
        current: subprocess.Popen[bytes] | None = process
        while current is not None:
            assert current.stdout is not None
            for line in current.stdout:
                if line.endswith(b"\n"):  # the last one may be torn when it was killed
                    self._handle(json.loads(line))
            status = current.wait()
            current = self._after_end(
                current, f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            )

    def _after_end(self, dead: subprocess.Popen[bytes], how: str) -> subprocess.Popen[bytes] | None:
        """Tell of an end that nobody asked for, and start another recorder once."""
        with self._changed:
            unexpected = not self._stopping and self._ready
            again = unexpected and not self._restarts
            if again:
                self._restarts += 1
                assert dead.stdin is not None
                assert dead.stdout is not None
                dead.stdout.close()
                with self._send_lock, suppress(OSError):
                    dead.stdin.close()
                try:
                    self._process = self._spawn()
                except OSError:
                    again = False
            if not again:
                self._ended = True
                self._changed.notify_all()
        if again:
            text = (
                f"The telemetry recorder ended in the middle of the run ({how}) and was started"
                " again; readings are missing in between."
            )
            self._tell(Concern("telemetry_restarted", Severity.DEGRADED, text))
            self._send(asdict(self._config))
            for message in ({"add_targets": self._added}, {"add_scopes": self._scopes}):
                if any(message.values()):
                    self._send(message)
            with self._changed:
                waiting = dict(self._pending)
            for request_id, label in waiting.items():
                self._send({"scrape_now": label, "id": request_id})
            return self._process
        if unexpected:
            self.failed = Concern(
                "telemetry_died",
                Severity.DEGRADED,
                f"the telemetry recorder ended in the middle of the run ({how}); scrapes, power and"
                " host readings stop there",
            )
            self._tell(self.failed)
        return None

    def _handle(self, message: dict[str, Any]) -> None:
        event = message.pop("event")
        with self._changed:
            if event == "ready":
                self.power, self.nice, self._ready = tuple(message["power"]), message["nice"], True
            elif event == "live":
                self._live = TelemetryProgress(**message)
            elif event == "scraped":
                self._answers[message["id"]] = message["ok"]
            self._changed.notify_all()
        if event == "problem":
            self._tell(
                Concern(
                    message["code"],
                    _SEVERITIES.get(message["code"], Severity.DEGRADED),
                    message["message"],
                )
            )
        if event == "stopped":
            self.sampling = message["power"]
        if event == "stopped" and message["rows_lost"]:
            lost = float(message["rows_lost"])
            self._tell(
                Concern(
                    "telemetry_rows_lost",
                    Severity.DEGRADED,
                    "telemetry rows could not be written",
                    value=lost,
                    limit=0.0,
                )
            )

    def _tell(self, concern: Concern) -> None:
        self.concerns.append(concern)
        if self._on_concern is not None:
            self._on_concern(concern)

    def _log_tail(self) -> str | None:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        except OSError:
            return None
        return "\n".join(lines) or None


_SEVERITIES: Final = {"telemetry_scope_gone": Severity.NOTE, "telemetry_control": Severity.NOTE}


def _left_s(deadline_ns: int) -> float:
    return max(0.0, (deadline_ns - now_ns()) / NS_PER_S)
