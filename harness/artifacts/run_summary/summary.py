"""summary.json: what a reduction gives. None is unknown or absent, never 0."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.artifacts.layout import SCHEMA_VERSION
from harness.artifacts.run_summary.answers import Quality
from harness.artifacts.run_summary.client import Client
from harness.artifacts.run_summary.energy import RunEnergy
from harness.artifacts.run_summary.figures import Distribution, Figure
from harness.artifacts.run_summary.other_tools import OtherTools
from harness.artifacts.run_summary.server import ScopeLoad, ServerFigures
from harness.artifacts.typed_json import Number, from_json, loads, read_leniently, to_json
from harness.core.errors import ArtifactError
from harness.core.records import Concern, Status

_OPTIONAL: Final = ("server", "rosetta", "quality")
"""Blocks that are {} in JSON where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What became of one signal of the steady-state test.

    Attributes:
        warmup_s: to be left out at the beginning.
        drift: it goes on changing, by more than is tolerated.
        change: over the tested stretch, as a share of its mean (of ratios in their own unit); None
            when its mean is 0.
        p_value: of the trend.
    """

    warmup_s: Number
    drift: bool
    change: Number | None = None
    p_value: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What the steady-state test found: `steady` where no signal drifts, the warm-up of the slowest
    one that settles.
    """

    steady: bool
    slice_s: Number
    slices: int
    warmup_s: Number
    signals: Mapping[str, Signal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """The measured stretch of time, in seconds from the run's start; None where it is not known.

    Attributes:
        steady: None where the test was not made.
    """

    start_s: Number | None
    end_s: Number | None
    duration_s: Number | None
    rule: str
    steady: Steady | None = None


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """How requests ended. `failed` was tried but neither answered in full nor cancelled by plan;
    `dropped` was never sent.

    Attributes:
        planned: None for a closed loop that is bounded by time.
        in_window: intended in the window: the ones that latency, SLOs and goodput are about.
        turns_not_happened: turns behind a failed or dropped one of their conversation; None where
            the run did not tell.
        primed: answered requests that warmed the caches of conversations that start in their
            middle; in none of the other counts.
    """

    planned: int | None
    sent: int
    ok: int
    failed: int
    dropped: int
    cancelled: int
    by_outcome: Mapping[str, int]
    in_window: int | None
    turns_not_happened: int | None = None
    primed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """The model's tokenizer on a sample of the requests; all but `note` are None where nothing was
    counted.

    Attributes:
        requests: counted.
        of: answered.
        usage: the server's count of these requests.
        tokenizer: its own count, with the chat template where there is one.
        text_only: without.
        relative_difference: (usage - tokenizer) / usage.
        expected: its largest expected size.
        ok: it is within that.
    """

    requests: int | None = None
    of: int | None = None
    usage: Number | None = None
    tokenizer: Number | None = None
    text_only: Number | None = None
    relative_difference: Number | None = None
    expected: Number | None = None
    ok: bool | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """The client's count of tokens held against the server's, over the whole run.

    Attributes:
        client: tokens by the usage that came with the answers.
        server: difference of the server's counter; None without one.
        relative_difference: (client - server) / server; None where that is unknown.
        tolerance: how many tokens the server may have counted beyond the client: what streams
            without usage had asked for.
        ok: None when there is nothing to hold against each other.
        note: in words.
        tokenizer: the third account.
    """

    client: Number | None
    server: Number | None
    relative_difference: Number | None
    tolerance: Number | None
    ok: bool | None
    note: str | None = None
    tokenizer: Recount = field(default_factory=Recount)


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One load stage by itself."""

    name: str
    kind: str | None
    window: Window
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class of requests (a part of a mix, subagents of a trace) by itself, in the window that
    heads the summary.

    Attributes:
        name: the class, as in the records.
        requests: counts of the class over the headline's stage; `planned` and `turns_not_happened`
            are not known by class.
        metrics: figures that can be told apart by class: no power and no price; energy where it was
            allocated, as modelled.
        latency: as the summary's.
    """

    name: str
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the run can be trusted, and every reason to doubt it, worst first."""

    status: Status
    concerns: tuple[Concern, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileName:
    """Which profile was run; None is not known."""

    name: str | None = None
    purpose: str | None = None
    workload_sha256: str | None = None
    plan_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Words that belong next to the figures; None is not known.

    Attributes:
        tokens_in_chunks: `told` or `not told`: whether the stream reports how many tokens a chunk
            has.
        input_split: where the share of cached input is from.
        quality: `verified` or `quality unverified`.
        server_metrics: whose names the scraped metrics have.
        power_limit: `500 of 700 W` where a limit below the default was in force.
    """

    output_length: str | None = None
    assistant: str | None = None
    context_scale: Number | None = None
    load_format: str | None = None
    tokens_in_chunks: str | None = None
    input_split: str | None = None
    quality: str | None = None
    server_metrics: str | None = None
    power_limit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slos:
    """SLOs of the profile; None is not set."""

    ttft_s: Number | None = None
    tpot_s: Number | None = None
    e2e_s: Number | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, reduced.

    Attributes:
        state: of the run directory: complete, interrupted or failed; a run whose manifest still
            says running is `interrupted`.
        server: the server's own figures over the window; None without scrapes.
        host: load of the client's and the server's processes over the window, by scope.
        classes: the headline's window by class of requests, in the order of their names.
        rosetta: the same records under other tools' definitions; None where nothing was answered.
        quality: the answers' check; None where there was none.
        energy: joules of the headline's window in detail.
    """

    schema_version: int
    metric_version: int
    run_id: str
    state: str
    profile: ProfileName
    verdict: Verdict
    window: Window
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]
    reconciliation: Mapping[str, Agreement]
    stages: tuple[StageSummary, ...]
    labels: Labels = field(default_factory=Labels)
    slos: Slos = field(default_factory=Slos)
    server: ServerFigures | None = None
    host: Mapping[str, ScopeLoad] = field(default_factory=dict)
    client: Client = field(default_factory=Client)
    notes: tuple[str, ...] = ()
    classes: tuple[ClassSummary, ...] = ()
    rosetta: OtherTools | None = None
    quality: Quality | None = None
    energy: RunEnergy = field(default_factory=RunEnergy)


def summary_json(summary: Summary) -> dict[str, Any]:
    """A summary as the JSON value of summary.json."""
    raw: dict[str, Any] = to_json(summary)
    idle = raw["energy"]["idle"]
    raw["energy"]["idle"] = {key: value for key, value in idle.items() if value is not None}
    return raw | {key: raw[key] or {} for key in _OPTIONAL}


_BARE: Final[dict[str, Any]] = {
    "run_id": "",
    "state": "",
    "profile": {},
    "verdict": {"status": "invalid"},
    "window": {"start_s": None, "end_s": None, "duration_s": None, "rule": "not recorded"},
    "metrics": {},
    "latency": {},
    "reconciliation": {},
    "stages": [],
}
"""What stands for blocks that are missing or damaged, where that is borne: nothing is claimed."""


def read_summary(path: Path, *, lenient: bool = False) -> Summary:
    """A summary.json.

    Args:
        path: the file.
        lenient: leave out what is damaged; a verdict that is makes the run invalid.

    Raises:
        ArtifactError: it cannot be read, is damaged, or a newer harness made it.
    """
    folder = path.parent
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ArtifactError(
            f"{folder} has no summary: {path.name} cannot be read ({reason})",
            cause="the run was killed before it was reduced",
            next_step=f"harness reduce {folder}",
        ) from error
    again = f"harness reduce {folder} writes it again"
    try:
        raw = loads(text, huge=lenient)
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}", next_step=again) from error
    if not isinstance(raw, dict):
        raise ArtifactError(
            f"{path} holds no JSON object", cause="it was edited or damaged", next_step=again
        )
    version = raw.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version!r}; this harness reads up to {SCHEMA_VERSION}",
            cause="it was made by a newer harness, or damaged",
            next_step=f"{again}, or upgrade this harness",
        )
    absent = {key: None for key in _OPTIONAL if not raw.get(key)}
    if lenient:
        return read_leniently(Summary, raw | absent, _BARE, where=path, next_step=again)
    return from_json(Summary, raw | absent, "summary", where=path, next_step=again)
