"""`harness calibrate`: the capacity of this host's load generator, and its timing error.

The paced reference server, which records when it wrote each token, is driven through the same
driver, reader and recorder as a run, with the load's API, live streams, event rate, body size and
arrival process. Records are paired with the true times request by request. The result is a
certificate: the errors at the load itself, and the highest load with errors within bounds, by
number of workers.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from harness import __version__
from harness.artifacts.atomic import write_json
from harness.artifacts.canary_truth import Spread, pair, read_truth
from harness.artifacts.certificate import Certificate, CertifiedLoad, HostFingerprint, Level
from harness.artifacts.journal import read_table
from harness.artifacts.layout import RunDir
from harness.artifacts.recorded_run import Cores
from harness.artifacts.tables import REQUESTS
from harness.artifacts.typed_json import from_json, to_json
from harness.core.cache import cache_dir
from harness.core.clock import NS_PER_S, now_ns, seconds, wall_now
from harness.core.errors import ArtifactError, TrafficError
from harness.core.records import Api, Endpoint, ModelFacts, Outcome
from harness.hardware.cores import partition
from harness.hardware.host import describe_host
from harness.plan.bodies import Conversation
from harness.plan.build import DEFAULT_TOK_PER_WORD, RunPlan, make_plan
from harness.plan.prompt_text import Texts
from harness.plan.types import Block, StagePlan
from harness.processes.registry import RunRegistry
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic.driver import LocustDriver
from harness.traffic.events import StageEnded, StageStarted, TrafficEvent

CERTIFICATE_VERSION: Final = 2
"""Of calibration.json's keys and of the procedure: certificates of other versions are not used."""

BOUND_S: Final = 0.005
"""Limit of every error's p99 for a certified load: a hundredth of the tightest TTFT target in use
(500 ms).
"""

CPU_LIMIT: Final = 0.85
"""Above this share of a core a worker adds its own delays; as in the verdict of a run."""

MAX_AGE_DAYS: Final = 30.0
BUDGET_S: Final = 60.0
QUICK_BUDGET_S: Final = 15.0
DEFAULT_GAP_MS: Final = 20.0
"""Between two tokens of a stream, unless an SLO or the caller sets it: 50 tokens/s, as in Claude
Code sessions (TraceLab: 50-54).
"""

TTFT_MS: Final = 50.0
_STANDARD_STREAMS: Final = 100
_STANDARD_OUTPUT_TOK: Final = 128
_FACTORS: Final = (1.0, 2.0, 4.0, 8.0)
_QUICK_FACTORS: Final = (1.0, 2.0)
_LEAST_EVENTS_PER_S: Final = 2_000
"""A small load is tried up to this, so that an unexpectedly fast engine stays within the
certificate.
"""
_MOST_EVENTS_PER_S: Final = 60_000
"""The paced server can write no more than this, at about 12 µs per event; higher levels would
measure it and not the client.
"""
_SAMPLE_SESSIONS: Final = 8
_FIXED_BYTES: Final = 300
"""Of a request body, in addition to its texts."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load that a certificate covers.

    Attributes:
        process: `closed`, or the arrival process of an open loop; `poisson` for one without a gap
            distribution (a trace's times, all at once).
        streams: live streams: the concurrency of a closed loop; for an open one the expected number
            at `gap_ms`.
        requests_per_s: arrivals of an open loop; None for a closed one.
        gap_ms: between two tokens of a stream.
        output_tok, body_bytes: means per request.
        clock: source of token times: the kernel's timestamp of `arrival`, or over TLS the time of
            the `read`.
        shape: of an open loop's gap distribution: 1 / CV^2 for gamma, k for Weibull; None for
            others.
    """

    api: str
    process: str
    streams: int
    requests_per_s: float | None
    gap_ms: float
    output_tok: int
    body_bytes: int
    clock: Literal["arrival", "read"] = "arrival"
    shape: float | None = None

    @property
    def events_per_s(self) -> float:
        if self.requests_per_s is not None:
            return self.requests_per_s * self.output_tok
        return self.streams * 1000 / self.gap_ms

    def in_class(self) -> "Load":
        """The heaviest load of the same class, which is what is measured."""
        return Load(**load_class(self))  # type: ignore[arg-type]  # the same fields


def load_class(load: Load | CertifiedLoad) -> dict[str, str | int | float | None]:
    """A load rounded to a class, by which cached certificates are found. Sizes and rates are
    rounded up to powers of two.
    """
    return {name: getattr(load, name) for name in Load.__slots__} | {
        "streams": _power(load.streams),
        "requests_per_s": None if load.requests_per_s is None else _power(load.requests_per_s),
        "output_tok": _power(load.output_tok),
        "body_bytes": _power(max(1024, load.body_bytes)),
    }


def _power(value: float) -> int:
    return 1 << max(0, math.ceil(math.log2(value)))


LEVEL_COLUMNS: Final = (
    "workers",
    "streams",
    "requests/s",
    "events/s",
    "TTFT error p50 / p99",
    "gap error p99",
    "send lag p99",
    "µs/event",
    "server µs/event",
    "worker CPU",
    "within",
)


def level_row(level: Level) -> tuple[str, ...]:
    """A level under `LEVEL_COLUMNS`."""

    def shown(value: float | None, form: str = "{:.1f}") -> str:
        return "—" if value is None else form.format(value)

    def ms(value_s: float | None) -> str:
        return "—" if value_s is None else f"{value_s * 1e3:.2f} ms"

    return (
        str(level.workers),
        "open loop" if level.streams is None else str(level.streams),
        f"{level.requests_per_s:.1f}",
        f"{level.events_per_s:,.0f}",
        f"{ms(level.ttft_error.p50_s)} / {ms(level.ttft_error.p99_s)}",
        ms(level.gap_error.p99_s),
        ms(level.send_lag.p99_s),
        shown(level.client_us_per_event),
        shown(level.server_us_per_event),
        shown(level.worker_cpu, "{:.0%}"),
        "yes" if level.within else f"no: {level.why_not}",
    )


# --- the load ---


def standard_load(*, api: Api = Api.MESSAGES, gap_ms: float | None = None) -> Load:
    """Without a profile: 100 streams of 50 tokens/s with small bodies."""
    gap_ms = gap_ms or DEFAULT_GAP_MS
    return Load(api.value, "closed", _STANDARD_STREAMS, None, gap_ms, _STANDARD_OUTPUT_TOK, 1024)


def load_of(profile: Profile, plan: RunPlan, *, gap_ms: float | None = None) -> Load:
    """The load of a profile's heaviest stage: lengths and sizes are means over its first sessions,
    without pauses between turns. `gap_ms` defaults to the TPOT target, else 20 ms.
    """
    gap_ms = gap_ms or (profile.slos.tpot_s * 1000 if profile.slos.tpot_s else DEFAULT_GAP_MS)
    urls = profile.server.urls if profile.server.kind == "attach" else ()
    tls = any(str(url).startswith("https:") for url in urls)
    loads = (_stage_load(plan, stage, gap_ms) for stage in plan.stages)
    load = max(loads, key=lambda load: load.events_per_s)
    return replace(load, clock="read" if tls else "arrival")


def _stage_load(plan: RunPlan, stage: StagePlan, gap_ms: float) -> Load:
    texts = Texts(plan.seed, plan.tok_per_word)
    outputs: list[int] = []
    bodies: list[int] = []
    sessions = list(islice(plan.sessions(stage.index), _SAMPLE_SESSIONS))
    for session in sessions:
        outputs += [turn.target_output_tok for one in session.tree() for turn in one.turns]
        conversation = Conversation(session, plan.settings, MODEL, texts)
        bodies.append(len(conversation.body(len(session.turns) // 2)))
    output_tok = max(1, round(sum(outputs) / len(outputs)))
    turns = 1.0 if stage.single else len(outputs) / len(sessions)
    body_bytes = round(sum(bodies) / len(bodies))
    api, sizes = plan.settings.api, (gap_ms, output_tok, body_bytes)
    if stage.concurrency is not None:
        return Load(api, "closed", stage.concurrency, None, *sizes)
    rate = (stage.rate_per_s or _planned_rate(plan, stage)) * turns
    streams = max(1, round(rate * (TTFT_MS + output_tok * gap_ms) / 1000))
    shape = stage.schedule.shape if stage.process and stage.schedule else None
    return Load(api, stage.process or "poisson", streams, rate, *sizes, shape=shape)


def _planned_rate(plan: RunPlan, stage: StagePlan) -> float:
    offsets_ns = (session.intended_offset_ns for session in plan.horizon(stage.index))
    times = [offset_ns for offset_ns in offsets_ns if offset_ns is not None]
    return len(times) / max(1.0, seconds(max(times) - min(times))) if times else 1.0


# --- certificates ---


def host_fingerprint() -> HostFingerprint:
    """This host, as recorded in certificates."""
    host = describe_host()
    packages = {}
    for package in ("locust", "gevent", "httptools", "pyarrow"):
        with suppress(importlib.metadata.PackageNotFoundError):
            packages[package] = importlib.metadata.version(package)
    return HostFingerprint(
        cpu=host["cpu"]["model"],
        usable_cores=host["cpu"]["usable_cores"],
        quota_cores=host["cpu"]["quota_cores"],
        kernel=host["kernel"],
        harness=__version__,
        python=platform.python_version(),
        packages=packages,
    )


def cache_path(load: Load | CertifiedLoad, workers: int | None) -> Path:
    """Of the certificate of this load on this host; any difference of host, versions or class is
    another file.
    """
    key = {
        "version": CERTIFICATE_VERSION,
        "host": asdict(host_fingerprint()),
        "load": load_class(load),
        "workers": workers,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "calibration" / f"{digest[:24]}.json"


def cached(load: Load, *, workers: int | None = None, quick: bool = False) -> Certificate | None:
    """The certificate for this load, host and versions, if it exists and is at most 30 days old.
    `quick` accepts a quick one too.
    """
    try:
        raw = json.loads(cache_path(load, workers).read_text(encoding="utf-8"))
        found = from_json(Certificate, raw, "certificate")
    except (OSError, ValueError, ArtifactError):
        return None  # missing or unusable: a new one replaces it
    if found.made_unix_s is None or found.version != CERTIFICATE_VERSION:
        return None
    fresh = 0 <= wall_now().timestamp() - found.made_unix_s <= MAX_AGE_DAYS * 86400
    return found if fresh and (quick or not found.quick) else None


def store(certificate: Certificate, *, workers: int | None = None) -> Certificate:
    """Save a certificate in the cache, if possible, and return it as saved."""
    kept = replace(certificate, made_unix_s=int(wall_now().timestamp()))
    path = cache_path(kept.load, workers)
    with suppress(OSError, ArtifactError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, to_json(kept))
    return kept


def make_certificate(
    load: Load,
    *,
    workers: int | None = None,
    quick: bool = False,
    budget_s: float | None = None,
    bound_s: float = BOUND_S,
    note: Callable[[str], None] = lambda _: None,
    registry: RunRegistry | None = None,
) -> Certificate:
    """Measure the heaviest load of the load's class.

    Without `workers` one is tried, then twice as many until the load is within bounds. `quick`
    takes two short levels instead of four; nothing starts that would end after `budget_s`;
    `bound_s` limits every error's p99; `note` receives progress messages.

    Raises:
        TrafficError: the load generator failed.
    """
    load = load.in_class()
    started_ns = now_ns()
    budget_s = budget_s if budget_s is not None else QUICK_BUDGET_S if quick else BUDGET_S
    factors = _factors(load, quick=quick)
    levels: list[Level] = []
    chosen = workers or 1
    took_s = 0.0
    for number, count in enumerate(_worker_counts(workers)):
        if number and seconds(now_ns() - started_ns) + took_s > budget_s:
            note(f"out of time ({budget_s:g} s) before trying {count} workers")
            break
        before_ns = now_ns()
        beyond = "".join(f", x{factor:g}" for factor in factors[1:])
        note(f"{count} worker{'s' if count > 1 else ''}: {_words(load)}{beyond}")
        tried = measure(load, count, factors, quick=quick, bound_s=bound_s, registry=registry)
        levels += tried
        took_s = seconds(now_ns() - before_ns)
        if tried[0].within:
            chosen = count
            break
    counts = dict.fromkeys(level.workers for level in levels)
    certified = {str(count): _certified(levels, count) for count in counts}
    sufficient = any(
        level.within and level.factor == 1 and level.workers == chosen for level in levels
    )
    if not sufficient and workers is None:
        chosen = int(max(certified, key=lambda count: (certified[count] or 0.0, -int(count))))
    of_chosen = [level for level in levels if level.workers == chosen]
    return Certificate(
        version=CERTIFICATE_VERSION,
        made_at=wall_now().isoformat(timespec="seconds"),
        quick=quick,
        host=host_fingerprint(),
        load=CertifiedLoad(**asdict(load), events_per_s=load.events_per_s),
        bound_s=bound_s,
        cores=Cores(**asdict(partition(chosen))),
        levels=tuple(levels),
        certified_events_per_s=certified,
        workers=chosen,
        sufficient=sufficient,
        seconds=round(seconds(now_ns() - started_ns), 1),
        at_load=next((level for level in of_chosen if level.factor == 1), None),
        highest=next((level for level in reversed(of_chosen) if level.within), None),
    )


def _factors(load: Load, *, quick: bool) -> list[float]:
    """Multiples of the load: up to 2 or 8, and at least up to `_LEAST_EVENTS_PER_S`."""
    *lower, last = _QUICK_FACTORS if quick else _FACTORS
    last = max(last, float(math.ceil(_LEAST_EVENTS_PER_S / load.events_per_s)))
    return [
        factor
        for factor in (*lower, last)
        if factor == 1 or factor * load.events_per_s <= _MOST_EVENTS_PER_S
    ]


def _words(load: Load) -> str:
    many = f"{load.streams} streams"
    if load.requests_per_s is not None:
        many = f"{load.requests_per_s:g} {load.process} requests/s"
    return f"{many}, {load.events_per_s:,.0f} events/s, bodies of {load.body_bytes:,} bytes"


def _worker_counts(workers: int | None) -> list[int]:
    if workers is not None:
        return [workers]
    most = max(1, len(os.sched_getaffinity(0)) - 1)  # the paced server needs a core too
    return [1 << power for power in range(most.bit_length())]


def _certified(levels: Sequence[Level], workers: int) -> float | None:
    """Events per second of the highest level up to which all levels are within bounds."""
    tried = (level for level in levels if level.workers == workers)
    within = [level.events_per_s for level in takewhile(lambda level: level.within, tried)]
    return within[-1] if within else None


# --- one number of workers ---


@dataclass(frozen=True, slots=True)
class _Mark:
    t_ns: int
    client_s: tuple[float, ...]
    server_s: float


class _Cpu:
    def __init__(self, server_pid: int) -> None:
        self._server = psutil.Process(server_pid)
        self._client: list[psutil.Process] = []
        self.starts: dict[str, _Mark] = {}
        self.ends: dict[str, _Mark] = {}
        self.windows: dict[str, tuple[int, int]] = {}

    def watch(self, pids: Sequence[int]) -> None:
        self._client = [psutil.Process(pid) for pid in pids]

    def on_event(self, event: TrafficEvent) -> None:
        match event:
            case StageStarted():
                self.starts[event.stage] = self._mark()
                assert event.window_end_ns is not None  # its stages have windows
                self.windows[event.stage] = (event.window_start_ns, event.window_end_ns)
            case StageEnded():
                self.ends[event.stage] = self._mark()
            case _:
                pass

    def _mark(self) -> _Mark:
        return _Mark(
            now_ns(), tuple(_cpu_s(process) for process in self._client), _cpu_s(self._server)
        )


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(
    load: Load,
    workers: int,
    factors: Sequence[float],
    *,
    quick: bool = False,
    bound_s: float = BOUND_S,
    registry: RunRegistry | None = None,
) -> list[Level]:
    """All levels with one number of workers: stages of one run of the load generator."""
    profile = _profile(load, factors, quick=quick)
    facts = ModelFacts(MODEL, tok_per_word=DEFAULT_TOK_PER_WORD)
    plan = make_plan(profile, facts)
    cores = partition(workers)
    own, other = (None, None) if cores.shared else (cores.traffic, cores.rest)
    with tempfile.TemporaryDirectory(prefix="harness-calibrate-") as folder:
        run_dir, truth_path = RunDir(Path(folder)), Path(folder) / "truth.jsonl"
        with PacedServer(
            Pace(ttft_ms=TTFT_MS, gap_ms=load.gap_ms), truth_path, cores=other, registry=registry
        ) as server:
            cpu = _Cpu(server.pid)
            endpoint = Endpoint("replica-0", server.url, MODEL)
            with LocustDriver(
                profile,
                facts,
                plan,
                [endpoint],
                run_dir,
                workers=workers,
                on_event=cpu.on_event,
                cores=own,
                arrival_stamps=load.clock == "arrival",
                registry=registry,
            ) as driver:
                driver.start()
                cpu.watch(list(driver.pids().values()))
                driver.go(now_ns() + NS_PER_S)
                while not driver.wait(1.0):
                    pass
            server.stop()
        truth = read_truth(truth_path)
        rows = read_table(sorted(run_dir.requests_dir.glob("*.arrows")), REQUESTS).to_pylist()
    if not rows:
        raise TrafficError("the load generator recorded nothing during calibration")
    levels = []
    for factor in factors:
        of_stage = [row for row in rows if row["stage"] == _name(factor)]
        if of_stage:
            levels.append(_level(load, workers, factor, of_stage, truth, cpu, bound_s))
    return levels


def _name(factor: float) -> str:
    return f"x{factor:g}"


def _profile(load: Load, factors: Sequence[float], *, quick: bool) -> Profile:
    """Single-turn requests of the load's sizes. Response lengths vary from half to one and a half
    of their mean, so that streams do not stay in step; a mean of at most 0.75 or 4 s keeps levels
    short: the load of a level goes on for one response after its window, then drains.
    """
    longest_s, warmup_s, window_s = (0.75, 0.5, 2.0) if quick else (4.0, 1.0, 4.0)
    output_tok = max(2, min(load.output_tok, round(longest_s * 1000 / load.gap_ms)))
    bytes_per_tok = len(Texts(0, DEFAULT_TOK_PER_WORD).escaped(Block("calibrate", 2000))) / 2000
    head_tok = max(1, round((load.body_bytes - _FIXED_BYTES) / bytes_per_tok) - 16)
    workload = {
        "kind": "chat",
        "system_tok": head_tok,
        "user_tok": 16,
        "turns": 1,
        "think_s": 0,
        "context_limit_tok": head_tok + 100_000,
        "output_tok": {
            "kind": "uniform",
            "min": max(1, output_tok // 2),
            "max": output_tok + output_tok // 2,
        },
    }
    stages: list[dict[str, Any]] = []
    for factor in factors:
        stage: dict[str, Any] = {
            "name": _name(factor),
            "warmup_s": warmup_s,
            "window_s": window_s,
            "max_in_flight": 100_000,
        }
        if load.requests_per_s is None:
            stage |= {"kind": "concurrency", "concurrency": max(1, round(load.streams * factor))}
        else:
            # As many tokens per second as the load, even if its responses are longer than a level
            # allows.
            rate = load.requests_per_s * factor * load.output_tok / output_tok
            stage |= {"kind": "arrival_rate", "rate_per_s": rate, "process": load.process}
            if load.shape is not None and load.process == "gamma":
                stage["cv"] = load.shape**-0.5
            elif load.shape is not None:
                stage["weibull_shape"] = load.shape
        stages.append(stage)
    return Profile.model_validate(
        {
            "purpose": "smoke",
            "model": {"id": MODEL},
            "server": {"kind": "attach", "urls": ["http://127.0.0.1:1"]},
            "traffic": {
                "api": load.api,
                "workload": workload,
                "load": stages,
                "context_scale": 1,
                "drain_timeout_s": 20,
            },
        }
    )


def _level(
    load: Load,
    workers: int,
    factor: float,
    rows: Sequence[Mapping[str, Any]],
    truth: Mapping[str, Mapping[str, Any]],
    cpu: _Cpu,
    bound_s: float,
) -> Level:
    name = _name(factor)
    start_ns, end_ns = cpu.windows[name]
    inside = [row for row in rows if start_ns <= row["intended_ns"] < end_ns]
    errors = pair(inside, truth)
    spreads = errors.spreads()
    failed = sum(row["outcome"] != Outcome.OK for row in inside) + errors.unpaired
    window_s = seconds(end_ns - start_ns)
    lines = (truth.get(row["request_id"], {}) for row in rows)
    written = [t_ns for line in lines for t_ns in line.get("content_ns", ())]
    in_window = sum(start_ns <= t_ns < end_ns for t_ns in written)
    before, after = cpu.starts[name], cpu.ends[name]
    length_s = seconds(after.t_ns - before.t_ns)
    client_s = [b - a for a, b in zip(before.client_s, after.client_s, strict=True)]
    server_s = after.server_s - before.server_s
    worker_cpu = max(client_s) / length_s if client_s else None
    why_not = _why_not(spreads, failed, worker_cpu, bound_s)
    return Level(
        workers=workers,
        factor=factor,
        streams=None if load.requests_per_s is not None else max(1, round(load.streams * factor)),
        requests_per_s=round(len(errors.ttft_s) / window_s, 3),
        events_per_s=round(in_window / window_s, 1),
        requests=len(errors.ttft_s),
        failed=failed,
        **spreads,
        client_us_per_event=round(sum(client_s) / len(written) * 1e6, 2) if written else None,
        server_us_per_event=round(server_s / len(written) * 1e6, 2) if written else None,
        worker_cpu=None if worker_cpu is None else round(worker_cpu, 3),
        server_cpu=round(server_s / length_s, 3),
        within=why_not is None,
        why_not=why_not,
    )


def _why_not(
    spreads: Mapping[str, Spread], failed: int, worker_cpu: float | None, bound_s: float
) -> str | None:
    if failed:
        return f"{failed} requests failed"
    for key, found in spreads.items():
        if found.p99_s is None:
            return f"no {key.replace('_', ' ')} was measured"
        if found.p99_s > bound_s:
            return f"p99 of {key.replace('_', ' ')} is {found.p99_s * 1e3:.1f} ms"
    if worker_cpu is not None and worker_cpu > CPU_LIMIT:
        return f"a worker used {worker_cpu:.0%} of a core"
    return None
