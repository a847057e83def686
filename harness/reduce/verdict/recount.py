"""The third account of tokens: the model's own tokenizer, run after the load on a sample of the
requests, against the server's usage.
"""

from dataclasses import dataclass
from typing import Final

from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Recount
from harness.artifacts.typed_json import loads, read_leniently
from harness.core.records import Api, Concern, Severity
from harness.reduce.read.run import Run

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """recount.json, as `harness.models.recount` writes it; all but `reason` are None where nothing
    was counted.
    """

    reason: str | None = None
    api: str | None = None
    answered: int | None = None
    requests: int | None = None
    messages: int | None = None
    usage_tok: float | None = None
    text_tok: float | None = None
    template_tok: float | None = None


def recounted(run: Run) -> dict[str, Recount]:
    """By `input_tokens` and `output_tokens`: what the tokenizer counted on its sample, and what was
    to be expected.
    """
    return {"input_tokens": _input(_read(run)), "output_tokens": Recount(note=NO_OUTPUT_TEXT)}


def _read(run: Run) -> _Counted:
    try:
        raw = loads(RunDir(run.root).recount.read_text(encoding="utf-8"))
        if isinstance(raw, dict):
            return read_leniently(_Counted, raw)
    except FileNotFoundError:
        return _Counted(reason="the prompts were not counted again after the run")
    except (OSError, ValueError):
        pass
    return _Counted(reason="recount.json cannot be read")


def _input(found: _Counted) -> Recount:
    usage, text, template = found.usage_tok, found.text_tok, found.template_tok
    if not usage or text is None:
        return Recount(note=found.reason or "nothing was counted")
    if template is not None:
        own, expected = template, EXACT if found.api == Api.CHAT else CONVERTED
        note = "rendered with the model's chat template"
        if found.api != Api.CHAT:
            note += (
                "; servers turn this API's messages into the template's form each in a way of"
                " their own"
            )
    elif found.api == Api.COMPLETIONS:
        own, expected = text, EXACT + (found.requests or 0) / usage
        note = "plain text; a tokenizer may add one token in front"
    else:
        own, expected = text, EXACT + TEMPLATE_TOK * (found.messages or 0) / usage
        note = (
            f"texts alone: the model has no chat template here, and up to {TEMPLATE_TOK} tokens a"
            " message are taken to be the server's"
        )
    relative = (usage - own) / usage
    return Recount(
        requests=found.requests,
        of=found.answered,
        usage=usage,
        tokenizer=own,
        text_only=text,
        relative_difference=relative,
        expected=expected,
        ok=abs(relative) <= expected,
        note=note,
    )


def recount_concerns(found: Recount, *, smoke: bool) -> list[Concern]:
    """A cross-check: it speaks against the counts, never for them."""
    if found.ok is not False or found.relative_difference is None or found.expected is None:
        return []
    text = (
        f"The server counted {found.usage:.0f} input tokens of {found.requests} requests, the"
        f" model's tokenizer {found.tokenizer:.0f}: {found.relative_difference:+.1%} apart"
        f" where up to {found.expected:.1%} is to be expected ({found.note})."
    )
    return [
        Concern(
            "tokenizer_disagrees",
            Severity.NOTE if smoke else Severity.DEGRADED,
            text,
            abs(found.relative_difference),
            found.expected,
        )
    ]
