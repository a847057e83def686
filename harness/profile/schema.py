"""The types of a profile: one YAML file that says everything about a run.

Pydantic is used here and nowhere else. All models are frozen and forbid unknown keys, so a stale profile fails instead of quietly losing a
setting. Every number's unit is the suffix of its key; lengths of time, counts and sizes also take plain suffixes (`30s`, `2m`, `16k`,
`4GiB`).
`docs/profile-reference.md` and `harness/profile/profile.schema.json` are generated from these types.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)  # fmt: skip
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from harness.core.records import Api, OutputLength, Purpose
from harness.core.units import parse_bytes, parse_count, parse_duration_s
from harness.profile import rules

BUILTIN_MODELS: Final = rules.BUILTIN_MODELS
"""Model ids that the harness makes itself."""

_LARGEST: Final = 10**15
"""Bound of counts and sizes: everything later fits into 64 bits with room for nanoseconds."""
_LONGEST_TEXT: Final = 64
"""Characters of a number with its suffix; bounds the time that reading it takes."""
_LONGEST_S: Final = 10.0 * 365 * 86400
"""Bound of lengths of time: ten years, so that nanoseconds fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a value with a suffix is written: for messages and the reference.

    Attributes:
        text: what it is.
        example: one value as a person would write it.
    """

    text: str
    example: str


def _suffixed(parse: Callable[[Any], float], form: Form, largest: float) -> Callable[[object], float]:
    """A validator that tells text and numbers from everything else before it parses."""

    def validate(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"must be {form.text} such as {form.example}")
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise ValueError(f"is longer than any number; write {form.text} such as {form.example}")
        if isinstance(value, int) and abs(value) > largest:
            raise ValueError(f"is beyond {largest:,.0f}")
        result = parse(value)
        if result > largest:
            raise ValueError(f"is beyond {largest:,.0f}")
        return result

    return validate


_TIME: Final = Form("a length of time", "30s")
_COUNT: Final = Form("a whole count", "16k")
_BYTES: Final = Form("a size", "4GiB")
_seconds = _suffixed(parse_duration_s, _TIME, _LONGEST_S)
_count = _suffixed(parse_count, _COUNT, _LARGEST)
_bytes = _suffixed(parse_bytes, _BYTES, _LARGEST)

_NUMBER = r"^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
_TIME_SCHEMA: Final = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _NUMBER + r"(us|ms|s|m|min|h|d)?\s*$"}]}
_COUNT_SCHEMA: Final = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _NUMBER + r"(k|M|ki|Ki|Mi)?\s*$"}]}
_BYTES_SCHEMA: Final = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _NUMBER + r"([kKMGT]B|[KMGT]iB|B)\s*$"}]}
_AMOUNT_SCHEMA: Final = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": _NUMBER + r"[A-Za-z]*\s*$"}]}


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1")
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), WithJsonSchema(_TIME_SCHEMA), _TIME]
Count = Annotated[int, BeforeValidator(_count), WithJsonSchema(_COUNT_SCHEMA), _COUNT]
CountFromOne = Annotated[int, BeforeValidator(_count), AfterValidator(_at_least_one), WithJsonSchema(_COUNT_SCHEMA), _COUNT]
Bytes = Annotated[int, BeforeValidator(_bytes), WithJsonSchema(_BYTES_SCHEMA), _BYTES]
# YAML already knows numbers, text and booleans apart: `concurrency: true` or `prefix_caching: "yes"` are mistakes, not 1 and true.
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} must start with http:// or https://")
    return value.rstrip("/")


HttpUrlText = Annotated[
    str, AfterValidator(_http_url), WithJsonSchema({"type": "string", "pattern": "^https?://"}), Form("a URL", "http://127.0.0.1:8000")
]


class Strict(BaseModel):
    """Base of every part of a profile: unknown keys are errors and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


# --- model ------------------------------------------------------------------------------------------------------------------------


class Model(Strict):
    """What is served."""

    id: Text
    """`builtin:tiny`, `builtin:smollm2-135m`, a folder with config.json, or a hub id that the server can load."""
    served_name: Text | None = None
    """Name that requests carry; default: the id."""
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` benchmarks a shape without its weights; its speed is representative for dense models only."""
    dtype: Text = "auto"
    """Weights' type, as the server names it (`auto`, `bfloat16`, `float32`, …)."""
    quantization: Text | None = None
    """Passed to vLLM as `--quantization`; None leaves it to the checkpoint."""
    max_context_tok: CountFromOne | None = None
    """Longest context to serve; default: what the model takes."""
    tok_per_word: Number | None = Field(default=None, gt=0.2, lt=20)
    """Tokens per word of the harness's corpus under this model's tokenizer; default: counted where the tokenizer is at hand, else 1.35."""
    trust_remote_code: Flag = False
    """Let the server run code that comes with the model."""


# --- server -----------------------------------------------------------------------------------------------------------------------


class ServerBase(Strict):
    """Settings of every server that the harness starts itself."""

    host: Text = "127.0.0.1"
    """Address to listen on."""
    port: Whole | None = Field(default=None, ge=1, le=65535)
    """Port of the first replica (the next ones count up); default: free ports."""
    ready_timeout_s: Seconds = 900.0
    """Deadline for the whole start, up to the first real token."""
    stop_timeout_s: Seconds = 30.0
    """Time for a clean stop before the process group is killed."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment variables of the server. Never put a secret here: use `api_key_env` or `api_key_file`."""
    api_key_env: Text | None = None
    """Name of the environment variable that holds the API key."""
    api_key_file: Text | None = None
    """File that holds the API key."""


class VllmServer(ServerBase):
    """vLLM, started as a child process."""

    kind: Literal["vllm"]
    python: Text | None = None
    """Python of the environment that has vLLM; default: what HARNESS_VLLM_PYTHON names, else the harness's own. A relative path is taken
    from the working directory."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`cpu` sets vLLM's CPU variables; `auto` is cuda where an NVIDIA device is present."""
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "all"
    """Boards by index or UUID; resolved once to UUIDs, the same set for server, power and per-GPU figures."""
    replicas: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    """Independent servers, each with its own GPUs and port; `auto`: as many as the GPUs hold (one on CPU)."""
    tensor_parallel_size: Whole = Field(default=1, ge=1)
    """GPUs that share each layer."""
    data_parallel_size: Whole = Field(default=1, ge=1)
    """vLLM's own data-parallel ranks within one replica."""
    gpu_memory_utilization: Number = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take."""
    max_num_seqs: CountFromOne | None = None
    """Most sequences in one batch; default: vLLM's."""
    max_num_batched_tok: CountFromOne | None = None
    """vLLM's `--max-num-batched-tokens`; default: vLLM's."""
    prefix_caching: Flag = True
    """vLLM's prefix cache; `false` is the control run."""
    enforce_eager: Flag | None = None
    """No CUDA graphs or compilation; default: true on CPU, false on GPU."""
    cpu_kv_cache_bytes: Bytes = 4 * 1024**3
    """KV cache on CPU."""
    cpu_threads_bind: Text = "auto"
    """vLLM's `VLLM_CPU_OMP_THREADS_BIND` on CPU."""
    tool_call_parser: Text | None = None
    """vLLM's `--tool-call-parser`; default: derived from the model where the workload has tools (`hermes` for built-in models)."""
    reasoning_parser: Text | None = None
    """vLLM's `--reasoning-parser`."""
    extra_args: tuple[str, ...] = ()
    """Further arguments, checked against what that version accepts."""


class TorchServer(ServerBase):
    """The embedded engine: transformers' continuous batching behind the same APIs."""

    kind: Literal["torch"]
    python: Text | None = None
    """Python of the environment that has torch and transformers; default: the harness's own."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`auto` is cuda where an NVIDIA device is present."""
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "all"
    """Boards by index or UUID. A replica of this engine takes one board."""
    replicas: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    """Independent servers; `auto`: one a GPU, one on CPU."""
    threads: Whole | None = Field(default=None, ge=1)
    """Torch threads on CPU; default: 1 on two cores or fewer, else the cores less two."""
    max_batch_tok: CountFromOne | None = None
    """Most tokens in one forward pass; default: the engine's."""
    kv_cache_tok: CountFromOne | None = None
    """KV cache in tokens; default: sized by the engine from memory and context."""
    page_tok: Whole | None = Field(default=None, ge=1)
    """Tokens in one page of the KV cache; default: the engine's."""


class AttachServer(Strict):
    """Servers that are already up. Their start, stop and settings are not the harness's."""

    kind: Literal["attach"]
    urls: tuple[HttpUrlText, ...] = Field(min_length=1)
    """Base URL of each replica (`http://host:port`, without `/v1`)."""
    metrics_urls: tuple[HttpUrlText, ...] | None = None
    """Prometheus text of each replica; default: `<url>/metrics` where it answers. An empty list: none."""
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "none"
    """Boards on this machine that serve; `none` leaves per-GPU and power figures absent."""
    gpu_count: Whole | None = Field(default=None, ge=1)
    """All GPUs that the deployment holds, where they are not on this machine."""
    ready_timeout_s: Seconds = 60.0
    """Deadline for the servers to answer."""
    api_key_env: Text | None = None
    """Name of the environment variable that holds the API key."""
    api_key_file: Text | None = None
    """File that holds the API key."""


class AutoServer(ServerBase):
    """vLLM where it is installed and a GPU is visible, the embedded engine where there is no GPU, an error where a GPU cannot be used."""

    kind: Literal["auto"]


Server = Annotated[VllmServer | TorchServer | AttachServer | AutoServer, Field(discriminator="kind")]


# --- traffic ----------------------------------------------------------------------------------------------------------------------


Amount = Annotated[
    float, Field(strict=True), WithJsonSchema(_AMOUNT_SCHEMA), Form("a number, with the suffixes of the key above it", "16k")
]
"""A number of a distribution. Suffixes follow the key that the distribution is for (`think_s` takes lengths of time, `user_tok` counts)."""


class Constant(Strict):
    """Always the same value. A bare number or text such as `16k` means this too."""

    kind: Literal["constant"] = "constant"
    value: Amount = Field(ge=0)
    """The value."""


class Uniform(Strict):
    """Evenly spread between two values."""

    kind: Literal["uniform"]
    min: Amount = Field(ge=0)
    """Smallest value."""
    max: Amount = Field(ge=0)
    """Largest value."""


class Lognormal(Strict):
    """exp(N(mu, sigma)), clipped to [min, max]."""

    kind: Literal["lognormal"]
    mu: Number = Field(ge=-50, le=50)
    """Mean of the natural logarithm."""
    sigma: Number = Field(ge=0, le=20)
    """Standard deviation of the natural logarithm."""
    min: Amount = Field(default=0, ge=0)
    """Smallest value."""
    max: Amount | None = Field(default=None, gt=0)
    """Largest value; default: no bound."""


class Geometric(Strict):
    """1, 2, 3, … with the given mean."""

    kind: Literal["geometric"]
    mean: Number = Field(ge=1, le=1e9)
    """Mean; at least 1."""
    max: Whole | None = Field(default=None, ge=1)
    """Largest value; default: no bound."""


AnyDistribution = Constant | Uniform | Lognormal | Geometric


@dataclass(frozen=True, slots=True)
class _Shorthand:
    """Takes `16k` for `{kind: constant, value: 16000}`, and suffixes inside a distribution."""

    parse: Callable[[object], float]

    def __call__(self, value: object) -> object:
        if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            return {"kind": "constant", "value": self.parse(value)}
        if not isinstance(value, dict):
            return value
        inside = {key: self._inner(key, item) for key, item in value.items()}
        return {"kind": "constant", **inside} if set(inside) == {"value"} else inside

    def _inner(self, key: str, item: object) -> object:
        if key not in {"value", "min", "max", "mean"} or not isinstance(item, str):
            return item
        try:
            number = self.parse(item)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        return int(number) if number == int(number) else number


@dataclass(frozen=True, slots=True)
class _OrNumber:
    """Tells the JSON Schema of a distribution about the shorthand."""

    short: dict[str, object]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [self.short, handler(core_schema)]}


Distribution = Annotated[
    Annotated[AnyDistribution, Field(discriminator="kind")], BeforeValidator(_Shorthand(_count)), _OrNumber(_COUNT_SCHEMA), _COUNT,
]  # fmt: skip
SecondsDistribution = Annotated[
    Annotated[AnyDistribution, Field(discriminator="kind")], BeforeValidator(_Shorthand(_seconds)), _OrNumber(_TIME_SCHEMA), _TIME,
]  # fmt: skip


class ChatWorkload(Strict):
    """Conversations of several turns behind one shared system prompt.

    Default lengths: Azure 2023 conversation trace (input p50 1,020, output p50 129) with a 3k system prompt.
    """

    kind: Literal["chat"]
    system_tok: Count = 3000
    """Length of the system prompt that all conversations share."""
    user_tok: Distribution = Lognormal(kind="lognormal", mu=5.0, sigma=1.0, min=4, max=8000)
    """New input of one turn."""
    output_tok: Distribution = Lognormal(kind="lognormal", mu=4.9, sigma=0.8, min=2, max=2000)
    """Output of one turn."""
    turns: Distribution = Geometric(kind="geometric", mean=3.5, max=40)
    """Turns of one conversation."""
    think_s: SecondsDistribution = Lognormal(kind="lognormal", mu=1.5, sigma=0.8, max=30)
    """Pause between the end of an answer and the next turn, in seconds."""
    context_limit_tok: CountFromOne = 32_000
    """A conversation ends where its next turn would exceed this context."""


class ClaudeCodeWorkload(Strict):
    """Claude Code sessions: a shared head of tools and system prompt, a growing context, tool results, short outputs.

    Defaults are the fits to 49,334 real requests (kv-cache-tester traces, Apache-2.0): tools p50 12,262 tokens, system p50 2,773,
    ln(append) 6.84/1.30, ln(output) 5.565/0.895, ln(requests per session) 3.67/1.16, ln(gap after a tool call in s) 2.51/1.22,
    ln(gap after the end of a turn in s) 5.31/2.24, stop reason tool_use 85.6 % against end_turn 5.7 %.
    """

    kind: Literal["claude-code"]
    tools_tok: Count = 12262
    """Length of the tool definitions that all sessions share."""
    tools: Whole = Field(default=18, ge=1, le=200)
    """Number of tool definitions."""
    system_tok: Count = 2773
    """Length of the system prompt that all sessions share."""
    first_tok: Distribution = Lognormal(kind="lognormal", mu=8.2, sigma=1.0, min=50, max=60000)
    """First message of a session beyond the shared head."""
    append_tok: Distribution = Lognormal(kind="lognormal", mu=6.84, sigma=1.30, min=8, max=60000)
    """New input of a later request: a tool result or the next message of the user."""
    output_tok: Distribution = Lognormal(kind="lognormal", mu=5.565, sigma=0.895, min=4, max=8000)
    """Output of one request."""
    requests: Distribution = Lognormal(kind="lognormal", mu=3.67, sigma=1.16, min=1, max=400)
    """Requests of one session."""
    tool_use_share: Number = Field(default=0.9376, ge=0, le=1)
    """Share of requests that end in a tool call (85.6 / (85.6 + 5.7)); the rest end the turn."""
    tool_gap_s: SecondsDistribution = Lognormal(kind="lognormal", mu=2.51, sigma=1.22, max=60)
    """Time that a tool takes, in seconds; the cap is stated in the report."""
    user_gap_s: SecondsDistribution = Lognormal(kind="lognormal", mu=5.31, sigma=2.24, max=60)
    """Time until the user's next message, in seconds; the cap is stated in the report."""
    context_limit_tok: CountFromOne = 200_000
    """Context at which a real client would compact; a session ends there."""


Workload = Annotated[ChatWorkload | ClaudeCodeWorkload, Field(discriminator="kind")]


class StageBase(Strict):
    """Settings of every load stage."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """Label in tables; default: kind and position."""
    warmup_s: Seconds = 0.0
    """Time from the stage's start that is not measured."""
    window_s: Seconds | None = None
    """Length of the measured window. Load goes on after it until every request intended in it has finished."""
    sessions: Whole | None = Field(default=None, ge=1)
    """Ends the stage after this many sessions, started in order of the plan, have finished."""
    max_in_flight: Whole = Field(default=10_000, ge=1)
    """Requests in flight, over all workers; one that would exceed it is recorded as dropped, never delayed."""


class ConcurrencyStage(StageBase):
    """A closed loop: this many live conversations; when one ends, the next of the plan takes its place."""

    kind: Literal["concurrency"]
    concurrency: Whole = Field(ge=1, le=100_000)
    """Live conversations."""


class ArrivalRateStage(StageBase):
    """An open loop: conversations start by a schedule that is drawn before the run, whatever the server does."""

    kind: Literal["arrival_rate"]
    rate_per_s: Number = Field(gt=0, le=100_000)
    """Conversation starts per second."""
    process: Literal["poisson", "constant"] = "poisson"
    """Law of the gaps between starts."""


Stage = Annotated[ConcurrencyStage | ArrivalRateStage, Field(discriminator="kind")]


class Timeouts(Strict):
    """Limits of one request; each has an outcome of its own."""

    connect_s: Seconds = 10.0
    """Until the connection stands."""
    first_byte_s: Seconds = 300.0
    """From the request's last byte to the response's first."""
    idle_s: Seconds = 120.0
    """Between two reads of a stream."""
    total_s: Seconds = 1800.0
    """The whole request."""


class Traffic(Strict):
    """What is sent, and when."""

    api: Api = Api.MESSAGES
    """Wire API: `messages` (Anthropic), or OpenAI's `chat` (chat completions), `completions` (the conversation as one text) or
    `responses`. All of them stream."""
    workload: Workload
    """The conversations."""
    load: tuple[Stage, ...] = Field(min_length=1)
    """Load stages, one after the other."""
    output_length: OutputLength | None = None
    """`forced` makes the server produce exactly the planned tokens (OpenAI's APIs, or a model that cannot end by itself).
    Default: forced under purpose measure, natural under smoke."""
    context_scale: Literal["auto"] | Annotated[Number, Field(gt=0, le=1)] = "auto"
    """Factor on all lengths; `auto` fits the workload into the model's context. Printed, recorded, and equal where runs are compared."""
    temperature: Number = Field(default=0.0, ge=0, le=2)
    """Sampling temperature."""
    workers: Literal["auto"] | Annotated[Whole, Field(ge=1, le=256)] = "auto"
    """Locust worker processes; `auto`: as many as the client-fidelity certificate asks for, one without a certificate."""
    calibrate: Flag | None = None
    """Hold a client-fidelity certificate for this load before the server starts: a cached one, else one is measured (10-60 s).
    Default: under purpose measure."""
    canary: Flag | None = None
    """Send about 1 % more requests to a paced server on this host, to measure the load generator's live error; they count nowhere else.
    Default: under purpose measure."""
    routing: Literal["round_robin", "least_busy"] = "round_robin"
    """How new conversations choose a replica; a conversation stays on its replica."""
    timeouts: Timeouts = Timeouts()
    """Limits of one request."""
    drain_timeout_s: Seconds = 120.0
    """Longest wait for requests of the window to finish after it has closed."""


# --- the rest ---------------------------------------------------------------------------------------------------------------------


class Slos(Strict):
    """A request is good when it meets every one of these; goodput counts good requests only."""

    ttft_s: Seconds | None = None
    """Longest time to the first token."""
    tpot_s: Seconds | None = None
    """Longest mean time per output token after the first."""
    e2e_s: Seconds | None = None
    """Longest time to the last token."""


class Telemetry(Strict):
    """What is watched beside the traffic."""

    scrape_interval_s: Seconds = 1.0
    """Between two scrapes of each `/metrics`."""
    scrape_timeout_s: Seconds = 5.0
    """Limit of one scrape."""
    power_interval_s: Seconds = 0.1
    """Between two readings of instant power."""
    energy_interval_s: Seconds = 1.0
    """Between two readings of the energy counter."""
    host_interval_s: Seconds = 1.0
    """Between two readings of CPU, memory and network."""
    require: tuple[Literal["server_metrics", "gpu_power"], ...] = ()
    """Sources without which the run must not start (exit 6)."""


class Price(Strict):
    """What a GPU-hour costs; printed with every figure that uses it."""

    usd_per_gpu_h: Number = Field(gt=0)
    """Price of one GPU for one hour."""
    source: str = Field(min_length=1)
    """Where the price comes from."""
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    """Its date, YYYY-MM or YYYY-MM-DD."""


class Profile(Strict):
    """One run, whole."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=80)
    """Name of the run directory and reports; default: the file's stem."""
    purpose: Purpose
    """`smoke` proves function and makes no performance claim; only `measure` can be valid."""
    description: str = ""
    """For people."""
    seed: Whole = Field(default=1, ge=0, lt=2**63)
    """Everything random follows from it."""
    model: Model
    """What is served."""
    server: Server = AutoServer(kind="auto")
    """What serves it."""
    traffic: Traffic
    """What is sent, and when."""
    slos: Slos = Slos()
    """Service level objectives of one request."""
    telemetry: Telemetry = Telemetry()
    """What is watched beside the traffic."""
    thresholds: tuple[str, ...] = ()
    """Conditions on the result, such as `ttft_s.p99 < 1.5`; one that fails exits 99."""
    price: Price | None = None
    """For dollars per million tokens."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        found = rules.violations(self)
        if found:
            text = "; ".join(str(violation) for violation in found)
            raise PydanticCustomError("impossible", "{text}", {"text": text, "violations": found})
        return self

    @property
    def calibrate(self) -> bool:
        """Whether a run holds a certificate: the profile's word, else under purpose measure."""
        return self.purpose is Purpose.MEASURE if self.traffic.calibrate is None else self.traffic.calibrate

    @property
    def canary(self) -> bool:
        """Whether a run sends canaries: the profile's word, else under purpose measure."""
        return self.purpose is Purpose.MEASURE if self.traffic.canary is None else self.traffic.canary

    @property
    def output_length(self) -> OutputLength:
        """The output-length mode in force: the profile's, else forced for measure and natural for smoke."""
        if self.traffic.output_length is not None:
            return self.traffic.output_length
        return OutputLength.FORCED if self.purpose is Purpose.MEASURE else OutputLength.NATURAL
