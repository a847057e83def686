"""Describes a run in one sentence."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

from harness.reduce.read.run import mapping, number, sequence
from harness.reduce.reduction import Reduction
from harness.report import numbers

_APIS: Final = {
    "messages": "the Anthropic Messages API",
    "chat": "the OpenAI chat completions API",
    "responses": "the OpenAI Responses API",
    "completions": "the OpenAI completions API",
}


def sentence(reduction: Reduction) -> str:
    """Model, server, hardware, traffic, load, lengths."""
    manifest, profile = reduction.run.manifest, reduction.run.profile
    if not profile:
        return "What was run is not known: the manifest does not say."
    model, server, traffic = (mapping(profile.get(key)) for key in ("model", "server", "traffic"))
    info = mapping(manifest.get("server"))
    kind = info.get("kind") or server.get("kind") or "an unknown server"
    version = f" {info['version']}" if info.get("version") else ""
    workload = mapping(traffic.get("workload")).get("kind")
    api = _APIS.get(str(traffic.get("api")), "an unknown API")
    weights = " with dummy weights" if model.get("load_format") == "dummy" else ""
    lengths = reduction.summary.labels.output_length
    forced = f"; output lengths {lengths}" if lengths else ""
    name = model.get("id") or "An unknown model"
    what = f"{workload} traffic" if workload else "traffic"
    return (
        f"{name}{weights}, served by {kind}{version} on {_where(manifest)}: {what} over {api},"
        f" {load_words(traffic)}{forced}."
    )


def _where(manifest: Mapping[str, Any]) -> str:
    hardware = mapping(manifest.get("hardware"))
    gpus = [str(mapping(gpu).get("name") or "GPU") for gpu in sequence(hardware.get("gpus"))]
    if gpus:
        return " and ".join(f"{len(list(same))} × {name}" for name, same in groupby(sorted(gpus)))
    cores = number(mapping(hardware.get("cpu")).get("usable_cores"))
    if cores is not None:
        return f"{numbers.plain(cores)} CPU {'core' if cores == 1 else 'cores'}"
    return "hardware that is not known"


def load_words(traffic: Mapping[str, Any]) -> str:
    """The stages of a profile's load, those of a kind together:
    `1, 2 and 4 live conversations in turn`.
    """
    told = [_stage(mapping(stage)) for stage in sequence(traffic.get("load"))]
    if not told:
        return "load that is not known"
    parts = []
    for (one, many), same in groupby(told, key=lambda stage: stage[1:]):
        amounts = [amount for amount, _, _ in same]
        noun = one if amounts == ["1"] else many
        if len(amounts) == 1:
            parts.append(f"{amounts[0]} {noun}".strip())
        else:
            parts.append(f"{', '.join(amounts[:-1])} and {amounts[-1]} {noun} in turn".strip())
    return ", then ".join(parts)


def _stage(stage: Mapping[str, Any]) -> tuple[str, str, str]:
    """(amount, what it is one of, what it is several of) of a load stage."""

    def amount(key: str) -> str:
        return numbers.plain(number(stage.get(key)))

    requests = stage.get("over") == "requests"
    one, many = ("request", "requests") if requests else ("conversation", "conversations")
    process = f" ({stage['process']} arrivals)" if stage.get("process") else ""
    arriving = f"{many if requests else f'new {many}'} per second{process}"
    kind = stage.get("kind")
    if kind == "concurrency":
        return (
            (amount("concurrency"), "request in flight", "requests in flight")
            if requests
            else (amount("concurrency"), "live conversation", "live conversations")
        )
    if kind == "arrival_rate":
        return amount("rate_per_s"), arriving, arriving
    if kind == "ramp":
        return f"a ramp from {amount('from_per_s')} to {amount('to_per_s')}", arriving, arriving
    if kind == "step":
        rates = [
            numbers.plain(number(mapping(step).get("rate_per_s")))
            for step in sequence(stage.get("steps"))
        ]
        return f"steps of {', '.join(rates)}", arriving, arriving
    if kind == "diurnal":
        return f"a day's curve around {amount('rate_per_s')}", arriving, arriving
    if kind == "all_at_once":
        return amount("sessions"), f"{one} at once", f"{many} at once"
    if kind == "replay":
        return f"recorded {many} at their own times", "", ""
    return "load that is not known", "", ""
