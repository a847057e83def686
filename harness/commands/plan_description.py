"""What a run would send, described before anything is started."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.commands.planned_time import PlannedTime, planned_time
from harness.core.records import ModelFacts
from harness.core.units import human_duration, human_number
from harness.models.facts import facts_of
from harness.plan.build import RunPlan, make_plan
from harness.plan.plan_table import PlanTotals, known_prefixes
from harness.plan.types import StagePlan
from harness.profile.schema import Profile
from harness.server.detect import complete_or_assume
from harness.server.select import kv_capacity


@dataclass(frozen=True, slots=True)
class DescribedPlan:
    """A described plan.

    Attributes:
        lines: properties of the whole plan.
        columns: headings of the table.
        rows: one per stage.
        notes: hints for the reader.
        stages: the rows as numbers.
        time: of a run, phase by phase.
    """

    lines: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    stages: tuple[dict[str, Any], ...]
    plan: RunPlan
    model: str
    time: PlannedTime

    def to_dict(self) -> dict[str, Any]:
        return {
            "workload_sha256": self.plan.workload_sha256,
            "plan_sha256": self.plan.plan_sha256,
            "context_scale": self.plan.context_scale,
            "context_limit_tok": self.plan.context_limit_tok,
            "tok_per_word": self.plan.tok_per_word,
            "model": self.model or None,
            "api": self.plan.settings.api,
            "stages": list(self.stages),
            "time": self.time.to_dict(),
            "notes": list(self.notes),
        }


def describe_plan(profile: Profile, *, calibrate: bool = True) -> DescribedPlan:
    """Requests, times and tokens of a run of this profile. Starts nothing, but may build a built-in
    model, and asks an attached server for what the profile leaves open. `calibrate`: as in
    `run_profile`.
    """
    completed = complete_or_assume(profile)
    profile = completed.profile
    facts = facts_of(profile)
    plan = make_plan(profile, facts)
    stages = tuple(_stage_numbers(plan, stage) for stage in plan.stages)
    context = f"contexts up to {plan.context_limit_tok} tokens"
    words = f"{plan.tok_per_word:.3g} tokens per word ({plan.tok_per_word_source})"
    lines = (
        (
            f"{profile.name}: purpose {profile.purpose}, {profile.traffic.workload.kind} over"
            f" {profile.api}, seed {profile.seed}"
        ),
        (
            f"model {profile.model_id or 'unknown'}, {context}, lengths x {plan.context_scale:.4g}"
            f" ({plan.context_scale_reason})"
        ),
        f"output lengths {profile.output_length}; shared head of {plan.head.tok} tokens; {words}",
        f"workload {plan.workload_sha256[:12]}, plan {plan.plan_sha256[:12]}",
    )
    rows = tuple(
        (
            stage.name,
            stage.load,
            (
                "detected"
                if profile.traffic.load[stage.index].warmup_s is None
                else human_duration(stage.warmup_ns / 1e9)
            ),
            "until done" if stage.window_ns is None else human_duration(stage.window_ns / 1e9),
            f"{'' if numbers['bounded'] else 'at least '}{numbers['sessions']}",
            human_number(numbers["requests"]),
            human_number(numbers["input_tok"], 6),
            human_number(numbers["output_tok"], 6),
            human_number(numbers["longest_context_tok"], 6),
            f"{numbers['shared_share']:.1%}",
        )
        for stage, numbers in zip(plan.stages, stages, strict=True)
    )
    clipped = [note for numbers in stages for note in numbers.pop("notes")]
    notes = [*completed.choices, *plan.notes, *clipped, *_kv_notes(profile, facts, plan, stages)]
    if not all(numbers["bounded"] for numbers in stages):
        notes.append(
            "a closed loop is bounded by time: counts assume one second per request, and further"
            " sessions are drawn as needed"
        )
    columns = (
        "stage",
        "load",
        "warm-up",
        "window",
        "sessions",
        "requests",
        "input tok",
        "output tok",
        "longest context",
        "shared prefix",
    )
    time = planned_time(profile, plan.stages, calibrate=calibrate)
    return DescribedPlan(lines, columns, rows, tuple(notes), stages, plan, profile.model_id, time)


def _kv_notes(
    profile: Profile, facts: ModelFacts, plan: RunPlan, stages: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Whether the live sessions of each closed loop fit into the KV cache."""
    if facts.kv_bytes_per_tok is None:
        yield (
            "KV cache: bytes per token are unknown (the model's config.json is not on this machine,"
            " or its layers differ)"
        )
        return
    capacity_tok, where = kv_capacity(profile.server, facts)
    for stage, numbers in zip(plan.stages, stages, strict=True):
        if not stage.concurrency or not numbers["requests"]:
            continue
        mean_tok = (numbers["input_tok"] + numbers["output_tok"]) / numbers["requests"]
        private_tok = max(0.0, mean_tok - plan.head.tok)  # the shared head is stored once
        working_tok = plan.head.tok + stage.concurrency * private_tok
        size_gib = working_tok * facts.kv_bytes_per_tok / 2**30
        text = (
            f"KV cache, {stage.name}: {stage.concurrency} live sessions of {mean_tok:,.0f} tokens"
            f" on average need {working_tok:,.0f} tokens ({size_gib:.3g} GiB at"
            f" {facts.kv_bytes_per_tok / 1024:.4g} KiB per token)"
        )
        if capacity_tok is None:
            yield f"{text}; the capacity is unknown: {where}"
        elif working_tok <= capacity_tok:
            yield f"{text}; all stay resident in {capacity_tok:,.0f} tokens ({where})"
        else:
            resident = (
                max(0, int((capacity_tok - plan.head.tok) / private_tok))
                if private_tok
                else stage.concurrency
            )
            yield (
                f"{text}; about {resident} stay resident in {capacity_tok:,.0f} tokens ({where}):"
                " expect preemption and fewer prefix hits"
            )


def _stage_numbers(plan: RunPlan, stage: StagePlan) -> dict[str, Any]:
    input_tok = output_tok = longest = seen = 0
    totals = PlanTotals()
    heads: set[str] = set()
    for session in (one for top in plan.horizon(stage.index) for one in top.tree()):
        totals.add(session)
        shared = session.system.key in heads and not session.salt
        heads.add(session.system.key)
        for turn, known in zip(
            session.turns, known_prefixes(session, head_is_known=shared), strict=True
        ):
            if turn.index < session.first_turn:
                continue
            input_tok += turn.target_input_tok
            output_tok += turn.target_output_tok
            seen += known
            longest = max(longest, turn.target_input_tok + turn.target_output_tok)
    return {
        "stage": stage.name,
        "bounded": plan.is_bounded(stage.index),
        "sessions": totals.sessions,
        "requests": totals.requests,
        "priming_requests": totals.primes,
        "clipped_requests": totals.clipped_requests,
        "classes": totals.classes,
        "input_tok": input_tok,
        "output_tok": output_tok,
        "longest_context_tok": longest,
        "notes": totals.notes(),
        "shared_share": seen / input_tok if input_tok else 0.0,
    }
