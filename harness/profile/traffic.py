"""What is sent, and when, and how requests go over the wire."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.checked_yaml.fields import Flag, HttpUrlText, Number, Seconds, Strict, Text, Whole
from harness.core.network import Network
from harness.core.records import Api, OutputLength
from harness.profile.stages import Stage
from harness.profile.workloads import Workload


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
    """PEM file of the authorities to trust instead of the system's; a relative path is taken from
    the working directory. Default: the system's, or those that SSL_CERT_FILE names.
    """
    verify: Flag = True
    """Check certificates and names. `false` is said in the report."""


class Traffic(Strict):
    """What is sent, and when."""

    api: Api = Api.MESSAGES
    """Wire API: `messages` (Anthropic), or OpenAI's `chat` (chat completions), `completions` (the
    conversation as one text) or `responses`. All of them stream.
    """
    workload: Workload
    """The conversations."""
    load: tuple[Stage, ...] = Field(min_length=1)
    """Load stages, one after the other."""
    output_length: OutputLength | None = None
    """`forced` makes the server produce exactly the planned tokens (OpenAI's APIs, or a model that
    cannot end by itself). Default: forced under purpose measure, natural under smoke.
    """
    context_scale: Literal["auto"] | Annotated[Number, Field(gt=0, le=1)] = "auto"
    """Factor on all lengths; `auto` fits the workload into the model's context. Printed, recorded,
    and equal where runs are compared.
    """
    context_policy: Literal["scale", "refuse"] = "scale"
    """What `context_scale: auto` does with a workload whose contexts exceed the model's: `scale`
    all its lengths by one stated factor, or `refuse` (exit 2). Contexts are never cut.
    """
    cache: Literal["warm", "cold"] = "warm"
    """`warm`: sessions share their head, as real ones do. `cold`: a salt of its own opens the tools
    and the system prompt of each session, so that no session finds another's prefix; its own turns
    still find theirs.
    """
    cache_control: Flag | None = None
    """Set prompt-cache breakpoints as Claude's clients do, on the last tool, the system prompt and
    the last two user messages (Messages API). Default: true for `claude-code` and `claude-chat`
    over the Messages API, else false.
    """
    assistant: Literal["recorded", "live"] = "recorded"
    """What later turns carry as the answers before them: `recorded`, the plan's own, so that
    prefixes are the same in every run; or `live`, what the server really answered, which its cache
    may hold. The bodies of a live run cannot be made again from its plan.
    """
    thinking: Literal["auto", "off", "budget", "adaptive", "effort"] = "auto"
    """How requests of classes whose answers hold reasoning (`thinking`; `claude-code` with a
    thinking_share) ask the model for it. `budget` (Messages):
    `thinking: {type: enabled, budget_tokens}` with the planned reasoning of that turn. `adaptive`
    (Messages): `thinking: {type: adaptive}`. `effort`: chat's `reasoning_effort`, responses'
    `reasoning: {effort}`. `auto`: `budget` for the workload `thinking` over Messages where the
    server is known to take it (the embedded engine, or vLLM with server.reasoning_parser), else
    off. A server without reasoning may refuse all of them.
    """
    thinking_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    """For `thinking: effort`, and with `adaptive` as `output_config: {effort}`. Not every model
    takes every value.
    """
    temperature: Number = Field(default=0.0, ge=0, le=2)
    """Sampling temperature."""
    workers: Literal["auto"] | Annotated[Whole, Field(ge=1, le=256)] = "auto"
    """Locust worker processes; `auto`: as many as the client-fidelity certificate asks for, one
    without a certificate.
    """
    calibrate: Flag | None = None
    """Hold a client-fidelity certificate for this load before the server starts: a cached one, else
    one is measured (10-60 s). Default: under purpose measure.
    """
    canary: Flag | None = None
    """Send about 1 % more requests to a paced server on this host, to measure the load generator's
    live error; they count nowhere else. Default: under purpose measure.
    """
    routing: Literal["round_robin", "least_busy"] = "round_robin"
    """How new conversations choose a replica; a conversation stays on its replica."""
    timeouts: Timeouts = Timeouts()
    """Limits of one request."""
    proxy: Literal["environment", "none"] | HttpUrlText = "environment"
    """Way to attached servers: `environment` follows HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and
    NO_PROXY, loopback addresses excepted; a proxy's URL (http) holds for every address. Servers
    that the harness starts are reached directly.
    """
    tls: Tls = Tls()
    """Which certificates of servers with https are trusted."""
    drain_timeout_s: Seconds = 120.0
    """Longest wait for requests of the window to finish after it has closed."""

    @property
    def network(self) -> Network:
        """The way to attached servers."""
        ca_file = None if self.tls.ca_file is None else str(Path(self.tls.ca_file).absolute())
        return Network(self.proxy, ca_file, self.tls.verify)
