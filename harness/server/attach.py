"""Servers that are already running: checked with one real request, and left running."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import httpx

from harness.core.clock import now_ns
from harness.core.errors import PreflightError, ServerError
from harness.core.network import NONE, Network, addresses
from harness.core.records import Endpoint, Gpu, ServerInfo
from harness.profile.schema import Profile
from harness.profile.serving import AttachServer
from harness.server.base import (
    Problem,
    RunContext,
    Settings,
    key_problems,
    problem_of,
    raise_problems,
    read_api_key,
)
from harness.server.detect import no_response
from harness.server.one_request import DIRECT, client_options
from harness.server.ready import Deadline, NotReadyError, Served, wait_ready

_PROBE_TIMEOUT_S: Final = 5.0
_MOST_REDIRECTS: Final = 5
_CHECK_EVERY_NS: Final = 1_000_000_000
_CONNECT_TIMEOUT_S: Final = 1.0


@dataclass(slots=True)
class AttachedServer:
    """Servers that the harness did not start. Stopping does nothing."""

    endpoints: tuple[Endpoint, ...]
    info: ServerInfo
    network: Network = DIRECT
    _checked_ns: int = 0

    def pids(self) -> dict[str, int]:
        return {}  # none of them is ours

    def check(self) -> None:
        """Raise `ServerError` if nothing listens any more. At most once a second, and without a
        request: the server is being measured.
        """
        if now_ns() - self._checked_ns < _CHECK_EVERY_NS:
            return
        self._checked_ns = now_ns()
        for endpoint in self.endpoints:
            # Behind a proxy a connection is no evidence about the server.
            if self.network.proxy_for(endpoint.base_url) is None and not _listens(
                endpoint.base_url
            ):
                raise ServerError(
                    f"the attached server {endpoint.name} at {endpoint.base_url} is gone: it"
                    " refuses connections",
                    next_step="see its own log: the harness did not start it",
                )

    def stop(self) -> None:
        pass


def _listens(base_url: str) -> bool:
    """Whether the port accepts connections. Only a refusal means no: a slow or distant server does
    not concern this check.
    """
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class AttachServerRunner:
    """Checks servers that are already running. `gpus` are those on this machine that serve; empty
    if unknown.
    """

    profile: Profile
    server: AttachServer
    gpus: tuple[Gpu, ...] = ()
    kind: str = "attach"

    def preflight(self) -> tuple[Problem, ...]:
        problems = key_problems(self.server)
        for url in self.server.urls:
            try:
                options = client_options(url, self.profile.traffic.network)
                with httpx.Client(timeout=_PROBE_TIMEOUT_S, **options) as client:
                    client.get(f"{url}/health")
            except PreflightError as error:
                problems.append(problem_of("network", error))
            except httpx.HTTPError as error:
                problems.append(no_response(url, error))
        return tuple(problems)

    @contextmanager
    def start(self, context: RunContext) -> Iterator[AttachedServer]:  # noqa: ARG002 (starts nothing, so it needs no run)
        raise_problems(self.preflight())
        api_key = read_api_key(self.server)
        traffic = self.profile.traffic
        deadline = Deadline(self.server.ready_timeout_s)
        endpoints: list[Endpoint] = []
        found: list[Served] = []
        notes: list[str] = []
        for position, url in enumerate(self.server.urls):
            name = f"replica-{position}"
            wanted = Endpoint(name, url, self.profile.model.served_name or "")
            try:
                served = wait_ready(
                    wanted,
                    self.profile.api,
                    api_key,
                    deadline,
                    lambda: None,
                    health_required=False,
                    network=traffic.network,
                    form=traffic.form,
                    temperature=traffic.temperature,
                )
            except NotReadyError as error:
                raise ServerError(
                    f"the server {name} at {url} {error.what}",
                    cause=error.cause,
                    next_step=error.next_step,
                ) from error
            # Which GPU serves which of several URLs is unknown and not guessed.
            uuids = tuple(gpu.uuid for gpu in self.gpus) if len(self.server.urls) == 1 else ()
            model = wanted.model or served.names[0]
            metrics_url = self._metrics_url(position, url, api_key, notes)
            endpoints.append(Endpoint(name, url, model, metrics_url, uuids))
            found.append(served)
            notes += [f"{name}: {note}" for note in (*served.notes, *self._several(url))]
        if len(models := {endpoint.model for endpoint in endpoints}) > 1:
            raise ServerError(
                f"the attached servers serve different models: {', '.join(sorted(models))}",
                next_step="set model.served_name, or attach to one",
            )
        versions = {served.version for served in found if served.version}
        settings: Settings = {
            "replicas": len(endpoints),
            "max_model_len": min(
                (served.max_context_tok for served in found if served.max_context_tok),
                default=self.profile.model.max_context_tok,
            ),
            "gpu_count": self.server.gpu_count or len(self.gpus) or None,
        }
        version = ", ".join(sorted(versions)) or None
        info = ServerInfo("attach", version=version, settings=settings, notes=tuple(notes))
        yield AttachedServer(tuple(endpoints), info, traffic.network)

    def _several(self, url: str) -> Iterator[str]:
        """A note where one name stands for several servers."""
        parts = urlsplit(url)
        if self.profile.traffic.network.proxy_for(url) is not None:
            return
        known = addresses(parts.hostname or "", parts.port or 80)
        if len([address for address in known if ":" not in address]) > 1:
            yield (
                f"{parts.hostname} has {len(known)} addresses ({', '.join(known)}): connections are"
                " spread over them"
            )

    def _metrics_url(
        self, position: int, url: str, api_key: str | None, notes: list[str]
    ) -> str | None:
        """From the profile, else the first known path that returns Prometheus text (TensorRT-LLM's
        /metrics is JSON).
        """
        if self.server.metrics_urls is not None:
            return self.server.metrics_urls[position] if self.server.metrics_urls else None
        # Metrics are scraped without a proxy; if that finds nothing, there are none.
        options = client_options(url, replace(self.profile.traffic.network, proxy=NONE))
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        with httpx.Client(timeout=_PROBE_TIMEOUT_S, headers=headers, **options) as client:
            for path in ("/metrics", "/prometheus/metrics"):
                try:
                    answer = _within_origin(client, f"{url}{path}")
                except httpx.HTTPError:
                    return None
                if answer.status_code == httpx.codes.OK and "# TYPE" in answer.text:
                    return str(answer.url)
                if answer.next_request is not None:
                    notes.append(
                        f"{url}{path} is redirected to another origin, {answer.next_request.url}:"
                        " name it in server.metrics_urls to scrape it"
                    )
        return None


def _within_origin(client: httpx.Client, url: str) -> httpx.Response:
    """The response of a GET; redirects to other origins are not followed: they must not get the
    key.
    """
    answer = client.get(url)
    for _ in range(_MOST_REDIRECTS):
        following = answer.next_request
        if following is None or _origin(following.url) != _origin(answer.url):
            break
        answer = client.get(following.url)
    return answer


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
