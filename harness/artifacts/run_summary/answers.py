"""`quality` of a summary: the check of the answers before and after the load."""

from dataclasses import dataclass

from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Answers compared with expected ones.

    Attributes:
        agreement: of the worst replica, mean over the texts: share of an answer, from its
            beginning, that is the same.
        logprob_difference: of the worst replica, mean over the tokens that agree; None without
            log-probabilities.
        texts_equal: of the worst replica.
    """

    agreement: Number
    logprob_difference: Number | None = None
    texts_equal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the reference's answers were made with, and the path of its file."""

    model_id: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    engine: str | None = None
    route: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the check found.

    Attributes:
        label: `verified` or `quality unverified`.
        basis: `reference`, `self`, or None where nothing could be compared.
        passed: None where nothing was compared.
        reason: in words.
        min_agreement: that was asked for.
        logprob_tolerance: likewise.
        recorded: this run recorded the reference.
        logprobs: whether the API reports them.
        input_tok: of the part before the load.
        before: against the reference; None where it could not be made, as `after` and `change`.
        after: against the reference.
        change: after against before.
    """

    label: str
    basis: str | None = None
    passed: bool | None = None
    reason: str = ""
    min_agreement: Number | None = None
    logprob_tolerance: Number | None = None
    reference: Reference | None = None
    recorded: bool = False
    texts: int | None = None
    max_output_tok: int | None = None
    logprobs: bool = False
    input_tok: int | None = None
    before: Likeness | None = None
    after: Likeness | None = None
    change: Likeness | None = None
