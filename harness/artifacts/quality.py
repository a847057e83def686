"""quality.json of a run, and the reference file that answers are held against: greedy answers to
fixed texts.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.artifacts.atomic import write_json
from harness.core.errors import ArtifactError, PreflightError

CHECK_VERSION: Final = 1
"""Raised whenever the texts or the way they are asked changes: answers of different versions do not
compare.
"""

KIND: Final = "harness quality reference"


def _finite(value: object) -> float:
    number = (
        float(str(value))
        if isinstance(value, int | float) and not isinstance(value, bool)
        else math.nan
    )
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no log-probability")
    return number


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

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Answer":
        """As `dataclasses.asdict` wrote it.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        tokens, logprobs = raw.get("tokens"), raw.get("logprobs")
        if logprobs is not None and (tokens is None or len(tokens) != len(logprobs)):
            raise ValueError("each token has one log-probability")
        return cls(
            str(raw["text"]),
            tuple(str(token) for token in tokens) if tokens is not None else None,
            tuple(_finite(value) for value in logprobs) if logprobs is not None else None,
            raw.get("input_tok"),
            raw.get("output_tok"),
        )


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

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Reference":
        """As `to_dict` gave it.

        Raises:
            KeyError, TypeError, ValueError: it is no reference.
        """
        if raw.get("kind") != KIND:
            raise ValueError("it is no quality reference")
        return cls(
            int(raw["check_version"]),
            str(raw["texts_sha256"]),
            int(raw["max_output_tok"]),
            str(raw["route"]),
            str(raw["model_id"]),
            raw["fingerprint"],
            raw["dtype"],
            raw["quantization"],
            str(raw["engine"]),
            tuple(Answer.from_dict(answer) for answer in raw["answers"]),
        )


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
        reference = Reference.from_dict(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PreflightError(
            f"quality.reference {path} is no reference of answers ({error})",
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


def read_answers(raw: object) -> Sequence[Answer] | None:
    """The answers of one replica in quality.json; None where they are not whole."""
    if not isinstance(raw, list) or not raw:
        return None
    try:
        return tuple(Answer.from_dict(answer) for answer in raw)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
