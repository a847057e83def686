"""`harness bench`: a running endpoint and a few options as a profile.

The options become a YAML profile that is saved in the run directory, so `harness run` can repeat
the run.
"""

import io
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from harness.api.errors import error_text
from harness.api.table import WIRE_APIS, wire
from harness.core.clock import wall_now
from harness.core.errors import PreflightError, ProfileError, ServerError
from harness.core.network import Network
from harness.core.records import Api, Endpoint
from harness.core.units import parse_count, parse_duration_s
from harness.server.one_request import client_options, one_token_body, request_once
from harness.server.ready import listed_models

PROBED_APIS: Final = (Api.CHAT, *(api for api in WIRE_APIS if api is not Api.CHAT))
"""APIs in the order in which they are tried; most servers have chat completions."""

PROBE_TIMEOUT_S: Final = 60.0
"""Timeout of one probe: a first request may compile kernels."""

WORKLOADS: Final = ("chat", "claude-chat", "claude-code", "doc-qa", "thinking", "batch")

SHORT_IDLE_S: Final = 2.0
"""Idle is measured this long; a profile of purpose `measure` takes 30 s by default."""

SHORT_ANSWER_TOK: Final = 8
"""Output length of each response of the quality check."""

MESSAGE_TOK: Final = 64
"""Tokens reserved for what a chat template adds to one message."""

MOST_TOK: Final = 10_000_000
"""Longest input or output; ten times the context of any model."""

_LENGTH = re.compile(r"^\s*([0-9.]+k?)\s*(?:(?:±|\+-|\+/-)\s*([0-9.]+k?))?\s*$", re.IGNORECASE)
_SLOS: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of the command line; None where not given.

    Attributes:
        urls: base URLs of the replicas.
        model: served name; default: the only one.
        api: wire API; default: the first that responds.
        concurrency: one stage for each number of requests in flight.
        rates: one stage for each number of starts per second.
        isl: input tokens, `1024` or `1024±128`.
        osl: output tokens, in the same form.
        workload: one of `WORKLOADS`.
        trace: a recorded trace to replay.
        duration_s: length of each stage's measurement window.
        warmup_s: time of each stage before its window.
        slos: `ttft=1s,tpot=50ms`.
        gpu_count: GPUs that serve, on other machines.
        gpus: GPUs of this machine that serve, by index or UUID, or `all`.
        usd_per_gpu_h: price of a GPU-hour.
        api_key_env: environment variable with the API key.
    """

    urls: tuple[str, ...]
    model: str | None = None
    api: Api | None = None
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    isl: str | None = None
    osl: str | None = None
    workload: str | None = None
    trace: str | None = None
    duration_s: float = 30.0
    warmup_s: float | None = None
    slos: str | None = None
    gpu_count: int | None = None
    gpus: str | None = None
    usd_per_gpu_h: float | None = None
    api_key_env: str | None = None


@dataclass(frozen=True, slots=True)
class Probed:
    """Properties of a running endpoint.

    Attributes:
        model: served name.
        max_context_tok: longest context; None if the endpoint does not report it.
        api: the API that responded.
        forced: whether it accepts `ignore_eos`, so that output lengths can be forced.
    """

    model: str
    max_context_tok: int | None
    api: Api
    forced: bool


def numbers(text: str, option: str, kind: Callable[[str], float]) -> tuple[float, ...]:
    """Parse `1,4,16`.

    Raises:
        ProfileError: not different numbers above 0.
    """
    try:
        found = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or any(not 0 < n < float("inf") for n in found):
        raise ProfileError(
            f"{option} {text!r} must be different numbers above 0",
            next_step=f"separate numbers by commas: {option} 1,4,16",
        )
    return found


def duration_s(text: str, option: str) -> float:
    """Parse `30s` or `2m`.

    Raises:
        ProfileError: not a duration above 0.
    """
    try:
        found = parse_duration_s(text)
        if not found > 0:
            raise ValueError
    except ValueError:
        raise ProfileError(
            f"{option} {text!r} must be a duration above 0", next_step=f"write {option} 30s"
        ) from None
    return found


def length(text: str, option: str) -> int | dict[str, Any]:
    """Parse `1024`, or `1024±128` for a uniform distribution from 896 to 1152.

    Raises:
        ProfileError: neither.
    """
    match = _LENGTH.match(text)
    try:
        if match is None:
            raise ValueError
        middle = parse_count(match.group(1))
        around = parse_count(match.group(2)) if match.group(2) else 0
        if not 1 <= middle <= MOST_TOK or around >= middle:
            raise ValueError
    except ValueError:
        raise ProfileError(
            f"{option} {text!r} is not a number of tokens",
            next_step=f"write {option} 1024, or {option} 1024±128 for lengths from 896 to 1152",
        ) from None
    if not around:
        return middle
    return {"kind": "uniform", "min": middle - around, "max": middle + around}


def slos(text: str) -> dict[str, str]:
    """`ttft=1s,tpot=50ms` as a profile's `slos`.

    Raises:
        ProfileError: unknown or repeated name, or not a duration.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            if name not in _SLOS or _SLOS[name] in found or not parse_duration_s(value) > 0:
                raise ValueError
        except ValueError:
            raise ProfileError(
                f"--slo {part!r} must be one of {', '.join(_SLOS)} with a duration, each once",
                next_step=f"write {', '.join(f'{one}=1s' for one in _SLOS)}",
            ) from None
        found[_SLOS[name]] = value
    if not found:
        raise ProfileError(f"--slo {text!r} has no SLO", next_step="write --slo ttft=1s")
    return found


def base_url(url: str) -> str:
    """The base URL, without a trailing `/v1`.

    Raises:
        ProfileError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and url.isprintable() and not (parts.query or parts.fragment)
    except ValueError:  # incomplete IPv6 address, or port that is not a number
        usable = False
    if not usable:
        raise ProfileError(
            f"--url {url!r} is not an http or https base URL",
            next_step="write --url http://HOST:PORT",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def api_key(variable: str) -> str:
    """The API key in an environment variable. Messages never contain it.

    Raises:
        ProfileError: not set, empty, or not usable in a header.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()):
        raise ProfileError(
            f"--api-key-env: environment variable {variable!r} has no usable API key",
            cause="it is not set, empty, or has characters that headers do not allow",
            next_step=f"export {variable}=…, or name another variable",
        )
    return key


def probe(
    url: str, model: str | None, api: Api | None, api_key: str | None, network: Network
) -> Probed:
    """Detect an endpoint's model, API and support for forced output lengths.

    Raises:
        ServerError: no response, or the key is wrong.
        PreflightError: the model is not served, or the endpoint lists several.
    """
    served, max_context_tok = _models(url, model, api_key, network)
    refused: list[str] = []
    for one in (api,) if api is not None else PROBED_APIS:
        endpoint = Endpoint("replica-0", url, served)
        body = one_token_body(served, one)
        reply = request_once(
            endpoint, one, body, api_key, timeout_s=PROBE_TIMEOUT_S, network=network
        )
        if reply.ok:
            return Probed(
                served, max_context_tok, one, _takes_ignore_eos(endpoint, one, api_key, network)
            )
        refused.append(f"{one.value} ({wire(one).path}): {reply.error}")
    raise ServerError(
        f"{url} rejected every request for {served!r}",
        cause="another API, or the model or key is not accepted",
        next_step="set the API with --api, the model with --model and the key with --api-key-env",
        details="\n".join(refused),
    )


def _takes_ignore_eos(endpoint: Endpoint, api: Api, api_key: str | None, network: Network) -> bool:
    """Whether it accepts `ignore_eos`; only some APIs have that field."""
    if not wire(api).forces_output:
        return False
    body = json.dumps(json.loads(one_token_body(endpoint.model, api)) | {"ignore_eos": True})
    return request_once(
        endpoint, api, body.encode(), api_key, timeout_s=PROBE_TIMEOUT_S, network=network
    ).ok


def _models(
    url: str, model: str | None, api_key: str | None, network: Network
) -> tuple[str, int | None]:
    try:
        with httpx.Client(timeout=PROBE_TIMEOUT_S, **client_options(url, network)) as client:
            answer = client.get(f"{url}/v1/models", headers=wire(Api.CHAT).headers(api_key))
    except httpx.HTTPError as error:
        raise ServerError(
            f"no response from {url}: {type(error).__name__}: {error}",
            cause="no server listens there, or it is still starting",
            next_step="start the server, or correct --url",
        ) from error
    if answer.status_code in (401, 403):
        raise ServerError(
            f"GET {url}/v1/models: HTTP {answer.status_code}: {error_text(answer.content)}",
            cause="the API key is missing or wrong",
            next_step="export the key as an environment variable; pass its name to --api-key-env",
        )
    rows = listed_models(answer)
    if model is not None:
        if rows and model not in rows:
            raise PreflightError(
                f"{url} does not serve {model!r}; it serves {', '.join(map(repr, rows))}",
                next_step="choose one of them with --model",
            )
        return model, rows.get(model)
    if len(rows) != 1:
        raise PreflightError(
            f"{url} lists {len(rows)} models: {', '.join(map(repr, rows)) or 'none'}",
            next_step="choose the model with --model",
        )
    return next(iter(rows.items()))


def document(options: BenchOptions, probed: Probed) -> dict[str, Any]:
    """The options as a profile.

    Raises:
        ProfileError: invalid or contradictory options.
    """
    kinds = [
        name
        for name, given in (
            ("--isl/--osl", options.isl or options.osl),
            ("--workload", options.workload),
            ("--trace", options.trace),
        )
        if given
    ]
    if len(kinds) > 1:
        raise ProfileError(f"{' and '.join(kinds)} exclude each other", next_step="choose one")
    server: dict[str, Any] = {"kind": "attach", "urls": [base_url(url) for url in options.urls]}
    if options.gpus is not None:
        server["gpus"] = options.gpus if options.gpus == "all" else _gpus(options.gpus)
    if options.gpu_count is not None:
        server["gpu_count"] = options.gpu_count
    if options.api_key_env is not None:
        server["api_key_env"] = options.api_key_env
    model: dict[str, Any] = {"id": probed.model, "served_name": probed.model}
    if probed.max_context_tok is not None:
        model["max_context_tok"] = probed.max_context_tok
    single = not kinds or options.isl is not None or options.osl is not None
    found: dict[str, Any] = {
        "name": "bench",
        "purpose": "measure",
        "model": model,
        "server": server,
        "traffic": {
            "api": probed.api.value,
            "output_length": "forced" if probed.forced else "natural",
            "workload": _workload(options),
            "load": _load(options, over="requests" if single else "sessions"),
        },
        "energy": {"idle_s": SHORT_IDLE_S},
        "quality": {"max_output_tok": SHORT_ANSWER_TOK},
    }
    if options.slos:
        found["slos"] = slos(options.slos)
    if options.usd_per_gpu_h is not None:
        found["price"] = {
            "usd_per_gpu_h": options.usd_per_gpu_h,
            "source": "--price of harness bench",
            "date": wall_now().date().isoformat(),
        }
    return found


def _gpus(text: str) -> list[int | str]:
    return [
        int(part) if part.isascii() and part.isdigit() else part
        for part in (p.strip() for p in text.split(","))
    ]


def _workload(options: BenchOptions) -> dict[str, Any]:
    if options.trace is not None:
        return {"kind": "replay", "path": options.trace}
    if options.workload is not None:
        if options.workload not in WORKLOADS:
            raise ProfileError(
                f"unknown workload {options.workload!r} (--workload)",
                next_step=f"choose one of {', '.join(WORKLOADS)}",
            )
        return {"kind": options.workload}
    isl, osl = length(options.isl or "1024", "--isl"), length(options.osl or "128", "--osl")
    longest = sum(one if isinstance(one, int) else int(one["max"]) for one in (isl, osl))
    return {
        "kind": "chat",
        "system_tok": 0,
        "user_tok": isl,
        "output_tok": osl,
        "turns": 1,
        "context_limit_tok": longest + max(MESSAGE_TOK, longest // 8),
    }


def _load(options: BenchOptions, *, over: str) -> list[dict[str, Any]]:
    window = {"window_s": options.duration_s}
    if options.warmup_s is not None:
        window["warmup_s"] = options.warmup_s
    if options.trace is not None and not (options.concurrency or options.rates):
        return [{"kind": "replay", **window}]
    stages: list[dict[str, Any]] = [
        {"name": f"c{n}", "kind": "concurrency", "concurrency": n, "over": over, **window}
        for n in options.concurrency
    ]
    stages += [
        {"name": f"r{rate:g}", "kind": "arrival_rate", "rate_per_s": rate, "over": over, **window}
        for rate in options.rates
    ]
    return stages or [
        {"name": "c8", "kind": "concurrency", "concurrency": 8, "over": over, **window}
    ]


def to_yaml(profile: Mapping[str, Any], command: Sequence[str]) -> str:
    """The profile as YAML, with the command in a comment on top."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(dict(profile), stream)
    made_by = shlex.join(" ".join(part.split()) for part in command)
    return f"# Made by: {made_by}\n{stream.getvalue()}"
