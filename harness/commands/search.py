"""A search: probes of one load stage at different loads, until the capacity at each tier is known.

The next probe is a pure function of those that have ended and of the seed: nothing else is kept, so
a resumed search asks what the unbroken one would have asked. The folder is that of a sweep whose
points are made one after the other; `harness.commands.series` runs them.
"""

import json
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from harness.artifacts.atomic import write_bytes
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.sweep.capacity import (
    Capacity,
    CapacityFile,
    ConditionShare,
    ProbeRecord,
    write_capacity,
)
from harness.artifacts.sweep.index import Point, PointState, SweepIndex, read_sweep, write_sweep
from harness.commands.display import View
from harness.commands.run import StopWhen, run_profile
from harness.commands.series import Here, Outcome, recognized, run_points
from harness.commands.steps.early_end import EarlyEnd
from harness.commands.steps.outcome import RunResult
from harness.commands.steps.search_plan import LOAD_KEYS, Windows, windows
from harness.commands.steps.server_lease import ServerLease
from harness.commands.steps.sweep_plan import Source
from harness.commands.sweep import (
    LONGEST_S,
    PROFILE_FILE,
    profile_sha256,
    report_on,
    stored_source,
)
from harness.core.clock import wall_now
from harness.core.errors import (
    ArtifactError,
    ExitCode,
    InterruptedRunError,
    ProfileError,
)
from harness.core.records import OutputLength
from harness.core.units import human_duration
from harness.plan.rng import stream
from harness.profile.load import load_profile, section_of
from harness.profile.schema import Profile
from harness.profile.search import Search
from harness.profile.thresholds import CAPACITY, parse_threshold
from harness.sweeps.capacity import ProbeRun, Tier, capacity, conditions
from harness.sweeps.probes import Probe, read_probe, tiers_of
from harness.sweeps.threshold import Estimate, Found, Limits, estimate, next_load

PROBE: Final = "probe"
CONFIRM: Final = "confirm"
"""Variants of points; the second needs a fresh server."""

MOST_INVALID: Final = 2
"""Invalid probes in a row that end the search."""

MOST_CONFIRMED: Final = 2
"""Confirmation runs: a second one if the first misses the tier."""

DRIFT: Final = 0.02
"""Relative difference of mean output lengths between probes from which the load does other work."""


LEAST_FOR_DRIFT: Final = 100
"""Requests of a probe from which its mean output length counts."""


class RunProbe(Protocol):
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
        stop_when: StopWhen | None = None,
    ) -> RunResult:
        """Run a profile to its end."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of a search.

    Attributes:
        folder: its folder.
        capacity: as in capacity.json.
        exit_code: 130 if interrupted; 10 if the load generator was the limit, or the confirmation
            run is invalid; 99 if a threshold failed; else 0.
        messages: lines to show.
        paths: files of the report.
    """

    folder: Path
    capacity: CapacityFile
    exit_code: ExitCode
    messages: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Options of the command line that change the profile's `search` section; None where not given.

    Attributes:
        lowest: `from`.
        tiers: `NAME: CONDITION, CONDITION`, or `NAME` for a share of `slos`.
    """

    load: str | None = None
    lowest: float | None = None
    to: float | None = None
    tiers: tuple[str, ...] = ()
    precision: str | None = None
    max_points: int | None = None
    max_time: str | None = None
    confirm: bool | None = None

    def section(self, written: Any) -> dict[str, Any] | None:  # noqa: ANN401 - unchecked YAML
        """The section with these options; None if they change nothing.

        Raises:
            ProfileError: a tier has no name.
        """
        given = {
            "load": self.load,
            "from": self.lowest,
            "to": self.to,
            "tiers": [_tier(text) for text in self.tiers] or None,
            "precision": self.precision,
            "max_points": self.max_points,
            "max_time_s": self.max_time,
            "confirm": self.confirm,
        }
        found = {key: value for key, value in given.items() if value is not None}
        return {**(written if isinstance(written, dict) else {}), **found} if found else None


def _tier(text: str) -> dict[str, Any]:
    name, colon, conditions = text.partition(":")
    found = [one.strip() for one in conditions.split(",") if one.strip()]
    if not name.strip() or (colon and not found):
        raise ProfileError(
            f"--tier {text!r} is not NAME: CONDITION, CONDITION",
            next_step='write --tier "fast: ttft_s.p95<5s, speed_tok_s.p25>60"',
        )
    return {"name": name.strip(), "conditions": found} if found else {"name": name.strip()}


def source_of(
    path: Path, overrides: Sequence[str] = (), options: SearchOptions | None = None
) -> Source:
    """Read a profile for a search.

    Args:
        path: the profile.
        overrides: `--set` arguments.
        options: change its `search` section.

    Raises:
        ProfileError: it cannot be read, is invalid, or does not search.
    """
    section = None
    if options is not None:
        section = options.section(section_of(path, "search", overrides))
    profile = load_profile(path, overrides, None if section is None else {"search": section})
    if profile.search is None:
        raise ProfileError(
            f"{path} does not search: it has no `search` section",
            next_step="add one, or pass --load, --from and --to",
        )
    own = () if section is None else (f"search={json.dumps(section)}",)
    return Source(path.read_text(encoding="utf-8-sig"), profile.name, (*overrides, *own))


def plan_lines(profile: Profile) -> list[str]:
    """What a search would do, in lines."""
    search = profile.search
    assert search is not None
    first = windows(search, profile.traffic.load[0], search.lowest, (), climbing=True)
    tiers = [
        f"{tier.name}: " + " and ".join(one.text for one in profile.conditions_of(tier))
        for tier in search.tiers
    ]
    return [
        f"{search.load} from {search.lowest:g} to {search.to:g}, precision {search.precision:.1%}",
        *tiers,
        (
            f"at most {search.max_points} probes of at most {human_duration(2 * search.probe_s)}, "
            f"the first of {human_duration(first.warmup_s + first.window_s)}; at most"
            f" {human_duration(search.max_time_s)}"
            + (
                "; then one confirmation run with the profile's own windows"
                if search.confirm
                else ""
            )
        ),
    ]


def check_length(profile: Profile) -> None:
    """Refuse a search that needs a confirmation.

    Raises:
        ProfileError: it may take more than 12 hours.
    """
    assert profile.search is not None
    if profile.search.max_time_s > LONGEST_S:
        raise ProfileError(
            f"the search may take {human_duration(profile.search.max_time_s)}",
            cause=f"above {LONGEST_S / 3600:g} h it needs a confirmation",
            next_step="pass --yes, or lower search.max_time_s",
        )


def start_search(source: Source, *, out: Path) -> Path:
    """Create the folder of a new search and return it. Nothing runs yet.

    Raises:
        ArtifactError: the folder cannot be created.
    """
    profile = source.base()
    assert profile.search is not None
    stamp = wall_now().strftime("%Y%m%dT%H%M%SZ")
    folder = out / f"{stamp}-{source.name[:60]}-search-{secrets.token_hex(3)}"
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
        kind="search",
        profile=source.name,
        profile_sha256=profile_sha256(source),
        overrides=source.overrides,
        axes=(),
        order="given",
        seed=profile.seed,
        repeats=1,
        points=(),
        search=profile.search.model_dump(mode="json"),
    )
    write_sweep(folder, index)
    return folder


def run_search(
    folder: Path,
    *,
    view: Callable[[], AbstractContextManager[View]],
    calibrate: bool = True,
    run_one: RunProbe = run_profile,
    read: Callable[..., Probe] = read_probe,
) -> SearchResult:
    """Run a search to its end.

    Args:
        folder: from `start_search`.
        view: creates the view of each run.
        calibrate: as for a run.
        run_one: runs a profile.
        read: reads the run of a probe.

    Raises:
        ArtifactError: no such search, its profile was edited, or another process runs it.
        HarnessError: two probes in a row failed, or interrupted before a probe's load.
    """
    source = stored_source(folder)
    with ServerLease(folder) as lease:
        series = _Probes(folder, source, lease, view, run_one, read, calibrate=calibrate)
        try:
            points, interrupted = run_points(series, Here(folder, series.run))
        except (InterruptedRunError, KeyboardInterrupt):
            points, interrupted = read_sweep(folder).points, True
    state = series.state(points)
    found = state.file(points)
    write_capacity(folder, found)
    messages = [*found.notes]
    failed = [] if interrupted else list(_failed_thresholds(state.profile, found))
    messages += failed
    code = ExitCode.THRESHOLD_FAILED if failed else series.confirmed_code
    if state.client_limited:
        code = ExitCode.INVALID_RUN
    if interrupted:
        code = ExitCode.INTERRUPTED
        messages.append(f"interrupted; to continue: harness search --resume {folder}")
    elif state.ended:
        messages.append(state.ended)
    paths = report_on(folder, messages)
    return SearchResult(folder, found, code, tuple(messages), paths)


def _failed_thresholds(profile: Profile, found: CapacityFile) -> Iterator[str]:
    """Thresholds on a capacity that is too small, or unknown."""
    for text in profile.thresholds:
        threshold = parse_threshold(text)
        if threshold.metric != CAPACITY or threshold.statistic is None:
            continue
        tier = found.tiers[threshold.statistic]
        value = tier.low if tier.found == Found.BEYOND else tier.load
        if value is None or not threshold.met_by(value):
            yield f"threshold failed: {text}: the capacity is {_short(value)}"


@dataclass(frozen=True)
class State:
    """What the points that have ended say. Everything that follows is computed from it.

    Attributes:
        probes: by point, of those with a run, in order.
    """

    profile: Profile
    probes: Mapping[int, Probe]
    confirmed: tuple[int, ...]

    @property
    def search(self) -> Search:
        assert self.profile.search is not None
        return self.profile.search

    @property
    def valid(self) -> dict[int, Probe]:
        """Those that say something about the server."""
        return {point: one for point, one in self.probes.items() if one.invalid is None}

    @property
    def runs(self) -> tuple[ProbeRun, ...]:
        """Of the valid probes."""
        return tuple(one.run for one in self.valid.values() if one.run is not None)

    @cached_property
    def tiers(self) -> tuple[Tier, ...]:
        return tiers_of(self.profile)

    @property
    def limits(self) -> Limits:
        """For the estimate. The number of probes is limited here, since some are invalid."""
        one = self.search
        return Limits(one.lowest, one.to, one.whole, one.precision, max_points=1_000_000)

    @cached_property
    def found(self) -> tuple[Estimate, ...]:
        """Capacity of each tier."""
        return tuple(estimate(one, self.limits) for one in conditions(self.tiers, self.runs))

    @cached_property
    def next_load(self) -> float | None:
        """Of the next probe; None if every tier is known."""
        return next_load(conditions(self.tiers, self.runs), self.limits)

    def file(self, points: Sequence[Point]) -> CapacityFile:
        """The content of capacity.json."""
        confirmed = self.probes[self.confirmed[-1]].run if self.confirmed else None
        met = confirmed is not None and self.meets(self.confirmed[-1])
        tiers = {
            tier.name: capacity(
                number,
                self.tiers,
                self.runs,
                self.limits,
                confirmed=confirmed if number == 0 and met else None,
            )
            for number, tier in enumerate(self.tiers)
        }
        return CapacityFile(
            self.search.load,
            tiers,
            tuple(_record(self, points[at]) for at in self.probes),
            confirmed_run=points[self.confirmed[-1]].run if self.confirmed else None,
            ended=self.ended,
            notes=tuple(self.notes()),
        )

    @property
    def client_limited(self) -> bool:
        """Whether the last probes were invalid."""
        last = list(self.probes.values())[-MOST_INVALID:]
        return len(last) == MOST_INVALID and all(one.invalid is not None for one in last)

    @property
    def ended(self) -> str | None:
        """Why no further probe starts; None while one does."""
        count, limits = len(self.probes) - len(self.confirmed), self.search
        if self.client_limited:
            last = list(self.probes.values())[-1]
            return (
                f"the load generator was the limit at {last.load:g}, not the server: {last.invalid}"
            )
        if self.next_load is None:
            return _why(self.found)
        if count >= limits.max_points:
            return f"{count} probes were made (max_points), before the precision was reached"
        taken_s = sum(one.wall_s or 0.0 for one in self.probes.values())
        if taken_s >= limits.max_time_s:
            return f"the probes took {taken_s:.0f} s (max_time_s), before the precision was reached"
        return None

    @property
    def to_confirm(self) -> float | None:
        """Load of the confirmation run that is missing, if any: the lower end of the interval of
        the first tier, unless that was confirmed, or was missed twice.
        """
        if not self.search.confirm or self.client_limited or self.ended is None:
            return None
        if self.confirmed and (
            len(self.confirmed) >= MOST_CONFIRMED or self.meets(self.confirmed[-1])
        ):
            return None
        first = self.found[0]
        low = self.search.to if first.found is Found.BEYOND else first.low
        if low is None or first.found is Found.BELOW:
            return None
        return max(self.search.lowest, float(int(low)) if self.search.whole else low)

    def meets(self, point: int) -> bool:
        """Whether a run met the first tier. One that is invalid shows nothing else."""
        one = self.probes[point]
        return one.invalid is not None or not one.misses(self.tiers, 0)

    def notes(self) -> list[str]:
        """What the reader must know."""
        found = [
            f"point {point} was not used: {one.invalid}"
            for point, one in self.probes.items()
            if one.invalid is not None
        ]
        lengths = {
            one.load: one.output_tok
            for one in self.valid.values()
            if one.output_tok and not one.stopped and one.run is not None
            if one.run.tallies[0][0].n >= LEAST_FOR_DRIFT
        }
        natural = self.profile.output_length is OutputLength.NATURAL
        if natural and lengths and max(lengths.values()) > (1 + DRIFT) * min(lengths.values()):
            found.append(
                f"the mean output length varies with the load ({min(lengths.values()):.1f} to"
                f" {max(lengths.values()):.1f} tokens): another load does other work; set"
                " traffic.output_length: forced"
            )
        if self.confirmed and not self.meets(self.confirmed[-1]):
            load = self.probes[self.confirmed[-1]].load
            found.append(
                f"the confirmation run at {load:g} missed the tier {self.search.tiers[0].name}"
            )
        return found


def _why(found: Sequence[Estimate]) -> str:
    kinds = {one.found for one in found}
    if kinds == {Found.BEYOND}:
        return "every load meets every tier: raise `to`"
    if kinds == {Found.BELOW}:
        share = found[0].share
        shown = "" if share is None else f" ({share:.1%} of the requests do at the lowest)"
        return f"no load meets any tier{shown}: lower `from`, or loosen the tiers"
    return "every tier is known to the precision"


def _record(state: State, point: Point) -> ProbeRecord:
    probe = state.probes[point.id]
    assert point.run is not None
    return ProbeRecord(
        point.id, point.run, probe.load, _shares(state, probe), probe.stopped, probe.invalid
    )


def _shares(state: State, probe: Probe) -> tuple[ConditionShare, ...]:
    if probe.run is None:
        return ()
    return tuple(
        ConditionShare(one.text, one.share, tally.good, tally.n, round(tally.effective, 1))
        for tier, tallies in zip(state.tiers, probe.run.tallies, strict=True)
        for one, tally in zip(tier.conditions, tallies, strict=True)
    )


@dataclass(slots=True)
class _Probes:
    """A `Series` of the probes of a search."""

    folder: Path
    source: Source
    lease: ServerLease
    view: Callable[[], AbstractContextManager[View]]
    run_one: RunProbe
    read: Callable[..., Probe]
    calibrate: bool
    confirmed_code: ExitCode = ExitCode.OK
    _index: SweepIndex | None = None
    _profile: Profile | None = None
    _known: dict[str, Probe] = field(default_factory=dict)
    _failed_before: bool = False
    _state: tuple[object, State] | None = None

    @property
    def profile(self) -> Profile:
        if self._profile is None:
            self._profile = self.source.base()
        return self._profile

    @property
    def search(self) -> Search:
        assert self.profile.search is not None
        return self.profile.search

    def load(self) -> list[Point]:
        self._index = index = read_sweep(self.folder)
        if index.kind != "search":
            raise ArtifactError(
                f"{self.folder} is not a search", next_step="resume it with `harness sweep`"
            )
        return recognized(self.folder, index.points, self._which)

    def _which(self, run: RecordedRun) -> int | None:
        return run.sweep.point if run.sweep.id == self.folder.name else None

    def save(self, points: Sequence[Point]) -> None:
        assert self._index is not None
        write_sweep(self.folder, replace(self._index, points=tuple(points)))

    def state(self, points: Sequence[Point]) -> State:
        ended = [one for one in points if one.state in {PointState.DONE, PointState.PARTIAL}]
        key = tuple((one.id, one.run) for one in ended)
        if self._state is not None and self._state[0] == key:
            return self._state[1]
        probes = {one.id: replace(self._probe(one), wall_s=one.wall_s) for one in ended}
        confirmed = tuple(one.id for one in ended if one.variant == CONFIRM)
        self._state = (key, State(self.profile, probes, confirmed))
        return self._state[1]

    def _probe(self, point: Point) -> Probe:
        assert point.run is not None
        if point.run not in self._known:
            load = self._load_of(point)
            self._known[point.run] = self.read(
                self.folder / point.run, load, tiers_of(self.profile)
            )
        return self._known[point.run]

    def _load_of(self, point: Point) -> float:
        return float(point.values[LOAD_KEYS[self.search.load]])  # type: ignore[arg-type]  # ours

    def next_point(self, points: Sequence[Point], running: Collection[int]) -> Point | None:
        if running:
            return None
        left = (one for one in points if one.state in {PointState.PLANNED, PointState.FAILED})
        if (again := next(left, None)) is not None:
            return again
        state = self.state(points)
        if (load := state.to_confirm) is not None:
            return self._point(len(points), load, CONFIRM)
        if state.ended is not None:
            return None
        load = state.next_load
        assert load is not None
        return self._point(len(points), load, PROBE)

    def _point(self, number: int, load: float, variant: str) -> Point:
        value = int(load) if self.search.whole else float(f"{load:.6g}")
        seed = stream(self.profile.seed, "search", number).randrange(2**31)
        return Point(number, {LOAD_KEYS[self.search.load]: value}, 1, variant, seed)

    def run(self, point: Point) -> RunResult:
        """Run one probe, or the confirmation on a fresh server."""
        values = dict(point.values)
        confirms = point.variant == CONFIRM
        if confirms:
            self.lease.release()
        else:
            found = self._windows(point)
            values["traffic.load.0.warmup_s"] = found.warmup_s
            values["traffic.load.0.window_s"] = found.window_s
        tiers = [self.profile.conditions_of(tier) for tier in self.search.tiers]
        with self.view() as watching:
            watching.note(
                f"{point.variant} {point.id + 1}: {self.search.load} {self._load_of(point):g}"
            )
            result = self.run_one(
                self.source.point_profile(values, point.seed),
                out=self.folder,
                view=watching,
                source=self.folder / PROFILE_FILE,
                overrides=self.source.point_overrides(values, point.seed),
                calibrate=self.calibrate,
                sweep={"id": self.folder.name, "point": point.id, "values": dict(point.values)},
                lease=self.lease,
                stop_when=None if confirms else EarlyEnd(tiers),
            )
        if confirms:
            self.confirmed_code = result.exit_code
        return result

    def _windows(self, point: Point) -> Windows:
        """Of the probes that had ended before the point was made."""
        assert self._index is not None
        before = [one for one in read_sweep(self.folder).points if one.id < point.id]
        state = self.state(before)
        valid = list(state.valid.values())
        climbing = not any(
            one.misses(state.tiers, number) for one in valid for number in range(len(state.tiers))
        )
        stage = self.profile.traffic.load[0]
        return windows(self.search, stage, self._load_of(point), valid, climbing=climbing)

    def ended(self, points: list[Point], outcome: Outcome) -> None:
        point = points[outcome.point]
        if outcome.error is not None:
            if self._failed_before:
                raise outcome.error
            self._failed_before = True
            with self.view() as watching:
                watching.warn(f"{self._load_of(point):g} failed: {outcome.error.what}")
            return
        self._failed_before = False
        state = self.state(points)
        with self.view() as watching:
            watching.note(line(state, point))


def line(state: State, point: Point) -> str:
    """A probe and the capacities after it, in one line."""
    probe = state.probes[point.id]
    if probe.invalid is not None:
        return f"{probe.load:g}: not used, {probe.invalid}"
    shares = ", ".join(
        f"{one.good / one.n:.1%} of {one.n} ({one.condition})" for one in _shares(state, probe)
    )
    early = "ended early, " if probe.stopped else ""
    tiers = zip(state.tiers, state.found, strict=True)
    return f"{probe.load:g}: {early}{shares}; " + "; ".join(
        f"{tier.name}: {_short(one.load)} ({_short(one.low)} to {_short(one.high)})"
        for tier, one in tiers
    )


TIER_COLUMNS: Final = (
    "tier",
    "capacity",
    "95% interval",
    "binding",
    "output tok/s",
    "sessions/GPU",
    "sessions/MW",
)


_BEFORE: Final = {Found.BEYOND: "at least ", Found.BELOW: "below "}


def tier_row(name: str, tier: Capacity) -> tuple[str, ...]:
    """One tier for a table of `TIER_COLUMNS`."""
    found = Found(tier.found)
    load = {Found.BEYOND: tier.low, Found.BELOW: tier.high}.get(found, tier.load)
    interval = f"{_short(tier.low)} to {_short(tier.high)}" if found is Found.INTERVAL else "–"
    shown = [tier.tok_s, tier.sessions_per_gpu, tier.sessions_per_mw]
    return (
        name,
        _BEFORE.get(found, "") + _short(load),
        interval,
        tier.binding or "–",
        *map(_short, shown),
    )


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
