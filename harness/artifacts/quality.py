"""quality.json of a run, and the reference file that answers are held against: greedy answers to
fixed texts.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.artifacts.atomic import write_json
from harness.artifacts.typed_json import from_json
from harness.core.errors import ArtifactError, PreflightError

CHECK_VERSION: Final = 1
"""Raised whenever the texts or the way they are asked changes: answers of different versions do not
compare.
"""

KIND: Final = "harness quality reference"


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer.

    Attributes:
        text: what was answered.
        tokens: its tokens as text, None where the API does not tell.
        logprobs: natural logarithm of the probability of each of these tokens, None where the API
            does not tell.
        input_tok: the server's count of the prompt; None is unknown.
        output_tok: the server's count of the answer; None is unknown.
    """

    text: str
    tokens: tuple[str, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    input_tok: int | None = None
    output_tok: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where the log-probabilities are not those of the tokens."""
        if self.logprobs is not None and len(self.tokens or ()) != len(self.logprobs):
            raise ValueError("each token has one log-probability")


@dataclass(frozen=True, slots=True)
class Reference:
    """Answers of a model that is taken to be right.

    Attributes:
        check_version: of the check that asked.
        texts_sha256: of the texts that were asked.
        max_output_tok: longest answer that was asked for.
        route: API that they were asked over: the prompt's form, and so the answer, depends on it.
        model_id: as the profile names it.
        fingerprint: of the model's config and tokenizer; None where there was no local copy.
        dtype: precision that the server computed in, as far as it is known.
        quantization: method, None for none.
        engine: kind and version of the server.
        answers: one a text.
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
        """As in the file."""
        return {"kind": KIND, **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAnswers:
    """What one replica answered.

    Attributes:
        answers: one a text; fewer where it failed.
        status: HTTP status of the failure; None where there was no response, or no failure.
        error: the failure; None where every text was answered.
    """

    answers: tuple[Answer, ...] = ()
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedReference:
    """The reference that a run compared its answers with, as far as it was recorded."""

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
        min_agreement: that was asked for.
        logprob_tolerance: likewise.
        reference: None where there was none.
        recorded: the run recorded the reference.
        before: by replica; empty where nothing was asked.
        after: likewise.
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
    """A reference file; None where there is none yet.

    Raises:
        PreflightError: it cannot be read, or is no reference of this version of the check.
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
            raise ArtifactError("it is no quality reference")
        reference = from_json(Reference, raw, "reference")
    except ArtifactError as error:
        raise PreflightError(
            f"quality.reference {path} is no reference of answers ({error.what})",
            next_step="harness quality record PROFILE writes one",
        ) from error
    if reference.check_version != CHECK_VERSION:
        raise PreflightError(
            f"quality.reference {path} is of version {reference.check_version} of the check; this"
            f" harness makes version {CHECK_VERSION}",
            cause="the check's texts have changed since it was recorded",
            next_step="harness quality record PROFILE writes a new one",
        )
    return reference


def write_reference(path: Path, reference: Reference) -> None:
    """Write a reference file whole.

    Raises:
        ArtifactError: no space, no permission.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot make {path.parent}: {error.strerror or error}") from error
    write_json(path, reference.to_dict())
