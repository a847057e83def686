"""Arrow schemas of the tables in a run directory. Times are monotonic nanoseconds of the host; a
null is "did not happen" or "unknown".
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_LABEL = pa.dictionary(pa.int32(), pa.string())

REQUESTS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),  # <session_id>/<turn>
        pa.field("session_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),  # from 0
        pa.field("class", pa.string(), nullable=False),  # workload class
        pa.field("stage", pa.string(), nullable=False),  # name of the load stage
        pa.field("replica", pa.string()),  # Endpoint.name; null when dropped before routing
        pa.field("worker", pa.int32(), nullable=False),
        pa.field("intended_ns", pa.int64(), nullable=False),  # when the plan wanted it sent
        pa.field("sent_ns", pa.int64()),  # last byte of the request handed to the kernel
        pa.field("first_byte_ns", pa.int64()),  # first read of the response
        pa.field("first_token_ns", pa.int64()),  # first chunk that carries content
        pa.field("last_token_ns", pa.int64()),  # last chunk that carries content
        pa.field("done_ns", pa.int64()),  # end of the response, or of trying
        pa.field("outcome", pa.string(), nullable=False),  # core.records.Outcome
        pa.field("http_status", pa.int32()),
        pa.field("retry_after_s", pa.float64()),
        pa.field("error", pa.string()),
        pa.field("stop_reason", pa.string()),
        pa.field(
            "content_kinds", pa.list_(pa.string())
        ),  # text | thinking | tool_use, in order of appearance
        pa.field("target_input_tok", pa.int64()),  # planned, whole prompt
        pa.field("target_output_tok", pa.int64()),
        pa.field("input_tok", pa.int64()),  # the server's: the whole prompt, cached part included
        pa.field("cache_read_tok", pa.int64()),  # the server's; part of input_tok
        pa.field("cache_write_tok", pa.int64()),  # the server's; part of input_tok
        pa.field("output_tok", pa.int64()),  # the server's
        pa.field("request_bytes", pa.int64()),  # body
        pa.field("response_bytes", pa.int64()),  # body as it came
        # One entry a chunk that carries content; chunk_dt_us[0] is 0, and `chunk_times` are the
        # moments at which they came.
        pa.field("chunk_dt_us", pa.list_(pa.uint32())),
        pa.field("chunk_bytes", pa.list_(pa.uint32())),  # UTF-8 bytes of content in the chunk
        pa.field(
            "chunk_tok", pa.list_(pa.uint32())
        ),  # tokens in the chunk where the stream tells; else null
    ]
)
"""One row a request that was sent, tried or dropped."""

_Number = TypeVar("_Number", np.int64, np.float64)


def chunk_times(
    first_token_ns: npt.NDArray[_Number],
    chunk_dt_us: npt.NDArray[_Number],
    start: npt.NDArray[np.int64],
) -> npt.NDArray[_Number]:
    """When the chunks of some requests came, in nanoseconds on the clock of `first_token_ns`.

    Args:
        first_token_ns: one a request.
        chunk_dt_us: of all their chunks, request by request.
        start: where the chunks of each request begin, and at last where they end.
    """
    since = np.cumsum(chunk_dt_us * 1000)  # exact in float64 up to 9e15 ns
    before = np.concatenate([np.zeros(1, since.dtype), since])[start[:-1]]
    times: npt.NDArray[_Number] = since + np.repeat(first_token_ns - before, np.diff(start))
    return times


PLAN = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("session_id", pa.string(), nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field(
            "parent_request_id", pa.string()
        ),  # first turn of a subagent: the request whose tool call starts it; else null
        pa.field("class", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field(
            "slot", pa.int32(), nullable=False
        ),  # a session's fixed slice: worker = slot % workers
        pa.field(
            "intended_offset_ns", pa.int64()
        ),  # first turn of an open loop: from the stage's start; else null
        pa.field("gap_ns", pa.int64()),  # later turns: after the end of the turn before; else null
        pa.field("target_input_tok", pa.int64(), nullable=False),
        pa.field("target_output_tok", pa.int64(), nullable=False),
        pa.field(
            "body_sha256", pa.string()
        ),  # over the keys and lengths of the body's blocks; null where it carries a live answer
    ]
)
"""One row a planned request. A closed loop bounded by time: the deck that was made; later sessions
follow from the same function.
"""

SCRAPES_RAW = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),  # just before the request was sent
        pa.field("duration_ns", pa.int64(), nullable=False),
        pa.field("target", pa.string(), nullable=False),  # Endpoint.name
        pa.field("http_status", pa.int32()),
        pa.field("error", pa.string()),  # null when the body is whole
        pa.field("content_type", pa.string()),
        pa.field("body_zstd", pa.binary()),  # the exposition as it came, zstd; null on error
        pa.field("body_bytes", pa.int64()),  # its length before compression
        pa.field(
            "label", pa.string()
        ),  # why it was taken out of turn (`ready`, `drained`); null for those of the interval
        pa.field(
            "unix_offset_ns",
            pa.int64(),
            # wall clock minus monotonic clock, for times that the body holds itself; null: not
            # known
        ),
    ]
)
"""One row a scrape, failed ones included; in `scrapes/prometheus.arrows` one row an answer
(harness.artifacts.prometheus.answers).
"""

SAMPLES = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field("target", _LABEL, nullable=False),
        pa.field(
            "metric", _LABEL, nullable=False
        ),  # sample name as exposed, `vllm:generation_tokens_total`
        pa.field(
            "labels", _LABEL, nullable=False
        ),  # canonical: {"a":"x","le":"0.5"} as JSON with sorted keys
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""One row a sample of a scrape, and for each scrape as Prometheus does: `up` (1 or 0) and
`scrape_duration_seconds`; a failed one also has `harness_scrape_error{error=…}`, one that was taken
out of turn `harness_scrape_label{label=…}`, both with value 1; one with samples that cannot be used
`harness_scrape_problem{problem=…}` with their number.
"""

POWER = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),  # middle of the reading call
        pa.field("boundary", pa.string(), nullable=False),  # core.records.Boundary
        pa.field("device_id", pa.string(), nullable=False),  # GPU UUID for gpu_board
        pa.field("power_w", pa.float64()),
        pa.field("energy_j", pa.float64()),  # cumulative counter
        # nvml-instant, nvml-average, nvml-usage, nvml-counter, dcgm, rapl, ipmi, redfish, promql,
        # csv, modelled, replay:<original>
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""One row a reading. All sources write here side by side; `modelled` is never summed or compared
with a measured one.
"""

BOARDS = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),  # just before the first of the calls
        pa.field("device_id", pa.string(), nullable=False),  # GPU UUID
        pa.field("sm_clock_mhz", pa.int64()),
        pa.field("mem_clock_mhz", pa.int64()),
        pa.field("temperature_c", pa.float64()),
        pa.field("memory_temperature_c", pa.float64()),
        pa.field("power_limit_w", pa.float64()),  # in force: the lowest of all limits
        pa.field(
            "utilization_ratio", pa.float64()
        ),  # 0 to 1: share of the last sample period with a kernel running
        pa.field("memory_used_bytes", pa.int64()),
        pa.field(
            "throttle_reasons", pa.int64()
        ),  # NVML's bit mask of clock event reasons, as it came
        pa.field("ecc_uncorrected", pa.int64()),  # volatile: since the driver was loaded
        pa.field(
            "foreign_processes", pa.int64()
        ),  # processes on the board that are not of this run
        pa.field(
            "xid", pa.int64()
        ),  # the latest critical error (XID) since the row before; null when there was none
    ]
)
"""One row a board and reading (once a second); a null is what that board does not tell."""

HOST = pa.schema(
    [
        pa.field("t_ns", pa.int64(), nullable=False),
        pa.field(
            "scope", pa.string(), nullable=False
        ),  # host | traffic:<worker> | traffic:master | server:<replica> | telemetry | supervisor
        pa.field(
            "cpu_s",
            pa.float64(),
            # cumulative CPU time (user + system) of the scope's process tree; host: busy time of
            # all cores
        ),
        pa.field("cpus", pa.float64()),  # host: cores this process may use; else null
        pa.field("rss_bytes", pa.int64()),  # host: memory in use
        pa.field("processes", pa.int32()),
        pa.field(
            "net_rx_bytes", pa.int64()
        ),  # host only: cumulative, all interfaces but loopback; scope host-loopback for loopback
        pa.field("net_tx_bytes", pa.int64()),
    ]
)
"""One row a scope and interval."""
