"""Prompts made again from the plan and counted by the model's tokenizer."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.core.records import Api
from harness.models.facts import resolve
from harness.models.recount import recount
from harness.plan.bodies import Conversation
from harness.plan.build import make_plan
from harness.plan.prompt_text import Texts
from harness.profile.schema import Profile

SETTINGS = {
    "kind": "chat",
    "system_tok": 40,
    "user_tok": 12,
    "output_tok": 8,
    "turns": 3,
    "context_limit_tok": 1000,
}


def by_hand(document: dict[str, Any], folder: str) -> int:
    """builtin:tiny's template is ChatML: written out here, without Jinja."""
    from tokenizers import Tokenizer

    said = document["messages"]
    if "system" in document:
        said = [{"role": "system", "content": document["system"]}, *said]
    turns = [
        (
            one["role"],
            one["content"] if isinstance(one["content"], str) else one["content"][0]["text"],
        )
        for one in said
    ]
    text = (
        "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
        + "<|im_start|>assistant\n"
    )
    return len(
        Tokenizer.from_file(f"{folder}/tokenizer.json").encode(text, add_special_tokens=False).ids
    )


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Callable[..., RunDir]:
    """A run directory with the plan's requests; `usage` says what the server counted of a body."""

    def write(api: Api, usage: Callable[[dict[str, Any], str], int], **manifest: Any) -> RunDir:
        profile = Profile.model_validate(
            {
                "purpose": "smoke",
                "model": {"id": "builtin:tiny"},
                "server": {"kind": "torch"},
                "traffic": {
                    "api": str(api),
                    "workload": SETTINGS,
                    "load": [{"kind": "concurrency", "concurrency": 2, "sessions": 3}],
                },
            }
        )
        facts = resolve("builtin:tiny")
        plan = make_plan(profile, facts)
        run_dir = RunDir(tmp_path / "run")
        run_dir.requests_dir.mkdir(parents=True)
        fields = {
            "schema_version": 1,
            "state": "complete",
            "profile": profile.model_dump(mode="json"),
            "model": asdict(facts),
            "plan_sha256": plan.plan_sha256,
            "endpoints": [{"name": "replica-0", "base_url": "http://x", "model": "m"}],
        }
        run_dir.manifest.write_text(json.dumps(fields | manifest))
        with JournalWriter(run_dir.requests_journal(0), tables.REQUESTS) as journal:
            for session in plan.sessions(0):
                talk = Conversation(
                    session, plan.settings, "m", Texts(plan.seed, plan.tok_per_word)
                )
                for turn in session.turns:
                    document = json.loads(talk.body(turn.index))
                    base = dict.fromkeys(tables.REQUESTS.names) | {
                        "request_id": f"{session.session_id}/{turn.index}",
                        "session_id": session.session_id,
                        "turn": turn.index,
                        "class": session.workload_class,
                        "stage": session.stage,
                        "worker": 0,
                        "intended_ns": 1,
                        "outcome": "ok",
                        "input_tok": usage(document, str(facts.path)),
                    }
                    journal.append([base])
        return run_dir

    return write


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES])
def test_prompts_are_made_again_and_rendered_with_the_models_template(
    written: Callable[..., RunDir], api: Api
) -> None:
    found = recount(written(api, by_hand).root)
    assert (found["reason"], found["api"]) == (None, str(api))
    assert found["requests"] == found["answered"] == 9
    assert found["template_tok"] == found["usage_tok"]
    assert found["text_tok"] < found["usage_tok"]


def test_a_route_without_roles_has_no_template(written: Callable[..., RunDir]) -> None:
    found = recount(written(Api.COMPLETIONS, lambda document, folder: 10).root)
    assert found["template_tok"] is None
    assert found["text_tok"] > 0


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ({"plan_sha256": "0" * 64}, "plan"),
        ({"profile": {"purpose": "?"}}, "profile"),
        ({"model": {"model_id": "org/name"}}, "tokenizer.json"),
        ({"model": None}, "model"),
        ({"schema_version": 99}, "schema_version 99"),
    ],
)
def test_what_cannot_be_counted_says_why(
    written: Callable[..., RunDir], manifest: dict[str, Any], names: str
) -> None:
    found = recount(written(Api.CHAT, lambda document, folder: 10, **manifest).root)
    assert set(found) == {"reason"}
    assert names in found["reason"]


def test_it_is_a_process_of_its_own(written: Callable[..., RunDir]) -> None:
    run_dir = written(Api.CHAT, lambda document, folder: 10)
    subprocess.run(
        [sys.executable, "-m", "harness.models.recount", str(run_dir.root)], check=True, timeout=60
    )
    assert json.loads(run_dir.recount.read_text())["usage_tok"] == 90
