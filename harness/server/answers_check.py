"""A small fixed check of a served model's answers: the same greedy completions before and after the
load, outside of every measurement.

Speed of a broken kernel is no result. The check asks a handful of short texts one after the other;
whether the answers are right is decided by the reduction, from what is written here.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from harness.api.base import WireApi
from harness.api.errors import error_text
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
from harness.core.records import Api, Endpoint, ModelFacts, ServerInfo
from harness.profile.schema import Profile
from harness.server.one_request import DIRECT, client_options

TEXTS: Final = (
    "The quick answer to the question of why the sky is blue is that",
    'def fibonacci(n: int) -> int:\n    """Return the n-th Fibonacci number."""\n',
    "Seven plus five is twelve. Nine plus four is thirteen. Eight plus six is",
    "A list of the planets, from the sun outwards:\n1. Mercury\n2. Venus\n3.",
    '{"city": "Paris", "country": "France"}\n{"city": "Tokyo", "country":',
    "Monday, Tuesday, Wednesday,",
)
"""What is asked: prose, code, arithmetic, a list, JSON and a sequence, short enough not to warm any
cache worth the name.
"""

TIMEOUT_S: Final = 120.0
"""Limit of one of the answers: they are asked of an idle server."""

_REFUSED: Final = frozenset({400, 404, 405, 422, 501})
"""Statuses of a server that does not do what was asked, and may do less."""


def texts_sha256() -> str:
    """Identity of the texts."""
    return hashlib.sha256("\0".join(TEXTS).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Route:
    """How to ask: an API, and whether to ask for log-probabilities."""

    api: Api
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """What one replica answered.

    Attributes:
        route: how it was asked.
        answers: one a text; fewer where it failed.
        status: HTTP status of the failure; None where there was no response, or no failure.
        error: the failure; None where every text was answered.
    """

    route: Route
    answers: tuple[Answer, ...]
    status: int | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "route": str(self.route.api),
            "logprobs": self.route.logprobs,
            "answers": [asdict(answer) for answer in self.answers],
            "status": self.status,
            "error": self.error,
        }


def ask(
    endpoint: Endpoint,
    routes: Sequence[Route],
    api_key: str | None,
    max_output_tok: int,
    *,
    network: Network = DIRECT,
) -> Asked:
    """Ask every text of one replica, over the first of the routes that it has. Never raises for
    what the server or the network does.

    Args:
        endpoint: a server that is ready and idle.
        routes: in the order of preference.
        api_key: the key, if the server wants one.
        max_output_tok: length of each answer.
        network: the way to it.
    """
    options = client_options(endpoint.base_url, network)
    asked = Asked(routes[0], (), None, "nothing was asked")
    with httpx.Client(base_url=endpoint.base_url, timeout=TIMEOUT_S, **options) as client:
        for route in routes:
            asked = _ask(client, endpoint, route, api_key, max_output_tok)
            if asked.answers or asked.status not in _REFUSED:
                return asked
    return asked


def _ask(
    client: httpx.Client, endpoint: Endpoint, route: Route, api_key: str | None, max_output_tok: int
) -> Asked:
    answers: list[Answer] = []
    api = wire(route.api)
    headers = api.headers(api_key)
    logprobs = {"logprobs": api.logprobs} if route.logprobs else {}
    for text in TEXTS:
        request = api.plain_request(endpoint.model, text, max_output_tok, temperature=0)
        try:
            response = client.post(
                api.path, content=json.dumps(request | logprobs).encode(), headers=headers
            )
        except httpx.HTTPError as error:
            return Asked(route, tuple(answers), None, f"{type(error).__name__}: {error}")
        if response.status_code != 200:
            why = error_text(response.content) or "an empty body"
            return Asked(route, tuple(answers), response.status_code, why)
        try:
            answers.append(_answer(api, response))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            return Asked(
                route,
                tuple(answers),
                200,
                f"the answer has another form than the API's ({type(error).__name__}: {error})",
            )
    return Asked(route, tuple(answers))


def _answer(api: WireApi, response: httpx.Response) -> Answer:
    said = api.plain_answer(response.json())
    tokens, logprobs = tuple(said.tokens), tuple(said.logprobs)
    whole = bool(tokens) and len(tokens) == len(logprobs) and all(map(_finite, logprobs))
    reader = api.reader()
    reader.read_whole(response.content)
    usage = reader.tokens()
    return Answer(
        said.text,
        tokens if whole else None,
        logprobs if whole else None,
        usage.input_tok,
        usage.output_tok,
    )


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def routes_for(api: Api) -> tuple[Route, ...]:
    """Ways to ask, best first: completions take the text as it is and tell log-probabilities; else
    the API that the traffic speaks.
    """
    told = wire(api).logprobs is not None
    own = (Route(api, True), Route(api, False)) if told else (Route(api, False),)
    plain = (Route(Api.COMPLETIONS, True), Route(Api.COMPLETIONS, False))
    return (*plain, *(route for route in own if route not in plain))


class QualityCheck:
    """The check of one run; writes quality.json after each of its two parts.

    Args:
        profile: what is run.
        facts: of its model.

    Raises:
        PreflightError: the reference cannot be read, or is of another model, check or length.
    """

    def __init__(self, profile: Profile, facts: ModelFacts) -> None:
        self._profile = profile
        self._facts = facts
        self._settings = profile.quality
        self._path = None if self._settings.reference is None else Path(self._settings.reference)
        self._reference = None if self._path is None else read_reference(self._path)
        if self._reference is not None:
            _must_match(self._reference, facts, self._settings.max_output_tok, self._path)
        self._routes = routes_for(Api(profile.traffic.api))
        if self._reference is not None:  # the same way as then, or not at all
            self._routes = (
                tuple(route for route in self._routes if route.api == self._reference.route)
                or self._routes
            )
        self._found: dict[str, dict[str, Asked]] = {}
        self._recorded = False

    @property
    def reference(self) -> Reference | None:
        """What the answers are held against; None where they are only held against each other."""
        return self._reference

    def ask(
        self, when: str, run_dir: RunDir, endpoints: Sequence[Endpoint], api_key: str | None
    ) -> None:
        """Ask every replica, and write quality.json.

        Args:
            when: `before` or `after` the load.
            run_dir: of the run.
            endpoints: of the server, idle.
            api_key: the key, if the server wants one.

        Raises:
            ArtifactError: quality.json cannot be written.
        """
        self._found[when] = {}
        for endpoint in endpoints:
            network = DIRECT if endpoint.pid is not None else self._profile.traffic.network
            self._found[when][endpoint.name] = ask(
                endpoint, self._routes, api_key, self._settings.max_output_tok, network=network
            )
        self._write(run_dir)

    def failure(self, when: str) -> str | None:
        """Why an asking failed, in words; None where every text was answered, or nothing was
        asked.
        """
        return next(
            (
                f"{name}: {asked.error}"
                for name, asked in self._found.get(when, {}).items()
                if asked.error
            ),
            None,
        )

    def record_first(self, run_dir: RunDir, info: ServerInfo) -> Path | None:
        """Store the answers as the reference that the profile names, where there is none yet and
        the load did not change them.

        Returns:
            The file that was written, None where none was.

        Raises:
            ArtifactError: it cannot be written.
        """
        before, after = self._found.get("before", {}), self._found.get("after", {})
        if self._path is None or self._reference is not None or not before or not after:
            return None
        first, *_ = before.values()
        texts = [
            [answer.text for answer in asked.answers]
            for asked in (*before.values(), *after.values())
        ]
        if (
            self.failure("before")
            or self.failure("after")
            or any(text != texts[0] for text in texts)
        ):
            return None
        write_reference(self._path, make_reference(self._profile, self._facts, info, first))
        self._recorded = True
        self._write(run_dir)
        return self._path

    def _write(self, run_dir: RunDir) -> None:
        settings = self._settings
        write_json(
            run_dir.quality,
            {
                "check_version": CHECK_VERSION,
                "texts_sha256": texts_sha256(),
                "texts": len(TEXTS),
                "max_output_tok": settings.max_output_tok,
                "min_agreement": settings.min_agreement,
                "logprob_tolerance": settings.logprob_tolerance,
                "reference_path": None if self._path is None else str(self._path),
                "reference": None if self._reference is None else self._reference.to_dict(),
                "recorded": self._recorded,
                **{
                    when: {name: asked.to_dict() for name, asked in found.items()}
                    for when, found in self._found.items()
                },
            },
        )


def make_reference(
    profile: Profile, facts: ModelFacts, info: ServerInfo, asked: Asked
) -> Reference:
    """A reference from one replica's answers.

    Raises:
        ServerError: not every text was answered.
    """
    if asked.error is not None:
        raise ServerError(
            f"the answers could not be recorded: {asked.error}",
            next_step="see the server's log for its reason",
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
    next_step = "name the reference of this model, or record one: harness quality record PROFILE"
    if reference.texts_sha256 != texts_sha256():
        raise PreflightError(
            f"quality.reference {path} answers other texts than this harness asks",
            next_step=next_step,
        )
    if reference.max_output_tok != max_output_tok:
        raise PreflightError(
            f"quality.reference {path} has answers of {reference.max_output_tok} tokens;"
            f" quality.max_output_tok is {max_output_tok}",
            next_step=(
                f"set quality.max_output_tok to {reference.max_output_tok}, or record another"
                " reference"
            ),
        )
    if reference.fingerprint is not None and facts.fingerprint is not None:
        if reference.fingerprint != facts.fingerprint:
            raise PreflightError(
                f"quality.reference {path} is of another model: {reference.model_id} with"
                f" fingerprint {reference.fingerprint[:12]}, not {facts.fingerprint[:12]}",
                cause="the model's config or tokenizer differs",
                next_step=next_step,
            )
    elif reference.model_id != facts.model_id:
        raise PreflightError(
            f"quality.reference {path} is of {reference.model_id}, not of {facts.model_id}",
            next_step=next_step,
        )
