"""What a probe shows of the tiers."""

from harness.profile.load import load_profile_text
from harness.profile.search import Condition
from harness.sweeps.capacity import ProbeRun, Tally, Tier
from harness.sweeps.probes import Probe, _only_lost, tiers_of

TTFT = Condition("ttft_s.p95 < 1s", 0.95, ttft_s=1.0)
TPOT = Condition("tpot_s.p80 < 0.1s", 0.8, tpot_s=0.1)
TIERS = (Tier("both", (TTFT, TPOT)), Tier("slow", (TPOT,)))


def probe(ttft: int, tpot: int, *, stopped: bool = False) -> Probe:
    """Requests of 100 that met each condition."""
    tallies = ((Tally(ttft, 100, 100), Tally(tpot, 100, 100)), (Tally(tpot, 100, 100),))
    return Probe(8.0, ProbeRun("run", 8.0, tallies), stopped)


def test_a_tier_is_missed_if_one_of_its_conditions_is() -> None:
    assert [probe(95, 80).misses(TIERS, at) for at in (0, 1)] == [False, False]
    assert [probe(94, 80).misses(TIERS, at) for at in (0, 1)] == [True, False]
    assert [probe(100, 79).misses(TIERS, at) for at in (0, 1)] == [True, True]
    assert [probe(100, 100, stopped=True).misses(TIERS, at) for at in (0, 1)] == [True, True]


def test_of_a_probe_that_was_ended_only_lost_conditions_are_upper_bounds() -> None:
    run = probe(10, 90, stopped=True).run
    assert run is not None
    found = _only_lost(run, TIERS)
    assert [[one.at_most for one in tier] for tier in found.tallies] == [[True, False], [False]]


def test_tiers_of_a_profile_have_its_conditions() -> None:
    profile = load_profile_text(
        "purpose: smoke\nmodel: {id: builtin:tiny}\nserver: {kind: torch}\ntraffic:\n"
        "  workload: {kind: chat, system_tok: 10, user_tok: 10, output_tok: 4,"
        " context_limit_tok: 1000}\n"
        "  load: [{kind: concurrency, concurrency: 4, window_s: 30s}]\n"
        "slos: {ttft_s: 2s, e2e_s: 9s}\n"
        "search: {tiers: [{name: slo, share: 90%}, {name: fast, conditions:"
        " ['ttft_s.p95 < 1s', 'speed_tok_s.p25 > 50']}]}\n"
    )
    slo, fast = tiers_of(profile)
    assert (slo.name, slo.conditions) == (
        "slo",
        (Condition("slos", 0.9, ttft_s=2.0, e2e_s=9.0),),
    )
    assert [(one.ttft_s, one.tpot_s, one.share) for one in fast.conditions] == [
        (1.0, None, 0.95),
        (None, 0.02, 0.75),
    ]
