"""What a profile may say of energy, and of stages that draw from one part of a mix."""

import pytest

from harness.profile.load import load_profile_text

MIX = (
    "traffic.workload={kind: mix, parts: [{weight: 1, name: a, workload: {kind: batch}}, {weight:"
    " 1, workload: {kind: chat}}]}"
)


@pytest.mark.parametrize(
    ("overrides", "path", "word"),
    [
        (["energy={pue: {value: 0.9, source: s}}"], "energy.pue.value", "at least 1"),
        (["energy={grid_kgco2_per_kwh: 0.4}"], "energy.grid_source", "place"),
        (["energy={grid_source: s}"], "energy.grid_kgco2_per_kwh", "factor"),
        (["energy={attribute: true}"], "energy.attribute", "gpu-energy-attribution.yaml"),
        (["traffic.load.0.part=a"], "traffic.load.0.part", "kind: mix"),
        ([MIX, "traffic.load.0.part=b"], "traffic.load.0.part", "`a`, `chat`"),
    ],
)
def test_what_cannot_be_is_told_with_its_fix(valid, problems, overrides, path, word):
    (problem,) = problems(valid, *overrides)
    assert problem.path == path
    assert word in str(problem)


def test_idle_is_long_for_measurements_and_short_for_smoke(valid):
    assert load_profile_text(valid, source="p.yaml").idle_s == 5
    assert load_profile_text(valid, source="p.yaml", overrides=["purpose=measure"]).idle_s == 30
    assert (
        load_profile_text(valid, source="p.yaml", overrides=["energy={idle_s: 2m}"]).idle_s == 120
    )


def test_a_part_may_be_named_by_its_kind(valid):
    assert (
        load_profile_text(valid, source="p.yaml", overrides=[MIX, "traffic.load.0.part=chat"])
        .traffic.load[0]
        .part
        == "chat"
    )
