"""Whether the answers were right: those before the load against a reference, those after it against
those before.

Greedy answers part for good at the first near tie that other arithmetic turns around, so what
counts is how much of an answer, from its beginning, is the same, and how far the log-probabilities
of that part are apart.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Final

import numpy as np

from harness.artifacts.layout import RunDir
from harness.artifacts.quality import Answer, read_answers
from harness.core.records import Concern, Purpose, RunState, Severity
from harness.reduce.read.run import Run, mapping, number, strict_json

VERIFIED: Final = "verified"
UNVERIFIED: Final = "quality unverified"
"""What the headline says unless the answers were those of a reference."""

_ASKED: Final = frozenset({408, 429})
_PARTS: Final = ("before", "after")


def quality(run: Run) -> dict[str, Any]:
    """What the check found; {} where none was made.

    Returns:
        `label` (`verified` or `quality unverified`), `basis` (`reference`, `self` or None where
        nothing could be compared), `passed` (None where nothing was compared), `reason` in words,
        `min_agreement` and `logprob_tolerance` (what was asked for), `reference` (what it is),
        `texts`, `max_output_tok`, `logprobs` (whether the API told them), `input_tok` (of the part
        before the load), and the comparisons `before` and `after` (against the reference) and
        `change` (after against before), each with `agreement` (worst replica, mean over the texts),
        `logprob_difference` (worst replica, mean over the tokens that agree; None without) and
        `texts_equal`; each None where it could not be made.
    """
    raw = _read(RunDir(run.root))
    if raw is None:
        return {}
    reference = mapping(raw.get("reference"))
    expected = read_answers(reference.get("answers")) if reference else None
    answers = {part: _answers(raw.get(part)) for part in _PARTS}
    before, after = (answers[part] for part in _PARTS)
    against = {
        part: _worst([(expected, found) for found in answers[part].values()]) if expected else None
        for part in _PARTS
    }
    change = _worst([(before[name], after[name]) for name in before if name in after])
    failures = [text for part in _PARTS for text in _failures(raw.get(part), part)]
    least, most = number(raw.get("min_agreement")), number(raw.get("logprob_tolerance"))
    compared = [
        found for found in (against["before"], against["after"], change) if found is not None
    ]
    empty = bool(before) and not any(answer.text for found in before.values() for answer in found)
    broken = any(failure[1] for failure in failures)
    named = {part: set(mapping(raw.get(part))) for part in _PARTS}
    answered = all(set(answers[part]) == named[part] == named["before"] for part in _PARTS)
    fits = all(len(before[name]) == len(after[name]) for name in before if name in after)
    whole = change is not None and answered and fits and not failures and not empty
    passed = True if whole else None
    if broken or not all(_within(found, least, most) for found in compared):
        passed = False  # what there is speaks against the server, whatever else is missing
    by_reference = (
        expected is not None and against["before"] is not None and against["after"] is not None
    )
    dummy = run.profile.model.load_format == "dummy"
    return {
        "label": VERIFIED if passed and by_reference and not dummy else UNVERIFIED,
        "basis": "reference" if by_reference else "self" if change is not None else None,
        "passed": passed,
        "reason": _reason(
            raw, failures, empty=empty, dummy=dummy, by_reference=by_reference, whole=whole
        ),
        "min_agreement": least,
        "logprob_tolerance": most,
        "reference": (
            {
                key: reference.get(key)
                for key in ("model_id", "fingerprint", "dtype", "quantization", "engine", "route")
            }
            | {"path": raw.get("reference_path")}
            if reference
            else None
        ),
        "recorded": raw.get("recorded") is True,
        "texts": raw.get("texts"),
        "max_output_tok": raw.get("max_output_tok"),
        "logprobs": any(
            answer.logprobs is not None for found in before.values() for answer in found
        ),
        "input_tok": _sum([answer.input_tok for found in before.values() for answer in found]),
        "before": against["before"],
        "after": against["after"],
        "change": change,
    }


def _read(run_dir: RunDir) -> Mapping[str, Any] | None:
    try:
        raw = strict_json(run_dir.quality.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return mapping(raw)


def _answers(part: object) -> dict[str, Sequence[Answer]]:
    """By replica, those that answered every text."""
    found = {
        str(name): (read_answers(mapping(asked).get("answers")), mapping(asked).get("error"))
        for name, asked in mapping(part).items()
    }
    return {
        name: answers
        for name, (answers, error) in found.items()
        if answers is not None and error is None
    }


def _failures(part: object, when: str) -> list[tuple[str, bool]]:
    """(what failed, whether that speaks against the server) of each replica that did not answer: a
    refusal says that the check cannot be made.
    """
    out = []
    for name, asked in mapping(part).items():
        error, status = mapping(asked).get("error"), mapping(asked).get("status")
        if error is None:
            continue
        refused = isinstance(status, int) and 400 <= status < 500 and status not in _ASKED
        answered = f" (HTTP {status})" if status is not None else ""
        out.append((f"{name} did not answer {when} the load{answered}: {error}", not refused))
    return out


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if known and len(known) == len(values) else None


def agreement(expected: Answer, found: Answer) -> float:
    """Share of an answer, from its beginning, that is the same in both, of the longer one; by
    tokens where both tell them, else by characters.
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
    """Absolute differences of the log-probabilities of the tokens that agree, in nats; empty where
    either does not tell.
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


def _worst(pairs: Sequence[tuple[Sequence[Answer], Sequence[Answer]]]) -> dict[str, Any] | None:
    rows = [(expected, found) for expected, found in pairs if len(expected) == len(found)]
    if not rows:
        return None
    shares = [float(np.mean([agreement(e, f) for e, f in zip(*row, strict=True)])) for row in rows]
    steps = [
        [value for e, f in zip(*row, strict=True) for value in logprob_differences(e, f)]
        for row in rows
    ]
    equal = [sum(e.text == f.text for e, f in zip(*row, strict=True)) for row in rows]
    return {
        "agreement": min(shares),
        "logprob_difference": max((float(np.mean(one)) for one in steps if one), default=None),
        "texts_equal": min(equal),
    }


def _within(found: Mapping[str, Any], least: float | None, most: float | None) -> bool:
    difference = found["logprob_difference"]
    return (least is None or found["agreement"] >= least) and (
        most is None or difference is None or difference <= most
    )


def _reason(
    raw: Mapping[str, Any],
    failures: Sequence[tuple[str, bool]],
    *,
    empty: bool,
    dummy: bool,
    by_reference: bool,
    whole: bool,
) -> str:
    if failures:
        return failures[0][0]
    if not raw:
        return "quality.json cannot be read"
    if empty:
        return "every answer was empty"
    if not mapping(raw.get("after")):
        return "there are no answers from after the load"
    if not whole:
        return "not every replica's answers are whole"
    if dummy:
        return "the weights are dummies, so the answers mean nothing"
    if by_reference:
        return "held against the reference before and after the load"
    if raw.get("reference"):
        return "the reference's answers are not those to this check's texts"
    if raw.get("recorded"):
        return "this run recorded the reference, so its answers were held against each other only"
    return "there is no reference: the answers after the load were held against those before it"


def quality_concerns(run: Run, found: Mapping[str, Any], *, smoke: bool) -> list[Concern]:
    """Concerns about the answers. A smoke run claims nothing about them, but fails where they were
    checked and wrong.
    """
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    dummy = run.profile.model.load_format == "dummy"
    unread = run.profile.purpose not in (Purpose.SMOKE, Purpose.MEASURE)
    if not found:
        if smoke or unread:
            return []
        if dummy:
            return [
                Concern(
                    "quality_unverified",
                    Severity.NOTE,
                    "Dummy weights: speed only, quality unverified.",
                )
            ]
        return [
            Concern(
                "quality_missing", severity, "The answers were not checked: quality unverified."
            )
        ]
    least, most = found["min_agreement"], found["logprob_tolerance"]
    if found["passed"] is False:
        return _failed(found, least, most)
    if found["passed"] is None:
        cut = run.state is not RunState.COMPLETE
        text = f"The check of the answers is not whole ({found['reason']}): quality unverified."
        return [Concern("quality_missing", Severity.NOTE if cut else severity, text)]
    if found["label"] != VERIFIED and not smoke:
        return [
            Concern(
                "quality_unverified",
                Severity.NOTE,
                f"Quality unverified: {found['reason']}.",
                found["change"]["agreement"],
                least,
            )
        ]
    return []


_WORDS: Final = (
    ("before", "Before the load the answers were not the reference's"),
    ("after", "After the load the answers were not the reference's"),
    ("change", "The load changed the answers"),
)


def _failed(found: Mapping[str, Any], least: float | None, most: float | None) -> list[Concern]:
    out = []
    for part, words in _WORDS:
        compared = found[part]
        if compared is None or _within(compared, least, most):
            continue
        if least is not None and compared["agreement"] < least:
            text = (
                f"{words}: {compared['agreement']:.0%} of them agree from the beginning; at least"
                f" {least:.0%} must."
            )
            out.append(
                Concern("quality_failed", Severity.INVALID, text, compared["agreement"], least)
            )
        else:
            difference = compared["logprob_difference"]
            text = (
                f"{words}: log-probabilities of the tokens that agree are {difference:.3g} nats"
                f" apart in the mean; {most:g} are allowed."
            )
            out.append(Concern("quality_failed", Severity.INVALID, text, difference, most))
    if not out:
        out.append(
            Concern(
                "quality_failed",
                Severity.INVALID,
                f"The check of the answers failed: {found['reason']}.",
            )
        )
    return out
