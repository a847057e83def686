"""Telemetry of a run as the supervisor sees it: the recorder, and a Prometheus if one scrapes
instead.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from harness.artifacts.layout import RunDir
from harness.core.clock import ClockAnchor, take_anchor
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Endpoint, Gpu, Severity
from harness.processes.registry import RunRegistry
from harness.profile.telemetry import Telemetry
from harness.telemetry.power_concerns import power_concerns, why_no_gpu_power
from harness.telemetry.prometheus.run import EMBEDDED, RunPrometheus
from harness.telemetry.prometheus.server import same_origin
from harness.telemetry.recorder import RecorderConfig
from harness.telemetry.recorder_process import RecorderProcess


class TelemetryRecorder:
    """Starts, feeds and stops the recorder process. A context manager.

    Losing the recorder does not end a run. It is restarted once, in new parts of its journals, with
    a concern. If it ends again, `failed` is set and later calls do nothing.

    Args:
        run: an existing run directory, for journals and logs/telemetry.log.
        gpus: the deployment's GPUs on this machine.
        on_concern: called from another thread.
        count_foreign: count other runs' GPU processes; false if the server's own cannot be
            identified.
        double_severity: of the concern that power is simulated.

        api_key: sent to metrics with the endpoint's own origin.
        anchor: the manifest's; converts a Prometheus' wall times to monotonic ones.
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
        registry: RunRegistry | None = None,
        anchor: ClockAnchor | None = None,
    ) -> None:
        self.concerns: list[Concern] = []
        self._run = run
        self._settings = settings
        self._gpus = tuple(gpus)
        self._on_concern = on_concern
        self._double_severity = double_severity
        at = anchor or take_anchor()
        unix_offset_ns = at.unix_ns - at.monotonic_ns
        network = network or Network()
        config = RecorderConfig(
            run_dir=str(run.root.resolve()),
            supervisor_pid=os.getpid(),
            telemetry=settings,
            network=Network(ca_file=network.ca_file, verify=network.verify),
            gpu_uuids=tuple(gpu.uuid for gpu in gpus),
            count_foreign=count_foreign,
            api_key=api_key,
            unix_offset_ns=unix_offset_ns,
        )
        self._process = RecorderProcess(run, config, registry, self._tell)
        self._prometheus: RunPrometheus | None = None
        if settings.prometheus != EMBEDDED:
            self._prometheus = RunPrometheus(
                run,
                settings,
                network=network,
                unix_offset_ns=unix_offset_ns,
                on_concern=self._tell,
                api_key=api_key,
                registry=registry,
            )
        self._targets: dict[str, str] = {}

    @property
    def failed(self) -> Concern | None:
        """Set once the recorder is lost for good."""
        return self._process.failed

    @property
    def power(self) -> tuple[dict[str, Any], ...]:
        """What each power source can do here (`source`, `devices`, `why_not`, `origin`, `double`).
        Known after `start`.
        """
        return tuple(self._process.ready.get("power", ()))

    @property
    def nice(self) -> int | None:
        """The recorder's scheduling priority; -5 if permitted."""
        return self._process.ready.get("nice")

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling statistics: `loops` (calls, lateness), `failures` (message: count). Known after
        `stop`.
        """
        return self._process.sampling

    @property
    def pid(self) -> int | None:
        return None if self._process.child is None else self._process.child.pid

    def start(self) -> Self:
        """Start the process and wait until its samplers run.

        Raises:
            TelemetryError: it does not start, or required power is not available.
        """
        self._run.logs_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._process.start()
            for concern in power_concerns(
                self._settings, self._gpus, self.power, self._double_severity
            ):
                self._tell(concern)
            self._require_gpu_power()
            if self._prometheus is not None:
                self._prometheus.start()
        except BaseException:
            self.stop()
            raise
        return self

    def _require_gpu_power(self) -> None:
        if "gpu_power" not in self._settings.require:
            return
        why = why_no_gpu_power(self._gpus, self.power)
        if why is not None:
            raise TelemetryError(
                "telemetry.require lists gpu_power, but it cannot be read",
                cause=why,
                next_step="remove gpu_power from telemetry.require, or run on a machine with"
                " readable GPU power (`harness check --system`)",
            )

    @property
    def prometheus(self) -> Mapping[str, Any] | None:
        """The Prometheus that scrapes, for the manifest; None if the harness scrapes."""
        return None if self._prometheus is None else self._prometheus.info

    def prometheus_pids(self) -> dict[str, int]:
        """The Prometheus that was started, for `add_scopes`; empty without one."""
        pid = None if self._prometheus is None else self._prometheus.pid
        return {} if pid is None else {"prometheus": pid}

    def add_targets(self, endpoints: Iterable[Endpoint]) -> None:
        """Scrape these endpoints from now on, except those without a metrics URL."""
        if self._prometheus is not None:
            self._targets.update(self._prometheus.add_targets(tuple(endpoints)))
            return
        targets = [
            {"name": e.name, "url": e.metrics_url, "keyed": same_origin(e.metrics_url, e.base_url)}
            for e in endpoints
            if e.metrics_url is not None
        ]
        self._targets.update({str(target["name"]): str(target["url"]) for target in targets})
        self._process.add_targets(targets)

    def add_scopes(self, scopes: Mapping[str, int]) -> None:
        """Watch process trees: scope (`server:replica-0`, `traffic:0`, `traffic:master`) -> pid of
        the root.

        `host`, `host-loopback`, `telemetry` and `supervisor` are always watched.
        """
        self._process.add_scopes(scopes)

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        """Scrape every target at once and record that with a label (`ready`, `drained`).

        Returns:
            Whether every target returned a complete body within `timeout_s` (default: the scrape
                timeout plus 2 s); False without targets or recorder.
        """
        if not self._targets:
            return False
        if self._prometheus is not None:
            self._process.wake(label)
            return self._prometheus.scrape_now(label, timeout_s)
        if timeout_s is None:
            timeout_s = self._settings.scrape_timeout_s + 2
        return self._process.scrape_now(label, timeout_s)

    def ensure_required(self) -> None:
        """Check `server_metrics` of telemetry.require with a scrape labeled `required`; call it
        when the server is ready.

        Raises:
            TelemetryError: server metrics are required and an endpoint does not provide them.
        """
        if "server_metrics" in self._settings.require and not self.scrape_now("required"):
            where = ", ".join(self._targets.values()) or "no endpoint has a metrics URL"
            raise TelemetryError(
                "telemetry.require lists server_metrics, but not every endpoint provides them",
                cause=f"tried: {where}",
                next_step="open that URL by hand; SGLang needs --enable-metrics, llama.cpp"
                " --metrics",
            )

    def latest(self) -> TelemetryProgress:
        """Newest live values, at most 1 s old; unknown once the recorder is lost."""
        live = self._process.live()
        if self._prometheus is not None:
            seen = self._prometheus.latest()
            # Without a scrape, server values are unknown; the recorder does not scrape.
            return seen if seen.t_ns is None else replace(seen, power_w=live.power_w)
        return live

    def stop(self) -> None:
        """Stop the recorder and the Prometheus. Leaves no process; may be called again."""
        try:
            if self._prometheus is not None:
                self._prometheus.stop()
        finally:
            self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def _tell(self, concern: Concern) -> None:
        self.concerns.append(concern)
        if self._on_concern is not None:
            self._on_concern(concern)
