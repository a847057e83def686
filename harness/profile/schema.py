"""The types of a profile: one YAML file that says everything about a run.

All models are frozen and forbid unknown keys, so a stale profile fails instead of quietly losing a
setting. Impossible combinations are for `harness.profile.rules`, which `load` asks. Every number's
unit is the suffix of its key; lengths of time, counts and sizes also take plain suffixes (`30s`,
`2m`, `16k`, `4GiB`). `docs/profile-reference.md` and `harness/profile/profile.schema.json` are
generated from these types.
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
from harness.core.records import OutputLength, Purpose
from harness.profile.serving import AutoServer, Model, Server
from harness.profile.telemetry import Telemetry
from harness.profile.traffic import Traffic
from harness.profile.workloads import MixWorkload

BUILTIN_MODELS: Final = ("builtin:tiny", "builtin:smollm2-135m")
"""Model ids that the harness makes itself."""

IDLE_S: Final = 30.0
"""Idle of a run that measures: as long as an energy needs not to be preliminary."""
SMOKE_IDLE_S: Final = 5.0
"""Idle of a smoke run: the least that energy can be taken over."""


class Slos(Strict):
    """A request is good when it meets every one of these; goodput counts good requests only."""

    ttft_s: Seconds | None = None
    """Longest time to the first token."""
    tpot_s: Seconds | None = None
    """Longest mean time per output token after the first."""
    e2e_s: Seconds | None = None
    """Longest time to the last token."""


class Quality(Strict):
    """A small fixed check of the served model's answers: the same greedy completions before and
    after the load, outside of every measurement.

    Answers that changed, or that are not the reference's, make a run invalid. Without a reference
    the two are only held against each other, which finds a server that broke under load but not one
    that was wrong from the start: the headline then says "quality unverified".
    """

    check: Flag | None = None
    """Whether to make it; default: under purpose `measure`, and where a reference is named."""
    reference: PathText | None = None
    """File with answers of the same model that are taken to be right
    (`harness quality record PROFILE` writes one). A first run whose answers the load did not change
    writes it where there is none. A relative path is taken from the working directory.
    """
    max_output_tok: Whole = Field(default=24, ge=4, le=256)
    """Length of each answer."""
    min_agreement: Number = Field(default=0.7, gt=0, le=1)
    """Least share of an answer, from its beginning, that must be as in the reference (and after the
    load as before it), in the mean over the texts. Other kernels, batch sizes and GPUs turn near
    ties around, after which greedy answers part for good; a broken one agrees on nothing.
    """
    logprob_tolerance: Number = Field(default=0.1, gt=0)
    """Largest mean difference of the log-probabilities (in nats) of the tokens that agree, where
    the API tells them.
    """


class Price(Strict):
    """What a GPU-hour costs; printed with every figure that uses it."""

    usd_per_gpu_h: Number = Field(gt=0)
    """Price of one GPU for one hour."""
    source: str = Field(min_length=1)
    """Where the price comes from."""
    date: Date
    """Its date, YYYY-MM or YYYY-MM-DD."""


class StatedFactor(Strict):
    """A number that the harness cannot measure; printed with every figure that uses it."""

    value: Number = Field(gt=0)
    """The number."""
    source: Text
    """Who says so."""


class Energy(Strict):
    """What belongs to the joules beside the power readings. docs/energy.md has boundaries, formulas
    and validity.
    """

    idle_s: Seconds | None = None
    """Idle is measured this long before the server starts and again when it is ready, where power
    can be read. 0: not at all; below 5 s no energy is had. Default: 30 s under purpose measure, 5 s
    under smoke.
    """
    attribute: Flag = False
    """The load stages are made for attributing joules to time, computed input, output and output x
    context: fit them (loadprofiles/gpu-energy-attribution.yaml).
    """
    calibration: Text | None = None
    """Meter calibration by `harness energy calibrate`; replaces the boards' default gain error. A
    relative path is taken from the working directory.
    """
    host_w_per_gpu: StatedFactor | None = None
    """Watts of the host (CPUs, memory, NICs, fans, losses of its supplies) for each of its GPUs,
    where no node meter was read. Default: the published rated watts of the GPU's system, at the
    share of them that nodes are known to draw.
    """
    network_storage_ratio: StatedFactor | None = None
    """Power of storage, switches and optics over that of servers. Default: a published one."""
    pue: StatedFactor | None = None
    """Power at the utility's meter over that of the IT, at least 1. Default: the middle of a
    published range.
    """
    grid_kgco2_per_kwh: Number | None = Field(default=None, ge=0, le=5)
    """CO2 of a kilowatt-hour of the grid; needs `grid_source`. Without it no figure of carbon is
    given.
    """
    grid_source: Text | None = None
    """Where the grid's factor comes from, with its place and year."""


class Profile(Strict):
    """One run, whole."""

    name: Annotated[
        str,
        Correction(
            "use letters, digits, `.`, `_` and `-`: it becomes part of file names and labels"
        ),
    ] = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", max_length=80)
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
    """Conditions on the result, such as `ttft_s.p99 < 1.5`; one that fails exits 99. Those on a
    share of a baseline (`output_tok_s >= 0.95 * baseline`) are judged over repeats.
    """
    repeats: Whole = Field(default=1, ge=1, le=1000)
    """How often to run it, each time with a fresh seed and a fresh server, into one folder
    (`harness repeat` takes several profiles).
    """
    cooldown_s: Seconds = 10.0
    """Pause between two repeats."""
    price: Price | None = None
    """For dollars per million tokens."""

    @property
    def calibrate(self) -> bool:
        """Whether a run holds a certificate: the profile's word, else under purpose measure."""
        return (
            self.purpose is Purpose.MEASURE
            if self.traffic.calibrate is None
            else self.traffic.calibrate
        )

    @property
    def canary(self) -> bool:
        """Whether a run sends canaries: the profile's word, else under purpose measure."""
        return (
            self.purpose is Purpose.MEASURE if self.traffic.canary is None else self.traffic.canary
        )

    @property
    def idle_s(self) -> float:
        """How long idle is measured, each time: the profile's word, else 30 s under purpose measure
        and 5 s under smoke.
        """
        if self.energy.idle_s is not None:
            return self.energy.idle_s
        return IDLE_S if self.purpose is Purpose.MEASURE else SMOKE_IDLE_S

    @property
    def checks_quality(self) -> bool:
        """Whether a run checks its answers: the profile's word, else under purpose measure and with
        a reference.
        """
        if self.quality.check is not None:
            return self.quality.check
        return self.purpose is Purpose.MEASURE or self.quality.reference is not None

    @property
    def output_length(self) -> OutputLength:
        """The output-length mode in force: the profile's, else forced for measure and natural for
        smoke.
        """
        if self.traffic.output_length is not None:
            return self.traffic.output_length
        return OutputLength.FORCED if self.purpose is Purpose.MEASURE else OutputLength.NATURAL

    @property
    def thinking(self) -> str:
        """How requests ask for reasoning: as the profile says; `auto` is a budget where the server
        is known to take one, else off.
        """
        if self.traffic.thinking != "auto":
            return self.traffic.thinking
        workload, server = self.traffic.workload, self.server
        kinds = (
            {part.workload.kind for part in workload.parts}
            if isinstance(workload, MixWorkload)
            else {workload.kind}
        )
        taken = server.kind == "torch" or (
            server.kind == "vllm" and server.reasoning_parser is not None
        )
        return (
            "budget"
            if "thinking" in kinds and "budget" in wire(self.traffic.api).thinking and taken
            else "off"
        )

    @property
    def cache_control(self) -> bool:
        """Whether requests carry cache breakpoints: as the profile says, else where Claude's
        clients are played over their own API.
        """
        if self.traffic.cache_control is not None:
            return self.traffic.cache_control
        workload = self.traffic.workload
        kinds = (
            {part.workload.kind for part in workload.parts}
            if isinstance(workload, MixWorkload)
            else {workload.kind}
        )
        return wire(self.traffic.api).cache_breakpoints and bool(
            kinds & {"claude-code", "claude-chat"}
        )
