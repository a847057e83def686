"""What a reduction yields. `to_dict` gives summary.json; None is unknown or absent, never 0."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.artifacts.decode import DecodeError, decode
from harness.artifacts.summaries import migrated, read_summary_json
from harness.core.errors import ArtifactError
from harness.core.records import Basis, Concern, Status


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a metric.

    Attributes:
        value: in `unit`; None when absent.
        unit: as in the metric's definition.
        ci_low: lower end of the 95 % interval within this run; None where there are too few
            effective batches.
        ci_high: its upper end.
        basis: measured, modelled (uses a stated assumption such as a price) or absent.
        boundary: `client`, `server`, `deployment` or a power boundary; None when absent.
        window: name of the stage in whose window it was taken.
        note: why it is absent, or where it comes from.
        systematic_ratio: 95 % bound of an error that no repetition removes, relative to the value
            (gain of the power sensors); None where there is none or nobody knows it.
        systematic_low: lower end of the interval of that error alone.
        systematic_high: its upper end.
    """

    value: float | None
    unit: str
    ci_low: float | None = None
    ci_high: float | None = None
    basis: Basis = Basis.MEASURED
    boundary: str | None = None
    window: str | None = None
    note: str | None = None
    systematic_ratio: float | None = None
    systematic_low: float | None = None
    systematic_high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "value": self.value,
            "unit": self.unit,
            "ci_low": self.ci_low,
            "ci_high": self.ci_high,
            "basis": str(self.basis),
            "boundary": self.boundary,
            "window": self.window,
            "note": self.note,
            "systematic_ratio": self.systematic_ratio,
            "systematic_low": self.systematic_low,
            "systematic_high": self.systematic_high,
        }


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution over requests (over gaps for itl_s and inter_event_s), in seconds.

    Requests that never came to the moment in question are right-censored: percentiles that reach
    into their share are None, and so are mean and max as soon as there is one.

    Attributes:
        n: observed values.
        censored: values that are only known to be larger than what was waited for.
        ci: 95 % intervals within this run of the mean and the percentiles, by name, None where
            there are too few effective samples; empty where none were asked for.
    """

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    max: float | None = None
    min: float | None = None
    n: int = 0
    censored: int = 0
    ci: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "mean": self.mean,
            "p50": self.p50,
            "p90": self.p90,
            "p95": self.p95,
            "p99": self.p99,
            "p999": self.p999,
            "max": self.max,
            "n": self.n,
            "min": self.min,
            "censored": self.censored,
            "ci": {
                key: list(interval) if interval is not None else None
                for key, interval in self.ci.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Window:
    """The measured stretch of time, in seconds from the run's start; None where it is not known.

    Attributes:
        steady: what the steady-state test found: `steady`, `slice_s`, `slices`, `warmup_s` and per
            signal `warmup_s`, `drift`, `change` (a share of its mean; of ratios in their own unit)
            and the trend's `p_value`; None where it was not made.
    """

    start_s: float | None
    end_s: float | None
    duration_s: float | None
    rule: str
    steady: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "start_s": self.start_s,
            "end_s": self.end_s,
            "duration_s": self.duration_s,
            "rule": self.rule,
            "steady": self.steady,
        }


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

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "planned": self.planned,
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "dropped": self.dropped,
            "cancelled": self.cancelled,
            "by_outcome": dict(self.by_outcome),
            "in_window": self.in_window,
            "turns_not_happened": self.turns_not_happened,
            "primed": self.primed,
        }


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
        tokenizer: the third account, the model's tokenizer on a sample of the requests
            (`harness.reduce.verdict.recount`); {} in summaries of before there was one.
    """

    client: float | None
    server: float | None
    relative_difference: float | None
    tolerance: float | None
    ok: bool | None
    note: str | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "client": self.client,
            "server": self.server,
            "relative_difference": self.relative_difference,
            "tolerance": self.tolerance,
            "ok": self.ok,
            "note": self.note,
            "tokenizer": dict(self.tokenizer),
        }


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One load stage by itself."""

    name: str
    kind: str | None
    window: Window
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "name": self.name,
            "kind": self.kind,
            "window": self.window.to_dict(),
            "requests": self.requests.to_dict(),
            "metrics": {key: figure.to_dict() for key, figure in self.metrics.items()},
            "latency": {key: distribution.to_dict() for key, distribution in self.latency.items()},
        }


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

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "name": self.name,
            "requests": self.requests.to_dict(),
            "metrics": {key: figure.to_dict() for key, figure in self.metrics.items()},
            "latency": {key: distribution.to_dict() for key, distribution in self.latency.items()},
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the run can be trusted, and every reason to doubt it, worst first."""

    status: Status
    concerns: tuple[Concern, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "status": str(self.status),
            "concerns": [
                {
                    "code": c.code,
                    "severity": str(c.severity),
                    "message": c.message,
                    "value": c.value,
                    "limit": c.limit,
                }
                for c in self.concerns
            ],
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, reduced.

    Attributes:
        state: of the run directory: complete, interrupted or failed; a run whose manifest still
            says running is `interrupted`.
        profile: name, purpose, workload_sha256, plan_sha256.
        labels: words that belong beside the figures: output_length, context_scale, load_format,
            tokens_in_chunks, input_split.
        slos: SLOs of the profile, by key; None is not set.
        server: server's counters and gauges over the window, by concept.
        host: load of the client's and the server's processes over the window.
        client: how far the load generator's clock can be trusted: `canary`, `calibration`, `load`;
            each None where there is none.
        energy: joules of the headline's window in detail
            (`harness.reduce.figures.run_energy.RunEnergy`): boundaries, idle, ladder, attribution,
            classes, boards, carbon.
        classes: the headline's window by class of requests, in the order of their names.
        rosetta: the same records under other tools' definitions
            (`harness.reduce.figures.other_tools`).
        quality: the answers' check before and after the load (`harness.reduce.verdict.answers`); {}
            where there was none.
    """

    schema_version: int
    metric_version: int
    run_id: str
    state: str
    profile: Mapping[str, str | None]
    verdict: Verdict
    window: Window
    requests: RequestCounts
    metrics: Mapping[str, Figure]
    latency: Mapping[str, Distribution]
    reconciliation: Mapping[str, Agreement]
    stages: tuple[StageSummary, ...]
    labels: Mapping[str, str | float | None] = field(default_factory=dict)
    slos: Mapping[str, float | None] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    classes: tuple[ClassSummary, ...] = ()
    rosetta: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    energy: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Summary":
        """The summary that `to_dict` gave, of this or an older version of the schema.

        Raises:
            ArtifactError: a newer version, or something that is missing or of another kind than it
                should be.
        """
        current = migrated(raw)
        try:
            summary: Summary = decode(cls, current)
        except DecodeError as error:
            raise ArtifactError(
                f"this is no summary: {error}", cause="it was edited or damaged"
            ) from error
        return summary

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "schema_version": self.schema_version,
            "metric_version": self.metric_version,
            "run_id": self.run_id,
            "state": self.state,
            "profile": dict(self.profile),
            "verdict": self.verdict.to_dict(),
            "window": self.window.to_dict(),
            "requests": self.requests.to_dict(),
            "metrics": {key: figure.to_dict() for key, figure in self.metrics.items()},
            "latency": {key: distribution.to_dict() for key, distribution in self.latency.items()},
            "reconciliation": {
                key: agreement.to_dict() for key, agreement in self.reconciliation.items()
            },
            "stages": [stage.to_dict() for stage in self.stages],
            "labels": dict(self.labels),
            "slos": dict(self.slos),
            "server": dict(self.server),
            "host": dict(self.host),
            "client": dict(self.client),
            "notes": list(self.notes),
            "classes": [one.to_dict() for one in self.classes],
            "rosetta": dict(self.rosetta),
            "quality": dict(self.quality),
            "energy": dict(self.energy),
        }


def read_summary(path: Path) -> Summary:
    """A summary.json of this or an older version of the schema.

    Raises:
        ArtifactError: it cannot be read, is damaged, or a newer harness made it.
    """
    return Summary.from_dict(read_summary_json(path))
