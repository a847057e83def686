"""`make_plan`: all requests of a run and their times, as a pure function of (profile, model facts).

A plan is small: stages, settings and hashes. `RunPlan.sessions` makes its sessions one at a time,
so an hour of 100k-token contexts costs no memory, and every process makes the same sessions.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from harness.api.base import RequestSettings
from harness.api.messages import LEAST_BUDGET_TOK
from harness.api.table import wire
from harness.core.errors import ProfileError
from harness.core.records import AS_IT_IS, ModelFacts, OutputLength, Purpose
from harness.plan.arrivals import arrivals_ns, schedule_of
from harness.plan.describe_load import in_words
from harness.plan.residual_life import LEAST_POOL, MOST_POOL, Pool, span_ns
from harness.plan.rng import stream
from harness.plan.source import TraceSource, trace_sha256
from harness.plan.types import Schedule, Session, StagePlan, Turn
from harness.plan.workloads.classes import (
    SUBAGENT,
    PlainWorkload,
    WorkClass,
    class_of,
    make_classes,
    make_tree,
)
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK, Head
from harness.profile.schema import Profile
from harness.profile.stages import (
    AllAtOnceStage,
    ConcurrencyStage,
    OpenStage,
    ReplayStage,
    Stage,
    stage_name,
)
from harness.profile.workloads import MixWorkload, ReplayWorkload, Workload

PLAN_VERSION: Final = 3
"""Part of every plan's hash: raised whenever the same profile would give other requests."""

DEFAULT_TOK_PER_WORD: Final = 1.35
"""Used without the model's tokenizer: about the value of 32k-150k byte-level BPE vocabularies for
the corpus.
"""

CONTEXT_SHARE: Final = 0.9
"""Share of the model's context that a plan fills: targets are estimates, and a prompt that is too
long would be rejected.
"""

MIN_HEADROOM_TOK: Final = 64
"""Least room that a scaled context must leave after the shared head."""

SALT_TOK: Final = 16
"""Estimated length of one salt of a cold session; affects only targets."""

NO_LIMIT_TOK: Final = 10**9
"""Context of a replay if neither the profile nor the model limits it."""

DECK_SESSIONS: Final = 20_000
"""Most sessions of a closed loop that are written to plan.parquet; later ones follow from the same
function.
"""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """All requests of a run.

    Attributes:
        context_scale: factor on all lengths.
        context_limit_tok: longest context, scaled.
        tok_per_word: converts target tokens to words.
        tok_per_word_source: `profile`, `tokenizer` or `default`.
        workload_sha256: the profile's traffic and SLOs without seed and load generator settings:
            equal for runs that may be compared.
        plan_sha256: the requests themselves, with the seed.
        classes: of the sessions, each with its head.
        cold: each session has its own salt in front of its head.
        notes: for readers of the results.
        source: the trace with the sessions; None: they are generated.
    """

    seed: int
    stages: tuple[StagePlan, ...]
    settings: RequestSettings
    context_scale: float
    context_scale_reason: str
    context_limit_tok: int
    tok_per_word: float
    tok_per_word_source: str
    workload_sha256: str
    plan_sha256: str
    classes: tuple[WorkClass, ...]
    cold: bool
    notes: tuple[str, ...]
    source: TraceSource | None = field(default=None, compare=False, repr=False)
    _pools: dict[int, Pool] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head(self) -> Head:
        """The longest head of any class."""
        return max((one.head for one in self.classes), key=lambda head: head.tok)

    def session(
        self, stage_index: int, number: int, intended_offset_ns: int | None = None
    ) -> Session:
        """Session `number` of a stage.

        Raises:
            LookupError: the trace has no such session.
        """
        stage = self.stages[stage_index]
        if self.source is not None:
            return self._placed(stage, self.source.session(stage, number), intended_offset_ns)
        first_turn, first_gap_ns, shape = 0, 0, (stage.name, number)
        if stage.steady and stage.concurrency is not None and number < stage.concurrency:
            age = self._pool(stage).age(stream(self.seed, "age", stage.name, number))
            first_turn, first_gap_ns = age.turn, age.gap_ns
            # The lengths are those of the chosen session; the text is unique to this one.
            shape = self._candidate(stage, age.candidate)
        one = class_of(self._classes(stage), self.seed, *shape)
        turns = self._turns(one, shape, f"{stage.name}/{number}")
        if stage.single:
            turns = (replace(turns[0], subagents=()),)
        session = Session(
            session_id="",
            number=number,
            workload_class=one.label,
            stage=stage.name,
            slot=0,
            intended_offset_ns=None,
            system=one.head.system,
            tools=one.head.tools,
            turns=turns,
            first_turn=first_turn,
            first_gap_ns=first_gap_ns,
            reasons=one.reasons,
        )
        return self._placed(stage, session, intended_offset_ns)

    def _placed(
        self, stage: StagePlan, session: Session, intended_offset_ns: int | None
    ) -> Session:
        """A session with its id, slot, start and salt in a stage."""
        session_id = f"{stage.index}-{session.number:06d}"
        if intended_offset_ns is None:
            intended_offset_ns = session.intended_offset_ns
        return replace(
            session,
            session_id=session_id,
            slot=self._slot(stage, session.number),
            intended_offset_ns=intended_offset_ns,
            salt=f"[{self.seed} {session_id}] " if self.cold else "",
        )

    def _classes(self, stage: StagePlan) -> tuple[WorkClass, ...]:
        """The classes that a stage draws from: all, or one part of a mix. Tool calls, not draws,
        start subagents.
        """
        return tuple(
            one for one in self.classes if stage.part in {None, one.label} and not one.subagent
        )

    @staticmethod
    def _slot(stage: StagePlan, number: int) -> int:
        return number % stage.concurrency if stage.concurrency else number

    def _turns(self, one: WorkClass, shape: Sequence[object], key: str) -> tuple[Turn, ...]:
        label = f"{one.label}/{SUBAGENT}"
        return make_tree(
            one,
            next((sub for sub in self.classes if sub.subagent and sub.label == label), None),
            seed=self.seed,
            scale=self.context_scale,
            salt_tok=self._salt_tok,
            name=shape,
            key=key,
        )

    def _salt_tok(self, one: WorkClass) -> int:
        return SALT_TOK * (1 + bool(one.head.tools)) if self.cold else 0

    @staticmethod
    def _candidate(stage: StagePlan, candidate: int) -> tuple[str, int]:
        return (f"{stage.name} before", candidate)

    def _pool(self, stage: StagePlan) -> Pool:
        """The sessions that may be in the stage's slots at its start; made once."""
        if stage.index not in self._pools:
            assert stage.concurrency is not None
            count = min(MOST_POOL, max(LEAST_POOL, stage.concurrency))
            shapes = (self._candidate(stage, candidate) for candidate in range(count))
            self._pools[stage.index] = Pool(
                self._turns(class_of(self._classes(stage), self.seed, *shape), shape, "")
                for shape in shapes
            )
        return self._pools[stage.index]

    def sessions(self, stage_index: int, *, worker: int = 0, workers: int = 1) -> Iterator[Session]:
        """The sessions of a stage in plan order; endless unless `sessions` limits the stage.

        Worker w of n gets those with slot % n == w, so any number of workers starts the same
        sessions at the same times.
        """
        stage = self.stages[stage_index]
        offsets: Iterator[int | None] = itertools.repeat(None)
        if stage.schedule is not None and stage.schedule.process != "trace":
            offsets = arrivals_ns(stage.schedule, self.seed, stage.name)
        if self.source is not None:
            for session, offset_ns in zip(self.source.sessions(stage), offsets, strict=False):
                if stage.sessions is not None and session.number >= stage.sessions:
                    return
                if self._slot(stage, session.number) % workers == worker:
                    yield self._placed(stage, session, offset_ns)
            return
        for number, offset_ns in zip(itertools.count(), offsets, strict=False):
            if stage.sessions is not None and number >= stage.sessions:
                return
            if self._slot(stage, number) % workers == worker:
                yield self.session(stage_index, number, offset_ns)

    def is_bounded(self, stage_index: int) -> bool:
        """Whether the sessions of a stage are known before the run: not for a closed loop that is
        limited only by time.
        """
        stage = self.stages[stage_index]
        return stage.sessions is not None or stage.concurrency is None

    def horizon(self, stage_index: int) -> Iterator[Session]:
        """The finite part of a stage that plan.parquet has: all of a bounded stage, and of an open
        loop the arrivals until the window's end. For a closed loop limited by time, the sessions
        that an infinitely fast server would need, at most `DECK_SESSIONS`.
        """
        stage = self.stages[stage_index]
        length_ns = None if stage.window_ns is None else stage.warmup_ns + stage.window_ns
        busy_ns = [0] * (stage.concurrency or 0)
        for made, session in enumerate(self.sessions(stage_index)):
            if session.intended_offset_ns is not None:
                if length_ns is not None and session.intended_offset_ns >= length_ns:
                    return
            elif stage.sessions is None and length_ns is not None:
                # Slots take turns, so this ends with the round in which all slots have enough.
                if made >= DECK_SESSIONS or (session.slot == 0 and min(busy_ns) > length_ns):
                    return
                busy_ns[session.slot] += session.first_gap_ns + span_ns(session.live_turns)
            yield session


def make_plan(profile: Profile, facts: ModelFacts) -> RunPlan:
    """Resolve a profile into a plan.

    Raises:
        ProfileError: the workload does not fit into the model's context.
    """
    limit, scale, reason = _scale(profile, facts)
    classes = make_classes(profile.traffic.workload, scale, limit)
    for one in classes:
        _refuse_full_head(one, scale)
    tok_per_word, source = _tok_per_word(profile, facts)
    stages = tuple(
        _stage(profile, stage, index) for index, stage in enumerate(profile.traffic.load)
    )
    api = profile.api
    settings = RequestSettings(
        api=api.value,
        # The Messages API has no field for it; a model that cannot end by itself does not need it.
        force_output=profile.output_length is OutputLength.FORCED and wire(api).forces_output,
        temperature=profile.traffic.temperature,
        cache_control=profile.cache_control,
        live=profile.traffic.assistant == "live",
        thinking=profile.thinking,
        effort=profile.traffic.thinking_effort,
        form=profile.traffic.form,
    )
    notes = [] if scale == 1 else [f"all lengths are scaled by {scale:.4g}: {reason}"]
    if source == "default":
        notes.append(
            f"lengths are estimated at {DEFAULT_TOK_PER_WORD} tokens per word: the model's"
            " tokenizer is not on this machine"
        )
    notes += [*_caps(classes), *_starts(stages), *_asked_thinking(profile)]
    if settings.live:
        notes.append(
            "later turns carry the server's live responses: their bodies depend on the run and"
            " cannot be rebuilt from the plan"
        )
    plan = RunPlan(
        seed=profile.seed,
        stages=stages,
        settings=settings,
        context_scale=scale,
        context_scale_reason=reason,
        context_limit_tok=limit,
        tok_per_word=tok_per_word,
        tok_per_word_source=source,
        workload_sha256=workload_sha256(profile),
        plan_sha256="",
        classes=classes,
        cold=profile.traffic.cache == "cold",
        notes=tuple(notes),
        source=_source(profile, stages, scale, limit),
    )
    return replace(plan, plan_sha256=_plan_sha256(plan))


def _source(
    profile: Profile, stages: Sequence[StagePlan], scale: float, limit_tok: int
) -> TraceSource | None:
    if not isinstance(profile.traffic.workload, ReplayWorkload):
        return None
    source = TraceSource(profile.traffic.workload, profile.seed, scale, limit_tok)
    for stage in stages:
        source.check(stage)
    return source


def _refuse_full_head(one: WorkClass, scale: float) -> None:
    if one.limit_tok - one.head.tok < MIN_HEADROOM_TOK:
        where = " of workload.subagents, or share: 0 there" if one.subagent else ""
        raise ProfileError(
            f"tools and system prompt of {one.head.tok} tokens leave no room in a context of"
            f" {one.limit_tok} tokens ({one.label})",
            cause=(
                "model.max_context_tok or the model's own context is too short for the workload at"
                f" context_scale {scale:.3g}"
            ),
            next_step=(
                "use context_scale: auto, a model with a longer context, or a shorter system_tok"
                f" and tools_tok{where}"
            ),
        )


def _caps(classes: Sequence[WorkClass]) -> Iterator[str]:
    """Caps of pauses: they keep short runs busy; real users wait longer."""
    caps = {one.label: _gap_caps(one.workload) for one in classes if not one.subagent}
    text = "; ".join(f"{label} {', '.join(found)}" for label, found in caps.items() if found)
    if text:
        yield f"pauses are capped: {text}"


def _gap_caps(workload: PlainWorkload | ReplayWorkload) -> list[str]:
    if isinstance(workload, ReplayWorkload):
        return [] if workload.idle_cap_s is None else [f"pauses at {workload.idle_cap_s:g} s"]
    names = ("tool_gap_s", "user_gap_s", "think_s")
    caps = {name: getattr(getattr(workload, name, None), "max", None) for name in names}
    return [f"{name} at {cap:g} s" for name, cap in caps.items() if cap is not None]


def _asked_thinking(profile: Profile) -> Iterator[str]:
    asked, effort = profile.thinking, profile.traffic.thinking_effort
    if asked == "off" and any(one.kind == "thinking" for one in _single(profile.traffic.workload)):
        yield (
            "no request asks for reasoning: traffic.thinking is off, or auto with a server that may"
            " reject it"
        )
    elif asked == "budget":
        yield (
            "requests ask for reasoning with a budget of the planned reasoning, at least"
            f" {LEAST_BUDGET_TOK} tokens; responses planned no longer than that have none"
        )
    elif asked != "off":
        mode = " ".join(filter(None, (asked, effort)))
        yield f"requests of classes with reasoning ask for it ({mode})"


def _starts(stages: Sequence[StagePlan]) -> Iterator[str]:
    names = ", ".join(stage.name for stage in stages if stage.steady)
    if names:
        yield (
            f"sessions of {names} start midway at random, length-biased ages, with prefixes primed"
            " before the stage begins"
        )


def workload_sha256(profile: Profile) -> str:
    """Hash of the profile's traffic and SLOs, without the seed and load generator settings."""
    traffic = profile.traffic.model_dump(
        mode="json",
        exclude={"workers", "calibrate", "canary", "proxy", "tls", "headers", "length_key"},
    )
    traffic["api"] = profile.api.value
    traffic["load"] = [_set(stage, "part") for stage in traffic["load"]]
    traffic["output_length"] = profile.output_length.value
    traffic["cache_control"] = profile.cache_control
    if isinstance(profile.traffic.workload, ReplayWorkload):
        # A trace is identified by its content, not its place.
        traffic["workload"]["path"] = trace_sha256(profile.traffic.workload.path)
    workload = profile.traffic.workload
    if any(one.kind == "claude-code" and one.subagents.share for one in _single(workload)):
        traffic["subagents"] = "tied"  # to tool calls; before, they were independent sessions
    traffic["thinking"] = profile.thinking
    # Defaults of newer keys are left out, which keeps the hashes of older workloads.
    for key in ("thinking", "thinking_effort"):
        if traffic[key] in ("off", None):
            del traffic[key]
    if not traffic["omit"]:
        del traffic["omit"]
    if traffic["assistant"] == "recorded":
        del traffic["assistant"]
    traffic["steady"] = [_is_steady(profile, stage) for stage in profile.traffic.load]
    return _sha256({"traffic": traffic, "slos": profile.slos.model_dump(mode="json")})


def _plan_sha256(plan: RunPlan) -> str:
    digest = hashlib.sha256()
    settings = asdict(plan.settings)
    if plan.settings.form == AS_IT_IS:
        del settings["form"]  # as in plans of earlier versions
    fixed = {
        "version": PLAN_VERSION,
        "seed": plan.seed,
        "stages": [_set(asdict(stage), "part") for stage in plan.stages],
        "settings": settings,
        "tok_per_word": round(plan.tok_per_word, 6),
        "context_limit_tok": plan.context_limit_tok,
        "corpus": _corpus_sha256(),
        "workload": plan.workload_sha256,
    }
    digest.update(_sha256(fixed).encode())
    # The sessions are a function of the above. A sample of each stage detects a change of that
    # function without a new PLAN_VERSION.
    for stage in plan.stages:
        for one in itertools.islice(plan.sessions(stage.index), 16):
            start = f"{one.intended_offset_ns} {one.first_turn} {one.first_gap_ns} {one.salt}"
            digest.update(f"{one.session_id} {one.workload_class} {one.slot} {start}\n".encode())
            for turn in one.turns:
                digest.update(f"{turn}\n".encode())
    return digest.hexdigest()


def _single(workload: Workload) -> Sequence[Workload]:
    """The workloads of a mix, or the one."""
    if isinstance(workload, MixWorkload):
        return tuple(part.workload for part in workload.parts)
    return (workload,)


def _set(fields: dict[str, Any], optional: str) -> dict[str, Any]:
    """The fields without an optional one that is None: a new key keeps the hashes of plans without
    it.
    """
    return {key: value for key, value in fields.items() if key != optional or value is not None}


def _corpus_sha256() -> str:
    return hashlib.sha256(Path(__file__).with_name("corpus.txt").read_bytes()).hexdigest()


def _sha256(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _stage(profile: Profile, stage: Stage, index: int) -> StagePlan:
    schedule: Schedule | None = None
    if isinstance(stage, OpenStage):
        schedule = schedule_of(stage)
    elif isinstance(stage, AllAtOnceStage):
        schedule = Schedule("all_at_once")
    elif isinstance(stage, ReplayStage):
        schedule = Schedule("trace")
    return StagePlan(
        index=index,
        name=stage_name(stage, index),
        kind=stage.kind,
        load=in_words(stage),
        warmup_ns=round((stage.warmup_s or 0.0) * 1e9),
        window_ns=None if stage.window_s is None else round(stage.window_s * 1e9),
        sessions=stage.sessions,
        concurrency=stage.concurrency if isinstance(stage, ConcurrencyStage) else None,
        schedule=schedule,
        single=stage.over == "requests",
        steady=_is_steady(profile, stage),
        max_in_flight=stage.max_in_flight,
        part=stage.part,
    )


def _is_steady(profile: Profile, stage: Stage) -> bool:
    """Whether the first sessions of a stage start midway: in a closed loop, by default under
    purpose measure. In an open loop the warm-up must bring the sessions that would be alive.
    """
    if (
        not isinstance(stage, ConcurrencyStage)
        or stage.over == "requests"
        or isinstance(profile.traffic.workload, ReplayWorkload)
    ):
        return False
    return stage.start == "steady" if stage.start else profile.purpose is Purpose.MEASURE


def _tok_per_word(profile: Profile, facts: ModelFacts) -> tuple[float, str]:
    if profile.model.tok_per_word is not None:
        return profile.model.tok_per_word, "profile"
    if facts.tok_per_word is not None:
        return facts.tok_per_word, "tokenizer"
    return DEFAULT_TOK_PER_WORD, "default"


def _scale(profile: Profile, facts: ModelFacts) -> tuple[int, float, str]:
    """Context limit in tokens, factor on all lengths, and the reason."""
    workload = profile.traffic.workload
    known = (profile.model.max_context_tok, facts.max_context_tok)
    context = min((tok for tok in known if tok is not None), default=None)
    usable = None if context is None else int(context * CONTEXT_SHARE) - MESSAGE_OVERHEAD_TOK
    scale = profile.traffic.context_scale
    if isinstance(workload, ReplayWorkload):
        limits = [tok for tok in (workload.context_limit_tok, usable) if tok is not None]
        factor = 1.0 if scale == "auto" else scale
        reason = "the profile's context_scale: a trace is not scaled automatically"
        return min(limits, default=NO_LIMIT_TOK), factor, reason
    needed = workload.context_limit_tok
    share = f"{CONTEXT_SHARE:.0%} of the model's {context}"
    if scale == "auto":
        if usable is None:
            reason = "the model's context is unknown here; set model.max_context_tok to fit lengths"
            return needed, 1.0, reason
        if usable >= needed:
            return needed, 1.0, f"a context of {needed} tokens fits the model's {context}"
        if profile.traffic.context_policy == "refuse":
            raise ProfileError(
                f"the workload's context of {needed} tokens exceeds {share}",
                cause="context_policy is refuse, and context_scale is auto",
                next_step=(
                    f"use context_policy: scale, a context_scale of {usable / needed:.3g} or less,"
                    " or a model with a longer context"
                ),
            )
        if usable < MIN_HEADROOM_TOK:
            raise ProfileError(
                f"a context of {context} tokens is too short for any workload",
                next_step="raise model.max_context_tok",
            )
        reason = f"the workload's context of {needed} tokens is fitted into {share}"
        return usable, usable / needed, reason
    limit = max(1, int(needed * scale))
    if usable is not None and limit > usable:
        raise ProfileError(
            f"context_scale {scale:g} gives contexts of up to {limit} tokens, more than {share}",
            next_step=f"use context_scale: auto, or at most {usable / needed:.3g}",
        )
    return limit, scale, f"the profile's context_scale ({limit} tokens at most)"
