"""Quality of responses: before and after the load against a reference, after against before.

Other arithmetic can flip a near tie, after which greedy responses differ for good. So the check
compares the length of the common prefix and the log-probabilities of its tokens.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Final

import numpy as np

from harness.artifacts.layout import RunDir
from harness.artifacts.quality import Answer, AnswersCheck, ReplicaAnswers, UsedReference
from harness.artifacts.run_summary import Likeness, Quality, Reference
from harness.artifacts.typed_json import loads, read_leniently
from harness.core.records import Concern, Purpose, RunState, Severity
from harness.reduce.read.run import Run

VERIFIED: Final = "verified"
UNVERIFIED: Final = "quality unverified"
"""Label of the headline unless the responses match a reference."""

_ASKED: Final = frozenset({408, 429})


def quality(run: Run) -> Quality | None:
    """Result of the check; None without one."""
    check = _read(RunDir(run.root))
    if check is None:
        return None
    reference = check.reference
    answers = {"before": _answered(check.before), "after": _answered(check.after)}
    before, after = answers["before"], answers["after"]

    def against_reference(found: Mapping[str, Sequence[Answer]]) -> Likeness | None:
        if reference is None or not reference.answers:
            return None
        return _worst([(reference.answers, one) for one in found.values()])

    like_before, like_after = against_reference(before), against_reference(after)
    change = _worst([(before[name], after[name]) for name in before if name in after])
    failures = [*_failures(check.before, "before"), *_failures(check.after, "after")]
    least, most = check.min_agreement, check.logprob_tolerance
    compared = [found for found in (like_before, like_after, change) if found is not None]
    empty = bool(before) and not any(answer.text for found in before.values() for answer in found)
    broken = any(failure[1] for failure in failures)
    answered = set(before) == set(check.before) == set(check.after) == set(after)
    fits = all(len(before[name]) == len(after[name]) for name in before if name in after)
    whole = change is not None and answered and fits and not failures and not empty
    passed = True if whole else None
    if broken or not all(_within(found, least, most) for found in compared):
        passed = False  # evidence against the server counts, whatever else is missing
    by_reference = like_before is not None and like_after is not None
    dummy = _is_dummy(run)
    return Quality(
        label=VERIFIED if passed and by_reference and not dummy else UNVERIFIED,
        basis="reference" if by_reference else "self" if change is not None else None,
        passed=passed,
        reason=_reason(
            check, failures, empty=empty, dummy=dummy, by_reference=by_reference, whole=whole
        ),
        min_agreement=least,
        logprob_tolerance=most,
        reference=None if reference is None else _summarized(reference, check.reference_path),
        recorded=check.recorded,
        texts=check.texts,
        max_output_tok=check.max_output_tok,
        logprobs=any(answer.logprobs is not None for found in before.values() for answer in found),
        input_tok=_sum([answer.input_tok for found in before.values() for answer in found]),
        before=like_before,
        after=like_after,
        change=change,
    )


_UNREADABLE: Final = AnswersCheck()


def _read(run_dir: RunDir) -> AnswersCheck | None:
    try:
        raw = loads(run_dir.quality.read_text("utf-8"))
        return read_leniently(AnswersCheck, raw) if isinstance(raw, dict) else _UNREADABLE
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return _UNREADABLE


def _is_dummy(run: Run) -> bool:
    return run.profile.model.load_format == "dummy"


def _summarized(reference: UsedReference, path: str | None) -> Reference:
    return Reference(
        model_id=reference.model_id,
        fingerprint=reference.fingerprint,
        dtype=reference.dtype,
        quantization=reference.quantization,
        engine=reference.engine,
        route=reference.route,
        path=path,
    )


def _answered(part: Mapping[str, ReplicaAnswers]) -> dict[str, Sequence[Answer]]:
    """Answers by replica, for replicas that answered every text."""
    return {name: one.answers for name, one in part.items() if one.answers and one.error is None}


def _failures(part: Mapping[str, ReplicaAnswers], when: str) -> list[tuple[str, bool]]:
    """(failure, whether it is the server's fault) of each replica that did not respond. After a
    refusal (HTTP 4xx) the check is impossible, not failed.
    """
    out = []
    for name, one in part.items():
        if one.error is None:
            continue
        status = one.status
        refused = status is not None and 400 <= status < 500 and status not in _ASKED
        shown = f" (HTTP {status})" if status is not None else ""
        out.append((f"{name} did not respond {when} the load{shown}: {one.error}", not refused))
    return out


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if known and len(known) == len(values) else None


def agreement(expected: Answer, found: Answer) -> float:
    """Length of the common prefix / length of the longer answer; in tokens if both have them, else
    in characters.
    """
    a: Sequence[str] = expected.text
    b: Sequence[str] = found.text
    if expected.tokens is not None and found.tokens is not None:
        a, b = expected.tokens, found.tokens
    longest = max(len(a), len(b))
    return _common(a, b) / longest if longest else 1.0


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def logprob_differences(expected: Answer, found: Answer) -> list[float]:
    """Absolute differences of log-probabilities in the common prefix, in nats; empty if one answer
    has none.
    """
    if (
        expected.logprobs is None
        or found.logprobs is None
        or expected.tokens is None
        or found.tokens is None
    ):
        return []
    same = _common(expected.tokens, found.tokens)
    return [
        abs(x - y) for x, y in zip(expected.logprobs[:same], found.logprobs[:same], strict=True)
    ]


def _worst(pairs: Sequence[tuple[Sequence[Answer], Sequence[Answer]]]) -> Likeness | None:
    rows = [(expected, found) for expected, found in pairs if len(expected) == len(found)]
    if not rows:
        return None
    shares = [float(np.mean([agreement(e, f) for e, f in zip(*row, strict=True)])) for row in rows]
    steps = [
        [value for e, f in zip(*row, strict=True) for value in logprob_differences(e, f)]
        for row in rows
    ]
    equal = [sum(e.text == f.text for e, f in zip(*row, strict=True)) for row in rows]
    return Likeness(
        agreement=min(shares),
        logprob_difference=max((float(np.mean(one)) for one in steps if one), default=None),
        texts_equal=min(equal),
    )


def _within(found: Likeness, least: float | None, most: float | None) -> bool:
    difference = found.logprob_difference
    return (least is None or found.agreement >= least) and (
        most is None or difference is None or difference <= most
    )


def _reason(
    check: AnswersCheck,
    failures: Sequence[tuple[str, bool]],
    *,
    empty: bool,
    dummy: bool,
    by_reference: bool,
    whole: bool,
) -> str:
    if failures:
        return failures[0][0]
    if check is _UNREADABLE:
        return "quality.json cannot be read"
    if empty:
        return "every response was empty"
    if not check.after:
        return "there are no responses from after the load"
    if not whole:
        return "some replicas' responses are incomplete"
    if dummy:
        return "the weights are dummies, so the responses are meaningless"
    if by_reference:
        return "compared with the reference before and after the load"
    if check.reference is not None:
        return "the reference was recorded with a different prompt set"
    if check.recorded:
        return (
            "this run recorded the reference, so its responses were only compared with each other"
        )
    return "there is no reference: responses after the load were compared with those before it"


def quality_concerns(run: Run, found: Quality | None, *, smoke: bool) -> list[Concern]:
    """Concerns about response quality. A smoke run claims none, but fails if a check found wrong
    responses.
    """
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    if found is None:
        if smoke or run.profile.purpose not in (Purpose.SMOKE, Purpose.MEASURE):
            return []
        if _is_dummy(run):
            text = "Dummy weights: speed only, quality unverified."
            return [Concern("quality_unverified", Severity.NOTE, text)]
        text = "Responses were not checked: quality unverified."
        return [Concern("quality_missing", severity, text)]
    if found.passed is False:
        return _failed(found, found.min_agreement, found.logprob_tolerance)
    if found.passed is None:
        cut = run.state is not RunState.COMPLETE
        text = f"The quality check is incomplete ({found.reason}): quality unverified."
        return [Concern("quality_missing", Severity.NOTE if cut else severity, text)]
    if found.label != VERIFIED and not smoke:
        text = f"Quality unverified: {found.reason}."
        agreed = None if found.change is None else found.change.agreement
        return [Concern("quality_unverified", Severity.NOTE, text, agreed, found.min_agreement)]
    return []


def _failed(found: Quality, least: float | None, most: float | None) -> list[Concern]:
    out = []
    for compared, words in (
        (found.before, "Responses before the load differ from the reference"),
        (found.after, "Responses after the load differ from the reference"),
        (found.change, "Responses changed during the load"),
    ):
        if compared is None or _within(compared, least, most):
            continue
        if least is not None and compared.agreement < least:
            text = (
                f"{words}: the common prefix is {compared.agreement:.0%} of them; at least"
                f" {least:.0%} is required."
            )
            out.append(Concern("quality_failed", Severity.INVALID, text, compared.agreement, least))
        else:
            difference = compared.logprob_difference
            text = (
                f"{words}: log-probabilities of equal tokens differ by {difference:.3g} nats on"
                f" average; limit {most:g}."
            )
            out.append(Concern("quality_failed", Severity.INVALID, text, difference, most))
    if not out:
        text = f"The quality check failed: {found.reason}."
        out.append(Concern("quality_failed", Severity.INVALID, text))
    return out
