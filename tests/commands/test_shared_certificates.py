"""Certificates of a series: one for its heaviest load, with one number of workers."""

from types import SimpleNamespace
from typing import Any

import pytest

from harness.commands.steps import load_generator
from harness.commands.steps.load_generator import SharedCertificates
from harness.models.facts import facts_of
from harness.plan.build import RunPlan, make_plan
from harness.profile.schema import Profile


def run_of(
    concurrency: int | None, *, rate: float = 2.0, window_s: float = 20, **more: Any
) -> tuple[Profile, RunPlan]:
    load = (
        {"kind": "arrival_rate", "rate_per_s": rate}
        if concurrency is None
        else {"kind": "concurrency", "concurrency": concurrency}
    )
    workload = {"kind": "chat", "system_tok": 10, "user_tok": 5, "output_tok": 5, "turns": 1}
    traffic = {"api": "chat", "workload": workload, "load": [{**load, "window_s": window_s}]}
    profile = Profile.model_validate(
        {
            "name": "shared",
            "purpose": "measure",
            "model": {"id": "builtin:tiny"},
            "server": {"kind": "attach", "urls": ["http://127.0.0.1:9"]},
            "traffic": traffic | more.pop("traffic", {}),
            **more,
        }
    )
    return profile, make_plan(profile, facts_of(profile))


@pytest.fixture(name="asked")
def _asked(monkeypatch) -> list[dict[str, Any]]:
    """Arguments of each certificate that was asked for; every one needs three workers."""
    asked: list[dict[str, Any]] = []

    def certify(load, **arguments):
        asked.append({"streams": load.streams, "api": load.api, **arguments})
        return SimpleNamespace(workers=3)

    monkeypatch.setattr(load_generator, "certify", certify)
    return asked


def certificates(runs: list[tuple[Profile, RunPlan]]) -> list[Any]:
    shared = SharedCertificates(runs, SimpleNamespace())
    return [shared.of(*run, note=print, begin=lambda: None) for run in runs]


def test_one_certificate_for_the_heaviest_load(asked) -> None:
    found = certificates([run_of(concurrency) for concurrency in (2, 16, 4)])
    assert [(one["streams"], one["workers"], one["quick"]) for one in asked] == [(16, None, True)]
    assert found[0] is found[1] is found[2]


def test_another_api_or_loop_has_its_own_with_the_same_workers(asked) -> None:
    certificates([run_of(2), run_of(2, traffic={"api": "completions"}), run_of(None)])
    assert [(one["api"], one["workers"]) for one in asked] == [
        ("chat", None),
        ("completions", 3),
        ("chat", 3),
    ]


def test_a_fixed_number_of_workers_is_kept(asked) -> None:
    certificates([run_of(2, traffic={"workers": 2})])
    assert [one["workers"] for one in asked] == [2]


def test_a_long_window_of_any_run_needs_a_whole_certificate(asked) -> None:
    certificates([run_of(8), run_of(2, window_s=600)])
    assert [one["quick"] for one in asked] == [False]


def test_runs_without_calibration_have_none(asked) -> None:
    found = certificates([run_of(64, traffic={"calibrate": False}), run_of(2)])
    assert (found[0], [one["streams"] for one in asked]) == (None, [2])
