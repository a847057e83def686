"""Describes a run in one sentence."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from harness.api.table import WIRE_APIS
from harness.artifacts.recorded_run import Hardware
from harness.profile.recorded import RecordedStage
from harness.reduce.reduction import Reduction
from harness.report.numbers import plain

_APIS: Final = {name.value: api.title for name, api in WIRE_APIS.items()}


def sentence(reduction: Reduction) -> str:
    """Model, server, hardware, traffic, load and lengths."""
    manifest, profile = reduction.run.manifest, reduction.run.profile
    if not reduction.run.profile_json:
        return "The profile of the run is not recorded."
    model, server, traffic = profile.model, profile.server, profile.traffic
    info = manifest.server
    kind = (info.kind if info else None) or server.kind or "an unknown server"
    version = f" {info.version}" if info and info.version else ""
    workload = traffic.workload_kind
    api = _APIS.get(str(traffic.api), "an unknown API")
    weights = " with dummy weights" if model.load_format == "dummy" else ""
    lengths = reduction.summary.labels.output_length
    forced = f"; output lengths {lengths}" if lengths else ""
    name = model.id or "An unknown model"
    what = f"{workload} traffic" if workload else "traffic"
    return (
        f"{name}{weights}, served by {kind}{version} on {_where(manifest.hardware)}:"
        f" {what} over {api}, {load_words(traffic.load)}{forced}."
    )


def _where(hardware: Hardware) -> str:
    gpus = [gpu.name or "GPU" for gpu in hardware.gpus]
    if gpus:
        return " and ".join(f"{len(list(same))} × {name}" for name, same in groupby(sorted(gpus)))
    cores = None if hardware.cpu is None else hardware.cpu.usable_cores
    if cores is not None:
        return f"{plain(cores)} CPU {'core' if cores == 1 else 'cores'}"
    return "unknown hardware"


def load_words(load: Sequence[RecordedStage]) -> str:
    """Load stages in words, equal kinds together: `1, 2 and 4 live sessions in turn`."""
    stages = [_stage(stage) for stage in load]
    if not stages:
        return "unknown load"
    parts = []
    for (one, many), same in groupby(stages, key=lambda stage: stage[1:]):
        amounts = [amount for amount, _, _ in same]
        noun = one if amounts == ["1"] else many
        if len(amounts) == 1:
            parts.append(f"{amounts[0]} {noun}".strip())
        else:
            parts.append(f"{', '.join(amounts[:-1])} and {amounts[-1]} {noun} in turn".strip())
    return ", then ".join(parts)


def load_columns(load: Sequence[RecordedStage]) -> dict[str, list[str]]:
    """One column with the load of each stage: its amount under their common unit, else words."""
    stages = [_stage(stage) for stage in load]
    units = {many for _, _, many in stages}
    if len(units) == 1 and "" not in units:
        unit = units.pop()
        return {unit[0].upper() + unit[1:]: [amount for amount, _, _ in stages]}
    return {"Load": [load_words([stage]) for stage in load]}


def _stage(stage: RecordedStage) -> tuple[str, str, str]:
    """(amount, its unit, plural of the unit) of a load stage."""
    requests = stage.over == "requests"
    one, many = ("request", "requests") if requests else ("session", "sessions")
    process = f" ({stage.process} arrivals)" if stage.process else ""
    arriving = f"{many if requests else f'new {many}'} per second{process}"
    kind = stage.kind
    if kind == "concurrency":
        live = ("{} in flight" if requests else "live {}").format
        return plain(stage.concurrency), live(one), live(many)
    if kind == "arrival_rate":
        return plain(stage.rate_per_s), arriving, arriving
    if kind == "ramp":
        ends = f"{plain(stage.from_per_s)} to {plain(stage.to_per_s)}"
        return f"a ramp from {ends}", arriving, arriving
    if kind == "step":
        rates = [plain(step.rate_per_s) for step in stage.steps]
        return f"steps of {', '.join(rates)}", arriving, arriving
    if kind == "diurnal":
        return f"a daily curve around {plain(stage.rate_per_s)}", arriving, arriving
    if kind == "all_at_once":
        return plain(stage.sessions), f"{one} at once", f"{many} at once"
    if kind == "replay":
        return f"recorded {many} at their recorded times", "", ""
    return "unknown load", "", ""
