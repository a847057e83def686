"""Before a run: resolved profile, run directory, first fields of the manifest."""

import importlib.metadata
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness import __version__
from harness.artifacts.layout import RunDir
from harness.core.clock import ClockAnchor, wall_now
from harness.core.errors import ArtifactError
from harness.core.records import Gpu, ModelFacts
from harness.hardware.gpus import nvidia_device_present, resolve_gpus
from harness.hardware.host import describe_host
from harness.models.facts import facts_of
from harness.plan.build import RunPlan, make_plan
from harness.processes.command import ask
from harness.profile.schema import Profile
from harness.reduce.energy.sensor_gain import read_calibration
from harness.server.base import ModelServer, Needs
from harness.server.detect import complete
from harness.server.select import choose_server

MIN_FREE_BYTES: Final = 64 * 1024**2
"""Required free space at the start; a full disk ends a run."""

_PACKAGES: Final = (
    "locust",
    "gevent",
    "httptools",
    "prometheus-client",
    "pandas",
    "pyarrow",
    "nvidia-ml-py",
    "torch",
    "transformers",
    "vllm",
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile with everything that can be resolved before starting anything.

    Attributes:
        choices: how model and API were chosen.
        meter_calibration: of `energy.calibration`.
    """

    profile: Profile
    facts: ModelFacts
    plan: RunPlan
    gpus: tuple[Gpu, ...]
    server: ModelServer
    server_reason: str
    choices: tuple[str, ...] = ()
    meter_calibration: Mapping[str, Any] | None = None


def prepare(profile: Profile, note: Callable[[str], None]) -> Prepared:
    """Resolve model, plan, GPUs and server.

    Raises:
        HarnessError: this machine cannot serve the profile.
    """
    completed = complete(profile)
    profile = completed.profile
    for text in completed.choices:
        note(text)
    facts = facts_of(profile)
    plan = make_plan(profile, facts)
    gpus = resolve_gpus(getattr(profile.server, "gpus", "all"))
    choice = choose_server(
        profile,
        facts,
        gpus,
        nvidia_present=nvidia_device_present().present,
        needs=Needs(tools=any(one.head.tools for one in plan.classes)),
    )
    note(f"server {choice.kind}: {choice.reason}")
    calibration = profile.energy.calibration
    meter = None if calibration is None else read_calibration(Path(calibration))[1]
    return Prepared(
        profile, facts, plan, gpus, choice.server, choice.reason, completed.choices, meter
    )


def make_run_dir(out: Path, name: str) -> RunDir:
    """Create a run directory with its folders.

    Raises:
        ArtifactError: it cannot be created, or the disk is nearly full.
    """
    stamp = wall_now().strftime("%Y%m%dT%H%M%SZ")
    root = out / f"{stamp}-{name}-{secrets.token_hex(3)}"
    try:
        root.mkdir(parents=True)
        free = shutil.disk_usage(root).free
        run_dir = RunDir(root.resolve())
        run_dir.requests_dir.mkdir()
        run_dir.scrapes_dir.mkdir()
        run_dir.logs_dir.mkdir()
    except OSError as error:
        raise ArtifactError(
            f"cannot create the run directory {root}: {error.strerror or error}",
            cause="no permission, no space, or --out is a file",
            next_step="choose another folder with --out",
        ) from error
    if free < MIN_FREE_BYTES:
        shutil.rmtree(root)
        raise ArtifactError(
            f"only {free / 1e6:.0f} MB free for {root}",
            cause="the disk is nearly full",
            next_step="free disk space, or choose another folder with --out",
        )
    return run_dir


def first_manifest_fields(
    prepared: Prepared,
    run_id: str,
    started_ns: int,
    anchor: ClockAnchor,
    overrides: Sequence[str],
) -> dict[str, Any]:
    """The manifest's fields at the start, in order, including those that later steps fill."""
    profile, plan = prepared.profile, prepared.plan
    return {
        "run_id": run_id,
        "harness": {"version": __version__, **_commit()},
        "profile": profile.model_dump(mode="json"),
        "overrides": list(overrides),
        "workload_sha256": plan.workload_sha256,
        "plan_sha256": plan.plan_sha256,
        "seed": profile.seed,
        "plan": {
            "context_scale": plan.context_scale,
            "context_scale_reason": plan.context_scale_reason,
            "context_limit_tok": plan.context_limit_tok,
            "tok_per_word": plan.tok_per_word,
            "tok_per_word_source": plan.tok_per_word_source,
            "output_length": profile.output_length.value,
            "assistant": "live" if plan.settings.live else "recorded",
            "choices": list(prepared.choices),
            "notes": list(plan.notes),
        },
        "model": prepared.facts,
        "hardware": {"gpus": prepared.gpus, **describe_host()},
        "software": _software(),
        "server": {"kind": prepared.server.kind, "choice": prepared.server_reason},
        "endpoints": [],
        "prometheus": None,
        "clock_anchors": [{"host": platform.node(), **asdict(anchor)}],
        "started_ns": started_ns,
        "ended_ns": None,
        "workers": None,
        "canary": False,
        "calibration": None,
        "cores": None,
    }


def _software() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": versions}


def _commit() -> dict[str, Any]:
    """Commit of the harness, from git in a checkout, else from HARNESS_COMMIT (set in images)."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return {"commit": os.environ.get("HARNESS_COMMIT"), "dirty": None}
    git = ("git", "-C", str(here))
    try:
        commit = ask((*git, "rev-parse", "HEAD"), timeout_s=10)
        changed = ask((*git, "status", "--porcelain"), timeout_s=10)
    except OSError:
        return {"commit": None, "dirty": None}
    if commit.status or changed.status:
        return {"commit": None, "dirty": None}
    return {"commit": commit.out.strip(), "dirty": bool(changed.out.strip())}
