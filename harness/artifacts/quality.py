"""quality.json of a run, and the reference file for it: greedy responses to fixed texts."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.artifacts.atomic import write_json
from harness.artifacts.typed_json import from_json
from harness.core.errors import ArtifactError, PreflightError

CHECK_VERSION: Final = 1
"""Raised when the texts or the requests change: answers of different versions do not compare."""

KIND: Final = "harness quality reference"


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy response. None is what the API does not report.

    Attributes:
        tokens: as text.
        logprobs: natural logarithm of the probability of each of these tokens.
        input_tok: the server's count of the prompt; `output_tok`: of the response.
    """

    text: str
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    input_tok: int | None = None
    output_tok: int | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.tokens or ()) != len(self.logprobs):
            raise ValueError("each token must have one log-probability")


@dataclass(frozen=True, slots=True)
class Reference:
    """Responses of a model that is taken as correct.

    Attributes:
        texts_sha256: of the texts sent.
        max_output_tok: of each request.
        route: API used: the prompt's form, and so the response, depends on it.
        model_id: as in the profile.
        fingerprint: of the model's config and tokenizer; None without a local copy.
        dtype: precision of the server's computation, if known.
        quantization: method, None for none.
        engine: kind and version of the server.
        answers: one per text.
    """

    check_version: int
    texts_sha256: str
    max_output_tok: int
    route: str
    model_id: str
    fingerprint: str | None
    dtype: str | None
    quantization: str | None
    engine: str
    answers: tuple[Answer, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": KIND, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAnswers:
    """Responses of one replica.

    Attributes:
        answers: one per text; fewer after a failure.
        status: HTTP status of the failure, if there was a response.
        error: the failure, if any.
    """

    answers: tuple[Answer, ...] = ()
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedReference:
    """The reference of a run, as far as it was recorded."""

    model_id: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    engine: str | None = None
    route: str | None = None
    answers: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersCheck:
    """quality.json, as far as its readers need it.

    Attributes:
        min_agreement: of the profile, as `logprob_tolerance`.
        recorded: the run recorded the reference.
        before: by replica, as `after`; empty if nothing was sent.
    """

    texts: int | None = None
    max_output_tok: int | None = None
    min_agreement: float | None = None
    logprob_tolerance: float | None = None
    reference_path: str | None = None
    reference: UsedReference | None = None
    recorded: bool = False
    before: Mapping[str, ReplicaAnswers] = field(default_factory=dict)
    after: Mapping[str, ReplicaAnswers] = field(default_factory=dict)


def read_reference(path: Path) -> Reference | None:
    """A reference file; None if it does not exist.

    Raises:
        PreflightError: it cannot be read, or is not a reference of this version of the check.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"quality.reference {path} cannot be read: {error}",
            next_step="name a file that a run may write",
        ) from error
    try:
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise ArtifactError(f"its kind is not {KIND!r}")
        reference = from_json(Reference, raw, "reference")
    except ArtifactError as error:
        raise PreflightError(
            f"quality.reference {path} is not a quality reference ({error.what})",
            next_step="record one with `harness quality record PROFILE`",
        ) from error
    if reference.check_version != CHECK_VERSION:
        raise PreflightError(
            f"quality.reference {path} has check version {reference.check_version}; this harness"
            f" requires {CHECK_VERSION}",
            cause="the check's texts have changed since it was recorded",
            next_step="record a new one with `harness quality record PROFILE`",
        )
    return reference


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference file.

    Raises:
        ArtifactError: no space, no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot create {path.parent}: {error.strerror or error}") from error
    write_json(path, reference.to_dict())
