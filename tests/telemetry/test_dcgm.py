"""A DCGM exporter over loopback: names old and new, repeated values, MIG, and what it says when it
does not answer well.
"""

import pytest

from harness.core.records import Boundary
from harness.telemetry.sources.dcgm import DcgmPowerSource

A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000"


def line(name: str, value: object, uuid: str = A, **labels: str) -> str:
    shown = {
        "gpu": "0",
        "UUID": uuid,
        "modelName": "NVIDIA H100 80GB HBM3",
        "DCGM_FI_DRIVER_VERSION": "570.86.15",
        **labels,
    }
    inside = ",".join(f'{key}="{text}"' for key, text in shown.items())
    return f"# TYPE {name} gauge\n{name}{{{inside}}} {value}"


@pytest.fixture
def exporter(metrics_server):
    """`exporter(lines)` is what it shows from now on; gives a source that moves its own clock on by
    a second at each reading.
    """
    shown: list[str] = []
    metrics_server.body = lambda: ("\n".join(shown) + "\n").encode()
    clock = [0]

    def tick() -> int:
        clock[0] += 500_000_000
        return clock[0]

    def show(*lines: str) -> None:
        shown[:] = lines

    made: list[DcgmPowerSource] = []

    def source(*uuids: str) -> DcgmPowerSource:
        made.append(DcgmPowerSource(metrics_server.url, uuids, clock=tick))
        return made[-1]

    yield show, source
    for one in made:
        one.close()


OLD = (
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_POWER_USAGE_INSTANT",
    "DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT",
)
NEW = (
    "DCGM_FI_DEV_BOARD_POWER_WATTS",
    "DCGM_FI_DEV_BOARD_POWER_RAW_WATTS",
    "DCGM_FI_DEV_CPU_POWER_WATTS",
)


@pytest.mark.parametrize(("average", "instant", "cpu"), [OLD, NEW])
def test_names_before_and_since_4_6_and_instant_before_average(
    exporter, average, instant, cpu
) -> None:
    show, make = exporter
    grace = (
        f'{cpu}{{cpu="0",Hostname="h"}}'
        ' 75\nDCGM_FI_DEV_MODULE_POWER_UTIL_CURRENT{cpu="0",Hostname="h"} 690'
    )
    show(line(average, 400.0), line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1_000_000))
    source = make()
    (device,) = source.probe().devices
    assert (device.device_id, device.power, device.energy, device.name) == (
        A,
        "dcgm",
        "dcgm",
        "NVIDIA H100 80GB HBM3",
    )
    show(
        line(average, 410.5),
        line(instant, 432.1),
        line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1_500_000),
        grace,
    )
    found = {
        (r.boundary, r.device_id): (r.power_w, r.energy_j)
        for r in source.sample("power")
        if r.power_w is not None
    }
    assert found == {
        (Boundary.GPU_BOARD, A): (432.1, None),
        (Boundary.CPU_PACKAGE, "0"): (75.0, None),
        (Boundary.MODULE, "0"): (690.0, None),
    }
    show(line(average, 411), line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 2_000_000))
    readings = source.sample("power")
    assert {(r.power_w, r.energy_j) for r in readings} == {(411.0, None), (None, 2000.0)}
    assert {r.source for r in readings} == {"dcgm"}


def test_names_of_version_1(exporter) -> None:
    show, make = exporter
    show(line("dcgm_power_usage", 300), line("dcgm_total_energy_consumption", 5000))
    source = make()
    (device,) = source.probe().devices
    assert (device.power, device.energy) == ("dcgm", "dcgm")
    show(line("dcgm_power_usage", 310), line("dcgm_total_energy_consumption", 6000))
    assert {(r.power_w, r.energy_j) for r in source.sample("power")} == {(310.0, None), (None, 6.0)}


def test_repeated_values_are_no_new_readings_and_new_ones_lie_between_two_looks(exporter) -> None:
    show, make = exporter
    show(line("DCGM_FI_DEV_POWER_USAGE", 300))
    source = make()
    source.probe()
    assert source.sample("power") == ()
    assert source.sample("power") == ()
    show(line("DCGM_FI_DEV_POWER_USAGE", 301))
    (reading,) = source.sample("power")
    after = source.sample("power")
    assert reading.power_w == 301.0
    assert after == ()
    # The clock moves on by half a second at each asking: the looks were at 2.25 s and 3.25 s.
    assert reading.t_ns == 2_750_000_000
    assert not source.trouble.seen


def test_an_exporter_that_collects_too_rarely_is_told_with_the_way_out(exporter) -> None:
    show, make = exporter
    show(line("DCGM_FI_DEV_POWER_USAGE", 300))
    source = make()
    source.probe()
    for watts in (301, 302):
        for _ in range(5):
            source.sample("power")
        show(line("DCGM_FI_DEV_POWER_USAGE", watts))
        source.sample("power")
    (message,) = source.trouble.seen
    assert "-c 1000" in message


def test_mig_instances_repeat_their_board_and_are_kept_once(exporter) -> None:
    show, make = exporter

    def instances(watts: float) -> list[str]:
        return [
            line("DCGM_FI_DEV_POWER_USAGE", watts, GPU_I_ID=str(i), GPU_I_PROFILE="2g.20gb")
            for i in (3, 5)
        ]

    show(*instances(250))
    source = make()
    assert len(source.probe().devices) == 1
    show(
        *[f"{text} 1792000000000" for text in instances(260)]
    )  # a timestamp behind the value changes nothing
    assert [r.power_w for r in source.sample("power")] == [260.0]


def test_neighbours_are_left_out_and_blanks_zeros_and_rubbish_are_no_values(exporter) -> None:
    show, make = exporter
    bad = [
        line("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", value)
        for value in (0, "NaN", "9223372036854775794", "garbage", "+Inf")
    ]
    show(
        line("DCGM_FI_DEV_POWER_USAGE", 200),
        line("DCGM_FI_DEV_POWER_USAGE", 500, B),
        *bad,
        "DCGM_FI_DEV_POWER_USAGE{broken 1",
    )
    (device,) = make(A).probe().devices
    assert (device.device_id, device.power, device.energy) == (A, "dcgm", None)
    assert [d.device_id for d in make().probe().devices] == [A, B]
    elsewhere = make("GPU-elsewhere").probe()
    assert not elsewhere.devices
    assert "neither power nor energy" in elsewhere.why_not


def test_failures_are_told_and_values_come_back(exporter, metrics_server) -> None:
    show, make = exporter
    show(line("DCGM_FI_DEV_POWER_USAGE", 200))
    source = make()
    source.probe()
    for mode in ("error", "half", "garbage"):
        metrics_server.mode = mode
        source.sample("power")
    metrics_server.mode = "good"
    show(line("DCGM_FI_DEV_POWER_USAGE", 201))
    assert [r.power_w for r in source.sample("power")] == [201.0]
    assert any("HTTP 500" in message for message in source.trouble.seen)
    nowhere = DcgmPowerSource("http://127.0.0.1:1/metrics").probe()
    assert not nowhere.devices
    assert "dcgm-exporter" in nowhere.why_not


def test_boards_of_the_nvml_double_behind_an_exporter_are_known_as_doubles(exporter) -> None:
    show, make = exporter
    show(line("DCGM_FI_DEV_POWER_USAGE", 200, modelName="NVML TEST DOUBLE"))
    assert "NVML TEST DOUBLE" in str(make().probe().double)
    show(line("DCGM_FI_DEV_POWER_USAGE", 200))
    assert make().probe().double is None
