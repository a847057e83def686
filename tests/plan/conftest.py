"""Plans for the tests of this folder."""

import itertools

import pytest

from harness.core.records import ModelFacts
from harness.plan.build import make_plan
from harness.profile.schema import Profile


def _plan(workload="chat", load=None, *, context=16384, purpose="smoke", seed=1, **traffic):
    workload = workload if isinstance(workload, dict) else {"kind": workload}
    load = load or {"kind": "concurrency", "concurrency": 4, "window_s": 20}
    profile = Profile.model_validate(
        {
            "purpose": purpose,
            "seed": seed,
            "model": {"id": "builtin:tiny"},
            "traffic": {
                "api": "messages",
                "workload": workload,
                "load": [load] if isinstance(load, dict) else load,
                **traffic,
            },
        }
    )
    return make_plan(profile, ModelFacts("builtin:tiny", max_context_tok=context, tok_per_word=1.5))


@pytest.fixture(name="make", scope="session")
def _make():
    """A plan of a workload and a load, in one line."""
    return _plan


@pytest.fixture(name="take", scope="session")
def _take():
    """The first sessions of a plan's stage."""
    return lambda plan, count, stage=0: list(itertools.islice(plan.sessions(stage), count))
