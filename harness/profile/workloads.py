"""Workloads: kinds of sessions, mixes of them, traces."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from harness.checked_yaml.fields import (
    Count,
    CountFromOne,
    Number,
    PathText,
    Seconds,
    Strict,
    Whole,
)
from harness.profile.distributions import (
    Distribution,
    Geometric,
    Lognormal,
    Quantiles,
    SecondsDistribution,
    Uniform,
)

_uniform = partial(Uniform, kind="uniform")
_lognormal = partial(Lognormal, kind="lognormal")
_geometric = partial(Geometric, kind="geometric")
_quantiles = partial(Quantiles, kind="quantiles")


class SessionsBase(Strict):
    """Settings of every workload whose users may cancel requests."""

    abandon_share: Number = Field(default=0.0, ge=0, le=1)
    """Share of requests whose user gives up: the stream is canceled (outcome `cancelled`) and the
    session ends. Default 0, since no published value was found.
    """
    abandon_after_s: SecondsDistribution = _uniform(min=1, max=20)
    """Time from sending until the user gives up, if the response has not ended before."""


class ChatWorkload(SessionsBase):
    """Chat sessions of several turns with one shared system prompt.

    Default lengths: Azure 2023 conversation trace (input p50 1,020, output p50 129) with a 3k
    system prompt.
    """

    kind: Literal["chat"]
    system_tok: Count = 3000
    """Length of the system prompt that all sessions share."""
    user_tok: Distribution = _lognormal(mu=5.0, sigma=1.0, min=4, max=8000)
    """New input of one turn."""
    output_tok: Distribution = _lognormal(mu=4.9, sigma=0.8, min=2, max=2000)
    """Output of one turn."""
    turns: Distribution = _geometric(mean=3.5, max=40)
    """Turns of one session."""
    think_s: SecondsDistribution = _lognormal(mu=1.5, sigma=0.8, max=30)
    """Pause between the end of a response and the next turn."""
    context_limit_tok: CountFromOne = 32_000
    """A session ends when its next turn would exceed this context."""


class ClaudeChatWorkload(ChatWorkload):
    """`chat` as Claude's clients send it: with prompt-cache breakpoints on the Messages API.

    Lengths are those of `chat`: tokens and turns of claude.ai conversations are not published.
    """

    kind: Literal["claude-chat"]  # type: ignore[assignment]  # the variant's own tag


class Subagents(Strict):
    """Subagents of Claude Code sessions, with their own tools and system prompt, shorter contexts,
    and the class `claude-code/subagent`.

    A tool call starts a subagent when its response is complete, and its session continues when the
    subagent has ended. Published (63 subagents in 773 sessions, kv-cache-tester traces): input p50
    45k tokens, ideal prefix hit rate 87%. The other lengths are set to reproduce these values.
    """

    share: Number = Field(default=0.08, ge=0, lt=1)
    """Share of all sessions that are subagents: a session has a Poisson number of them, with mean
    share / (1 - share), at random tool calls.
    """
    tools_tok: Count = 8000
    """Length of the tool definitions that all subagents share."""
    tools: Whole = Field(default=12, ge=1, le=200)
    """Number of tool definitions."""
    system_tok: Count = 1500
    """Length of the system prompt that all subagents share."""
    first_tok: Distribution = _lognormal(mu=9.2, sigma=1.0, min=50, max=60000)
    """First message: the task, with material to read."""
    append_tok: Distribution = _lognormal(mu=7.2, sigma=1.3, min=8, max=60000)
    """Tool result in a later request."""
    requests: Distribution = _lognormal(mu=2.2, sigma=0.7, min=1, max=60)
    """Requests of one subagent."""


class ClaudeCodeWorkload(SessionsBase):
    """Claude Code sessions: shared tools and system prompt, a growing context, tool results,
    compaction, subagents, short outputs.

    Defaults follow 49,334 real requests (kv-cache-tester traces @94f6046, Apache-2.0): tools p50
    12,262 tokens, system p50 2,773, and the published quantiles of outputs, requests per session
    and gaps; stop reasons tool_use 85.6% and end_turn 5.7%; thinking in 38% of outputs. The
    published fit of new input (lognormal 6.84/1.30) includes the previous response, which a request
    carries for the first time. `append_tok` excludes it, and is set to reproduce the published
    quantiles of new input (docs/explanation/traffic.md compares them with the generated ones).
    """

    kind: Literal["claude-code"]
    tools_tok: Count = 12262
    """Length of the tool definitions that all sessions share."""
    tools: Whole = Field(default=18, ge=1, le=200)
    """Number of tool definitions."""
    system_tok: Count = 2773
    """Length of the system prompt that all sessions share."""
    first_tok: Distribution = _lognormal(mu=8.4, sigma=1.0, min=50, max=60000)
    """First message of a new session, without tools and system prompt."""
    resumed_share: Number = Field(default=0.35, ge=0, le=1)
    """Share of resumed sessions: their first request has the context of an earlier one (first input
    p75 104k).
    """
    resumed_tok: Distribution = _lognormal(mu=11.6, sigma=0.5, min=1000, max=165000)
    """First message of a resumed session, without tools and system prompt."""
    append_tok: Distribution = _lognormal(mu=5.8, sigma=1.7, min=8, max=60000)
    """Input that a later request adds to the previous response: a tool result or a user message."""
    rewrite_share: Number = Field(default=0.016, ge=0, le=1)
    """Share of later requests that change the context at a random place (edited, cleared or
    re-read), so that everything after it is new input. With first requests and compactions, this
    makes the second, heavy mode of new input (p99 94k).
    """
    output_tok: Distribution = _quantiles(
        at=(0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1),
        values=(20, 89, 137, 216, 426, 898, 1554, 3687, 8000),
    )
    """Output of one request: the published quantiles (their lognormal fit 5.565/0.895 has p50 261
    and mean 390; 216 and 440 were measured).
    """
    thinking_share: Number = Field(default=0.38, ge=0, le=1)
    """Share of responses with reasoning, which is part of `output_tok` and stays in later requests
    as in Claude Code's tool loop.
    """
    requests: Distribution = _quantiles(
        at=(0, 0.25, 0.5, 0.75, 0.9, 0.99, 1),
        values=(1, 18, 45, 94, 156, 330, 500),
    )
    """Requests of one session: the published quantiles (lognormal fit 3.67/1.16)."""
    tool_use_share: Number = Field(default=0.9376, ge=0, le=1)
    """Share of requests that end in a tool call (85.6 / (85.6 + 5.7)); the rest end the turn."""
    tool_gap_s: SecondsDistribution = _quantiles(
        at=(0, 0.25, 0.5, 0.75, 0.9, 0.99, 1),
        values=(0.5, 5, 9, 19, 71, 612, 3600),
        max=60,
    )
    """Time that a tool takes: the published quantiles (lognormal fit 2.51/1.22), capped at one
    minute; the plan's notes mention the cap.
    """
    user_gap_s: SecondsDistribution = _quantiles(
        at=(0, 0.25, 0.5, 0.75, 0.9, 1),
        values=(2, 58, 210, 929, 2982, 20000),
        max=60,
    )
    """Time until the user's next message: the published quantiles (lognormal fit 5.31/2.24), capped
    at one minute; the plan's notes mention the cap.
    """
    context_limit_tok: CountFromOne = 200_000
    """Longest context, input and output."""
    compact_at: Number = Field(default=0.92, gt=0.1, le=1)
    """Share of the context limit at which a session compacts: a summary replaces its messages."""
    compact_to: Number = Field(default=0.25, ge=0, le=0.6)
    """Context after a compaction, as a share of the context before (published: 0.45% of steps fall
    below a share of 0.6).
    """
    subagents: Subagents = Subagents()
    """Subagents of the sessions."""


class DocQaWorkload(SessionsBase):
    """Questions about one long document per session.

    Lengths are assumptions (no published values for Claude were found): 30k to 150k tokens of
    document, one to four turns.
    """

    kind: Literal["doc-qa"]
    system_tok: Count = 500
    """Length of the system prompt that all sessions share."""
    document_tok: Distribution = _uniform(min=30_000, max=150_000)
    """The document, before the first question."""
    question_tok: Distribution = _uniform(min=20, max=200)
    """One question."""
    output_tok: Distribution = _uniform(min=200, max=800)
    """One response."""
    turns: Distribution = _uniform(min=1, max=4)
    """Questions of one session."""
    think_s: SecondsDistribution = _lognormal(mu=3.0, sigma=0.8, max=60)
    """Pause between a response and the next question."""
    context_limit_tok: CountFromOne = 160_000
    """A session ends when its next turn would exceed this context."""


class ThinkingWorkload(SessionsBase):
    """Long responses of mostly reasoning, which later turns do not include.

    Defaults: ServeGen's DeepSeek-R1 clients (Apache-2.0): input p50 208 and p95 6.7k; output p50
    792 and mean 1,527 (lognormal 6.674/1.146 gives p90 3.4k and p99 11.4k, published 3.4k and
    12.6k); reasoning share of mean 0.70 with modes near 0.4 and 0.9. Turns are assumed.
    """

    kind: Literal["thinking"]
    system_tok: Count = 20
    """Length of the system prompt that all sessions share."""
    user_tok: Distribution = _lognormal(mu=5.24, sigma=2.15, min=4, max=16000)
    """New input of one turn."""
    output_tok: Distribution = _lognormal(mu=6.674, sigma=1.146, min=8, max=16000)
    """Output of one turn, reasoning included."""
    reasoning_low: Number = Field(default=0.4, ge=0, le=1)
    """Lower mode of the share of a response that is reasoning."""
    reasoning_high: Number = Field(default=0.9, ge=0, le=1)
    """Upper mode."""
    reasoning_high_share: Number = Field(default=0.6, ge=0, le=1)
    """Share of responses around the upper mode: 0.6 gives the published mean of 0.70."""
    reasoning_spread: Number = Field(default=0.07, ge=0, le=0.5)
    """Standard deviation around each mode."""
    turns: Distribution = _geometric(mean=1.5, max=8)
    """Turns of one session."""
    think_s: SecondsDistribution = _lognormal(mu=2.5, sigma=0.8, max=60)
    """Pause between a response and the next turn."""
    context_limit_tok: CountFromOne = 40_000
    """A session ends when its next turn would exceed this context."""


class BatchWorkload(Strict):
    """Single requests without a deadline, such as a job over many records.

    Default lengths: Azure 2023 conversation trace (input p50 1,020 and p99 4,142; output p50 129
    and p99 601).
    """

    kind: Literal["batch"]
    system_tok: Count = 400
    """Length of the instructions that all requests share."""
    user_tok: Distribution = _lognormal(mu=6.4, sigma=0.8, min=8, max=8000)
    """The record to process."""
    output_tok: Distribution = _lognormal(mu=4.86, sigma=0.66, min=2, max=2000)
    """One response."""
    context_limit_tok: CountFromOne = 16_000
    """Longest context, input and output."""


_Plain = (
    ChatWorkload
    | ClaudeChatWorkload
    | ClaudeCodeWorkload
    | DocQaWorkload
    | ThinkingWorkload
    | BatchWorkload
)
PlainWorkload = Annotated[_Plain, Field(discriminator="kind")]


class MixPart(Strict):
    """One workload of a mix."""

    weight: Number = Field(gt=0)
    """Relative share of sessions: weight / sum of all weights."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """Class of its records; default: its kind."""
    workload: PlainWorkload
    """Its sessions."""


class MixWorkload(Strict):
    """Several workloads at once. Each session's workload is drawn from the seed, and every record
    has its class.
    """

    kind: Literal["mix"]
    parts: tuple[MixPart, ...] = Field(min_length=1)
    """The workloads and their weights."""

    @property
    def context_limit_tok(self) -> int:
        """The longest context limit of its workloads."""
        return max(part.workload.context_limit_tok for part in self.parts)


class ReplayWorkload(Strict):
    """A recorded trace, session by session. docs/explanation/traffic.md has the formats and the
    use of block ids.

    `context_scale` is the factor on its lengths; `auto` leaves them as recorded.
    """

    kind: Literal["replay"]
    path: PathText
    """The trace: a file, or a folder for some formats. A relative path starts at the working
    directory.
    """
    format: Literal[
        "auto", "claude-code", "mooncake", "azure", "burstgpt", "servegen", "csv", "jsonl"
    ] = "auto"
    """Its format; `auto` detects it. `csv` and `jsonl` are the plain form."""
    time_scale: Number = Field(default=1.0, gt=0, le=1e6)
    """Factor on times and pauses: 0.5 replays twice as fast."""
    idle_cap_s: Seconds | None = None
    """Longest pause between turns, after scaling; default: as recorded."""
    over_limit: Literal["refuse", "skip"] = "refuse"
    """Handling of a request that exceeds the context: an error that names its line, or skipped and
    counted. Never cut.
    """
    rewrites: Literal["inline", "split"] = "inline"
    """Handling of a turn that does not continue the previous one: `inline` sends its complete
    prompt in the same session, `split` starts a new session.
    """
    context_limit_tok: CountFromOne | None = None
    """Longest input and output together, after scaling; default: the model's limit."""


Workload = Annotated[_Plain | MixWorkload | ReplayWorkload, Field(discriminator="kind")]
