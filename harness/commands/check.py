"""Preflight of a run: profile, server, power sources, and one real request."""

import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness.commands.steps.prepare import Prepared, prepare
from harness.core.errors import HarnessError
from harness.core.records import Purpose
from harness.core.units import human_number
from harness.plan.bodies import Conversation
from harness.plan.prompt_text import Texts
from harness.profile.schema import Profile
from harness.profile.serving import AttachServer
from harness.server.base import read_api_key, serve_for_questions
from harness.server.one_request import DIRECT, check_request
from harness.telemetry.probe import survey
from harness.telemetry.prometheus.run import MANAGED
from harness.telemetry.prometheus.server import not_installed
from harness.telemetry.sources.select import SourceContext, specs_of

_OTHER_DESCRIPTORS: Final = 64
"""Of a load generator process, in addition to its connections."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        what: name of the check.
        ok: false if it prevents a run.
        text: what was found; with cause and next step for a problem.
    """

    what: str
    ok: bool
    text: str

    def line(self) -> str:
        return f"{'ok     ' if self.ok else 'PROBLEM'}  {self.what}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.ok, "text": self.text}


def check_profile(profile: Profile, *, start: bool = False) -> list[Finding]:
    """All problems that can be found without load.

    Args:
        profile: already validated.
        start: also start the server and send one real request of the workload. A running server
            (kind `attach`) always receives it.
    """
    findings = [Finding("profile", True, f"{profile.name} is valid (purpose {profile.purpose})")]
    notes: list[str] = []
    try:
        prepared = prepare(profile, notes.append)
    except HarnessError as error:
        return [*findings, Finding("preparation", False, str(error))]
    given = (f"API {prepared.profile.api.value}: set in the profile",)
    findings += [Finding("model and API", True, text) for text in prepared.choices or given]
    findings.append(
        Finding(
            "plan",
            True,
            f"plan {prepared.plan.plan_sha256[:12]}, contexts up to"
            f" {prepared.plan.context_limit_tok} tokens",
        )
    )
    findings += [Finding("plan", True, note) for note in prepared.plan.notes]
    findings += [Finding("server", True, text) for text in notes if text not in prepared.choices]
    findings += _descriptors(prepared)
    problems = prepared.server.preflight()
    findings += [
        Finding(
            problem.code,
            False,
            "\n".join(
                filter(
                    None,
                    (
                        problem.what,
                        problem.cause and f"  likely cause: {problem.cause}",
                        f"  next step: {problem.next_step}",
                    ),
                )
            ),
        )
        for problem in problems
    ]
    findings += _power_findings(profile, prepared)
    if profile.telemetry.prometheus == MANAGED and (missing := not_installed()) is not None:
        findings.append(Finding("prometheus", False, str(missing)))
    if not problems and (start or isinstance(profile.server, AttachServer)):
        findings += _guarded("one real request", lambda: _one_request(prepared))
    return findings


def _descriptors(prepared: Prepared) -> Iterator[Finding]:
    """Whether the load generator may open a connection per concurrent request."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the load generator raises the soft one
    most = max((stage.concurrency or 0 for stage in prepared.plan.stages), default=0)
    if limit != resource.RLIM_INFINITY and most + _OTHER_DESCRIPTORS > limit:
        text = (
            f"{most} concurrent requests need about {most + _OTHER_DESCRIPTORS} file descriptors;"
            f" the limit is {limit}\n  next step: raise it (`ulimit -n`), or lower the concurrency"
        )
        yield Finding("descriptors", False, text)


def _power_findings(profile: Profile, prepared: Prepared) -> Iterator[Finding]:
    """What each power source measures; one that the profile names must measure something."""
    named = not isinstance(profile.telemetry.power, str)
    uuids = tuple(gpu.uuid for gpu in prepared.gpus)
    around = SourceContext(uuids, network=profile.traffic.network)
    for found in survey(
        specs_of(profile.telemetry.model_dump(mode="json")["power"], uuids), around, observe_s=0
    ):
        what = f"power: {found.kind}"
        kinds = sorted(
            {f"{channel.what} of {channel.boundary.value}" for channel in found.channels}
        )
        if found.double is not None:
            yield Finding(
                what,
                profile.purpose is not Purpose.MEASURE,
                f"simulated hardware, which measures nothing: {found.double}",
            )
        elif kinds:
            does = "has" if found.unread else "measures"
            texts = filter(None, (f"{does} {', '.join(kinds)}", found.unread, *found.why_not))
            yield Finding(what, True, "; ".join(texts))
        else:
            why = "; ".join(found.why_not) or "no response"
            step = (
                "\n  next step: run `harness check --system`, or remove it from telemetry.power"
                if named
                else ""
            )
            yield Finding(what, not named, f"measures nothing here: {why}{step}")
    for gpu in prepared.gpus:
        if (
            gpu.power_limit_w is not None
            and gpu.power_limit_default_w is not None
            and gpu.power_limit_w < gpu.power_limit_default_w
        ):
            yield Finding(
                "power limit",
                True,
                f"GPU {gpu.index}: {gpu.power_limit_w:g} W, below its default of"
                f" {gpu.power_limit_default_w:g} W; reset it unless this is deliberate",
            )


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except HarnessError as error:
        yield Finding(what, False, str(error))


def _one_request(prepared: Prepared) -> Iterator[Finding]:
    """Start (or reach) the server and send the first request of the plan."""
    profile, plan = prepared.profile, prepared.plan
    session = next(plan.sessions(0))
    texts = Texts(plan.seed, plan.tok_per_word)
    with serve_for_questions(prepared.server, "check") as server:
        for note in server.info.notes:
            yield Finding("server", True, note)
        for endpoint in server.endpoints:
            reply = check_request(
                endpoint,
                profile.api,
                Conversation(session, plan.settings, endpoint.model, texts).body(0),
                read_api_key(profile.server),
                network=DIRECT if endpoint.pid is not None else profile.traffic.network,
            )
            counted = (
                f"{human_number(reply.input_tok)} input tokens (planned"
                f" {session.turns[0].target_input_tok})"
            )
            yield Finding(
                f"one real request to {endpoint.name}",
                True,
                f"responded; the server counts {counted}",
            )
