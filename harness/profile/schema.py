"""The types of a profile: one YAML file that says everything about a run.

Pydantic is used here and nowhere else. All models are frozen and forbid unknown keys, so a stale profile fails instead of quietly losing a
setting. Every number's unit is the suffix of its key; lengths of time, counts and sizes also take plain suffixes (`30s`, `2m`, `16k`,
`4GiB`).
`docs/profile-reference.md` and `harness/profile/profile.schema.json` are generated from these types.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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

from harness.core.network import Network
from harness.core.records import Api, OutputLength, Purpose
from harness.core.units import parse_bytes, parse_count, parse_duration_s
from harness.profile import rules

BUILTIN_MODELS: Final = rules.BUILTIN_MODELS
"""Model ids that the harness makes itself."""

IDLE_S: Final = 30.0
"""Idle of a run that measures: as long as an energy needs not to be preliminary."""
SMOKE_IDLE_S: Final = 5.0
"""Idle of a smoke run: the least that energy can be taken over."""

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


class Quantiles(Strict):
    """A distribution as a table of its quantiles, the way that measurements are published; between two of them the logarithm is linear.

    `{kind: quantiles, at: [0, 0.5, 1], values: [5, 9, 60]}`. Values are clipped to `max`.
    """

    kind: Literal["quantiles"]
    at: tuple[Number, ...] = Field(min_length=2)
    """Shares, rising from 0 to 1."""
    values: tuple[Amount, ...] = Field(min_length=2)
    """The value below which that share lies; one for each share, none falling, above 0."""
    max: Amount | None = Field(default=None, gt=0)
    """Largest value; default: the last of the table."""


AnyDistribution = Constant | Uniform | Lognormal | Geometric | Quantiles


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
        if key == "values" and isinstance(item, list | tuple):
            return [self._inner("value", one) for one in item]
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


class SessionsBase(Strict):
    """Settings of every workload whose users may give up."""

    abandon_share: Number = Field(default=0.0, ge=0, le=1)
    """Share of requests whose user gives up: the stream is cancelled (outcome `cancelled`) and the session ends there. 0: nobody does; no
    public figure was found."""
    abandon_after_s: SecondsDistribution = Uniform(kind="uniform", min=1, max=20)
    """Time from sending until the user gives up, where the answer has not ended before."""


class ChatWorkload(SessionsBase):
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


class ClaudeChatWorkload(ChatWorkload):
    """`chat` as Claude's clients send it: with prompt-cache breakpoints, where the Messages API is spoken.

    Lengths are those of `chat`: tokens and turns of claude.ai conversations are not published.
    """

    kind: Literal["claude-chat"]  # type: ignore[assignment]  # the variant's own tag


class Subagents(Strict):
    """Subagents of Claude Code's sessions: a head of their own, shorter contexts, the class `claude-code/subagent`.

    A tool call starts each of them when its answer is whole, and the session that made the call goes on when its subagent has ended.
    Published (63 subagents in 773 sessions, kv-cache-tester traces): input p50 45k tokens, ideal prefix hit 87 %. Their other lengths are
    set so that these come out.
    """

    share: Number = Field(default=0.08, ge=0, lt=1)
    """Share of all sessions that are a subagent's: a session has a Poisson number of them, with mean share / (1 - share), at random
    tool calls."""
    tools_tok: Count = 8000
    """Length of the tool definitions that all subagents share."""
    tools: Whole = Field(default=12, ge=1, le=200)
    """Number of tool definitions."""
    system_tok: Count = 1500
    """Length of the system prompt that all subagents share."""
    first_tok: Distribution = Lognormal(kind="lognormal", mu=9.2, sigma=1.0, min=50, max=60000)
    """The task that a subagent is given, with what it is given to read."""
    append_tok: Distribution = Lognormal(kind="lognormal", mu=7.2, sigma=1.3, min=8, max=60000)
    """Tool result of a later request."""
    requests: Distribution = Lognormal(kind="lognormal", mu=2.2, sigma=0.7, min=1, max=60)
    """Requests of one subagent."""


class ClaudeCodeWorkload(SessionsBase):
    """Claude Code sessions: a shared head, a growing context, tool results, compaction, subagents, short outputs.

    Defaults follow 49,334 real requests (kv-cache-tester traces @94f6046, Apache-2.0): tools p50 12,262 tokens, system p50 2,773, and the
    published quantiles of outputs, requests per session and gaps; stop reason tool_use 85.6 % against end_turn 5.7 %; thinking in 38 % of
    outputs. The published fit of new input (lognormal 6.84/1.30) covers the answer before as well, which a request carries for the first
    time; `append_tok` is what comes beside it, set so that the published quantiles of new input come out (docs/traffic.md holds the
    generated ones against the published).
    """

    kind: Literal["claude-code"]
    tools_tok: Count = 12262
    """Length of the tool definitions that all sessions share."""
    tools: Whole = Field(default=18, ge=1, le=200)
    """Number of tool definitions."""
    system_tok: Count = 2773
    """Length of the system prompt that all sessions share."""
    first_tok: Distribution = Lognormal(kind="lognormal", mu=8.4, sigma=1.0, min=50, max=60000)
    """First message of a new session beyond the shared head."""
    resumed_share: Number = Field(default=0.35, ge=0, le=1)
    """Share of sessions that are resumed: their first request brings the context of an earlier one (first input p75 104k)."""
    resumed_tok: Distribution = Lognormal(kind="lognormal", mu=11.6, sigma=0.5, min=1000, max=165000)
    """First message of a resumed session beyond the shared head."""
    append_tok: Distribution = Lognormal(kind="lognormal", mu=5.8, sigma=1.7, min=8, max=60000)
    """What a later request adds beside the answer before it: a tool result or the next message of the user."""
    rewrite_share: Number = Field(default=0.016, ge=0, le=1)
    """Share of later requests that change the context at a random place (edited, cleared or re-read): all behind it is new input. With
    first requests and compactions this is the heavy separate mode of new input (p99 94k)."""
    output_tok: Distribution = Quantiles(
        kind="quantiles", at=(0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1), values=(20, 89, 137, 216, 426, 898, 1554, 3687, 8000)
    )
    """Output of one request: the published quantiles (their lognormal fit 5.565/0.895 has p50 261 and mean 390 where 216 and 440 were
    measured)."""
    thinking_share: Number = Field(default=0.38, ge=0, le=1)
    """Share of answers that hold reasoning: part of `output_tok`, and carried on by later requests as in Claude Code's tool loop."""
    requests: Distribution = Quantiles(kind="quantiles", at=(0, 0.25, 0.5, 0.75, 0.9, 0.99, 1), values=(1, 18, 45, 94, 156, 330, 500))
    """Requests of one session: the published quantiles (lognormal fit 3.67/1.16)."""
    tool_use_share: Number = Field(default=0.9376, ge=0, le=1)
    """Share of requests that end in a tool call (85.6 / (85.6 + 5.7)); the rest end the turn."""
    tool_gap_s: SecondsDistribution = Quantiles(
        kind="quantiles", at=(0, 0.25, 0.5, 0.75, 0.9, 0.99, 1), values=(0.5, 5, 9, 19, 71, 612, 3600), max=60
    )
    """Time that a tool takes, in seconds: the published quantiles (lognormal fit 2.51/1.22), capped at one minute; the cap is a note of
    the plan."""
    user_gap_s: SecondsDistribution = Quantiles(
        kind="quantiles", at=(0, 0.25, 0.5, 0.75, 0.9, 1), values=(2, 58, 210, 929, 2982, 20000), max=60
    )
    """Time until the user's next message, in seconds: the published quantiles (lognormal fit 5.31/2.24), capped at one minute; the cap
    is a note of the plan."""
    context_limit_tok: CountFromOne = 200_000
    """Longest context, input and output."""
    compact_at: Number = Field(default=0.92, gt=0.1, le=1)
    """Share of the context limit at which a session compacts: it goes on with a summary in place of its messages."""
    compact_to: Number = Field(default=0.25, ge=0, le=0.6)
    """Context after a compaction, as a share of the context before (published: 0.45 % of steps fall below 0.6 of it)."""
    subagents: Subagents = Subagents()
    """Sessions of subagents among them."""


class DocQaWorkload(SessionsBase):
    """Questions about one long document that nobody else has.

    Lengths are assumptions (no public figures of Claude's were found): 30k to 150k tokens of document, one to four turns.
    """

    kind: Literal["doc-qa"]
    system_tok: Count = 500
    """Length of the system prompt that all sessions share."""
    document_tok: Distribution = Uniform(kind="uniform", min=30_000, max=150_000)
    """The document, in front of the first question."""
    question_tok: Distribution = Uniform(kind="uniform", min=20, max=200)
    """One question."""
    output_tok: Distribution = Uniform(kind="uniform", min=200, max=800)
    """One answer."""
    turns: Distribution = Uniform(kind="uniform", min=1, max=4)
    """Questions of one session."""
    think_s: SecondsDistribution = Lognormal(kind="lognormal", mu=3.0, sigma=0.8, max=60)
    """Pause between an answer and the next question, in seconds."""
    context_limit_tok: CountFromOne = 160_000
    """A session ends where its next turn would exceed this context."""


class ThinkingWorkload(SessionsBase):
    """Long answers that are mostly reasoning, which later turns do not carry.

    Defaults: ServeGen's DeepSeek-R1 clients (Apache-2.0): input p50 208 and p95 6.7k; output p50 792 and mean 1,527 (lognormal 6.674/1.146
    gives p90 3.4k and p99 11.4k, published 3.4k and 12.6k); reasoning share of mean 0.70 with modes near 0.4 and 0.9. Turns are assumed.
    """

    kind: Literal["thinking"]
    system_tok: Count = 20
    """Length of the system prompt that all sessions share."""
    user_tok: Distribution = Lognormal(kind="lognormal", mu=5.24, sigma=2.15, min=4, max=16000)
    """New input of one turn."""
    output_tok: Distribution = Lognormal(kind="lognormal", mu=6.674, sigma=1.146, min=8, max=16000)
    """Output of one turn, reasoning included."""
    reasoning_low: Number = Field(default=0.4, ge=0, le=1)
    """Lower mode of the share of an answer that is reasoning."""
    reasoning_high: Number = Field(default=0.9, ge=0, le=1)
    """Upper mode."""
    reasoning_high_share: Number = Field(default=0.6, ge=0, le=1)
    """Share of answers about the upper mode: 0.6 gives the published mean of 0.70."""
    reasoning_spread: Number = Field(default=0.07, ge=0, le=0.5)
    """Standard deviation about each mode."""
    turns: Distribution = Geometric(kind="geometric", mean=1.5, max=8)
    """Turns of one session."""
    think_s: SecondsDistribution = Lognormal(kind="lognormal", mu=2.5, sigma=0.8, max=60)
    """Pause between an answer and the next turn, in seconds."""
    context_limit_tok: CountFromOne = 40_000
    """A session ends where its next turn would exceed this context."""


class BatchWorkload(Strict):
    """Single requests without a deadline, such as a job over many records.

    Default lengths: Azure 2023 conversation trace (input p50 1,020 and p99 4,142; output p50 129 and p99 601).
    """

    kind: Literal["batch"]
    system_tok: Count = 400
    """Length of the instructions that all requests share."""
    user_tok: Distribution = Lognormal(kind="lognormal", mu=6.4, sigma=0.8, min=8, max=8000)
    """The record to work on."""
    output_tok: Distribution = Lognormal(kind="lognormal", mu=4.86, sigma=0.66, min=2, max=2000)
    """One answer."""
    context_limit_tok: CountFromOne = 16_000
    """Longest context, input and output."""


PlainWorkload = Annotated[
    ChatWorkload | ClaudeChatWorkload | ClaudeCodeWorkload | DocQaWorkload | ThinkingWorkload | BatchWorkload, Field(discriminator="kind")
]


class MixPart(Strict):
    """One of the workloads of a mix."""

    weight: Number = Field(gt=0)
    """Sessions of this workload are weight / sum of weights of all."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """Class of its records; default: its kind."""
    workload: PlainWorkload
    """The conversations."""


class MixWorkload(Strict):
    """Several workloads at once. Each session's workload is drawn from the seed, and every record carries its class."""

    kind: Literal["mix"]
    parts: tuple[MixPart, ...] = Field(min_length=1)
    """The workloads and their weights."""

    @property
    def context_limit_tok(self) -> int:
        """The longest of its workloads' contexts."""
        return max(part.workload.context_limit_tok for part in self.parts)


def _absolute(value: str) -> str:
    return str(Path(value).expanduser().absolute())


PathText = Annotated[Text, AfterValidator(_absolute), Form("a path", "traces/day.jsonl")]


class ReplayWorkload(Strict):
    """A recorded trace, session by session. docs/traffic.md has the formats and what becomes of block ids.

    `context_scale` is the factor on its lengths; `auto` leaves them as they were recorded.
    """

    kind: Literal["replay"]
    path: PathText
    """The trace: a file, or the folder of a format that has one. A relative path is taken from the working directory."""
    format: Literal["auto", "claude-code", "mooncake", "azure", "burstgpt", "servegen", "csv", "jsonl"] = "auto"
    """Its format; `auto` tells it from the content. `csv` and `jsonl` are the plain form."""
    time_scale: Number = Field(default=1.0, gt=0, le=1e6)
    """Factor on times and pauses: 0.5 replays twice as fast."""
    idle_cap_s: Seconds | None = None
    """Longest pause between turns, after scaling; default: as recorded."""
    over_limit: Literal["refuse", "skip"] = "refuse"
    """What becomes of a request that is longer than the context: an error that names its line, or left out and counted. Never cut."""
    rewrites: Literal["inline", "split"] = "inline"
    """What becomes of a turn that does not go on from the one before: `inline` sends its whole prompt in the same session, `split` starts
    another session."""
    context_limit_tok: CountFromOne | None = None
    """Longest input and output together, scaled; default: what the model takes."""


Workload = Annotated[
    ChatWorkload
    | ClaudeChatWorkload
    | ClaudeCodeWorkload
    | DocQaWorkload
    | ThinkingWorkload
    | BatchWorkload
    | MixWorkload
    | ReplayWorkload,
    Field(discriminator="kind"),
]


class StageBase(Strict):
    """Settings of every load stage."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """Label in tables; default: kind and position."""
    warmup_s: Seconds | None = None
    """Time from the stage's start that is not measured; default: found in the data, and taken off the window (docs/statistics.md)."""
    window_s: Seconds | None = None
    """Length of the measured window. Load goes on after it until every request intended in it has finished."""
    sessions: Whole | None = Field(default=None, ge=1)
    """Ends the stage after this many sessions, started in order of the plan, have finished."""
    max_in_flight: Whole = Field(default=10_000, ge=1)
    """Requests in flight, over all workers; one that would exceed it is recorded as dropped, never delayed."""
    part: Text | None = None
    """Only this part of a `mix` workload, by its name; default: all of them by their weights."""


Unit = Literal["sessions", "requests"]


class ConcurrencyStage(StageBase):
    """A closed loop: this many live conversations; when one ends, the next of the plan takes its place."""

    kind: Literal["concurrency"]
    concurrency: Whole = Field(ge=1, le=100_000)
    """Live conversations."""
    over: Unit = "sessions"
    """`requests` cuts each session to its first request, so that this many requests are in flight at all times."""
    start: Literal["steady", "fresh"] | None = None
    """`steady`: the first conversation of each slot is in its middle, at a random, length-biased age, its cached prefix primed before the
    stage's clock starts. `fresh`: all begin at their first turn. Default: steady under purpose measure, fresh under smoke."""


class OpenStage(StageBase):
    """Settings of every open loop with a random schedule."""

    process: Literal["poisson", "constant", "gamma", "weibull"] = "poisson"
    """Law of the gaps between starts, at a rate of 1; the rate over time stretches them."""
    cv: Number | None = Field(default=None, gt=0.05, le=50)
    """Coefficient of variation of gamma gaps: 1 is Poisson, above 1 comes in bursts (ServeGen's clients: p50 1.0 to 2.0, p90 5.6 to 27)."""
    weibull_shape: Number | None = Field(default=None, gt=0.1, le=20)
    """Shape of Weibull gaps: 1 is Poisson, below 1 comes in bursts."""
    over: Unit = "sessions"
    """What arrives. `requests` cuts each session to its first request: for single-turn work."""


class ArrivalRateStage(OpenStage):
    """An open loop: conversations start by a schedule that is drawn before the run, whatever the server does."""

    kind: Literal["arrival_rate"]
    rate_per_s: Number = Field(gt=0, le=100_000)
    """Conversation starts per second."""


class RampStage(OpenStage):
    """An open loop whose rate goes in a straight line from one value to another and stays there."""

    kind: Literal["ramp"]
    from_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second at the beginning."""
    to_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second at the end of the ramp and after it."""
    ramp_s: Seconds
    """Length of the ramp."""


class RateStep(Strict):
    """One step of a `step` stage."""

    rate_per_s: Number = Field(ge=0, le=100_000)
    """Starts per second."""
    for_s: Seconds
    """Length of the step; the last one goes on until the stage ends."""


class StepStage(OpenStage):
    """An open loop whose rate changes in steps."""

    kind: Literal["step"]
    steps: tuple[RateStep, ...] = Field(min_length=1)
    """The steps, in order."""


class HourFactor(Strict):
    """One point of a `diurnal` stage's curve."""

    hour: Number = Field(ge=0, lt=24)
    """Hour of the day."""
    factor: Number = Field(ge=0)
    """Factor on the rate at that hour."""


class DiurnalStage(OpenStage):
    """An open loop that follows the hours of a day, in less time than a day. Rates are those of the day; only time is compressed."""

    kind: Literal["diurnal"]
    rate_per_s: Number = Field(gt=0, le=100_000)
    """Starts per second where the curve is 1."""
    curve: tuple[HourFactor, ...] = ()
    """Factors on the rate by hour, with straight lines between them and round midnight. Default: a sine about 1."""
    amplitude: Number = Field(default=0.5, ge=0, le=1)
    """Of the sine that is the default curve: factor 1 + amplitude at the peak, 1 - amplitude twelve hours later."""
    peak_hour: Number = Field(default=15.0, ge=0, lt=24)
    """Hour of the sine's peak."""
    start_hour: Number = Field(default=0.0, ge=0, lt=24)
    """Hour at which the stage starts."""
    time_scale: Number = Field(default=60.0, ge=1, le=86_400)
    """Seconds of the day in one second of the run: 60 makes a day of 24 minutes."""


class AllAtOnceStage(StageBase):
    """All sessions start with the stage, and it ends with the last of them."""

    kind: Literal["all_at_once"]
    sessions: Whole = Field(ge=1)
    """How many."""
    over: Unit = "sessions"
    """`requests` cuts each session to its first request."""


class ReplayStage(StageBase):
    """The times of a trace: each session starts when it did, and a later turn waits for its time and for the answer before it."""

    kind: Literal["replay"]
    over: Unit = "sessions"
    """`requests` cuts each session to its first request."""


Stage = Annotated[
    ConcurrencyStage | ArrivalRateStage | RampStage | StepStage | DiurnalStage | AllAtOnceStage | ReplayStage, Field(discriminator="kind")
]


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


class Tls(Strict):
    """Which certificates of servers with https are trusted."""

    ca_file: Text | None = None
    """PEM file of the authorities to trust instead of the system's; a relative path is taken from the working directory. Default: the
    system's, or those that SSL_CERT_FILE names."""
    verify: Flag = True
    """Check certificates and names. `false` is said in the report."""


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
    context_policy: Literal["scale", "refuse"] = "scale"
    """What `context_scale: auto` does with a workload whose contexts exceed the model's: `scale` all its lengths by one stated factor, or
    `refuse` (exit 2). Contexts are never cut."""
    cache: Literal["warm", "cold"] = "warm"
    """`warm`: sessions share their head, as real ones do. `cold`: a salt of its own opens the tools and the system prompt of each session,
    so that no session finds another's prefix; its own turns still find theirs."""
    cache_control: Flag | None = None
    """Set prompt-cache breakpoints as Claude's clients do, on the last tool, the system prompt and the last two user messages (Messages
    API). Default: true for `claude-code` and `claude-chat` over the Messages API, else false."""
    assistant: Literal["recorded", "live"] = "recorded"
    """What later turns carry as the answers before them: `recorded`, the plan's own, so that prefixes are the same in every run; or
    `live`, what the server really answered, which its cache may hold. The bodies of a live run cannot be made again from its plan."""
    thinking: Literal["auto", "off", "budget", "adaptive", "effort"] = "auto"
    """How requests of classes whose answers hold reasoning (`thinking`; `claude-code` with a thinking_share) ask the model for it.
    `budget` (Messages): `thinking: {type: enabled, budget_tokens}` with the planned reasoning of that turn. `adaptive` (Messages):
    `thinking: {type: adaptive}`. `effort`: chat's `reasoning_effort`, responses' `reasoning: {effort}`. `auto`: `budget` for the
    workload `thinking` over Messages where the server is known to take it (the embedded engine, or vLLM with server.reasoning_parser),
    else off. A server without reasoning may refuse all of them."""
    thinking_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """For `thinking: effort`, and with `adaptive` as `output_config: {effort}`. Not every model takes every value."""
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
    proxy: Literal["environment", "none"] | HttpUrlText = "environment"
    """Way to attached servers: `environment` follows HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, loopback addresses excepted; a
    proxy's URL (http) holds for every address. Servers that the harness starts are reached directly."""
    tls: Tls = Tls()
    """Which certificates of servers with https are trusted."""
    drain_timeout_s: Seconds = 120.0
    """Longest wait for requests of the window to finish after it has closed."""

    @property
    def network(self) -> Network:
        """The way to attached servers."""
        ca_file = None if self.tls.ca_file is None else str(Path(self.tls.ca_file).absolute())
        return Network(self.proxy, ca_file, self.tls.verify)


# --- the rest ---------------------------------------------------------------------------------------------------------------------


class Slos(Strict):
    """A request is good when it meets every one of these; goodput counts good requests only."""

    ttft_s: Seconds | None = None
    """Longest time to the first token."""
    tpot_s: Seconds | None = None
    """Longest mean time per output token after the first."""
    e2e_s: Seconds | None = None
    """Longest time to the last token."""


def _not_too_often(value: float) -> float:
    if value < 0.05:
        raise ValueError("must be at least 50ms")
    return value


Interval = Annotated[float, BeforeValidator(_seconds), AfterValidator(_not_too_often), WithJsonSchema(_TIME_SCHEMA), _TIME]
PowerBoundary = Literal["gpu_board", "module", "cpu_package", "dram", "node", "rack", "facility"]


class NvmlPower(Strict):
    """The deployment's NVIDIA boards: energy counter, instant or average power, and their state; as often as `telemetry` says."""

    kind: Literal["nvml"]


class DcgmPower(Strict):
    """A DCGM exporter. It repeats its values until it collects anew (every 30 s unless started with `-c 1000`); repeats are no readings."""

    kind: Literal["dcgm"]
    url: HttpUrlText = "http://127.0.0.1:9400/metrics"
    """Its metrics."""
    gpus: tuple[Text, ...] = ()
    """UUIDs of the boards to record; default: the deployment's, or all where it has none on this machine."""
    interval_s: Interval = 0.5
    """Between two looks for new values."""
    timeout_s: Seconds = 5.0
    """Limit of one request."""


class RaplPower(Strict):
    """The processors' packages and memory by the kernel's powercap files, which are for root unless their mode was changed."""

    kind: Literal["rapl"]
    root: Text = "/sys/class/powercap"
    """Where they are. Another folder counts as a double of hardware, and the report says so."""
    interval_s: Interval = 1.0
    """Between two readings."""


class IpmiPower(Strict):
    """The node by its management controller: `ipmitool dcmi power reading`."""

    kind: Literal["ipmi"]
    host: Text | None = None
    """Controller to reach over the network; default: this machine's own, through its device."""
    port: Whole = Field(default=623, ge=1, le=65535)
    """UDP port of that controller."""
    user: Text | None = None
    """User name for the network."""
    password_env: Text | None = None
    """Name of the environment variable that holds the password."""
    password_file: Text | None = None
    """File that holds the password."""
    cipher_suite: Whole | None = Field(default=None, ge=0, le=17)
    """ipmitool's `-C`; default: asked for, which some controllers answer after long timeouts only (3 and 17 are common)."""
    command: Text = "ipmitool"
    """The program. Another name counts as a double of hardware, and the report says so."""
    interval_s: Interval = 2.0
    """Between two readings; controllers take 0.1 s to seconds for one."""
    timeout_s: Seconds = 5.0
    """Limit of one reading."""


class RedfishPower(Strict):
    """The node (or chassis) by a Redfish service. Needs `pip install 'colossus-harness[redfish]'`."""

    kind: Literal["redfish"]
    url: HttpUrlText
    """Base URL of the service, without `/redfish/v1`."""
    chassis: Text | None = None
    """Id of the chassis; default: the only one that reports power."""
    user: Text | None = None
    """User name."""
    password_env: Text | None = None
    """Name of the environment variable that holds the password."""
    password_file: Text | None = None
    """File that holds the password."""
    ca_file: Text | None = None
    """PEM file of the authorities to trust; default: the system's."""
    verify_tls: Flag = True
    """Check the certificate; controllers often have one that they signed themselves."""
    boundary: PowerBoundary = "node"
    """What the chassis covers."""
    interval_s: Interval = 2.0
    """Between two readings."""
    timeout_s: Seconds = 5.0
    """Limit of one request."""


class PromqlPower(Strict):
    """Any meter that a Prometheus-compatible server knows, such as a metered power distribution unit."""

    kind: Literal["promql"]
    url: HttpUrlText
    """Base URL of the server, without `/api/v1`."""
    query: Text
    """A selector (`pdu_outlet_watts{rack="r7"}`): its raw samples are read at their own times. Of any other expression the value at each
    reading."""
    boundary: PowerBoundary
    """What the meter covers."""
    quantity: Literal["power", "energy"] = "power"
    """`energy` for a cumulative counter."""
    scale: Number = Field(default=1, gt=0)
    """Factor to watts or joules (kWh: 3600000)."""
    device_label: Text | None = None
    """Label that tells devices apart; default: all labels."""
    token_env: Text | None = None
    """Name of the environment variable that holds a bearer token."""
    interval_s: Interval = 5.0
    """Between two queries."""
    timeout_s: Seconds = 5.0
    """Limit of one query."""


class CsvPower(Strict):
    """A meter's log, followed while the run goes on: lines of time and watts, with a heading."""

    kind: Literal["csv"]
    path: Text
    """The file."""
    boundary: PowerBoundary
    """What the meter covers."""
    time_column: Text = "time"
    """Column of the time: seconds since 1970, or ISO 8601 (UTC where it names no zone)."""
    power_column: Text = "watts"
    """Column of the power in watts."""
    device_column: Text | None = None
    """Column that tells devices apart; default: one device."""
    clock_offset_s: Number = Field(default=0, ge=-86400, le=86400)
    """How far the meter's clock is ahead of this machine's, in seconds."""
    interval_s: Interval = 1.0
    """Between two looks for new lines."""


class ReplayPower(Strict):
    """A recorded run's readings, played back: for demonstrations and tests. The report says so in red."""

    kind: Literal["replay"]
    path: Text
    """A `power.parquet` or `power.arrows`."""


class ModelledPower(Strict):
    """Power by a formula, idle + slope x utilisation: no measurement, labelled so everywhere, never mixed with one."""

    kind: Literal["modelled"]
    of: Literal["cpu", "gpu"]
    """Whose utilisation: the machine's processors together, or each of the deployment's boards."""
    idle_w: Number = Field(ge=0)
    """Power at no load, of the machine or of each board."""
    slope_w: Number = Field(ge=0)
    """Further power at full utilisation."""
    boundary: PowerBoundary
    """What the formula covers."""
    source: Text
    """Where its constants come from."""
    interval_s: Interval = 1.0
    """Between two readings of the utilisation."""


PowerSourceSpec = Annotated[
    NvmlPower
    | DcgmPower
    | RaplPower
    | IpmiPower
    | RedfishPower
    | PromqlPower
    | CsvPower
    | ReplayPower
    | ModelledPower,
    Field(discriminator="kind"),
]  # fmt: skip


class Telemetry(Strict):
    """What is watched beside the traffic."""

    scrape_interval_s: Seconds = 1.0
    """Between two scrapes of each `/metrics`."""
    scrape_timeout_s: Seconds = 5.0
    """Limit of one scrape. A Prometheus takes the interval where that is shorter."""
    prometheus: Literal["embedded", "managed"] | HttpUrlText = "embedded"
    """Who scrapes: `embedded` the harness itself, `managed` a Prometheus that it starts for the run, or the URL of one (or of Thanos,
    Mimir, VictoriaMetrics) that scrapes these servers already and is read after the run. docs/prometheus.md has the three side by side."""
    selectors: dict[str, Text] = Field(default_factory=dict)
    """For a URL: endpoint (`replica-0`) -> PromQL label matchers of its one target, such as `job="vllm", instance="gpu-7:8000"`."""
    prometheus_auth_env: Text | None = None
    """For a URL: environment variable with the value of its `Authorization` header, or with headers as lines of `Name: value`."""
    exporter_port: Whole | None = Field(default=None, ge=0, le=65535)
    """Port on which the run tells of itself in Prometheus' format: requests, latencies, tokens, stage, watts. 0: any free one. Default:
    not at all."""
    exporter_host: Text = "127.0.0.1"
    """Address of that port. The page has no password: another address than loopback shows it to whoever can reach it."""
    power_interval_s: Seconds = 0.1
    """Between two readings of instant power."""
    energy_interval_s: Seconds = 1.0
    """Between two readings of the energy counter."""
    host_interval_s: Seconds = 1.0
    """Between two readings of CPU, memory and network."""
    power: Literal["auto", "none"] | tuple[PowerSourceSpec, ...] = "auto"
    """Where power comes from, any number of sources side by side. `auto`: NVML where the deployment has boards here, RAPL where it can be
    read. `harness check --system` says what there is."""
    require: tuple[Literal["server_metrics", "gpu_power"], ...] = ()
    """Sources without which the run must not start (exit 6)."""


class Quality(Strict):
    """A small fixed check of the served model's answers: the same greedy completions before and after the load, outside of every
    measurement.

    Answers that changed, or that are not the reference's, make a run invalid. Without a reference the two are only held against each other,
    which finds a server that broke under load but not one that was wrong from the start: the headline then says "quality unverified".
    """

    check: Flag | None = None
    """Whether to make it; default: under purpose `measure`, and where a reference is named."""
    reference: PathText | None = None
    """File with answers of the same model that are taken to be right (`harness quality record PROFILE` writes one). A first run whose
    answers the load did not change writes it where there is none. A relative path is taken from the working directory."""
    max_output_tok: Whole = Field(default=24, ge=4, le=256)
    """Length of each answer."""
    min_agreement: Number = Field(default=0.7, gt=0, le=1)
    """Least share of an answer, from its beginning, that must be as in the reference (and after the load as before it), in the mean over
    the texts. Other kernels, batch sizes and GPUs turn near ties around, after which greedy answers part for good; a broken one agrees on
    nothing."""
    logprob_tolerance: Number = Field(default=0.1, gt=0)
    """Largest mean difference of the log-probabilities (in nats) of the tokens that agree, where the API tells them."""


class Price(Strict):
    """What a GPU-hour costs; printed with every figure that uses it."""

    usd_per_gpu_h: Number = Field(gt=0)
    """Price of one GPU for one hour."""
    source: str = Field(min_length=1)
    """Where the price comes from."""
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    """Its date, YYYY-MM or YYYY-MM-DD."""


class StatedFactor(Strict):
    """A number that the harness cannot measure; printed with every figure that uses it."""

    value: Number = Field(gt=0)
    """The number."""
    source: Text
    """Who says so."""


class Energy(Strict):
    """What belongs to the joules beside the power readings. docs/energy.md has boundaries, formulas and validity."""

    idle_s: Seconds | None = None
    """Idle is measured this long before the server starts and again when it is ready, where power can be read. 0: not at all; below 5 s
    no energy is had. Default: 30 s under purpose measure, 5 s under smoke."""
    attribute: Flag = False
    """The load stages are made for attributing joules to time, computed input, output and output x context: fit them
    (loadprofiles/gpu-energy-attribution.yaml)."""
    calibration: Text | None = None
    """Meter calibration by `harness energy calibrate`; replaces the boards' default gain error. A relative path is taken from the working
    directory."""
    host_w_per_gpu: StatedFactor | None = None
    """Watts of the host (CPUs, memory, NICs, fans, losses of its supplies) for each of its GPUs, where no node meter was read. Default:
    the published rated watts of the GPU's system, at the share of them that nodes are known to draw."""
    network_storage_ratio: StatedFactor | None = None
    """Power of storage, switches and optics over that of servers. Default: a published one."""
    pue: StatedFactor | None = None
    """Power at the utility's meter over that of the IT, at least 1. Default: the middle of a published range."""
    grid_kgco2_per_kwh: Number | None = Field(default=None, ge=0, le=5)
    """CO2 of a kilowatt-hour of the grid; needs `grid_source`. Without it no figure of carbon is given."""
    grid_source: Text | None = None
    """Where the grid's factor comes from, with its place and year."""


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
    energy: Energy = Energy()
    """What belongs to the joules beside the power readings."""
    quality: Quality = Quality()
    """Whether the answers are right."""
    thresholds: tuple[str, ...] = ()
    """Conditions on the result, such as `ttft_s.p99 < 1.5`; one that fails exits 99. Those on a share of a baseline
    (`output_tok_s >= 0.95 * baseline`) are judged over repeats."""
    repeats: Whole = Field(default=1, ge=1, le=1000)
    """How often to run it, each time with a fresh seed and a fresh server, into one folder (`harness repeat` takes several profiles)."""
    cooldown_s: Seconds = 10.0
    """Pause between two repeats."""
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
    def idle_s(self) -> float:
        """How long idle is measured, each time: the profile's word, else 30 s under purpose measure and 5 s under smoke."""
        if self.energy.idle_s is not None:
            return self.energy.idle_s
        return IDLE_S if self.purpose is Purpose.MEASURE else SMOKE_IDLE_S

    @property
    def checks_quality(self) -> bool:
        """Whether a run checks its answers: the profile's word, else under purpose measure and with a reference."""
        if self.quality.check is not None:
            return self.quality.check
        return self.purpose is Purpose.MEASURE or self.quality.reference is not None

    @property
    def output_length(self) -> OutputLength:
        """The output-length mode in force: the profile's, else forced for measure and natural for smoke."""
        if self.traffic.output_length is not None:
            return self.traffic.output_length
        return OutputLength.FORCED if self.purpose is Purpose.MEASURE else OutputLength.NATURAL

    @property
    def thinking(self) -> str:
        """How requests ask for reasoning: as the profile says; `auto` is a budget where the server is known to take one, else off."""
        if self.traffic.thinking != "auto":
            return self.traffic.thinking
        workload, server = self.traffic.workload, self.server
        kinds = {part.workload.kind for part in workload.parts} if isinstance(workload, MixWorkload) else {workload.kind}
        taken = server.kind == "torch" or (server.kind == "vllm" and server.reasoning_parser is not None)
        return "budget" if "thinking" in kinds and self.traffic.api is Api.MESSAGES and taken else "off"

    @property
    def cache_control(self) -> bool:
        """Whether requests carry cache breakpoints: as the profile says, else where Claude's clients are played over their own API."""
        if self.traffic.cache_control is not None:
            return self.traffic.cache_control
        workload = self.traffic.workload
        kinds = {part.workload.kind for part in workload.parts} if isinstance(workload, MixWorkload) else {workload.kind}
        return self.traffic.api is Api.MESSAGES and bool(kinds & {"claude-code", "claude-chat"})
