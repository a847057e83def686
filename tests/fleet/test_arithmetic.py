"""Published results from their published inputs. This tests the arithmetic, no more: it validates
no estimate.
"""

import pytest

from harness.fleet.site import arithmetic as a
from harness.fleet.site.catalog import gpus

WITHIN = 0.01


@pytest.mark.parametrize(
    ("usd_per_month", "count", "implied"),
    [
        (1.25e9, 200_000, 8.56),  # Colossus 1's lease over the count that its operator states
        (1.25e9, 220_000, 7.78),  # over the count in the press
        (9.2e8, 110_000, 11.45),  # Google's lease
    ],
)
def test_price_of_a_gpu_hour_that_a_lease_implies(usd_per_month, count, implied):
    assert a.usd_per_gpu_h(usd_per_month, count) == pytest.approx(implied, abs=0.005)


def test_two_hundred_thousand_h100_need_more_than_three_hundred_megawatts():
    each = gpus()["H100"].all_in_kw.value
    assert a.site_mw(200_000, each) == pytest.approx(346.0)
    assert a.gpus_within(300.0, each) == 173_410


@pytest.mark.parametrize(
    ("gpu", "tok_s_per_gpu", "per_mw"),
    [
        # InferenceMAX v1, gpt-oss-120b 1k/8k at 90 tok/s/user: 0.9 M and 2.8 M tok/s/MW
        ("H100", 1557, 0.9e6),
        ("B200", 6076, 2.8e6),
        # TensorRT-LLM performance overview, Llama-3.3-70B 1k/1k, over InferenceX's kilowatts
        ("H100", 2209, 1.28e6),
        ("H200", 2587, 1.50e6),
        ("B200", 6920, 3.19e6),
        ("GB200", 7769, 3.70e6),
    ],
)
def test_tokens_per_second_per_megawatt_as_inferencex_counts_them(gpu, tok_s_per_gpu, per_mw):
    assert a.tok_s_per_mw(tok_s_per_gpu, gpus()[gpu].all_in_kw.value) == pytest.approx(
        per_mw, rel=WITHIN
    )


def test_joules_per_token_and_tokens_per_megawatt_are_one_figure():
    assert a.j_per_tok(2209, 1.73) == pytest.approx(1e6 / a.tok_s_per_mw(2209, 1.73))
    assert a.j_per_tok(1000, 1.73) == pytest.approx(1.73)


def test_dollars_per_million_tokens():
    # $1.30 a GPU-hour at 1,000 tok/s is 3.6 Mtok an hour.
    assert a.usd_per_mtok(1.30, 1000) == pytest.approx(1.30 / 3.6)
    assert a.usd_per_mtok(
        gpus()["H100"].usd_per_gpu_h["rental_3_years"].value, 2209
    ) == pytest.approx(0.1635, rel=WITHIN)


def test_critical_it_power_of_an_h100():
    # SemiAnalysis: 700 W, 575 W of server, 10 % for storage, switches and optics: about 1.40 kW.
    assert a.facility_w_per_gpu(700, 575, 0.10, pue=1.0) == pytest.approx(1400, rel=WITHIN)


def test_deepseeks_day_per_gpu():
    # DeepSeek's overview of its inference system, 2025-03-01: 168 B output tokens in 24 h, 226.75
    # nodes of 8 H800 on average, 278 at peak.
    per_gpu = a.tok_s_per_gpu_of_day(168e9, 226.75 * 8)
    assert per_gpu == pytest.approx(1072, rel=WITHIN)
    headline = 14_800  # tok/s a node, of decoding nodes alone
    assert headline / 8 == pytest.approx(1850)
    assert per_gpu < headline / 8
    load_factor = 226.75 / 278
    assert load_factor == pytest.approx(0.82, rel=WITHIN)


def test_geminis_ladder_from_the_accelerator_to_the_facility():
    # Google, arXiv 2508.15734: the median prompt takes 0.24 Wh: 58 % active accelerators, 25 %
    # host, 10 % idle spares, 8 % overhead (PUE 1.09). The printed shares add up to 101 %. The
    # method of active accelerators alone, at their best, gives 0.10 Wh.
    whole, printed = 0.24, 1.01
    ladder = a.boundary_ladder(
        0.58 * whole / printed, host=0.25 * whole / printed, idle=0.10 * whole / printed, pue=1.09
    )
    assert ladder["facility"] == pytest.approx(whole, rel=WITHIN)
    assert ladder["facility"] / ladder["accelerator"] == pytest.approx(1.75, rel=WITHIN)
    assert whole / 0.10 == pytest.approx(2.4, rel=WITHIN)


def test_energy_of_a_month_of_the_site_and_its_share_of_the_rent():
    mwh = a.mwh(300, a.HOURS_PER_MONTH)
    assert mwh == pytest.approx(219_150, rel=WITHIN)
    assert mwh * 78 == pytest.approx(17e6, rel=0.02)  # at $0.078 a kWh
    assert mwh * 78 / 1.25e9 == pytest.approx(0.014, rel=0.03)
