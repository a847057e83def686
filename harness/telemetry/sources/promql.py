"""A meter whose samples are in a Prometheus-compatible server."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from harness.api.response import TooLongError, joined
from harness.core.clock import NS_PER_S, take_anchor
from harness.core.network import Network
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PolledSource, PowerProbe, PowerReading, What
from harness.telemetry.sources.secret import read_secret

_LEAST_RANGE_S: Final = 30.0
_MOST_BODY_BYTES: Final = 4 * 1024**2


class _QueryError(Exception):
    """The query failed; the text is the reason."""


@dataclass(eq=False)
class PromqlPowerSource(PolledSource):
    """Raw samples of a selector at their own times; other expressions at the time of each query.

    Raw samples are timed by the server that scraped the meter: synchronize its clock and this
    machine's with NTP.

    Attributes:
        query: a selector or an expression.
        quantity: power or cumulative energy.
        scale: factor to watts or joules.
        device_label: label that distinguishes devices; None: all labels.
        token_env: environment variable with a bearer token.
    """

    name = "promql"
    url: str
    query: str
    _: KW_ONLY
    boundary: Boundary
    quantity: What = "power"
    scale: float = 1.0
    device_label: str | None = None
    token_env: str | None = None
    interval_s: float = 5.0
    timeout_s: float = 5.0
    network: Network | None = None

    def __post_init__(self) -> None:
        self._client: Any = None
        self._raw = True
        self._anchor = take_anchor()
        self._since_ns = self.clock()
        self._last_ns: dict[str, int] = {}

    def probe(self) -> PowerProbe:
        import httpx

        origin = f"{self.url}: {self.query}"
        try:
            token = read_secret(self.token_env, None)
        except ValueError as error:
            return self._missing(error, origin)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        https = self.url.startswith("https")
        verify = (self.network or Network()).tls_context() if https else True
        self._client = httpx.Client(
            timeout=self.timeout_s, headers=headers, trust_env=False, verify=verify
        )
        try:
            try:
                series = list(self._ask(raw=True))
            except _QueryError:
                self._raw = False  # only a selector can have a range
                series = list(self._ask(raw=False))
        except _QueryError as error:
            return self._missing(error, origin)
        devices = sorted({device for device, _ in series})
        if not devices:
            why_not = f"{self.url} has no samples of {self.query} in the last minute"
            return self._missing(why_not, origin)
        self._usable = True
        kinds = ("promql", None) if self.quantity == "power" else (None, "promql")
        probes = tuple(DeviceProbe(device, self.boundary, *kinds) for device in devices)
        return PowerProbe(self.name, probes, origin=origin)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        try:
            series = list(self._ask(raw=self._raw))
        except _QueryError as error:
            self.trouble.note(f"promql {self.url}: {error}")
            return ()
        if not series:
            self.trouble.note(f"promql {self.url}: no more samples of {self.query}")
        readings = []
        for device, samples in series:
            for unix_s, value in samples:
                t_ns = self._anchor.monotonic_ns + round(unix_s * NS_PER_S) - self._anchor.unix_ns
                if t_ns <= self._last_ns.get(device, self._since_ns) or not math.isfinite(value):
                    continue
                self._last_ns[device] = t_ns
                scaled = value * self.scale
                watts, joules = (scaled, None) if self.quantity == "power" else (None, scaled)
                readings.append(PowerReading(t_ns, self.boundary, device, watts, joules, "promql"))
        return tuple(readings)

    def _ask(self, *, raw: bool) -> Iterator[tuple[str, list[tuple[float, float]]]]:
        """(device, [(Unix seconds, value)…]) of each series.

        Raises:
            _QueryError: rejected, unreachable, or not a response of Prometheus's API.
        """
        import httpx

        range_s = max(_LEAST_RANGE_S, 3 * self.interval_s)
        query = f"{self.query}[{math.ceil(range_s)}s]" if raw else self.query
        now_unix_s = (self._anchor.unix_ns + self.clock() - self._anchor.monotonic_ns) / NS_PER_S
        try:
            parameters = {"query": query, "time": f"{now_unix_s:.3f}"}
            with self._client.stream(
                "GET", f"{self.url}/api/v1/query", params=parameters
            ) as answer:
                content = joined(answer.iter_bytes(), _MOST_BODY_BYTES)
        except httpx.HTTPError as error:
            raise _QueryError(f"{type(error).__name__}: {error}") from error
        except TooLongError as error:
            raise _QueryError(
                "the response is larger than any meter's; narrow the query"
            ) from error
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            why = f"HTTP {answer.status_code} without JSON; is this a Prometheus?"
            raise _QueryError(why) from error
        if not isinstance(body, dict) or body.get("status") != "success":
            failure = body.get("error") if isinstance(body, dict) else None
            raise _QueryError(f"HTTP {answer.status_code}: {failure or 'the query failed'}")
        try:
            for one in body["data"]["result"]:
                values = one["values"] if "values" in one else [one["value"]]
                yield self._name(one["metric"]), [(float(t), float(value)) for t, value in values]
        except (KeyError, TypeError, ValueError) as error:
            raise _QueryError("the response has no vector or matrix") from error

    def _name(self, labels: Mapping[str, str]) -> str:
        if self.device_label is not None:
            return labels.get(self.device_label, "")
        rest = (f"{key}={value}" for key, value in sorted(labels.items()) if key != "__name__")
        return ",".join(rest) or "meter"

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
