"""Quality check of responses before and after the load, and recording of a reference."""

from collections.abc import Callable
from pathlib import Path

from harness.artifacts.quality import write_reference
from harness.commands.steps.prepare import prepare
from harness.commands.steps.run_record import RunRecord
from harness.core.errors import ProfileError
from harness.profile.schema import Profile
from harness.server.answers_check import QualityCheck, ask, make_reference, routes_for
from harness.server.base import RunningServer, raise_problems, read_api_key, serve_for_questions
from harness.server.one_request import DIRECT


def check_answers(check: QualityCheck, when: str, record: RunRecord, server: RunningServer) -> None:
    """One half of the check (`before` or `after` the load), outside the reconciled interval."""
    record.phase("quality check", f"{when} the load", event=f"quality_{when}")
    api_key = read_api_key(record.prepared.profile.server)
    check.ask(when, record.run_dir, server.endpoints, api_key)
    if failure := check.failure(when):
        record.view.warn(f"the quality check {when} the load failed: {failure}")
    if when == "after" and (path := check.record_first(record.run_dir, server.info)):
        record.view.note(f"these responses are now the reference: {path}")


def record_answers(profile: Profile, out: Path | None, note: Callable[[str], None]) -> Path:
    """Start the server and store its responses to the quality check as a reference.

    Args:
        profile: a trusted deployment of the model: best precision, reliable engine.
        out: the file; default: the one in the profile.
        note: called with progress.

    Raises:
        ProfileError: no file given, or the weights are dummies.
        HarnessError: the server did not start or respond.
    """
    named = profile.quality.reference if out is None else out
    if named is None:
        raise ProfileError(
            "no file for the reference",
            next_step="give --out FILE, or set quality.reference in the profile",
        )
    if profile.model.load_format == "dummy":
        raise ProfileError(
            "dummy weights have no correct responses",
            next_step="record the reference with the model's weights",
        )
    prepared = prepare(profile, note)
    profile = prepared.profile
    raise_problems(prepared.server.preflight())
    with serve_for_questions(prepared.server, "quality") as server:
        endpoint = server.endpoints[0]
        asked = ask(
            endpoint,
            routes_for(profile.api),
            read_api_key(profile.server),
            profile.quality.max_output_tok,
            network=DIRECT if endpoint.pid is not None else profile.traffic.network,
        )
        write_reference(Path(named), make_reference(profile, prepared.facts, server.info, asked))
    return Path(named)
