"""Power of a node or chassis from Redfish, through sushy: its sessions, retries and certificates.

sushy has no fields for `PowerControl` or sensors, so resource bodies are read directly (DMTF's
schemas Power, EnvironmentMetrics).
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from harness.core.network import is_loopback
from harness.core.records import Boundary
from harness.telemetry.sources.base import (
    DeviceProbe,
    PolledSource,
    PowerProbe,
    PowerReading,
    What,
    watts_of,
)
from harness.telemetry.sources.secret import read_secret

_J_PER_KWH: Final = 3.6e6
# sushy-tools names its service RedvirtService
_MARKS: Final = ("emulator", "simulator", "mockup", "redvirt")


class _NoPowerError(Exception):
    """The service reports no power; the text is the reason."""


@dataclass(eq=False)
class RedfishPowerSource(PolledSource):
    """Power of one chassis: `EnvironmentMetrics` (power, and energy if counted), else
    `Power.PowerControl`.

    Attributes:
        chassis: its id; None: the only one that reports power.
        ca_file: trusted authorities; None: the system's.
    """

    name = "redfish"
    url: str
    _: KW_ONLY
    chassis: str | None = None
    user: str | None = None
    password_env: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    verify_tls: bool = True
    boundary: Boundary = Boundary.NODE
    interval_s: float = 2.0
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        self._root: Any = None
        self._connector: Any = None
        self._auth: Any = None
        self._path: str | None = None
        self._device = ""
        self._closed = False

    def probe(self) -> PowerProbe:
        try:
            import sushy
            from requests import RequestException
        except ImportError:
            why_not = "sushy is not installed: pip install 'colossus-harness[redfish]'"
            return self._missing(why_not, self.url)
        try:
            password = read_secret(self.password_env, self.password_file)
            self._connector = sushy.connector.Connector(
                self.url,
                verify=(self.ca_file or True) if self.verify_tls else False,
                default_request_timeout=self.timeout_s,
                connect_timeout=self.timeout_s,
            )
            self._auth = (
                sushy.auth.SessionOrBasicAuth(self.user, password)
                if self.user is not None
                else _anonymous(sushy.auth.AuthBase)
            )
            self._root = sushy.Sushy(self.url, auth=self._auth, connector=self._connector)
            double = self._double()
            path, device = self._find()
            power_w, energy_j = self._read(path)
        except ValueError as error:
            return self._missing(error, self.url)
        except _NoPowerError as error:
            double = self._double()
            return self._missing(error, self.url, double)
        except (sushy.exceptions.SushyError, RequestException, OSError) as error:
            return PowerProbe(self.name, why_not=f"{self.url}: {_words(error)}", origin=self.url)
        self._path, self._device, self._usable = path, device, True
        found = DeviceProbe(
            device,
            self.boundary,
            None if power_w is None else "redfish",
            None if energy_j is None else "redfish",
            "" if energy_j is not None else "no energy counter",
        )
        return PowerProbe(self.name, (found,), origin=f"{self.url}{path}", double=double)

    def _double(self) -> str | None:
        if self._root is None:
            return None
        about = self._root.json
        names = " ".join(str(about.get(key, "")) for key in ("Id", "Name", "Product", "Vendor"))
        host = urlsplit(self.url).hostname or ""
        if any(mark in names.lower() for mark in _MARKS):
            return f"the Redfish service at {self.url} is an emulator ({about.get('Name')!r})"
        if is_loopback(host):
            return f"the Redfish service at {host} is this machine itself"
        return None

    def _find(self) -> tuple[str, str]:
        """(path of the resource with power, id of its chassis)."""
        members = self._root.get_chassis_collection().get_members()
        found = []
        for one in members:
            if self.chassis is not None and one.identity != self.chassis:
                continue
            for key in ("EnvironmentMetrics", "Power"):
                link = one.json.get(key)
                path = link.get("@odata.id") if isinstance(link, dict) else link
                if not isinstance(path, str):
                    continue
                if self._reports_power(path):
                    found.append((path, str(one.identity)))
                    break
        ids = ", ".join(str(one.identity) for one in members)
        if not found:
            which = f"chassis {self.chassis}" if self.chassis is not None else "any chassis"
            raise _NoPowerError(f"{self.url} reports no power of {which} (of {ids or 'none'})")
        if len(found) > 1:
            several = ", ".join(device for _, device in found)
            raise _NoPowerError(f"several chassis of {self.url} report power; name one: {several}")
        return found[0]

    def _reports_power(self, path: str) -> bool:
        """A resource that cannot be read must not hide the other chassis."""
        import sushy

        try:
            return any(value is not None for value in self._read(path))
        except (sushy.exceptions.HTTPError, ValueError) as error:
            self.trouble.note(f"redfish {self.url}{path}: {_words(error)}")
            return False

    def _read(self, path: str) -> tuple[float | None, float | None]:
        """(watts, joules); None if not reported."""
        found = self._connector.get(path).json()
        parts = [part for part in _list(found) if isinstance(part, dict)]
        body = parts[0] if parts else {}
        # DMTF: EnvironmentMetrics.PowerWatts.Reading, EnergykWh.Reading;
        # Power.PowerControl[].PowerConsumedWatts
        watts = _reading(body.get("PowerWatts"))
        energy_kwh = _reading(body.get("EnergykWh"))
        if watts is None:
            controls = (one for one in _list(body.get("PowerControl")) if isinstance(one, dict))
            known = (_number(control.get("PowerConsumedWatts")) for control in controls)
            watts = next(filter(None, known), None)  # the whole chassis; others are its parts
        return watts or None, energy_kwh * _J_PER_KWH if energy_kwh else None

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        import sushy
        from requests import RequestException

        assert self._path is not None
        before = self.clock()
        try:
            power_w, energy_j = self._read(self._path)
        except (sushy.exceptions.SushyError, RequestException, OSError, ValueError) as error:
            if not self._closed:
                self.trouble.note(f"redfish {self.url}: {_words(error)}")
            return ()
        t_ns = (before + self.clock()) // 2
        if power_w is None and energy_j is None:
            self.trouble.note(f"redfish {self.url}: no value")
        readings = []
        for power, energy in ((power_w, None), (None, energy_j)):
            if power is not None or energy is not None:
                where = self.boundary, self._device
                readings.append(PowerReading(t_ns, *where, power, energy, "redfish"))
        return tuple(readings)

    def close(self) -> None:
        self._closed = True
        if self._connector is not None:
            self._connector.close()


def _anonymous(base: Any) -> Any:  # noqa: ANN401 - a class of sushy, an optional package
    """An authentication that sends nothing, which sushy lacks."""

    class Anonymous(base):  # type: ignore[misc]
        def _do_authenticate(self) -> None:
            return

        def can_refresh_session(self) -> bool:
            return False

    return Anonymous()


def _reading(value: object) -> float | None:
    """A sensor excerpt's `Reading`, or a bare number, as in older services."""
    return _number(value.get("Reading")) if isinstance(value, dict) else _number(value)


def _number(value: object) -> float | None:
    try:
        return watts_of(value)
    except ValueError:
        return None


def _list(value: object) -> list[Any]:
    """The elements of a list; some services send its only element instead."""
    return value if isinstance(value, list) else [value]


def _words(error: BaseException) -> str:
    """Short text; equal failures have equal texts, so that they are reported once."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
