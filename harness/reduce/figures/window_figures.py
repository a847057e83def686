"""Metrics of one window: latency of the requests scheduled in it, tokens that arrived in it, energy
of the same time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.artifacts.run_summary import Distribution, Figure, RequestCounts, Slos
from harness.core.metric_names import Concept
from harness.core.metrics import METRICS
from harness.core.records import Basis, Concern, Outcome
from harness.profile.recorded import RecordedPrice
from harness.reduce.energy.window import WindowEnergy, Work, put_energy, window_energy
from harness.reduce.over_time.counters import ServerCounters
from harness.reduce.over_time.flow import SumOf
from harness.reduce.over_time.flows import Flows
from harness.reduce.over_time.tokens import gaps, moments
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Ints, Requests
from harness.reduce.read.run import Run, gpu_count
from harness.reduce.statistics.intervals import Floats, distribution, mean_interval
from harness.reduce.windows.figure_set import NS, FigureSet
from harness.reduce.windows.measurement_window import StageWindow


def count(
    requests: Requests,
    mine: Bools,
    planned: int | None,
    in_window: Bools | None,
    turns_not_happened: int | None,
) -> RequestCounts:
    """How the requests of `mine` ended; priming requests are counted separately."""
    primed = int(np.sum(mine & requests.priming & requests.ok))
    mine = mine & ~requests.priming
    return RequestCounts(
        planned=planned,
        sent=int(np.sum(mine & ~requests.dropped)),
        ok=int(np.sum(mine & requests.ok)),
        failed=int(np.sum(mine & requests.failed)),
        dropped=int(np.sum(mine & requests.dropped)),
        cancelled=int(np.sum(mine & requests.cancelled)),
        by_outcome=requests.outcome[mine].counts(),
        in_window=int(np.sum(in_window)) if in_window is not None else None,
        turns_not_happened=turns_not_happened,
        primed=primed,
        by_stop_reason={name: n for name, n in requests.stop_reason[mine].counts().items() if name},
    )


def intended_in(requests: Requests, window: StageWindow) -> Bools:
    """Requests scheduled in the stage's window."""
    if window.start is None or window.end is None:
        return np.zeros(len(requests), dtype=bool)
    mine: Bools = requests.stage == window.name
    return mine & (requests.intended >= window.start) & (requests.intended < window.end)


def latency(requests: Requests, mine: Bools, flow: Flows) -> dict[str, Distribution]:
    """Distributions over the requests of `mine`. Planned cancellations count only for what came
    before them.
    """
    ok, cancelled = requests.ok[mine], requests.cancelled[mine]
    lost = ~(ok | cancelled)
    start, first = requests.intended[mine], requests.first_token[mine]
    censored = int(np.sum(lost))
    # A request that failed after its first token counts as lost for every latency.
    began = ok | (cancelled & ~np.isnan(first))

    def seconds(took: Floats, counted: Bools) -> Distribution:
        """Distribution over counted requests, with the lost ones censored, and its intervals
        (requests are in order of scheduled time). `took` is overwritten.
        """
        values = took[counted]
        took[~counted] = np.nan
        took[lost] = np.inf
        requests.release()
        return distribution(values, censored, series=took)

    def from_sent(moment: Floats) -> Floats:
        return (moment - requests.sent[mine]) * NS

    lag = (requests.sent[mine] - start) * NS
    gap_s, weight = gaps(requests, mine & ~requests.in_bursts, told=flow.output.told)
    broken = int(np.sum(lost & ~np.isnan(first)))  # broken streams: one censored gap each
    between = distribution(gap_s, broken, weight)
    empty = Distribution()
    return {
        "ttft_s": seconds((first - start) * NS, began),
        "ttft_from_sent_s": seconds(from_sent(first), began),
        "tpot_s": seconds(flow.tpot_s[mine], ok),
        "itl_s": between if flow.output.told else empty,
        "inter_event_s": empty if flow.output.told else between,
        "e2e_s": seconds((_last(requests, mine) - start) * NS, ok),
        "e2e_from_sent_s": seconds(from_sent(_last(requests, mine)), ok),
        "schedule_lag_s": distribution(lag, int(np.sum(np.isnan(lag)))),
    }


def good(requests: Requests, mine: Bools, flow: Flows, slos: Slos) -> Bools:
    """Completed requests of `mine` that met every SLO; an undefined latency (TPOT of one token)
    meets it. A response that came in bursts has no TPOT; its time from sending per token is an
    upper bound.
    """
    met: Bools = mine & requests.ok

    def first() -> Floats:
        return np.where(np.isnan(requests.first_token), _last(requests), requests.first_token)

    def pace_s() -> Floats:
        bursts = np.flatnonzero(requests.in_bursts)
        last, tok = _last(requests, bursts), requests.output_tok[bursts]
        out = flow.tpot_s.copy()
        out[bursts] = (last - requests.sent[bursts]) * NS / np.maximum(tok - 1, 1)
        return out

    figures: tuple[tuple[float | None, Callable[[], Floats]], ...] = (
        (slos.ttft_s, lambda: (first() - requests.intended) * NS),
        (slos.tpot_s, pace_s),
        (slos.e2e_s, lambda: (_last(requests) - requests.intended) * NS),
    )
    for limit, values in figures:
        if limit is not None:
            with np.errstate(invalid="ignore"):
                met &= ~(values() > limit)
    return met


def _last(requests: Requests, rows: Bools | Ints | slice = slice(None)) -> Floats:
    """Last token, else the end of the response."""
    last = requests.last_token[rows]
    return np.where(np.isnan(last), requests.done[rows], last)


@dataclass(frozen=True, slots=True)
class StageFigures:
    """Metrics of one window."""

    metrics: dict[str, Figure]
    latency: dict[str, Distribution]
    energy: WindowEnergy | None
    input_split: str | None

    @property
    def energy_concerns(self) -> list[Concern]:
        if self.energy is None:
            return []
        return [
            *self.energy.concerns,
            *(concern for one in self.energy.energies for concern in one.concerns),
        ]


def window_figures(
    run: Run,
    window: StageWindow,
    flow: Flows,
    counters: ServerCounters | None,
    slos: Slos,
    price: RecordedPrice,
    who: Bools | None = None,
) -> StageFigures:
    """All metrics of one window, over all requests or over `who` (then `flow` is theirs)."""
    requests = run.requests
    mine, ok = intended_in(requests, window), requests.ok
    if who is not None:
        mine, ok = mine & who, ok & who
    out = FigureSet(window)
    distributions = latency(requests, mine, flow)
    requests.release()
    if window.start is None or window.end is None:
        for key, definition in METRICS.items():
            if definition.kind == "value":
                out.absent(key, "there is no measurement window")
        return StageFigures(out.figures, distributions, None, None)
    start, end = window.start, window.end

    interval = _throughput(out, flow)
    split = _input(out, flow, counters)
    answered = ok & (requests.done >= start) & (requests.done < end)
    out.rate("requests_per_s", moments(requests, requests.done, ok))
    _goodput(out, requests, mine, flow, slos)
    requests.release()
    pace = distributions["tpot_s"]
    for key, name in (("interactivity_tok_s_user", "p50"), ("interactivity_p90_tok_s_user", "p90")):
        seconds = getattr(pace, name)
        bounds = pace.ci.get(name)
        speeds = (1 / bounds[1], 1 / bounds[0]) if bounds is not None and bounds[0] > 0 else None
        out.put(
            key,
            1 / seconds if seconds else None,
            speeds,
            note=None if seconds else f"TPOT has no {name}",
        )
    in_flight = out.interval(flow.in_flight.per_bin, np.diff)
    out.put("requests_in_flight", flow.in_flight.between(start, end) / (end - start), in_flight)
    done_right = mine & requests.ok
    for key, values in (
        ("mean_input_tok", requests.input_tok),
        ("mean_output_tok", requests.output_tok),
    ):
        known = values[done_right][~np.isnan(values[done_right])]
        if len(known):
            out.put(key, float(np.mean(known)), mean_interval(known))
        else:
            out.absent(key, "no response reported a token count")

    gpus = gpu_count(run)
    output_tok_s = out.figures["output_tok_s"].value
    if gpus is None:
        out.absent("output_tok_s_per_gpu", "the deployment has no GPU")
    elif output_tok_s is not None:
        scaled = (interval[0] / gpus, interval[1] / gpus) if interval else None
        out.put(
            "output_tok_s_per_gpu",
            output_tok_s / gpus,
            scaled,
            note="the deployment's only GPU" if gpus == 1 else f"all {gpus} GPUs of the deployment",
        )
    _dollars(out, price)
    joules = window_energy(run, start, end)
    work = Work(
        flow.output.flow,
        flow.input,
        flow.computed,
        out.figures["input_computed_tok_s"].value,
        moments(requests, requests.done, answered),
    )
    put_energy(out, joules, work, run.profile.energy, nothing_read=run.power is None)
    ordered = {key: out.figures[key] for key in METRICS if key in out.figures}
    ordered |= {key: figure for key, figure in out.figures.items() if key not in ordered}
    return StageFigures(ordered, distributions, joules, split)


def _throughput(out: FigureSet, flow: Flows) -> tuple[float, float] | None:
    note = None
    streams = int(np.sum(flow.output.estimated))
    if streams:
        note = (
            f"{flow.output.estimated_tok:.0f} tokens of {streams} streams without usage (whole run)"
            " are estimated from bytes"
        )
    interval = out.rate("output_tok_s", flow.output.flow, note)
    out.rate("input_tok_s", flow.input)
    out.rate("total_tok_s", SumOf((flow.output.flow, flow.input)))
    return interval


def _input(out: FigureSet, flow: Flows, counters: ServerCounters | None) -> str | None:
    """Computed and cached input; returns the source of the split."""
    split: str | None = None
    read: float | None = None
    whole: float | None = None
    if flow.computed is not None and flow.cache_read is not None:
        split = "usage"
        note = None
        if flow.unsplit:
            gone = "1 request" if flow.unsplit == 1 else f"{flow.unsplit} requests"
            note = f"without {gone} (whole run) that ended before reporting cached tokens"
        out.rate("input_computed_tok_s", flow.computed, note)
        out.rate("input_cache_read_tok_s", flow.cache_read, note)
        read = flow.cache_read.between(out.start, out.end)
        whole = flow.split.between(out.start, out.end)
    elif counters is not None:
        whole = counters.difference(Concept.PROMPT_TOKENS, out.start, out.end)
        read = counters.difference(Concept.CACHED_TOKENS, out.start, out.end)
        computed = counters.difference(Concept.COMPUTED_TOKENS, out.start, out.end)
        if computed is None and whole is not None and read is not None:
            computed = whole - read
        if computed is not None and read is not None:
            split = "server_counters"
            note = "from the server's counters: not every response reports it"
            out.put("input_computed_tok_s", computed / out.length_s, boundary="server", note=note)
            out.put("input_cache_read_tok_s", read / out.length_s, boundary="server", note=note)
    if split is None:
        reason = "neither the responses' usage nor the server's counters report cached tokens"
        out.absent("input_computed_tok_s", reason)
        out.absent("input_cache_read_tok_s", reason)
    if read is not None and whole:
        interval = None
        if split == "usage" and flow.cache_read is not None:
            interval = out.interval(flow.cache_read.per_bin, flow.split.per_bin)
            interval = (max(0.0, interval[0]), min(1.0, interval[1])) if interval else None
        out.put(
            "prefix_hit_ratio",
            read / whole,
            interval,
            boundary="client" if split == "usage" else "server",
        )
    else:
        out.absent(
            "prefix_hit_ratio",
            "no input was processed in the window" if split else "cached tokens are unknown",
        )
    if flow.cache_write is not None:
        out.rate("input_cache_write_tok_s", flow.cache_write)
    else:
        out.absent("input_cache_write_tok_s", "the responses' usage does not report it")
    return split


def _goodput(out: FigureSet, requests: Requests, mine: Bools, flow: Flows, slos: Slos) -> None:
    counted = mine & ~requests.cancelled
    everyone = int(np.sum(counted))
    lost = int(np.sum(counted & ~requests.ok))
    why = None if everyone else "no request was scheduled in the window"
    out.put("error_ratio", lost / everyone if everyone else None, note=why)
    if slos == Slos():
        for key in ("goodput_rps", "goodput_tok_s", "slo_met_ratio"):
            out.absent(key, "the profile sets no SLOs")
        return
    met = good(requests, mine, flow, slos)
    out.put("slo_met_ratio", int(np.sum(met)) / everyone if everyone else None, note=why)
    # Good requests count at their scheduled time, so that batches add up to the window.
    out.rate("goodput_rps", moments(requests, requests.intended, met))
    tokens = flow.output.per_request
    if np.any(met & np.isnan(tokens)):
        out.absent("goodput_tok_s", "some responses reported no token count")
    else:
        out.rate("goodput_tok_s", moments(requests, requests.intended, met, tokens))


def _dollars(out: FigureSet, price: RecordedPrice) -> None:
    usd_per_gpu_h = price.usd_per_gpu_h
    per_gpu = out.figures["output_tok_s_per_gpu"]
    if usd_per_gpu_h is None:
        out.absent("usd_per_mtok", "the profile has no price")
    elif not per_gpu.value:
        reason = per_gpu.note if per_gpu.value is None else None
        out.absent("usd_per_mtok", reason or "no output tokens in the window")
    else:

        def usd(rate: float) -> float:
            return usd_per_gpu_h / (rate * 3600 / 1e6)

        interval = None
        if per_gpu.ci_low is not None and per_gpu.ci_high is not None and per_gpu.ci_low > 0:
            interval = (usd(per_gpu.ci_high), usd(per_gpu.ci_low))
        note = f"{usd_per_gpu_h:g} USD per GPU-hour: {price.source}, {price.date}"
        out.put("usd_per_mtok", usd(per_gpu.value), interval, basis=Basis.MODELLED, note=note)


def window_counts(run: Run, window: StageWindow, planned: int | None) -> RequestCounts:
    """Request counts of one stage."""
    return count(
        run.requests,
        run.requests.stage == window.name,
        planned,
        intended_in(run.requests, window),
        window.turns_not_happened,
    )


def tried(requests: Requests) -> Bools:
    """Requests that the server may have worked on."""
    return ~requests.dropped & (requests.outcome != Outcome.TIMEOUT_CONNECT)
