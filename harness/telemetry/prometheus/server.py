"""A Prometheus of the run's own: the real binary, with a generated configuration and its database
in the run directory.
"""

import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
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
_STOP_TIMEOUT_S: Final = 20.0  # it writes its head to disk
_POLL_S: Final = 0.05
_TRIES: Final = 3  # another process may take the free port first
_NICE: Final = -5  # as the recorder's: a busy load generator must not starve it


def same_origin(metrics_url: str, base_url: str) -> bool:
    """Whether metrics come from where the endpoint is: only there its key goes."""
    one, other = urlsplit(metrics_url), urlsplit(base_url)
    return (one.scheme, one.hostname, one.port) == (other.scheme, other.hostname, other.port)


def configuration(
    interval_s: float, timeout_s: float, network: Network, key_file: str | None
) -> dict[str, Any]:
    """prometheus.yml, as a value.

    Scrapes are as the harness's own: labels of the exposition win over those of the target, and
    timestamps inside it are not used.

    Args:
        interval_s: between two scrapes.
        timeout_s: of one; Prometheus wants it no longer than the interval.
        network: certificates to trust.
        key_file: where Prometheus reads the API key, for the targets that have one.
    """
    tls: dict[str, Any] = {"insecure_skip_verify": not network.verify}
    if network.ca_file is not None:
        tls["ca_file"] = network.ca_file
    shared = {"honor_labels": True, "honor_timestamps": False, "tls_config": tls}
    jobs = [
        {
            "job_name": "harness",
            "file_sd_configs": [{"files": ["targets.json"], "refresh_interval": "1s"}],
            **shared,
        }
    ]
    if key_file is not None:
        keyed = {
            "job_name": "harness-keyed",
            "file_sd_configs": [{"files": ["targets-keyed.json"], "refresh_interval": "1s"}],
        }
        jobs.append({**keyed, **shared, "authorization": {"credentials_file": key_file}})
    interval_ms = max(1, round(interval_s * 1000))
    timeout_ms = max(1, min(interval_ms, round(timeout_s * 1000)))
    limits = {"scrape_interval": f"{interval_ms}ms", "scrape_timeout": f"{timeout_ms}ms"}
    return {"global": {**limits, "evaluation_interval": "1h"}, "scrape_configs": jobs}


def target_groups(endpoints: Sequence[Endpoint]) -> list[dict[str, Any]]:
    """Endpoints as Prometheus' file-based discovery reads them; those without a metrics URL are
    left out.
    """
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
    """Why a Prometheus cannot be started here; None where it can."""
    if shutil.which(command) is not None:
        return None
    return TelemetryError(
        f"telemetry.prometheus is `managed`, and there is no command `{command}` on PATH",
        cause="Prometheus is not installed",
        next_step=(
            "install it (Debian: apt-get install prometheus), or write `telemetry.prometheus:"
            " embedded`"
        ),
    )


class ManagedPrometheus:
    """Starts and ends a Prometheus. Its process group is recorded, and the kernel ends it should
    this process be killed.

    Args:
        run: takes prometheus/ and logs/prometheus.log.
        interval_s: between two scrapes.
        timeout_s: of one scrape.
        network: certificates to trust when scraping.
        registry: of the run; None: none is kept.
        api_key: sent to metrics of the endpoint's own origin. It is handed over in memory and
            stands in no file.
        command: the binary.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        interval_s: float,
        timeout_s: float,
        network: Network,
        registry: RunRegistry | None = None,
        api_key: str | None = None,
        command: str = COMMAND,
    ) -> None:
        self._run = run
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._network = network
        self._registry = registry
        self._key_fd = None if api_key is None else _in_memory(api_key)
        self._command = command
        self._child: Child | None = None
        self._endpoints: list[Endpoint] = []
        self._pause = Event()
        self.url = ""

    @property
    def pid(self) -> int | None:
        """The process, None before the start."""
        return None if self._child is None else self._child.pid

    @property
    def ended(self) -> str | None:
        """How it ended, if it did."""
        status = None if self._child is None else self._child.wait(0)
        return None if status is None else exit_text(status)

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            TelemetryError: there is no such command, or it does not get ready.
        """
        missing = not_installed(self._command)
        if missing is not None:
            raise missing
        folder = self._run.prometheus_dir
        folder.mkdir(parents=True, exist_ok=True)
        self._run.logs_dir.mkdir(parents=True, exist_ok=True)
        key_file = None if self._key_fd is None else f"/proc/self/fd/{self._key_fd}"
        config = configuration(self._interval_s, self._timeout_s, self._network, key_file)
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(
            json.dumps(config, indent=1) + "\n", encoding="utf-8"
        )
        self._write_targets()
        for attempt in range(_TRIES):
            child = self._child = self._start_child(folder)
            if self._wait_ready():
                return
            ended, tail = self.ended, child.log_tail()
            child.stop(0)
            taken = ended is not None and "address already in use" in (tail or "")
            if not taken or attempt == _TRIES - 1:
                raise TelemetryError(
                    (
                        f"Prometheus did not get ready within {_READY_TIMEOUT_S:g} s"
                        if ended is None
                        else f"Prometheus ended ({ended})"
                    ),
                    next_step=f"read {child.spec.log}",
                    details=tail,
                )

    def restart(self) -> None:
        """Start it again over the same database, after it died.

        Raises:
            TelemetryError: it does not get ready.
        """
        if self._child is not None:
            self._child.stop(0)
        self.start()

    def add_targets(self, endpoints: Sequence[Endpoint]) -> None:
        """Scrape further endpoints; Prometheus takes a new target up within some five seconds."""
        self._endpoints += endpoints
        self._write_targets()

    def stop(self) -> None:
        """End it: asked first, then told. Leaves no process; may be called again."""
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
            self._command,
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
            log=self._run.logs_dir / "prometheus.log",
            nice=_NICE,
            fds=() if self._key_fd is None else (self._key_fd,),
            error=TelemetryError,
        )
        return Child.start(spec, self._registry)

    def _wait_ready(self) -> bool:
        api = PrometheusApi(self.url)
        deadline_ns = now_ns() + int(_READY_TIMEOUT_S * NS_PER_S)
        try:
            while self.ended is None and now_ns() < deadline_ns:
                try:
                    api.get("/-/ready")
                    # Another process may have taken the port: then it is that one that answers, and
                    # ours ends.
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
            path = self._run.prometheus_dir / name
            part = path.with_suffix(".part")
            part.write_text(json.dumps(target_groups(endpoints)), encoding="utf-8")
            part.replace(path)


def selector_of(name: str) -> str:
    """The matchers of one of the run's targets."""
    return f"{TARGET_LABEL}={json.dumps(name)}"


def _in_memory(secret: str) -> int:
    """A file that has no name and no place on a disk, to be read through /proc/self/fd by the
    process that inherits it.
    """
    fd = os.memfd_create("metrics-key", 0)
    os.write(fd, secret.encode())
    return fd


def software(api: PrometheusApi) -> Mapping[str, str]:
    """What the server says it is: `version` and `revision`; empty where it does not tell (it need
    not be Prometheus itself).
    """
    try:
        data = json.loads(api.get("/api/v1/status/buildinfo"))["data"]
        return {
            name: str(data[name])
            for name in ("application", "version", "revision")
            if data.get(name)
        }
    except (PrometheusError, ValueError, KeyError, TypeError):
        return {}
