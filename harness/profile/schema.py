"""The types of a profile: one YAML file that defines a run completely.

All models are frozen and forbid unknown keys, so a stale profile fails instead of silently losing a
setting. `harness.profile.rules` has the impossible combinations. The suffix of a key is its unit;
durations, counts and sizes also take suffixes (`30s`, `2m`, `16k`, `4GiB`).
`docs/reference/profile.md` and `harness/profile/profile.schema.json` are generated from these
types; their docstrings become its text.
"""

from typing import Annotated, Final

from pydantic import Field

from harness.api.table import wire
from harness.checked_yaml.fields import (
    Correction,
    Date,
    Flag,
    Number,
    PathText,
    Seconds,
    Strict,
    Text,
    Whole,
)
from harness.core.records import Api, OutputLength, Purpose
from harness.profile.search import DEFAULT_SHARE, Condition, Search, Tier, parse_condition
from harness.profile.serving import AutoServer, Model, Server
from harness.profile.stages import STAGE_NAME, stage_name
from harness.profile.sweep import Sweep
from harness.profile.telemetry import Telemetry
from harness.profile.thresholds import ThresholdText
from harness.profile.traffic import Traffic
from harness.profile.workloads import MixWorkload

BUILTIN_MODELS: Final = ("builtin:tiny", "builtin:smollm2-135m")
"""Models that the harness creates itself."""

DEFAULT_API: Final = Api.CHAT
"""API of servers that the harness starts: all have it, and it can force output lengths."""

IDLE_S: Final = 30.0
"""Idle measurement under purpose measure: the shortest whose energy is not preliminary."""
SMOKE_IDLE_S: Final = 5.0
"""Idle measurement under purpose smoke: the shortest that gives an energy."""


class Slos(Strict):
    """Service level objectives (SLOs). Goodput counts only requests that meet all of them."""

    ttft_s: Seconds | None = None
    """Highest time to first token (TTFT)."""
    tpot_s: Seconds | None = None
    """Highest time per output token (TPOT): the mean after the first token."""
    e2e_s: Seconds | None = None
    """Highest end-to-end (E2E) latency, up to the last token."""


class Quality(Strict):
    """A small fixed check of the model's responses: the same greedy completions before and after
    the load, outside every measurement.

    Responses that changed, or that differ from the reference, make a run invalid. Without a
    reference, this finds a server that broke under load, but not one that was wrong from the start.
    The headline then shows "quality unverified".
    """

    check: Flag | None = None
    """Run the check; default: under purpose `measure`, and with a reference."""
    reference: PathText | None = None
    """File with correct responses of the same model (`harness quality record PROFILE` writes one).
    If the file does not exist, the first run whose responses did not change under load writes it.
    A relative path starts at the working directory.
    """
    max_output_tok: Whole = Field(default=24, ge=4, le=256)
    """Length of each response."""
    min_agreement: Number = Field(default=0.7, gt=0, le=1)
    """Minimum length of the prefix that a response shares with the reference (and after the load
    with before), as a share, averaged over the texts. Other kernels, batch sizes and GPUs decide
    near ties differently, after which greedy responses diverge; a broken model agrees on nothing.
    """
    logprob_tolerance: Number = Field(default=0.1, gt=0)
    """Largest mean difference of the log-probabilities (in nats) of the tokens that agree, if the
    API returns them.
    """


class Price(Strict):
    """Price of a GPU-hour; shown with every value that uses it."""

    usd_per_gpu_h: Number = Field(gt=0)
    """Price of one GPU for one hour."""
    source: str = Field(min_length=1)
    """Source of the price."""
    date: Date
    """Date of the price, YYYY-MM or YYYY-MM-DD."""


class StatedFactor(Strict):
    """A number that the harness cannot measure; shown with every value that uses it."""

    value: Number = Field(gt=0)
    """The number."""
    source: Text
    """Source of the number."""


class Energy(Strict):
    """Energy accounting: idle measurement, attribution, and factors for host, network, PUE and
    grid. docs/explanation/energy.md has boundaries, formulas and validity.
    """

    idle_s: Seconds | None = None
    """Duration of each idle power measurement: before the server starts and when it is ready, if
    power can be read. 0: none; below 5 s gives no energy. Default: 30 s under purpose measure, 5 s
    under smoke.
    """
    attribute: Flag = False
    """Fit an energy breakdown (time, computed input, output, and output x context). The load stages
    must be made for it, as in loadprofiles/gpu-energy-attribution.yaml.
    """
    calibration: Text | None = None
    """Meter calibration by `harness energy calibrate`; replaces the default gain error of the GPUs.
    A relative path starts at the working directory.
    """
    host_w_per_gpu: StatedFactor | None = None
    """Power of the host (CPUs, memory, NICs, fans, power supply losses) per GPU in watts, used if
    no node meter was read. Default: the published rated power of the GPU's system, at the share
    that nodes typically draw.
    """
    network_storage_ratio: StatedFactor | None = None
    """Power of storage, switches and optics over that of servers. Default: a published value."""
    pue: StatedFactor | None = None
    """Power usage effectiveness (PUE): power at the utility meter over that of the IT load, at
    least 1. Default: the middle of a published range.
    """
    grid_kgco2_per_kwh: Number | None = Field(default=None, ge=0, le=5)
    """Grid CO2 in kg per kWh; needs `grid_source`. Without it, carbon is not available."""
    grid_source: Text | None = None
    """Source of the grid factor, with place and year."""


class Profile(Strict):
    """One run."""

    name: Annotated[
        str,
        Correction(
            "use letters, digits, `.`, `_` and `-`: it becomes part of file names and labels"
        ),
    ] = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=80)
    """Name of the run directory and reports; default: the file's stem."""
    purpose: Purpose
    """`smoke` checks that everything works and makes no performance claim; only `measure` can be
    valid.
    """
    description: str = ""
    """Free text."""
    seed: Whole = Field(default=1, ge=0, lt=2**63)
    """Seed of everything random."""
    model: Model = Model()
    """The model to serve."""
    server: Server = AutoServer(kind="auto")
    """The server under test."""
    traffic: Traffic
    """Requests and their times."""
    slos: Slos = Slos()
    """Service level objectives (SLOs) of one request."""
    headline: str | None = Field(default=None, pattern=rf"^{STAGE_NAME}$")
    """Load stage whose metrics head the results: `best_under_slo`, `highest_throughput`, `last`, or
    a stage's name. `best_under_slo` is the highest output throughput among the stages in which at
    least 90% of requests met every SLO, else the stage with the highest goodput. Default:
    `best_under_slo` with `slos`, else `highest_throughput`.
    """
    telemetry: Telemetry = Telemetry()
    """Server metrics, power and host metrics."""
    energy: Energy = Energy()
    """Energy accounting."""
    quality: Quality = Quality()
    """Check of the model's responses."""
    thresholds: tuple[ThresholdText, ...] = ()
    """Conditions on the result, such as `ttft_s.p99 < 1.5` or `c64: ttft_s.p99 < 1.5` (stage `c64`
    instead of the headline stage); a failed one makes the exit code 99.
    Those relative to a baseline (`output_tok_s >= 0.95 * baseline`) are evaluated over repeats.
    """
    repeats: Whole = Field(default=1, ge=1, le=1000)
    """Number of runs, each with a fresh seed and a fresh server, in one folder (`harness repeat`
    takes several profiles).
    """
    cooldown_s: Seconds = 10.0
    """Pause between two repeats."""
    price: Price | None = None
    """Price, for dollars per million tokens."""
    sweep: Sweep | None = None
    """Keys that vary from run to run (`harness sweep`; `harness run` does the same)."""
    search: Search | None = None
    """What `harness search` looks for; `harness run` ignores it."""

    @property
    def _measures(self) -> bool:
        return self.purpose is Purpose.MEASURE

    @property
    def api(self) -> Api:
        """The wire API in effect. For an attached server without a set API this is an assumption,
        until `harness.server.detect` has filled it in.
        """
        return DEFAULT_API if self.traffic.api is None else self.traffic.api

    @property
    def model_id(self) -> str:
        """The model's id, else its served name; empty if the attached server has to be asked."""
        return self.model.id or self.model.served_name or ""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the load stages, in order."""
        return tuple(stage_name(stage, i) for i, stage in enumerate(self.traffic.load))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Conditions of every tier of the search, tier by tier; without a search, the SLOs."""
        tiers = (Tier(name="slo"),) if self.search is None else self.search.tiers
        return tuple(one for tier in tiers for one in self.conditions_of(tier))

    def conditions_of(self, tier: Tier) -> tuple[Condition, ...]:
        """Conditions of one tier; empty if it counts `slos` and there are none."""
        if tier.conditions:
            return tuple(parse_condition(text) for text in tier.conditions)
        slos = self.slos
        if slos == Slos():
            return ()
        share = DEFAULT_SHARE if tier.share is None else tier.share
        return (Condition("slos", share, slos.ttft_s, slos.tpot_s, slos.e2e_s),)

    @property
    def calibrate(self) -> bool:
        """Whether a run needs a client-fidelity certificate."""
        return self._measures if self.traffic.calibrate is None else self.traffic.calibrate

    @property
    def canary(self) -> bool:
        """Whether a run sends canary requests."""
        return self._measures if self.traffic.canary is None else self.traffic.canary

    @property
    def idle_s(self) -> float:
        """Duration of each idle measurement."""
        if self.energy.idle_s is not None:
            return self.energy.idle_s
        return IDLE_S if self._measures else SMOKE_IDLE_S

    @property
    def checks_quality(self) -> bool:
        """Whether a run checks the model's responses."""
        if self.quality.check is not None:
            return self.quality.check
        return self._measures or self.quality.reference is not None

    @property
    def output_length(self) -> OutputLength:
        """The output-length mode in effect."""
        if self.traffic.output_length is not None:
            return self.traffic.output_length
        return OutputLength.FORCED if self._measures else OutputLength.NATURAL

    @property
    def _kinds(self) -> set[str]:
        workload = self.traffic.workload
        if isinstance(workload, MixWorkload):
            return {part.workload.kind for part in workload.parts}
        return {workload.kind}

    @property
    def thinking(self) -> str:
        """How requests ask for reasoning. `auto` is a budget if the server is known to accept one,
        else off.
        """
        if self.traffic.thinking != "auto":
            return self.traffic.thinking
        server = self.server
        accepted = server.kind == "torch" or (
            server.kind == "vllm" and server.reasoning_parser is not None
        )
        budget = "thinking" in self._kinds and "budget" in wire(self.api).thinking
        return "budget" if budget and accepted else "off"

    @property
    def cache_control(self) -> bool:
        """Whether requests have cache breakpoints: as set, else for Claude's clients over an API
        that has them.
        """
        if self.traffic.cache_control is not None:
            return self.traffic.cache_control
        claude = self._kinds & {"claude-code", "claude-chat"}
        return wire(self.api).cache_breakpoints and bool(claude)
