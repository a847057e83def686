"""Arrow schemas of the tables in a run directory. Times are monotonic nanoseconds of the host;
null means "did not happen" or "unknown".
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_LABEL = pa.dictionary(pa.int32(), pa.string())


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


REQUESTS = pa.schema(
    [
        _required("request_id", pa.string()),  # <session_id>/<turn>
        _required("session_id", pa.string()),
        _required("turn", pa.int32()),  # from 0
        _required("class", pa.string()),  # workload class
        _required("stage", pa.string()),  # name of the load stage
        pa.field("replica", pa.string()),  # Endpoint.name; null if dropped before routing
        _required("worker", pa.int32()),
        _required("intended_ns", pa.int64()),  # scheduled send time
        pa.field("sent_ns", pa.int64()),  # last byte of the request handed to the kernel
        pa.field("first_byte_ns", pa.int64()),  # first read of the response
        pa.field("first_token_ns", pa.int64()),  # first chunk with content
        pa.field("last_token_ns", pa.int64()),  # last chunk with content
        pa.field("done_ns", pa.int64()),  # end of the response or of the attempt
        _required("outcome", pa.string()),  # core.records.Outcome
        pa.field("http_status", pa.int32()),
        pa.field("retry_after_s", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("stop_reason", pa.string()),
        pa.field("notes", pa.string()),  # values of core.records.Note, separated by spaces
        # text | thinking | tool_use, in order of appearance
        pa.field("content_kinds", pa.list_(pa.string())),
        pa.field("target_input_tok", pa.int64()),  # planned, whole prompt
        pa.field("target_output_tok", pa.int64()),
        pa.field("input_tok", pa.int64()),  # the server's: whole prompt, cached part included
        pa.field("cache_read_tok", pa.int64()),  # the server's; part of input_tok
        pa.field("cache_write_tok", pa.int64()),  # the server's; part of input_tok
        pa.field("output_tok", pa.int64()),  # the server's
        pa.field("request_bytes", pa.int64()),  # body
        pa.field("response_bytes", pa.int64()),  # body as received
        # One entry per chunk with content; chunk_dt_us[0] is 0, and `chunk_times` are the arrivals.
        pa.field("chunk_dt_us", pa.list_(pa.uint32())),
        pa.field("chunk_bytes", pa.list_(pa.uint32())),  # UTF-8 bytes of content
        pa.field("chunk_tok", pa.list_(pa.uint32())),  # tokens, if the stream reports them
    ]
)
"""One row per request that was sent, tried or dropped."""

_Number = TypeVar("_Number", np.int64, np.float64)


def chunk_times(
    first_token_ns: npt.NDArray[_Number],
    chunk_dt_us: npt.NDArray[_Number],
    start: npt.NDArray[np.int64],
) -> npt.NDArray[_Number]:
    """Arrival times of chunks, in nanoseconds on the clock of `first_token_ns`.

    Args:
        first_token_ns: one per request.
        chunk_dt_us: of all their chunks, request by request.
        start: where the chunks of each request begin, and finally where they end.
    """
    since = np.cumsum(chunk_dt_us * 1000)  # exact in float64 up to 9e15 ns
    before = np.concatenate([np.zeros(1, since.dtype), since])[start[:-1]]
    times: npt.NDArray[_Number] = since + np.repeat(first_token_ns - before, np.diff(start))
    return times


PLAN = pa.schema(
    [
        _required("request_id", pa.string()),
        _required("session_id", pa.string()),
        _required("turn", pa.int32()),
        # First turn of a subagent: the request whose tool call starts it; else null.
        pa.field("parent_request_id", pa.string()),
        _required("class", pa.string()),
        _required("stage", pa.string()),
        _required("slot", pa.int32()),  # fixed per session: worker = slot % workers
        # First turn of an open loop: from the stage's start; else null.
        pa.field("intended_offset_ns", pa.int64()),
        pa.field("gap_ns", pa.int64()),  # later turns: after the end of the previous turn
        _required("target_input_tok", pa.int64()),
        _required("target_output_tok", pa.int64()),
        # Over keys and lengths of the body's blocks; null if it contains a live response.
        pa.field("body_sha256", pa.string()),
    ]
)
"""One row per planned request. For a closed loop bounded by time: the sessions made beforehand;
later ones follow from the same function.
"""

SCRAPES_RAW = pa.schema(
    [
        _required("t_ns", pa.int64()),  # just before the request was sent
        _required("duration_ns", pa.int64()),
        _required("target", pa.string()),  # Endpoint.name
        pa.field("http_status", pa.int32()),
        pa.field("error", pa.string()),  # null if the body is complete
        pa.field("content_type", pa.string()),
        pa.field("body_zstd", pa.binary()),  # the original exposition, zstd; null on error
        pa.field("body_bytes", pa.int64()),  # uncompressed length
        # Reason for a scrape out of turn (`ready`, `drained`); null for regular ones.
        pa.field("label", pa.string()),
        # Unix - monotonic time, for times in the body; null: unknown.
        pa.field("unix_offset_ns", pa.int64()),
    ]
)
"""One row per scrape, failed ones included; in `scrapes/prometheus.arrows` one row per response
(harness.artifacts.prometheus.answers).
"""

SAMPLES = pa.schema(
    [
        _required("t_ns", pa.int64()),
        _required("target", _LABEL),
        _required("metric", _LABEL),  # sample name as exposed, `vllm:generation_tokens_total`
        _required("labels", _LABEL),  # canonical: {"a":"x","le":"0.5"} as JSON with sorted keys
        _required("value", pa.float64()),
    ]
)
"""One row per sample of a scrape, plus, as in Prometheus, `up` (1 or 0) and
`scrape_duration_seconds` per scrape. Where they apply: `harness_scrape_error{error=…}` for a failed
one and `harness_scrape_label{label=…}` for one out of turn, with value 1, and
`harness_scrape_problem{problem=…}` with the number of unusable samples.
"""

POWER = pa.schema(
    [
        _required("t_ns", pa.int64()),  # middle of the reading call
        _required("boundary", pa.string()),  # core.records.Boundary
        _required("device_id", pa.string()),  # GPU UUID for gpu_board
        pa.field("power_w", pa.float64()),
        pa.field("energy_j", pa.float64()),  # cumulative counter
        # `nvml-instant`, `nvml-average`, `nvml-usage`, `nvml-counter`, `dcgm`, `rapl`, `ipmi`,
        # `redfish`, `promql`, `csv`, `modelled`, `replay:<original>`
        _required("source", pa.string()),
    ]
)
"""One row per reading, of all sources; `modelled` is never summed or compared with a measured one.
"""

BOARDS = pa.schema(
    [
        _required("t_ns", pa.int64()),  # just before the first of the calls
        _required("device_id", pa.string()),  # GPU UUID
        pa.field("sm_clock_mhz", pa.int64()),
        pa.field("mem_clock_mhz", pa.int64()),
        pa.field("temperature_c", pa.float64()),
        pa.field("memory_temperature_c", pa.float64()),
        pa.field("power_limit_w", pa.float64()),  # in force: the lowest of all limits
        # 0 to 1: share of the last sample period with a kernel running
        pa.field("utilization_ratio", pa.float64()),
        pa.field("memory_used_bytes", pa.int64()),
        pa.field("throttle_reasons", pa.int64()),  # NVML's bit mask of clocks event reasons
        pa.field("ecc_uncorrected", pa.int64()),  # volatile: since the driver was loaded
        pa.field("foreign_processes", pa.int64()),  # processes on the GPU that are not of this run
        pa.field("xid", pa.int64()),  # latest critical error (XID) since the previous row, or null
    ]
)
"""One row per GPU and reading (once per second); null is what the GPU does not report."""

HOST = pa.schema(
    [
        _required("t_ns", pa.int64()),
        # host | traffic:<worker> | traffic:master | server:<replica> | telemetry | supervisor
        _required("scope", pa.string()),
        # Cumulative CPU time (user + system) of the scope's process tree; host: of all cores.
        pa.field("cpu_s", pa.float64()),
        pa.field("cpus", pa.float64()),  # host: cores this process may use; else null
        pa.field("rss_bytes", pa.int64()),  # host: memory in use
        pa.field("processes", pa.int32()),
        # Host only: cumulative, all interfaces but loopback; scope host-loopback for loopback.
        pa.field("net_rx_bytes", pa.int64()),
        pa.field("net_tx_bytes", pa.int64()),
    ]
)
"""One row per scope and interval."""
