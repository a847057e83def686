"""What `harness check` says of power: every source with what it measures, and why the others
measure nothing.
"""

import io
from pathlib import Path

from harness.commands.check import check_profile
from harness.commands.system import print_power, survey_power
from harness.core.records import Boundary
from harness.profile.load import load_profile
from harness.telemetry.probe import NEEDS, ProbedSource, Sensor

PROFILE = Path(__file__).parents[2] / "loadprofiles" / "cpu-smoke.yaml"


def test_the_table_has_what_is_measured_first_and_reasons_behind() -> None:
    boards = tuple(
        Sensor(
            Boundary.GPU_BOARD,
            f"GPU-{i}",
            "NVIDIA H100",
            "power",
            "nvml-instant",
            300.0 + i,
            0.25,
            0.02,
            0.0005,
        )
        for i in range(2)
    )
    counter = Sensor(Boundary.GPU_BOARD, "GPU-0", "NVIDIA H100", "energy", "nvml-counter")
    stream = io.StringIO()
    surveyed = (
        ProbedSource("nvml", (*boards, counter), (), "libnvidia-ml.so.1"),
        ProbedSource("rapl", (), ("only root may read it",), double="a folder of ours"),
    )
    print_power(surveyed, stream)
    head, rest = stream.getvalue().split("Not available")
    both = next(line for line in head.splitlines() if "instant" in line)
    assert "2 x NVIDIA H100" in both
    assert all(text in both for text in ("gpu_board", "601.0 W", "0.25 W", "20 ms", "0.5 ms"))
    one = next(line for line in head.splitlines() if "counter" in line)
    assert one.count("unknown") == 4  # a counter that stood still is not 0 W
    assert "only root" in rest
    assert "a folder of ours" in rest


def test_a_machine_without_meters_has_only_reasons() -> None:
    stream = io.StringIO()
    print_power((ProbedSource("rapl", (), ("not here",)),), stream)
    assert "boundary" not in stream.getvalue()
    assert "not here" in stream.getvalue()


def test_every_source_has_a_line_and_those_of_a_profile_are_looked_at(tmp_path: Path) -> None:
    profile = load_profile(PROFILE, [f"telemetry.power=[{{kind: rapl, root: {tmp_path}}}]"])
    kinds = [one.kind for one in survey_power(profile)]
    assert sorted(kinds) == sorted(["nvml", "dcgm", "rapl", "ipmi", *NEEDS])
    assert all(one.channels or one.why_not for one in survey_power())


def test_only_a_named_source_without_power_is_a_problem(
    tmp_path: Path,
) -> None:
    """A source that is named and gives nothing is a problem and an automatic one is not."""

    def findings(power: str) -> dict[str, bool]:
        return {
            one.what: one.ok
            for one in check_profile(load_profile(PROFILE, [f"telemetry.power={power}"]))
            if "power" in one.what
        }

    assert findings(
        f"[{{kind: rapl, root: {tmp_path}}}, {{kind: csv, path: {tmp_path}/x, boundary: rack}}]"
    ) == {
        "power: rapl": True,
        "power: csv": False,
    }
    assert all(findings("auto").values())
    assert findings("none") == {}
