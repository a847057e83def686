"""Counts a finished run's prompts with the model's own tokenizer: `python -m harness.models.recount
RUN` writes recount.json.

It is the third count of input tokens, next to the server's usage and its counters. It runs after
the load, in its own process, if the tokenizer is on this machine. Request bodies are rebuilt from
the plan, a pure function of profile and seed. Response texts are not kept, so output tokens cannot
be recounted.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NoReturn

import pyarrow.parquet as pq
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from harness.api.table import wire
from harness.artifacts import tables
from harness.artifacts.atomic import write_json
from harness.artifacts.journal import read_table
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest, read_manifest_json
from harness.core.clock import wall_now
from harness.core.errors import HarnessError
from harness.core.records import CANARY, ModelFacts, Outcome
from harness.plan.bodies import Conversation
from harness.plan.build import RunPlan, make_plan
from harness.plan.prompt_text import Texts
from harness.plan.types import PRIME_SUFFIX
from harness.profile.schema import Profile

MOST_REQUESTS: Final = 200
"""Requests that are counted, spread evenly over the run."""
MOST_BYTES: Final = 16_000_000
"""Limit of body bytes that are counted: about 10 s of one core."""

_SESSION: Final = re.compile(r"^(\d+)-(\d+)$")


class NotCountedError(Exception):
    """Why nothing can be counted."""


def recount(root: Path) -> dict[str, Any]:
    """Count a sample of the run's successful prompts.

    Returns:
        `reason` (why nothing was counted, or None), `api`, `answered` (requests with usage),
            `requests` (counted ones), `usage_tok` (the server's count of these), `text_tok` (sum
            over their texts), `messages` and `template_tok` (with the model's chat template; None
            without one or for an API without roles).
    """
    try:
        return _recount(RunDir(root))
    except NotCountedError as error:
        return {"reason": str(error)}
    except HarnessError as error:
        return {"reason": error.what}


def _recount(run_dir: RunDir) -> dict[str, Any]:
    manifest = read_manifest(run_dir)
    facts = manifest.model
    if facts is None:
        raise NotCountedError("the manifest does not record which model was served")
    tokenizer = _tokenizer(facts)
    try:
        profile = Profile.model_validate(read_manifest_json(run_dir).get("profile"))
    except ValueError as error:
        why = "the manifest's profile does not match this harness version"
        raise NotCountedError(why) from error
    plan = make_plan(profile, facts)
    if plan.plan_sha256 != manifest.plan_sha256:
        raise NotCountedError(
            "this harness version derives a different plan from the profile, so request bodies"
            " cannot be rebuilt"
        )
    api = wire(profile.api)
    render = _renderer(Path(str(facts.path))) if api.has_roles else None
    rows = _answered(run_dir)
    if not rows:
        raise NotCountedError("no response reported its input tokens")
    named = (replica.model for replica in manifest.endpoints or () if replica.model)
    model = next(named, facts.model_id)
    counted = messages = usage_tok = text_tok = template_tok = spent = 0
    for body, input_tok in _bodies(plan, model, rows):
        document = json.loads(body)
        texts = list(_texts(document))
        text_tok += sum(_count(tokenizer, text) for text in texts)
        messages += len(document.get("messages") or document.get("input") or ()) + 1
        if render is not None:
            template_tok += _count(tokenizer, render(*api.chat(document)))
        counted, usage_tok, spent = counted + 1, usage_tok + input_tok, spent + len(body)
        if spent > MOST_BYTES:
            break
    return {
        "reason": None,
        "api": str(profile.api),
        "answered": len(rows),
        "requests": counted,
        "messages": messages,
        "usage_tok": usage_tok,
        "text_tok": text_tok,
        "template_tok": template_tok if render is not None else None,
    }


def _tokenizer(facts: ModelFacts) -> Any:  # noqa: ANN401 - tokenizers is optional
    path = None if facts.path is None else Path(facts.path) / "tokenizer.json"
    if path is None or not path.is_file():
        raise NotCountedError("the model's tokenizer (tokenizer.json) is not on this machine")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise NotCountedError("the package `tokenizers` is not installed (extra torch)") from None
    return Tokenizer.from_file(str(path))


def _answered(run_dir: RunDir) -> list[dict[str, Any]]:
    """The load's successful requests whose session is in the plan, by session and turn."""
    columns = ["session_id", "turn", "class", "outcome", "input_tok"]
    if run_dir.requests.exists():
        table = pq.ParquetFile(run_dir.requests).read(columns=columns)
    else:
        parts = sorted(run_dir.requests_dir.glob("*.arrows"))
        table = read_table(parts, tables.REQUESTS).select(columns)

    kept = [
        row
        for row in table.to_pylist()
        if row["outcome"] == Outcome.OK
        and row["input_tok"] is not None
        and row["class"] != CANARY
        and not row["class"].endswith(PRIME_SUFFIX)
        and _SESSION.match(row["session_id"])
    ]
    return sorted(kept, key=itemgetter("session_id", "turn"))


def _bodies(
    plan: RunPlan, model: str, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[bytes, int]]:
    """(body, the server's count) of requests spread evenly over the rows."""
    step = math.ceil(len(rows) / MOST_REQUESTS)
    texts = Texts(plan.seed, plan.tok_per_word)
    for name, turns in groupby(rows[::step], key=itemgetter("session_id")):
        stage, number = map(int, name.split("-"))
        try:
            talk = Conversation(plan.session(stage, number), plan.settings, model, texts)
        except LookupError as error:
            raise NotCountedError(f"the plan has no session {name}") from error
        for row in turns:
            yield talk.body(row["turn"]), row["input_tok"]


def _count(tokenizer: Any, text: str) -> int:  # noqa: ANN401 - tokenizers.Tokenizer
    return len(tokenizer.encode(text, add_special_tokens=False).ids)


def _texts(document: Mapping[str, Any]) -> Iterator[str]:
    """Every text in a body that a model reads, for any API."""
    for key in ("prompt", "instructions", "system", "messages", "input"):
        yield from _strings(document.get(key), _READ_KEYS)
    yield from _strings(document.get("tools"))


_READ_KEYS: Final = ("text", "content", "input", "output", "arguments", "tool_calls", "function")


def _strings(value: object, keys: Sequence[str] | None = None) -> Iterator[str]:
    """All strings in a JSON value; `keys` limits what is read of objects."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in value if keys is None else keys:
            if key in value:
                yield from _strings(value[key], keys)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, keys)


def _renderer(folder: Path) -> Callable[..., str] | None:
    """Renders messages and tools with a model's chat template as servers do: sandboxed Jinja with
    the usual helpers. None without a template.
    """
    config = _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    tokens = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(key)
        text = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(text, str):
            tokens[key] = text
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: wall_now().astimezone().strftime(form)
    try:
        template = environment.from_string(source)
    except TemplateError as error:
        raise NotCountedError(f"the chat template is invalid: {error}") from error

    def render(messages: Sequence[Any], tools: Sequence[Any]) -> str:
        try:
            return template.render(
                messages=messages, tools=tools or None, add_generation_prompt=True, **tokens
            )
        except TemplateError as error:
            raise NotCountedError(f"the chat template rejects the messages: {error}") from error

    return render


def _tojson(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def main(argv: Sequence[str]) -> int:
    """Count the run directory named by the only argument and write its recount.json."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m harness.models.recount RUN\n")
        return 2
    run_dir = RunDir(Path(argv[0]))
    try:
        write_json(run_dir.recount, recount(run_dir.root))
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
