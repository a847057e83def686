"""The Python API: `import harness; run = harness.load("results/…")`.

It does what the commands of the same names do, and returns typed results and pandas frames. Errors
are `harness.HarnessError`.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from harness.artifacts.layout import RunDir
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_result import load_result
from harness.artifacts.run_summary import Summary
from harness.compare.compare import Comparison, compare_runs
from harness.core.errors import ProfileError
from harness.core.records import Api
from harness.profile.schema import Profile
from harness.profile.thresholds import Threshold, parse_threshold

if TYPE_CHECKING:
    import pandas as pd

    from harness.reduce.frames import Records

FilePath = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run. Frames are read at first use and kept.

    docs/reference/python-api.md lists their columns.

    Attributes:
        path: the run directory.
        manifest: what was run, where and with what (manifest.json).
        summary: verdict and metrics (summary.json); None is unknown.
    """

    path: Path
    manifest: RecordedRun
    summary: Summary

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, verdict={self.summary.verdict.status.value!r})"

    @cached_property
    def stages(self) -> "pd.DataFrame":
        """One row per load stage, indexed by its name: window, counts and every metric."""
        from harness.reduce.frames import stages

        return stages(self.summary)

    @property
    def requests(self) -> "pd.DataFrame":
        """One row per request of the load.

        Raises:
            ArtifactError: requests.parquet is damaged, and there is no journal.
        """
        return self._records.requests

    @property
    def chunks(self) -> "pd.DataFrame":
        """One row per chunk of a response that carries content.

        Raises:
            ArtifactError: as `requests`.
        """
        return self._records.chunks

    @cached_property
    def power(self) -> "pd.DataFrame":
        """One row per power reading, of all sources.

        Raises:
            ArtifactError: power.parquet is damaged, and there is no journal.
        """
        from harness.reduce.frames import power

        return power(RunDir(self.path), self.manifest)

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """One row per sample of the scraped server metrics.

        Raises:
            ArtifactError: samples.parquet is damaged, and there is no journal.
        """
        from harness.reduce.frames import metrics

        return metrics(RunDir(self.path), self.manifest)

    @cached_property
    def _records(self) -> "Records":
        from harness.reduce.frames import records

        return records(RunDir(self.path), self.manifest)


def load(path: FilePath) -> Run:
    """Load a run directory.

    Raises:
        ArtifactError: not a run directory, not reduced yet, or made by a newer version.
    """
    found = load_result(Path(path))
    return Run(found.path, found.manifest, found.summary)


def compare(
    runs: Sequence[Run | FilePath],
    *,
    baseline: Run | FilePath | None = None,
    allow_mismatch: Sequence[str] = (),
    group_by: Sequence[str] = (),
    gates: Sequence[str] = (),
    sensor_error: float | None = None,
) -> Comparison:
    """Compare runs or sets of repeats, as `harness compare` does.

    Args:
        runs: runs, run directories, or folders of repeats; without `baseline`, the first is A.
        baseline: side A, before all others.
        allow_mismatch: identity keys that may differ.
        group_by: treatment keys; runs with equal values are one side.
        gates: thresholds such as `output_tok_s >= 0.95 * baseline`; results are in `gates` of the
            comparison.
        sensor_error: 95% bound of a GPU's power sensor error, relative; default: 0.05.

    Raises:
        ProfileError: nothing to compare, one run twice, an unknown key, or not a threshold.
        ArtifactError: a folder without a reduced run.
        InvalidRunError: an invalid run, unless `verdict` may differ.
        NotComparableError: an identity key differs.
    """
    more = {} if sensor_error is None else {"sensor_error": sensor_error}
    return compare_runs(
        [_path(one) for one in runs],
        tuple(allow_mismatch),
        baseline=None if baseline is None else _path(baseline),
        group_by=tuple(group_by),
        gates=[_threshold(text) for text in gates],
        **more,
    )


def _path(run: Run | FilePath) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _threshold(text: str) -> Threshold:
    try:
        return parse_threshold(text)
    except ValueError as error:
        raise ProfileError(
            f"gate {text!r} is not a threshold: {error}",
            next_step="write a gate as output_tok_s >= 0.95 * baseline",
        ) from error


def run(
    profile: FilePath,
    *,
    overrides: Sequence[str] = (),
    out: FilePath = "results",
    calibrate: bool = True,
    quiet: bool = False,
) -> Run:
    """Run a profile once and load the result, as `harness run` does. Call it from the main thread:
    it handles SIGINT and SIGTERM.

    Args:
        profile: a YAML file, or the name of a ready-made profile.
        overrides: `traffic.load.0.concurrency=32`.
        out: folder for run directories; created if missing.
        calibrate: whether to certify the load generator if the profile requires it.
        quiet: whether to print only warnings.

    Returns:
        The run; an invalid or interrupted one too (`summary.verdict`, `summary.state`). A failed
        threshold of the profile is a warning.

    Raises:
        HarnessError: the profile is wrong, or the run failed.
    """
    from harness.profile.load import load_profile, profile_path

    path = profile_path(Path(profile))
    return _run(load_profile(path, overrides), path, overrides, Path(out), calibrate, quiet)


def bench(
    url: str | Sequence[str],
    *,
    model: str | None = None,
    api: str | None = None,
    concurrency: int | Sequence[int] = (),
    rate: float | Sequence[float] = (),
    isl: int | str | None = None,
    osl: int | str | None = None,
    workload: str | None = None,
    trace: FilePath | None = None,
    duration_s: float = 30.0,
    warmup_s: float | None = None,
    seed: int | None = None,
    slo: str | None = None,
    gpu_count: int | None = None,
    gpus: str | None = None,
    usd_per_gpu_h: float | None = None,
    api_key_env: str | None = None,
    ca_file: FilePath | None = None,
    headers: Mapping[str, str] | None = None,
    out: FilePath = "results",
    calibrate: bool = True,
    quiet: bool = False,
) -> Run:
    """Measure a running endpoint without a profile, as `harness bench` does, and load the result.

    Args:
        url: endpoint, or one per replica.
        model: served name; default: the only one.
        api: wire API; default: the first that responds.
        concurrency: requests in flight, one load stage per number; default: 8.
        rate: requests per second, one load stage per number.
        isl: input tokens, `1024` or `"1024±128"`; default: 1024.
        osl: output tokens, in the same form; default: 128.
        workload: sessions of a workload in place of `isl` and `osl`: `chat`, `claude-code`.
        trace: recorded trace to replay.
        duration_s: measurement window of each stage.
        warmup_s: warm-up before each window; default: detected.
        seed: random seed of prompts and send times; default: 1.
        slo: `ttft=1s,tpot=50ms`.
        gpu_count: number of GPUs that serve, on other machines.
        gpus: GPUs of this machine that serve: `0,1` or `all`.
        usd_per_gpu_h: price of a GPU-hour in dollars.
        api_key_env: name of the environment variable with the API key.
        ca_file: PEM file of certificate authorities to trust.
        headers: additional headers; a value `env:NAME` is taken from that environment variable.
        out: folder for run directories; created if missing.
        calibrate: whether to certify the load generator.
        quiet: whether to print only warnings.

    Raises:
        HarnessError: as `run`; the endpoint does not respond, or an argument is wrong.
    """
    from harness.commands.bench import BenchOptions, base_url, bench_profile, existing

    urls = [url] if isinstance(url, str) else url
    options = BenchOptions(
        urls=tuple(base_url(one) for one in urls),
        model=model,
        api=None if api is None else _api(api),
        concurrency=tuple(int(n) for n in _numbers(concurrency, "concurrency", int)),
        rates=_numbers(rate, "rate", float),
        isl=None if isl is None else str(isl),
        osl=None if osl is None else str(osl),
        workload=workload,
        trace=None if trace is None else existing(Path(trace), "trace", folder=True),
        duration_s=duration_s,
        warmup_s=warmup_s,
        seed=seed,
        slos=slo,
        gpu_count=gpu_count,
        gpus=gpus,
        usd_per_gpu_h=usd_per_gpu_h,
        api_key_env=api_key_env,
        ca_file=None if ca_file is None else existing(Path(ca_file), "ca_file"),
        headers=headers or {},
    )
    profile, text = bench_profile(options, ["harness.bench", *urls])
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(text, encoding="utf-8")
        return _run(profile, path, (), Path(out), calibrate, quiet)


def _api(name: str) -> Api:
    try:
        return Api(name)
    except ValueError as error:
        raise ProfileError(
            f"api {name!r} is unknown", next_step=f"choose one of {', '.join(Api)}"
        ) from error


def _numbers(
    value: float | Sequence[float], name: str, kind: Callable[[str], float]
) -> tuple[float, ...]:
    from harness.commands.bench import numbers

    several = value if isinstance(value, Sequence) else (value,)
    return numbers(",".join(map(str, several)), name, kind) if several else ()


def _run(
    profile: Profile,
    source: Path,
    overrides: Sequence[str],
    out: Path,
    calibrate: bool,
    quiet: bool,
) -> Run:
    from harness.commands.display import choose_view
    from harness.commands.run import run_profile

    with choose_view(quiet=quiet, json_output=False) as view:
        result = run_profile(
            profile, out=out, view=view, source=source, overrides=overrides, calibrate=calibrate
        )
    for message in result.messages:
        warnings.warn(message, stacklevel=3)
    return load(result.run_dir)
