"""Published results from their published inputs, by the formulas that estimate a site. This tests
the arithmetic, no more: it validates no estimate.
"""

import numpy as np
import pytest

from harness.fleet.estimate.model import Case, evaluate
from harness.fleet.site.arithmetic import HOURS_PER_MONTH, gpus_within, site_mw, usd_per_gpu_h
from harness.fleet.site.catalog import gpus

WITHIN = 0.01
NEUTRAL = {
    "tok_s_per_gpu": 1.0,
    "availability": 1.0,
    "reserved_spares": 0.0,
    "load_factor": 1.0,
    "idle_power_share": 0.0,
    "board_w": 1000.0,
    "host_power_share": 1.0,
    "network_storage": 0.0,
    "pue": 1.0,
    "co2_kg_per_kwh": 0.0,
}


def answers(count=1.0, host_w=0.0, usd_per_h=None, **factors):
    """What the model makes of stated factors; all others change nothing."""
    found = evaluate(
        {key: np.array([value]) for key, value in {**NEUTRAL, **factors}.items()},
        Case(gpus=count, host_w=host_w, usd_per_h=usd_per_h),
    )
    return {key: value[0] for key, value in found.items()}


@pytest.mark.parametrize(
    ("usd_per_month", "count", "implied"),
    [
        (1.25e9, 200_000, 8.56),  # Colossus 1's lease over the count that its operator states
        (1.25e9, 220_000, 7.78),  # over the count in the press
        (9.2e8, 110_000, 11.45),  # Google's lease
    ],
)
def test_price_of_a_gpu_hour_that_a_lease_implies(usd_per_month, count, implied):
    assert usd_per_gpu_h(usd_per_month, count) == pytest.approx(implied, abs=0.005)


def test_two_hundred_thousand_h100_need_more_than_three_hundred_megawatts():
    each = gpus()["H100"].all_in_kw.value
    assert site_mw(200_000, each) == pytest.approx(346.0)
    assert gpus_within(300.0, each) == 173_410


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
    found = answers(
        count=1000, tok_s_per_gpu=tok_s_per_gpu, board_w=1000 * gpus()[gpu].all_in_kw.value
    )
    assert found["output_tok_s_per_mw"] == pytest.approx(per_mw, rel=WITHIN)
    assert found["j_per_output_tok"] == pytest.approx(1e6 / found["output_tok_s_per_mw"])


def test_joules_per_token():
    found = answers(count=8, tok_s_per_gpu=1000.0, board_w=1730.0)
    assert found["j_per_output_tok"] == pytest.approx(1.73)


def test_dollars_per_million_tokens():
    # $1.30 a GPU-hour at 1,000 tok/s is 3.6 Mtok an hour.
    found = answers(count=8, tok_s_per_gpu=1000.0, usd_per_h=8 * 1.30)
    assert found["usd_per_mtok"] == pytest.approx(1.30 / 3.6)
    rent = gpus()["H100"].usd_per_gpu_h["rental_3_years"].value
    found = answers(count=8, tok_s_per_gpu=2209.0, **{"usd_per_gpu_h@rental": rent})
    assert found["usd_per_mtok@rental"] == pytest.approx(0.1635, rel=WITHIN)


def test_critical_it_power_of_an_h100():
    # SemiAnalysis: 700 W, 575 W of server, 10 % for storage, switches and optics: about 1.40 kW.
    found = answers(board_w=700.0, host_w=575.0, network_storage=0.10)
    assert found["w_per_gpu"] == pytest.approx(1400, rel=WITHIN)


def test_deepseeks_day_per_gpu():
    # DeepSeek's overview of its inference system, 2025-03-01: 168 B output tokens in 24 h, 226.75
    # nodes of 8 H800 on average, 278 at peak: 1,072 tok/s per GPU that was held.
    found = answers(count=278 * 8, tok_s_per_gpu=1072.0, load_factor=226.75 / 278)
    assert found["output_tok_per_day"] == pytest.approx(168e9, rel=WITHIN)


def test_geminis_ladder_from_the_accelerator_to_the_facility():
    # Google, arXiv 2508.15734: the median prompt takes 0.24 Wh: 58 % active accelerators, 25 %
    # host, 10 % idle spares, 8 % overhead (PUE 1.09). The printed shares add up to 101 %.
    whole, printed = 0.24, 1.01
    accelerator = 0.58 * whole / printed
    found = answers(board_w=accelerator, host_w=(0.25 + 0.10) * whole / printed, pue=1.09)
    assert found["w_per_gpu"] == pytest.approx(whole, rel=WITHIN)
    assert found["w_per_gpu"] / accelerator == pytest.approx(1.75, rel=WITHIN)


def test_energy_of_a_month_of_the_site_and_its_share_of_the_rent():
    found = answers(count=300_000, board_w=1000.0)  # 300 MW
    mwh = found["energy_mwh_per_day"] / 24 * HOURS_PER_MONTH
    assert mwh == pytest.approx(219_150, rel=WITHIN)
    assert mwh * 78 == pytest.approx(17e6, rel=0.02)  # at $0.078 a kWh
    assert mwh * 78 / 1.25e9 == pytest.approx(0.014, rel=0.03)
