"""Simulated years and scenarios on a real local Ray of two workers (extra `ray`): the same seeds,
the same answer as in this process.
"""

import numpy as np
import pytest

from harness.core.errors import PreflightError
from harness.fleet.over_time.forecast import simulate_task
from harness.fleet.over_time.parallel import spread
from harness.fleet.over_time.scenarios import Outlook, ScenarioTask, choose, play
from harness.fleet.over_time.simulate import Pool, diurnal

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def _ray_is_there():
    try:
        import ray  # noqa: F401
    except ImportError as error:
        pytest.fail(
            f"this test needs Ray: pip install 'colossus-harness[ray]' ({error})", pytrace=False
        )


@pytest.mark.filterwarnings("default")  # Ray's own
def test_ray_gives_what_one_process_gives():
    pool = Pool(
        nodes=500,
        spares=20,
        tok_s_per_gpu=1000.0,
        demand_tok_s=diurnal(0.55, 2000) * 3.5e6,
        w_per_gpu=1200.0,
    )
    years = [(pool, seed) for seed in range(4)]
    grid = np.linspace(0, 2, 41)
    outlook = Outlook(
        1e9, grid, np.minimum(1.0, grid), np.full(200, 1.0), 4000.0, 900, monthly_usd=1e6
    )
    scenarios = [ScenarioTask(scenario, outlook, 7) for scenario in choose(["all"])]

    alone = (
        [year.totals() for year in map(simulate_task, years)],
        [play(task) for task in scenarios],
    )
    on_ray = (
        [year.totals() for year in spread(simulate_task, years, processes=2, ray_address="local")],
        spread(play, scenarios, processes=2, ray_address="local"),
    )
    assert on_ray == alone


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:port"]
)
def test_a_cluster_that_is_not_there_is_told_at_once(address):
    with pytest.raises(PreflightError, match="no Ray cluster at"):
        spread(abs, [1], ray_address=address)
