"""The runs of a sweep before any of them starts: points in order, skipped combinations with their
reasons, server starts, time and cost.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from harness.artifacts.sweep.index import Axis, Point, PointState, Value
from harness.checked_yaml.problems import InvalidYamlError
from harness.commands.steps.live_display import least_s
from harness.commands.steps.server_lease import server_key
from harness.core.errors import HarnessError, ProfileError
from harness.core.records import ModelFacts
from harness.core.units import human_duration, human_number
from harness.hardware.gpus import nvidia_device_present, resolve_gpus
from harness.models.facts import facts_of
from harness.plan.build import RunPlan, make_plan
from harness.plan.rng import stream
from harness.profile.load import load_profile_text
from harness.profile.schema import Profile
from harness.profile.sweep import axes, combinations
from harness.server.base import Needs
from harness.server.detect import complete_or_assume
from harness.server.local import LocalRunner
from harness.server.select import choose_server, kv_capacity
from harness.server.vllm import VllmServerRunner
from harness.sweeps.points import short_names, shown

OF_SERVER: Final = ("server.", "model.", "traffic.api")
"""Varied keys that need another server."""

Values: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Source:
    """A sweep's profile as text, its name, and `--set` arguments that apply to every point."""

    text: str
    name: str
    overrides: tuple[str, ...] = ()

    def base(self) -> Profile:
        """The profile with its `sweep` section.

        Raises:
            InvalidYamlError: with every error.
        """
        return load_profile_text(self.text, name=self.name, overrides=self.overrides)

    def point_overrides(self, values: Values, seed: int) -> tuple[str, ...]:
        """All `--set` arguments of the run of a point."""
        varied = (f"{key}={json.dumps(value)}" for key, value in values.items())
        own = (f"name={json.dumps(self.name)}", "sweep=null", f"seed={seed}")
        return (*self.overrides, *varied, *own)

    def point_profile(self, values: Values, seed: int) -> Profile:
        """The profile of the run of a point.

        Raises:
            InvalidYamlError: the values are impossible.
        """
        overrides = self.point_overrides(values, seed)
        return load_profile_text(self.text, name=self.name, overrides=overrides)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A profile of a point, with model, requests and server known as far as nothing is started.

    Attributes:
        key: equal for points that share a server.
        gpus: of the deployment; None if unknown.
    """

    profile: Profile
    facts: ModelFacts
    plan: RunPlan
    key: str
    gpus: int | None


@dataclass(frozen=True, slots=True)
class SweepPlan:
    """All points of a sweep.

    Attributes:
        profile: with its `sweep` section.
        points: those to run in their order, then the skipped ones.
        least_s: minimum time of each point to run, without starts of servers.
        gpus: of the largest deployment; None if unknown.
    """

    profile: Profile
    axes: tuple[Axis, ...]
    points: tuple[Point, ...]
    least_s: Mapping[int, float]
    gpus: int | None

    @property
    def runs(self) -> tuple[Point, ...]:
        return tuple(one for one in self.points if one.state is not PointState.SKIPPED)

    @property
    def skipped(self) -> tuple[Point, ...]:
        return tuple(one for one in self.points if one.state is PointState.SKIPPED)

    @property
    def server_starts(self) -> int:
        """How often a server is started; 0 for one that runs already."""
        if self.profile.server.kind == "attach":
            return 0
        return len({one.variant for one in self.runs})

    @property
    def total_s(self) -> float:
        """Minimum time of all points."""
        return sum(self.least_s.values())

    @property
    def usd(self) -> float | None:
        """Minimum cost; None without a price or a number of GPUs."""
        price = self.profile.price
        if price is None or self.gpus is None:
            return None
        return self.total_s / 3600 * self.gpus * price.usd_per_gpu_h

    def sentence(self) -> str:
        """Runs, server starts, time and cost."""
        runs, starts = len(self.runs), self.server_starts
        text = (
            f"{runs} run{'' if runs == 1 else 's'}, {starts} server"
            f" start{'' if starts == 1 else 's'}, at least {human_duration(self.total_s)}"
        )
        if self.usd is not None and self.profile.price is not None:
            text += (
                f", at least {human_number(self.usd)} USD ({self.gpus} GPUs at"
                f" {self.profile.price.usd_per_gpu_h:g} USD/h)"
            )
        return text + " (more for starts of servers, priming and drains)"

    def columns(self) -> tuple[str, ...]:
        """Headings of the table of points."""
        return ("point", *short_names(axis.key for axis in self.axes).values(), "repeat", "server")

    def rows(self) -> list[tuple[str, ...]]:
        """One per point to run."""
        return [
            (
                str(one.id),
                *(shown(one.values[axis.key]) for axis in self.axes),
                str(one.repeat),
                one.variant,
            )
            for one in self.runs
        ]

    def skipped_lines(self) -> Iterator[str]:
        """Each reason once, with the values that all combinations skipped for it have."""
        reasons: dict[str, list[Values]] = {}
        for one in self.skipped:
            reasons.setdefault(str(one.error), []).append(one.values)
        for why, found in reasons.items():
            common = {k: v for k, v in found[0].items() if all(one[k] == v for one in found)}
            yield f"skipped {len(found)}{f' ({in_words(common)})' if common else ''}: {why}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "points": [
                {
                    "id": one.id,
                    "values": dict(one.values),
                    "repeat": one.repeat,
                    "server": one.variant,
                    "seed": one.seed,
                    "min_s": self.least_s[one.id],
                }
                for one in self.runs
            ],
            "skipped": [{"values": dict(one.values), "why": one.error} for one in self.skipped],
            "server_starts": self.server_starts,
            "min_s": self.total_s,
            "usd": self.usd,
        }


def in_words(values: Values) -> str:
    """`concurrency=8, max_num_seqs=16`"""
    names = short_names(values)
    return ", ".join(f"{names[key]}={shown(value)}" for key, value in values.items())


def plan_sweep(source: Source) -> SweepPlan:
    """Make the points of a sweep.

    Raises:
        InvalidYamlError: the profile is invalid.
        ProfileError: nothing is varied, or no combination can run.
    """
    base = source.base()
    sweep = base.sweep
    if sweep is None:
        raise ProfileError(
            f"{source.name} varies no key",
            next_step="pass --over traffic.load.0.concurrency=1..64x2, or add a `sweep` section",
        )
    resolve = resolver()
    usable: list[tuple[Values, Resolved]] = []
    skipped: list[tuple[Values, str]] = []
    for values in combinations(sweep):
        try:
            found = resolve(source.point_profile(values, base.seed))
        except HarnessError as error:
            skipped.append((values, reason(error)))
            continue
        known = {key: value_at(found.profile, key, value) for key, value in values.items()}
        if all(known != other for other, _ in usable):  # 4k and 4000 are one value
            usable.append((known, found))
    if not usable:
        lines = dict.fromkeys(why for _, why in skipped)
        raise ProfileError(
            "no combination of the varied keys can run",
            next_step="correct the values, or the keys that they need",
            details="\n".join(f"  {line}" for line in lines),
        )
    points = _in_order(base, usable)
    least = {point.id: sum(map(least_s, found.plan.stages)) for point, found in points}
    listed = [point for point, _ in points]
    listed += [
        Point(len(points) + at, values, 1, "", base.seed, PointState.SKIPPED, error=why)
        for at, (values, why) in enumerate(skipped)
    ]
    known_gpus = [one.gpus for _, one in usable if one.gpus is not None]
    return SweepPlan(
        base,
        tuple(Axis(key, values, group) for key, values, group in axes(sweep)),
        tuple(listed),
        least,
        max(known_gpus, default=None),
    )


def reason(error: HarnessError) -> str:
    """Why a combination cannot run, in one line."""
    if isinstance(error, InvalidYamlError):
        first = error.problems[0]
        return f"{first.path}: {first.what}"
    return error.what


def value_at(profile: Profile, key: str, written: Value) -> Value:
    """The value of a key after its unit was applied: 4000 for `4k`."""
    here: Any = profile.model_dump(mode="json")
    for part in key.split("."):
        try:
            here = here[int(part)] if isinstance(here, list) else here[part]
        except (LookupError, TypeError, ValueError):
            return written
    return here if isinstance(here, bool | int | float | str | None) else written


def resolver() -> Callable[[Profile], Resolved]:
    """Resolves the profiles of points: model, requests and server. It raises HarnessError for one
    that cannot run here. An attached server is asked once, and a model is read once.
    """
    present = nvidia_device_present().present
    known: dict[str, tuple[Profile, ModelFacts]] = {}

    def resolve(profile: Profile) -> Resolved:
        asked = f"{profile.server!r} {profile.model!r} {profile.traffic.api}"
        if asked not in known:
            full = complete_or_assume(profile).profile
            same = (facts for one, facts in known.values() if one.model == full.model)
            known[asked] = full, next(same, None) or facts_of(full)
        full, facts = known[asked]
        traffic = profile.traffic.model_copy(update={"api": full.traffic.api})
        profile = profile.model_copy(update={"traffic": traffic, "model": full.model})
        return _resolve(profile, facts, nvidia_present=present)

    return resolve


def _resolve(profile: Profile, facts: ModelFacts, *, nvidia_present: bool) -> Resolved:
    plan = make_plan(profile, facts)
    tools = any(one.head.tools for one in plan.classes)
    gpus = resolve_gpus(getattr(profile.server, "gpus", "all"))
    server = choose_server(
        profile, facts, gpus, nvidia_present=nvidia_present, needs=Needs(tools=tools)
    ).server
    count = getattr(profile.server, "gpu_count", None) or len(gpus) or None
    if isinstance(server, LocalRunner):
        for problem in server.arithmetic_problems():
            raise ProfileError(problem.what, next_step=problem.next_step)
        _refuse_small_cache(server, profile)
        count = server.replicas * server.gpus_per_replica or None
    return Resolved(profile, facts, plan, server_key(profile, tools=tools), count)


def _refuse_small_cache(server: LocalRunner, profile: Profile) -> None:
    """Refuse what vLLM refuses at its start: a cache smaller than the longest context."""
    longest = profile.model.max_context_tok or server.facts.max_context_tok
    if not isinstance(server, VllmServerRunner) or longest is None:
        return
    if server.facts.kv_bytes_per_tok is None:
        return
    capacity, how = kv_capacity(server.server, server.facts)
    if capacity is not None and capacity / server.replicas < longest:
        raise ProfileError(
            f"one context of {longest:,} tokens does not fit into the KV cache of"
            f" {capacity / server.replicas:,.0f} tokens ({how})",
            next_step="lower model.max_context_tok, or use more GPUs for one replica",
        )


def _in_order(
    base: Profile, usable: Sequence[tuple[Values, Resolved]]
) -> list[tuple[Point, Resolved]]:
    """Points by server, within one by repeat; servers and loads in random order unless `given`."""
    assert base.sweep is not None
    groups: dict[str, list[tuple[Values, Resolved]]] = {}
    for values, found in usable:
        groups.setdefault(found.key, []).append((values, found))
    labels = _labels(groups)
    keys = list(groups)
    rng = stream(base.seed, "sweep", "order")
    mixed = base.sweep.order == "random"
    if mixed:
        rng.shuffle(keys)
    points: list[tuple[Point, Resolved]] = []
    for key in keys:
        for repeat in range(1, base.sweep.repeats + 1):
            for values, found in _mixed(groups[key], rng if mixed else None):
                seed = point_seed(base.seed, values, repeat)
                points.append((Point(len(points), values, repeat, labels[key], seed), found))
    return points


def _mixed(
    group: Sequence[tuple[Values, Resolved]], rng: random.Random | None
) -> list[tuple[Values, Resolved]]:
    mixed = list(group)
    if rng is not None:
        rng.shuffle(mixed)
    return mixed


def point_seed(seed: int, values: Values, repeat: int) -> int:
    """Seed of a run: of its values, so that sweeps of equal seed have equal requests at equal
    values.
    """
    name = json.dumps(dict(sorted(values.items())))
    return stream(seed, "sweep", name, repeat).randrange(2**31)


def _labels(groups: Mapping[str, Sequence[tuple[Values, Resolved]]]) -> dict[str, str]:
    """A name for each server: the varied keys that it depends on."""
    labels: dict[str, str] = {}
    for key, group in groups.items():
        own = {k: v for k, v in group[0][0].items() if k.startswith(OF_SERVER)}
        plain = in_words(own) or "server"
        label, number = plain, 2
        while label in labels.values():
            label, number = f"{plain} #{number}", number + 1
        labels[key] = label
    return labels
