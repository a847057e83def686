"""Description of this machine: processor, GPUs, models, power sources."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from harness.core.units import human_duration
from harness.hardware.gpus import list_gpus, nvidia_device_present
from harness.hardware.host import cpu_quota_cores, describe_host, usable_cores
from harness.hardware.nvml import NvmlUnavailableError
from harness.models.facts import available
from harness.profile.schema import Profile
from harness.telemetry.probe import NEEDS, ProbedSource, Sensor, survey
from harness.telemetry.sources.select import SourceContext, specs_of


def describe_system() -> list[tuple[str, str]]:
    """Rows of name and finding."""
    host = describe_host()
    rows = [
        ("processor", f"{host['cpu'].get('model') or 'unknown'}, {usable_cores()} usable cores"),
        ("memory", f"{host['ram_bytes'] / 2**30:.1f} GiB"),
        ("system", f"{host.get('os') or 'unknown'}, kernel {host.get('kernel') or 'unknown'}"),
    ]
    quota = cpu_quota_cores()
    if quota is not None:
        rows.append(("CPU quota", f"{quota:g} cores"))
    presence = nvidia_device_present()
    rows.append(
        (
            "NVIDIA device",
            (
                f"{presence.count}, driver {presence.driver_version}"
                if presence.usable
                else presence.why or "none"
            ),
        )
    )
    rows += [
        ("GPU", f"{gpu.index}: {gpu.name or 'unknown'} {gpu.uuid}")
        for gpu in (list_gpus() if presence.usable else ())
    ]
    rows += [
        (
            "model",
            (
                f"{model.model_id}:"
                f" {'built' if model.cached else model.add_command or 'built at first use'}"
            ),
        )
        for model in available()
    ]
    return rows


def survey_power(profile: Profile | None = None) -> tuple[ProbedSource, ...]:
    """What each power source of this machine and of the profile measures, or why it does not."""
    try:
        uuids = tuple(gpu.uuid for gpu in list_gpus())
    except NvmlUnavailableError:
        uuids = ()
    named = (
        ()
        if profile is None
        else specs_of(profile.telemetry.model_dump(mode="json")["power"], uuids)
    )
    kinds = {spec["kind"] for spec in named}
    found = survey(
        [
            *named,
            *({"kind": kind} for kind in ("nvml", "dcgm", "rapl", "ipmi") if kind not in kinds),
        ],
        SourceContext(uuids),
    )
    asked = tuple(
        ProbedSource(kind, (), (what,)) for kind, what in NEEDS.items() if kind not in kinds
    )
    return (*sorted(found, key=lambda one: not one.channels), *asked)


def print_power(surveyed: Sequence[ProbedSource], stream: TextIO | None = None) -> None:
    """Print sources that measure, then those that do not, with reasons."""
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Power sources",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
    )
    for column in ("source", "boundary", "of", "reading"):
        table.add_column(column, no_wrap=column != "of")
    for column in ("now", "resolution", "update interval", "read time"):
        table.add_column(column, justify="right", no_wrap=True)
    missing = Table(box=None, pad_edge=False, show_header=False)
    missing.add_column(style="dim", no_wrap=True)
    missing.add_column(overflow="fold")
    for one in surveyed:
        style = "red" if one.double is not None else "yellow" if one.kind == "modelled" else ""
        for row in _channel_rows(one):
            table.add_row(*[Text(cell, style=style) for cell in row])
        if one.double is not None:
            missing.add_row(one.kind, Text(f"simulated hardware: {one.double}", style="red"))
        for reason in one.why_not:
            missing.add_row(one.kind, Text(reason))
    if not table.row_count:
        table = Table(
            title="Power sources",
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            show_header=False,
        )
        table.add_row("No power source on this machine.")
    parts = (
        [table, Text("\nNot available", style="bold"), missing] if missing.row_count else [table]
    )
    out = stream or sys.stdout
    Console(file=out, highlight=False, width=None if out.isatty() else 140).print(Group(*parts))


def _channel_rows(one: ProbedSource) -> Iterator[tuple[str, ...]]:
    """One row per group of devices with equal boundary, reading and name."""
    groups: dict[tuple[str, str, str], list[Sensor]] = {}
    for channel in one.channels:
        groups.setdefault(
            (
                channel.boundary.value,
                f"{channel.what} ({channel.reading})",
                channel.device_name or "",
            ),
            [],
        ).append(channel)
    for (boundary, reading, name), those in groups.items():
        first = those[0]
        unit = "W" if first.what == "power" else "J"
        who = f"{len(those)} x {name or 'devices'}" if len(those) > 1 else name or first.device_id
        watts = [channel.power_w for channel in those if channel.power_w is not None]
        yield (
            one.kind,
            boundary,
            who,
            reading,
            f"{sum(watts):,.1f} W" if len(watts) == len(those) else "unknown",
            _at_most((channel.resolution for channel in those), f"{{:.3g}} {unit}".format),
            _at_most((channel.renewed_s for channel in those), human_duration),
            _at_most((channel.call_s for channel in those), human_duration),
        )


def _at_most(values: Iterable[float | None], text: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return text(max(known)) if known else "unknown"
