"""Writes what follows from the profile's types: the JSON Schema that editors complete with, and the
reference for people.

`python -m harness.profile.generate` writes both, `--check` fails if either is not what the types
say.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
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

_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n)")

ROOT: Final = Path(__file__).resolve().parents[2]
SCHEMA_PATH: Final = Path(__file__).with_name("profile.schema.json")
REFERENCE_PATH: Final = ROOT / "docs" / "reference" / "profile.md"


class _Section(NamedTuple):
    title: str
    paths: tuple[str, ...]
    model: type[Strict]


def _sections() -> Iterator[_Section]:
    """All sections of a profile in the order of its keys, each once."""
    places: dict[type[Strict], list[tuple[tuple[str, ...], str | None]]] = {}
    for path, kind, model in shape.sections(Profile):
        places.setdefault(model, []).append((path, kind))
    for model, found in places.items():
        (path, kind), paths = found[0], tuple(".".join(path) for path, _ in found)
        of_kind = f", kind `{kind}`" if kind is not None else ""
        if model is Profile:
            yield _Section("The profile", (), model)
        elif len({path[-1] for path, _ in found}) == 1:  # one key, though maybe of several sections
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

One YAML file says everything about a run. This one is complete:

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

The first line lets editors that know YAML language servers complete keys and show these explanations. Ready-made profiles are in
`loadprofiles/`.

- **Strict.** An unknown key, a wrong unit or an impossible combination is an error (exit 2). All errors are told at once, each with file,
  line and column, the key that was probably meant, and the fix.
- **Units** are the suffix of the key: `_s` seconds, `_tok` tokens, `_bytes` bytes, `_usd` dollars. A bare number is in that unit. Lengths
  of time also take `us`, `ms`, `s`, `m` or `min`, `h`, `d` (`2m` is two minutes); counts take `k`, `M` (thousands) and `ki`, `Ki`, `Mi`
  (1,024); sizes take `kB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`, `TiB`.
- **YAML 1.2**: `true` and `false` are the only booleans, and text of digits wants quotes where text is meant. Anchors, aliases and `<<`
  work.
- **Overrides**: `--set traffic.load.0.concurrency=32` sets one key by its dotted path, list positions counted from 0; the value is YAML
  (`--set 'server.gpus=[0, 1]'`), a position one past a list's end appends, missing sections are made, later ones win.
- **Kinds**: where a section has a `kind`, it decides which other keys there are.
- **Secrets** do not belong in a profile, since it is stored with every run: name an environment variable or a file.
"""


def reference() -> str:
    """docs/reference/profile.md."""
    lines = [_TOP, "## Contents", ""]
    titles = [*(section.title for section in _SECTIONS), "Thresholds", "Impossible combinations"]
    lines += [f"- [{title.replace('`', '')}](#{_anchor(title)})" for title in titles]
    for title, paths, model in _SECTIONS:
        lines += ["", f"## {title}", "", _text(model.__doc__ or ""), ""]
        if paths:
            lines += [f"Keys under {', '.join(f'`{path}`' for path in paths)}.", ""]
        lines += _table(model)
    lines += ["", *_thresholds(), "", *_combinations()]
    return "\n".join(lines) + "\n"


def _table(model: type[Strict]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    fields = model.model_fields
    for name in (
        sorted(fields, key=lambda key: (key != "kind", not fields[key].is_required()))
        if "kind" in fields
        else fields
    ):
        field = fields[name]
        yield (
            f"| `{name}` | {_value(field)} | {_default(name, field)} |"
            f" {_text(field.description or _kind_text(name))} |"
        )


def _kind_text(name: str) -> str:
    return "Chooses this section." if name == "kind" else ""


def _value(field: FieldInfo) -> str:
    annotation = shape.field_annotation(field)
    model, variants = (
        shape.model_of(annotation),
        shape.variants_of(shape.item_of(annotation) or annotation),
    )
    if model is not None:
        return f"[section](#{_ANCHORS[model]})"
    if variants and not _is_distribution(variants):
        links = ", ".join(f"[`{kind}`](#{_ANCHORS[section]})" for kind, section in variants.items())
        return (
            f"{'list of sections' if shape.item_of(annotation) is not None else 'section'}, by"
            f" `kind`: {links}"
        )
    if variants:
        return (
            shape.describe(annotation).split(", or a distribution")[0]
            + ", or a [distribution](#distribution-kind-constant)"
        )
    return shape.describe(annotation).replace("|", "\\|")


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
    """A default section as one would write it."""
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


def _thresholds() -> Iterator[str]:
    yield "## Thresholds"
    yield ""
    yield (
        "`thresholds` is a list of conditions on the result, each `METRIC[.STATISTIC] OPERATOR"
        " NUMBER[UNIT]`. The run exits 99 when one"
    )
    yield (
        "fails. Operators: `<`, `<=`, `>`, `>=`. Metrics in seconds take units of time, others `k`"
        " and `M`, ratios `%`. A power figure at"
    )
    yield (
        "another boundary than the summary's first is written `METRIC@BOUNDARY`. A figure that is"
        " absent meets no threshold. A limit may"
    )
    yield (
        "be a share of a baseline; `harness repeat` and `harness compare` judge those, with the"
        " noise of repeats ([CI](../how-to/ci.md))."
    )
    yield ""
    yield "```yaml"
    yield "thresholds:"
    yield "  - ttft_s.p99 < 1.5"
    yield "  - tpot_s.p50 <= 50ms"
    yield "  - output_tok_s >= 1.2k"
    yield "  - error_ratio < 1%"
    yield "  - output_tok_s_per_gpu >= 0.95 * baseline"
    yield "```"
    yield ""
    yield (
        f"Distributions need a statistic ({', '.join(f'`{name}`' for name in STATISTICS)}), single"
        " values take none:"
    )
    yield ""
    yield "| metric | unit | statistic | definition |"
    yield "|---|---|---|---|"
    for metric in METRICS.values():
        yield (
            f"| `{metric.key}` | {metric.unit} |"
            f" {'needed' if metric.kind == 'distribution' else '–'} | {_text(metric.formula)} |"
        )


def _combinations() -> Iterator[str]:
    yield "## Impossible combinations"
    yield ""
    yield (
        "Each is an error of its own (`harness/profile/rules.py`). What is merely unwise loads, and"
        " shows as a concern in the report."
    )
    yield ""
    for rule, _ in RULES:
        yield f"- {_text(rule.__doc__ or '')}"


def _text(text: str) -> str:
    """A docstring as one line of a table, or as a paragraph."""
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(title: str) -> str:
    return "".join(
        char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_"
    )


_ANCHORS: Final = {section.model: _anchor(section.title) for section in _SECTIONS}


def _is_distribution(variants: Mapping[str, type[Strict]]) -> bool:
    return Constant in variants.values()


def json_schema() -> str:
    """harness/profile/profile.schema.json."""
    schema = _unwrapped(Profile.model_json_schema(mode="validation"))
    whole = {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$comment": (
            "Generated from harness/profile/schema.py by `python -m harness.profile.generate`."
        ),
        **schema,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=False) + "\n"


def _unwrapped(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same with every description's paragraphs on one line each: the source wraps them."""
    if isinstance(value, dict):
        return {
            key: _PARAGRAPH.sub(" ", item)
            if key == "description" and isinstance(item, str)
            else _unwrapped(item)
            for key, item in value.items()
        }
    return [_unwrapped(item) for item in value] if isinstance(value, list) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Write both files, or with `--check` say which are stale (exit 1)."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.profile.generate",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit 1 if a file is not what the types say",
    )
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
