"""Section `telemetry` of a profile: server metrics and power."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.checked_yaml.fields import Flag, HttpUrlText, Number, Seconds, Strict, Text, Whole


def _not_too_often(value: float) -> float:
    if value < 0.05:
        raise ValueError("must be at least 50ms")
    return value


Interval = Annotated[Seconds, AfterValidator(_not_too_often)]
PowerBoundary = Literal["gpu_board", "module", "cpu_package", "dram", "node", "rack", "facility"]


class NvmlPower(Strict):
    """NVML: energy counter, instant or average power, and state of the deployment's NVIDIA GPUs.
    Intervals are those of `telemetry`.
    """

    kind: Literal["nvml"]


class DcgmPower(Strict):
    """A DCGM exporter. It repeats its values until its next collection (every 30 s unless started
    with `-c 1000`); repeated values are not readings.
    """

    kind: Literal["dcgm"]
    url: HttpUrlText = "http://127.0.0.1:9400/metrics"
    """URL of its metrics."""
    gpus: tuple[Text, ...] = ()
    """UUIDs of the GPUs to record; default: the deployment's, or all if it has none on this
    machine.
    """
    interval_s: Interval = 0.5
    """Interval of polls for new values."""
    timeout_s: Seconds = 5.0
    """Timeout of one request."""


class RaplPower(Strict):
    """CPU packages and memory by the kernel's powercap files (RAPL), readable only by root unless
    their mode was changed.
    """

    kind: Literal["rapl"]
    root: Text = "/sys/class/powercap"
    """Folder of the files. Any other folder is flagged in the report as simulated hardware."""
    interval_s: Interval = 1.0
    """Interval of readings."""


class IpmiPower(Strict):
    """The node by its management controller: `ipmitool dcmi power reading`."""

    kind: Literal["ipmi"]
    host: Text | None = None
    """Controller on the network; default: this machine's own, through its device."""
    port: Whole = Field(default=623, ge=1, le=65535)
    """UDP port of that controller."""
    user: Text | None = None
    """User name for a controller on the network."""
    password_env: Text | None = None
    """Name of the environment variable that holds the password."""
    password_file: Text | None = None
    """File that holds the password."""
    cipher_suite: Whole | None = Field(default=None, ge=0, le=17)
    """ipmitool's `-C`; default: negotiated, which takes long timeouts with some controllers (3 and
    17 are common).
    """
    command: Text = "ipmitool"
    """The program. Any other name is flagged in the report as simulated hardware."""
    interval_s: Interval = 2.0
    """Interval of readings; controllers take 0.1 s to seconds for one."""
    timeout_s: Seconds = 5.0
    """Timeout of one reading."""


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
    """PEM file of trusted certificate authorities; default: the system's."""
    verify_tls: Flag = True
    """Check the certificate; controllers often have a self-signed one."""
    boundary: PowerBoundary = "node"
    """Boundary that the chassis covers."""
    interval_s: Interval = 2.0
    """Interval of readings."""
    timeout_s: Seconds = 5.0
    """Timeout of one request."""


class PromqlPower(Strict):
    """Any meter in a Prometheus-compatible server, such as a metered power distribution unit."""

    kind: Literal["promql"]
    url: HttpUrlText
    """Base URL of the server, without `/api/v1`."""
    query: Text
    """A selector (`pdu_outlet_watts{rack="r7"}`), whose raw samples are read at their own times, or
    any other expression, evaluated at each reading.
    """
    boundary: PowerBoundary
    """Boundary that the meter covers."""
    quantity: Literal["power", "energy"] = "power"
    """`energy` for a cumulative counter."""
    scale: Number = Field(default=1, gt=0)
    """Factor to watts or joules (kWh: 3600000)."""
    device_label: Text | None = None
    """Label that identifies a device; default: all labels."""
    token_env: Text | None = None
    """Name of the environment variable that holds a bearer token."""
    interval_s: Interval = 5.0
    """Interval of queries."""
    timeout_s: Seconds = 5.0
    """Timeout of one query."""


class CsvPower(Strict):
    """A meter's log, followed during the run: lines of time and watts, with a header line."""

    kind: Literal["csv"]
    path: Text
    """The file."""
    boundary: PowerBoundary
    """Boundary that the meter covers."""
    time_column: Text = "time"
    """Column of the time: seconds since 1970, or ISO 8601 (UTC if it has no time zone)."""
    power_column: Text = "watts"
    """Column of the power in watts."""
    device_column: Text | None = None
    """Column that identifies a device; default: one device."""
    clock_offset_s: Number = Field(default=0, ge=-86400, le=86400)
    """Time by which the meter's clock is ahead of this machine's, in seconds."""
    interval_s: Interval = 1.0
    """Interval of polls for new lines."""


class ReplayPower(Strict):
    """Replay of a recorded run's readings, for demonstrations and tests. Flagged in the report."""

    kind: Literal["replay"]
    path: Text
    """A `power.parquet` or `power.arrows`."""


class ModelledPower(Strict):
    """Power by a formula, idle + slope x utilization. It is labeled everywhere as not measured, and
    never mixed with measurements.
    """

    kind: Literal["modelled"]
    of: Literal["cpu", "gpu"]
    """Source of the utilization: all processors of the machine, or each GPU of the deployment."""
    idle_w: Number = Field(ge=0)
    """Power at no load, of the machine or of each GPU."""
    slope_w: Number = Field(ge=0)
    """Additional power at full utilization."""
    boundary: PowerBoundary
    """Boundary that the formula covers."""
    source: Text
    """Source of its constants."""
    interval_s: Interval = 1.0
    """Interval of utilization readings."""


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
    """Server metrics, power and host metrics."""

    scrape_interval_s: Seconds = 1.0
    """Scrape interval of each `/metrics`."""
    scrape_timeout_s: Seconds = 5.0
    """Timeout of one scrape. A Prometheus uses the interval if that is shorter."""
    prometheus: Literal["embedded", "managed"] | HttpUrlText = "embedded"
    """Scraper: `embedded` is the harness itself, `managed` a Prometheus that it starts for the run.
    A URL is that of a Prometheus (or Thanos, Mimir, VictoriaMetrics) that already scrapes these
    servers and is read after the run. docs/how-to/prometheus.md compares the three.
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
    """Port on which the run exposes its own Prometheus metrics: requests, latencies, tokens, stage,
    watts. 0: any free port. Default: none.
    """
    exporter_host: Text = "127.0.0.1"
    """Address of that port. The page has no password, so any address but loopback exposes it to the
    network.
    """
    power_interval_s: Seconds = 0.1
    """Interval of instant power readings."""
    energy_interval_s: Seconds = 1.0
    """Interval of energy counter readings."""
    host_interval_s: Seconds = 1.0
    """Interval of CPU, memory and network readings."""
    power: Literal["auto", "none"] | tuple[PowerSourceSpec, ...] = "auto"
    """Power sources, any number in parallel. `auto`: NVML if the deployment has GPUs here, RAPL if
    it is readable. `harness check --system` lists what is available.
    """
    require: tuple[Literal["server_metrics", "gpu_power"], ...] = ()
    """Sources that the run requires to start (else exit 6)."""
