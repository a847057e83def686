"""A meter that a Prometheus-compatible server knows."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

from harness.core.clock import NS_PER_S, now_ns, take_anchor
from harness.core.network import Network
from harness.core.records import Boundary
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What
from harness.telemetry.sources.secret import read_secret

_LEAST_RANGE_S: Final = 30.0
_MOST_BODY_BYTES: Final = 4 * 1024**2


class _QueryError(Exception):
    """The server does not answer the query; the text says why."""


class PromqlPowerSource:
    """Raw samples of a selector at their own times; of other expressions the value at the time of
    each query.

    Raw samples carry the wall time of the server that scraped the meter: its clock and this
    machine's should be kept by NTP.

    Args:
        url: of the server.
        query: a selector or an expression.
        boundary: what the meter covers.
        quantity: whether it is power or cumulative energy.
        scale: factor to watts or joules.
        device_label: label that tells devices apart; None: all labels.
        token_env: environment variable that holds a bearer token.
        interval_s: between two queries.
        timeout_s: limit of one.
        network: certificates to trust.
        clock: monotonic nanoseconds.
    """

    name = "promql"

    def __init__(
        self,
        url: str,
        query: str,
        *,
        boundary: Boundary,
        quantity: Literal["power", "energy"] = "power",
        scale: float = 1.0,
        device_label: str | None = None,
        token_env: str | None = None,
        interval_s: float = 5.0,
        timeout_s: float = 5.0,
        network: Network | None = None,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self.trouble = ReadFailures()
        self._url = url
        self._query = query
        self._boundary = boundary
        self._quantity: What = quantity
        self._scale = scale
        self._device_label = device_label
        self._token_env = token_env
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._network = network or Network()
        self._clock = clock
        self._client: Any = None
        self._raw = True
        self._anchor = take_anchor()
        self._since_ns = clock()
        self._last_ns: dict[str, int] = {}
        self._found = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": self._interval_s} if self._found else {}

    def probe(self) -> PowerProbe:
        """Ask once, as a selector first."""
        import httpx

        origin = f"{self._url}: {self._query}"
        try:
            token = read_secret(self._token_env, None)
        except ValueError as error:
            return PowerProbe(self.name, why_not=str(error), origin=origin)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        verify = self._network.tls_context() if self._url.startswith("https") else True
        self._client = httpx.Client(
            timeout=self._timeout_s, headers=headers, trust_env=False, verify=verify
        )
        try:
            try:
                series = list(self._ask(raw=True))
            except _QueryError:
                self._raw = False  # a range of anything but a selector is an error
                series = list(self._ask(raw=False))
        except _QueryError as error:
            return PowerProbe(self.name, why_not=str(error), origin=origin)
        devices = sorted({device for device, _ in series})
        if not devices:
            return PowerProbe(
                self.name,
                why_not=f"{self._url} has no samples of {self._query} in the last minute",
                origin=origin,
            )
        self._found = True
        what = {self._quantity: "promql"}
        probes = tuple(
            DeviceProbe(device, self._boundary, what.get("power"), what.get("energy"))
            for device in devices
        )
        return PowerProbe(self.name, probes, origin=origin)

    def sample(self, _what: What, /) -> tuple[PowerReading, ...]:
        """Samples that are new since the last call."""
        try:
            series = list(self._ask(raw=self._raw))
        except _QueryError as error:
            self.trouble.note(f"promql {self._url}: {error}")
            return ()
        if not series:
            self.trouble.note(f"promql {self._url}: no samples of {self._query} any more")
        readings = []
        for device, samples in series:
            for unix_s, value in samples:
                t_ns = self._anchor.monotonic_ns + round(unix_s * NS_PER_S) - self._anchor.unix_ns
                if t_ns <= self._last_ns.get(device, self._since_ns) or not math.isfinite(value):
                    continue
                self._last_ns[device] = t_ns
                scaled = value * self._scale
                watts, joules = (scaled, None) if self._quantity == "power" else (None, scaled)
                readings.append(PowerReading(t_ns, self._boundary, device, watts, joules, "promql"))
        return tuple(readings)

    def _ask(self, *, raw: bool) -> Iterator[tuple[str, list[tuple[float, float]]]]:
        """(device, [(Unix seconds, value)…]) of each series.

        Raises:
            _QueryError: refused, unreachable, or no answer of Prometheus's API.
        """
        import httpx

        range_s = max(_LEAST_RANGE_S, 3 * self._interval_s)
        query = f"{self._query}[{math.ceil(range_s)}s]" if raw else self._query
        now_unix_s = (self._anchor.unix_ns + self._clock() - self._anchor.monotonic_ns) / NS_PER_S
        try:
            answer = self._client.get(
                f"{self._url}/api/v1/query", params={"query": query, "time": f"{now_unix_s:.3f}"}
            )
        except httpx.HTTPError as error:
            raise _QueryError(f"{type(error).__name__}: {error}") from error
        if len(answer.content) > _MOST_BODY_BYTES:
            raise _QueryError("the answer is larger than any meter's; narrow the query")
        try:
            body = json.loads(answer.content)
        except ValueError as error:
            raise _QueryError(
                f"HTTP {answer.status_code} without JSON: no Prometheus there?"
            ) from error
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error") if isinstance(body, dict) else None
            raise _QueryError(f"HTTP {answer.status_code}: {said or 'the query failed'}")
        try:
            for one in body["data"]["result"]:
                values = one["values"] if "values" in one else [one["value"]]
                yield self._name(one["metric"]), [(float(t), float(value)) for t, value in values]
        except (KeyError, TypeError, ValueError) as error:
            raise _QueryError("the answer has no vector or matrix") from error

    def _name(self, labels: Mapping[str, str]) -> str:
        if self._device_label is not None:
            return labels.get(self._device_label, "")
        rest = {key: value for key, value in sorted(labels.items()) if key != "__name__"}
        return ",".join(f"{key}={value}" for key, value in rest.items()) or "meter"

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
