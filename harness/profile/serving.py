"""Sections `model` and `server` of a profile."""

from typing import Annotated, Literal

from pydantic import Field

from harness.checked_yaml.fields import (
    Bytes,
    CountFromOne,
    Flag,
    HttpUrlText,
    Number,
    Seconds,
    Strict,
    Text,
    Whole,
)


class Model(Strict):
    """The model to serve."""

    id: Text | None = None
    """`builtin:tiny`, `builtin:smollm2-135m`, a folder with config.json, or a hub id that the
    server can load. Only optional with `attach`; default there: the model that the server lists.
    """
    served_name: Text | None = None
    """Model name in requests; default: the id, or for `attach` the only model that the server
    lists.
    """
    load_format: Literal["auto", "dummy"] = "auto"
    """`dummy` benchmarks random weights of the model's shape; the speed is representative only for
    dense models.
    """
    dtype: Text = "auto"
    """Data type of the weights, as the server names it (`auto`, `bfloat16`, `float32`, …)."""
    quantization: Text | None = None
    """vLLM's `--quantization`; default: that of the checkpoint."""
    max_context_tok: CountFromOne | None = None
    """Longest context to serve; default: the model's."""
    tok_per_word: Number | None = Field(default=None, gt=0.2, lt=20)
    """Tokens per word of the harness's corpus under this model's tokenizer; default: counted if the
    tokenizer is available, else 1.35.
    """
    trust_remote_code: Flag = False
    """Let the server run code that comes with the model."""


# --- server ---


class ServerBase(Strict):
    """Settings of every server that the harness starts."""

    host: Text = "127.0.0.1"
    """Address to listen on."""
    port: Whole | None = Field(default=None, ge=1, le=65535)
    """Port of the first replica (the next ones count up); default: free ports."""
    ready_timeout_s: Seconds = 900.0
    """Time limit of the start, up to the first real token."""
    stop_timeout_s: Seconds = 30.0
    """Time for a clean stop before the process group is killed."""
    env: dict[str, str] = Field(default_factory=dict)
    """Additional environment variables of the server. Never put a secret here: use `api_key_env` or
    `api_key_file`.
    """
    api_key_env: Text | None = None
    """Name of the environment variable that holds the API key."""
    api_key_file: Text | None = None
    """File that holds the API key."""


class VllmServer(ServerBase):
    """vLLM, started as a child process."""

    kind: Literal["vllm"]
    python: Text | None = None
    """Python of the environment that has vLLM; default: that in HARNESS_VLLM_PYTHON, else the
    harness's own. A relative path starts at the working directory.
    """
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`cpu` sets vLLM's CPU variables; `auto` is cuda if there is an NVIDIA device."""
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "all"
    """GPUs by index or UUID. Resolved once to UUIDs, so that server, power and per-GPU values use
    the same set.
    """
    replicas: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    """Independent servers, each with its own GPUs and port; `auto`: as many as fit on the GPUs (one
    on CPU).
    """
    tensor_parallel_size: Whole = Field(default=1, ge=1)
    """GPUs that share each layer."""
    data_parallel_size: Whole = Field(default=1, ge=1)
    """vLLM's own data-parallel ranks within one replica."""
    gpu_memory_utilization: Number = Field(default=0.9, gt=0, le=1)
    """Share of GPU memory that vLLM may use."""
    max_num_seqs: CountFromOne | None = None
    """Most sequences in one batch; default: vLLM's."""
    max_num_batched_tok: CountFromOne | None = None
    """vLLM's `--max-num-batched-tokens`; default: vLLM's."""
    prefix_caching: Flag = True
    """vLLM's prefix cache; `false` for a control run."""
    enforce_eager: Flag | None = None
    """No CUDA graphs or compilation; default: true on CPU, false on GPU."""
    cpu_kv_cache_bytes: Bytes = 4 * 1024**3
    """KV cache on CPU."""
    cpu_threads_bind: Text = "auto"
    """vLLM's `VLLM_CPU_OMP_THREADS_BIND` on CPU."""
    tool_call_parser: Text | None = None
    """vLLM's `--tool-call-parser`; default: derived from the model if the workload has tools
    (`hermes` for built-in models).
    """
    reasoning_parser: Text | None = None
    """vLLM's `--reasoning-parser`."""
    extra_args: tuple[str, ...] = ()
    """Additional arguments, checked against those that this vLLM version accepts."""


class TorchServer(ServerBase):
    """The embedded engine: transformers' continuous batching behind the same APIs."""

    kind: Literal["torch"]
    python: Text | None = None
    """Python of the environment that has torch and transformers; default: the harness's own."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """`auto` is cuda if there is an NVIDIA device."""
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "all"
    """GPUs by index or UUID. A replica of this engine uses one GPU."""
    replicas: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    """Independent servers; `auto`: one per GPU, one on CPU."""
    threads: Whole | None = Field(default=None, ge=1)
    """Torch threads on CPU; default: 1 with up to two cores, else two fewer than cores."""
    max_batch_tok: CountFromOne | None = None
    """Most tokens in one forward pass; default: the engine's."""
    kv_cache_tok: CountFromOne | None = None
    """KV cache in tokens; default: set by the engine from memory and context."""
    page_tok: Whole | None = Field(default=None, ge=1)
    """Tokens in one page of the KV cache; default: the engine's."""


class AttachServer(Strict):
    """Running servers. The harness does not start, stop or configure them."""

    kind: Literal["attach"]
    urls: tuple[HttpUrlText, ...] = Field(min_length=1)
    """Base URL of each replica (`http://host:port`, without `/v1`)."""
    metrics_urls: tuple[HttpUrlText, ...] | None = None
    """Prometheus metrics of each replica; default: `<url>/metrics` if it exists. An empty list:
    none.
    """
    gpus: Literal["all", "none"] | tuple[Text | Whole, ...] = "none"
    """GPUs of this machine that serve; with `none`, per-GPU and power values are not available."""
    gpu_count: Whole | None = Field(default=None, ge=1)
    """Number of GPUs of the deployment, if they are not on this machine."""
    ready_timeout_s: Seconds = 60.0
    """Time limit for the servers to respond."""
    api_key_env: Text | None = None
    """Name of the environment variable that holds the API key."""
    api_key_file: Text | None = None
    """File that holds the API key."""


class AutoServer(ServerBase):
    """vLLM if it is installed and a GPU is visible, the embedded engine without a GPU, an error if
    a GPU cannot be used.
    """

    kind: Literal["auto"]


Server = Annotated[
    VllmServer | TorchServer | AttachServer | AutoServer, Field(discriminator="kind")
]
