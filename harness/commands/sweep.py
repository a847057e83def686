"""A sweep: one run for each combination of values of the varied keys, in one folder.

The folder's `sweep.json` lists the points and their states; `harness.commands.series` runs them.
Points that need an equal server share one, and all points share the load generator's certificate.
"""

import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from harness.artifacts.atomic import write_bytes
from harness.artifacts.certificate import Certificate
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.sweep.index import Point, PointState, SweepIndex, read_sweep, write_sweep
from harness.commands.display import View
from harness.commands.run import run_profile
from harness.commands.series import Here, InOrder, Outcome, cool_down, recognized, run_points
from harness.commands.steps.load_generator import CALIBRATES, SharedCertificates
from harness.commands.steps.outcome import RunResult
from harness.commands.steps.server_lease import ServerLease
from harness.commands.steps.sweep_plan import (
    Resolved,
    Source,
    SweepPlan,
    in_words,
    reason,
    resolver,
)
from harness.commands.steps.sweep_progress import SweepProgress
from harness.core.clock import wall_now
from harness.core.errors import (
    ArtifactError,
    ExitCode,
    HarnessError,
    InterruptedRunError,
    PreflightError,
    ProfileError,
)
from harness.core.records import Status
from harness.core.units import human_duration
from harness.profile.load import load_profile, section_of
from harness.profile.schema import Profile
from harness.profile.sweep import parse_axis, parse_value
from harness.report.sweep.write import write_sweep_report
from harness.sweeps.points import Setting, load_sweep

PROFILE_FILE: Final = "profile.yaml"

MOST_POINTS: Final = 200
LONGEST_S: Final = 12 * 3600.0
"""Larger and longer sweeps need a confirmation."""

MOST_STARTS: Final = 2
"""Failed starts of a server in a row after which its remaining points are skipped."""

MOST_FAILED: Final = 0.2
"""Share of all points that may fail, if that is more than `max_failures`."""


class RunPoint(Protocol):
    """Signature of `harness.commands.run.run_profile`."""

    def __call__(
        self,
        profile: Profile,
        *,
        out: Path,
        view: View,
        source: Path | None = None,
        overrides: Sequence[str] = (),
        calibrate: bool = True,
        sweep: Mapping[str, Any] | None = None,
        lease: ServerLease | None = None,
        certificate: Certificate | None = None,
    ) -> RunResult:
        """Run a profile to its end."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """Result of a sweep.

    Attributes:
        folder: its folder.
        points: all points with their states.
        exit_code: 130 if interrupted, else that of the first failure, else 10 if no point is
            usable, else 0.
        messages: lines to show.
        paths: of the report's files.
    """

    folder: Path
    points: tuple[Point, ...]
    exit_code: ExitCode
    messages: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """Options of the command line that change the profile's `sweep` section; None where not given.

    Attributes:
        over: `KEY=1..256x2`, `KEY=1,2,4` or `KEY=8..64+8`.
        zip: `A+B=1+8,2+4`.
    """

    over: tuple[str, ...] = ()
    zip: tuple[str, ...] = ()
    order: str | None = None
    repeats: int | None = None
    max_failures: int | None = None

    def section(self, written: Any) -> dict[str, Any] | None:  # noqa: ANN401 - unchecked YAML
        """The section with these options; None if they change nothing.

        Raises:
            ProfileError: an option cannot be read.
        """
        given = {"order": self.order, "repeats": self.repeats, "max_failures": self.max_failures}
        found: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        over = dict(_axis(text) for text in self.over)
        groups = [_group(text) for text in self.zip]
        if len(over) < len(self.over):
            raise ProfileError("--over names a key twice", next_step="keep one of the two")
        if not (found or over or groups):
            return None
        old = written if isinstance(written, dict) else {}
        if over:
            found["over"] = {**(old.get("over") or {}), **over}
        if groups:
            found["zip"] = [*(old.get("zip") or []), *groups]
        return {**old, **found}


def _axis(text: str) -> tuple[str, object]:
    key, sign, values = text.partition("=")
    try:
        if not sign or not key.strip():
            raise ValueError("is not KEY=VALUES")
        return key.strip(), parse_axis(values)
    except (ValueError, ProfileError) as error:
        raise ProfileError(
            f"--over {text!r}: {error}",
            next_step="write --over traffic.load.0.concurrency=1..64x2, or =1,2,4, or =8..64+8",
        ) from error


def _group(text: str) -> dict[str, list[object]]:
    keys, sign, values = text.partition("=")
    names = [one.strip() for one in keys.split("+")]
    rows = [row.split("+") for row in values.split(",")]
    if not sign or not all(names) or any(len(row) != len(names) for row in rows):
        raise ProfileError(
            f"--zip {text!r} is not KEY+KEY=VALUE+VALUE,VALUE+VALUE",
            next_step="write --zip server.tensor_parallel_size+server.replicas=1+8,2+4",
        )
    if len(set(names)) < len(names):
        raise ProfileError(f"--zip {text!r} names a key twice", next_step="keep one of the two")
    return {name: [parse_value(row[at]) for row in rows] for at, name in enumerate(names)}


def source_of(
    path: Path, overrides: Sequence[str] = (), options: SweepOptions | None = None
) -> Source:
    """Read a profile for a sweep.

    Args:
        path: the profile.
        overrides: `--set` arguments.
        options: change its `sweep` section.

    Raises:
        ProfileError: it cannot be read, or is invalid.
    """
    section = None
    if options is not None:
        section = options.section(section_of(path, "sweep", overrides))
    profile = load_profile(path, overrides, None if section is None else {"sweep": section})
    own = () if section is None else (f"sweep={json.dumps(section)}",)
    return Source(path.read_text(encoding="utf-8-sig"), profile.name, (*overrides, *own))


def check_size(plan: SweepPlan) -> None:
    """Refuse a sweep that needs a confirmation.

    Raises:
        ProfileError: more than 200 runs, or more than 12 hours.
    """
    runs = len(plan.runs)
    if runs <= MOST_POINTS and plan.total_s <= LONGEST_S:
        return
    raise ProfileError(
        f"the sweep has {runs} runs and takes at least {human_duration(plan.total_s)}",
        cause=f"above {MOST_POINTS} runs or {LONGEST_S / 3600:g} h it needs a confirmation",
        next_step="pass --yes, or vary fewer values",
    )


def start_sweep(source: Source, plan: SweepPlan, *, out: Path) -> Path:
    """Create the folder of a new sweep and return it. Nothing runs yet.

    Raises:
        ArtifactError: it cannot be created.
    """
    assert plan.profile.sweep is not None
    stamp = wall_now().strftime("%Y%m%dT%H%M%SZ")
    folder = out / f"{stamp}-{source.name[:60]}-sweep-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot create {folder}: {error.strerror or error}",
            next_step="choose another folder with --out",
        ) from error
    write_bytes(folder / PROFILE_FILE, source.text.encode())
    index = SweepIndex(
        sweep_id=folder.name,
        kind="sweep",
        profile=source.name,
        profile_sha256=profile_sha256(source),
        overrides=source.overrides,
        axes=plan.axes,
        order=plan.profile.sweep.order,
        seed=plan.profile.seed,
        repeats=plan.profile.sweep.repeats,
        points=plan.points,
    )
    write_sweep(folder, index)
    return folder


def profile_sha256(source: Source) -> str:
    """Hash of a profile with its overrides."""
    return hashlib.sha256("\n".join((source.text, *source.overrides)).encode()).hexdigest()


def stored_source(folder: Path) -> Source:
    """The profile of a sweep's folder.

    Raises:
        ArtifactError: no sweep, or its profile was edited.
    """
    index = read_sweep(folder)
    path = folder / PROFILE_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    source = Source(text, index.profile, index.overrides)
    if profile_sha256(source) != index.profile_sha256:
        raise ArtifactError(
            f"{path} is not the profile with which the sweep was started",
            cause="it was edited; points of two profiles would not compare",
            next_step="restore it, or start another sweep",
        )
    return source


def check_same(folder: Path, source: Source) -> None:
    """Check that a sweep to be resumed was started with this profile and these axes.

    Raises:
        ProfileError: it was not; names the first key that differs.
    """
    then, now = _flat(stored_source(folder).base()), _flat(source.base())
    for key in dict.fromkeys((*then, *now)):
        if then.get(key) != now.get(key):
            raise ProfileError(
                f"{key} is {then.get(key)} in {folder} and {now.get(key)} now",
                cause="points of two profiles would not compare",
                next_step="resume without PROFILE and its options, or start another sweep",
            )


def _flat(profile: Profile) -> dict[str, object]:
    """Dotted keys and values."""

    def inside(value: object, path: str) -> dict[str, object]:
        items = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else None
        )
        if items is None or not value:
            return {path: value}
        found: dict[str, object] = {}
        for key, one in items:
            found |= inside(one, f"{path}.{key}" if path else str(key))
        return found

    return inside(profile.model_dump(mode="json"), "")


def run_sweep(
    folder: Path,
    *,
    view: Callable[[], AbstractContextManager[View]],
    calibrate: bool = True,
    run_one: RunPoint = run_profile,
) -> SweepResult:
    """Run what a sweep has not measured yet.

    Args:
        folder: from `start_sweep`.
        view: creates the view of each run.
        calibrate: as for a run.
        run_one: runs a profile.

    Raises:
        ArtifactError: no such sweep, its profile was edited, or another process runs it.
        HarnessError: interrupted before a point's load.
    """
    source = stored_source(folder)
    if source.base().sweep is None:
        raise ArtifactError(f"{folder} is not a sweep: its profile varies no key")
    with ServerLease(folder) as lease:
        series = _Points(folder, source, lease, view, run_one, calibrate=calibrate)
        try:
            points, interrupted = run_points(series, Here(folder, series.run))
        except (InterruptedRunError, KeyboardInterrupt):
            points, interrupted = read_sweep(folder).points, True
    messages = list(series.messages)
    code = series.failures[0].exit_code if series.failures else ExitCode.OK
    if interrupted:
        messages.append(f"interrupted; to continue: harness sweep --resume {folder}")
        code = ExitCode.INTERRUPTED
    elif code is ExitCode.OK and not any(map(_usable, load_sweep(folder).settings)):
        messages.append("no point of the sweep is usable: all runs are invalid")
        code = ExitCode.INVALID_RUN
    paths = report_on(folder, messages)
    return SweepResult(folder, points, code, tuple(messages), paths)


def report_on(folder: Path, messages: list[str]) -> tuple[Path, ...]:
    """Write the report of a sweep or search; what prevents it becomes a message, since the runs
    are what counts.
    """
    try:
        return write_sweep_report(folder).paths
    except HarnessError as error:
        messages.append(f"no report: {error.what}; to try again: harness report {folder}")
        return ()


def _usable(setting: Setting) -> bool:
    return setting.status is not None and setting.status is not Status.INVALID


@dataclass(slots=True)
class _Points(InOrder):
    """A `Series` of the points of a sweep."""

    folder: Path
    source: Source
    lease: ServerLease
    view: Callable[[], AbstractContextManager[View]]
    run_one: RunPoint
    calibrate: bool
    messages: list[str] = field(default_factory=list)
    failures: list[HarnessError] = field(default_factory=list)
    _resolve: Callable[[Profile], Resolved] = field(default_factory=resolver)
    _index: SweepIndex | None = None
    _certificates: SharedCertificates | None = None
    _progress: SweepProgress | None = None
    _in_a_row: int = 0
    _no_starts: Counter[str] = field(default_factory=Counter)
    _not_started: set[int] = field(default_factory=set)
    _variant: str | None = None
    _stopped: bool = False

    def load(self) -> list[Point]:
        self._index = index = read_sweep(self.folder)
        found = recognized(self.folder, index.points, self._which)
        points = [self._reconsidered(one) for one in found]
        self._progress = SweepProgress(self.folder, points)
        return points

    def _which(self, run: RecordedRun) -> int | None:
        return run.sweep.point if run.sweep.id == self.folder.name else None

    def _reconsidered(self, point: Point) -> Point:
        """A skipped point, planned again if it can run now."""
        if point.state is not PointState.SKIPPED:
            return point
        try:
            self._resolve(self.source.point_profile(point.values, point.seed))
        except HarnessError as error:
            return replace(point, error=reason(error))
        return replace(point, state=PointState.PLANNED, error=None)

    def save(self, points: Sequence[Point]) -> None:
        assert self._index is not None
        write_sweep(self.folder, replace(self._index, points=tuple(points)))

    def next_point(self, points: Sequence[Point], running: Collection[int]) -> Point | None:
        return None if self._stopped else InOrder.next_point(self, points, running)

    def run(self, point: Point) -> RunResult:
        """Run one point, on the running server if it needs an equal one."""
        assert self._progress is not None
        with self.view() as watching:
            self._change_server(point, watching)
            watching.note(self._progress.title(point))
            profile = self.source.point_profile(point.values, point.seed)
            try:
                return self.run_one(
                    profile,
                    out=self.folder,
                    view=watching,
                    source=self.folder / PROFILE_FILE,
                    overrides=self.source.point_overrides(point.values, point.seed),
                    calibrate=self.calibrate,
                    sweep={
                        "id": self.folder.name,
                        "point": point.id,
                        "values": dict(point.values),
                    },
                    lease=self.lease,
                    certificate=self._certificate(profile, watching),
                )
            except HarnessError as error:
                if self.lease.failed_start or isinstance(error, PreflightError):
                    self._not_started.add(point.id)
                raise

    def _change_server(self, point: Point, view: View) -> None:
        """End the server of the points before, and let the machine cool down."""
        before, self._variant = self._variant, point.variant
        if before is None or before == point.variant:
            return
        self.lease.release()
        cool_down(self.source.base().cooldown_s, view)

    def _certificate(self, profile: Profile, view: View) -> Certificate | None:
        """Of the load generator, for the heaviest point."""
        if not (self.calibrate and profile.calibrate):
            return None
        assert self._index is not None
        if self._certificates is None:
            runs = (
                self._resolve(self.source.point_profile(one.values, one.seed))
                for one in self._index.points
                if one.state is not PointState.SKIPPED
            )
            self._certificates = SharedCertificates(
                ((one.profile, one.plan) for one in runs), self.lease.registry
            )
        found = self._resolve(profile)
        return self._certificates.of(
            found.profile,
            found.plan,
            note=view.note,
            begin=lambda: view.phase("calibrating", CALIBRATES),
        )

    def ended(self, points: list[Point], outcome: Outcome) -> None:
        assert self._progress is not None
        point = points[outcome.point]
        with self.view() as watching:
            watching.note(self._progress.line(points, point))
            if outcome.error is None:
                self._in_a_row = 0
                del self._no_starts[point.variant]
                judged = () if outcome.result is None else outcome.result.messages
                title = in_words(point.values)
                self.messages += [f"{title}: {one}" for one in judged if "not judged" not in one]
                return
            watching.warn(f"{in_words(point.values)} failed: {outcome.error.what}")
            self.failures.append(outcome.error)
            self.messages.append(f"failed: {in_words(point.values)}: {outcome.error.what}")
            if point.id in self._not_started:
                self._skip_variant(points, point, outcome.error, watching)
            self._stop_if_over_budget(points, watching)

    def _skip_variant(
        self, points: list[Point], point: Point, error: HarnessError, view: View
    ) -> None:
        """Skip the remaining points of a server that did not start twice."""
        self._no_starts[point.variant] += 1
        if self._no_starts[point.variant] < MOST_STARTS:
            return
        left = [
            one
            for one in points
            if one.variant == point.variant and one.state is PointState.PLANNED
        ]
        why = f"the server did not start {MOST_STARTS} times: {error.what}"
        for one in left:
            points[one.id] = replace(one, state=PointState.SKIPPED, error=why)
        if left:
            text = f"{len(left)} points skipped ({point.variant}): {why}"
            view.warn(text)
            self.messages.append(text)

    def _stop_if_over_budget(self, points: Sequence[Point], view: View) -> None:
        """End the sweep after too many failures."""
        self._in_a_row += 1
        sweep = self.source.base().sweep
        assert sweep is not None
        most = max(sweep.max_failures, math.ceil(len(points) * MOST_FAILED))
        if self._in_a_row < sweep.max_failures and len(self.failures) <= most:
            return
        left = sum(one.state is PointState.PLANNED for one in points)
        if not left:
            return
        self._stopped = True
        text = (
            f"{len(self.failures)} runs failed, {self._in_a_row} in a row: {left} points were not"
            f" measured; to try them and the failed ones again: harness sweep --resume"
            f" {self.folder}"
        )
        view.warn(text)
        self.messages.append(text)
