"""`quality` of a summary: the check of responses before and after the load."""

from dataclasses import dataclass

from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Responses compared with expected ones, of the worst replica.

    Attributes:
        agreement: common prefix as a share of the response, mean over the texts.
        logprob_difference: mean over equal tokens; None without log-probabilities.
    """

    agreement: Number
    logprob_difference: Number | None = None
    texts_equal: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """How the reference was made, and the path of its file."""

    model_id: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    engine: str | None = None
    route: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Result of the check.

    Attributes:
        label: `verified` or `quality unverified`.
        basis: `reference`, `self`, or None if nothing could be compared.
        passed: None if nothing was compared.
        min_agreement: required, as `logprob_tolerance`.
        recorded: this run recorded the reference.
        logprobs: whether the API reports them.
        input_tok: of the part before the load.
        before: against the reference, as `after`; None if not possible.
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
