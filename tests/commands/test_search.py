"""A search asks for loads one after the other, from nothing but the probes that have ended."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.atomic import write_json
from harness.artifacts.sweep.capacity import read_capacity
from harness.artifacts.sweep.index import PointState, read_sweep
from harness.commands.display import QuietView
from harness.commands.search import SearchOptions, run_search, source_of, start_search
from harness.core.errors import ExitCode, HarnessError, ProfileError, ServerError
from harness.profile.search import Condition
from harness.sweeps.capacity import ProbeRun, Tally, Tier
from harness.sweeps.probes import Probe

PROFILE = """\
purpose: smoke
seed: 7
model: {id: builtin:tiny}
server: {kind: torch}
traffic:
  workload: {kind: chat, system_tok: 10, user_tok: 10, output_tok: 4, context_limit_tok: 1000}
  load: [%s]
slos: {ttft_s: 1s}
"""
CLOSED = "{kind: concurrency, concurrency: 4, warmup_s: 2s, window_s: 30s}"
OPEN = "{kind: arrival_rate, rate_per_s: 4, warmup_s: 2s, window_s: 30s}"


@dataclass
class Box:
    """A server whose share of requests within a condition falls with the load.

    Attributes:
        capacity: load at which `target` of the requests meet a condition, by its text.
        wrong: what is changed of the probe of a point.
        fail_at: points whose first run fails.
    """

    folder: Path
    capacity: Mapping[str, float]
    wrong: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    fail_at: tuple[int, ...] = ()
    noise: float = 0.01
    asked: list[dict[str, Any]] = field(default_factory=list)
    killed_after: int | None = None

    def run(self, profile: Any, *, out: Path, sweep: Any, stop_when: Any, **_: Any) -> Any:
        point = sweep["point"]
        if len(self.asked) == self.killed_after:
            raise KeyboardInterrupt
        stage = profile.traffic.load[0]
        load = stage.concurrency if stage.kind == "concurrency" else stage.rate_per_s
        self.asked.append(
            {
                "point": point,
                "load": load,
                "window_s": stage.window_s,
                "warmup_s": stage.warmup_s,
                "seed": profile.seed,
                "probe": stop_when is not None,
            }
        )
        tries = sum(one["point"] == point for one in self.asked)
        if point in self.fail_at and tries == 1:
            raise ServerError("the server died")
        run = out / f"run-{point}-{tries}"
        run.mkdir()
        label = {"id": out.name, "point": point}
        write_json(
            run / "manifest.json", {"schema_version": 1, "state": "complete", "sweep": label}
        )
        return Result(run)

    def read(self, run: Path, load: float, tiers: Sequence[Tier]) -> Probe:
        point = int(run.name.split("-")[1])
        chance = random.Random(f"{point} {load}")
        shift = chance.gauss(0, self.noise)

        def tally(one: Condition) -> Tally:
            score = math.log(load / self.capacity[one.text.split(" >= ")[0]]) + shift
            good = NORMAL.cdf(NORMAL.inv_cdf(one.share) - score / 0.1)
            return Tally(round(1000 * good), 1000, 500.0)

        tallies = tuple(tuple(map(tally, tier.conditions)) for tier in tiers)
        probe = Probe(
            load,
            ProbeRun(run.name, load, tallies),
            requests_per_s=10.0,
            e2e_p95_s=0.5,
            output_tok=4.0,
        )
        return replace(probe, **self.wrong.get(point, {}))


from statistics import NormalDist  # noqa: E402

NORMAL = NormalDist()


@dataclass
class Result:
    """What `run_profile` returns, as far as a series reads it."""

    run_dir: Path
    exit_code: ExitCode = ExitCode.OK
    messages: tuple[str, ...] = ()


def begin(tmp_path: Path, load: str = CLOSED, **section: Any) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE % load)
    options = SearchOptions(load="concurrency" if load == CLOSED else "arrival_rate")
    found = {**(options.section(None) or {}), **section}
    return start_search(source_of(path, (f"search={json.dumps(found)}",)), out=tmp_path)


def search(folder: Path, box: Box) -> Any:
    return run_search(folder, view=QuietView, calibrate=False, run_one=box.run, read=box.read)


def test_it_climbs_by_doubling_then_closes_in_and_confirms_the_lower_end(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, precision="4%")
    box = Box(folder, {"slos": 50.0})
    result = search(folder, box)
    loads = [one["load"] for one in box.asked]
    assert loads[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert all(32 < load <= 64 for load in loads[7:])
    tier = result.capacity.tiers["slo"]
    assert tier.load == pytest.approx(50, rel=0.04)
    assert tier.low < 50 < tier.high
    assert (tier.high / tier.low) ** 0.5 - 1 <= 0.05
    last = box.asked[-1]
    assert [one["probe"] for one in box.asked] == [True] * (len(loads) - 1) + [False]
    assert (last["warmup_s"], last["window_s"]) == (2, 30)  # the profile's own
    assert len({one["seed"] for one in box.asked}) == len(loads)
    assert result.capacity.confirmed_run == f"run-{last['point']}-1"
    assert result.exit_code is ExitCode.OK
    assert read_capacity(folder) == result.capacity
    index = read_sweep(folder)
    assert (index.kind, [one.state for one in index.points]) == (
        "search",
        [PointState.DONE] * len(loads),
    )


def test_probes_of_the_climb_are_shorter_and_windows_end_with_the_requests(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, probe_s=60, probe_requests=300, confirm=False)
    box = Box(folder, {"slos": 50.0})
    search(folder, box)
    # 10 requests/s at every load: 300 requests in 33 s with a margin, a third of it in the climb
    assert box.asked[0]["window_s"] == 20
    assert [one["window_s"] for one in box.asked[1:7]] == [11] * 6
    assert all(33 <= one["window_s"] <= 60 for one in box.asked[7:])
    assert {one["warmup_s"] for one in box.asked} == {2}  # more than three times 0.5 s


def test_rates_are_real_numbers(tmp_path: Path) -> None:
    folder = begin(tmp_path, OPEN, **{"from": 0.5, "to": 8, "confirm": False})
    result = search(folder, Box(folder, {"slos": 1.7}))
    assert result.capacity.tiers["slo"].load == pytest.approx(1.7, rel=0.04)


def test_tiers_come_from_the_same_probes(tmp_path: Path) -> None:
    tiers = [
        {"name": "slo"},
        {"name": "fast", "conditions": ["ttft_s.p90 < 500ms", "speed_tok_s.p25 > 60"]},
    ]
    folder = begin(tmp_path, to=512, tiers=tiers, precision="4%", max_points=40)
    box = Box(folder, {"slos": 50.0, "ttft_s.p90 < 500ms": 40.0, "speed_tok_s.p25 > 60": 25.0})
    result = search(folder, box)
    slo, fast = result.capacity.tiers["slo"], result.capacity.tiers["fast"]
    assert slo.load == pytest.approx(50, rel=0.05)
    assert fast.load == pytest.approx(25, rel=0.05)
    assert fast.binding == "speed_tok_s.p25 > 60"
    assert [len(one.shares) for one in result.capacity.probes] == [3] * len(box.asked)


@pytest.mark.parametrize(
    ("capacity", "limit", "loads"), [(1e6, "beyond", [1, 2, 4, 8]), (0.2, "below", [1])]
)
def test_a_load_beyond_the_range_is_reported(
    tmp_path: Path, capacity: float, limit: str, loads: list[int]
) -> None:
    folder = begin(tmp_path, to=8, confirm=False)
    box = Box(folder, {"slos": capacity})
    result = search(folder, box)
    assert result.capacity.tiers["slo"].found == limit
    assert [one["load"] for one in box.asked][: len(loads)] == loads
    assert result.capacity.ended


def test_an_invalid_probe_is_asked_again_and_two_in_a_row_end_the_search(tmp_path: Path) -> None:
    invalid = {"invalid": "client_saturated: the load generator was busy"}
    folder = begin(tmp_path, to=512, confirm=False)
    one = Box(folder, {"slos": 50.0}, wrong={3: invalid})
    result = search(folder, one)
    assert [each["load"] for each in one.asked[:5]] == [1, 2, 4, 8, 8]
    assert result.exit_code is ExitCode.OK
    assert "point 3 was not used" in result.messages[0]
    (tmp_path / "b").mkdir()
    folder = begin(tmp_path / "b", to=512)
    two = Box(folder, {"slos": 50.0}, wrong={3: invalid, 4: invalid})
    result = search(folder, two)
    assert len(two.asked) == 5
    assert result.exit_code is ExitCode.INVALID_RUN
    assert "the load generator was the limit at 8, not the server" in result.capacity.ended


def test_a_failed_probe_is_tried_again_once(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, confirm=False)
    box = Box(folder, {"slos": 50.0}, fail_at=(2,))
    search(folder, box)
    assert [one["load"] for one in box.asked[:5]] == [1, 2, 4, 4, 8]
    (tmp_path / "b").mkdir()
    folder = begin(tmp_path / "b", to=512)

    def always(*_: Any, **__: Any) -> Any:
        raise ServerError("the server died")

    with pytest.raises(HarnessError, match="died"):
        run_search(folder, view=QuietView, run_one=always, read=box.read)


def test_a_resumed_search_asks_what_the_unbroken_one_asked(tmp_path: Path) -> None:
    folders = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        folders.append(begin(tmp_path / name, to=512, precision="4%"))
    whole, broken = (Box(folder, {"slos": 50.0}) for folder in folders)
    expected = search(folders[0], whole)
    for count in (3, 9):
        broken.killed_after = count
        assert search(folders[1], broken).exit_code is ExitCode.INTERRUPTED
    broken.killed_after = None
    result = search(folders[1], broken)
    assert broken.asked == whole.asked
    assert result.capacity.tiers == expected.capacity.tiers


def test_the_limits_end_it_before_the_precision(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, max_points=8, precision="0.1%", confirm=False)
    box = Box(folder, {"slos": 50.0})
    result = search(folder, box)
    assert len(box.asked) == 8
    assert "max_points" in result.capacity.ended
    assert result.capacity.tiers["slo"].load == pytest.approx(50, rel=0.2)


def test_a_missed_confirmation_continues_and_is_reported(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, precision="4%", max_points=30)
    clean = Box(folder, {"slos": 50.0})
    search(folder, clean)
    at = clean.asked[-1]["point"]
    (tmp_path / "b").mkdir()
    folder = begin(tmp_path / "b", to=512, precision="4%", max_points=30)
    box = Box(
        folder,
        {"slos": 50.0},
        wrong={at: {"run": ProbeRun("r", 45.0, ((Tally(900, 1000, 500.0),),))}},
    )
    search(folder, box)
    confirmed = [one for one in box.asked if not one["probe"]]
    assert len(confirmed) == 2
    assert confirmed[1]["load"] <= confirmed[0]["load"]


def test_output_lengths_that_vary_with_the_load_are_reported(tmp_path: Path) -> None:
    folder = begin(tmp_path, to=512, confirm=False)
    box = Box(folder, {"slos": 50.0}, wrong={4: {"output_tok": 4.2}})
    assert any("output length varies" in one for one in search(folder, box).messages)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (SearchOptions(tiers=("fast:",)), "--tier"),
        (SearchOptions(tiers=(": ttft_s.p95<1s",)), "--tier"),
        (SearchOptions(lowest=8, to=4), "below"),
        (SearchOptions(load="arrival_rate"), "arrival_rate"),
        (SearchOptions(tiers=("fast: itl_s.p95<1s",)), "single requests"),
        (None, "search"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    tmp_path: Path, options: SearchOptions | None, word: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE % CLOSED)
    with pytest.raises(ProfileError) as caught:
        source_of(path, (), options)
    assert word in str(caught.value)


def test_options_change_the_section_of_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE % CLOSED + "search: {to: 64, max_points: 5}\n")
    options = SearchOptions(
        lowest=2, tiers=("fast: ttft_s.p95<5s, speed_tok_s.p25>60", "slo"), precision="5%"
    )
    found = source_of(path, (), options).base().search
    assert found is not None
    assert (found.lowest, found.to, found.max_points, found.precision) == (2, 64, 5, 0.05)
    assert [(one.name, len(one.conditions)) for one in found.tiers] == [("fast", 2), ("slo", 0)]


@pytest.mark.parametrize(("least", "code"), [(40, ExitCode.OK), (60, ExitCode.THRESHOLD_FAILED)])
def test_a_threshold_on_the_capacity_decides_the_exit_code(
    tmp_path: Path, least: int, code: ExitCode
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE % CLOSED + f"thresholds: ['capacity.slo >= {least}']\n")
    source = source_of(path, (), SearchOptions(to=512, confirm=False))
    folder = start_search(source, out=tmp_path)
    result = search(folder, Box(folder, {"slos": 50.0}))
    assert result.exit_code is code


@pytest.mark.parametrize("text", ["capacity.fast >= 4", "capacity.slo = 4", "capacity.slo >= x"])
def test_a_threshold_on_no_tier_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE % CLOSED + f"thresholds: ['{text}']\n")
    with pytest.raises(ProfileError) as caught:
        source_of(path, (), SearchOptions(to=512))
    assert "thresholds.0" in str(caught.value)
