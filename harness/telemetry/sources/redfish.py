"""A node's (or chassis') power by Redfish, over sushy: its sessions, retries and certificates.

sushy has no fields for `PowerControl` or sensors, so the resources' bodies are read as they are
(DMTF's schemas Power, EnvironmentMetrics).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from harness.core.clock import now_ns
from harness.core.network import is_loopback
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What
from harness.telemetry.sources.secret import read_secret

_J_PER_KWH: Final = 3.6e6
_MARKS: Final = (
    "emulator",
    "simulator",
    "mockup",
    "redvirt",
)  # sushy-tools calls its service RedvirtService


class _NoPowerError(Exception):
    """The service gives no power; the text says why."""


class RedfishPowerSource:
    """Power of one chassis: `EnvironmentMetrics` (power, and energy where it counts), else
    `Power.PowerControl`.

    Args:
        url: of the service.
        chassis: its id; None: the only one that reports power.
        user: name.
        password_env: environment variable that holds the password.
        password_file: file that holds it.
        ca_file: authorities to trust; None: the system's.
        verify_tls: check the certificate.
        boundary: what the chassis covers.
        interval_s: between two readings.
        timeout_s: limit of one request.
        clock: monotonic nanoseconds.
    """

    name = "redfish"

    def __init__(
        self,
        url: str,
        *,
        chassis: str | None = None,
        user: str | None = None,
        password_env: str | None = None,
        password_file: str | None = None,
        ca_file: str | None = None,
        verify_tls: bool = True,
        boundary: Boundary = Boundary.NODE,
        interval_s: float = 2.0,
        timeout_s: float = 5.0,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._url = url
        self._chassis = chassis
        self._user = user
        self._password_env = password_env
        self._password_file = password_file
        self._verify: bool | str = ca_file or verify_tls if verify_tls else False
        self._boundary = boundary
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._root: Any = None
        self._connector: Any = None
        self._auth: Any = None
        self._path: str | None = None
        self._device = ""
        self._closed = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        """One loop reads both."""
        return {"power": self._interval_s} if self._path is not None else {}

    def probe(self) -> PowerProbe:
        try:
            import sushy
            from requests import RequestException
        except ImportError:
            return PowerProbe(
                self.name,
                why_not="sushy is not installed: pip install 'colossus-harness[redfish]'",
                origin=self._url,
            )
        try:
            password = read_secret(self._password_env, self._password_file)
            self._connector = sushy.connector.Connector(
                self._url,
                verify=self._verify,
                default_request_timeout=self._timeout_s,
                connect_timeout=self._timeout_s,
            )
            self._auth = (
                sushy.auth.SessionOrBasicAuth(self._user, password)
                if self._user is not None
                else _anonymous(sushy.auth.AuthBase)
            )
            self._root = sushy.Sushy(self._url, auth=self._auth, connector=self._connector)
            double = self._double()
            path, device = self._find()
            power_w, energy_j = self._read(path)
        except ValueError as error:
            return PowerProbe(self.name, why_not=str(error), origin=self._url)
        except _NoPowerError as error:
            return PowerProbe(
                self.name, why_not=str(error), origin=self._url, double=self._double()
            )
        except (sushy.exceptions.SushyError, RequestException, OSError) as error:
            return PowerProbe(self.name, why_not=f"{self._url}: {_words(error)}", origin=self._url)
        self._path, self._device = path, device
        found = DeviceProbe(
            device,
            self._boundary,
            None if power_w is None else "redfish",
            None if energy_j is None else "redfish",
            "" if energy_j is not None else "no energy counter",
        )
        return PowerProbe(self.name, (found,), origin=f"{self._url}{path}", double=double)

    def _double(self) -> str | None:
        if self._root is None:
            return None
        says = " ".join(
            str(self._root.json.get(key, "")) for key in ("Id", "Name", "Product", "Vendor")
        ).lower()
        host = urlsplit(self._url).hostname or ""
        if any(mark in says for mark in _MARKS):
            return (
                f"the Redfish service at {self._url} calls itself {self._root.json.get('Name')!r}:"
                " an emulator"
            )
        return (
            f"the Redfish service is at {host}: this machine plays it"
            if is_loopback(host)
            else None
        )

    def _find(self) -> tuple[str, str]:
        """(path of the resource that gives power, id of its chassis)."""
        members = self._root.get_chassis_collection().get_members()
        found = []
        for one in members:
            if self._chassis is not None and one.identity != self._chassis:
                continue
            for key in ("EnvironmentMetrics", "Power"):
                path = (one.json.get(key) or {}).get("@odata.id")
                if path is None:
                    continue
                power_w, energy_j = self._read(path)
                if power_w is not None or energy_j is not None:
                    found.append((path, str(one.identity)))
                    break
        ids = ", ".join(str(one.identity) for one in members)
        if not found:
            wanted = f"chassis {self._chassis}" if self._chassis is not None else "any chassis"
            raise _NoPowerError(f"{self._url} gives no power of {wanted} (it has: {ids or 'none'})")
        if len(found) > 1:
            raise _NoPowerError(
                f"several chassis of {self._url} give power; name one:"
                f" {', '.join(device for _, device in found)}"
            )
        return found[0]

    def _read(self, path: str) -> tuple[float | None, float | None]:
        """(watts, joules); None where it is not told."""
        body = self._connector.get(path).json()
        # DMTF: EnvironmentMetrics.PowerWatts.Reading, EnergykWh.Reading;
        # Power.PowerControl[].PowerConsumedWatts
        power_w = _reading(body.get("PowerWatts"))
        energy_kwh = _reading(body.get("EnergykWh"))
        controls = [
            _number(control.get("PowerConsumedWatts")) for control in body.get("PowerControl") or ()
        ]
        known = [value for value in controls if value]
        if power_w is None and known:
            power_w = known[0]  # the first is the chassis as a whole; further ones are its parts
        return power_w or None, energy_kwh * _J_PER_KWH if energy_kwh else None

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """Power, and energy where it is counted."""
        import sushy
        from requests import RequestException

        assert self._path is not None
        before = self._clock()
        try:
            power_w, energy_j = self._read(self._path)
        except (sushy.exceptions.SushyError, RequestException, OSError, ValueError) as error:
            if not self._closed:
                self.trouble.note(f"redfish {self._url}: {_words(error)}")
            return ()
        t_ns = (before + self._clock()) // 2
        if power_w is None and energy_j is None:
            self.trouble.note(f"redfish {self._url}: no value")
        readings = []
        if power_w is not None:
            readings.append(
                PowerReading(t_ns, self._boundary, self._device, power_w, None, "redfish")
            )
        if energy_j is not None:
            readings.append(
                PowerReading(t_ns, self._boundary, self._device, None, energy_j, "redfish")
            )
        return tuple(readings)

    def close(self) -> None:
        self._closed = True
        if self._connector is not None:
            self._connector.close()


def _anonymous(
    base: Any,  # noqa: ANN401 - any JSON value
) -> Any:  # noqa: ANN401 - a class of sushy, which is imported where it is needed
    """An authentication that sends nothing: sushy has none of its own."""

    class Anonymous(base):  # type: ignore[misc]
        def _do_authenticate(self) -> None:
            return

        def can_refresh_session(self) -> bool:
            return False

    return Anonymous()


def _reading(value: object) -> float | None:
    """A sensor excerpt's `Reading`, or a bare number, as older services have it."""
    return _number(value.get("Reading")) if isinstance(value, dict) else _number(value)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _words(error: BaseException) -> str:
    """Without what differs from one failure to the next, so that a run is told once."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
