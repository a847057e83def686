"""The HTTP API of a Prometheus, or of what speaks it: Thanos, Mimir, VictoriaMetrics.

Only two things are asked: raw samples (an instant query of a range vector selector, `{…}[60s]`,
which answers with the samples themselves at their own timestamps, where `query_range` and
`increase()` would interpolate), and the server's clock.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from harness.artifacts.prometheus.answers import AnswerError, matrix
from harness.core.clock import now_ns
from harness.core.errors import TelemetryError
from harness.core.network import Network

_TIMEOUT_S: Final = 30.0
_HEADER: Final = re.compile(r"([A-Za-z0-9-]+):\s*(\S.*)")
_CLOCK_TRIES: Final = 3

Samples = list[tuple[int, str]]
"""(Unix time in milliseconds, value as text), by time."""


class PrometheusError(Exception):
    """The API did not answer, or with an error; the text says which."""


@dataclass(frozen=True, slots=True)
class ServerClock:
    """How far a server's wall clock is ahead of this host's.

    Attributes:
        ahead_ms: negative where it is behind.
        uncertainty_ms: half the round trip of the question.
    """

    ahead_ms: float
    uncertainty_ms: float


def headers_from(variable: str | None) -> dict[str, str]:
    """Headers from an environment variable: the value of `Authorization`, or lines of `Name: value`
    (Mimir's `X-Scope-OrgID: tenant`).

    Raises:
        TelemetryError: the variable is named and not set.
    """
    if variable is None:
        return {}
    text = os.environ.get(variable, "").strip()
    if not text:
        raise TelemetryError(
            f"telemetry.prometheus_auth_env names {variable}, which is not set or empty",
            next_step=(
                f"set {variable} in the environment of the harness, or remove"
                " telemetry.prometheus_auth_env"
            ),
        )
    found = {}
    for line in text.splitlines():
        header = _HEADER.fullmatch(line.strip())
        name, value = (
            (header[1], header[2]) if header is not None else ("Authorization", line.strip())
        )
        found[name] = value
    return found


class PrometheusApi:
    """One server.

    Args:
        url: its base, with the path under which its API lies (`https://mimir.example/prometheus`).
        network: certificates and proxy; None: a server on this host that the harness started.
        headers: sent with every request.
    """

    def __init__(
        self, url: str, *, network: Network | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self.warnings: set[str] = set()
        """What the server warned of, such as parts of the data that it could not reach."""
        proxy = None if network is None else network.proxy_for(url)
        client_proxy = None
        if proxy is not None:
            authorization = (
                {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            )
            client_proxy = httpx.Proxy(f"http://{proxy.name}", headers=authorization)
        secure = urlsplit(url).scheme == "https"
        self._client = httpx.Client(
            headers=dict(headers or {}),
            timeout=_TIMEOUT_S,
            trust_env=False,
            proxy=client_proxy,
            verify=(network or Network()).tls_context() if secure else False,
        )

    def get(self, path: str, **parameters: str) -> bytes:
        """The body of a GET.

        Raises:
            PrometheusError: no answer, or a status other than 200.
        """
        try:
            answer = self._client.get(f"{self.url}{path}", params=parameters)
        except httpx.HTTPError as error:
            raise PrometheusError(
                f"{self.url} does not answer: {type(error).__name__}: {error}"
            ) from error
        if answer.status_code != httpx.codes.OK:
            raise PrometheusError(
                f"{self.url}{path} answers {answer.status_code}: {_reason(answer)}"
            )
        return answer.content

    def raw(self, selector: str, range_ms: int, at_ms: int | None = None) -> bytes:
        """Raw samples of all series of a selector over a range, as JSON.

        Args:
            selector: with braces.
            range_ms: length of the range.
            at_ms: its end as Unix time; None: the server's present.

        Raises:
            PrometheusError: no answer, or an error.
        """
        at = {} if at_ms is None else {"time": f"{at_ms // 1000}.{at_ms % 1000:03d}"}
        return self.get("/api/v1/query", query=f"{selector}[{range_ms}ms]", **at)

    def samples(self, selector: str, range_ms: int) -> list[tuple[dict[str, str], Samples]]:
        """The same up to the server's present, parsed: labels (`__name__` among them) and samples
        of each series.

        Raises:
            PrometheusError: no answer, or not one of that kind.
        """
        answer = _object(self.raw(selector, range_ms))
        warnings = answer.get("warnings")
        self.warnings |= {str(one) for one in warnings} if isinstance(warnings, list) else set()
        try:
            return matrix(answer)
        except AnswerError as error:
            raise PrometheusError(f"{self.url} answers with {error}") from error

    def clock(self, unix_offset_ns: int) -> ServerClock:
        """Compare clocks, keeping the tightest of three tries.

        Args:
            unix_offset_ns: wall clock minus monotonic clock on this host.

        Raises:
            PrometheusError: no answer.
        """
        best: ServerClock | None = None
        for _ in range(_CLOCK_TRIES):
            before = now_ns()
            answer = _object(self.get("/api/v1/query", query="time()"))
            after = now_ns()
            try:
                server_ms = float(answer["data"]["result"][1]) * 1000
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise PrometheusError(f"{self.url} does not tell its time") from error
            middle_ms = ((before + after) // 2 + unix_offset_ns) / 1e6
            found = ServerClock(server_ms - middle_ms, (after - before) / 2e6)
            if best is None or found.uncertainty_ms < best.uncertainty_ms:
                best = found
        assert best is not None
        return best

    def last_errors(self) -> dict[str, str]:
        """`harness_target` -> why its last scrape failed, from the list of active targets.

        Raises:
            PrometheusError: no answer.
        """
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
    except ValueError as error:
        raise PrometheusError(
            "the answer is no JSON: is this the base URL of a Prometheus?"
        ) from error
    if not isinstance(value, dict):
        raise PrometheusError("the answer is no JSON object")
    return value


def _reason(answer: httpx.Response) -> str:
    """An error of the API in its own words, else the beginning of whatever came."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200].strip() or "(empty)"
