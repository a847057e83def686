"""A run whose metrics a Prometheus scrapes: `telemetry.prometheus` is `managed` or a URL."""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.core.records import Endpoint
from harness.processes.registry import RunRegistry
from harness.profile.telemetry import Telemetry
from harness.telemetry.prometheus.answers import OnConcern, degraded
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError, headers_from
from harness.telemetry.prometheus.reader import PrometheusReader
from harness.telemetry.prometheus.server import ManagedPrometheus, selector_of, software

EMBEDDED: Final = "embedded"
MANAGED: Final = "managed"

_MANAGED_POLL_S: Final = 0.5
_MANAGED_READ_S: Final = 20.0  # a kill -9 of the supervisor loses at most this much of the journal
_FOREIGN_POLL_S: Final = 5.0  # an external Prometheus is polled less often


@dataclass(eq=False, repr=False)
class RunPrometheus:
    """Replaces the harness's own scraper; see `TelemetryRecorder` for its methods and arguments.
    `on_concern` is called from several threads.

    Raises:
        TelemetryError: the environment variable of `telemetry.prometheus_auth_env` is not set.
    """

    run: RunDir
    settings: Telemetry
    _: KW_ONLY
    network: Network
    unix_offset_ns: int
    on_concern: OnConcern
    api_key: str | None = None
    registry: RunRegistry | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        self._restarts = 0
        self.info: dict[str, Any] = {"kind": settings.prometheus}
        """For the manifest: `kind` (`managed` or the URL), and `version` etc. if reported."""
        self._headers = headers_from(settings.prometheus_auth_env)
        self._managed = None
        if settings.prometheus == MANAGED:
            self._managed = ManagedPrometheus(
                self.run,
                interval_s=settings.scrape_interval_s,
                timeout_s=settings.scrape_timeout_s,
                network=self.network,
                registry=self.registry,
                api_key=self.api_key,
            )
        self._reader: PrometheusReader | None = None
        self._apis: list[PrometheusApi] = []

    @property
    def pid(self) -> int | None:
        """The started process, if any."""
        return None if self._managed is None else self._managed.pid

    def start(self) -> None:
        """Start the managed one, or check that the other responds.

        Raises:
            TelemetryError: there is no Prometheus.
        """
        if self._managed is not None:
            self._managed.start()
        api = self._connect()
        managed = self._managed is not None
        self._reader = PrometheusReader(
            self.run.prometheus_journal,
            api,
            unix_offset_ns=self.unix_offset_ns,
            on_concern=self.on_concern,
            poll_s=_MANAGED_POLL_S if managed else _FOREIGN_POLL_S,
            read_s=_MANAGED_READ_S if managed else None,
            managed=managed,
            interval_s=self.settings.scrape_interval_s if managed else None,
            revive=self._revive,
        )
        try:
            self._reader.start()
        except PrometheusError as error:
            self.stop()
            raise TelemetryError(
                f"telemetry.prometheus: {error}",
                cause="a wrong URL, a missing path such as /prometheus, or no permission",
                next_step="open URL/api/v1/query?query=up by hand; set"
                " telemetry.prometheus_auth_env if it needs a key",
            ) from error
        self.info |= software(api)

    def add_targets(self, endpoints: Iterable[Endpoint]) -> dict[str, str]:
        """Follow endpoints from now on.

        Returns:
            The followed ones: name -> source of their metrics. A managed Prometheus skips endpoints
                without a metrics URL; for another, endpoints without a selector raise a concern.
        """
        assert self._reader is not None
        taken: dict[str, str] = {}
        if self._managed is not None:
            scraped = [one for one in endpoints if one.metrics_url is not None]
            self._managed.add_targets(scraped)
            for one in scraped:
                self._reader.add_target(one.name, selector_of(one.name))
                taken[one.name] = str(one.metrics_url)
            return taken
        for one in endpoints:
            selector = self.settings.selectors.get(one.name)
            if selector is None:
                text = f"telemetry.selectors has no entry for {one.name}: its metrics are absent."
                self.on_concern(degraded("selector_missing", text))
                continue
            self._reader.add_target(one.name, selector)
            taken[one.name] = f"{self.settings.prometheus} {{{selector}}}"
        return taken

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        return self._reader is not None and self._reader.scrape_now(label, timeout_s)

    def latest(self) -> TelemetryProgress:
        """Newest live values, without power."""
        return TelemetryProgress() if self._reader is None else self._reader.latest()

    def stop(self) -> None:
        """Read the rest into the journal, and stop what was started. May be called again."""
        try:
            if self._reader is not None:
                self._reader.stop()
        finally:
            if self._managed is not None:
                self._managed.stop()
            for api in self._apis:
                api.close()
            self._apis.clear()

    def _connect(self) -> PrometheusApi:
        if self._managed is not None:
            api = PrometheusApi(self._managed.url)
        else:
            api = PrometheusApi(
                self.settings.prometheus, network=self.network, headers=self._headers
            )
        self._apis.append(api)
        return api

    def _revive(self) -> None:
        """Restart a managed one that died, once, over the same database: earlier scrapes are
        kept.
        """
        managed = self._managed
        ended = None if managed is None else managed.ended
        if managed is None or ended is None or self._restarts:
            return
        self._restarts += 1
        try:
            managed.restart()
        except TelemetryError as error:
            text = f"Prometheus ended ({ended}) and could not be restarted: {error.what}."
            self.on_concern(degraded("prometheus_died", text))
            return
        if self._reader is not None:
            self._reader.point_to(self._connect())
        text = (
            f"Prometheus ended during the run ({ended}) and was restarted; scrapes in between are"
            " missing."
        )
        self.on_concern(degraded("prometheus_restarted", text))
