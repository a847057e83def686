"""summary.json: the result of a reduction. None is unknown or absent, never 0."""

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

OPTIONAL: Final = ("headline", "server", "rosetta", "quality")
"""Blocks that are {} in JSON if absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal of the steady-state test.

    Attributes:
        warmup_s: to exclude at the beginning.
        drift: it keeps changing by more than the tolerance.
        change: over the tested interval, relative to its mean (for ratios: absolute); None if the
            mean is 0.
        p_value: of the trend.
    """

    warmup_s: Number
    drift: bool
    change: Number | None = None
    p_value: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """Result of the steady-state test: `steady` if no signal drifts; `warmup_s` of the slowest
    settling signal.
    """

    steady: bool
    slice_s: Number
    slices: int
    warmup_s: Number
    signals: Mapping[str, Signal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """The measurement window, in seconds from the run's start."""

    start_s: Number | None
    end_s: Number | None
    duration_s: Number | None
    rule: str
    steady: Steady | None = None


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """How requests ended. `failed`: tried, but neither completed nor canceled by plan; `dropped`:
    never sent.

    Attributes:
        planned: None for a closed loop bounded by time.
        in_window: scheduled in the window: the basis of latency, SLOs and goodput.
        turns_not_happened: turns after a failed or dropped one of their session.
        primed: completed requests that warmed the caches of sessions that start in their middle;
            not in the other counts.
        by_stop_reason: responses per stop reason; those without one are not counted.
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
    by_stop_reason: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recount:
    """Token count of a sample of the requests by the model's tokenizer.

    Attributes:
        requests: in the sample, `of` completed ones.
        usage: the server's count of the sample.
        tokenizer: the tokenizer's count, with the chat template if there is one.
        text_only: without the template.
        relative_difference: (usage - tokenizer) / usage.
        expected: maximum expected size of it; `ok`: it is within.
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
    """The client's token count compared with the server's, over the whole run.

    Attributes:
        client: tokens by the responses' usage.
        server: increase of the server's counter; None without one.
        relative_difference: (client - server) / server.
        tolerance: tokens that the server may have counted beyond the client: those requested by
            streams without usage.
        ok: None if there is nothing to compare.
        tokenizer: the third count.
    """

    client: Number | None
    server: Number | None
    relative_difference: Number | None
    tolerance: Number | None
    ok: bool | None
    note: str | None = None
    tokenizer: Recount = field(default_factory=Recount)


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """The load stage whose metrics head the summary.

    Attributes:
        stage: its name.
        rule: `harness.core.records.HeadlineRule`, or the stage's name if the profile gives it.
        reason: why this stage, in words.
    """

    stage: str
    rule: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One load stage.

    Attributes:
        concerns: of its window, requests and energy, worst first; `invalid` ones mean that its
            metrics support no claim. Those of the run as a whole are in the verdict.
    """

    name: str
    kind: str | None
    window: Window
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]
    concerns: tuple[Concern, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """One class of requests (a part of a mix, subagents of a trace) in the headline window.

    Attributes:
        requests: over the headline stage; `planned` and `turns_not_happened` are unknown by class.
        metrics: those that exist by class: no power, no price; allocated energy as `modelled`.
    """

    name: str
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Validity of the run, and every concern, worst first."""

    status: Status
    concerns: tuple[Concern, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileName:
    """The profile of the run."""

    name: str | None = None
    purpose: str | None = None
    workload_sha256: str | None = None
    plan_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels to show next to the results.

    Attributes:
        tokens_in_chunks: `told` or `not told`: whether the stream reports tokens per chunk.
        input_split: source of the share of cached input.
        quality: `verified` or `quality unverified`.
        server_metrics: server whose metric names were found.
        power_limit: `500 of 700 W` if a limit below the default applied.
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
    """SLOs of the profile."""

    ttft_s: Number | None = None
    tpot_s: Number | None = None
    e2e_s: Number | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, reduced.

    Attributes:
        state: complete, interrupted or failed; `running` in the manifest becomes `interrupted`.
        headline: the stage of `window`, `metrics` and everything else that is of one stage; None
            without one, and in summaries of early versions.
        server: None without scrapes.
        host: CPU and memory of client and server processes in the window, by scope.
        classes: the headline window by class of requests, ordered by name.
        rosetta: None without completed requests.
        quality: None without a check.
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
    headline: Headline | None = None
    energy: RunEnergy = field(default_factory=RunEnergy)

    def stage(self, name: str | None) -> StageSummary | None:
        """The load stage of a name."""
        return next((one for one in self.stages if one.name == name), None)


def summary_json(summary: Summary) -> dict[str, Any]:
    """A summary as the JSON value of summary.json."""
    raw: dict[str, Any] = to_json(summary)
    idle = raw["energy"]["idle"]
    raw["energy"]["idle"] = {key: value for key, value in idle.items() if value is not None}
    return raw | {key: raw[key] or {} for key in OPTIONAL}


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
"""Replacements for missing or damaged blocks in a lenient read; they claim nothing."""


def read_summary(path: Path, *, lenient: bool = False) -> Summary:
    """Read a summary.json. `lenient`: ignore damaged parts; a damaged verdict is invalid.

    Raises:
        ArtifactError: it cannot be read, is damaged, or is from a newer harness.
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
    again = f"rewrite it with `harness reduce {folder}`"
    try:
        raw = loads(text, huge=lenient)
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}", next_step=again) from error
    if not isinstance(raw, dict):
        raise ArtifactError(
            f"{path} is not a JSON object", cause="it was edited or damaged", next_step=again
        )
    version = raw.get("schema_version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema_version {version!r}; this harness reads up to {SCHEMA_VERSION}",
            cause="it is from a newer harness or damaged",
            next_step=f"{again}, or upgrade this harness",
        )
    absent = {key: None for key in OPTIONAL if not raw.get(key)}
    if lenient:
        return read_leniently(Summary, raw | absent, _BARE, where=path, next_step=again)
    return from_json(Summary, raw | absent, "summary", where=path, next_step=again)
