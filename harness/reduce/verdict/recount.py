"""The third account of tokens: the model's own tokenizer, run after the load on a sample of the
requests, against the server's usage.
"""

from collections.abc import Mapping
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.core.records import Api, Concern, Severity
from harness.reduce.read.run import Run, mapping, number, strict_json

EXACT: Final = 0.005
"""Expected deviation where the prompt can be rendered as the server renders it: one template, one
tokenizer.
"""
CONVERTED: Final = 0.03
"""Expected deviation on APIs whose messages every server turns into its template's form in a way of
its own (Messages, responses).
"""
TEMPLATE_TOK: Final = 16
"""Without a template at hand: most tokens that one is taken to add to a message (role, turn's begin
and end).
"""

NO_OUTPUT_TEXT: Final = "the text of answers is not kept, so their tokens cannot be counted again"


def recounted(run: Run) -> dict[str, dict[str, Any]]:
    """By `input_tokens` and `output_tokens`: what the tokenizer counted on its sample, and what was
    to be expected.

    Returns:
        Of each `requests` (counted), `of` (answered), `usage` (the server's count of these
        requests), `tokenizer` (its own count, with the chat template where there is one),
        `text_only` (without), `relative_difference` ((usage - tokenizer) / usage), `expected` (its
        largest expected size), `ok` and `note`; all but `note` are None where nothing was counted.
    """
    found = _read(run)
    return {"input_tokens": _input(found), "output_tokens": _absent(NO_OUTPUT_TEXT)}


def _read(run: Run) -> Mapping[str, Any]:
    try:
        return mapping(strict_json(RunDir(run.root).recount.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {"reason": "the prompts were not counted again after the run"}
    except (OSError, ValueError):
        return {"reason": "recount.json cannot be read"}


def _absent(note: str) -> dict[str, Any]:
    keys = (
        "requests",
        "of",
        "usage",
        "tokenizer",
        "text_only",
        "relative_difference",
        "expected",
        "ok",
    )
    return {**dict.fromkeys(keys), "note": note}


def _input(found: Mapping[str, Any]) -> dict[str, Any]:
    usage, text = number(found.get("usage_tok")), number(found.get("text_tok"))
    if not usage or text is None:
        return _absent(str(found.get("reason") or "nothing was counted"))
    template = number(found.get("template_tok"))
    api, messages = found.get("api"), number(found.get("messages")) or 0.0
    if template is not None:
        own, expected = template, EXACT if api == Api.CHAT else CONVERTED
        note = "rendered with the model's chat template"
        if api != Api.CHAT:
            note += (
                "; servers turn this API's messages into the template's form each in a way of"
                " their own"
            )
    elif api == Api.COMPLETIONS:
        own, expected, note = (
            text,
            EXACT + (number(found.get("requests")) or 0.0) / usage,
            "plain text; a tokenizer may add one token in front",
        )
    else:
        own, expected = text, EXACT + TEMPLATE_TOK * messages / usage
        note = (
            f"texts alone: the model has no chat template here, and up to {TEMPLATE_TOK} tokens a"
            " message are taken to be the server's"
        )
    relative = (usage - own) / usage
    return {
        "requests": found.get("requests"),
        "of": found.get("answered"),
        "usage": usage,
        "tokenizer": own,
        "text_only": text,
        "relative_difference": relative,
        "expected": expected,
        "ok": abs(relative) <= expected,
        "note": note,
    }


def recount_concerns(found: Mapping[str, Mapping[str, Any]], *, smoke: bool) -> list[Concern]:
    """A cross-check: it speaks against the counts, never for them."""
    mine = found["input_tokens"]
    if mine["ok"] is not False:
        return []
    text = (
        f"The server counted {mine['usage']:.0f} input tokens of {mine['requests']} requests, the"
        f" model's tokenizer {mine['tokenizer']:.0f}: {mine['relative_difference']:+.1%} apart"
        f" where up to {mine['expected']:.1%} is to be expected ({mine['note']})."
    )
    return [
        Concern(
            "tokenizer_disagrees",
            Severity.NOTE if smoke else Severity.DEGRADED,
            text,
            abs(mine["relative_difference"]),
            mine["expected"],
        )
    ]
