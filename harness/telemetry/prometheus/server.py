"""The run's own Prometheus: the real binary, with a generated configuration and its database in the
run directory.
"""

import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.records import Endpoint
from harness.processes.child import Child, ChildSpec, exit_text
from harness.processes.registry import RunRegistry
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError

COMMAND: Final = "prometheus"
TARGET_LABEL: Final = "harness_target"
_READY_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0  # it writes its head block to disk
_POLL_S: Final = 0.05
_TRIES: Final = 3  # another process may take the free port first
_NICE: Final = -5  # as the recorder: a busy load generator must not starve it


def same_origin(metrics_url: str, base_url: str) -> bool:
    """Whether metrics have the endpoint's origin; only then they get its key."""
    one, other = urlsplit(metrics_url), urlsplit(base_url)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)


def configuration(
    interval_s: float, timeout_s: float, network: Network, key_file: str | None
) -> dict[str, Any]:
    """prometheus.yml, as a value. `key_file` contains the API key for targets that need it.

    Scrapes match the harness's own: labels in the exposition override the target's, and its
    timestamps are ignored. The timeout is limited to the interval, as Prometheus requires.
    """
    tls: dict[str, Any] = {"insecure_skip_verify": not network.verify}
    if network.ca_file is not None:
        tls["ca_file"] = network.ca_file

    def job(name: str, file: str) -> dict[str, Any]:
        return {
            "job_name": name,
            "file_sd_configs": [{"files": [file], "refresh_interval": "1s"}],
            "honor_labels": True,
            "honor_timestamps": False,
            "tls_config": tls,
        }

    jobs = [job("harness", "targets.json")]
    if key_file is not None:
        keyed = job("harness-keyed", "targets-keyed.json")
        jobs.append({**keyed, "authorization": {"credentials_file": key_file}})
    interval_ms = max(1, round(interval_s * 1000))
    timeout_ms = max(1, min(interval_ms, round(timeout_s * 1000)))
    limits = {"scrape_interval": f"{interval_ms}ms", "scrape_timeout": f"{timeout_ms}ms"}
    return {"global": {**limits, "evaluation_interval": "1h"}, "scrape_configs": jobs}


def target_groups(endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    """Endpoints for Prometheus' file-based discovery, without those that have no metrics URL."""
    groups = []
    for endpoint in endpoints:
        if endpoint.metrics_url is None:
            continue
        parts = urlsplit(endpoint.metrics_url)
        labels = {
            TARGET_LABEL: endpoint.name,
            "__scheme__": parts.scheme,
            "__metrics_path__": parts.path or "/",
        }
        labels |= {f"__param_{name}": value for name, value in parse_qsl(parts.query)}
        groups.append({"targets": [parts.netloc.rpartition("@")[2]], "labels": labels})
    return groups


def not_installed(command: str = COMMAND) -> TelemetryError | None:
    """Why a Prometheus cannot be started here; None if it can."""
    if shutil.which(command) is not None:
        return None
    return TelemetryError(
        f"telemetry.prometheus is `managed`, but the command `{command}` is not on PATH",
        cause="Prometheus is not installed",
        next_step="install it (Debian: apt-get install prometheus), or set"
        " `telemetry.prometheus: embedded`",
    )


@dataclass(eq=False, repr=False)
class ManagedPrometheus:
    """Starts and stops a Prometheus. Its process group is recorded, and the kernel ends it if this
    process is killed.

    Attributes:
        run: gets prometheus/ and logs/prometheus.log.
        api_key: sent to metrics with the endpoint's own origin. Passed in memory, never in a file.
    """

    run: RunDir
    _: KW_ONLY
    interval_s: float
    timeout_s: float
    network: Network
    registry: RunRegistry | None = None
    api_key: InitVar[str | None] = None
    command: str = COMMAND

    def __post_init__(self, api_key: str | None) -> None:
        self._key_fd = None if api_key is None else _in_memory(api_key)
        self._child: Child | None = None
        self._endpoints: list[Endpoint] = []
        self._pause = Event()
        self.url = ""

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def ended(self) -> str | None:
        """How it ended, if it did."""
        status = None if self._child is None else self._child.wait(0)
        return None if status is None else exit_text(status)

    def start(self) -> None:
        """Start it and wait until it is ready. Raises TelemetryError if that fails."""
        missing = not_installed(self.command)
        if missing is not None:
            raise missing
        folder = self.run.prometheus_dir
        folder.mkdir(parents=True, exist_ok=True)
        self.run.logs_dir.mkdir(parents=True, exist_ok=True)
        key_file = None if self._key_fd is None else f"/proc/self/fd/{self._key_fd}"
        config = configuration(self.interval_s, self.timeout_s, self.network, key_file)
        # JSON is YAML.
        text = json.dumps(config, indent=1) + "\n"
        (folder / "prometheus.yml").write_text(text, encoding="utf-8")
        self._write_targets()
        for attempt in range(_TRIES):
            child = self._child = self._start_child(folder)
            if self._wait_ready():
                return
            ended, tail = self.ended, child.log_tail()
            child.stop(0)
            taken = ended is not None and "address already in use" in (tail or "")
            if not taken or attempt == _TRIES - 1:
                what = f"Prometheus was not ready within {_READY_TIMEOUT_S:g} s"
                if ended is not None:
                    what = f"Prometheus ended ({ended})"
                raise TelemetryError(what, next_step=f"read {child.spec.log}", details=tail)

    def restart(self) -> None:
        """Restart it over the same database, after it died."""
        if self._child is not None:
            self._child.stop(0)
        self.start()

    def add_targets(self, endpoints: Sequence[Endpoint]) -> None:
        """Scrape more endpoints; Prometheus loads a new target within about five seconds."""
        self._endpoints += endpoints
        self._write_targets()

    def stop(self) -> None:
        """Stop it, by force if necessary. Leaves no process; may be called again."""
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT_S)
        if self._key_fd is not None:
            os.close(self._key_fd)
            self._key_fd = None

    def _start_child(self, folder: Path) -> Child:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        argv = (
            self.command,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=10y",
            "--log.level=warn",
        )
        spec = ChildSpec(
            name="prometheus",
            argv=argv,
            env=os.environ,
            log=self.run.logs_dir / "prometheus.log",
            nice=_NICE,
            fds=() if self._key_fd is None else (self._key_fd,),
            error=TelemetryError,
        )
        return Child.start(spec, self.registry)

    def _wait_ready(self) -> bool:
        api = PrometheusApi(self.url)
        deadline_ns = now_ns() + int(_READY_TIMEOUT_S * NS_PER_S)
        try:
            while self.ended is None and now_ns() < deadline_ns:
                try:
                    api.get("/-/ready")
                    # If another process has taken the port, it responded, and ours ends.
                    return self.ended is None
                except PrometheusError:
                    self._pause.wait(_POLL_S)
        finally:
            api.close()
        return False

    def _write_targets(self) -> None:
        keyed = [
            one
            for one in self._endpoints
            if self._key_fd is not None
            and one.metrics_url
            and same_origin(one.metrics_url, one.base_url)
        ]
        plain = [one for one in self._endpoints if one not in keyed]
        for name, endpoints in (("targets.json", plain), ("targets-keyed.json", keyed)):
            path = self.run.prometheus_dir / name
            part = path.with_suffix(".part")
            part.write_text(json.dumps(target_groups(endpoints)), encoding="utf-8")
            part.replace(path)


def selector_of(name: str) -> str:
    """The matchers for one of the run's targets."""
    return f"{TARGET_LABEL}={json.dumps(name)}"


def _in_memory(secret: str) -> int:
    """A nameless in-memory file, for the process that inherits it to read through /proc/self/fd."""
    fd = os.memfd_create("metrics-key", 0)
    os.write(fd, secret.encode())
    return fd


def software(api: PrometheusApi) -> Mapping[str, str]:
    """The server's `application`, `version` and `revision`, if reported (it need not be Prometheus
    itself).
    """
    try:
        data = json.loads(api.get("/api/v1/status/buildinfo"))["data"]
        names = ("application", "version", "revision")
        return {name: str(data[name]) for name in names if data.get(name)}
    except (PrometheusError, ValueError, KeyError, TypeError):
        return {}
