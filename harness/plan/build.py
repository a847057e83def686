"""`make_plan`: everything that a run will send and when, as a pure function of (profile, model facts).

A plan is small: stages, settings and hashes. Its sessions are made one at a time by `RunPlan.sessions`, so a plan for an hour of 100k-token
contexts costs no memory, and every process that holds the profile makes the same sessions.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.errors import ProfileError
from harness.core.records import ModelFacts, OutputLength
from harness.plan.draw import stream
from harness.plan.types import RequestSettings, Session, StagePlan, Turn
from harness.plan.workloads import MESSAGE_OVERHEAD_TOK, Head, make_head, make_turns
from harness.profile.schema import ArrivalRateStage, ConcurrencyStage, Profile, Stage

PLAN_VERSION: Final = 1
"""Part of every plan's hash: raised whenever the same profile would give other requests."""

DEFAULT_TOK_PER_WORD: Final = 1.35
"""Used where the model's tokenizer is not at hand: about what 32k-150k byte-level BPE vocabularies need for the corpus."""

CONTEXT_SHARE: Final = 0.9
"""Share of the model's context that a plan fills: targets are estimates, and an over-long prompt would be refused."""

MIN_HEADROOM_TOK: Final = 64
"""Least room, in tokens, that a scaled context must leave after the shared head."""


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
        workload_sha256: the profile's traffic and SLOs, seed and load generator's settings excluded: equal for runs that may be compared.
        plan_sha256: the requests themselves, seed included.
        head: what all prompts start with.
        notes: what a reader of the results should know.
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
    head: Head
    notes: tuple[str, ...]
    _profile: Profile

    def session(self, stage_index: int, number: int, intended_offset_ns: int | None = None) -> Session:
        """Session `number` of a stage."""
        stage = self.stages[stage_index]
        workload = self._profile.traffic.workload
        turns = make_turns(
            workload,
            seed=self.seed,
            scale=self.context_scale,
            limit_tok=self.context_limit_tok,
            head=self.head,
            stage=stage.name,
            number=number,
        )
        return Session(
            session_id=f"{stage_index}-{number:06d}",
            number=number,
            workload_class=workload.kind,
            stage=stage.name,
            slot=number % stage.concurrency if stage.concurrency else number,
            intended_offset_ns=intended_offset_ns,
            system=self.head.system,
            tools=self.head.tools,
            turns=turns,
        )

    def sessions(self, stage_index: int, *, worker: int = 0, workers: int = 1) -> Iterator[Session]:
        """The sessions of a stage in order of the plan: endless unless the stage is bounded by `sessions`.

        Worker w of n gets those with slot % n == w, so one worker and eight start the same sessions at the same times.
        """
        stage = self.stages[stage_index]
        offsets = _arrivals_ns(stage, self.seed) if stage.rate_per_s else itertools.repeat(None)
        for number, offset_ns in zip(itertools.count(), offsets, strict=False):
            if stage.sessions is not None and number >= stage.sessions:
                return
            slot = number % stage.concurrency if stage.concurrency else number
            if slot % workers == worker:
                yield self.session(stage_index, number, offset_ns)

    def planned_sessions(self) -> int | None:
        """Sessions that the plan starts; None when a closed loop is bounded by time alone."""
        if any(stage.sessions is None and stage.concurrency for stage in self.stages):
            return None
        return sum(1 for index in range(len(self.stages)) for _ in self.horizon(index))

    def horizon(self, stage_index: int) -> Iterator[Session]:
        """The finite part of a stage that is written down: all of a bounded stage, arrivals up to the window's end of an open loop, and of
        a closed loop bounded by time the deck that an engine answering in no time would need, at most `DECK_SESSIONS` sessions.
        """
        stage = self.stages[stage_index]
        length_ns = None if stage.window_ns is None else stage.warmup_ns + stage.window_ns
        busy_ns: dict[int, int] = {}
        for made, session in enumerate(self.sessions(stage_index)):
            if stage.sessions is None and length_ns is not None:
                if session.intended_offset_ns is not None:
                    if session.intended_offset_ns >= length_ns:
                        return
                else:
                    if made >= DECK_SESSIONS or (len(busy_ns) == stage.concurrency and min(busy_ns.values()) > length_ns):
                        return
                    busy_ns[session.slot] = busy_ns.get(session.slot, 0) + sum(t.gap_ns + DECK_REQUEST_NS for t in session.turns)
            elif length_ns is not None and session.intended_offset_ns is not None and session.intended_offset_ns >= length_ns:
                return
            yield session


DECK_REQUEST_NS: Final = 1_000_000_000
"""Time that the deck allows one request: one second."""
DECK_SESSIONS: Final = 20_000
"""Most sessions of a closed loop that are written to plan.parquet; later ones follow from the same function."""


def make_plan(profile: Profile, facts: ModelFacts) -> RunPlan:
    """Resolve a profile into a plan.

    Raises:
        ProfileError: the workload cannot be fitted into the model's context.
    """
    limit, scale, reason = _scale(profile, facts)
    head = make_head(profile.traffic.workload, scale)
    if limit - head.tok < MIN_HEADROOM_TOK:
        raise ProfileError(
            f"the shared head of {head.tok} tokens leaves no room in a context of {limit} tokens",
            cause=f"model.max_context_tok or the model's own context is too short for the workload at context_scale {scale:.3g}",
            next_step="use context_scale: auto, a model with a longer context, or a shorter system_tok and tools_tok",
        )
    tok_per_word, source = _tok_per_word(profile, facts)
    stages = tuple(_stage(stage, index) for index, stage in enumerate(profile.traffic.load))
    settings = RequestSettings(
        api=profile.traffic.api.value,
        # The Messages API has no field for it; a model that cannot end by itself needs none.
        force_output=profile.output_length is OutputLength.FORCED and profile.traffic.api.forces_output,
        temperature=profile.traffic.temperature,
    )
    notes = [] if scale == 1 else [f"all lengths are scaled by {scale:.4g}: {reason}"]
    if source == "default":
        notes.append(f"lengths are estimates at {DEFAULT_TOK_PER_WORD} tokens a word: the model's tokenizer is not on this machine")
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
        head=head,
        notes=tuple(notes),
        _profile=profile,
    )
    return RunPlan(**{**{name: getattr(shell, name) for name in RunPlan.__slots__}, "plan_sha256": _plan_sha256(shell)})


def workload_sha256(profile: Profile) -> str:
    """Hash of the profile's traffic and SLOs; the seed and what only concerns the load generator are left out."""
    traffic = profile.traffic.model_dump(mode="json", exclude={"workers", "calibrate", "canary"})
    traffic["output_length"] = profile.output_length.value
    return _sha256({"traffic": traffic, "slos": profile.slos.model_dump(mode="json")})


def body_sha256(session: Session, turn: Turn) -> str:
    """Hash over the keys and lengths of the blocks that make up one request's body."""
    digest = hashlib.sha256()
    blocks = [session.system, *(tool.block for tool in session.tools)]
    for earlier in session.turns[: turn.index]:
        blocks += [part.block for part in (*earlier.message.parts, *earlier.reply.parts)]
    blocks += [part.block for part in turn.message.parts]
    for block in blocks:
        digest.update(f"{block.key}:{block.tok}\n".encode())
    return digest.hexdigest()


def plan_rows(plan: RunPlan) -> Iterator[dict[str, Any]]:
    """Rows of plan.parquet (schema `artifacts.tables.PLAN`), stage by stage."""
    for stage in plan.stages:
        for session in plan.horizon(stage.index):
            for turn in session.turns:
                yield {
                    "request_id": f"{session.session_id}/{turn.index}",
                    "session_id": session.session_id,
                    "turn": turn.index,
                    "class": session.workload_class,
                    "stage": session.stage,
                    "slot": session.slot,
                    "intended_offset_ns": session.intended_offset_ns if turn.index == 0 else None,
                    "gap_ns": turn.gap_ns if turn.index else None,
                    "target_input_tok": turn.target_input_tok,
                    "target_output_tok": turn.target_output_tok,
                    "body_sha256": body_sha256(session, turn),
                }


def _plan_sha256(plan: RunPlan) -> str:
    digest = hashlib.sha256()
    fixed = {
        "version": PLAN_VERSION,
        "seed": plan.seed,
        "stages": [asdict(stage) for stage in plan.stages],
        "settings": asdict(plan.settings),
        "tok_per_word": round(plan.tok_per_word, 6),
        "context_limit_tok": plan.context_limit_tok,
        "corpus": _corpus_sha256(),
        "workload": plan.workload_sha256,
    }
    digest.update(_sha256(fixed).encode())
    # The sessions are a function of the above; a sample of each stage catches a change of that function that forgot PLAN_VERSION.
    for stage in plan.stages:
        for session in itertools.islice(plan.sessions(stage.index), 16):
            digest.update(f"{session.session_id} {session.slot} {session.intended_offset_ns}\n".encode())
            for turn in session.turns:
                digest.update(f"{turn.gap_ns} {turn.target_input_tok} {turn.target_output_tok} {turn.message} {turn.reply}\n".encode())
    return digest.hexdigest()


def _corpus_sha256() -> str:
    return hashlib.sha256((Path(__file__).with_name("corpus.txt")).read_bytes()).hexdigest()


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _stage(stage: Stage, index: int) -> StagePlan:
    closed = stage if isinstance(stage, ConcurrencyStage) else None
    opened = stage if isinstance(stage, ArrivalRateStage) else None
    return StagePlan(
        index=index,
        name=stage.name or f"{index}-{stage.kind}",
        kind=stage.kind,
        warmup_ns=round(stage.warmup_s * 1e9),
        window_ns=None if stage.window_s is None else round(stage.window_s * 1e9),
        sessions=stage.sessions,
        concurrency=closed.concurrency if closed else None,
        rate_per_s=opened.rate_per_s if opened else None,
        process=opened.process if opened else None,
        max_in_flight=stage.max_in_flight,
    )


def _arrivals_ns(stage: StagePlan, seed: int) -> Iterator[int]:
    """Starts of an open loop, from the stage's start: exponential gaps of mean 1/rate, or equal gaps."""
    assert stage.rate_per_s is not None
    rng = stream(seed, "arrivals", stage.name)
    at_s = 0.0
    for number in itertools.count(1):
        # Equal gaps are products, not sums, so that rounding does not add up.
        at_s = number / stage.rate_per_s if stage.process == "constant" else at_s + rng.expovariate(stage.rate_per_s)
        yield round(at_s * 1e9)


def _tok_per_word(profile: Profile, facts: ModelFacts) -> tuple[float, str]:
    if profile.model.tok_per_word is not None:
        return profile.model.tok_per_word, "profile"
    if facts.tok_per_word is not None:
        return facts.tok_per_word, "tokenizer"
    return DEFAULT_TOK_PER_WORD, "default"


def _scale(profile: Profile, facts: ModelFacts) -> tuple[int, float, str]:
    """Context limit in tokens, factor on all lengths, and the reason."""
    workload = profile.traffic.workload
    known = [tok for tok in (profile.model.max_context_tok, facts.max_context_tok) if tok is not None]
    context = min(known) if known else None
    wanted = workload.context_limit_tok
    usable = None if context is None else int(context * CONTEXT_SHARE) - MESSAGE_OVERHEAD_TOK
    scale = profile.traffic.context_scale
    if scale == "auto":
        if usable is None:
            return wanted, 1.0, "the model's context is not known here; set model.max_context_tok to have lengths fitted"
        if usable >= wanted:
            return wanted, 1.0, f"a context of {wanted} tokens fits the model's {context}"
        if usable < MIN_HEADROOM_TOK:
            raise ProfileError(f"a context of {context} tokens is too short for any workload", next_step="raise model.max_context_tok")
        return (
            usable,
            usable / wanted,
            f"the workload's context of {wanted} tokens is fitted into {CONTEXT_SHARE:.0%} of the model's {context}",
        )
    limit = max(1, int(wanted * scale))
    if usable is not None and limit > usable:
        raise ProfileError(
            f"context_scale {scale:g} gives contexts of up to {limit} tokens, more than {CONTEXT_SHARE:.0%} of the model's {context}",
            next_step=f"use context_scale: auto, or at most {usable / wanted:.3g}",
        )
    return limit, scale, f"the profile's context_scale ({limit} tokens at most)"
