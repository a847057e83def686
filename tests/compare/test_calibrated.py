"""Boards whose sensors were held against a meter, in comparisons."""

import json

import pytest

from harness.artifacts.run_result import load_result
from harness.compare.ratios import systematic_error
from harness.core.metrics import METRICS

POWER = METRICS["power_w"]


@pytest.fixture
def runs(make_run):
    """Runs of one board each, calibrated to a gain and a remaining error where those are given."""

    def make(name, uuid, calibrated=None, count=2):
        found = []
        for i in range(count):
            path = make_run(f"{name}{i}", uuid=uuid)
            summary = json.loads((path / "summary.json").read_text())
            device = {"device_id": uuid, "gain": 1.0, "systematic_ratio": 0.05, "calibrated": False}
            if calibrated is not None:
                device |= {
                    "gain": calibrated[0],
                    "systematic_ratio": calibrated[1],
                    "calibrated": True,
                }
            summary["energy"] = {
                "boundaries": {"gpu_board": {"boundary": "gpu_board", "devices": [device]}}
            }
            (path / "summary.json").write_text(json.dumps(summary))
            found.append(load_result(path))
        return found

    return make


def test_a_calibration_replaces_the_default_error_of_its_board(runs):
    plain, calibrated = runs("a", "G1"), runs("b", "G2", (1.03, 0.01))
    assert systematic_error(POWER, plain, calibrated, 0.05) == pytest.approx(
        (0.05**2 + 0.01**2) ** 0.5
    )


def test_the_same_calibration_on_both_sides_cancels(runs):
    assert (
        systematic_error(POWER, runs("a", "G1", (1.03, 0.01)), runs("b", "G1", (1.03, 0.01)), 0.05)
        == 0
    )


def test_readings_with_and_without_a_calibration_have_no_gain_in_common(runs):
    found = systematic_error(POWER, runs("a", "G1"), runs("b", "G1", (1.03, 0.01)), 0.05)
    assert found == pytest.approx((0.05**2 + 0.01**2) ** 0.5)
