"""Types that several packages use: outcomes, boundaries, verdicts, endpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

CANARY = "canary"
"""Class and replica of requests that measure the load generator's live timing error: recorded, but
not part of any metric of the load.
"""


class Outcome(StrEnum):
    """How a request ended. Only `OK` counts as completed; only `DROPPED` was never tried."""

    OK = "ok"
    HTTP_ERROR = "http_error"  # a status other than 2xx
    API_ERROR = "api_error"  # an error within a response of status 2xx
    ABORTED = "aborted"  # the stop reason is not the model's own: abort, error, canceled
    EMPTY = "empty"  # neither content nor output tokens
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"  # between chunks
    TIMEOUT_TOTAL = "timeout_total"
    CONNECTION_ERROR = "connection_error"  # refused or reset before a response
    CLIENT_LIMIT = "client_limit"  # descriptors, ports or memory of the load generator ran out
    TRUNCATED = "truncated"  # the stream ended before the response did
    MALFORMED = "malformed"  # not valid HTTP or not a valid event stream
    CANCELLED = "cancelled"  # planned abandonment by the user
    INTERRUPTED = "interrupted"  # the run was stopped with the request in flight
    DROPPED = "dropped"  # not started within its cap; never sent


class Note(StrEnum):
    """Deviation of a response that was read all the same."""

    NO_END_MARKER = "no_end_marker"  # a stop reason and a complete HTTP message, but no end marker
    NO_STOP_REASON = "no_stop_reason"  # the end marker and final usage, but no stop reason
    UNKNOWN_STOP_REASON = "unknown_stop_reason"  # not in the API's table
    MARKER_AFTER_END = "marker_after_end"  # another API's end marker after this one's
    FOREIGN_EVENT = "foreign_event"  # pings that are not JSON, documents of no known form
    NO_BLANK_LINES = "no_blank_lines"  # events are separated by one newline
    CONTENT_FORM = "content_form"  # content as parts or objects, where text belongs
    CONTENT_TYPE = "content_type"  # an event stream under another content type
    COMPRESSED = "compressed"  # although `accept-encoding: identity` was sent
    USAGE_ZERO = "usage_zero"  # counts of 0 next to content
    USAGE_UNUSABLE = "usage_unusable"  # counts that are not whole numbers
    USAGE_REPEATED = "usage_repeated"  # the final usage in every chunk
    USAGE_DISAGREES = "usage_disagrees"  # counts that contradict each other
    BURST = "burst"  # several events with content per read
    READ_TIMES = "read_times"  # no arrival time from the kernel: the time of the read


class Api(StrEnum):
    """Wire API of the traffic."""

    MESSAGES = "messages"  # Anthropic Messages
    CHAT = "chat"  # OpenAI chat completions
    COMPLETIONS = "completions"  # OpenAI completions: plain text in, plain text out
    RESPONSES = "responses"  # OpenAI responses


@dataclass(frozen=True, slots=True)
class BodyForm:
    """Deviations of request bodies that a server requires.

    Attributes:
        length_key: sent in place of `max_tokens`; None: the API's own.
        omit: keys to leave out; `outer.inner` for a key inside an object.
    """

    length_key: str | None = None
    omit: tuple[str, ...] = ()

    def adapt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A body in this form."""
        value = {
            (self.length_key if key == "max_tokens" and self.length_key else key): item
            for key, item in body.items()
            if key not in self.omit
        }
        for outer, _, inner in (key.partition(".") for key in self.omit):
            if inner and isinstance(value.get(outer), dict):
                value[outer] = {k: item for k, item in value[outer].items() if k != inner}
        return value


AS_IT_IS: Final = BodyForm()
"""No deviations."""


class Purpose(StrEnum):
    """Purpose of a run. A smoke run checks function and makes no performance claim."""

    SMOKE = "smoke"
    MEASURE = "measure"


class HeadlineRule(StrEnum):
    """How the load stage is chosen whose metrics head a summary; a stage's name is the other way.

    `best_under_slo`: the highest output throughput among the stages that meet the SLOs.
    `highest_throughput`: the highest output throughput. `last`: the last stage.
    """

    BEST_UNDER_SLO = "best_under_slo"
    HIGHEST_THROUGHPUT = "highest_throughput"
    LAST = "last"


class OutputLength(StrEnum):
    """Whether the server is forced to produce exactly the planned number of tokens."""

    FORCED = "forced"
    NATURAL = "natural"


class Boundary(StrEnum):
    """What a power or energy value covers."""

    GPU_BOARD = "gpu_board"
    MODULE = "module"
    CPU_PACKAGE = "cpu_package"
    DRAM = "dram"
    NODE = "node"
    RACK = "rack"
    FACILITY = "facility"


class Basis(StrEnum):
    """Where a value comes from. `ABSENT` means no value, never 0."""

    MEASURED = "measured"
    MODELLED = "modelled"
    ABSENT = "absent"


class Status(StrEnum):
    """The verdict of a run, from best to worst within its purpose."""

    FUNCTIONAL = "functional"
    VALID = "valid"
    PRELIMINARY = "preliminary"
    DEGRADED = "degraded"
    INVALID = "invalid"


class Severity(StrEnum):
    """Effect of one concern on the verdict: none for a note, else the status of the same name."""

    NOTE = "note"
    PRELIMINARY = "preliminary"
    DEGRADED = "degraded"
    INVALID = "invalid"


class RunState(StrEnum):
    """State of a run directory; a missing one is read as `FAILED`."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Concern:
    """One validity concern.

    Attributes:
        code: stable snake_case name.
        message: one sentence for people.
        value: what was found, if it is a number.
        limit: what the value was compared with.
    """

    code: str
    severity: Severity
    message: str
    value: int | float | None = None
    limit: int | float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the deployment, in NVML's terms. None and an empty UUID are unknown."""

    uuid: str = ""
    index: int | None = None
    name: str | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    power_limit_default_w: float | None = None
    sm_clock_max_mhz: int | None = None
    driver_version: str | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica of the served model.

    Attributes:
        name: label in records and tables, `replica-0`, `replica-1`, …
        base_url: scheme, host and port, without `/v1` or a trailing slash.
        model: the name to send as `model`.
        metrics_url: of the Prometheus text exposition, if the server has one.
        gpu_uuids: GPUs of this replica; empty on CPU.
        pid: the listening process, or None if the harness did not start it.
    """

    name: str
    base_url: str
    model: str
    metrics_url: str | None = None
    gpu_uuids: tuple[str, ...] = ()
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server in the manifest.

    Attributes:
        kind: `vllm`, `torch` or `attach`.
        version: as reported by the server.
        argv: command line of each replica, secrets redacted; empty for `attach`.
        software: name -> version of what it runs on (python, torch, transformers, cuda, …).
        settings: resolved settings worth comparing (max_model_len, dtype, tensor_parallel_size, …).
        log_paths: server log of each replica, relative to the run directory.
        ready_s: time from start to ready, None for `attach`.
        notes: unusual responses of a server that is ready nevertheless.
        kept_from: earlier run of the same series for which it was started.
        cache_cleared: whether its prefix cache was cleared before this run; None if it started for
            this run.
    """

    kind: str
    version: str | None = None
    argv: tuple[tuple[str, ...], ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    log_paths: tuple[str, ...] = ()
    ready_s: float | None = None
    notes: tuple[str, ...] = ()
    kept_from: str | None = None
    cache_cleared: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about a model that planning needs. None is unknown.

    Attributes:
        model_id: as in the profile (`builtin:tiny`, a path, a hub id).
        path: local folder with config.json and tokenizer, None if it is not on this machine.
        max_context_tok: longest context of the model.
        eos_reachable: False if no output can end by itself (built-in tiny, dummy weights).
        tok_per_word: tokens per word of the harness's corpus under this model's tokenizer.
        parameters: number of weights.
        dtype: type of the weights, as in config.json.
        fingerprint: sha256 over config and tokenizer files, None without a local copy.
        kv_bytes_per_tok: KV cache of one token over all layers, in the weights' type; None also if
            some layers keep none (sliding windows, state-space layers).
    """

    model_id: str
    path: str | None = None
    max_context_tok: int | None = None
    vocab_size: int | None = None
    eos_reachable: bool | None = None
    tok_per_word: float | None = None
    parameters: int | None = None
    dtype: str | None = None
    fingerprint: str | None = None
    kv_bytes_per_tok: int | None = None
