"""A small fixed quality check: the same greedy completions before and after the load, outside of
every measurement.

The speed of a broken kernel is not a result. The check sends a few short texts, one at a time; the
reduction decides whether the responses are right, from what is written here.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from harness.api.base import PlainAnswer, WireApi
from harness.api.table import wire
from harness.artifacts.atomic import write_json
from harness.artifacts.layout import RunDir
from harness.artifacts.quality import (
    CHECK_VERSION,
    Answer,
    Reference,
    read_reference,
    write_reference,
)
from harness.core.errors import PreflightError, ServerError
from harness.core.network import Network
from harness.core.records import AS_IT_IS, Api, BodyForm, Endpoint, ModelFacts, ServerInfo
from harness.profile.schema import Profile
from harness.server.one_request import DIRECT, Reply, client_options, post, reply_of

TEXTS: Final = (
    "The quick answer to the question of why the sky is blue is that",
    'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
    "Seven plus five is twelve. Nine plus four is thirteen. Eight plus six is",
    "A list of the planets, from the sun outwards:\n1. Mercury\n2. Venus\n3.",
    '{"city": "Paris", "country": "France"}\n{"city": "Tokyo", "country":',
    "Monday, Tuesday, Wednesday,",
)
"""Prose, code, arithmetic, a list, JSON and a sequence, too short to warm any cache."""

TIMEOUT_S: Final = 120.0
"""Per response; the server is idle."""

_REFUSED: Final = frozenset({400, 404, 405, 422, 501})
"""Statuses of a server that does not support the request, and may support a simpler one."""


def texts_sha256() -> str:
    """Identity of the texts."""
    return hashlib.sha256("\0".join(TEXTS).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Route:
    """An API, and whether to request log-probabilities."""

    api: Api
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """Responses of one replica.

    Attributes:
        answers: one per text; fewer if a request failed.
        status: HTTP status of the failure; None without a failure or without a response.
        error: the failure, if any.
    """

    route: Route
    answers: tuple[Answer, ...]
    status: int | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        route = fields.pop("route")
        return {"route": str(route["api"]), "logprobs": route["logprobs"], **fields}


def ask(
    endpoint: Endpoint,
    routes: Sequence[Route],
    api_key: str | None,
    max_output_tok: int,
    *,
    network: Network = DIRECT,
    form: BodyForm = AS_IT_IS,
) -> Asked:
    """Send every text to one replica, over the first of the routes (in order of preference) that it
    has. Never raises for server or network failures. The server must be ready and idle.
    """
    options = client_options(endpoint.base_url, network)
    asked = Asked(routes[0], (), None, "nothing was asked")
    with httpx.Client(base_url=endpoint.base_url, timeout=TIMEOUT_S, **options) as client:
        for route in routes:
            asked = _ask(client, endpoint, route, api_key, max_output_tok, form)
            if asked.answers or asked.status not in _REFUSED:
                return asked
    return asked


def _ask(
    client: httpx.Client,
    endpoint: Endpoint,
    route: Route,
    api_key: str | None,
    max_output_tok: int,
    form: BodyForm,
) -> Asked:
    answers: list[Answer] = []
    api = wire(route.api)
    status: int | None = None
    why: str | None = None
    logprobs = {"logprobs": api.logprobs} if route.logprobs else {}
    for text in TEXTS:
        plain = api.plain_request(endpoint.model, text, max_output_tok, temperature=0)
        body = json.dumps(form.adapt(plain) | logprobs).encode()
        try:
            response, content = post(client, api.path, api, body, api_key)
        except httpx.HTTPError as error:
            why = f"{type(error).__name__}: {error}"
            break
        reply = reply_of(api, response, content, body)
        if not reply.ok:
            status, why = reply.status, reply.error
            break
        try:
            answers.append(_answer(api, reply))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            status = 200
            why = f"the response does not have the API's form ({type(error).__name__}: {error})"
            break
    return Asked(route, tuple(answers), status, why)


def _answer(api: WireApi, reply: Reply) -> Answer:
    received = reply.received
    assert received is not None
    if received.stream:
        found = PlainAnswer("".join(received.reader.texts))
    else:
        found = api.plain_answer(json.loads(received.body))
    tokens, logprobs = tuple(found.tokens), tuple(found.logprobs)
    whole = bool(tokens) and len(tokens) == len(logprobs) and all(map(_finite, logprobs))
    return Answer(
        found.text,
        tokens if whole else None,
        logprobs if whole else None,
        reply.input_tok,
        reply.output_tok,
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def routes_for(api: Api) -> tuple[Route, ...]:
    """Routes, best first: completions take the text as it is and return log-probabilities; else the
    API of the traffic.
    """
    has_logprobs = wire(api).logprobs is not None
    own = (Route(api, True), Route(api, False)) if has_logprobs else (Route(api, False),)
    plain = (Route(Api.COMPLETIONS, True), Route(Api.COMPLETIONS, False))
    return (*plain, *(route for route in own if route not in plain))


class QualityCheck:
    """The check of one run; writes quality.json after each of its two parts. Without a `reference`
    the responses are only compared with each other.

    Raises:
        PreflightError: the reference cannot be read, or is of another model, check or length.
    """

    def __init__(self, profile: Profile, facts: ModelFacts) -> None:
        self._profile = profile
        self._facts = facts
        self._settings = profile.quality
        self._path = None if self._settings.reference is None else Path(self._settings.reference)
        self.reference = None if self._path is None else read_reference(self._path)
        self._routes = routes_for(profile.api)
        if self.reference is not None:
            _must_match(self.reference, facts, self._settings.max_output_tok, self._path)
            # only the route of the reference, if it is one of these
            same = tuple(route for route in self._routes if route.api == self.reference.route)
            self._routes = same or self._routes
        self._found: dict[str, dict[str, Asked]] = {}
        self._recorded = False

    def ask(
        self, when: str, run_dir: RunDir, endpoints: Sequence[Endpoint], api_key: str | None
    ) -> None:
        """Query every replica (idle), and write quality.json. `when` is `before` or `after` the
        load.

        Raises:
            ArtifactError: quality.json cannot be written.
        """
        self._found[when] = {}
        for endpoint in endpoints:
            network = DIRECT if endpoint.pid is not None else self._profile.traffic.network
            self._found[when][endpoint.name] = ask(
                endpoint,
                self._routes,
                api_key,
                self._settings.max_output_tok,
                network=network,
                form=self._profile.traffic.form,
            )
        self._write(run_dir)

    def failure(self, when: str) -> str | None:
        """The first failure of that part; None if there is none, or the part did not run."""
        found = self._found.get(when, {}).items()
        return next((f"{name}: {asked.error}" for name, asked in found if asked.error), None)

    def record_first(self, run_dir: RunDir, info: ServerInfo) -> Path | None:
        """Store the responses as the reference named in the profile, if it does not exist yet and
        the load did not change them. Returns the file if it was written.

        Raises:
            ArtifactError: it cannot be written.
        """
        before, after = self._found.get("before", {}), self._found.get("after", {})
        if self._path is None or self.reference is not None or not before or not after:
            return None
        every = [*before.values(), *after.values()]
        texts = [[answer.text for answer in asked.answers] for asked in every]
        changed = any(text != texts[0] for text in texts)
        if changed or self.failure("before") or self.failure("after"):
            return None
        write_reference(self._path, make_reference(self._profile, self._facts, info, every[0]))
        self._recorded = True
        self._write(run_dir)
        return self._path

    def _write(self, run_dir: RunDir) -> None:
        settings = self._settings
        found = {
            "check_version": CHECK_VERSION,
            "texts_sha256": texts_sha256(),
            "texts": len(TEXTS),
            "max_output_tok": settings.max_output_tok,
            "min_agreement": settings.min_agreement,
            "logprob_tolerance": settings.logprob_tolerance,
            "reference_path": None if self._path is None else str(self._path),
            "reference": None if self.reference is None else self.reference.to_dict(),
            "recorded": self._recorded,
        }
        for when, replicas in self._found.items():
            found[when] = {name: asked.to_dict() for name, asked in replicas.items()}
        write_json(run_dir.quality, found)


def make_reference(
    profile: Profile, facts: ModelFacts, info: ServerInfo, asked: Asked
) -> Reference:
    """A reference from one replica's responses.

    Raises:
        ServerError: a text has no response.
    """
    if asked.error is not None:
        raise ServerError(
            f"the responses could not be recorded: {asked.error}",
            next_step="see the server's log for the reason",
        )
    dtype = info.settings.get("dtype")
    return Reference(
        check_version=CHECK_VERSION,
        texts_sha256=texts_sha256(),
        max_output_tok=profile.quality.max_output_tok,
        route=str(asked.route.api),
        model_id=facts.model_id,
        fingerprint=facts.fingerprint,
        dtype=str(dtype) if dtype is not None and dtype != "auto" else facts.dtype,
        quantization=profile.model.quantization,
        engine=f"{info.kind} {info.version or ''}".strip(),
        answers=asked.answers,
    )


def _must_match(
    reference: Reference, facts: ModelFacts, max_output_tok: int, path: Path | None
) -> None:
    what, cause = f"quality.reference {path}", None
    next_step = "name the reference of this model, or record one: harness quality record PROFILE"
    if reference.texts_sha256 != texts_sha256():
        what += " was recorded with a different prompt set"
    elif reference.max_output_tok != max_output_tok:
        what += (
            f" has responses of {reference.max_output_tok} tokens; quality.max_output_tok is"
            f" {max_output_tok}"
        )
        next_step = (
            f"set quality.max_output_tok to {reference.max_output_tok}, or record another reference"
        )
    elif reference.fingerprint is not None and facts.fingerprint is not None:
        if reference.fingerprint == facts.fingerprint:
            return
        what += (
            f" is of another model: {reference.model_id} with fingerprint"
            f" {reference.fingerprint[:12]}, not {facts.fingerprint[:12]}"
        )
        cause = "the model's config or tokenizer differs"
    elif reference.model_id != facts.model_id:
        what += f" is of {reference.model_id}, not of {facts.model_id}"
    else:
        return
    raise PreflightError(what, cause=cause, next_step=next_step)
