"""How long a run will take, phase by phase, before anything is started.

A phase has a minimum and a maximum. Where the server decides, the maximum is a timeout; where
nothing limits a phase, it is None.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from harness.commands.steps.idle import IDLE_SETTLE_S, IDLE_WAIT_S
from harness.commands.steps.live_display import least_s
from harness.commands.steps.load_generator import is_quick
from harness.core.clock import seconds
from harness.core.units import human_duration
from harness.plan.types import StagePlan
from harness.profile.schema import Profile
from harness.traffic.fidelity import BUDGET_S, QUICK_BUDGET_S

COLUMNS: Final = ("phase", "time", "")


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Time of one phase.

    Attributes:
        phase: as in events.jsonl, or `stage`.
        stage: the load stage, if it is of one.
        title: in words.
        min_s: it takes at least this long.
        max_s: timeout or planned length; None without a limit.
        note: on what the time depends.
    """

    phase: str
    stage: str | None
    title: str
    min_s: float
    max_s: float | None
    note: str = ""

    @property
    def text(self) -> str:
        return range_text(self.min_s, self.max_s)


@dataclass(frozen=True, slots=True)
class PlannedTime:
    """Time of a run: its phases in order."""

    phases: tuple[PhaseTime, ...]

    @property
    def min_s(self) -> float:
        return sum(one.min_s for one in self.phases)

    @property
    def max_s(self) -> float:
        """Sum of all limits; phases without a limit add their minimum."""
        return sum(one.min_s if one.max_s is None else one.max_s for one in self.phases)

    @property
    def unlimited(self) -> tuple[str, ...]:
        """Titles of the phases without a limit; one for the priming of all stages."""
        titles = (one.title.rpartition(": ")[2] for one in self.phases if one.max_s is None)
        return tuple(dict.fromkeys(titles))

    def left_s(self, phase: str) -> float | None:
        """Minimum time from the start of a phase to the end of the run; None for an unknown one."""
        names = [one.phase for one in self.phases]
        if phase not in names:
            return None
        return sum(one.min_s for one in self.phases[names.index(phase) :])

    def sentence(self) -> str:
        """The total."""
        more = f", plus {', '.join(self.unlimited)}" if self.unlimited else ""
        return (
            f"planned time: at least {human_duration(self.min_s)}; at most"
            f" {human_duration(self.max_s)}{more}"
        )

    def rows(self) -> list[tuple[str, str, str]]:
        """Under `COLUMNS`, with the total last."""
        more = f"plus {', '.join(self.unlimited)}" if self.unlimited else ""
        total = ("total", range_text(self.min_s, self.max_s), more)
        return [*((one.title, one.text, one.note) for one in self.phases), total]

    def to_dict(self) -> dict[str, Any]:
        return {
            "min_s": self.min_s,
            "max_s": self.max_s,
            "unlimited": list(self.unlimited),
            "phases": [asdict(one) for one in self.phases],
        }


def planned_time(
    profile: Profile, stages: Sequence[StagePlan], *, calibrate: bool = True
) -> PlannedTime:
    """Time of a run of this profile. `calibrate`: as in `run_profile`."""
    before = _before(profile, stages, calibrate=calibrate)
    load = (one for stage in stages for one in _stage(profile, stage))
    return PlannedTime((*before, *load, *_after(profile)))


def range_text(min_s: float, max_s: float | None) -> str:
    """`30 s`, `up to 15 min 00 s`, `30 s to 2 min 00 s`, `at least 30 s`, or `no limit`."""
    if max_s is None:
        return f"at least {human_duration(min_s)}" if min_s else "no limit"
    if min_s == max_s:
        return human_duration(min_s)
    most = human_duration(max_s)
    return f"{human_duration(min_s)} to {most}" if min_s else f"up to {most}"


def _before(
    profile: Profile, stages: Sequence[StagePlan], *, calibrate: bool
) -> Iterator[PhaseTime]:
    server = profile.server
    if calibrate and profile.calibrate:
        usual_s = QUICK_BUDGET_S if is_quick(stages) else BUDGET_S
        note = f"about {human_duration(usual_s)}; none with a stored certificate for this load"
        yield PhaseTime("calibrate", None, "load generator calibration", 0.0, None, note)
    idle_s = profile.idle_s + IDLE_SETTLE_S if profile.idle_s > 0 else None
    needs_power = "only where power can be read"
    if idle_s is not None and server.kind != "attach":
        title = "idle, server stopped"
        yield PhaseTime("idle_before_server", None, title, 0.0, idle_s, needs_power)
    title = "endpoint ready" if server.kind == "attach" else "server start"
    limit_s = server.ready_timeout_s
    yield PhaseTime("server_start", None, title, 0.0, limit_s, "limit: server.ready_timeout_s")
    if idle_s is not None:
        yield PhaseTime("idle_ready", None, "idle, model loaded", 0.0, idle_s, needs_power)
    if profile.checks_quality:
        yield PhaseTime("quality_before", None, "quality check before the load", 0.0, None)


def _stage(profile: Profile, stage: StagePlan) -> Iterator[PhaseTime]:
    name = stage.name
    warmup_s = seconds(stage.warmup_ns)
    if stage.steady and not stage.single:
        note = "fills the prefix cache"
        yield PhaseTime("prime", name, f"stage {name}: priming", 0.0, None, note)
    title = f"stage {name}"
    if stage.window_ns is None:
        yield PhaseTime("stage", name, title, least_s(stage), None, "ends with its sessions")
        return
    length_s = warmup_s + seconds(stage.window_ns)
    found = profile.traffic.load[stage.index].warmup_s is None
    note = (
        f"window {human_duration(seconds(stage.window_ns))}, warm-up detected within it"
        if found
        else f"warm-up {human_duration(warmup_s)}, window {human_duration(length_s - warmup_s)}"
    )
    if stage.sessions is not None:
        note += f", or until {stage.sessions} sessions have ended"
    yield PhaseTime("stage", name, title, least_s(stage), length_s, note)
    drain_s, note = profile.traffic.drain_timeout_s, "limit: traffic.drain_timeout_s"
    yield PhaseTime("drain", name, f"stage {name}: drain", 0.0, drain_s, note)


def _after(profile: Profile) -> Iterator[PhaseTime]:
    yield PhaseTime("drained", None, "servers idle", 0.0, IDLE_WAIT_S)
    if profile.checks_quality:
        yield PhaseTime("quality_after", None, "quality check after the load", 0.0, None)
    if profile.server.kind != "attach":
        limit_s, note = profile.server.stop_timeout_s, "limit: server.stop_timeout_s"
        yield PhaseTime("stopping", None, "server stop", 0.0, limit_s, note)
    yield PhaseTime("reducing", None, "reduction and report", 0.0, None)
