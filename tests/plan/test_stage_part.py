"""A stage that draws from one part of a mix."""

import pytest

MIX = {
    "kind": "mix",
    "parts": [
        {"name": "short", "weight": 1, "workload": {"kind": "batch", "context_limit_tok": 2000}},
        {
            "name": "code",
            "weight": 3,
            "workload": {
                "kind": "claude-code",
                "tools_tok": 600,
                "system_tok": 200,
                "subagents": {"share": 0.3, "tools_tok": 300, "system_tok": 100},
            },
        },
    ],
}


def load(*parts, **more):
    return [
        {
            "kind": "concurrency",
            "concurrency": 2,
            "window_s": 20,
            "name": f"s{i}",
            **({} if part is None else {"part": part}),
            **more,
        }
        for i, part in enumerate(parts)
    ]


@pytest.mark.parametrize("start", ["fresh", "steady"])
def test_its_sessions_are_of_that_part_and_its_subagents_only(make, take, start):
    plan = make(MIX, load("short", "code", None, start=start))
    classes = [{session.workload_class for session in take(plan, 40, stage)} for stage in range(3)]
    assert classes[0] == {"short"}
    assert {name.split("/")[0] for name in classes[1]} == {"code"}
    assert {name.split("/")[0] for name in classes[2]} == {"short", "code"}


def test_it_is_part_of_the_workloads_identity_and_changes_no_other(make):
    hashes = {part: make(MIX, load(part)).workload_sha256 for part in (None, "short", "code")}
    assert len(set(hashes.values())) == 3
    assert make(MIX, load(None)).plan_sha256 != make(MIX, load("short")).plan_sha256
