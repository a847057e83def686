"""Paths in a run directory (schema_version 1). Names are fixed; files and fields may be added."""

from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = 1


class _In:
    """A path below the root of a run directory."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunDir", _: type | None = None) -> Path:
        return run.root / self._name


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run directory. Asking for a path creates nothing."""

    root: Path

    manifest = _In("manifest.json")
    plan = _In("plan.parquet")  # one row per planned request
    events = _In("events.jsonl")  # phases and stages with their times, appended as they happen
    requests_dir = _In("requests")  # one Arrow IPC stream per worker, `worker-<n>.arrows`
    requests = _In("requests.parquet")  # made from the journals at the end or by `reduce`
    # `<target>.first.prom` and `<target>.last.prom` are in the same folder.
    scrapes_dir = _In("scrapes")
    scrapes_journal = _In("scrapes/raw.arrows")  # original bodies
    prometheus_journal = _In("scrapes/prometheus.arrows")  # original responses of a Prometheus
    samples = _In("scrapes/samples.parquet")  # tidy samples of all scrapes
    prometheus_dir = _In("prometheus")  # configuration and database of a managed Prometheus
    power_journal = _In("power.arrows")
    power = _In("power.parquet")
    boards_journal = _In("boards.arrows")  # GPU state: clocks, temperature, limits, errors
    boards = _In("boards.parquet")
    host_journal = _In("host.arrows")
    host = _In("host.parquet")
    calibration = _In("calibration.json")  # the client-fidelity certificate of the run
    meter_calibration = _In("meter-calibration.json")  # gains of power sensors, if calibrated
    canary_truth = _In("canary-truth.jsonl")  # the canary server's write times, one line per canary
    quality = _In("quality.json")  # responses to fixed texts before and after the load
    recount = _In("recount.json")  # sample of the prompts, counted by the model's own tokenizer
    logs_dir = _In("logs")  # server.log or server-<n>.log, locust.log, telemetry.log
    summary = _In("summary.json")  # the reduction; disposable
    report_html = _In("report.html")
    report_md = _In("report.md")

    def requests_journal(self, worker: int) -> Path:
        """Journal of one traffic worker."""
        return self.requests_dir / f"worker-{worker}.arrows"
