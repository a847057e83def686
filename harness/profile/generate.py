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
from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from harness.checked_yaml import shape
from harness.checked_yaml.fields import Strict
from harness.core.metrics import METRICS
from harness.profile.distributions import Constant, Geometric, Lognormal, Quantiles, Uniform
from harness.profile.schema import Energy, Price, Profile, Quality, Slos, StatedFactor
from harness.profile.serving import AttachServer, AutoServer, Model, TorchServer, VllmServer
from harness.profile.stages import (
    AllAtOnceStage,
    ArrivalRateStage,
    ConcurrencyStage,
    DiurnalStage,
    HourFactor,
    RampStage,
    RateStep,
    ReplayStage,
    StepStage,
)
from harness.profile.telemetry import (
    CsvPower,
    DcgmPower,
    IpmiPower,
    ModelledPower,
    NvmlPower,
    PromqlPower,
    RaplPower,
    RedfishPower,
    ReplayPower,
    Telemetry,
)
from harness.profile.thresholds import STATISTICS
from harness.profile.traffic import Timeouts, Tls, Traffic
from harness.profile.workloads import (
    BatchWorkload,
    ChatWorkload,
    ClaudeChatWorkload,
    ClaudeCodeWorkload,
    DocQaWorkload,
    MixPart,
    MixWorkload,
    ReplayWorkload,
    Subagents,
    ThinkingWorkload,
)

_PARAGRAPH = re.compile(r"(?<!\n)\n(?!\n)")

ROOT: Final = Path(__file__).resolve().parents[2]
SCHEMA_PATH: Final = Path(__file__).with_name("profile.schema.json")
REFERENCE_PATH: Final = ROOT / "docs" / "profile-reference.md"

_SECTIONS: Final[tuple[tuple[str, str, type[Strict]], ...]] = (
    ("The profile", "", Profile),
    ("`model`", "model", Model),
    ("`server`, kind `vllm`", "server", VllmServer),
    ("`server`, kind `torch`", "server", TorchServer),
    ("`server`, kind `attach`", "server", AttachServer),
    ("`server`, kind `auto`", "server", AutoServer),
    ("`traffic`", "traffic", Traffic),
    ("`traffic.timeouts`", "traffic.timeouts", Timeouts),
    ("`traffic.tls`", "traffic.tls", Tls),
    ("`traffic.workload`, kind `chat`", "traffic.workload", ChatWorkload),
    ("`traffic.workload`, kind `claude-chat`", "traffic.workload", ClaudeChatWorkload),
    ("`traffic.workload`, kind `claude-code`", "traffic.workload", ClaudeCodeWorkload),
    ("`traffic.workload.subagents`", "traffic.workload.subagents", Subagents),
    ("`traffic.workload`, kind `doc-qa`", "traffic.workload", DocQaWorkload),
    ("`traffic.workload`, kind `thinking`", "traffic.workload", ThinkingWorkload),
    ("`traffic.workload`, kind `batch`", "traffic.workload", BatchWorkload),
    ("`traffic.workload`, kind `mix`", "traffic.workload", MixWorkload),
    ("`traffic.workload.parts`", "traffic.workload.parts.N", MixPart),
    ("`traffic.workload`, kind `replay`", "traffic.workload", ReplayWorkload),
    ("`traffic.load`, kind `concurrency`", "traffic.load.N", ConcurrencyStage),
    ("`traffic.load`, kind `arrival_rate`", "traffic.load.N", ArrivalRateStage),
    ("`traffic.load`, kind `ramp`", "traffic.load.N", RampStage),
    ("`traffic.load`, kind `step`", "traffic.load.N", StepStage),
    ("`traffic.load.steps`", "traffic.load.N.steps.N", RateStep),
    ("`traffic.load`, kind `diurnal`", "traffic.load.N", DiurnalStage),
    ("`traffic.load.curve`", "traffic.load.N.curve.N", HourFactor),
    ("`traffic.load`, kind `all_at_once`", "traffic.load.N", AllAtOnceStage),
    ("`traffic.load`, kind `replay`", "traffic.load.N", ReplayStage),
    ("Distribution, kind `constant`", "", Constant),
    ("Distribution, kind `uniform`", "", Uniform),
    ("Distribution, kind `lognormal`", "", Lognormal),
    ("Distribution, kind `geometric`", "", Geometric),
    ("Distribution, kind `quantiles`", "", Quantiles),
    ("`slos`", "slos", Slos),
    ("`telemetry`", "telemetry", Telemetry),
    ("`telemetry.power`, kind `nvml`", "telemetry.power.N", NvmlPower),
    ("`telemetry.power`, kind `dcgm`", "telemetry.power.N", DcgmPower),
    ("`telemetry.power`, kind `rapl`", "telemetry.power.N", RaplPower),
    ("`telemetry.power`, kind `ipmi`", "telemetry.power.N", IpmiPower),
    ("`telemetry.power`, kind `redfish`", "telemetry.power.N", RedfishPower),
    ("`telemetry.power`, kind `promql`", "telemetry.power.N", PromqlPower),
    ("`telemetry.power`, kind `csv`", "telemetry.power.N", CsvPower),
    ("`telemetry.power`, kind `replay`", "telemetry.power.N", ReplayPower),
    ("`telemetry.power`, kind `modelled`", "telemetry.power.N", ModelledPower),
    ("`quality`", "quality", Quality),
    ("`price`", "price", Price),
    ("`energy`", "energy", Energy),
    ("`energy`, a stated factor", "energy.pue", StatedFactor),
)

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
[`loadprofiles/`](../loadprofiles).

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


_IMPOSSIBLE: Final = """\
- Forced output lengths over the Messages API, unless the model cannot end by itself (`builtin:tiny`, `load_format: dummy`).
  `purpose: measure` forces lengths unless `output_length: natural` says otherwise.
- A load stage with neither `window_s` nor `sessions`; a window of no length; two stages of one name.
- `server.gpus: none` with `device: cuda` or with more than one GPU a replica; boards with `device: cpu`; more replicas than the
  named boards hold; a board named twice.
- `load_format: dummy` or `quantization` with `server.kind: attach`; `quantization` with `torch`.
- Both `api_key_env` and `api_key_file`; names in `server.env` that look like secrets; users or passwords in URLs.
- `server.extra_args` that repeat what a key sets (`--port`, `--max-model-len`, …).
- `attach`: URLs with `/v1` or twice the same; another number of `metrics_urls` than `urls`; `gpu_count` together with local
  `gpus`.
- `traffic.proxy` that is no plain `http://HOST:PORT`; `tls.ca_file` with `verify: false`.
- Timeouts or SLOs of 0; intervals of telemetry below 10 ms; `telemetry.require` of what this server cannot have.
- Distributions with `max` below `min`; lengths, turns or requests that are never at least 1.
- Tables of quantiles whose shares do not rise from 0 to 1, or whose values fall.
- `process: gamma` without `cv`, `weibull` without `weibull_shape`, and either with another process; loads whose rate is always 0;
  `start: steady` over single requests.
- `cache_control` with another API than Messages; SLOs for `batch` alone; two parts of a `mix` with one name.
- Thresholds that do not parse, or whose metric needs SLOs, a price or GPUs that the profile does not have."""


def reference() -> str:
    """docs/profile-reference.md."""
    lines = [_TOP, "## Contents", ""]
    titles = [*(title for title, _, _ in _SECTIONS), "Thresholds", "Impossible combinations"]
    lines += [f"- [{title.replace('`', '')}](#{_anchor(title)})" for title in titles]
    for title, path, model in _SECTIONS:
        lines += ["", f"## {title}", "", _text(model.__doc__ or ""), ""]
        if path:
            lines += [f"Keys under `{path}`.", ""]
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
        " noise of repeats ([CI](ci.md))."
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
    yield _IMPOSSIBLE


def _text(text: str) -> str:
    """A docstring as one line of a table, or as a paragraph."""
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(title: str) -> str:
    return "".join(
        char for char in title.lower().replace(" ", "-") if char.isalnum() or char in "-_"
    )


_ANCHORS: Final = {model: _anchor(title) for title, _, model in _SECTIONS}


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
