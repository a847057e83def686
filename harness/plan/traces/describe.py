"""`describe_trace`: statistics of a trace, in one pass and bounded memory."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.units import human_duration, human_number
from harness.plan.traces.counts import Counts, Moments, SeenBlocks
from harness.plan.traces.open import open_trace
from harness.plan.traces.records import Clock, ReadTally, Trace
from harness.plan.traces.servegen import ServeGenTrace

QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MAX_LABELS: Final = 64
"""Stop reasons and classes that are counted separately; the rest are counted together."""
COMPACTION_SHARE: Final = 0.6
COMPACTION_FROM_TOK: Final = 30_000
"""A prompt below 0.6 of the previous one in its session looks like a compaction, if that one had
more than 30,000 tokens.
"""
HIT_RULE: Final = (
    "an infinite cache of complete blocks: for each request in the trace's order, the blocks from"
    " its start that all occurred in earlier requests of the same scope; the last block counts up"
    " to the prompt's end; sum over requests / sum of input tokens"
)
_NO_BLOCK_IDS: Final = "ideal prefix hit is not available: the trace has no block ids"


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Statistics of a distribution.

    Attributes:
        unit: tok, s, requests or empty.
        n: number of values.
        values: at `QUANTILES`.
        ln_mu: mean of the natural logarithm of the values above 0.
        ln_sigma: its standard deviation.
    """

    unit: str
    n: float
    values: tuple[float, ...]
    mean: float
    ln_mu: float | None
    ln_sigma: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON object with `p50` and so on, `mean`, `n`, `ln_mu`, `ln_sigma`, `unit`."""
        named = {f"p{q * 100:g}": value for q, value in zip(QUANTILES, self.values, strict=True)}
        return {
            "unit": self.unit,
            "n": self.n,
            **named,
            "mean": self.mean,
            "ln_mu": self.ln_mu,
            "ln_sigma": self.ln_sigma,
        }


@dataclass(frozen=True, slots=True)
class TraceDescription:
    """Statistics of a trace. None is not available, with the reason in `notes`.

    Attributes:
        clock: origin of times.
        requests: number; expected number if requests are drawn.
        sessions: without subagents; None if the trace has no sessions.
        subagents: sessions started by others; None as above.
        span_s: first to last request on one clock.
        distinct_times: number of different request times.
        arrival_cv: standard deviation over mean of the times between requests.
        ideal_hit: share of input tokens in an infinite prefix cache (`HIT_RULE`).
        distinct_blocks: different block ids over all scopes.
        compactions: steps that look like a compaction, of `steps`.
        steps: requests that follow another in their session.
        failed: rows left out as recorded failures.
        reordered: rows moved to their place in time.
    """

    path: str
    kind: str
    clock: str
    requests: float
    sessions: int | None
    subagents: int | None
    span_s: float | None
    distinct_times: int | None
    arrival_cv: float | None
    input_tok_total: float
    output_tok_total: float
    ideal_hit: float | None
    distinct_blocks: int | None
    compactions: int | None
    steps: int | None
    stops: Mapping[str, float]
    classes: Mapping[str, float]
    distributions: Mapping[str, Quantiles]
    failed: int
    reordered: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        plain = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("distributions", "stops", "classes", "notes")
        }
        return {
            **plain,
            "ideal_hit_rule": HIT_RULE,
            "stops": dict(self.stops),
            "classes": dict(self.classes),
            "distributions": {
                name: quantiles.to_dict() for name, quantiles in self.distributions.items()
            },
            "notes": list(self.notes),
        }

    def facts(self) -> list[tuple[str, str]]:
        """Single values, as rows of name and text."""
        rows = [("kind", self.kind), ("requests", f"{self.requests:,.0f}")]
        if self.sessions is not None:
            subagents = f", and {self.subagents:,} subagents" if self.subagents else ""
            rows.append(("sessions", f"{self.sessions:,}{subagents}"))
        rows.append(("span", "—" if self.span_s is None else human_duration(self.span_s)))
        rows.append(("arrival CV", human_number(self.arrival_cv, 3)))
        if self.distinct_times is not None:
            rows.append(("distinct times", f"{self.distinct_times:,}"))
        rows.append(("input tokens", f"{self.input_tok_total:,.0f}"))
        rows.append(("output tokens", f"{self.output_tok_total:,.0f}"))
        hit = "—" if self.ideal_hit is None else f"{self.ideal_hit:.2%}"
        rows.append(("ideal prefix hit", hit))
        if self.distinct_blocks is not None:
            rows.append(("distinct blocks", f"{self.distinct_blocks:,}"))
        if self.steps:
            rows.append(("compactions", f"{self.compactions:,} of {self.steps:,} steps"))
        for label, counted in (("stops", self.stops), ("classes", self.classes)):
            shown = [
                f"{name or '(blank)'} {number / self.requests:.1%}"
                for name, number in list(counted.items())[:6]
            ]
            if shown:
                rows.append((label, ", ".join(shown)))
        for label, number in (("failed, left out", self.failed), ("put in order", self.reordered)):
            if number:
                rows.append((label, f"{number:,}"))
        return rows

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of the table of distributions."""
        return ("", *(f"p{q * 100:g}" for q in QUANTILES), "mean", "ln mean/sd", "n")

    def rows(self) -> list[tuple[str, ...]]:
        """The table of distributions."""
        return [
            (
                name.removesuffix(f"_{d.unit}").replace("_", " ") + (d.unit and f" ({d.unit})"),
                *(human_number(value) for value in d.values),
                human_number(d.mean),
                "—" if d.ln_mu is None or d.ln_sigma is None else f"{d.ln_mu:.3f}/{d.ln_sigma:.3f}",
                f"{d.n:,.6g}" if d.n % 1 else f"{d.n:,.0f}",
            )
            for name, d in self.distributions.items()
        ]


def describe_trace(path: Path, kind: str = "auto") -> TraceDescription:
    """Read a complete trace and describe it.

    Raises:
        ProfileError: the file has another format; with file and line.
    """
    trace = open_trace(path, kind)
    if isinstance(trace, ServeGenTrace):
        return _describe_servegen(trace)
    return _describe_recorded(trace)


@dataclass(slots=True)
class _Live:
    """State of a session."""

    requests: int
    input_tok: int
    total_tok: int
    hit_tok: int
    stop: str | None
    first_s: float
    last_s: float
    subagent: bool


def _describe_recorded(trace: Trace) -> TraceDescription:
    tally = ReadTally()
    tokens = {name: Counts() for name in ("input", "output", "new_input", "first_input")}
    gaps = ("gap_after_tool_use", "gap_after_end_turn", "gap_after_other")
    seconds = {name: Counts(0.001) for name in (*gaps, "ttft", "session_span")}
    shares = {name: Counts(0.0001) for name in ("session_hit", "reasoning_share")}
    per_session = Counts()
    arrivals = Moments()
    seen = SeenBlocks()
    live: dict[str, _Live] = {}
    stops: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    requests = hit_tok = hashed = distinct = distinct_times = compactions = steps = sessions = (
        subagents
    ) = 0
    scope = ""
    last_s: float | None = None
    one_clock = trace.clock is Clock.TRACE

    def close() -> None:
        nonlocal sessions, subagents, steps
        for ended in live.values():
            if ended.subagent:
                subagents += 1
                continue
            sessions += 1
            steps += ended.requests - 1
            per_session.add(ended.requests)
            seconds["session_span"].add(ended.last_s - ended.first_s)
            if ended.total_tok and hashed:
                shares["session_hit"].add(ended.hit_tok / ended.total_tok)
        live.clear()

    for request in trace.requests(tally=tally):
        requests += 1
        if request.hash_scope != scope:
            scope = request.hash_scope
            seen.forget()
        if not one_clock and request.turn == 0 and request.parent_id is None:
            # Recordings come one after the other, so the sessions of earlier ones have ended.
            close()
        tokens["input"].add(request.input_tok)
        tokens["output"].add(request.output_tok)
        hit = 0
        if request.block_hashes is not None and request.block_tok is not None:
            leading = seen.leading(request.block_hashes)
            distinct += len(request.block_hashes) - leading
            hit = min(leading * request.block_tok, request.input_tok)
            hashed += 1
            tokens["new_input"].add(request.input_tok - hit)
        hit_tok += hit
        if one_clock:
            if last_s is not None:
                arrivals.add(request.t_s - last_s)
            distinct_times += request.t_s != last_s
            last_s = request.t_s
        for counter, label in ((stops, request.stop), (classes, request.workload_class)):
            if label is not None:
                counter[label if label in counter or len(counter) < MAX_LABELS else "(others)"] += 1
        if request.ttft_s is not None:
            seconds["ttft"].add(request.ttft_s)
        if request.reasoning_share is not None:
            shares["reasoning_share"].add(request.reasoning_share)
        if request.session_id is None:
            continue
        before = live.get(request.session_id)
        if before is None:
            tok, t_s, subagent = request.input_tok, request.t_s, request.parent_id is not None
            live[request.session_id] = _Live(1, tok, tok, hit, request.stop, t_s, t_s, subagent)
            if not subagent:
                tokens["first_input"].add(tok)
            continue
        if not before.subagent:
            compactions += (
                before.input_tok > COMPACTION_FROM_TOK
                and request.input_tok < COMPACTION_SHARE * before.input_tok
            )
            if request.gap_s is not None:
                after = before.stop if before.stop in ("tool_use", "end_turn") else "other"
                seconds[f"gap_after_{after}"].add(request.gap_s)
        before.requests += 1
        before.input_tok = request.input_tok
        before.total_tok += request.input_tok
        before.hit_tok += hit
        before.stop = request.stop
        before.last_s = request.t_s
    close()

    notes = list(trace.notes)
    cv = arrivals.cv()
    if not one_clock:
        notes.append(
            "arrival CV and span are not available: each recording has its own clock, and its start"
            " is unknown"
        )
    elif distinct_times < requests / 2:
        notes.append(
            f"only {distinct_times:,} distinct times for {requests:,} requests: do not fit the CV,"
            " it is that of rounded times"
        )
    ideal = None
    if not hashed:
        notes.append(_NO_BLOCK_IDS)
    elif hashed < requests:
        left = requests - hashed
        notes.append(f"ideal prefix hit is not available: {left:,} requests have no block ids")
    elif seen.full:
        notes.append("ideal prefix hit is not available: too many distinct block ids")
    else:
        ideal = hit_tok / tokens["input"].total()
    known_sessions = sessions + subagents > 0
    distributions = {
        **{f"{name}_tok": (counts, "tok") for name, counts in tokens.items()},
        "requests_per_session": (per_session, ""),
        **{f"{name}_s": (counts, "s") for name, counts in seconds.items()},
        **{name: (counts, "") for name, counts in shares.items()},
    }
    return TraceDescription(
        path=str(trace.path),
        kind=trace.kind,
        clock=trace.clock.value,
        requests=requests,
        sessions=sessions if known_sessions else None,
        subagents=subagents if known_sessions else None,
        span_s=last_s if one_clock else None,
        distinct_times=distinct_times if one_clock else None,
        arrival_cv=cv,
        input_tok_total=tokens["input"].total(),
        output_tok_total=tokens["output"].total(),
        ideal_hit=ideal,
        distinct_blocks=distinct if ideal is not None else None,
        compactions=compactions if known_sessions else None,
        steps=steps if known_sessions else None,
        stops=dict(stops.most_common()),
        classes=dict(classes.most_common()),
        distributions=_quantiles(distributions),
        failed=tally.failed,
        reordered=tally.reordered,
        notes=tuple(notes),
    )


def _quantiles(distributions: Mapping[str, tuple[Counts, str]]) -> dict[str, Quantiles]:
    """Statistics of each distribution that has values, from its counts and unit."""
    found: dict[str, Quantiles] = {}
    for name, (counts, unit) in distributions.items():
        if (mean := counts.mean()) is not None:
            values = tuple(value for value in counts.quantiles(QUANTILES) if value is not None)
            fit = counts.ln_fit() or (None, None)
            found[name] = Quantiles(unit, counts.n, values, mean, *fit)
    return found


def _describe_servegen(trace: ServeGenTrace) -> TraceDescription:
    """From the clients' rates and distributions: nothing is drawn, so no seed is involved."""
    tokens = {"input_tok": Counts(), "output_tok": Counts()}
    share, cv = Counts(0.0001), Counts(0.001)
    laws: Counter[str] = Counter()
    classes: dict[str, float] = {}
    requests = without = 0.0
    first_s, end_s = math.inf, 0.0
    for client in trace.clients():
        for window in client.windows:
            cv.add(window.cv, window.rate_per_s)
            laws[window.law] += 1
            first_s = min(first_s, window.start_s)
            end_s = max(end_s, window.start_s + window.length_s)
            lengths = window.lengths
            if lengths is None:
                without += window.expected
                continue
            requests += window.expected
            label = client.name
            if label not in classes and len(classes) >= MAX_LABELS:
                label = "(others)"
            classes[label] = classes.get(label, 0.0) + window.expected
            for counts, distribution in (
                (tokens["input_tok"], lengths.input_tok),
                (tokens["output_tok"], lengths.output_tok),
                (share, lengths.reasoning_share),
            ):
                if distribution is not None:
                    pairs = zip(distribution.values, distribution.weights, strict=True)
                    for value, weight in pairs:
                        counts.add(value, weight * window.expected)
    notes = [
        *trace.notes,
        (
            "values are from the clients' distributions, weighted by expected requests; client_cv"
            " is weighted by rate"
        ),
        "arrival CV is not available: the clients' gaps are distributions, see client_cv",
        _NO_BLOCK_IDS,
        f"windows by law: {', '.join(f'{law} {count}' for law, count in laws.most_common())}",
    ]
    if without:
        notes.append(
            f"{without:,.0f} expected requests are left out: their clients have no lengths for"
            " those hours"
        )
    distributions = {
        **{n: (c, "tok") for n, c in tokens.items()},
        "reasoning_share": (share, ""),
        "client_cv": (cv, ""),
    }
    return TraceDescription(
        path=str(trace.path),
        kind=trace.kind,
        clock=trace.clock.value,
        requests=round(requests, 6),
        sessions=None,
        subagents=None,
        span_s=end_s - first_s if end_s else None,
        distinct_times=None,
        arrival_cv=None,
        input_tok_total=tokens["input_tok"].total(),
        output_tok_total=tokens["output_tok"].total(),
        ideal_hit=None,
        distinct_blocks=None,
        compactions=None,
        steps=None,
        stops={},
        classes=dict(sorted(classes.items(), key=lambda item: -item[1])),
        distributions=_quantiles(distributions),
        failed=0,
        reordered=0,
        notes=tuple(notes),
    )
