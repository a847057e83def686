"""Section `telemetry` of a profile: server metrics and power."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from harness.checked_yaml.fields import (
    TIME,
    TIME_SCHEMA,
    Flag,
    HttpUrlText,
    Number,
    Seconds,
    Strict,
    Text,
    Whole,
    seconds_of,
)


def _not_too_often(value: float) -> float:
    if value < 0.05:
        raise ValueError("must be at least 50ms")
    return value


Interval = Annotated[
    float,
    BeforeValidator(seconds_of),
    AfterValidator(_not_too_often),
    WithJsonSchema(TIME_SCHEMA),
    TIME,
]
PowerBoundary = Literal["gpu_board", "module", "cpu_package", "dram", "node", "rack", "facility"]


class NvmlPower(Strict):
    """The deployment's NVIDIA boards: energy counter, instant or average power, and their state; as
    often as `telemetry` says.
    """

    kind: Literal["nvml"]


class DcgmPower(Strict):
    """A DCGM exporter. It repeats its values until it collects anew (every 30 s unless started with
    `-c 1000`); repeats are no readings.
    """

    kind: Literal["dcgm"]
    url: HttpUrlText = "http://127.0.0.1:9400/metrics"
    """Its metrics."""
    gpus: tuple[Text, ...] = ()
    """UUIDs of the boards to record; default: the deployment's, or all where it has none on this
    machine.
    """
    interval_s: Interval = 0.5
    """Between two looks for new values."""
    timeout_s: Seconds = 5.0
    """Limit of one request."""


class RaplPower(Strict):
    """The processors' packages and memory by the kernel's powercap files, which are for root unless
    their mode was changed.
    """

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
    """ipmitool's `-C`; default: asked for, which some controllers answer after long timeouts only
    (3 and 17 are common).
    """
    command: Text = "ipmitool"
    """The program. Another name counts as a double of hardware, and the report says so."""
    interval_s: Interval = 2.0
    """Between two readings; controllers take 0.1 s to seconds for one."""
    timeout_s: Seconds = 5.0
    """Limit of one reading."""


class RedfishPower(Strict):
    """The node (or chassis) by a Redfish service. Needs
    `pip install 'colossus-harness[redfish]'`.
    """

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
    """Any meter that a Prometheus-compatible server knows, such as a metered power distribution
    unit.
    """

    kind: Literal["promql"]
    url: HttpUrlText
    """Base URL of the server, without `/api/v1`."""
    query: Text
    """A selector (`pdu_outlet_watts{rack="r7"}`): its raw samples are read at their own times. Of
    any other expression the value at each reading.
    """
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
    """A recorded run's readings, played back: for demonstrations and tests. The report says so in
    red.
    """

    kind: Literal["replay"]
    path: Text
    """A `power.parquet` or `power.arrows`."""


class ModelledPower(Strict):
    """Power by a formula, idle + slope x utilisation: no measurement, labelled so everywhere, never
    mixed with one.
    """

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
]


class Telemetry(Strict):
    """What is watched beside the traffic."""

    scrape_interval_s: Seconds = 1.0
    """Between two scrapes of each `/metrics`."""
    scrape_timeout_s: Seconds = 5.0
    """Limit of one scrape. A Prometheus takes the interval where that is shorter."""
    prometheus: Literal["embedded", "managed"] | HttpUrlText = "embedded"
    """Who scrapes: `embedded` the harness itself, `managed` a Prometheus that it starts for the
    run, or the URL of one (or of Thanos, Mimir, VictoriaMetrics) that scrapes these servers already
    and is read after the run. docs/prometheus.md has the three side by side.
    """
    selectors: dict[str, Text] = Field(default_factory=dict)
    """For a URL: endpoint (`replica-0`) -> PromQL label matchers of its one target, such as
    `job="vllm", instance="gpu-7:8000"`.
    """
    prometheus_auth_env: Text | None = None
    """For a URL: environment variable with the value of its `Authorization` header, or with headers
    as lines of `Name: value`.
    """
    exporter_port: Whole | None = Field(default=None, ge=0, le=65535)
    """Port on which the run tells of itself in Prometheus' format: requests, latencies, tokens,
    stage, watts. 0: any free one. Default: not at all.
    """
    exporter_host: Text = "127.0.0.1"
    """Address of that port. The page has no password: another address than loopback shows it to
    whoever can reach it.
    """
    power_interval_s: Seconds = 0.1
    """Between two readings of instant power."""
    energy_interval_s: Seconds = 1.0
    """Between two readings of the energy counter."""
    host_interval_s: Seconds = 1.0
    """Between two readings of CPU, memory and network."""
    power: Literal["auto", "none"] | tuple[PowerSourceSpec, ...] = "auto"
    """Where power comes from, any number of sources side by side. `auto`: NVML where the deployment
    has boards here, RAPL where it can be read. `harness check --system` says what there is.
    """
    require: tuple[Literal["server_metrics", "gpu_power"], ...] = ()
    """Sources without which the run must not start (exit 6)."""
