"""Third token count: the model's own tokenizer, run after the load on a sample of the requests,
compared with the server's usage.
"""

from dataclasses import dataclass
from typing import Final

from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Recount
from harness.artifacts.typed_json import loads, read_leniently
from harness.core.records import Api, Concern, Severity
from harness.reduce.read.run import Run

EXACT: Final = 0.005
"""Expected deviation if the prompt is rendered as by the server: same template and tokenizer."""
CONVERTED: Final = 0.03
"""Expected deviation for APIs whose conversion to the chat template is up to the server (Messages,
responses).
"""
TEMPLATE_TOK: Final = 16
"""Maximum tokens that a template is assumed to add per message (role, start and end of turn)."""

NO_OUTPUT_TEXT: Final = "response text is not kept, so its tokens cannot be recounted"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """recount.json, written by `harness.models.recount`."""

    reason: str | None = None
    api: str | None = None
    answered: int | None = None
    requests: int | None = None
    messages: int | None = None
    usage_tok: float | None = None
    text_tok: float | None = None
    template_tok: float | None = None


def recounted(run: Run) -> dict[str, Recount]:
    """Recounts by `input_tokens` and `output_tokens`."""
    return {"input_tokens": _input(_read(run)), "output_tokens": Recount(note=NO_OUTPUT_TEXT)}


def _read(run: Run) -> _Counted:
    try:
        raw = loads(RunDir(run.root).recount.read_text(encoding="utf-8"))
        if isinstance(raw, dict):
            return read_leniently(_Counted, raw)
    except FileNotFoundError:
        return _Counted(reason="prompts were not recounted after the run")
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
            note += "; conversion of this API's messages to the template differs between servers"
    elif found.api == Api.COMPLETIONS:
        own, expected = text, EXACT + (found.requests or 0) / usage
        note = "plain text; a tokenizer may add one leading token"
    else:
        own, expected = text, EXACT + TEMPLATE_TOK * (found.messages or 0) / usage
        note = (
            "text only: the model has no local chat template; the server may add up to"
            f" {TEMPLATE_TOK} tokens per message"
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
    """Concern if tokenizer and usage disagree."""
    if found.ok is not False or found.relative_difference is None or found.expected is None:
        return []
    apart, expected = found.relative_difference, found.expected
    text = (
        f"The server counted {found.usage:.0f} input tokens in {found.requests} requests, the"
        f" model's tokenizer {found.tokenizer:.0f}: difference {apart:+.1%}, expected up to"
        f" {expected:.1%} ({found.note})."
    )
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    return [Concern("tokenizer_disagrees", severity, text, abs(apart), expected)]
