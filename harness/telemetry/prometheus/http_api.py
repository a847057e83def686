"""The HTTP API of a Prometheus or a compatible server: Thanos, Mimir, VictoriaMetrics.

Only two things are queried: the server's clock, and raw samples. These come from an instant query
of a range vector selector (`{…}[60s]`), which returns the samples at their own timestamps;
`query_range` and `increase()` would interpolate.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from harness.api.errors import error_text
from harness.api.response import TooLongError, joined
from harness.artifacts.prometheus.answers import AnswerError, matrix
from harness.core.clock import now_ns
from harness.core.errors import TelemetryError
from harness.core.network import Network

_TIMEOUT_S: Final = 30.0
_HEADER: Final = re.compile(r"([A-Za-z0-9-]+):\s*(\S.*)")
_CLOCK_TRIES: Final = 3
_REASON_BYTES: Final = 64 * 1024

Samples = list[tuple[int, str]]
"""(Unix time in milliseconds, value as text), by time."""


class PrometheusError(Exception):
    """The API did not respond, or returned an error; the text states which."""


@dataclass(frozen=True, slots=True)
class ServerClock:
    """How far a server's clock is ahead of this host's; `uncertainty_ms` is half the round trip."""

    ahead_ms: float
    uncertainty_ms: float


def headers_from(variable: str | None) -> dict[str, str]:
    """Headers from an environment variable: the value of `Authorization`, or lines of `Name: value`
    (Mimir's `X-Scope-OrgID: tenant`).

    Raises:
        TelemetryError: the named variable is not set.
    """
    if variable is None:
        return {}
    text = os.environ.get(variable, "").strip()
    if not text:
        raise TelemetryError(
            f"telemetry.prometheus_auth_env names {variable}, which is not set or empty",
            next_step=f"set the environment variable {variable}, or remove"
            " telemetry.prometheus_auth_env",
        )
    found: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        header = _HEADER.fullmatch(line)
        found |= {header[1]: header[2]} if header else {"Authorization": line}
    return found


class PrometheusApi:
    """One server. Methods raise PrometheusError if it does not respond, or returns an error or an
    invalid response.

    Args:
        url: base URL, with the API's path prefix (`https://mimir.example/prometheus`).
        network: certificates and proxy; None: a server on this host that the harness started.
    """

    def __init__(
        self, url: str, *, network: Network | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.warnings: set[str] = set()
        """The server's warnings, such as unreachable parts of its data."""
        client_proxy = None
        if network is not None and (proxy := network.proxy_for(url)) is not None:
            key = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            client_proxy = httpx.Proxy(f"http://{proxy.name}", headers=key)
        secure = urlsplit(url).scheme == "https"
        self._client = httpx.Client(
            headers=dict(headers or {}),
            timeout=_TIMEOUT_S,
            trust_env=False,
            proxy=client_proxy,
            verify=(network or Network()).tls_context() if secure else False,
        )

    def get(self, path: str, **parameters: str) -> bytes:
        """The body of a GET with status 200."""
        try:
            with self._client.stream("GET", f"{self.url}{path}", params=parameters) as answer:
                body = joined(answer.iter_bytes())
        except httpx.HTTPError as error:
            why = f"{self.url} does not respond: {type(error).__name__}: {error}"
            raise PrometheusError(why) from error
        except TooLongError as error:
            raise PrometheusError(f"{self.url}{path}: {error}") from error
        if answer.status_code != httpx.codes.OK:
            why = f"{self.url}{path} returned {answer.status_code}: {_reason(body)}"
            raise PrometheusError(why)
        return body

    def raw(self, selector: str, range_ms: int, at_ms: int | None = None) -> bytes:
        """Raw samples of all series of a selector (with braces), as JSON, over the range that ends
        at `at_ms` (Unix time; None: the server's present).
        """
        at = {} if at_ms is None else {"time": f"{at_ms // 1000}.{at_ms % 1000:03d}"}
        return self.get("/api/v1/query", query=f"{selector}[{range_ms}ms]", **at)

    def samples(self, selector: str, range_ms: int) -> list[tuple[dict[str, str], Samples]]:
        """The same up to the server's present, parsed: labels (including `__name__`) and samples of
        each series.
        """
        answer = _object(self.raw(selector, range_ms))
        warnings = answer.get("warnings")
        self.warnings |= {str(one) for one in warnings} if isinstance(warnings, list) else set()
        try:
            return matrix(answer)
        except AnswerError as error:
            raise PrometheusError(f"{self.url} returned {error}") from error

    def clock(self, unix_offset_ns: int) -> ServerClock:
        """Compare clocks; the tightest of three tries. `unix_offset_ns` is this host's wall clock
        minus monotonic clock.
        """
        found = []
        for _ in range(_CLOCK_TRIES):
            before = now_ns()
            answer = _object(self.get("/api/v1/query", query="time()"))
            after = now_ns()
            try:
                server_ms = float(answer["data"]["result"][1]) * 1000
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise PrometheusError(f"{self.url} does not report its time") from error
            middle_ms = ((before + after) // 2 + unix_offset_ns) / 1e6
            found.append(ServerClock(server_ms - middle_ms, (after - before) / 2e6))
        return min(found, key=lambda clock: clock.uncertainty_ms)

    def last_errors(self) -> dict[str, str]:
        """`harness_target` -> error of its last scrape, from the list of active targets."""
        answer = _object(self.get("/api/v1/targets", state="active"))
        try:
            active = answer["data"]["activeTargets"]
            return {
                one["labels"]["harness_target"]: one["lastError"]
                for one in active
                if one.get("lastError")
            }
        except (KeyError, TypeError) as error:
            raise PrometheusError(f"{self.url} lists no targets") from error

    def close(self) -> None:
        self._client.close()


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PrometheusError(
            "the response is not JSON: is this the base URL of a Prometheus?"
        ) from error
    if not isinstance(value, dict):
        raise PrometheusError("the response is not a JSON object")
    return value


def _reason(body: bytes) -> str:
    """The API's own error text, else the beginning of the body."""
    return error_text(body[:_REASON_BYTES]) or "(empty)"
