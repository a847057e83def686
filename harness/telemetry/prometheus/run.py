"""A run whose metrics a Prometheus scrapes: `telemetry.prometheus` managed, or the URL of one that
is there already.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.core.errors import TelemetryError
from harness.core.network import Network
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Endpoint, Severity
from harness.processes.registry import RunRegistry
from harness.profile.telemetry import Telemetry
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError, headers_from
from harness.telemetry.prometheus.reader import PrometheusReader
from harness.telemetry.prometheus.server import ManagedPrometheus, selector_of, software

EMBEDDED: Final = "embedded"
MANAGED: Final = "managed"

_MANAGED_POLL_S: Final = 0.5
_MANAGED_READ_S: Final = 20.0  # a kill -9 of the supervisor loses at most this much of the journal
_FOREIGN_POLL_S: Final = 5.0  # a Prometheus of somebody else's is asked no more often


class RunPrometheus:
    """In the place of the harness's own scraper; see `TelemetryRecorder` for what its methods mean.

    Args:
        run: the run directory.
        settings: the profile's telemetry, `prometheus` other than `embedded`.
        network: certificates and proxy.
        unix_offset_ns: wall clock minus monotonic clock, at the manifest's anchor.
        tell: called with each concern, from several threads.
        api_key: of the endpoints.
        registry: of the run's process groups.

    Raises:
        TelemetryError: the environment variable of `telemetry.prometheus_auth_env` is not set.
    """

    def __init__(
        self,
        run: RunDir,
        settings: Telemetry,
        *,
        network: Network,
        unix_offset_ns: int,
        tell: Callable[[Concern], None],
        api_key: str | None = None,
        registry: RunRegistry | None = None,
    ) -> None:
        self._run = run
        self._settings = settings
        self._network = network
        self._offset_ns = unix_offset_ns
        self._tell = tell
        self._restarts = 0
        self.info: dict[str, Any] = {"kind": settings.prometheus}
        """What the manifest says of that Prometheus: `kind` (`managed` or the URL), `version` and
        the like where it tells.
        """
        self._headers = headers_from(settings.prometheus_auth_env)
        self._managed = None
        if settings.prometheus == MANAGED:
            self._managed = ManagedPrometheus(
                run,
                interval_s=settings.scrape_interval_s,
                timeout_s=settings.scrape_timeout_s,
                network=network,
                registry=registry,
                api_key=api_key,
            )
        self._reader: PrometheusReader | None = None
        self._apis: list[PrometheusApi] = []

    @property
    def pid(self) -> int | None:
        """The process that the harness started, if any."""
        return None if self._managed is None else self._managed.pid

    def start(self) -> None:
        """Start a managed one; see whether the other answers.

        Raises:
            TelemetryError: there is no Prometheus.
        """
        if self._managed is not None:
            self._managed.start()
        api = self._connect()
        managed = self._managed is not None
        self._reader = PrometheusReader(
            self._run.prometheus_journal,
            api,
            unix_offset_ns=self._offset_ns,
            tell=self._tell,
            poll_s=_MANAGED_POLL_S if managed else _FOREIGN_POLL_S,
            read_s=_MANAGED_READ_S if managed else None,
            managed=managed,
            interval_s=self._settings.scrape_interval_s if managed else None,
            revive=self._revive,
        )
        try:
            self._reader.start()
        except PrometheusError as error:
            self.stop()
            raise TelemetryError(
                f"telemetry.prometheus: {error}",
                cause="a wrong URL, a missing path such as /prometheus, or no permission",
                next_step=(
                    "open that URL with /api/v1/query?query=up by hand;"
                    " telemetry.prometheus_auth_env names its key"
                ),
            ) from error
        self.info |= software(api)

    def add_targets(self, endpoints: Iterable[Endpoint]) -> dict[str, str]:
        """Follow endpoints from now on.

        Returns:
            Those that will be: name -> where their metrics come from. A managed one leaves out
            those without a metrics URL, another those without a selector, which is told.
        """
        assert self._reader is not None
        taken: dict[str, str] = {}
        if self._managed is not None:
            wanted = [one for one in endpoints if one.metrics_url is not None]
            self._managed.add_targets(wanted)
            for one in wanted:
                self._reader.add_target(one.name, selector_of(one.name))
                taken[one.name] = str(one.metrics_url)
            return taken
        for one in endpoints:
            selector = self._settings.selectors.get(one.name)
            if selector is None:
                text = (
                    f"telemetry.selectors names no target for {one.name}: its metrics are absent."
                )
                self._tell(Concern("selector_missing", Severity.DEGRADED, text))
                continue
            self._reader.add_target(one.name, selector)
            taken[one.name] = f"{self._settings.prometheus} {{{selector}}}"
        return taken

    def scrape_now(self, label: str, timeout_s: float | None = None) -> bool:
        """Wait for a scrape of every target that began after this call, and mark it."""
        return self._reader is not None and self._reader.scrape_now(label, timeout_s)

    def latest(self) -> TelemetryProgress:
        """Newest live values; power is none of them."""
        return TelemetryProgress() if self._reader is None else self._reader.latest()

    def stop(self) -> None:
        """Read what is left into the journal, and end what was started. May be called again."""
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
                self._settings.prometheus, network=self._network, headers=self._headers
            )
        self._apis.append(api)
        return api

    def _revive(self) -> None:
        """Start a managed one that died once more, over the same database: what it had scraped is
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
            self._tell(
                Concern(
                    "prometheus_died",
                    Severity.DEGRADED,
                    f"Prometheus ended ({ended}) and could not be started again: {error.what}.",
                )
            )
            return
        if self._reader is not None:
            self._reader.point_to(self._connect())
        text = (
            f"Prometheus ended in the middle of the run ({ended}) and was started again; scrapes"
            " are missing in between."
        )
        self._tell(Concern("prometheus_restarted", Severity.DEGRADED, text))
