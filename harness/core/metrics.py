"""Definition of every metric: the source of columns, headings and explanations in reports.

Units are spelled as in the suffixes of keys: `tok/s` is tokens per second, `tok/J` tokens per
joule, `1` a ratio. The window is the summary's measurement window. A metric that was not measured is
absent, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

Better = Literal["higher", "lower", "neither"]
TokenClass = Literal["output", "input", "computed_input", "cache_read", "cache_write", "total"]
Kind = Literal["value", "distribution"]

METRIC_VERSION: Final = 2
"""Raised when a definition below changes its meaning; values of different versions do not compare."""


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric.

    Attributes:
        key: name in summary.json and in thresholds; its suffix is the unit.
        better: which direction is an improvement.
        token_class: tokens that it counts, if any.
        boundary: what it covers: `client` (seen by the load generator), `server` (its own counters),
            `deployment` (all its GPUs) or `power` (a power boundary, named with each value).
        kind: one value, or a distribution over requests (mean, percentiles, max).
    """

    key: str
    title: str
    unit: str
    formula: str
    better: Better
    token_class: TokenClass | None = None
    boundary: Literal["client", "server", "deployment", "power"] = "client"
    kind: Kind = "value"


def _latency(key: str, title: str, formula: str) -> MetricDef:
    return MetricDef(key, title, "s", formula, "lower", kind="distribution")


_power = partial(MetricDef, boundary="power")

_LATENCIES: Final = (
    _latency("ttft_s", "Time to first token (TTFT)", "First chunk with content (text, thinking or tool input) - scheduled send time, which avoids coordinated omission. Role-only chunks, `message_start`, pings and comments do not count."),
    _latency("ttft_from_sent_s", "TTFT from actual send", "As ttft_s, but from the last byte of the request handed to the kernel; the difference is schedule_lag_s."),
    _latency("tpot_s", "Time per output token (TPOT)", "(Last token - first token) / (output tokens - 1), per request; if the stream reports tokens per chunk, over the tokens after the first chunk. Absent for one token, one chunk or a response in bursts."),
    _latency("itl_s", "Inter-token latency (ITL)", "Gaps between chunks, without responses in bursts; a gap before a chunk of k tokens counts as k gaps of 1/k of its length. Absent if the stream does not report tokens per chunk: see inter_event_s."),
    _latency("inter_event_s", "Inter-chunk latency", "Gaps between chunks with content, one per chunk whatever its number of tokens. Used if the stream does not report tokens per chunk; it is not the inter-token latency."),
    _latency("e2e_s", "End-to-end latency (E2E)", "Last token (end of the response if it had no content) - scheduled send time."),
    _latency("e2e_from_sent_s", "E2E latency from actual send", "As e2e_s, but from the last byte of the request handed to the kernel."),
    _latency("schedule_lag_s", "Schedule lag", "Actual - scheduled send time: delay by the load generator. Part of ttft_s and e2e_s."),
)  # fmt: skip

_VALUES: Final = (
    MetricDef("output_tok_s", "Output-token throughput", "tok/s", "Output tokens that arrived in the window / its length. Tokens count at their own arrival times, so ramp and drain do not leak in.", "higher", "output"),
    MetricDef("output_tok_s_per_gpu", "Output-token throughput per GPU", "tok/s/GPU", "output_tok_s / all GPUs of the deployment.", "higher", "output", boundary="deployment"),
    MetricDef("input_tok_s", "Input-token throughput", "tok/s", "Prompt tokens, cached part included, each prompt spread evenly from sent to first token; the part in the window / its length.", "higher", "input"),
    MetricDef("input_computed_tok_s", "Prefill throughput (uncached input tokens/s)", "tok/s", "As input_tok_s, for prompt tokens not read from a cache; from the server's usage, else from its counters.", "higher", "computed_input"),
    MetricDef("input_cache_read_tok_s", "Cached input-token throughput", "tok/s", "As input_tok_s, for prompt tokens read from the prefix cache.", "neither", "cache_read"),
    MetricDef("input_cache_write_tok_s", "Input tokens written to cache per second", "tok/s", "As input_tok_s, for prompt tokens that the server reports as written to its cache.", "neither", "cache_write"),
    MetricDef("total_tok_s", "Total token throughput (input + output)", "tok/s", "input_tok_s + output_tok_s. Cached input counts in full, so this does not measure work.", "neither", "total"),
    MetricDef("requests_per_s", "Request throughput (completed requests/s)", "1/s", "Requests completed in the window / its length.", "higher"),
    MetricDef("goodput_rps", "Goodput (requests/s)", "1/s", "Requests scheduled in the window that met every SLO of the profile / its length. Failed, dropped and incomplete ones are misses.", "higher"),
    MetricDef("goodput_tok_s", "Goodput (output tokens/s)", "tok/s", "Output tokens of the requests scheduled in the window that met every SLO / its length.", "higher", "output"),
    MetricDef("slo_met_ratio", "SLO attainment", "1", "Requests that met every SLO / all requests scheduled in the window, without those that the user canceled.", "higher"),
    MetricDef("error_ratio", "Error rate", "1", "Requests that failed, timed out, were dropped or did not finish / all requests scheduled in the window, without those that the user canceled.", "lower"),
    MetricDef("interactivity_tok_s_user", "Interactivity (output tokens/s per user), median", "tok/s", "1 / median of tpot_s: half of the requests stream at least this fast.", "higher", "output"),
    MetricDef("interactivity_p90_tok_s_user", "Interactivity (output tokens/s per user), p90 of TPOT", "tok/s", "1 / p90 of tpot_s: nine in ten requests stream at least this fast.", "higher", "output"),
    MetricDef("requests_in_flight", "Requests in flight", "1", "Time average over the window of requests that were sent and not done.", "neither"),
    MetricDef("mean_input_tok", "Input tokens per request", "tok", "Mean of the server's prompt token count, over the completed requests scheduled in the window.", "neither", "input"),
    MetricDef("mean_output_tok", "Output tokens per request", "tok", "Mean of the server's output token count, over the completed requests scheduled in the window.", "neither", "output"),
    MetricDef("prefix_hit_ratio", "Prefix cache hit rate (tokens)", "1", "Cached input tokens / input tokens, of the prompts processed in the window.", "neither", "cache_read"),
    _power("power_w", "Power", "W", "Energy of the window / its length, summed over the devices of the boundary.", "lower"),
    _power("energy_j", "Energy", "J", "Sum over devices of the energy counter's difference over the window, interpolated at its edges; without a counter, the integral of power.", "neither"),
    _power("output_tok_per_j", "Output tokens per joule", "tok/J", "Output tokens in the window / energy in the window. The same number as tokens per second per watt.", "higher", "output"),
    _power("input_computed_tok_per_j", "Prefill (uncached input) tokens per joule", "tok/J", "Computed input tokens in the window / energy in the window.", "higher", "computed_input"),
    _power("total_tok_per_j", "Total (input + output) tokens per joule", "tok/J", "Input (cached part included) and output tokens in the window / energy in the window.", "neither", "total"),
    _power("output_tok_s_per_mw", "Output-token throughput per megawatt", "tok/s/MW", "Output tokens per second / megawatts at the utility meter. Absent without a meter there; `harness fleet` models it.", "higher", "output"),
    _power("j_per_output_tok", "Energy per output token", "J/tok", "An allocation: all energy of the window / its output tokens.", "lower", "output"),
    _power("j_per_request", "Energy per request", "J/request", "An allocation: all energy of the window / requests completed in it.", "lower"),
    _power("idle_power_w", "Idle power, server stopped", "W", "Mean over the idle period before the server started (energy.idle_s). Absent for servers that were already running.", "lower"),
    _power("ready_power_w", "Idle power, model loaded", "W", "Mean over the idle period after the server was ready and before the load (energy.idle_s).", "lower"),
    _power("active_power_w", "Power above idle", "W", "power_w - idle_power_w.", "neither"),
    _power("kgco2_per_mtok", "CO2 per million output tokens", "kg/Mtok", "Energy of the window at the outermost known power boundary x the profile's grid factor / output tokens. Modeled: factor and boundaries are printed.", "lower", "output"),
    MetricDef("usd_per_mtok", "Cost per million output tokens", "USD/Mtok", "Price of a GPU-hour / (output_tok_s_per_gpu x 3600 / 1e6). Modeled: the price is the profile's.", "lower", "output", boundary="deployment"),
)  # fmt: skip

METRICS: Final[Mapping[str, MetricDef]] = {
    definition.key: definition for definition in (*_LATENCIES, *_VALUES)
}
"""All definitions by key, in the order in which reports show them."""

LATENCY_KEYS: Final = tuple(definition.key for definition in _LATENCIES)
"""Keys of the distributions of a summary's `latency`."""

VALUE_KEYS: Final = tuple(definition.key for definition in _VALUES)
"""Keys of a summary's `metrics`. At a further power boundary, `<key>@<boundary>`."""

MODELLED: Final = frozenset({"usd_per_mtok", "kgco2_per_mtok"})
"""Metrics that depend on a stated assumption (price, grid factor) and are never measured."""

_SLOS: Final = ("ttft_s", "tpot_s", "e2e_s", "slos")
_ELSE_COUNTERS: Final = ("sent_ns", "first_token_ns", "else the server's counters")

INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "ttft_s": ("intended_ns", "first_token_ns", "outcome"),
    "ttft_from_sent_s": ("sent_ns", "first_token_ns", "outcome"),
    "tpot_s": ("first_token_ns", "last_token_ns", "output_tok", "chunk_tok", "outcome"),
    "itl_s": ("first_token_ns", "chunk_dt_us", "chunk_tok"),
    "inter_event_s": ("first_token_ns", "chunk_dt_us"),
    "e2e_s": ("intended_ns", "last_token_ns", "done_ns", "outcome"),
    "e2e_from_sent_s": ("sent_ns", "last_token_ns", "done_ns", "outcome"),
    "schedule_lag_s": ("intended_ns", "sent_ns"),
    "output_tok_s": ("output_tok", "first_token_ns", "chunk_dt_us", "chunk_tok", "chunk_bytes"),
    "output_tok_s_per_gpu": ("output_tok_s", "GPUs of the deployment"),
    "input_tok_s": ("input_tok", "sent_ns", "first_token_ns"),
    "input_computed_tok_s": ("input_tok", "cache_read_tok", *_ELSE_COUNTERS),
    "input_cache_read_tok_s": ("cache_read_tok", *_ELSE_COUNTERS),
    "input_cache_write_tok_s": ("cache_write_tok", "sent_ns", "first_token_ns"),
    "total_tok_s": ("input_tok_s", "output_tok_s"),
    "requests_per_s": ("done_ns", "outcome"),
    "goodput_rps": ("intended_ns", *_SLOS),
    "goodput_tok_s": ("intended_ns", "output_tok", *_SLOS),
    "slo_met_ratio": ("intended_ns", *_SLOS),
    "error_ratio": ("intended_ns", "outcome"),
    "interactivity_tok_s_user": ("tpot_s",),
    "interactivity_p90_tok_s_user": ("tpot_s",),
    "requests_in_flight": ("sent_ns", "done_ns"),
    "mean_input_tok": ("intended_ns", "input_tok", "outcome"),
    "mean_output_tok": ("intended_ns", "output_tok", "outcome"),
    "prefix_hit_ratio": ("input_tok", "cache_read_tok", "else the server's counters"),
    "power_w": ("energy_j",),
    "energy_j": ("power.parquet: energy_j, else power_w",),
    "output_tok_per_j": ("output_tok_s", "energy_j"),
    "input_computed_tok_per_j": ("input_computed_tok_s", "energy_j"),
    "total_tok_per_j": ("total_tok_s", "energy_j"),
    "output_tok_s_per_mw": ("output_tok_s", "energy_j at the utility meter"),
    "j_per_output_tok": ("energy_j", "output_tok_s"),
    "j_per_request": ("energy_j", "requests_per_s"),
    "idle_power_w": ("power.parquet", "energy.idle_s"),
    "ready_power_w": ("power.parquet", "energy.idle_s"),
    "active_power_w": ("power_w", "idle_power_w"),
    "kgco2_per_mtok": ("energy_j", "output_tok_s", "the profile's grid factor"),
    "usd_per_mtok": ("output_tok_s_per_gpu", "price"),
}
"""Inputs of each metric: columns of requests.parquet, other metrics, sections of the profile."""
