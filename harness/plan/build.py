"""`make_plan`: everything that a run will send and when, as a pure function of (profile, model
facts).

A plan is small: stages, settings and hashes. Its sessions are made one at a time by
`RunPlan.sessions`, so a plan for an hour of 100k-token contexts costs no memory, and every process
that holds the profile makes the same sessions.
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
from harness.core.records import ModelFacts, OutputLength, Purpose
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
from harness.profile.stages import AllAtOnceStage, ConcurrencyStage, OpenStage, ReplayStage, Stage
from harness.profile.workloads import MixWorkload, ReplayWorkload, Workload

PLAN_VERSION: Final = 3
"""Part of every plan's hash: raised whenever the same profile would give other requests."""

DEFAULT_TOK_PER_WORD: Final = 1.35
"""Used where the model's tokenizer is not at hand: about what 32k-150k byte-level BPE vocabularies
need for the corpus.
"""

CONTEXT_SHARE: Final = 0.9
"""Share of the model's context that a plan fills: targets are estimates, and an over-long prompt
would be refused.
"""

MIN_HEADROOM_TOK: Final = 64
"""Least room, in tokens, that a scaled context must leave after the shared head."""

SALT_TOK: Final = 16
"""What one salt of a cold session costs; an estimate that only moves targets."""

NO_LIMIT_TOK: Final = 10**9
"""Context of a replay where neither the profile nor the model says one."""

DECK_SESSIONS: Final = 20_000
"""Most sessions of a closed loop that are written to plan.parquet; later ones follow from the same
function.
"""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What will be sent.

    Attributes:
        seed: of the profile.
        stages: load stages in order.
        settings: what every request carries.
        context_scale: factor on all lengths.
        context_scale_reason: why, in words.
        context_limit_tok: longest context, scaled.
        tok_per_word: used to turn target tokens into words.
        tok_per_word_source: `profile`, `tokenizer` or `default`.
        workload_sha256: the profile's traffic and SLOs, seed and load generator's settings
            excluded: equal for runs that may be compared.
        plan_sha256: the requests themselves, seed included.
        classes: what the sessions are, each with its head.
        cold: each session has a salt of its own in front of its head.
        notes: what a reader of the results should know.
        source: the trace that sessions are read from; None: they are made.
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
            LookupError: a trace that has no such session.
        """
        stage = self.stages[stage_index]
        if self.source is not None:
            return self._placed(stage, self.source.session(stage, number), intended_offset_ns)
        first_turn, first_gap_ns, shape = 0, 0, (stage.name, number)
        if stage.steady and stage.concurrency is not None and number < stage.concurrency:
            age = self._pool(stage).age(stream(self.seed, "age", stage.name, number))
            # The lengths are the chosen conversation's, the text is this session's own.
            first_turn, first_gap_ns, shape = (
                age.turn,
                age.gap_ns,
                self._candidate(stage, age.candidate),
            )
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
        """A session in its stage: its id, slot, start and salt."""
        session_id = f"{stage.index}-{session.number:06d}"
        return replace(
            session,
            session_id=session_id,
            slot=self._slot(stage, session.number),
            intended_offset_ns=(
                session.intended_offset_ns if intended_offset_ns is None else intended_offset_ns
            ),
            salt=f"[{self.seed} {session_id}] " if self.cold else "",
        )

    def _classes(self, stage: StagePlan) -> tuple[WorkClass, ...]:
        """Those that a stage draws from: all, or one part of a mix. Subagents are not drawn: tool
        calls start them.
        """
        return tuple(
            one for one in self.classes if stage.part in {None, one.label} and not one.subagent
        )

    @staticmethod
    def _slot(stage: StagePlan, number: int) -> int:
        return number % stage.concurrency if stage.concurrency else number

    def _turns(self, one: WorkClass, shape: Sequence[object], key: str) -> tuple[Turn, ...]:
        sub = next(
            (
                other
                for other in self.classes
                if other.subagent and other.label == f"{one.label}/{SUBAGENT}"
            ),
            None,
        )
        return make_tree(
            one,
            sub,
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
        """The conversations that the stage's slots may hold at its start; made once."""
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
        """The sessions of a stage in order of the plan: endless unless the stage is bounded by
        `sessions`.

        Worker w of n gets those with slot % n == w, so one worker and eight start the same sessions
        at the same times.
        """
        stage = self.stages[stage_index]
        drawn = stage.schedule is not None and stage.schedule.process != "trace"
        offsets = (
            arrivals_ns(stage.schedule, self.seed, stage.name)
            if drawn and stage.schedule
            else itertools.repeat(None)
        )
        if self.source is not None:
            # In the trace's order, read once.
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
        """Whether the sessions of a stage are known before the run: not where a closed loop is
        bounded by time alone.
        """
        stage = self.stages[stage_index]
        return stage.sessions is not None or stage.concurrency is None

    def horizon(self, stage_index: int) -> Iterator[Session]:
        """The finite part of a stage that is written down: all of a bounded stage, arrivals up to
        the window's end of an open loop, and of a closed loop bounded by time the deck that an
        engine answering in no time would need, at most `DECK_SESSIONS` sessions.
        """
        stage = self.stages[stage_index]
        length_ns = None if stage.window_ns is None else stage.warmup_ns + stage.window_ns
        busy_ns = [0] * (stage.concurrency or 0)
        for made, session in enumerate(self.sessions(stage_index)):
            if session.intended_offset_ns is not None:
                if length_ns is not None and session.intended_offset_ns >= length_ns:
                    return
            elif stage.sessions is None and length_ns is not None:
                # Slots take turns, so the deck ends with the round in which all of them have
                # enough.
                if made >= DECK_SESSIONS or (session.slot == 0 and min(busy_ns) > length_ns):
                    return
                busy_ns[session.slot] += session.first_gap_ns + span_ns(session.live_turns)
            yield session


def make_plan(profile: Profile, facts: ModelFacts) -> RunPlan:
    """Resolve a profile into a plan.

    Raises:
        ProfileError: the workload cannot be fitted into the model's context.
    """
    limit, scale, reason = _scale(profile, facts)
    classes = make_classes(profile.traffic.workload, scale, limit)
    for one in classes:
        _refuse_full_head(one, scale)
    tok_per_word, source = _tok_per_word(profile, facts)
    stages = tuple(
        _stage(profile, stage, index) for index, stage in enumerate(profile.traffic.load)
    )
    api = profile.traffic.api
    settings = RequestSettings(
        api=api.value,
        # The Messages API has no field for it; a model that cannot end by itself needs none.
        force_output=profile.output_length is OutputLength.FORCED and wire(api).forces_output,
        temperature=profile.traffic.temperature,
        cache_control=profile.cache_control,
        live=profile.traffic.assistant == "live",
        thinking=profile.thinking,
        effort=profile.traffic.thinking_effort,
    )
    notes = [] if scale == 1 else [f"all lengths are scaled by {scale:.4g}: {reason}"]
    if source == "default":
        notes.append(
            f"lengths are estimates at {DEFAULT_TOK_PER_WORD} tokens a word: the model's tokenizer"
            " is not on this machine"
        )
    notes += [*_caps(classes), *_starts(stages)]
    notes += _asked_thinking(profile)
    if settings.live:
        notes.append(
            "later turns carry what the server answered: their bodies depend on the run and cannot"
            " be made again from the plan"
        )
    shell = RunPlan(
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
    return replace(shell, plan_sha256=_plan_sha256(shell))


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
        raise ProfileError(
            f"the shared head of {one.head.tok} tokens leaves no room in a context of"
            f" {one.limit_tok} tokens ({one.label})",
            cause=(
                "model.max_context_tok or the model's own context is too short for the workload at"
                f" context_scale {scale:.3g}"
            ),
            next_step=(
                "use context_scale: auto, a model with a longer context, or a shorter system_tok"
                " and tools_tok"
            )
            + (" of workload.subagents, or share: 0 there" if one.subagent else ""),
        )


def _caps(classes: Sequence[WorkClass]) -> Iterator[str]:
    """Caps of pauses: they keep a run of minutes busy, and real users wait longer."""
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
    """Whether the model is asked to reason, where the workload is about that."""
    asked = profile.thinking
    if asked == "off" and any(one.kind == "thinking" for one in _single(profile.traffic.workload)):
        yield (
            "no request asks the model to reason: traffic.thinking is off, or auto with a server"
            " that might refuse it"
        )
    elif asked == "budget":
        yield (
            "requests ask for reasoning with a budget of the planned reasoning, at least"
            f" {LEAST_BUDGET_TOK} tokens; answers that are planned no longer than that go without"
        )
    elif asked != "off":
        yield (
            "requests of classes that reason ask for it"
            f" ({asked}{f' {effort}' if (effort := profile.traffic.thinking_effort) else ''})"
        )


def _starts(stages: Sequence[StagePlan]) -> Iterator[str]:
    names = ", ".join(stage.name for stage in stages if stage.steady)
    if names:
        yield (
            f"conversations of {names} start in their middle at random, length-biased ages, their"
            " prefixes primed before the stage begins"
        )


def workload_sha256(profile: Profile) -> str:
    """Hash of the profile's traffic and SLOs; the seed and what only concerns the load generator
    are left out.
    """
    traffic = profile.traffic.model_dump(
        mode="json", exclude={"workers", "calibrate", "canary", "proxy", "tls"}
    )
    traffic["load"] = [_set(stage, "part") for stage in traffic["load"]]
    traffic["output_length"] = profile.output_length.value
    traffic["cache_control"] = profile.cache_control
    if isinstance(profile.traffic.workload, ReplayWorkload):
        # The trace is what it holds, not where it lies.
        traffic["workload"]["path"] = trace_sha256(profile.traffic.workload.path)
    workload = profile.traffic.workload
    if any(one.kind == "claude-code" and one.subagents.share for one in _single(workload)):
        traffic["subagents"] = "tied"  # to tool calls; they were sessions beside the others before
    traffic["thinking"] = profile.thinking
    for key in ("thinking", "thinking_effort"):
        if traffic[key] in ("off", None):
            del traffic[key]
    if traffic["assistant"] == "recorded":
        del traffic[
            "assistant"
        ]  # hashes of workloads from before there was a choice stay what they are
    traffic["steady"] = [_is_steady(profile, stage) for stage in profile.traffic.load]
    return _sha256({"traffic": traffic, "slos": profile.slos.model_dump(mode="json")})


def _plan_sha256(plan: RunPlan) -> str:
    digest = hashlib.sha256()
    fixed = {
        "version": PLAN_VERSION,
        "seed": plan.seed,
        "stages": [_set(asdict(stage), "part") for stage in plan.stages],
        "settings": asdict(plan.settings),
        "tok_per_word": round(plan.tok_per_word, 6),
        "context_limit_tok": plan.context_limit_tok,
        "corpus": _corpus_sha256(),
        "workload": plan.workload_sha256,
    }
    digest.update(_sha256(fixed).encode())
    # The sessions are a function of the above; a sample of each stage catches a change of that
    # function that forgot PLAN_VERSION.
    for stage in plan.stages:
        for session in itertools.islice(plan.sessions(stage.index), 16):
            start = (
                f"{session.intended_offset_ns} {session.first_turn} {session.first_gap_ns}"
                f" {session.salt}"
            )
            digest.update(
                f"{session.session_id} {session.workload_class} {session.slot} {start}\n".encode()
            )
            for turn in session.turns:
                digest.update(f"{turn}\n".encode())
    return digest.hexdigest()


def _single(workload: Workload) -> Sequence[Workload]:
    """The workloads of a mix, or the one."""
    return (
        tuple(part.workload for part in workload.parts)
        if isinstance(workload, MixWorkload)
        else (workload,)
    )


def _set(fields: dict[str, Any], *optional: str) -> dict[str, Any]:
    """Without the optional keys that say nothing, so that a key which is new leaves the hashes of
    plans without it as they were.
    """
    return {key: value for key, value in fields.items() if key not in optional or value is not None}


def _corpus_sha256() -> str:
    return hashlib.sha256((Path(__file__).with_name("corpus.txt")).read_bytes()).hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _stage(profile: Profile, stage: Stage, index: int) -> StagePlan:
    closed = stage if isinstance(stage, ConcurrencyStage) else None
    single = stage.over == "requests"
    schedule: Schedule | None = None
    if isinstance(stage, OpenStage):
        schedule = schedule_of(stage)
    elif isinstance(stage, AllAtOnceStage):
        schedule = Schedule("all_at_once")
    elif isinstance(stage, ReplayStage):
        schedule = Schedule("trace")
    return StagePlan(
        index=index,
        name=stage.name or f"{index}-{stage.kind}",
        kind=stage.kind,
        load=in_words(stage),
        warmup_ns=round((stage.warmup_s or 0.0) * 1e9),
        window_ns=None if stage.window_s is None else round(stage.window_s * 1e9),
        sessions=stage.sessions,
        concurrency=closed.concurrency if closed else None,
        schedule=schedule,
        single=single,
        steady=_is_steady(profile, stage),
        max_in_flight=stage.max_in_flight,
        part=stage.part,
    )


def _is_steady(profile: Profile, stage: Stage) -> bool:
    """Whether the first conversations of a stage start in their middle: of a closed loop, and under
    purpose measure unless told otherwise. Conversations that would be alive at the start of an open
    loop are left out; its warm-up has to bring them.
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
    known = [
        tok for tok in (profile.model.max_context_tok, facts.max_context_tok) if tok is not None
    ]
    context = min(known) if known else None
    usable = None if context is None else int(context * CONTEXT_SHARE) - MESSAGE_OVERHEAD_TOK
    scale = profile.traffic.context_scale
    if isinstance(workload, ReplayWorkload):
        limits = [tok for tok in (workload.context_limit_tok, usable) if tok is not None]
        factor = 1.0 if scale == "auto" else scale
        return (
            min(limits, default=NO_LIMIT_TOK),
            factor,
            "the profile's context_scale: a trace is not fitted by itself",
        )
    wanted = workload.context_limit_tok
    if scale == "auto":
        if usable is None:
            return (
                wanted,
                1.0,
                (
                    "the model's context is not known here; set model.max_context_tok to have"
                    " lengths fitted"
                ),
            )
        if usable >= wanted:
            return wanted, 1.0, f"a context of {wanted} tokens fits the model's {context}"
        if profile.traffic.context_policy == "refuse":
            raise ProfileError(
                f"the workload's context of {wanted} tokens exceeds {CONTEXT_SHARE:.0%} of the"
                f" model's {context}",
                cause="context_policy is refuse, and context_scale is auto",
                next_step=(
                    f"use context_policy: scale, a context_scale of {usable / wanted:.3g} or less,"
                    " or a model with a longer context"
                ),
            )
        if usable < MIN_HEADROOM_TOK:
            raise ProfileError(
                f"a context of {context} tokens is too short for any workload",
                next_step="raise model.max_context_tok",
            )
        return (
            usable,
            usable / wanted,
            (
                f"the workload's context of {wanted} tokens is fitted into {CONTEXT_SHARE:.0%} of"
                f" the model's {context}"
            ),
        )
    limit = max(1, int(wanted * scale))
    if usable is not None and limit > usable:
        raise ProfileError(
            f"context_scale {scale:g} gives contexts of up to {limit} tokens, more than"
            f" {CONTEXT_SHARE:.0%} of the model's {context}",
            next_step=f"use context_scale: auto, or at most {usable / wanted:.3g}",
        )
    return limit, scale, f"the profile's context_scale ({limit} tokens at most)"
