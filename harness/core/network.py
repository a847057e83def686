"""Proxy and TLS trust for servers that are already running.

Servers that the harness starts are always reached directly.
"""

import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from harness.core.errors import PreflightError
from harness.core.records import Concern, Endpoint, Severity

T = TypeVar("T")

ENVIRONMENT: Final = "environment"
NONE: Final = "none"
FROM_ENVIRONMENT: Final = "env:"
"""Prefix of a header's value that is the name of an environment variable."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of `Proxy-Authorization`, a secret."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def url_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def name(self) -> str:
        """Host and port, without the secret."""
        return f"{self.url_host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Network:
    """Network settings of a profile.

    Attributes:
        proxy: `environment` (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY; never for loopback
            addresses), `none`, or a proxy's URL for every address.
        ca_file: PEM file of certificate authorities to trust instead of the system's; None: the
            system's, or those of SSL_CERT_FILE.
        verify: check certificates and host names.
        headers: names and values of additional headers; `env:NAME` is the value of a variable.
    """

    proxy: str = ENVIRONMENT
    ca_file: str | None = None
    verify: bool = True
    headers: tuple[tuple[str, str], ...] = ()

    def sent_headers(self) -> dict[str, str]:
        """The additional headers with their values, which may be secrets.

        Raises:
            PreflightError: a variable is not set, empty, or not usable in a header.
        """
        return {name: _header_value(name, value) for name, value in self.headers}

    def proxy_for(self, url: str, *, started: bool = False) -> Proxy | None:
        """The proxy for a server's URL; None: direct, as for servers that the harness `started`.

        Raises:
            PreflightError: the proxy's URL cannot be used.
        """
        if started or self.proxy == NONE:
            return None
        if self.proxy != ENVIRONMENT:
            return _proxy(self.proxy, "traffic.proxy")
        from urllib.request import getproxies_environment  # slow: imports http and email

        parts = urlsplit(url)
        host = parts.hostname or ""
        known = getproxies_environment()
        name = parts.scheme if parts.scheme in known else "all"
        if (
            name not in known
            or is_loopback(host)
            or _excepted(host, parts.port, known.get("no", ""))
        ):
            return None
        return _proxy(known[name], f"{name.upper()}_PROXY")

    def tls_context(self) -> ssl.SSLContext:
        """Client-side TLS context.

        Raises:
            PreflightError: `ca_file` cannot be read or has no certificate.
        """
        if self.ca_file is not None and not Path(self.ca_file).is_file():
            raise PreflightError(
                f"traffic.tls.ca_file: {self.ca_file} not found",
                next_step="name a PEM file of certificates",
            )
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise PreflightError(
                f"traffic.tls.ca_file: {self.ca_file} cannot be read as certificates: {error}",
                next_step="name a PEM file of certificates",
            ) from error
        if self.ca_file is not None:
            # Since Python 3.13 the default refuses private authorities without the extensions of
            # RFC 5280, although they were named to be trusted.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def concerns(self, endpoints: Iterable[Endpoint]) -> list[Concern]:
        """Notes about proxies and unchecked certificates on the way to these servers."""
        found = []
        for endpoint in endpoints:
            proxy = self.proxy_for(endpoint.base_url, started=endpoint.pid is not None)
            if proxy is not None:
                text = (
                    f"Requests to {endpoint.name} go through the proxy {proxy.name}; every latency"
                    " includes it."
                )
                found.append(Concern("through_proxy", Severity.NOTE, text))
            if endpoint.base_url.startswith("https:") and not self.verify:
                text = (
                    f"The certificate of {endpoint.name} was not checked (traffic.tls.verify), so"
                    " its identity is not verified."
                )
                found.append(Concern("tls_unverified", Severity.NOTE, text))
        return found


HEAD_START_S: Final = 0.25
"""How long one address of several is tried before the next (RFC 8305)."""
_reached: dict[tuple[str, int], str] = {}


def addresses(host: str, port: int) -> list[str]:
    """All addresses of a name, each once, in the resolver's order.

    Raises:
        OSError: the name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def reachable(host: str, port: int, timeout_s: float | None) -> str:
    """An address of a name that accepts connections; the one of the last call is tried first.

    Raises:
        OSError: the name cannot be resolved, or no address accepts connections.
    """
    known = addresses(host, port)
    if len(known) == 1:
        return known[0]
    last = _reached.get((host, port))
    known.sort(key=lambda address: address != last)
    failure: OSError = TimeoutError(f"no address of {host} accepts connections")
    for address, limit_s in attempts(known, timeout_s or 10.0):
        try:
            socket.create_connection((address, port), timeout=limit_s).close()
        except OSError as error:
            failure = error
        else:
            _reached[host, port] = address
            return address
    raise failure


def attempts(known: Sequence[T], timeout_s: float) -> Iterator[tuple[T, float | None]]:
    """The order in which to connect to addresses, with the limit of each attempt in seconds: each
    has a short time before the next is tried, then its share of the rest. One alone has no limit.
    """
    if len(known) == 1:
        yield known[0], None
        return
    share_s = timeout_s / len(known)
    for limit_s in (min(HEAD_START_S, share_s), share_s):
        yield from ((address, limit_s) for address in known)


def header_secret(variable: str) -> str | None:
    """Value of an environment variable; None if it is not set or not usable in a header."""
    found = os.environ.get(variable, "").strip()
    return found if found and found.isascii() and found.isprintable() else None


def _header_value(name: str, value: str) -> str:
    variable = value.removeprefix(FROM_ENVIRONMENT)
    if variable == value:
        return value
    found = header_secret(variable)
    if found is None:
        raise PreflightError(
            f"traffic.headers.{name}: environment variable {variable!r} has no usable value",
            cause="it is not set, empty, or has characters that headers do not allow",
            next_step=f"export {variable}=…, or name another variable",
        )
    return found


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's loopback."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY matches: names with their subdomains, `host:port`, addresses, networks such
    as 10.0.0.0/8, or `*`.
    """
    for raw in exceptions.split(","):
        one = raw.strip().lower()
        if one == "*":
            return True
        name, _, only_port = one.rpartition(":") if one.count(":") == 1 else (one, "", "")
        if only_port and only_port != str(port):
            continue
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if name and (host == name or host.endswith(f".{name}")):
            return True
        try:
            if ip_address(host) in ip_network(name, strict=False):
                return True
        except ValueError:
            continue
    return False


def _proxy(url: str, source: str) -> Proxy:
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if not host or parts.scheme != "http":
        # The URL itself may contain a password.
        raise PreflightError(
            f"{source} is not an HTTP proxy URL (scheme {parts.scheme or 'unknown'!r}, host"
            f" {host or 'none'!r})",
            next_step="use http://HOST:PORT, or set traffic.proxy: none",
        )
    authorization = None
    if parts.username is not None:
        secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {b64encode(secret.encode()).decode()}"
    return Proxy(host, port or 80, authorization)
