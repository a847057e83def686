"""Conditions of a search's tiers are shares of requests within limits."""

import pytest

from harness.core.errors import ProfileError
from harness.profile.load import load_profile_text
from harness.profile.schema import Profile
from harness.profile.search import Condition, parse_condition

PROFILE = """\
purpose: smoke
model: {id: builtin:tiny}
server: {kind: torch}
traffic:
  workload: {kind: chat, system_tok: 10, user_tok: 10, output_tok: 4, context_limit_tok: 1000}
  load: [{kind: concurrency, concurrency: 4, warmup_s: 2s, window_s: 30s}]
"""


@pytest.mark.parametrize(
    ("text", "share", "limits"),
    [
        ("ttft_s.p95 < 5s", 0.95, {"ttft_s": 5.0}),
        ("ttft_s.p5<=250ms", 0.05, {"ttft_s": 0.25}),
        ("e2e_s.p999 < 2m", 0.999, {"e2e_s": 120.0}),
        ("tpot_s.p50 < 0.04", 0.5, {"tpot_s": 0.04}),
        ("speed_tok_s.p25 > 60", 0.75, {"tpot_s": 1 / 60}),
        ("speed_tok_s.p1 >= 20", 0.99, {"tpot_s": 0.05}),
    ],
)
def test_a_percentile_is_a_share(text: str, share: float, limits: dict[str, float]) -> None:
    found = parse_condition(text)
    assert found.share == pytest.approx(share)
    assert (found.ttft_s, found.tpot_s, found.e2e_s) == tuple(
        limits.get(key) for key in ("ttft_s", "tpot_s", "e2e_s")
    )


@pytest.mark.parametrize(
    "text",
    [
        "ttft_s < 5s",
        "ttft_s.p0 < 5s",
        "ttft_s.max < 5s",
        "ttft_s.p95 > 5s",
        "speed_tok_s.p25 < 60",
        "speed_tok_s.p25 > 60s",
        "ttft_s.p95 < 0",
        "itl_s.p95 < 5s",
        "output_tok_s > 5",
        "tftt_s.p95 < 5s",
        "ttft_s.p95 < 5 apples",
        "",
    ],
)
def test_other_conditions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_condition(text)


def test_a_request_meets_a_condition_within_every_limit() -> None:
    one = Condition("both", 0.9, ttft_s=1.0, tpot_s=0.1)
    assert one.is_met(1.0, 0.1, 50.0)
    assert one.is_met(1.0, None, 50.0)
    assert not one.is_met(1.001, 0.1, 50.0)
    assert not one.is_met(1.0, 0.101, 50.0)
    assert not Condition("e2e", 0.9, e2e_s=2.0).is_met(0.0, None, 2.1)


def load(*overrides: str) -> Profile:
    return load_profile_text(PROFILE, overrides=overrides)


def test_tiers_default_to_the_slos_at_95_percent() -> None:
    profile = load("search={to: 64}", "slos.ttft_s=2", "slos.tpot_s=0.1")
    assert profile.conditions == (Condition("slos", 0.95, 2.0, 0.1, None),)
    assert load("slos.ttft_s=2").conditions[0].ttft_s == 2
    assert load().conditions == ()
    again = Profile.model_validate(profile.model_dump(mode="json"))
    assert again.search == profile.search
    assert again.search is not None
    assert again.search.lowest == 1


def test_conditions_are_listed_tier_by_tier() -> None:
    tiers = "[{name: a, share: 90%}, {name: b, conditions: ['ttft_s.p95 < 5s', 'e2e_s.p50 < 9s']}]"
    profile = load(f"search={{tiers: {tiers}}}", "slos.ttft_s=2")
    assert [(one.text, one.share) for one in profile.conditions] == [
        ("slos", 0.9),
        ("ttft_s.p95 < 5s", 0.95),
        ("e2e_s.p50 < 9s", 0.5),
    ]


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["search={to: 64}"], "search.tiers"),
        (["search={tiers: []}", "slos.ttft_s=1"], "search.tiers"),
        (["search={from: 64, to: 64}", "slos.ttft_s=1"], "search.from"),
        (["search={from: 1.5}", "slos.ttft_s=1"], "search.from"),
        (["search={load: arrival_rate}", "slos.ttft_s=1"], "search.load"),
        (["search={precision: 0}", "slos.ttft_s=1"], "search.precision"),
        (
            ["search={to: 64}", "slos.ttft_s=1", "traffic.load.0.sessions=10"],
            "search.to",
        ),
        (
            [
                "search={to: 64}",
                "slos.ttft_s=1",
                "traffic.load.1={kind: concurrency, concurrency: 1, window_s: 1}",
            ],
            "search",
        ),
        (
            ["search={tiers: [{name: a, conditions: ['itl_s.p95 < 1s']}]}"],
            "search.tiers.0.conditions.0",
        ),
        (
            ["search={tiers: [{name: a}, {name: a}]}", "slos.ttft_s=1"],
            "search.tiers.1.name",
        ),
        (
            ["search={tiers: [{name: a, share: 0.9, conditions: ['ttft_s.p95 < 1s']}]}"],
            "search.tiers.0.share",
        ),
    ],
)
def test_impossible_searches_name_their_key(overrides: list[str], path: str) -> None:
    with pytest.raises(ProfileError) as caught:
        load(*overrides)
    assert f" {path}: " in str(caught.value)
