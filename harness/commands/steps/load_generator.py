"""The load generator of a run: certificate, workers with their cores, and canary server."""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Final

from harness.artifacts.atomic import write_json
from harness.artifacts.certificate import Certificate
from harness.artifacts.typed_json import from_json, to_json
from harness.commands.steps.run_record import RunRecord
from harness.core.clock import wall_now
from harness.core.errors import ArtifactError
from harness.core.records import CANARY, Concern, Endpoint, Purpose, Severity
from harness.hardware.cores import partition
from harness.plan.build import RunPlan
from harness.plan.types import StagePlan
from harness.processes.registry import RunRegistry
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic.fidelity import (
    CERTIFICATE_VERSION,
    Load,
    cache_path,
    cached,
    host_fingerprint,
    load_class,
    load_of,
    make_certificate,
    store,
)

CANARY_TTFT_MS: Final = 50.0
CANARY_GAP_MS: Final = 20.0
"""Pace of the canary server: 50 tokens/s, as `harness.traffic._locust.canary` assumes."""

CALIBRATES: Final = "the load generator, against the reference server"
"""Detail of the phase `calibrating`."""

QUICK_WINDOW_S: Final = 120.0
"""Total window length below which a quick certificate suffices."""

HEAVIER_MAX_AGE_S: Final = 12 * 3600.0
HEAVIER_AT_MOST: Final = 8
"""Age and load ratio up to which the certificate of a heavier load is used for a quick run."""


@dataclass(frozen=True, slots=True)
class LoadGenerator:
    """Settings of the load generator, fixed before the server starts.

    Attributes:
        workers: Locust worker processes.
        own_cores: reserved for it; None for any.
        other_cores: for everything else; None for any.
        canary: reference server that the workers also stream from; None for no canary.
    """

    workers: int
    own_cores: tuple[int, ...] | None
    other_cores: tuple[int, ...] | None
    canary: Endpoint | None


def prepare_load_generator(
    stack: ExitStack,
    record: RunRecord,
    registry: RunRegistry,
    *,
    calibrate: bool,
    certificate: Certificate | None = None,
) -> LoadGenerator:
    """Choose certificate, workers, cores and canary, and record them in the manifest.

    Args:
        stack: ends the canary server.
        record: of the run.
        registry: of the run's process groups.
        calibrate: whether to certify the load generator if the profile requires it.
        certificate: of this load or a heavier one; None for a stored or new one.
    """
    profile = record.prepared.profile
    if certificate is None:
        certificate = _ensure_load_generator_calibration(record, registry, calibrate=calibrate)
    else:
        write_json(record.run_dir.calibration, to_json(certificate))
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
    """Copy a cached certificate for this load to the run directory, or measure one."""
    profile, plan = record.prepared.profile, record.prepared.plan
    if not (calibrate and profile.calibrate):
        if profile.purpose is Purpose.MEASURE:
            text = "The load generator was not certified: calibration was switched off."
            record.concern(Concern("calibration_missing", Severity.DEGRADED, text))
        return None
    fixed = None if profile.traffic.workers == "auto" else profile.traffic.workers
    found = certify(
        load_of(profile, plan),
        workers=fixed,
        quick=is_quick(plan.stages),
        registry=registry,
        note=record.view.note,
        begin=lambda: record.phase("calibrating", CALIBRATES, event="calibrate"),
    )
    write_json(record.run_dir.calibration, to_json(found))
    return found


def certify(
    load: Load,
    *,
    workers: int | None,
    quick: bool,
    registry: RunRegistry,
    note: Callable[[str], None],
    begin: Callable[[], None],
) -> Certificate:
    """The stored certificate for a load, or a new one.

    Args:
        load: to be covered.
        workers: their number; None for the fewest that suffice.
        quick: whether two short levels suffice.
        registry: of the process groups.
        note: called with progress.
        begin: called before a new one is measured.
    """
    found = cached(load, workers=workers, quick=quick)
    if found is None and quick:
        found = of_heavier_load(load, workers=workers)
    if found is None:
        begin()
        made = make_certificate(load, workers=workers, quick=quick, note=note, registry=registry)
        return store(made, workers=workers)
    load_text = "open loop" if found.load.requests_per_s else f"{found.load.streams} streams"
    note(f"load generator certificate of {found.made_at} ({load_text}, {found.workers} worker(s))")
    return found


class SharedCertificates:
    """Certificates of the runs of a series: one for its heaviest load (one for each API and kind of
    load), so that all runs have the same number of workers.

    Args:
        runs: profile and plan of every run.
        registry: of the process groups.
    """

    def __init__(self, runs: Iterable[tuple[Profile, RunPlan]], registry: RunRegistry) -> None:
        self._registry = registry
        self._certificates: dict[tuple[object, ...], Certificate] = {}
        self._quick = True
        self._heaviest: dict[tuple[object, ...], Load] = {}
        for profile, plan in runs:
            if profile.calibrate:
                self._quick = self._quick and is_quick(plan.stages)
                kind, load = _kind(profile, plan)
                self._heaviest[kind] = _heavier(load, self._heaviest.get(kind, load))

    def of(
        self,
        profile: Profile,
        plan: RunPlan,
        *,
        note: Callable[[str], None],
        begin: Callable[[], None],
    ) -> Certificate | None:
        """The certificate of a run; None if it needs none. The first call measures it.

        Args:
            profile: of the run.
            plan: its plan.
            note: called with progress.
            begin: called before one is measured.
        """
        if not profile.calibrate:
            return None
        kind, _ = _kind(profile, plan)
        if kind not in self._certificates:
            workers = None if profile.traffic.workers == "auto" else profile.traffic.workers
            self._certificates[kind] = certify(
                self._heaviest[kind],
                workers=workers or self._workers,
                quick=self._quick,
                registry=self._registry,
                note=note,
                begin=begin,
            )
        return self._certificates[kind]

    @property
    def _workers(self) -> int | None:
        """Workers of the certificates so far."""
        return max((one.workers for one in self._certificates.values()), default=None)


def _kind(profile: Profile, plan: RunPlan) -> tuple[tuple[object, ...], Load]:
    """What one certificate has in common, and the load."""
    load = load_of(profile, plan)
    return (load.api, load.process, load.clock, load.shape, profile.traffic.workers), load


def _heavier(one: Load, other: Load) -> Load:
    """The load with more events per second, with the larger body of both."""
    heavy = max(one, other, key=lambda load: load.events_per_s)
    return replace(heavy, body_bytes=max(one.body_bytes, other.body_bytes))


def is_quick(stages: Sequence[StagePlan]) -> bool:
    """Whether the windows are so short that a quick certificate suffices."""
    return sum(stage.window_ns or 0 for stage in stages) < QUICK_WINDOW_S * 1e9


def of_heavier_load(load: Load, *, workers: int | None) -> Certificate | None:
    """The lightest recent certificate of this host for a closed loop with more streams or larger
    requests; None if there is none.

    More streams and larger bodies cost the load generator more, so its errors at `load` are smaller
    than certified. Another pace, output length, API or clock changes the work per event, so those
    must be equal.
    """
    own = load_class(load)
    host = host_fingerprint()
    now_s = wall_now().timestamp()
    found: list[Certificate] = []
    for path in cache_path(load, workers).parent.glob("*.json"):
        try:
            one = from_json(Certificate, json.loads(path.read_text("utf-8")), "certificate")
        except (OSError, ValueError, ArtifactError):
            continue
        its = load_class(one.load)
        ratios = [float(its[key] or 0) / float(own[key] or 1) for key in ("streams", "body_bytes")]
        if (
            load.requests_per_s is None
            and one.version == CERTIFICATE_VERSION
            and one.sufficient
            and 0 <= now_s - (one.made_unix_s or 0) <= HEAVIER_MAX_AGE_S
            and asdict(one.host) == asdict(host)
            and path == cache_path(one.load, workers)  # made for this number of workers
            and own == its | {key: own[key] for key in ("streams", "body_bytes")}
            and all(1 <= ratio <= HEAVIER_AT_MOST for ratio in ratios)
        ):
            found.append(one)
    return min(found, key=lambda one: (one.load.streams, one.load.body_bytes), default=None)


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
