"""The words that every room uses: outcomes, boundaries, verdicts, endpoints.

Types that cross rooms live here; those that one room alone needs live in that room.
"""

from dataclasses import dataclass, field
from enum import StrEnum

CANARY = "canary"
"""Class and replica of requests that measure the load generator's live error: recorded, and no part
of any figure of the load.
"""


class Outcome(StrEnum):
    """How a request ended. Only `OK` counts as served; all others but `DROPPED` were sent or
    tried.
    """

    OK = "ok"
    HTTP_ERROR = "http_error"  # a status other than 200
    API_ERROR = "api_error"  # an error event after HTTP 200
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_BYTE = "timeout_first_byte"
    TIMEOUT_IDLE = "timeout_idle"  # between chunks
    TIMEOUT_TOTAL = "timeout_total"
    CONNECTION_ERROR = "connection_error"  # refused or reset before a response
    TRUNCATED = "truncated"  # the stream ended without its end marker
    MALFORMED = "malformed"  # bytes that are no HTTP or no event stream
    CANCELLED = "cancelled"  # planned abandonment by the user
    INTERRUPTED = "interrupted"  # the run was stopped with the request in flight
    DROPPED = "dropped"  # could not be started within its cap; never sent


class Api(StrEnum):
    """Wire API that the traffic speaks."""

    MESSAGES = "messages"  # Anthropic Messages
    CHAT = "chat"  # OpenAI chat completions
    COMPLETIONS = "completions"  # OpenAI completions: plain text in, plain text out
    RESPONSES = "responses"  # OpenAI responses


class Purpose(StrEnum):
    """What a run claims. Smoke proves function and makes no performance claim."""

    SMOKE = "smoke"
    MEASURE = "measure"


class OutputLength(StrEnum):
    """Whether the server is made to produce exactly the planned number of tokens."""

    FORCED = "forced"
    NATURAL = "natural"


class Boundary(StrEnum):
    """What a power or energy figure covers."""

    GPU_BOARD = "gpu_board"
    MODULE = "module"
    CPU_PACKAGE = "cpu_package"
    DRAM = "dram"
    NODE = "node"
    RACK = "rack"
    FACILITY = "facility"


class Basis(StrEnum):
    """Where a figure comes from. `ABSENT` figures have no value, never 0."""

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
    """What one concern does to the verdict: a note nothing, the others as the status of the same
    name.
    """

    NOTE = "note"
    PRELIMINARY = "preliminary"
    DEGRADED = "degraded"
    INVALID = "invalid"


class RunState(StrEnum):
    """State of a run directory. A reader treats a missing state as `FAILED`."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Concern:
    """One reason to doubt a run.

    Attributes:
        code: stable snake_case name.
        severity: what it does to the verdict.
        message: one sentence for people.
        value: what was found, if it is a number.
        limit: what it was held against.
    """

    code: str
    severity: Severity
    message: str
    value: int | float | None = None
    limit: int | float | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the deployment, as NVML names it. None is unknown, and so is an empty UUID."""

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
        base_url: scheme, host and port, without `/v1` and without a trailing slash.
        model: the name to send as `model`.
        metrics_url: the Prometheus text exposition, or None where the server has none.
        gpu_uuids: the boards that this replica holds; empty on CPU.
        pid: the process that listens, or None when it was not started by us.
    """

    name: str
    base_url: str
    model: str
    metrics_url: str | None = None
    gpu_uuids: tuple[str, ...] = ()
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the manifest says of a server.

    Attributes:
        kind: `vllm`, `torch` or `attach`.
        version: the server's own version, None if it does not tell.
        argv: one command line a replica, secrets redacted; empty for `attach`.
        software: name -> version of what it runs on (python, torch, transformers, cuda, …).
        settings: resolved settings worth comparing (max_model_len, dtype, tensor_parallel_size, …).
        log_paths: server log of each replica, relative to the run directory.
        ready_s: time from start to ready, None for `attach`.
    """

    kind: str
    version: str | None = None
    argv: tuple[tuple[str, ...], ...] = ()
    software: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    log_paths: tuple[str, ...] = ()
    ready_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What planning needs to know of a model, gathered once before the plan is made.

    Attributes:
        model_id: what the profile names (`builtin:tiny`, a path, a hub id).
        path: local folder with config.json and tokenizer, None when it is not on this machine.
        max_context_tok: the longest context that the model takes, None if unknown.
        vocab_size: None if unknown.
        eos_reachable: False when no output can end by itself (built-in tiny, dummy weights); None
            if unknown.
        tok_per_word: tokens per word of the harness's corpus under this model's tokenizer; None if
            it was not counted.
        parameters: number of weights, None if unknown.
        dtype: weights' type as in config.json, None if unknown.
        fingerprint: sha256 over config and tokenizer files, None when there is no local copy.
        kv_bytes_per_tok: key and value cache of one token over all layers, in the weights' type;
            None if unknown or where the layers do not all keep one (sliding windows, state-space
            layers).
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
