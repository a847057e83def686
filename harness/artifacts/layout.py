"""Names inside a run directory (schema_version 1). They are fixed; fields and files may be
added.
"""

from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run directory. Nothing is created by asking for a path."""

    root: Path

    @property
    def manifest(self) -> Path:
        """manifest.json"""
        return self.root / "manifest.json"

    @property
    def plan(self) -> Path:
        """plan.parquet: one row a planned request."""
        return self.root / "plan.parquet"

    @property
    def requests_dir(self) -> Path:
        """requests/: one Arrow IPC stream a worker, `worker-<n>.arrows`."""
        return self.root / "requests"

    def requests_journal(self, worker: int) -> Path:
        """Journal of one traffic worker."""
        return self.requests_dir / f"worker-{worker}.arrows"

    @property
    def requests(self) -> Path:
        """requests.parquet, made from the journals at the end or by `reduce`."""
        return self.root / "requests.parquet"

    @property
    def events(self) -> Path:
        """events.jsonl: phases and stages of the run with their times, appended as they happen."""
        return self.root / "events.jsonl"

    @property
    def scrapes_dir(self) -> Path:
        """scrapes/: `raw.arrows` (journal of whole bodies), `samples.parquet` (tidy),
        `<target>.first.prom` and `<target>.last.prom`.
        """
        return self.root / "scrapes"

    @property
    def prometheus_journal(self) -> Path:
        """Journal of what was read back from a Prometheus, answers as they came."""
        return self.scrapes_dir / "prometheus.arrows"

    @property
    def prometheus_dir(self) -> Path:
        """prometheus/: configuration and database of a Prometheus that the run started itself."""
        return self.root / "prometheus"

    @property
    def scrapes_journal(self) -> Path:
        """Journal of scrapes, bodies as they came."""
        return self.scrapes_dir / "raw.arrows"

    @property
    def samples(self) -> Path:
        """Tidy samples of all scrapes."""
        return self.scrapes_dir / "samples.parquet"

    @property
    def power_journal(self) -> Path:
        """Journal of power readings."""
        return self.root / "power.arrows"

    @property
    def power(self) -> Path:
        """power.parquet"""
        return self.root / "power.parquet"

    @property
    def boards_journal(self) -> Path:
        """Journal of the boards' state: clocks, temperature, limits, errors."""
        return self.root / "boards.arrows"

    @property
    def boards(self) -> Path:
        """boards.parquet"""
        return self.root / "boards.parquet"

    @property
    def host_journal(self) -> Path:
        """Journal of host readings."""
        return self.root / "host.arrows"

    @property
    def host(self) -> Path:
        """host.parquet"""
        return self.root / "host.parquet"

    @property
    def calibration(self) -> Path:
        """calibration.json: the client-fidelity certificate that the run held."""
        return self.root / "calibration.json"

    @property
    def meter_calibration(self) -> Path:
        """meter-calibration.json: gains of the power sensors against a meter, where the profile
        names a calibration.
        """
        return self.root / "meter-calibration.json"

    @property
    def canary_truth(self) -> Path:
        """canary-truth.jsonl: when the canary's server wrote what, one line a canary."""
        return self.root / "canary-truth.jsonl"

    @property
    def quality(self) -> Path:
        """quality.json: answers to the check's fixed texts before and after the load."""
        return self.root / "quality.json"

    @property
    def recount(self) -> Path:
        """recount.json: a sample of the prompts counted by the model's own tokenizer, after the
        run.
        """
        return self.root / "recount.json"

    @property
    def logs_dir(self) -> Path:
        """logs/: server.log (server-<n>.log for several replicas), locust.log, telemetry.log."""
        return self.root / "logs"

    @property
    def summary(self) -> Path:
        """summary.json: the reduction; disposable."""
        return self.root / "summary.json"

    @property
    def report_html(self) -> Path:
        """report.html"""
        return self.root / "report.html"

    @property
    def report_md(self) -> Path:
        """report.md"""
        return self.root / "report.md"
