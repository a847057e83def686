"""What can be said before a run: the plan in numbers, what stands in the way, what this machine
has.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from harness.artifacts.layout import RunDir
from harness.artifacts.quality import write_reference
from harness.commands.run import Prepared, prepare
from harness.core.errors import HarnessError, ProfileError
from harness.core.records import Api, ModelFacts, Purpose
from harness.core.units import human_duration, human_number
from harness.hardware.gpus import list_gpus, nvidia_device_present, resolve_gpus
from harness.hardware.host import cpu_quota_cores, describe_host, usable_cores
from harness.hardware.nvml import NvmlUnavailableError
from harness.models.facts import available, resolve
from harness.plan.bodies import Conversation, Texts
from harness.plan.build import RunPlan, make_plan
from harness.plan.plan_table import PlanTotals, known_prefixes
from harness.plan.types import StagePlan
from harness.profile.schema import Profile
from harness.profile.serving import AttachServer, TorchServer, VllmServer
from harness.server.answers_check import ask, make_reference, routes_for
from harness.server.base import RunContext, raise_problems, read_api_key
from harness.server.one_request import DIRECT, check_request
from harness.server.orphans import RunRegistry
from harness.telemetry.probe import NEEDS, ProbedSource, Sensor, survey
from harness.telemetry.prometheus.run import MANAGED
from harness.telemetry.prometheus.server import not_installed
from harness.telemetry.sources.select import SourceContext, specs_of


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether a run may start as far as this goes.
        text: what was found; for a problem with cause and next step.
    """

    what: str
    ok: bool
    text: str

    def line(self) -> str:
        return f"{'ok     ' if self.ok else 'PROBLEM'}  {self.what}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.ok, "text": self.text}


@dataclass(frozen=True, slots=True)
class DescribedPlan:
    """A plan in words and numbers.

    Attributes:
        lines: what is said once.
        columns: headings of the table.
        rows: one a stage.
        notes: what a reader should know.
        stages: the same as numbers; None where a closed loop has no end but time.
    """

    lines: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    stages: tuple[dict[str, Any], ...]
    plan: RunPlan

    def to_dict(self) -> dict[str, Any]:
        return {
            "workload_sha256": self.plan.workload_sha256,
            "plan_sha256": self.plan.plan_sha256,
            "context_scale": self.plan.context_scale,
            "context_limit_tok": self.plan.context_limit_tok,
            "tok_per_word": self.plan.tok_per_word,
            "stages": list(self.stages),
            "notes": list(self.notes),
        }


def describe_plan(profile: Profile) -> DescribedPlan:
    """What a run of this profile would send, when, and how many tokens in all. Starts nothing; may
    make a built-in model.
    """
    facts = resolve(profile.model.id, load_format=profile.model.load_format)
    plan = make_plan(profile, facts)
    stages = tuple(_stage_numbers(plan, stage) for stage in plan.stages)
    context = f"contexts up to {plan.context_limit_tok} tokens"
    words = f"{plan.tok_per_word:.3g} tokens a word ({plan.tok_per_word_source})"
    lines = (
        (
            f"{profile.name}: purpose {profile.purpose}, {profile.traffic.workload.kind} over"
            f" {profile.traffic.api}, seed {profile.seed}"
        ),
        (
            f"model {profile.model.id}, {context}, lengths x {plan.context_scale:.4g}"
            f" ({plan.context_scale_reason})"
        ),
        f"output lengths {profile.output_length}; shared head of {plan.head.tok} tokens; {words}",
        f"workload {plan.workload_sha256[:12]}, plan {plan.plan_sha256[:12]}",
    )
    rows = tuple(
        (
            stage.name,
            stage.load,
            (
                "found"
                if profile.traffic.load[stage.index].warmup_s is None
                else human_duration(stage.warmup_ns / 1e9)
            ),
            "until done" if stage.window_ns is None else human_duration(stage.window_ns / 1e9),
            f"{'' if numbers['bounded'] else 'deck of '}{numbers['sessions']}",
            human_number(numbers["requests"]),
            human_number(numbers["input_tok"], 6),
            human_number(numbers["output_tok"], 6),
            human_number(numbers["longest_context_tok"], 6),
            f"{numbers['shared_share']:.1%}",
        )
        for stage, numbers in zip(plan.stages, stages, strict=True)
    )
    clipped = [note for numbers in stages for note in numbers.pop("notes")]
    notes = [*plan.notes, *clipped, *_kv_notes(profile, facts, plan, stages)]
    if not all(numbers["bounded"] for numbers in stages):
        notes.append(
            "a closed loop is bounded by time: the deck is for one second a request, and more"
            " follows from the seed"
        )
    columns = (
        "stage",
        "load",
        "warm-up",
        "window",
        "sessions",
        "requests",
        "input tok",
        "output tok",
        "longest context",
        "prefix seen before",
    )
    return DescribedPlan(lines, columns, rows, tuple(notes), stages, plan)


def _kv_notes(
    profile: Profile, facts: ModelFacts, plan: RunPlan, stages: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Whether the live conversations of each closed loop fit into the KV cache: what does not stay
    resident is computed again.
    """
    if facts.kv_bytes_per_tok is None:
        yield (
            "KV cache: the size of a token is not known here (the model's config.json is not on"
            " this machine, or its layers differ)"
        )
        return
    capacity_tok, where = _kv_capacity_tok(profile, facts)
    for stage, numbers in zip(plan.stages, stages, strict=True):
        if not stage.concurrency or not numbers["requests"]:
            continue
        mean_tok = (numbers["input_tok"] + numbers["output_tok"]) / numbers["requests"]
        private_tok = max(0.0, mean_tok - plan.head.tok)  # the shared head is kept once
        working_tok = plan.head.tok + stage.concurrency * private_tok
        size_gib = working_tok * facts.kv_bytes_per_tok / 2**30
        text = (
            f"KV cache, {stage.name}: {stage.concurrency} live conversations of {mean_tok:,.0f}"
            f" tokens in the mean keep {working_tok:,.0f} tokens ({size_gib:.3g} GiB at"
            f" {facts.kv_bytes_per_tok / 1024:.4g} KiB a token)"
        )
        if capacity_tok is None:
            yield f"{text}; the capacity is not known here: {where}"
        elif working_tok <= capacity_tok:
            yield f"{text}; all stay resident in {capacity_tok:,.0f} tokens ({where})"
        else:
            resident = (
                max(0, int((capacity_tok - plan.head.tok) / private_tok))
                if private_tok
                else stage.concurrency
            )
            yield (
                f"{text}; about {resident} stay resident in {capacity_tok:,.0f} tokens ({where}):"
                " expect preemption and fewer prefix hits"
            )


def _kv_capacity_tok(profile: Profile, facts: ModelFacts) -> tuple[float | None, str]:
    """Tokens that the KV cache of all replicas holds, and how that was found; None with the
    reason.
    """
    assert facts.kv_bytes_per_tok is not None
    server = profile.server
    if isinstance(server, TorchServer) and server.kv_cache_tok is not None:
        return float(server.kv_cache_tok), "server.kv_cache_tok"
    if not isinstance(server, VllmServer):
        return None, "the server sizes its cache itself"
    if server.device == "cpu":
        return server.cpu_kv_cache_bytes / facts.kv_bytes_per_tok, "server.cpu_kv_cache_bytes"
    gpus = resolve_gpus(server.gpus)
    if not gpus or any(gpu.memory_bytes is None for gpu in gpus) or facts.parameters is None:
        return None, "no GPU here, or the weights' size is unknown"
    memory = sum(gpu.memory_bytes or 0 for gpu in gpus) * server.gpu_memory_utilization
    per_replica = server.tensor_parallel_size
    replicas = max(1, len(gpus) // per_replica) if server.replicas == "auto" else server.replicas
    weights = facts.parameters * WEIGHT_BYTES.get(str(facts.dtype), 2) * replicas
    left = max(0.0, memory - weights)
    return (
        left / facts.kv_bytes_per_tok,
        (
            f"{len(gpus)} GPUs at {server.gpu_memory_utilization:.0%} less the weights; activations"
            " take some more"
        ),
    )


WEIGHT_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}
"""Bytes of one weight by the checkpoint's type."""


def _stage_numbers(plan: RunPlan, stage: StagePlan) -> dict[str, Any]:
    input_tok = output_tok = longest = seen = 0
    totals = PlanTotals()
    heads: set[str] = set()
    for session in (one for top in plan.horizon(stage.index) for one in top.tree()):
        totals.add(session)
        shared = session.system.key in heads and not session.salt
        heads.add(session.system.key)
        for turn, known in zip(
            session.turns, known_prefixes(session, head_is_known=shared), strict=True
        ):
            if turn.index < session.first_turn:
                continue
            input_tok += turn.target_input_tok
            output_tok += turn.target_output_tok
            seen += known
            longest = max(longest, turn.target_input_tok + turn.target_output_tok)
    return {
        "stage": stage.name,
        "bounded": plan.is_bounded(stage.index),
        "sessions": totals.sessions,
        "requests": totals.requests,
        "priming_requests": totals.primes,
        "clipped_requests": totals.clipped_requests,
        "classes": totals.classes,
        "input_tok": input_tok,
        "output_tok": output_tok,
        "longest_context_tok": longest,
        "notes": totals.notes(),
        "shared_share": seen / input_tok if input_tok else 0.0,
    }


def check_profile(profile: Profile, *, start: bool = False) -> list[Finding]:
    """Everything that can be found wrong without a load.

    Args:
        profile: validated already.
        start: start the server too and send it one real request of the workload, tools and all. A
            server of kind `attach` is asked anyway.
    """
    findings = [Finding("profile", True, f"{profile.name} is valid (purpose {profile.purpose})")]
    notes: list[str] = []
    try:
        prepared = prepare(profile, notes.append)
    except HarnessError as error:
        return [*findings, Finding("preparation", False, str(error))]
    findings.append(
        Finding(
            "plan",
            True,
            f"plan {prepared.plan.plan_sha256[:12]}, contexts up to"
            f" {prepared.plan.context_limit_tok} tokens",
        )
    )
    findings += [Finding("plan", True, note) for note in prepared.plan.notes]
    findings.append(Finding("server", True, "; ".join(notes)))
    problems = prepared.server.preflight()
    findings += [
        Finding(
            problem.code,
            False,
            "\n".join(
                filter(
                    None,
                    (
                        problem.what,
                        problem.cause and f"  likely cause: {problem.cause}",
                        f"  next step: {problem.next_step}",
                    ),
                )
            ),
        )
        for problem in problems
    ]
    findings += _power_findings(profile, prepared)
    if profile.telemetry.prometheus == MANAGED and (missing := not_installed()) is not None:
        findings.append(Finding("prometheus", False, str(missing)))
    if not problems and (start or isinstance(profile.server, AttachServer)):
        findings += _guarded("one real request", lambda: _one_request(prepared))
    return findings


def _power_findings(profile: Profile, prepared: Prepared) -> Iterator[Finding]:
    """What of power and energy the run will measure; a source that the profile names and that gives
    nothing is a problem.
    """
    named = not isinstance(profile.telemetry.power, str)
    uuids = tuple(gpu.uuid for gpu in prepared.gpus)
    around = SourceContext(uuids, network=profile.traffic.network)
    for found in survey(
        specs_of(profile.telemetry.model_dump(mode="json")["power"], uuids), around, observe_s=0
    ):
        what = f"power: {found.kind}"
        kinds = sorted(
            {f"{channel.what} of {channel.boundary.value}" for channel in found.channels}
        )
        if found.double is not None:
            yield Finding(
                what,
                profile.purpose is not Purpose.MEASURE,
                f"no real hardware, so it measures nothing: {found.double}",
            )
        elif kinds:
            yield Finding(what, True, f"measures {', '.join(kinds)}")
        else:
            why = "; ".join(found.why_not) or "nothing answers"
            step = (
                "\n  next step: `harness check --system`, or take it out of telemetry.power"
                if named
                else ""
            )
            yield Finding(what, not named, f"measures nothing here: {why}{step}")
    for gpu in prepared.gpus:
        if (
            gpu.power_limit_w is not None
            and gpu.power_limit_default_w is not None
            and gpu.power_limit_w < gpu.power_limit_default_w
        ):
            limits = (
                f"limited to {gpu.power_limit_w:g} W, and its default is"
                f" {gpu.power_limit_default_w:g} W"
            )
            yield Finding(
                "power limit", True, f"GPU {gpu.index} is {limits}: was a limit left behind?"
            )


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except HarnessError as error:
        yield Finding(what, False, str(error))


def _one_request(prepared: Prepared) -> Iterator[Finding]:
    """Start (or reach) the server and send the first request of the plan."""
    profile, plan = prepared.profile, prepared.plan
    with tempfile.TemporaryDirectory(prefix="harness-check-") as folder:
        run_dir = RunDir(Path(folder))
        run_dir.logs_dir.mkdir()
        with RunRegistry.open(f"check-{run_dir.root.name}", run_dir.root) as registry:
            context = RunContext(
                run_id=f"check-{run_dir.root.name}", run_dir=run_dir, registry=registry
            )
            with prepared.server.start(context) as server:
                session = next(plan.sessions(0))
                for endpoint in server.endpoints:
                    talk = Conversation(
                        session, plan.settings, endpoint.model, Texts(plan.seed, plan.tok_per_word)
                    )
                    network = DIRECT if endpoint.pid is not None else profile.traffic.network
                    key = read_api_key(profile.server)
                    reply = check_request(
                        endpoint, Api(profile.traffic.api), talk.body(0), key, network=network
                    )
                    counted = (
                        f"{human_number(reply.input_tok)} input tokens (planned"
                        f" {session.turns[0].target_input_tok})"
                    )
                    yield Finding(
                        f"one real request to {endpoint.name}",
                        True,
                        f"answered; the server counts {counted}",
                    )


def record_quality(profile: Profile, out: Path | None, note: Callable[[str], None]) -> Path:
    """Start the server, ask it the quality check's texts and store the answers as a reference.

    Args:
        profile: what serves the model whose answers are taken to be right: its best precision, on
            an engine that is trusted.
        out: the file; None: the one that the profile names.
        note: told what goes on.

    Raises:
        ProfileError: neither names a file.
        HarnessError: the server did not start or did not answer.
    """
    path = (
        out
        if out is not None
        else None
        if profile.quality.reference is None
        else Path(profile.quality.reference)
    )
    if path is None:
        raise ProfileError(
            "no file to write the reference to",
            next_step="give --out FILE, or set quality.reference in the profile",
        )
    if profile.model.load_format == "dummy":
        raise ProfileError(
            "dummy weights have no right answers",
            next_step="record the reference with the model's weights",
        )
    prepared = prepare(profile, note)
    raise_problems(prepared.server.preflight())
    with tempfile.TemporaryDirectory(prefix="harness-quality-") as folder:
        run_dir = RunDir(Path(folder))
        run_dir.logs_dir.mkdir()
        with RunRegistry.open(f"quality-{run_dir.root.name}", run_dir.root) as registry:
            context = RunContext(
                run_id=f"quality-{run_dir.root.name}", run_dir=run_dir, registry=registry
            )
            with prepared.server.start(context) as server:
                endpoint = server.endpoints[0]
                network = DIRECT if endpoint.pid is not None else profile.traffic.network
                routes = routes_for(Api(profile.traffic.api))
                asked = ask(
                    endpoint,
                    routes,
                    read_api_key(profile.server),
                    profile.quality.max_output_tok,
                    network=network,
                )
                write_reference(path, make_reference(profile, prepared.facts, server.info, asked))
    return path


def survey_power(profile: Profile | None = None) -> tuple[ProbedSource, ...]:
    """Every source of power on this machine, and those that a profile names: what each can measure,
    and why not.
    """
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
    """A table for people: first what can be measured, then what cannot, with the reason."""
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
    for column in ("now", "resolution", "renewed every", "a reading takes"):
        table.add_column(column, justify="right", no_wrap=True)
    missing = Table(box=None, pad_edge=False, show_header=False)
    missing.add_column(style="dim", no_wrap=True)
    missing.add_column(overflow="fold")
    for one in surveyed:
        style = "red" if one.double is not None else "yellow" if one.kind == "modelled" else ""
        for row in _channel_rows(one):
            table.add_row(*[Text(cell, style=style) for cell in row])
        if one.double is not None:
            missing.add_row(one.kind, Text(f"no real hardware: {one.double}", style="red"))
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
        table.add_row("Nothing here measures power.")
    parts = (
        [table, Text("\nWhat is not measured, and why", style="bold"), missing]
        if missing.row_count
        else [table]
    )
    out = stream or sys.stdout
    Console(file=out, highlight=False, width=None if out.isatty() else 140).print(Group(*parts))


def _channel_rows(one: ProbedSource) -> Iterator[tuple[str, ...]]:
    """One row for devices that are alike: same boundary, reading and name."""
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
    return text(max(known)) if known else "not seen"


def describe_system() -> list[tuple[str, str]]:
    """What this machine has, as rows for people."""
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
                f" {'made' if model.cached else model.add_command or 'made at first use'}"
            ),
        )
        for model in available()
    ]
    return rows
