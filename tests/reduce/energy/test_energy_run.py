"""The joules of whole run directories whose truth is known: idle, ladder, boards, classes, carbon,
calibration.
"""

import csv
import json
import math
from datetime import UTC, datetime

import pynvml
import pytest
from typer.testing import CliRunner

from harness.artifacts import tables
from harness.artifacts.events import EventLog
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.cli import app
from harness.core.errors import ArtifactError, ProfileError
from harness.core.power_boundaries import (
    HOST_POWER_SHARE,
    HOST_RATED_W,
    NETWORK_STORAGE_RATIO,
    PUE,
    host_rated_w,
)
from harness.fleet.site.catalog import gpus as fleet_gpus
from harness.fleet.site.catalog import priors as fleet_priors
from harness.reduce import reduce_run
from harness.reduce.energy.calibrate import calibrate
from harness.reduce.energy.gpu_state import REASONS
from harness.reduce.figures.other_tools import TOOLS
from harness.reduce.reduction import reduce_fully
from harness.reduce.series import series
from harness.report.run.energy import energy_view

IDLE_W, READY_W, LOAD_W = 80.0, 110.0, 300.0
GRID = {"grid_kgco2_per_kwh": 0.4, "grid_source": "somewhere, 2025"}


def watts_at(t):
    return IDLE_W if t < -9 else READY_W if t < 0 else LOAD_W


@pytest.fixture
def run(new_builder, times, tmp_path):
    """A run of two boards that draw 80 W, with the model 110 W, under load 300 W; they were read
    from 40 s before the load.
    """
    t0, second = times
    number = 0

    def make(
        *,
        energy=None,
        boards=None,
        node_w=None,
        meters=None,
        gpus=2,
        idle=True,
        watts=watts_at,
        manifest=None,
        purpose="smoke",
        classes=None,
        pause_s=None,
    ):
        nonlocal number
        number += 1
        builder = new_builder(gpus=gpus, window_s=40.0, purpose=purpose)
        for stream in range(4):
            for turn in range(21):
                start_s = 0.01 * stream + 2.11 * turn
                if pause_s is None or not pause_s[0] <= start_s < pause_s[1]:
                    builder.request(start_s, tokens=20, gap_us=100_000)
        builder.requests.sort(key=lambda row: row["intended_ns"])
        if classes is not None:
            for row in builder.requests:
                row["class"] = classes(row)
        end_s = builder.window[1] + builder.drain_s
        for gpu in range(gpus):
            joules = 5000.0
            for i in range(-400, round(end_s * 10), 2):
                w = watts(i / 10) + gpu
                at = t0 + i * second // 10
                row = {
                    "t_ns": at,
                    "boundary": "gpu_board",
                    "device_id": f"GPU-{gpu}",
                    "power_w": w,
                    "energy_j": None,
                    "source": "nvml-instant",
                }
                builder.power.append(row)
                if i % 10 == 0:
                    builder.power.append(
                        {**row, "power_w": None, "energy_j": joules, "source": "nvml-counter"}
                    )
                joules += w / 5
        for boundary, w in {
            **({"node": node_w} if node_w is not None else {}),
            **(meters or {}),
        }.items():
            for i in range(-20, round(end_s / 2) + 1):
                builder.power.append(
                    {
                        "t_ns": t0 + 2 * i * second,
                        "boundary": boundary,
                        "device_id": "bmc",
                        "power_w": w,
                        "energy_j": None,
                        "source": "ipmi",
                    }
                )
        path = builder.write(tmp_path / f"run-{number}")
        files = RunDir(path)
        raw = json.loads(files.manifest.read_text())
        raw["profile"]["energy"] = energy or {}
        raw["started_ns"] = t0 - 40 * second
        raw.update(manifest or {})
        files.manifest.write_text(json.dumps(raw))
        if idle:
            log = EventLog(files.events)
            log.append(
                "idle",
                t_ns=t0,
                when="before_server",
                start_ns=t0 - 39 * second,
                end_ns=t0 - 9 * second,
            )
            log.append(
                "idle", t_ns=t0, when="ready", start_ns=t0 - 8 * second, end_ns=t0 - 1 * second
            )
            log.append("idle", t_ns=t0, when="torn", start_ns=t0)
            log.append(
                "stage_primed",
                t_ns=t0,
                stage="main",
                start_ns=t0 - 2 * second,
                end_ns=t0 - 1 * second,
            )
        if boards is not None:
            empty = dict.fromkeys(field.name for field in tables.BOARDS)
            with JournalWriter(files.boards_journal, tables.BOARDS) as journal:
                journal.append(
                    [
                        {
                            **empty,
                            "t_ns": t0 + i * second,
                            "device_id": f"GPU-{gpu}",
                            "throttle_reasons": 0,
                            **boards(i, gpu),
                        }
                        for gpu in range(gpus)
                        for i in range(-40, round(end_s))
                    ]
                )
        return path

    return make


def codes(summary):
    return {concern.code: concern for concern in summary.verdict.concerns}


class TestExpectedGpus:
    """Servers elsewhere (`attach`), whose GPUs the manifest counts without naming them."""

    def attached(self, path, gpu_count, power="none"):
        files = RunDir(path)
        raw = json.loads(files.manifest.read_text())
        raw["profile"]["server"] = {"kind": "attach", "gpu_count": gpu_count}
        raw["profile"]["telemetry"] = {"power": power}
        raw["hardware"] = {"gpus": []}
        files.manifest.write_text(json.dumps(raw))
        return reduce_fully(path)

    def test_all_of_them_give_joules(self, run):
        found = self.attached(run(gpus=3), 3)
        assert found.summary.metrics["power_w"].value == pytest.approx(903, rel=1e-3)
        assert "gpu_set" not in codes(found.summary)

    @pytest.mark.parametrize("gpu_count", [2, 4])
    def test_another_number_leaves_energy_absent_everywhere(self, run, gpu_count):
        found = self.attached(run(gpus=3), gpu_count)
        summary = found.summary
        assert summary.metrics["energy_j"].value is None
        assert summary.metrics["output_tok_per_j"].value is None
        assert "GPU-0, GPU-1, GPU-2" in summary.metrics["energy_j"].note
        assert summary.metrics["idle_power_w"].value is None
        assert summary.rosetta.tools["aiperf"].figures["power_w"].value is None
        assert "power_w" not in series(found).columns
        assert codes(summary)["gpu_set"].severity == "degraded"
        assert codes(summary)["gpu_set"].value == 1

    def test_a_file_that_tells_no_gpus_apart_covers_all_of_them(self, run):
        meter = {"kind": "csv", "path": "meters/GPU-0.csv", "boundary": "gpu_board"}
        whole = self.attached(run(gpus=1), 16, [meter]).summary
        assert whole.metrics["power_w"].value == pytest.approx(300, rel=1e-3)
        of_one = self.attached(run(gpus=1), 16, [{**meter, "device_column": "gpu"}]).summary
        assert of_one.metrics["power_w"].value is None


class TestOtherTools:
    def test_they_take_the_readings_of_throttled_boards_and_say_so(self, run):
        throttled = run(boards=lambda i, _: {"throttle_reasons": 0x40 if i > 0 else 0})
        summary = reduce_run(throttled)
        assert summary.metrics["output_tok_per_j"].value is None
        figures = summary.rosetta.tools["aiperf"].figures
        assert figures["power_w"].value == pytest.approx(601, rel=1e-2)
        assert figures["output_tok_per_j"].value > 0
        assert {figures[key].note for key in ("power_w", "output_tok_per_j")} == {
            TOOLS["aiperf"].terms["power_w"].note
        }
        assert TOOLS["aiperf"].terms["power_w"].note


class TestIdle:
    def test_idle_above_idle_and_total(self, run):
        summary = reduce_run(run())
        metrics = summary.metrics
        assert metrics["idle_power_w"].value == pytest.approx(2 * IDLE_W + 1)
        assert metrics["ready_power_w"].value == pytest.approx(2 * READY_W + 1)
        assert metrics["power_w"].value == pytest.approx(2 * LOAD_W + 1)
        assert metrics["active_power_w"].value == pytest.approx(2 * (LOAD_W - IDLE_W))
        above = summary.energy.idle.above["gpu_board"]
        assert above.above_ready_w == pytest.approx(2 * (LOAD_W - READY_W))
        assert summary.energy.idle.ready.boundaries["gpu_board"].watts == pytest.approx(
            2 * READY_W + 1
        )

    def test_less_under_load_than_without_is_a_concern(self, run):
        summary = reduce_run(run(watts=lambda t: 200.0 if t < 0 else 150.0))
        assert codes(summary)["power_below_idle"].value == pytest.approx(301)

    def test_without_such_stretches_it_is_absent_and_says_so(self, run):
        figure = reduce_run(run(idle=False)).metrics["idle_power_w"]
        assert figure.value is None
        assert "idle period" in figure.note


class TestLadder:
    def rungs(self, path):
        return {rung.rung: rung for rung in reduce_run(path).energy.ladder}

    def test_what_no_meter_read_is_modelled_from_the_rung_below_with_its_sources(self, run):
        rungs = self.rungs(run())
        board = 2 * LOAD_W + 1
        node = board + 2 * 575 * 0.7
        assert (rungs["board"].watts, rungs["board"].basis) == (
            pytest.approx(board),
            "measured",
        )
        assert (rungs["node"].watts, rungs["node"].basis) == (pytest.approx(node), "modelled")
        assert (rungs["critical_it"].watts, rungs["critical_it"].basis) == (
            pytest.approx(node * 1.1),
            "modelled",
        )
        assert (rungs["facility"].watts, rungs["facility"].basis) == (
            pytest.approx(node * 1.1 * 1.225),
            "modelled",
        )
        assert rungs["facility"].low_w == pytest.approx((board + 2 * 575 * 0.4) * 1.05 * 1.05)
        assert rungs["facility"].high_w == pytest.approx((board + 2 * 575 * 0.9) * 1.15 * 1.40)
        assert all(
            "20" in rungs[rung].source for rung in ("node", "critical_it", "facility")
        )  # each with its date

    def test_a_node_meter_is_taken_as_it_is_and_what_stands_on_it_stays_modelled(self, run):
        path = run(node_w=1500.0, energy={"pue": {"value": 1.2, "source": "the site"}})
        rungs = self.rungs(path)
        assert (rungs["node"].watts, rungs["node"].basis, rungs["node"].factor) == (
            pytest.approx(1500),
            "measured",
            None,
        )
        assert rungs["facility"].watts == pytest.approx(1500 * 1.1 * 1.2)
        assert (rungs["facility"].basis, rungs["facility"].factor_stated) == (
            "modelled",
            True,
        )
        assert "the site" in rungs["facility"].source
        metrics = reduce_run(path).metrics
        assert metrics["power_w"].value == pytest.approx(
            2 * LOAD_W + 1
        )  # the boards', whatever else was read
        assert metrics["power_w@node"].value == pytest.approx(1500)
        assert metrics["power_w@node"].systematic_ratio is None
        assert (
            metrics["output_tok_s_per_mw"].value is None
        )  # nothing modelled stands in for the utility's meter

    def test_a_host_that_nobody_published_is_absent_until_it_is_stated(self, run):
        hardware = {
            "gpus": [{"uuid": f"GPU-{i}", "index": i, "name": "NVIDIA T9000"} for i in range(2)]
        }
        rungs = self.rungs(run(manifest={"hardware": hardware}))
        assert rungs["node"].basis == rungs["facility"].basis == "absent"
        assert "T9000" in rungs["node"].note
        stated = self.rungs(
            run(
                manifest={"hardware": hardware},
                energy={"host_w_per_gpu": {"value": 200, "source": "measured once"}},
            )
        )
        assert stated["node"].watts == pytest.approx(2 * LOAD_W + 1 + 400)

    def test_the_constants_are_those_of_the_fleet(self):
        priors = fleet_priors()
        for ours, key in (
            (HOST_POWER_SHARE, "host_power_share"),
            (NETWORK_STORAGE_RATIO, "network_storage"),
            (PUE, "pue"),
        ):
            assert (ours.low, ours.value, ours.high) == pytest.approx(
                (priors[key].low, priors[key].value, priors[key].high)
            ), key
        hosts = {
            spec.nvml_name: spec.host_rated_w.value
            for spec in fleet_gpus().values()
            if spec.host_rated_w is not None
        }
        assert {pattern: factor.value for pattern, factor in HOST_RATED_W.items()} == hosts
        assert host_rated_w("NVIDIA H100 PCIe") is None


class TestBoards:
    def test_a_slowdown_in_the_window_makes_a_measurement_invalid_and_its_energy_absent(self, run):
        hot = lambda i, gpu: {"throttle_reasons": 0x40 if gpu == 1 and 20 <= i < 25 else 0}  # noqa: E731
        for purpose, severity in (("measure", "invalid"), ("smoke", "degraded")):
            summary = reduce_run(run(boards=hot, purpose=purpose))
            assert codes(summary)["throttled"].severity == severity
            assert codes(summary)["throttled"].value == pytest.approx(5 / 40)
            figure = summary.metrics["output_tok_per_j"]
            assert figure.value is None
            assert "thermal slowdown" in figure.note

    def test_stretches_are_told_for_the_timeline(self, run):
        hot = lambda i, gpu: {"throttle_reasons": 0x4 | (0x40 if gpu == 1 and 20 <= i < 25 else 0)}  # noqa: E731
        stretches = reduce_fully(run(boards=hot)).summary.energy.boards.stretches
        thermal = [s for s in stretches if s.reason == "hw_thermal_slowdown"]
        assert [(s.device_id, round(s.start_s, 6), round(s.end_s, 6)) for s in thermal] == [
            ("GPU-1", 60.0, 65.0)
        ]  # from the run's start
        assert {s.reason for s in stretches} == {"hw_thermal_slowdown", "sw_power_cap"}

    def test_a_board_that_was_watched_for_a_part_of_the_window_says_for_how_much(self, run):
        """The last row of two of three boards was 10 s into a window of 40 s, and holds for a
        second more.
        """
        state = lambda i, gpu: {  # noqa: E731
            "throttle_reasons": 0 if i <= 12 or gpu == 2 else None,
            "temperature_c": 40.0 + i,
            "sm_clock_mhz": 1700 + 2 * i,
        }
        summary = reduce_run(run(boards=state, purpose="measure", gpus=3))
        found = summary.energy.boards.devices
        assert [one.watched_share for one in found] == pytest.approx([11 / 40, 11 / 40, 1])
        assert codes(summary)["throttling_not_watched"].value == 2
        assert {one.temperature_max_c for one in found} == {81.0}  # of the readings from 2 to 41 s
        assert {one.sm_clock_mhz for one in found} == {1743.0}

    def test_bits_are_those_of_nvml(self):
        bits = {
            "hw_slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown,
            "sw_thermal_slowdown": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
            "hw_thermal_slowdown": pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            "hw_power_brake": pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
            "sw_power_cap": pynvml.nvmlClocksEventReasonSwPowerCap,
            "app_clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
            "sync_boost": pynvml.nvmlClocksEventReasonSyncBoost,
            "display_clocks": pynvml.nvmlClocksEventReasonDisplayClockSetting,
        }
        assert bits == REASONS

    def test_a_slowdown_outside_the_window_does_not_count(self, run):
        summary = reduce_run(run(boards=lambda i, gpu: {"throttle_reasons": 0x8 if i < 1 else 0}))
        assert summary.metrics["energy_j"].value is not None
        assert "throttled" not in codes(summary)

    def test_the_power_cap_at_its_default_is_normal_and_its_share_is_told(self, run):
        def capped(i, _):
            return {"throttle_reasons": 0x4 if i % 4 == 0 else 0, "power_limit_w": 700.0}

        summary = reduce_run(run(boards=capped))
        assert codes(summary)["power_capped"].severity == "note"
        assert codes(summary)["power_capped"].value == pytest.approx(0.25)
        assert summary.labels.power_limit is None
        assert summary.metrics["energy_j"].value is not None

    def test_a_limit_below_the_default_is_a_treatment(self, run):
        summary = reduce_run(run(boards=lambda *_: {"power_limit_w": 400.0}))
        assert summary.labels.power_limit == "400 of 700 W"
        assert "power_limit" in codes(summary)

    def test_neighbours_errors_and_silence_are_concerns(self, run):
        def board(i, gpu):
            return {
                "foreign_processes": 1 if gpu == 0 and i > 30 else 0,
                "ecc_uncorrected": (3 + (i > 10)) if i < 20 else 0,  # the driver was loaded anew
                "xid": 79 if i == 12 and gpu else None,
            }

        found = codes(reduce_run(run(boards=board, purpose="measure")))
        assert found["foreign_processes"].severity == "degraded"
        assert found["ecc_errors"].value == 1  # what was there before the run is not the run's
        assert "79" in found["xid"].message
        silent = codes(reduce_run(run(boards=None, purpose="measure")))
        assert silent["throttling_not_watched"].value == 2


class TestFigures:
    def test_tokens_per_joule_are_tokens_per_second_per_watt(self, run):
        metrics = reduce_run(run(boards=lambda *_: {})).metrics
        for per_j, rate in (
            ("output_tok_per_j", "output_tok_s"),
            ("input_computed_tok_per_j", "input_computed_tok_s"),
            ("total_tok_per_j", "total_tok_s"),
        ):
            assert metrics[per_j].value == pytest.approx(
                metrics[rate].value / metrics["power_w"].value, rel=1e-12
            ), per_j
        assert metrics["j_per_output_tok"].value == pytest.approx(
            1 / metrics["output_tok_per_j"].value
        )
        assert metrics["j_per_request"].value == pytest.approx(
            metrics["power_w"].value / metrics["requests_per_s"].value
        )

    def test_a_meter_of_the_utility_gives_tokens_per_megawatt_at_its_boundary(self, run):
        path = run(meters={"facility": 2.5e6, "rack": 1400.0})
        metrics = reduce_run(path).metrics
        figure = metrics["output_tok_s_per_mw"]
        assert figure.value == pytest.approx(metrics["output_tok_s"].value / 2.5)
        assert (figure.boundary, figure.basis) == ("facility", "measured")
        assert metrics["output_tok_per_j@rack"].value == pytest.approx(
            metrics["output_tok_s"].value / 1400
        )
        rungs = {rung.rung: rung for rung in reduce_run(path).energy.ladder}
        assert [rungs[rung].basis for rung in ("node", "critical_it", "facility")] == [
            "modelled",
            "measured",
            "measured",
        ]

    def test_the_statistical_error_joins_that_of_the_work_and_that_of_the_readings(self, run):
        metrics = reduce_run(run(boards=lambda *_: {})).metrics
        half = lambda figure: (figure.ci_high - figure.ci_low) / 2 / figure.value  # noqa: E731
        energy, rate, per_j = (
            metrics["energy_j"],
            metrics["output_tok_s"],
            metrics["output_tok_per_j"],
        )
        assert rate.ci_low is not None
        assert half(per_j) == pytest.approx(
            math.hypot(half(rate), half(energy)), rel=0.01
        )  # power is even, so all that varies is the work

    @pytest.mark.parametrize(
        ("meters", "seen"),
        [
            ({"node": 1500.0}, False),
            ({"node": 3.0}, True),
            ({"rack": 500.0}, True),
            ({"node": 590.0}, False),
        ],
    )
    def test_a_meter_that_shows_less_than_the_boards_behind_it_is_a_concern(
        self, run, meters, seen
    ):
        found = codes(reduce_run(run(meters=meters, purpose="measure")))
        assert ("power_part_above_whole" in found) is seen
        if seen:
            concern = found["power_part_above_whole"]
            assert (concern.severity, concern.value) == ("degraded", pytest.approx(2 * LOAD_W + 1))

    def test_every_figure_carries_both_errors(self, run):
        metrics = reduce_run(run(boards=lambda *_: {})).metrics
        ratio = 0.05 * (300**2 + 301**2) ** 0.5 / 601
        for key in (
            "power_w",
            "energy_j",
            "output_tok_per_j",
            "input_computed_tok_per_j",
            "total_tok_per_j",
            "j_per_output_tok",
        ):
            figure = metrics[key]
            assert figure.systematic_ratio == pytest.approx(ratio), key
            assert figure.systematic_low < figure.value < figure.systematic_high, key
        per_j = metrics["output_tok_per_j"]
        assert per_j.systematic_high == pytest.approx(
            per_j.value / (1 - ratio)
        )  # the joules are its denominator
        assert metrics["energy_j"].ci_low < metrics["energy_j"].value < metrics["energy_j"].ci_high
        assert metrics["output_tok_s"].systematic_ratio is None

    def test_carbon_needs_the_grids_factor_and_says_at_which_rung(self, run):
        assert "energy.grid" in reduce_run(run()).metrics["kgco2_per_mtok"].note
        summary = reduce_run(run(energy=GRID))
        rung = summary.energy.ladder[-1]
        figure = summary.metrics["kgco2_per_mtok"]
        tokens = summary.metrics["output_tok_s"].value * 40
        assert figure.value == pytest.approx(rung.joules / 3.6e6 * 0.4 / tokens * 1e6)
        assert (figure.basis, figure.boundary) == ("modelled", "facility")
        assert "somewhere, 2025" in figure.note

    def test_the_tables_say_what_is_known_and_why_the_rest_is_not(self, run):
        board = lambda i, gpu: {  # noqa: E731
            "throttle_reasons": 0x4 if gpu else None,
            "power_limit_w": 500.0 if gpu else None,
            "sm_clock_mhz": 1755,
            "foreign_processes": 0,
        }
        hardware = {
            "gpus": [
                {
                    "uuid": f"GPU-{i}",
                    "index": i,
                    "name": "NVIDIA T9000",
                    "power_limit_default_w": 700.0,
                }
                for i in range(2)
            ]
        }
        shown = energy_view(
            reduce_run(
                run(boards=board, manifest={"hardware": hardware}, energy={"attribute": True})
            ).energy
        )
        table = {one.caption.split(" ")[0]: one for one in shown.tables}
        assert all(len(row) == len(one.head) for one in shown.tables for row in one.rows)
        (energy,) = table["Measured"].rows
        assert energy[0] == "GPU boards"
        assert energy[4:] == ("± 3.5%", "measured", "counter")
        rungs = {row[0]: row for row in table["Power"].rows}
        assert rungs["GPU boards"][3:] == ("measured", "nvml")
        assert rungs["Nodes"][1:4] == ("—", "—", "absent")
        assert "T9000" in rungs["Nodes"][4]
        assert [row[0] for row in table["GPUs"].rows] == ["GPU-0", "GPU-1"]
        assert [row[3] for row in table["GPUs"].rows] == ["— of 700", "500 of 700"]
        assert [row[5] for row in table["GPUs"].rows] == ["not recorded", "software power cap 100%"]
        assert "Energy" not in table  # refused before it was fitted
        assert any("prefill only" in note for note in shown.notes)

    def test_an_energy_that_is_absent_is_a_reason_to_doubt_a_measurement(self, run):
        for purpose, severity in (("measure", "degraded"), ("smoke", "note")):
            found = codes(reduce_run(run(watts=lambda _: 900.0, purpose=purpose)))
            assert found["energy_absent"].severity == severity
            assert "GPU-0: 900 W" in found["energy_absent"].message

    def test_attribution_of_a_single_window_is_refused(self, run):
        assert "energy.attribute" in reduce_run(run()).energy.attribution.reason
        alone = reduce_run(run(energy={"attribute": True})).energy.attribution
        assert "prefill only" in alone.reason


class TestClasses:
    def test_the_classes_joules_add_up_and_go_by_time_in_service(self, run):
        summary = reduce_run(
            run(classes=lambda row: "long" if int(row["request_id"][1:6]) % 4 else "short")
        )
        shared = summary.energy.classes
        assert "allocation" in shared.rule_text
        by_class = {one.name: one for one in shared.classes}
        assert sum(one.joules for one in by_class.values()) == pytest.approx(
            summary.metrics["energy_j"].value, rel=1e-9
        )
        # Four like streams, one request in four of which is short: joules go by the time that
        # requests are in flight.
        assert by_class["long"].joules / by_class["short"].joules == pytest.approx(3, rel=0.05)
        for one in summary.classes:
            assert one.metrics["energy_j"].value == by_class[one.name].joules
            assert one.metrics["output_tok_per_j"].basis == "modelled"
            assert "allocation" in one.metrics["j_per_request"].note
        tokens = sum(one.output_tok for one in by_class.values())
        assert tokens == pytest.approx(summary.metrics["output_tok_s"].value * 40)

    def test_seconds_without_any_request_stay_unallocated(self, run):
        shared = reduce_run(run(pause_s=(20, 32))).energy.classes.classes
        assert [one.name for one in shared] == ["chat", "idle"]
        assert 5 <= shared[1].joules / (2 * LOAD_W + 1) <= 12
        assert shared[1].output_tok_per_j is None


class TestCalibration:
    def meter(self, path, tmp_path, times, *, gain=1.03, shift_s=0.0, iso=False, step_s=0.5):
        t0, second = times
        anchor = json.loads((path / "manifest.json").read_text())["clock_anchors"][0]
        file = tmp_path / "meter.csv"
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["Time", "power_w"])
            t = -35.0
            while t < 45:
                unix = (anchor["unix_ns"] + (t0 - anchor["monotonic_ns"])) / second + t + shift_s
                stamp = datetime.fromtimestamp(unix, tz=UTC).isoformat() if iso else f"{unix:.3f}"
                writer.writerow([stamp, watts_at(t) * gain])
                t += step_s
        return file

    @pytest.mark.parametrize("iso", [False, True])
    def test_the_gain_comes_back_and_replaces_the_default(self, run, tmp_path, times, iso):
        path = run(gpus=1)
        found = calibrate(
            path, self.meter(path, tmp_path, times, iso=iso), accuracy=0.002, name="WT310"
        )
        assert found.gain == pytest.approx(1.03, rel=0.005)
        assert 0.002 <= found.error_ratio < 0.05
        assert found.low_w == pytest.approx(IDLE_W, rel=0.02)
        before = reduce_run(path).metrics["energy_j"]
        (path / "meter-calibration.json").write_text(json.dumps(found.document))
        after = reduce_run(path).metrics["energy_j"]
        assert after.value == pytest.approx(before.value * found.gain)
        assert (before.systematic_ratio, after.systematic_ratio) == (
            pytest.approx(0.05),
            pytest.approx(found.error_ratio),
        )

    def test_a_clock_that_is_off_is_told(self, run, tmp_path, times):
        path = run(gpus=1)
        with pytest.raises(ArtifactError, match="clock is about"):
            calibrate(path, self.meter(path, tmp_path, times, shift_s=4.0), accuracy=0.002)

    def test_the_commands(self, run, tmp_path, times):
        path = run(gpus=1)
        out = tmp_path / "calibration.json"
        asked = [
            "energy",
            "calibrate",
            "--meter",
            str(self.meter(path, tmp_path, times)),
            "--accuracy",
            "0.002",
            "--out",
            str(out),
            str(path),
        ]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output
        assert "GPU-0: gain 1.03" in done.output
        assert json.loads(out.read_text())["devices"]["GPU-0"]["slices"] >= 6
        shown = CliRunner().invoke(app, ["energy", "show", str(path)])
        assert shown.exit_code == 0, shown.output
        assert "Facility" in shown.output
        assert "energy.attribute" in shown.output

    def test_a_meter_that_was_silent_for_a_slice_is_refused(self, run, tmp_path, times):
        path = run(gpus=1)
        lines = self.meter(path, tmp_path, times).read_text().splitlines(keepends=True)
        (tmp_path / "meter.csv").write_text(
            "".join(line for i, line in enumerate(lines) if not 60 <= i < 72)
        )
        with pytest.raises(ArtifactError, match="more than 5 s"):
            calibrate(path, tmp_path / "meter.csv", accuracy=0.002)

    def test_several_boards_need_a_name(self, run, tmp_path, times):
        path = run(gpus=2)
        with pytest.raises(ProfileError, match="GPU-0, GPU-1"):
            calibrate(path, self.meter(path, tmp_path, times), accuracy=0.002)
        assert (
            calibrate(
                path, self.meter(path, tmp_path, times), accuracy=0.002, device="GPU-1"
            ).device_id
            == "GPU-1"
        )

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("time,watts\n1,2\n", "column power_w"),
            ("time,power_w\n2026-08-01T12:00:00,300\n1785585600,300\n", "line 2: invalid time"),
            ("time,power_w\n1785585600,much\n", "line 2: invalid power_w"),
            ("time,power_w\n", "no readings"),
            ("time,power_w\n1785585600,300\n1785585601,300\n", "overlap for"),
        ],
    )
    def test_damaged_readings_are_refused_by_line(self, run, tmp_path, text, said):
        path = run(gpus=1)
        file = tmp_path / "bad.csv"
        file.write_text(text)
        with pytest.raises(ArtifactError, match=said):
            calibrate(path, file, accuracy=0.002)

    def test_a_damaged_calibration_is_a_concern_and_the_default_holds(self, run):
        path = run(gpus=1)
        (path / "meter-calibration.json").write_text(
            '{"schema_version": 1, "devices": {"GPU-0": {"gain": 99}}}'
        )
        summary = reduce_run(path)
        assert "meter_calibration_unreadable" in codes(summary)
        assert summary.metrics["energy_j"].systematic_ratio == pytest.approx(0.05)


def test_a_kept_server_has_the_idle_power_of_the_run_that_started_it(run):
    """What the first run measured, with its errors, is subtracted in the later one."""
    first = reduce_run(run())
    measured = {
        when: {
            "start_s": stretch.start_s,
            "end_s": stretch.end_s,
            "boundaries": {
                "gpu_board": {
                    "watts": stretch.boundaries["gpu_board"].watts,
                    "error_ratio": stretch.boundaries["gpu_board"].error_ratio,
                    "method": stretch.boundaries["gpu_board"].method,
                }
            },
        }
        for when in ("before_server", "ready")
        if (stretch := getattr(first.energy.idle, when)) is not None
    }
    assert set(measured) == {"before_server", "ready"}
    later = reduce_run(run(idle=False, manifest={"idle": {"from": "first", **measured}}))
    for key in ("idle_power_w", "ready_power_w", "active_power_w"):
        assert later.metrics[key].value == pytest.approx(first.metrics[key].value, rel=1e-6)
    assert later.energy.idle.before_server.boundaries["gpu_board"].watts == pytest.approx(
        2 * IDLE_W + 1
    )
    alone = reduce_run(run(idle=False))
    assert alone.metrics["idle_power_w"].value is None
