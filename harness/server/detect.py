"""What a running endpoint serves: its model, its API, and whether it can force output lengths.

`harness bench` makes a profile of it; `complete` fills in the keys that a profile leaves open.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

from harness.api.errors import error_text
from harness.api.table import WIRE_APIS, wire
from harness.core.errors import PreflightError, ProfileError, ServerError
from harness.core.network import Network
from harness.core.records import AS_IT_IS, Api, BodyForm, Endpoint, OutputLength
from harness.profile.rules import violations
from harness.profile.schema import DEFAULT_API, Profile
from harness.profile.serving import AttachServer
from harness.server.base import Problem, read_api_key
from harness.server.one_request import client_options, one_token_body, request_once
from harness.server.ready import listed_models

PROBED_APIS: Final = (Api.CHAT, *(api for api in WIRE_APIS if api is not Api.CHAT))
"""APIs in the order in which they are tried; most servers have chat completions."""

PROBE_TIMEOUT_S: Final = 60.0
"""Timeout of one probe: a first request may compile kernels."""

CONNECT_TIMEOUT_S: Final = 10.0
"""Timeout of the connection for the first probe."""


@dataclass(frozen=True, slots=True)
class Names:
    """How a person sets what the errors are about: keys of a profile, or options."""

    url: str = "server.urls"
    model: str = "model.served_name"
    api: str = "traffic.api"
    api_key: str = "server.api_key_env or server.api_key_file"
    ca_file: str = "traffic.tls.ca_file"


KEYS: Final = Names()
OPTIONS: Final = Names("--url", "--model", "--api", "--api-key-env", "--ca-file")


@dataclass(frozen=True, slots=True)
class Detected:
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


@dataclass(frozen=True, slots=True)
class Completed:
    """A profile with model and API, and one sentence on each of the two that it left open."""

    profile: Profile
    choices: tuple[str, ...]


def detect(
    url: str,
    model: str | None,
    api: Api | None,
    api_key: str | None,
    network: Network,
    names: Names = KEYS,
    form: BodyForm = AS_IT_IS,
) -> Detected:
    """Detect an endpoint's model, API and support for forced output lengths.

    Args:
        url: base URL.
        model: served name; default: the only one listed.
        api: the API to use; default: the first of `PROBED_APIS` that responds.
        api_key: for every request.
        network: proxy and TLS trust.
        names: of the settings, for errors.
        form: of request bodies.

    Raises:
        ServerError: no response, the key is wrong, or no API accepts a request.
        PreflightError: the model is not served, or the endpoint lists several.
    """
    served, max_context_tok = _model(url, model, api_key, network, names)
    refused: list[str] = []
    for one in (api,) if api is not None else PROBED_APIS:
        endpoint = Endpoint("replica-0", url, served)
        body = one_token_body(served, one, form)
        reply = request_once(
            endpoint, one, body, api_key, timeout_s=PROBE_TIMEOUT_S, network=network
        )
        if reply.ok:
            forced = _takes_ignore_eos(endpoint, one, api_key, network, form)
            return Detected(served, max_context_tok, one, forced)
        refused.append(f"{one.value} (POST {wire(one).path}): {reply.error}")
    raise ServerError(
        f"{names.url} {url} rejected every request for {served!r}"
        + ("" if api is None else f" over {names.api} {api.value}"),
        cause="the endpoint has another API, or does not accept this model or key",
        next_step=f"set {names.api}, {names.model} or {names.api_key}",
        details="\n".join(refused),
    )


def complete(profile: Profile) -> Completed:
    """Fill in `model` and `traffic.api`, for an attached server by asking its first replica.

    Raises:
        ServerError, PreflightError: as for `detect`.
        ProfileError: what was found contradicts another key.
    """
    server = profile.server
    open_model = profile.model.id is None
    if not isinstance(server, AttachServer) or not (open_model or profile.traffic.api is None):
        return _with_default(profile)
    found = detect(
        server.urls[0],
        profile.model.served_name,
        profile.traffic.api,
        read_api_key(server),
        profile.traffic.network,
        form=profile.traffic.form,
    )
    filled = _with(profile, found)
    for violation in violations(filled):
        key = ".".join(map(str, violation.path))
        raise ProfileError(f"{key}: {violation.what}", next_step=violation.fix)
    return Completed(filled, tuple(_choices(profile, filled, server.urls[0])))


def complete_or_assume(profile: Profile) -> Completed:
    """As `complete`, for a description of a run: without a response, model and API are assumed.

    Raises:
        ProfileError: what was found contradicts another key.
    """
    try:
        return complete(profile)
    except (ServerError, PreflightError) as error:
        assumed = _with_default(profile)
        return Completed(
            assumed.profile, (*assumed.choices, f"model and API are assumptions: {error.what}")
        )


def _with_default(profile: Profile) -> Completed:
    """Fill in `traffic.api` without a request. The model of an attached server stays open."""
    if profile.traffic.api is not None:
        return Completed(profile, ())
    traffic = profile.traffic.model_copy(update={"api": DEFAULT_API})
    choice = f"API {DEFAULT_API.value}: the default"
    return Completed(profile.model_copy(update={"traffic": traffic}), (choice,))


def _with(profile: Profile, found: Detected) -> Profile:
    """The profile with what it left open."""
    model, traffic = profile.model, profile.traffic
    named: dict[str, Any] = {"served_name": found.model}
    if model.id is None:
        named["id"] = found.model
    if model.max_context_tok is None:
        named["max_context_tok"] = found.max_context_tok
    sent: dict[str, Any] = {"api": found.api}
    if traffic.api is None and traffic.output_length is None and not found.forced:
        sent["output_length"] = OutputLength.NATURAL
    return profile.model_copy(
        update={
            "model": model.model_copy(update=named),
            "traffic": traffic.model_copy(update=sent),
        }
    )


def _choices(given: Profile, filled: Profile, url: str) -> Iterator[str]:
    if given.model.id is None:
        limit = filled.model.max_context_tok
        context = "" if limit is None else f", context {limit} tokens"
        yield f"model {filled.model.served_name!r}{context}: served at {url}"
    if given.traffic.api is not None:
        return
    tried = ", ".join(PROBED_APIS)
    yield f"API {filled.api.value}: the first of {tried} that responds at {url}"
    if given.output_length is not filled.output_length:
        yield f"output lengths {filled.output_length.value}: {url} cannot force them"


def _takes_ignore_eos(
    endpoint: Endpoint, api: Api, api_key: str | None, network: Network, form: BodyForm
) -> bool:
    """Whether it accepts `ignore_eos`; only some APIs have that field."""
    if not wire(api).forces_output or "ignore_eos" in form.omit:
        return False
    body = json.dumps(json.loads(one_token_body(endpoint.model, api, form)) | {"ignore_eos": True})
    return request_once(
        endpoint, api, body.encode(), api_key, timeout_s=PROBE_TIMEOUT_S, network=network
    ).ok


def _model(
    url: str, model: str | None, api_key: str | None, network: Network, names: Names
) -> tuple[str, int | None]:
    """The served name and its longest context."""
    answer = _list(url, api_key, network, names)
    rows = listed_models(answer)
    if model is not None:
        if rows and model not in rows:
            raise PreflightError(
                f"{names.model} {model!r} is not served at {url}; it serves"
                f" {', '.join(map(repr, rows))}",
                next_step=f"set {names.model} to one of them",
            )
        return model, rows.get(model)
    if len(rows) != 1:
        what = (
            f"lists {len(rows)} models: {', '.join(map(repr, rows))}"
            if rows
            else (f"lists no model (HTTP {answer.status_code})")
        )
        raise PreflightError(
            f"{names.url} {url} {what}", next_step=f"set {names.model} to the model to measure"
        )
    return next(iter(rows.items()))


def no_response(url: str, error: httpx.HTTPError, names: Names = KEYS) -> Problem:
    """Why an attached endpoint did not respond: `certificate` if it is not trusted, else
    `no_answer`. The diagnosis of `harness check`, of runs and of `harness bench`.
    """
    what = f"{names.url}: no response from {url}: {type(error).__name__}: {error}"
    if "certificate" in str(error).lower():
        return Problem(
            "certificate",
            what,
            f"name the PEM file of the authority with {names.ca_file}, or reissue the certificate",
            "its certificate was issued by a private authority, is not for this host, or expired",
        )
    return Problem(
        "no_answer",
        what,
        f"start the server, or correct {names.url}",
        "no server listens there, or it is still starting",
    )


def _list(url: str, api_key: str | None, network: Network, names: Names) -> httpx.Response:
    """The response of `/v1/models`."""
    try:
        with httpx.Client(
            timeout=httpx.Timeout(PROBE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            headers=wire(Api.CHAT).headers(api_key),
            **client_options(url, network),
        ) as client:
            answer = client.get(f"{url}/v1/models")
    except httpx.HTTPError as error:
        found = no_response(url, error, names)
        raise ServerError(found.what, cause=found.cause, next_step=found.next_step) from error
    if answer.status_code in (401, 403):
        raise ServerError(
            f"GET {url}/v1/models: HTTP {answer.status_code}: {error_text(answer.content)}",
            cause="the API key is missing or wrong",
            next_step=f"export the key as an environment variable; name it with {names.api_key}",
        )
    return answer
