"""Section `traffic` of a profile: requests, their times, and how they are sent."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.checked_yaml.fields import Flag, HttpUrlText, Number, Seconds, Strict, Text, Whole
from harness.core.network import Network
from harness.core.records import Api, BodyForm, OutputLength
from harness.profile.stages import Stage
from harness.profile.workloads import Workload

OmittedKey = Literal[
    "temperature",
    "stream_options",
    "stream_options.continuous_usage_stats",
    "min_tokens",
    "ignore_eos",
]


class Timeouts(Strict):
    """Timeouts of one request; each has its own outcome."""

    connect_s: Seconds = 10.0
    """Time to connect."""
    first_byte_s: Seconds = 300.0
    """From the request's last byte to the response's first."""
    idle_s: Seconds = 120.0
    """Between two reads of a stream."""
    total_s: Seconds = 1800.0
    """The complete request."""


class Tls(Strict):
    """Certificates that are trusted for https."""

    ca_file: Text | None = None
    """PEM file of certificate authorities to trust instead of the system's; a relative path starts
    at the working directory. Default: the system's, or those in SSL_CERT_FILE.
    """
    verify: Flag = True
    """Check certificates and names. `false` is shown in the report."""


class Traffic(Strict):
    """Requests and their times."""

    api: Api | None = None
    """Wire API: `messages` (Anthropic), or OpenAI's `chat` (chat completions), `completions` (the
    conversation as one text) or `responses`. All of them stream. Default: `chat`; with `attach` the
    first of `chat`, `messages`, `completions`, `responses` that responds.
    """
    workload: Workload
    """The sessions to send."""
    load: tuple[Stage, ...] = Field(min_length=1)
    """Load stages, run one after the other."""
    output_length: OutputLength | None = None
    """`forced` makes the server produce exactly the planned tokens (OpenAI's APIs, or a model that
    cannot end by itself). Default: forced under purpose measure, natural under smoke, and natural
    if `api` is found by probing an attached server that cannot force lengths.
    """
    context_scale: Literal["auto"] | Annotated[Number, Field(gt=0, le=1)] = "auto"
    """Factor on all lengths; `auto` fits the workload into the model's context. It is shown,
    recorded, and must be equal in runs that are compared.
    """
    context_policy: Literal["scale", "refuse"] = "scale"
    """Effect of `context_scale: auto` if the workload's contexts exceed the model's: `scale` all
    lengths by one stated factor, or `refuse` (exit 2). Contexts are never cut.
    """
    cache: Literal["warm", "cold"] = "warm"
    """`warm`: sessions share tools and system prompt, as real ones do. `cold`: a unique salt opens
    them in each session, so that its prefix is cached only for its own later turns.
    """
    cache_control: Flag | None = None
    """Set prompt-cache breakpoints as Claude's clients do, on the last tool, the system prompt and
    the last two user messages (Messages API). Default: true for `claude-code` and `claude-chat`
    over the Messages API, else false.
    """
    assistant: Literal["recorded", "live"] = "recorded"
    """Responses in the history of later turns. `recorded`: those of the plan, so that prefixes are
    the same in every run. `live`: the server's real responses, which may be in its cache; request
    bodies cannot then be rebuilt from the plan.
    """
    thinking: Literal["auto", "off", "budget", "adaptive", "effort"] = "auto"
    """How requests of classes with reasoning (`thinking`; `claude-code` with a thinking_share) ask
    for it. `budget` (Messages): `thinking: {type: enabled, budget_tokens}` with the planned
    reasoning of that turn. `adaptive` (Messages): `thinking: {type: adaptive}`. `effort`: chat's
    `reasoning_effort`, responses' `reasoning: {effort}`. `auto`: `budget` for the workload
    `thinking` over Messages if the server is known to accept it (the embedded engine, or vLLM with
    server.reasoning_parser), else off. A server without reasoning may reject all of them.
    """
    thinking_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """Effort for `thinking: effort`, and for `adaptive` as `output_config: {effort}`. Not every
    model accepts every value.
    """
    temperature: Number = Field(default=0.0, ge=0, le=2)
    """Sampling temperature."""
    length_key: Literal["max_completion_tokens"] | None = None
    """Key of the output length in place of `max_tokens`, for servers that refuse that one (chat and
    completions).
    """
    omit: tuple[OmittedKey, ...] = ()
    """Keys to leave out of request bodies, for servers that refuse them. `temperature` then is the
    server's own; without `stream_options` there may be no token counts.
    """
    workers: Literal["auto"] | Annotated[Whole, Field(ge=1, le=256)] = "auto"
    """Locust worker processes; `auto`: as many as the client-fidelity certificate requires, one
    without a certificate.
    """
    calibrate: Flag | None = None
    """Get a client-fidelity certificate for this load before the server starts: a cached one, else
    a new measurement (10-60 s). Default: under purpose measure.
    """
    canary: Flag | None = None
    """Send about 1% more requests to a paced server on this host, to measure the load generator's
    live error. They count in no other metric. Default: under purpose measure.
    """
    routing: Literal["round_robin", "least_busy"] = "round_robin"
    """How new sessions choose a replica; a session stays on its replica."""
    timeouts: Timeouts = Timeouts()
    """Timeouts of one request."""
    proxy: Literal["environment", "none"] | HttpUrlText = "environment"
    """Proxy to attached servers: `environment` follows HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
    NO_PROXY, except for loopback addresses; a proxy's URL (http) applies to every address. Servers
    that the harness starts are reached directly.
    """
    tls: Tls = Tls()
    """Certificates that are trusted for https."""
    headers: dict[str, Text] = Field(default_factory=dict)
    """Additional headers of every request to attached servers, such as those that a gateway
    requires. `env:NAME` is the value of the environment variable NAME: write secrets only so.
    """
    drain_timeout_s: Seconds = 120.0
    """Longest wait, after the window has closed, for its requests to finish."""

    @property
    def form(self) -> BodyForm:
        """Deviations of request bodies that the server requires."""
        return BodyForm(self.length_key, self.omit)

    @property
    def network(self) -> Network:
        """Proxy, TLS settings and headers for attached servers."""
        ca_file = None if self.tls.ca_file is None else str(Path(self.tls.ca_file).absolute())
        return Network(self.proxy, ca_file, self.tls.verify, tuple(self.headers.items()))
