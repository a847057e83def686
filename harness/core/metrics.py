"""What every figure means: one row a metric. Columns, headings and explanations of reports come
from here.

Units are spelled as in the suffixes of keys: `tok/s` is tokens per second, `tok/J` tokens per
joule, `1` a ratio. The window is the one that the summary states. A metric that was not measured is
absent, never 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Better = Literal["higher", "lower", "neither"]
TokenClass = Literal["output", "input", "computed_input", "cache_read", "cache_write", "total"]
Kind = Literal["value", "distribution"]

METRIC_VERSION: Final = 2
"""Raised whenever a definition below changes its meaning; figures of different versions do not
compare.
"""


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric.

    Attributes:
        key: name in summary.json and in thresholds; its suffix is its unit.
        title: heading for people.
        unit: unit of the value.
        formula: definition in words.
        better: which direction is an improvement.
        token_class: which tokens it counts; None where it counts none.
        boundary: what it is taken over: `client` (seen by the load generator), `server` (its own
            counters), `deployment` (all GPUs that it holds) or `power` (a power boundary, named
            with each figure).
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


_LATENCIES: Final = (
    MetricDef("ttft_s", "Time to first token", "s", "First chunk that carries content (text, thinking or tool input), from the moment the request was intended; role-only chunks, `message_start`, pings and comments do not count.", "lower", kind="distribution"),
    MetricDef("ttft_from_sent_s", "Time to first token, from sending", "s", "As ttft_s, but from the last byte of the request handed to the kernel; the difference is schedule_lag_s.", "lower", kind="distribution"),
    MetricDef("tpot_s", "Time per output token", "s", "(Last token - first token) / (output tokens - 1), per request; where the stream tells tokens per chunk, over the tokens after the first chunk. Absent for one token or one chunk.", "lower", kind="distribution"),
    MetricDef("itl_s", "Time between tokens", "s", "Gaps between chunks; a gap before a chunk that is known to hold k tokens counts as k gaps of a k-th of its length. Absent where the stream does not tell tokens per chunk: see inter_event_s.", "lower", kind="distribution"),
    MetricDef("inter_event_s", "Time between events", "s", "Gaps between chunks that carry content, one each, whatever number of tokens they hold. Stands in where the stream does not tell tokens per chunk; it is not the time between tokens.", "lower", kind="distribution"),
    MetricDef("e2e_s", "Whole answer", "s", "Last token, from the moment the request was intended (end of the response where it carried no content).", "lower", kind="distribution"),
    MetricDef("e2e_from_sent_s", "Whole answer, from sending", "s", "As e2e_s, but from the last byte of the request handed to the kernel.", "lower", kind="distribution"),
    MetricDef("schedule_lag_s", "Schedule lag", "s", "Sent - intended: how late the load generator was. Part of ttft_s and e2e_s.", "lower", kind="distribution"),
)  # fmt: skip

_VALUES: Final = (
    MetricDef("output_tok_s", "Output tokens per second", "tok/s", "Output tokens that arrived inside the window / length of the window. Tokens are placed at their own arrival times, so ramp and drain do not leak in.", "higher", "output"),
    MetricDef("output_tok_s_per_gpu", "Output tokens per second per GPU", "tok/s/GPU", "output_tok_s / all GPUs that the deployment holds.", "higher", "output", boundary="deployment"),
    MetricDef("input_tok_s", "Input tokens per second", "tok/s", "Whole prompts, cached part included, each spread evenly from sent to first token; the part inside the window / its length.", "higher", "input"),
    MetricDef("input_computed_tok_s", "Computed input tokens per second", "tok/s", "As input_tok_s, for the part of the prompts that was not read from a cache; from the server's usage, else from its counters.", "higher", "computed_input"),
    MetricDef("input_cache_read_tok_s", "Cached input tokens per second", "tok/s", "As input_tok_s, for the part of the prompts that was read from the prefix cache.", "neither", "cache_read"),
    MetricDef("input_cache_write_tok_s", "Input tokens written to cache per second", "tok/s", "As input_tok_s, for the part of the prompts that the server says it wrote to its cache.", "neither", "cache_write"),
    MetricDef("total_tok_s", "Input and output tokens per second", "tok/s", "input_tok_s + output_tok_s. Cached input counts in full, so this is no measure of work done.", "neither", "total"),
    MetricDef("requests_per_s", "Answers per second", "1/s", "Requests answered in full inside the window / its length.", "higher"),
    MetricDef("goodput_rps", "Good requests per second", "1/s", "Requests intended in the window that met every SLO of the profile / its length. Failed, dropped and unfinished ones are misses.", "higher"),
    MetricDef("goodput_tok_s", "Output tokens of good requests per second", "tok/s", "Output tokens of the requests intended in the window that met every SLO / its length.", "higher", "output"),
    MetricDef("slo_met_ratio", "Requests that met every SLO", "1", "Good requests / all requests intended in the window but those that the user cancelled.", "higher"),
    MetricDef("error_ratio", "Requests that failed", "1", "Requests intended in the window that failed, timed out, were dropped or never finished / all intended in it but those that the user cancelled.", "lower"),
    MetricDef("interactivity_tok_s_user", "Tokens per second per user, median", "tok/s", "1 / median of tpot_s: half of the requests stream at least this fast.", "higher", "output"),
    MetricDef("interactivity_p90_tok_s_user", "Tokens per second per user, nine in ten", "tok/s", "1 / p90 of tpot_s: nine in ten requests stream at least this fast.", "higher", "output"),
    MetricDef("requests_in_flight", "Requests in flight", "1", "Time-average over the window of requests that were sent and not done.", "neither"),
    MetricDef("mean_input_tok", "Input tokens per request", "tok", "Mean of the server's count of the whole prompt, over the answered requests intended in the window.", "neither", "input"),
    MetricDef("mean_output_tok", "Output tokens per request", "tok", "Mean of the server's count, over the answered requests intended in the window.", "neither", "output"),
    MetricDef("prefix_hit_ratio", "Share of input read from cache", "1", "Cached input tokens / input tokens, of the prompts that were processed in the window.", "neither", "cache_read"),
    MetricDef("power_w", "Power", "W", "Energy of the window / its length, summed over the devices of the boundary.", "lower", boundary="power"),
    MetricDef("energy_j", "Energy", "J", "Sum over devices of the energy counter's difference over the window, interpolated at its edges; where there is no counter, the integral of power.", "neither", boundary="power"),
    MetricDef("output_tok_per_j", "Output tokens per joule", "tok/J", "Output tokens in the window / joules in the same window. The same number as tokens per second per watt.", "higher", "output", boundary="power"),
    MetricDef("input_computed_tok_per_j", "Computed input tokens per joule", "tok/J", "Computed input tokens in the window / joules in the same window.", "higher", "computed_input", boundary="power"),
    MetricDef("total_tok_per_j", "Input and output tokens per joule", "tok/J", "Input (cached part included) and output tokens in the window / joules in the same window.", "neither", "total", boundary="power"),
    MetricDef("output_tok_s_per_mw", "Output tokens per second per megawatt", "tok/s/MW", "Output tokens per second / megawatts at the utility's meter. Absent without a meter there; `harness fleet` models it.", "higher", "output", boundary="power"),
    MetricDef("j_per_output_tok", "Joules per output token", "J/tok", "An allocation: all joules of the window / its output tokens.", "lower", "output", boundary="power"),
    MetricDef("j_per_request", "Joules per answer", "J/request", "An allocation: all joules of the window / requests answered in it.", "lower", boundary="power"),
    MetricDef("idle_power_w", "Power without load", "W", "Mean over the stretch before the server was started (energy.idle_s). Absent for servers that were up already.", "lower", boundary="power"),
    MetricDef("ready_power_w", "Power with the model loaded, without load", "W", "Mean over the stretch after the server was ready and before the load (energy.idle_s).", "lower", boundary="power"),
    MetricDef("active_power_w", "Power above idle", "W", "power_w - idle_power_w.", "neither", boundary="power"),
    MetricDef("kgco2_per_mtok", "CO2 per million output tokens", "kg/Mtok", "Energy of the window at the highest rung of the ladder that is known x the profile's factor of the grid / output tokens. A model: factor and rungs are printed.", "lower", "output", boundary="power"),
    MetricDef("usd_per_mtok", "Dollars per million output tokens", "USD/Mtok", "Price of a GPU-hour / (output_tok_s_per_gpu x 3600 / 1e6). A model: the price is the profile's.", "lower", "output", boundary="deployment"),
)  # fmt: skip

METRICS: Final[Mapping[str, MetricDef]] = {
    definition.key: definition for definition in (*_LATENCIES, *_VALUES)
}
"""All definitions by key, in the order in which reports show them."""

LATENCY_KEYS: Final = tuple(definition.key for definition in _LATENCIES)
"""Keys of the distributions of a summary's `latency`."""

VALUE_KEYS: Final = tuple(definition.key for definition in _VALUES)
"""Keys of a summary's `metrics`. A figure at a second power boundary is `<key>@<boundary>`."""

MODELLED: Final = frozenset({"usd_per_mtok", "kgco2_per_mtok"})
"""Metrics that rest on a stated assumption (a price, a grid's factor) and are never measured."""

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
    "input_computed_tok_s": (
        "input_tok",
        "cache_read_tok",
        "sent_ns",
        "first_token_ns",
        "else the server's counters",
    ),
    "input_cache_read_tok_s": (
        "cache_read_tok",
        "sent_ns",
        "first_token_ns",
        "else the server's counters",
    ),
    "input_cache_write_tok_s": ("cache_write_tok", "sent_ns", "first_token_ns"),
    "total_tok_s": ("input_tok_s", "output_tok_s"),
    "requests_per_s": ("done_ns", "outcome"),
    "goodput_rps": ("intended_ns", "ttft_s", "tpot_s", "e2e_s", "slos"),
    "goodput_tok_s": ("intended_ns", "output_tok", "ttft_s", "tpot_s", "e2e_s", "slos"),
    "slo_met_ratio": ("intended_ns", "ttft_s", "tpot_s", "e2e_s", "slos"),
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
    "output_tok_s_per_mw": ("output_tok_s", "energy_j at the utility's meter"),
    "j_per_output_tok": ("energy_j", "output_tok_s"),
    "j_per_request": ("energy_j", "requests_per_s"),
    "idle_power_w": ("power.parquet", "energy.idle_s"),
    "ready_power_w": ("power.parquet", "energy.idle_s"),
    "active_power_w": ("power_w", "idle_power_w"),
    "kgco2_per_mtok": ("energy_j", "output_tok_s", "the profile's factor of the grid"),
    "usd_per_mtok": ("output_tok_s_per_gpu", "price"),
}
"""What each metric is made of: columns of requests.parquet, other metrics, sections of the profile.
"""
