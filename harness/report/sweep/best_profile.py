"""best.yaml: the sweep's profile with the values of its best point."""

import io
from collections.abc import Mapping
from typing import Any, Final

from ruamel.yaml import YAML

from harness.artifacts.sweep.index import Value
from harness.report.sweep.view import setting_name, text_of
from harness.sweeps.best import Best
from harness.sweeps.points import COLUMN, Sweep

BEST_FILE: Final = "best.yaml"
_SECTIONS: Final = ("sweep", "search")


def best_profile(sweep: Sweep, chosen: Best) -> str | None:
    """Text of best.yaml, with the profile's comments and a header with the reason; None without a
    best point or without profile.yaml.
    """
    source = sweep.path / "profile.yaml"
    if chosen.setting is None or not source.is_file():
        return None
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 120
    document = yaml.load(source.read_text(encoding="utf-8"))
    for override in sweep.index.overrides:
        key, _, text = override.partition("=")
        put(document, key.strip(), YAML(typ="safe").load(text))
    for section in _SECTIONS:  # also one of an option
        document.pop(section, None)
    for key, value in chosen.setting.values.items():
        put(document, key, value)
    for section in _SECTIONS:
        document.pop(section, None)
    stream = io.StringIO()
    yaml.dump(document, stream)
    header = "".join(f"# {line}\n" for line in _reasons(sweep, chosen, chosen.setting.values))
    return header + stream.getvalue()


def put(document: Any, dotted: str, value: Any) -> None:  # noqa: ANN401 - YAML
    """Set a dotted key, with missing sections; a number is a position in a list."""
    *sections, last = dotted.split(".")
    here = document
    for position, key in enumerate(sections):
        part: str | int = int(key) if isinstance(here, list) else key
        if isinstance(part, str) and here.get(part) is None:
            here[part] = [] if [*sections, last][position + 1].isdecimal() else {}
        elif isinstance(part, int) and part == len(here):
            here.append({})
        here = here[part]
    if isinstance(here, list):
        here[int(last) : int(last) + 1] = [value]
    else:
        here[last] = value


def _reasons(sweep: Sweep, chosen: Best, values: Mapping[str, Value]) -> list[str]:
    assert chosen.setting is not None
    shown = [
        f"{column} {text_of(key, chosen.setting.metrics[key].value)}"
        for key, column in ((key, one.title) for key, one in COLUMN.items())
        if key in chosen.setting.metrics and one_of_interest(key)
    ]
    lines = [
        f"Best point of {sweep.index.sweep_id}: {setting_name(values)}.",
        f"{chosen.why[0].upper()}{chosen.why[1:]}.",
        f"Measured: {', '.join(shown)}.",
        f"Run: {', '.join(run.path.name for run in chosen.setting.runs)}.",
    ]
    if chosen.close:
        lines.append(
            "Within its interval, so as good as far as is known:"
            f" {'; '.join(one.name for one in chosen.close[:5])}."
        )
    return lines


def one_of_interest(key: str) -> bool:
    """Whether the header lists a metric: the total and live sessions are in points.csv."""
    return key not in {"output_tok_s", "live_sessions", "ttft_p50_s"}
