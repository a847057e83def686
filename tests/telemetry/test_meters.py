"""Meters that others read (PromQL, CSV) and power by a formula: times, units, and what is no
reading.
"""

import json
import socket
import subprocess
from itertools import pairwise
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from harness.core.clock import now_ns, take_anchor, wall_now
from harness.core.records import Boundary
from harness.telemetry.sources import csvfile
from harness.telemetry.sources.base import ReadFailures, probed, sampled, watts_of
from harness.telemetry.sources.csvfile import CsvPowerSource
from harness.telemetry.sources.modelled import ModelledPowerSource
from harness.telemetry.sources.promql import PromqlPowerSource

ANCHOR = take_anchor()


def unix_s(monotonic_ns: int) -> float:
    return (ANCHOR.unix_ns + monotonic_ns - ANCHOR.monotonic_ns) / 1e9


class Api:
    """Answers /api/v1/query as Prometheus does; `series` is what there is, `asked` what was asked
    for.
    """

    def __init__(self) -> None:
        self.series: list[tuple[dict, list[tuple[float, str]]]] = []
        self.asked: list[str] = []
        self.only_vectors = False
        self.status, self.raw = 200, None
        self.headers: list[str | None] = []

    def answer(self, to) -> None:
        query = parse_qs(urlsplit(to.path).query)["query"][0]
        self.asked.append(query)
        self.headers.append(to.headers.get("Authorization"))
        status, body = self.status, self.raw
        if body is None:
            if query.endswith("s]") and self.only_vectors:
                status, answer = (
                    400,
                    {
                        "status": "error",
                        "errorType": "bad_data",
                        "error": "ranges only allowed for vector selectors",
                    },
                )
            elif query.endswith("s]"):
                result = [
                    {"metric": labels, "values": [[t, value] for t, value in samples]}
                    for labels, samples in self.series
                ]
                answer = {"status": "success", "data": {"resultType": "matrix", "result": result}}
            else:
                result = [
                    {"metric": labels, "value": list(samples[-1])}
                    for labels, samples in self.series
                ]
                answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
            body = json.dumps(answer).encode()
        to.send_response(status)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)


@pytest.fixture
def api(metrics_server):
    found = Api()
    metrics_server.answer = found.answer
    found.url = metrics_server.url.removesuffix("/metrics")
    made = []

    def make(**settings) -> PromqlPowerSource:
        made.append(
            PromqlPowerSource(
                found.url,
                settings.pop("query", "pdu_watts"),
                **{"boundary": Boundary.RACK, **settings},
            )
        )
        return made[-1]

    found.make = make
    yield found
    for source in made:
        source.close()


def test_raw_samples_of_a_selector_come_once_at_their_own_times(api) -> None:
    start_ns = now_ns()
    api.series = [({"__name__": "pdu_watts", "outlet": "3"}, [(unix_s(start_ns) - 5, "1500")])]
    source = api.make(device_label="outlet")
    (device,) = source.probe().devices
    assert (device.device_id, device.boundary, device.power) == ("3", Boundary.RACK, "promql")
    assert api.asked == ["pdu_watts[30s]"]
    assert source.sample("power") == ()  # of before the run
    moments = [now_ns() + n * 10**9 for n in (1, 2)]
    api.series[0][1].extend((unix_s(t), str(1600 + n)) for n, t in enumerate(moments))
    readings = source.sample("power")
    assert [r.power_w for r in readings] == [1600.0, 1601.0]
    assert all(abs(r.t_ns - t) < 5_000_000 for r, t in zip(readings, moments, strict=True))
    assert source.sample("power") == ()


def test_energy_in_kwh_and_expressions(api, monkeypatch) -> None:
    monkeypatch.setenv("PROM_TOKEN", "s3cret")
    api.only_vectors = True
    api.series = [({}, [(unix_s(now_ns() + 10**9), "2.5")])]
    source = api.make(query="sum(pdu_kwh)", quantity="energy", scale=3.6e6, token_env="PROM_TOKEN")
    (device,) = source.probe().devices
    assert (device.device_id, device.power, device.energy) == ("meter", None, "promql")
    assert [(r.power_w, r.energy_j) for r in source.sample("power")] == [(None, 9e6)]
    assert api.asked == ["sum(pdu_kwh)[30s]", "sum(pdu_kwh)", "sum(pdu_kwh)"]
    assert set(api.headers) == {"Bearer s3cret"}


def test_a_prometheus_that_fails_is_told_and_nan_is_no_reading(api) -> None:
    api.series = [({}, [(unix_s(now_ns() + 10**9), "100")])]
    source = api.make()
    assert source.probe().devices
    for status, raw in (
        (500, b"oops"),
        (200, b"[]"),
        (503, b'{"status":"error","error":"overloaded"}'),
        (200, b'{"status":"success"}'),
    ):
        api.status, api.raw = status, raw
        assert source.sample("power") == ()
    assert any("overloaded" in message for message in source.trouble.seen)
    api.status, api.raw = 200, None
    api.series = [
        ({}, [(unix_s(now_ns() + 2 * 10**9), "NaN"), (unix_s(now_ns() + 3 * 10**9), "7")])
    ]
    assert [r.power_w for r in source.sample("power")] == [7.0]
    api.series = []
    empty = api.make().probe()
    assert not empty.devices
    assert api.url in empty.why_not
    assert (
        not PromqlPowerSource("http://127.0.0.1:1", "x", boundary=Boundary.RACK, timeout_s=2.0)
        .probe()
        .devices
    )


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_a_meters_log_is_followed_line_by_line(tmp_path: Path) -> None:
    log = tmp_path / "pdu.csv"
    log.write_text(f"outlet,time,watts\n1,{unix_s(now_ns()) - 60},900\n")
    source = CsvPowerSource(
        log, boundary=Boundary.FACILITY, device_column="outlet", clock_offset_s=2.0
    )
    assert [d.device_id for d in source.probe().devices] == ["1"]
    assert source.sample("power") == ()
    due_ns = now_ns() + 10**9
    append(
        log,
        f"1,{unix_s(due_ns) + 2.0},1000\n2,{wall_now().isoformat()},5\n1,{unix_s(due_ns) + 3.0},11",
    )
    first = source.sample("power")
    assert [(r.device_id, r.power_w) for r in first] == [
        ("1", 1000.0)
    ]  # 2 s ahead, the second line is of before the run
    assert abs(first[0].t_ns - due_ns) < 5_000_000
    append(log, "00\nrubbish\n1,never,3\n")
    assert [r.power_w for r in source.sample("power")] == [1100.0]
    assert len(source.trouble.seen) == 2
    log.write_text("outlet,time,watts\n")
    assert source.sample("power") == ()
    assert len(source.trouble.seen) == 3
    assert all(str(log) in message for message in source.trouble.seen)
    log.unlink()
    assert source.sample("power") == ()


@pytest.mark.parametrize("text", ["", "time,power\n1,2\n", "time,watts"])
def test_a_log_without_the_columns_says_which(tmp_path: Path, text: str) -> None:
    log = tmp_path / "pdu.csv"
    assert str(log) in CsvPowerSource(log, boundary=Boundary.RACK).probe().why_not
    log.write_text(text)
    probe = CsvPowerSource(log, boundary=Boundary.RACK).probe()
    assert not probe.devices
    assert text.strip().split("\n")[0] in probe.why_not.replace(", ", ",")


def test_power_by_a_formula_is_called_modelled_wherever_it_goes() -> None:
    source = ModelledPowerSource(
        "cpu", idle_w=50.0, slope_w=100.0, boundary=Boundary.NODE, source="a data sheet"
    )
    probe = source.probe()
    assert probe.devices[0].power == "modelled"
    assert "a data sheet" in str(probe.origin)
    end_ns = now_ns() + 10**8
    while now_ns() < end_ns:
        pass
    (reading,) = source.sample("power")
    assert reading.source == "modelled"
    assert 50.0 <= reading.power_w <= 150.0


MODELLED_GPU = """
import dataclasses, json
from harness.core.records import Boundary
from harness.telemetry.sources.modelled import ModelledPowerSource
source = ModelledPowerSource("gpu", idle_w=70.0, slope_w=600.0, boundary=Boundary.GPU_BOARD, source="x",
    uuids=["GPU-d0ub1e00-0000-0000-0000-000000000000"])
probe = source.probe()
print(json.dumps([dataclasses.asdict(probe), [r.row() for r in source.sample("power")], list(source.intervals_s)]))
source.close()
"""


def test_power_by_the_boards_utilisation(nvml_double, in_child) -> None:
    nvml_double(utilization=50)
    probe, (row,), intervals = in_child(MODELLED_GPU)
    assert (row["power_w"], row["source"], row["boundary"]) == (370.0, "modelled", "gpu_board")
    assert "999.00-double" in probe["double"]
    nvml_double(mig=1)
    probe, rows, intervals = in_child(MODELLED_GPU)
    assert rows == intervals == []
    assert probe["why_not"]


@pytest.fixture
def prometheus(metrics_server, tmp_path: Path, until, require):
    """A real Prometheus that scrapes a meter of 1500 W and more, once a second."""
    require("prometheus")
    metrics_server.body = lambda: (
        f'# TYPE pdu_watts gauge\npdu_watts{{outlet="3"}} {1500 + metrics_server.hits}\n'.encode()
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    target = urlsplit(metrics_server.url).netloc
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "scrape_configs: [{job_name: pdu, scrape_interval: 1s, static_configs: [{targets:"
        f" ['{target}']}}]}}]\n"
    )
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    ]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: metrics_server.hits, "a scrape")
        yield f"http://{address}"
    finally:
        process.kill()
        process.wait()


def test_a_real_prometheus_gives_its_raw_samples_once(
    prometheus: str, metrics_server, until
) -> None:
    source = PromqlPowerSource(
        prometheus, 'pdu_watts{outlet="3"}', boundary=Boundary.RACK, device_label="outlet"
    )
    until(lambda: source.probe().devices or source.close(), "the meter is known")
    readings = []
    until(lambda: readings.extend(source.sample("power")) or len(readings) >= 2, "two new samples")
    assert [after.power_w - before.power_w for before, after in pairwise(readings)] == [1.0] * (
        len(readings) - 1
    )
    gaps_s = [(after.t_ns - before.t_ns) / 1e9 for before, after in pairwise(readings)]
    assert all(gap == pytest.approx(1.0, abs=0.5) for gap in gaps_s)
    assert abs(now_ns() - readings[-1].t_ns) < 5e9
    expression = PromqlPowerSource(prometheus, "sum(pdu_watts)", boundary=Boundary.RACK)
    assert [d.device_id for d in expression.probe().devices] == ["meter"]
    assert expression.sample("power")[0].power_w > 1500
    for one in (source, expression):
        one.close()
        assert not one.trouble.seen


NOW_S = 1_795_270_000


@pytest.mark.parametrize(
    ("cell", "expected_s"),
    [
        ("1795270000.25", NOW_S + 0.25),
        ("1795270000250", NOW_S + 0.25),
        ("1795270000250000", NOW_S + 0.25),
        ("1795270000250000000", NOW_S + 0.25),
        ("2026-11-21T14:06:40.25Z", NOW_S + 0.25),
        ("2026-11-21 14:06:40,25", NOW_S + 0.25),
        ("2026/11/21 14:06:40.250", NOW_S + 0.25),
        ("21.11.2026 14:06:40", NOW_S),
        ("2026-11-21 09:06:40 -0500", NOW_S),
        ("2026-11-21 14:06:40 UTC", NOW_S),
        ("12.5", None),
        ("11/21/2026 14:06", None),
    ],
)
def test_times_of_meters(cell: str, expected_s: float | None) -> None:
    if expected_s is None:
        with pytest.raises(ValueError, match=r"12\.5|isoformat"):
            csvfile._unix_ns(cell)
    else:
        assert csvfile._unix_ns(cell) == pytest.approx(expected_s * 1e9, abs=1e3)


@pytest.mark.parametrize(
    ("cell", "watts"),
    [
        ("300", 300.0),
        ("412.33 W", 412.33),
        ("0,41 kW", 410.0),
        ("1,234.5 W", 1234.5),
        ("1.234,5 W", 1234.5),
        ("1,234,567 mW", 1234.567),
        ("350000 mW", 350.0),
        (300, 300.0),
        ("[N/A]", None),
        ("[Not Supported]", None),
        ("", None),
        (float("nan"), None),
        (10**400, None),
    ],
)
def test_power_with_units(cell: object, watts: float | None) -> None:
    assert watts_of(cell) == (None if watts is None else pytest.approx(watts))


@pytest.mark.parametrize("cell", ["abc", "5 V", "1,234 W", True, [300]])
def test_what_is_no_power_is_named(cell: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        watts_of(cell)


def log_of(tmp_path: Path, text: str, **settings) -> tuple[CsvPowerSource, Path]:
    log = tmp_path / "meter.csv"
    log.write_text(text)
    return CsvPowerSource(log, boundary=Boundary.NODE, **settings), log


def test_nvidia_smis_own_log(tmp_path: Path) -> None:
    when = wall_now().strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]
    source, log = log_of(
        tmp_path,
        f"timestamp, index, power.draw [W]\n{when}, 0, 412.33 W\n{when}, 1, [N/A]\n",
        time_column="timestamp",
        power_column="power.draw [W]",
        device_column="index",
    )
    assert [device.device_id for device in source.probe().devices] == ["0"]
    later = f"{unix_s(now_ns() + 10**9):.3f}"
    append(log, f"{later}, 0, 400 W\n{later}, 1, [N/A]\n")
    assert [(r.device_id, r.power_w) for r in source.sample("power")] == [("0", 400.0)]
    assert not source.trouble.seen


@pytest.mark.parametrize("column", ["power [kW]", "power (kW)", "power_kw"])
def test_the_unit_of_a_columns_name_counts(tmp_path: Path, column: str) -> None:
    source, log = log_of(tmp_path, f"time;{column}\n", power_column=column)
    assert source.probe().unread == "no reading yet"
    append(log, f"{unix_s(now_ns() + 10**9)};0,5\n")
    assert [r.power_w for r in source.sample("power")] == [500.0]


@pytest.mark.parametrize(
    "column", ["power (kWh)", "energy (Wh)", "energy_kwh", "power [VA]", "power_mw"]
)
def test_a_column_that_is_not_power_is_refused(tmp_path: Path, column: str) -> None:
    source, _ = log_of(tmp_path, f"time;{column}\n", power_column=column)
    assert column in source.probe().why_not


@pytest.mark.parametrize(("column", "watts"), [("power_MW", 5e5), ("power_kW_avg", 500.0)])
def test_the_unit_within_a_columns_name_counts(tmp_path: Path, column: str, watts: float) -> None:
    source, log = log_of(tmp_path, f"time;{column}\n", power_column=column)
    source.probe()
    append(log, f"{unix_s(now_ns() + 10**9)};0,5\n")
    assert [r.power_w for r in source.sample("power")] == [watts]


@pytest.mark.parametrize("broken", ["{t},300\r301", '{t},300,"open', "{t}", "{t},watt", "\x00"])
def test_a_broken_line_costs_itself_alone(tmp_path: Path, broken: str) -> None:
    source, log = log_of(tmp_path, "time,watts\n")
    source.probe()
    t = unix_s(now_ns() + 10**9)
    append(log, f"{t},1\n{broken.format(t=t)}\n" + f"{t},2\n" * 3)
    assert [r.power_w for r in source.sample("power") if r.power_w != 300.0] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("hours", "words"), [(-5, "5.0 h behind"), (9, "9.0 h ahead of")])
def test_a_meter_in_local_time_is_noticed(tmp_path: Path, hours: int, words: str) -> None:
    source, log = log_of(tmp_path, "time,watts\n")
    source.probe()
    append(log, f"{unix_s(now_ns()) + hours * 3600},300\n")
    source.sample("power")
    (message,) = source.trouble.seen
    assert words in message
    assert f"clock_offset_s: {hours * 3600}" in message
    unread = CsvPowerSource(log, boundary=Boundary.NODE).probe().unread
    assert words in unread


def test_only_unreadable_lines_are_no_source(tmp_path: Path) -> None:
    source, _ = log_of(tmp_path, "time,watts\n1795270000,n.n.\n")
    probe = source.probe()
    assert (probe.devices, source.intervals_s) == ((), {})
    assert "n.n." in probe.why_not


class Broken:
    name = "broken"

    def __init__(self) -> None:
        self.trouble = ReadFailures()
        self.intervals_s = {"power": 0.1}

    def probe(self):
        raise OverflowError("defect")

    def sample(self, _what):
        raise AttributeError("defect")

    def close(self) -> None:
        raise RuntimeError("defect")


def test_an_exception_of_a_source_is_its_own() -> None:
    assert "OverflowError: defect" in probed(Broken()).why_not
    source = Broken()
    assert sampled(source, "power") == ()
    assert sampled(source, "power") == ()
    assert source.trouble.seen == {"broken: AttributeError: defect": 2}
