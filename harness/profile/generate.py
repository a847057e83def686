"""Generate the JSON Schema (for editors) and the reference page from the profile's types.

`python -m harness.profile.generate` writes both; `--check` fails if either is stale.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from harness.checked_yaml import shape
from harness.checked_yaml.fields import Strict
from harness.core.metrics import METRICS
from harness.profile.distributions import Constant
from harness.profile.rules import RULES
from harness.profile.schema import Profile
from harness.profile.thresholds import STATISTICS

_KINDS = re.compile(r"(?<=`kind`: )[\w, -]+")
_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n)")

ROOT: Final = Path(__file__).resolve().parents[2]
SCHEMA_PATH: Final = Path(__file__).with_name("profile.schema.json")
REFERENCE_PATH: Final = ROOT / "docs" / "reference" / "profile.md"


class _Section(NamedTuple):
    title: str
    paths: tuple[str, ...]
    model: type[Strict]


def _sections() -> Iterator[_Section]:
    """All sections of a profile, in the order of its keys."""
    places: dict[type[Strict], list[tuple[tuple[str, ...], str | None]]] = {}
    for path, kind, model in shape.sections(Profile):
        places.setdefault(model, []).append((path, kind))
    for model, found in places.items():
        (path, kind), paths = found[0], tuple(".".join(path) for path, _ in found)
        of_kind = f", kind `{kind}`" if kind is not None else ""
        if model is Profile:
            yield _Section("The profile", (), model)
        elif len({path[-1] for path, _ in found}) == 1:  # one key, maybe of several sections
            title = ".".join(part for part in path if part != shape.ITEM)
            yield _Section(f"`{title}`{of_kind}", paths[:1], model)
        elif kind is not None:
            yield _Section(f"Distribution{of_kind}", (), model)
        else:
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__).capitalize()
            yield _Section(words, paths, model)


_SECTIONS: Final = tuple(_sections())


_TOP: Final = """\
<!-- Generated from harness/profile/schema.py by `python -m harness.profile.generate`. Change the types, not this page. -->
# Profile reference

One YAML file defines a run. This one is complete:

```yaml
# yaml-language-server: $schema=../harness/profile/profile.schema.json
purpose: smoke
model: {id: builtin:tiny}
server: {kind: torch}
traffic:
  api: messages
  workload: {kind: chat, system_tok: 300, user_tok: 40, output_tok: 32, context_limit_tok: 2k}
  load:
    - {kind: concurrency, concurrency: 8, warmup_s: 3s, window_s: 15s}
```

With the first line, editors with a YAML language server complete keys and show these explanations. Shipped profiles are in
`loadprofiles/`.

- **Strict.** An unknown key, a wrong unit or an impossible combination is an error (exit 2). All errors are reported at once, each with
  file, line and column, the key that was probably meant, and the fix.
- **Units** are the suffix of the key: `_s` seconds, `_tok` tokens, `_bytes` bytes, `_usd` dollars. A bare number is in that unit.
  Durations also accept `us`, `ms`, `s`, `m` or `min`, `h`, `d` (`2m` is two minutes). Counts accept `k`, `M` (thousands) and `ki`, `Ki`,
  `Mi` (1,024). Sizes accept `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`, `TiB`.
- **YAML 1.2**: `true` and `false` are the only booleans; quote digits that are text. Anchors, aliases and `<<` work.
- **Overrides**: `--set traffic.load.0.concurrency=32` sets one key by its dotted path; list positions start at 0. The value is YAML
  (`--set 'server.gpus=[0, 1]'`). A position one past the end of a list appends, missing sections are created, and later overrides win.
- **Kinds**: the `kind` of a section decides its other keys.
- **Secrets** do not belong in a profile, since it is stored with every run: name an environment variable or a file.
"""
_THRESHOLDS: Final = f"""\
## Thresholds

`thresholds` is a list of conditions on the result, each `[STAGE:] METRIC[.STATISTIC] OPERATOR NUMBER[UNIT]`. The exit code is 99 if one fails.

- `STAGE` is the name of a load stage, or `*` for every stage (in quotes: `*` has a meaning in YAML). Without it, the
  condition is on the headline stage.
- Operators: `<`, `<=`, `>`, `>=`.
- Metrics in seconds accept units of time, others `k` and `M`, ratios `%`.
- `METRIC@BOUNDARY` is a power metric at another boundary than the summary's first.
- A value that is not available meets no threshold.
- A limit may be a share of a baseline; `harness repeat` and `harness compare` evaluate it, with the noise of repeats ([CI](../how-to/ci.md)).

```yaml
thresholds:
  - ttft_s.p99 < 1.5
  - tpot_s.p50 <= 50ms
  - output_tok_s >= 1.2k
  - error_ratio < 1%
  - output_tok_s_per_gpu >= 0.95 * baseline
```

Distributions need a statistic ({", ".join(f"`{name}`" for name in STATISTICS)}), single values have none:

| metric | unit | statistic | definition |
|---|---|---|---|"""
_COMBINATIONS: Final = """\
## Impossible combinations

Each is an error (`harness/profile/rules.py`). Merely unwise combinations load; the report flags them as concerns.
"""


def reference() -> str:
    """Text of docs/reference/profile.md."""
    lines = [_TOP, "## Contents", ""]
    titles = [*(section.title for section in _SECTIONS), "Thresholds", "Impossible combinations"]
    lines += [f"- [{title}](#{_anchor(title)})" for title in titles]
    for title, paths, model in _SECTIONS:
        lines += ["", f"## {title}", "", _text(model.__doc__ or ""), ""]
        if paths:
            lines += [f"Keys under {', '.join(f'`{path}`' for path in paths)}.", ""]
        lines += _table(model)
    lines += ["", _THRESHOLDS]
    for metric in METRICS.values():
        needed = "needed" if metric.kind == "distribution" else "–"
        lines.append(f"| `{metric.key}` | {metric.unit} | {needed} | {_text(metric.formula)} |")
    lines += ["", _COMBINATIONS, *(f"- {_text(rule.__doc__ or '')}" for rule, _ in RULES)]
    return "\n".join(lines) + "\n"


def _table(model: type[Strict]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    fields = model.model_fields
    names = list(fields)
    if "kind" in fields:
        names.sort(key=lambda key: (key != "kind", not fields[key].is_required()))
    for name in names:
        field = fields[name]
        text = field.description or ("Selects this section." if name == "kind" else "")
        yield f"| `{name}` | {_value(field)} | {_default(name, field)} | {_text(text)} |"


def _value(field: FieldInfo) -> str:
    annotation = shape.field_annotation(field)
    model, item = shape.model_of(annotation), shape.item_of(annotation)
    variants = shape.variants_of(item or annotation)
    if model is not None:
        return f"[section](#{_ANCHORS[model]})"
    text = shape.describe(annotation)
    if Constant in variants.values():
        short = text.split(", or a distribution")[0]
        return f"{short}, or a [distribution](#distribution-kind-constant)"
    if variants:
        links = ", ".join(f"[`{kind}`](#{_ANCHORS[section]})" for kind, section in variants.items())
        return f"{'section' if item is None else 'list of sections'}, by `kind`: {links}"
    text = _KINDS.sub(lambda kinds: re.sub(r"[\w-]+", r"`\g<0>`", kinds[0]), text)
    return text.replace("|", "\\|")


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if value is None or value == "":
        return "–"
    if isinstance(value, Strict):
        return _section_default(value)
    if value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{_number(name, value)}`"
    return f"`{value}`"


def _section_default(value: Strict) -> str:
    """A default section as in YAML."""
    dumped = value.model_dump(mode="json", exclude_defaults=True)
    if "kind" in type(value).model_fields:
        dumped = {"kind": value.model_dump(mode="json")["kind"], **dumped}
    inside = ", ".join(
        f"{key}: {_number(key, item) if isinstance(item, int | float) else item}"
        for key, item in dumped.items()
    )
    return f"`{{{inside}}}`" if inside else "see there"


def _number(name: str, value: float) -> str:
    if name.endswith("_bytes") and value % 1024**3 == 0:
        return f"{value // 1024**3:g}GiB"
    return f"{value:g}" if value < 1e6 or value != int(value) else f"{value:.0f}"


def _text(text: str) -> str:
    """A docstring as one line, for a table or a paragraph."""
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(title: str) -> str:
    return "".join(
        char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_"
    )


_ANCHORS: Final = {section.model: _anchor(section.title) for section in _SECTIONS}


def json_schema() -> str:
    """Text of harness/profile/profile.schema.json."""
    comment = "Generated from harness/profile/schema.py by `python -m harness.profile.generate`."
    schema = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": comment,
        **_unwrapped(Profile.model_json_schema(mode="validation")),
    }
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _unwrapped(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same value, with each paragraph of a description on one line."""
    if isinstance(value, dict):
        return {
            key: _PARAGRAPH.sub(" ", item)
            if key == "description" and isinstance(item, str)
            else _unwrapped(item)
            for key, item in value.items()
        }
    return [_unwrapped(item) for item in value] if isinstance(value, list) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Write both files, or with `--check` list the stale ones (exit 1)."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.profile.generate", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    arguments = parser.parse_args(argv)
    stale = []
    for path, text in ((SCHEMA_PATH, json_schema()), (REFERENCE_PATH, reference())):
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        sys.stderr.write(f"{'stale' if arguments.check else 'written'}: {path}\n")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
