"""The load generator of a run: its certificate, its workers with their cores, and its canary."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from harness.artifacts.atomic import write_json
from harness.artifacts.certificate import Certificate
from harness.artifacts.typed_json import to_json
from harness.commands.steps.run_record import RunRecord
from harness.core.records import CANARY, Concern, Endpoint, Purpose, Severity
from harness.hardware.cores import partition
from harness.processes.registry import RunRegistry
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic.fidelity import cached, load_of, make_certificate, store

CANARY_TTFT_MS: Final = 50.0
CANARY_GAP_MS: Final = 20.0
"""Pace of the canary's server: 50 tokens/s a stream, as `harness.traffic._locust.canary` counts on.
"""

QUICK_WINDOW_S: Final = 120.0
"""Runs whose windows are shorter than this in all make do with a quick certificate."""


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """What is settled of the load generator before the server is started.

    Attributes:
        workers: Locust worker processes.
        own_cores: set apart for it; None: it runs on any.
        other_cores: for everything else; None likewise.
        canary: the paced server that the workers stream from all the while; None: no canary.
    """

    workers: int
    own_cores: tuple[int, ...] | None
    other_cores: tuple[int, ...] | None
    canary: Endpoint | None


def prepare_load_generator(
    stack: ExitStack, record: RunRecord, registry: RunRegistry, *, calibrate: bool
) -> LoadGenerator:
    """Certificate, number of workers, cores and canary, and what the manifest says of them.

    Args:
        stack: ends the canary's server.
        record: of the run.
        registry: of its process groups.
        calibrate: hold a certificate where the profile asks for one.
    """
    profile = record.prepared.profile
    certificate = _ensure_load_generator_calibration(record, registry, calibrate=calibrate)
    workers = profile.traffic.workers
    if workers == "auto":
        workers = 1 if certificate is None else certificate.workers
    cores = partition(workers) if profile.purpose is Purpose.MEASURE else None
    own, other = (None, None) if cores is None or cores.shared else (cores.traffic, cores.rest)
    canary = _start_canary(stack, record, registry, own) if profile.canary else None
    record.manifest.update(
        workers=workers,
        canary=canary is not None,
        calibration=None if certificate is None else record.run_dir.calibration.name,
        cores=cores,
    )
    return LoadGenerator(workers, own, other, canary)


def _ensure_load_generator_calibration(
    record: RunRecord, registry: RunRegistry, *, calibrate: bool
) -> Certificate | None:
    """Take the cached certificate for this load, or measure one, and put it into the run
    directory.
    """
    profile, plan = record.prepared.profile, record.prepared.plan
    if not (calibrate and profile.calibrate):
        if profile.purpose is Purpose.MEASURE:
            text = "The run held no client-fidelity certificate: it was told not to calibrate."
            record.concern(Concern("calibration_missing", Severity.DEGRADED, text))
        return None
    fixed = None if profile.traffic.workers == "auto" else profile.traffic.workers
    load = load_of(profile, plan)
    quick = sum(stage.window_ns or 0 for stage in plan.stages) < QUICK_WINDOW_S * 1e9
    found = cached(load, workers=fixed, quick=quick)
    if found is None:
        record.phase(
            "calibrating", "the load generator, against the paced server", event="calibrate"
        )
        made = make_certificate(
            load, workers=fixed, quick=quick, note=record.view.note, registry=registry
        )
        found = store(made, workers=fixed)
    else:
        record.view.note(
            f"client-fidelity certificate of {found.made_at} ({found.workers} worker(s))"
        )
    write_json(record.run_dir.calibration, to_json(found))
    return found


def _start_canary(
    stack: ExitStack, record: RunRecord, registry: RunRegistry, cores: tuple[int, ...] | None
) -> Endpoint:
    pace = Pace(ttft_ms=CANARY_TTFT_MS, gap_ms=CANARY_GAP_MS)
    server = stack.enter_context(
        PacedServer(
            pace, record.run_dir.canary_truth, live_truth=True, cores=cores, registry=registry
        )
    )
    return Endpoint(CANARY, server.url, MODEL, pid=server.pid)
