"""Tables and charts of a run, from what was recorded: who counts, where the window and the stages
are, what is marked.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.artifacts.run_summary import (
    Gauge,
    GpuState,
    RunEnergy,
    ServerFigures,
    Slos,
    Stretch,
    Window,
)
from harness.artifacts.typed_json import from_json
from harness.core.metrics import METRICS
from harness.reduce.reduction import Reduction, reduce_fully
from harness.reduce.series import Series
from harness.report import numbers
from harness.report.charts import SERIES, WIDE, Chart, Line, _fitting, draw, line_chart, themed
from harness.report.run.server import cache, server
from harness.report.run.slos import slos
from harness.report.run.timeline import _curve, charts
from harness.report.run.view import view
from harness.report.run.write import markdown


@pytest.fixture(name="mixed", scope="module")
def _mixed(new_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Reduction:
    """Ten requests intended in the window: four good, two with a slow first token, one slow to
    write, one failed, one dropped, one that the plan cancelled after its first token; and a slow
    one after the window.
    """
    builder = new_builder(slos={"ttft_s": 0.25, "tpot_s": 0.06, "e2e_s": None})
    for i in range(4):
        builder.request(3.0 + i, ttft_s=0.1)
    for i in range(2):
        builder.request(8.0 + i, ttft_s=0.5)
    builder.request(11.0, ttft_s=0.1, gap_us=100_000)
    builder.lost(12.0, "http_error", http_status=500)
    builder.lost(13.0, "dropped")
    builder.request(14.0, ttft_s=0.2, outcome="cancelled", output_tok=None)
    builder.request(23.0, ttft_s=0.9)
    builder.scrape_counters()
    return reduce_fully(builder.write(tmp_path_factory.mktemp("mixed") / "run"))


def grid(columns: dict[str, list[float]], step_s: int = 1) -> Series:
    (length,) = {len(values) for values in columns.values()}
    return Series(
        step_s,
        np.arange(length, dtype=np.float64) * step_s,
        {name: np.array(values) for name, values in columns.items()},
    )


class TestObjectives:
    def test_failed_requests_miss_every_slo_and_cancelled_ones_do_not_count(
        self, mixed: Reduction
    ) -> None:
        """Failed and dropped requests miss all of them and cancelled ones do not count."""
        table = slos(mixed)
        assert table is not None
        assert all(part in table.caption for part in ("SLO", "9 requests", "without 1"))
        assert table.head == ("SLO", "Limit", "Attainment", "p50", "p90", "p99")
        assert [row[:3] for row in table.rows] == [
            [METRICS["ttft_s"].title, "≤ 250 ms", numbers.share(5 / 9)],
            [METRICS["tpot_s"].title, "≤ 60 ms", numbers.share(6 / 9)],
            ["All SLOs", "", numbers.share(4 / 9)],
        ]
        ttft = mixed.summary.latency["ttft_s"]
        assert table.rows[0][3:] == [
            numbers.duration(value) for value in (ttft.p50, ttft.p90, ttft.p99)
        ]

    def test_without_limits_window_or_requests_there_is_no_table(self, mixed: Reduction) -> None:
        assert slos(replace(mixed, summary=replace(mixed.summary, slos=Slos()))) is None
        assert slos(replace(mixed, headline=None)) is None
        assert mixed.headline is not None
        assert slos(replace(mixed, headline=replace(mixed.headline, start=1e12, end=2e12))) is None


class TestTimeline:
    def test_the_window_is_shaded_as_far_as_it_is_on_the_chart(self, mixed: Reduction) -> None:
        series = grid({"output_tok_s": [1.0] * 10})
        chart = charts(mixed, series)["throughput"].chart
        assert chart.x_domain == (0.0, 10.0)
        assert chart.window == (2.0, 10.0)
        assert "shaded" in chart.caption
        unknown = replace(
            mixed, summary=replace(mixed.summary, window=Window(None, None, None, "none"))
        )
        chart = charts(unknown, series)["throughput"].chart
        assert chart.window is None
        assert "shaded" not in chart.caption

    def test_stages_are_marked_where_they_begin_when_there_are_several(
        self, mixed: Reduction
    ) -> None:
        series = grid({"output_tok_s": [1.0] * 30})
        chart = charts(mixed, series)["throughput"].chart
        assert chart.marks == []
        assert "dashed" not in chart.caption
        first = mixed.windows[0]
        starts = {"warm": 1.5, "hot": 20.0, "over": 99.0}
        windows = tuple(
            replace(first, name=name, stage_start=at * 1e9) for name, at in starts.items()
        )
        chart = charts(
            replace(mixed, windows=(*windows, replace(first, name="lost", stage_start=None))),
            series,
        )["throughput"].chart
        assert chart.marks == [(1.5, "warm"), (20.0, "hot")]
        assert "warm and hot" in chart.caption

    def test_only_clocks_held_back_by_a_fault_are_marked_and_only_where_the_chart_is(
        self, mixed: Reduction
    ) -> None:
        stretches = [
            {"start_s": -5.0, "end_s": 2.0, "invalid": True},
            {"start_s": 4.0, "end_s": 5.0, "invalid": False},
            {"start_s": 6.0, "end_s": 7.5, "invalid": True},
            {"start_s": 9.0, "end_s": 50.0, "invalid": True},
            {"start_s": 10.0, "end_s": 50.0, "invalid": True},
            {"start_s": -9.0, "end_s": 0.0, "invalid": True},
        ]
        boards = GpuState(
            stretches=tuple(Stretch(device_id="G", reason="r", **one) for one in stretches)
        )
        summary = replace(mixed.summary, energy=RunEnergy(boards=boards))
        chart = charts(replace(mixed, summary=summary), grid({"output_tok_s": [1.0] * 10}))[
            "throughput"
        ].chart
        assert chart.bands == [(0.0, 2.0), (6.0, 7.5), (9.0, 10.0)]
        assert "red" in chart.caption

    def test_what_nobody_knows_is_a_gap_in_the_line_and_a_dash_in_the_table(
        self, mixed: Reduction
    ) -> None:
        nan = float("nan")
        shown = charts(mixed, grid({"output_tok_s": [1.0, nan, 3.0], "power_w": [nan, nan, nan]}))
        assert "power" not in shown
        (line,) = shown["throughput"].chart.lines
        assert line.points == [
            (0.0, 1.0),
            (1.0, None),
            (2.0, 3.0),
            (3.0, 3.0),
        ]  # the last step is drawn to its end
        assert [list(row) for row in shown["throughput"].table.rows] == [
            ["0 – 1 s", "1"],
            ["1 – 2 s", "—"],
            ["2 – 3 s", "3"],
        ]

    def test_the_table_is_short_and_holds_means(self, mixed: Reduction) -> None:
        values = [float(i) for i in range(100)]
        table = charts(mixed, grid({"output_tok_s": values}, step_s=2))["throughput"].table
        assert len(table.rows) == 20
        assert list(table.rows[0]) == ["0 – 10 s", "2"]
        assert list(table.rows[-1]) == ["190 – 200 s", "97"]

    @pytest.mark.parametrize(
        ("most", "top"), [(0.03, 0.05), (0.06, 0.1), (0.2, 0.5), (0.46, 1.0), (1.0, 1.0)]
    )
    def test_small_shares_have_an_axis_on_which_they_can_be_seen(
        self, mixed: Reduction, most: float, top: float
    ) -> None:
        chart = charts(mixed, grid({"kv_usage": [0.0, most]}))["kv"].chart
        assert chart.y_percent
        assert chart.y_top == top

    def test_many_stages_are_counted_in_the_caption(self, mixed: Reduction) -> None:
        windows = tuple(
            replace(mixed.windows[0], name=f"s{i}", stage_start=i * 1e9) for i in range(6)
        )
        chart = charts(replace(mixed, windows=windows), grid({"output_tok_s": [1.0] * 30}))[
            "throughput"
        ].chart
        assert "6 stages, s0 to s5" in chart.caption
        one = replace(mixed, windows=(*windows[:1], replace(windows[1], stage_start=99e9)))
        caption = charts(one, grid({"output_tok_s": [1.0] * 30}))["throughput"].chart.caption
        assert caption.endswith("s0.")

    def test_power_has_a_line_for_each_boundary_from_the_boards_outwards(
        self, mixed: Reduction
    ) -> None:
        """Power has a line for each boundary from the boards outwards as many as there are
        colours.
        """
        two = [1.0, 1.0]
        names = [
            f"{key}_w" for key in ("facility", "rack", "node", "cpu_package", "module", "gpu_board")
        ]
        lines = charts(mixed, grid(dict.fromkeys([*names, "power_w"], two)))["power"].chart.lines
        assert [line.name for line in lines] == [
            "GPU boards",
            "GPU modules",
            "CPU packages",
            "Nodes",
        ]
        lines = charts(mixed, grid({"facility_w": two, "rack_w": two, "power_w": two}))[
            "power"
        ].chart.lines
        assert [line.name for line in lines] == ["Racks", "Facility meter"]
        assert [
            line.name for line in charts(mixed, grid({"power_w": two}))["power"].chart.lines
        ] == ["Power"]

    def test_input_is_split_where_the_split_is_known(self, mixed: Reduction) -> None:
        two = [1.0, 1.0]
        known = charts(
            mixed,
            grid({"input_tok_s": two, "input_computed_tok_s": two, "input_cache_read_tok_s": two}),
        )["input"].chart
        assert [line.name for line in known.lines] == ["Computed", "Cached"]
        assert [
            line.name for line in charts(mixed, grid({"input_tok_s": two}))["input"].chart.lines
        ] == ["All input"]

    def test_one_moment_is_no_course(self, mixed: Reduction) -> None:
        assert not {"throughput", "in_flight"} & set(charts(mixed, grid({"output_tok_s": [1.0]})))


class TestDistributions:
    def test_curves_of_failing_runs_end_where_the_failures_begin(self, mixed: Reduction) -> None:
        shown = charts(mixed, grid({"output_tok_s": [1.0, 1.0]}))["latency"]
        first, whole = shown.chart.lines
        # First tokens: seven answers and the cancelled request, of these and two that never came.
        assert (len(first.points), first.points[-1][1]) == (8, 0.8)
        assert [x for x, _ in first.points] == pytest.approx([0.1] * 5 + [0.2, 0.5, 0.5])
        # Whole answers: seven of nine, since the plan cancelled one.
        assert (len(whole.points), whole.points[-1][1]) == (7, 0.7778)
        assert shown.chart.window is None
        assert all(part in shown.chart.caption for part in ("TTFT of 10,", "E2E latency of 9 "))
        low, high = shown.chart.x_domain or (0, 0)
        assert low < first.points[0][0] < whole.points[-1][0] < high

    def test_the_table_beside_has_the_percentiles_of_the_summary(self, mixed: Reduction) -> None:
        rows = charts(mixed, grid({"output_tok_s": [1.0, 1.0]}))["latency"].table.rows
        ttft, e2e = mixed.summary.latency["ttft_s"], mixed.summary.latency["e2e_s"]
        assert list(rows[0]) == ["p50", numbers.duration(ttft.p50), numbers.duration(e2e.p50)]
        assert list(rows[3]) == ["p99", "—", "—"]  # in the share of those that never got there

    def test_the_largest_classes_have_a_line_each_and_the_others_are_named_as_left_out(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = new_builder(window_s=30.0)
        for number, name in enumerate(("f", "e", "d", "c", "b", "a")):
            for i in range(2 + number):
                builder.request(
                    3.0 + i + number / 10, ttft_s=0.1 + number / 100 + i / 1000, **{"class": name}
                )
        reduction = reduce_fully(builder.write(tmp_path / "run"))
        shown = charts(reduction, grid({"output_tok_s": [1.0, 1.0]}))["classes"]
        assert [line.name for line in shown.chart.lines] == ["a", "b", "c", "d"]
        assert len(shown.chart.lines) == len(SERIES)
        assert [len(line.points) for line in shown.chart.lines] == [7, 6, 5, 4]
        assert all(line.points[-1][1] == 1.0 for line in shown.chart.lines)
        assert all(part in shown.chart.caption for part in ("4 largest classes", "2 more"))
        assert list(shown.table.head) == ["", "a", "b", "c", "d"]

    def test_a_curve_of_many_has_both_ends_and_is_as_fine_as_a_screen(self) -> None:
        line = _curve("many", np.arange(1000, 0, -1) / 1000, 2000)
        assert line is not None
        assert len(line.points) == 160
        assert (line.points[0], line.points[-1]) == ((0.001, 0.0005), (1.0, 0.5))
        assert (
            _curve("one", np.array([0.1, np.nan, 0.0]), 3) is None
        )  # nothing on a logarithmic axis, and one point is no line

    def test_one_class_has_no_chart_of_classes(self, mixed: Reduction) -> None:
        assert "classes" not in charts(mixed, grid({"output_tok_s": [1.0, 1.0]}))


class TestTrade:
    @staticmethod
    def staged(
        reduction: Reduction, figures: list[tuple[str, float | None, float | None, float | None]]
    ) -> Reduction:
        """Stages with (name, tok/s per user, tok/s, tok/s per GPU)."""
        (one,) = reduction.summary.stages
        stages = []
        for name, user, rate, per_gpu in figures:
            values = {
                "interactivity_tok_s_user": user,
                "output_tok_s": rate,
                "output_tok_s_per_gpu": per_gpu,
            }
            metrics = {
                **one.metrics,
                **{key: replace(one.metrics[key], value=value) for key, value in values.items()},
            }
            stages.append(replace(one, name=name, metrics=metrics))
        return replace(reduction, summary=replace(reduction.summary, stages=tuple(stages)))

    def test_each_stage_is_a_point_with_its_name(self, mixed: Reduction) -> None:
        reduction = self.staged(
            mixed, [("one", 40.0, 20.0, None), ("two", 20.0, 30.0, None), ("odd", None, 40.0, None)]
        )
        shown = charts(reduction, grid({"output_tok_s": [1.0, 1.0]}))["trade"]
        assert shown.chart.lines[0].points == [(40.0, 20.0), (20.0, 30.0)]
        assert shown.chart.point_names == ["one", "two"]
        assert shown.chart.y_title == "tok/s"
        assert [row[0] for row in shown.table.rows] == ["one", "two"]

    def test_with_gpus_it_is_per_gpu_and_names_fit_on_the_chart(self, mixed: Reduction) -> None:
        reduction = self.staged(mixed, [("one", 40.0, 20.0, 10.0), ("two", 39.0, 30.0, 15.0)])
        chart = charts(reduction, grid({"output_tok_s": [1.0, 1.0]}))["trade"].chart
        assert chart.lines[0].points == [(40.0, 10.0), (39.0, 15.0)]
        assert chart.y_title == "tok/s/GPU"
        assert chart.x_domain is not None
        assert 30 < chart.x_domain[0] < 39  # near speeds are not pressed against the edge
        drawing = draw(line_chart(chart, WIDE))
        assert ">one</text>" in drawing
        assert ">two</text>" in drawing

    def test_a_single_stage_has_nothing_to_trade(self, mixed: Reduction) -> None:
        assert "trade" not in charts(
            self.staged(mixed, [("one", 40.0, 20.0, None)]), grid({"output_tok_s": [1.0, 1.0]})
        )


class TestServer:
    def test_counters_gauges_and_histograms_each_have_a_table(self, mixed: Reduction) -> None:
        found = {
            "kind": "vllm",
            "prompt_tokens": 1999.6,
            "generated_tokens": 100.0,
            "running": {"mean": 2.5, "max": 4.0, "n": 20},
            "kv_usage": {"mean": 0.045, "max": 0.08, "n": 20},
            "ttft_s": {
                "count": 9.7,
                "mean_s": 0.21,
                "p50_bucket_s": [0.1, 0.25],
                "p99_bucket_s": [2.5, None],
            },
            "itl_s": {"count": 80.0, "mean_s": 0.05, "p50_bucket_s": None, "p99_bucket_s": None},
        }
        counters, gauges, histograms = server(
            replace(
                mixed,
                summary=replace(mixed.summary, server=from_json(ServerFigures, found, "server")),
            )
        )
        assert counters.rows == [
            ("Prompt tokens", "2,000", "99.98/s"),
            ("Generated tokens", "100", "5/s"),
        ]
        assert gauges.rows == [
            ("Running requests", "2.50", "4", "20"),
            ("KV cache usage", "4.5%", "8%", "20"),
        ]
        ttft = mixed.summary.latency["ttft_from_sent_s"]
        own = tuple(numbers.duration(value) for value in (ttft.mean, ttft.p50, ttft.p99))
        assert histograms.rows[0] == (
            "Time to first token",
            "210 ms",
            "100 ms – 250 ms",
            "over 2.50 s",
            "10",
            *own,
        )
        assert histograms.rows[1][:5] == ("Inter-token latency", "50 ms", "—", "—", "80")
        assert "vllm" in counters.caption

    def test_every_count_of_the_server_has_its_row(self, mixed: Reduction) -> None:
        keys = (
            "prompt_tokens",
            "computed_tokens",
            "cached_tokens",
            "generated_tokens",
            "finished",
            "preempted",
        )
        gauge = Gauge(mean=1.0, max=2.0, n=3)
        found = ServerFigures(
            **{key: 20.0 * (i + 1) for i, key in enumerate(keys)},
            **dict.fromkeys(("running", "waiting", "kv_usage"), gauge),
        )
        reduction = replace(mixed, summary=replace(mixed.summary, server=found))
        counters, gauges = server(reduction)
        assert "(" not in counters.caption
        assert counters.rows == [
            ("Prompt tokens", "20", "1/s"),
            ("Prompt tokens, computed", "40", "2/s"),
            ("Prompt tokens, cached", "60", "3/s"),
            ("Generated tokens", "80", "4/s"),
            ("Finished requests", "100", "5/s"),
            ("Preemptions", "120", "6/s"),
        ]
        assert [row[0] for row in gauges.rows] == [
            "Running requests",
            "Queued requests",
            "KV cache usage",
        ]
        table = cache(reduction)
        assert table is not None
        assert [(row[0], row[2]) for row in table.rows] == [
            ("Cached", "3 tok/s"),
            ("Computed", "2 tok/s"),
            ("Written to cache", numbers.DASH),
            ("All input", "1 tok/s"),
            ("Prefix cache hit rate", "300%"),
        ]

    def test_a_server_that_tells_nothing_is_said_to(self, mixed: Reduction) -> None:
        silent = replace(
            mixed,
            summary=replace(
                mixed.summary,
                server=None,
                metrics={
                    **mixed.summary.metrics,
                    **dict.fromkeys(
                        ("input_cache_read_tok_s", "prefix_hit_ratio"),
                        replace(mixed.summary.metrics["prefix_hit_ratio"], value=None),
                    ),
                },
            ),
        )
        assert server(silent) == []
        assert cache(silent) is None
        text = markdown(view(silent))
        for heading in ("Server", "Prefix cache", "Energy"):
            section = text.partition(f"## {heading}\n")[2].partition("## ")[0]
            assert re.search(r"not available|No server metrics", section), heading
            assert "|" not in section

    def test_what_the_servers_counters_stand_in_for_is_not_shown_as_the_clients(
        self, mixed: Reduction
    ) -> None:
        table = cache(mixed)
        assert table is not None
        assert table.rows[0][1] != numbers.DASH
        stands_in = {
            key: replace(figure, boundary="server")
            for key, figure in mixed.summary.metrics.items()
            if key in ("input_cache_read_tok_s", "input_computed_tok_s", "prefix_hit_ratio")
        }
        table = cache(
            replace(
                mixed,
                summary=replace(mixed.summary, metrics={**mixed.summary.metrics, **stands_in}),
            )
        )
        assert table is not None
        by_name = {row[0]: row[1:] for row in table.rows}
        assert (
            by_name["Cached"][0]
            == by_name["Computed"][0]
            == by_name["Prefix cache hit rate"][0]
            == numbers.DASH
        )
        assert by_name["All input"][0] != numbers.DASH
        assert by_name["Cached"][1] != numbers.DASH


class TestDrawing:
    def test_words_of_marks_stay_apart_and_on_the_drawing(self) -> None:
        marks = [
            (0.0, "a-long-name-of-a-stage"),
            (5.0, "hidden"),
            (50.0, "shown"),
            (99.0, "too-far-right"),
        ]
        assert _fitting(marks, (0.0, 100.0), 880) == [
            (0.0, "a-long-name-of-a-stage"),
            (50.0, "shown"),
        ]
        assert _fitting(marks, (0.0, 100.0), 0) == []
        assert _fitting(marks, None, 880) == []

    def test_a_chart_on_its_own_tells_what_its_y_is_in(self) -> None:
        chart = Chart("k", "C", "s", "tok/s & more", [Line("l", [(0.0, 1.0), (1.0, 2.0)])])
        drawing = draw(line_chart(chart, WIDE))
        alone = themed(drawing, "dark", chart.y_title)
        assert ">tok/s &amp; more</text>" in alone
        assert 'viewBox="0 -20 880 250"' in alone
        assert "#0101" not in alone
        assert "tok/s" not in themed(drawing, "dark")
