"""Which load stage heads the summary: by rule, by name, and of stages of which little is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.run_summary import Figure, Slos
from harness.core.records import HeadlineRule
from harness.reduce.figures.headline import SLO_SHARE, choose
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.windows.measurement_window import StageWindow

SLOS = Slos(ttft_s=1.0)
NONE = Slos()


class Sweep:
    """Stages with known values."""

    def __init__(self) -> None:
        self.windows: list[StageWindow] = []
        self.figures: dict[str, StageFigures] = {}

    def add(
        self,
        name: str,
        output: float | None = None,
        met: float | None = None,
        good: float | None = None,
        *,
        cut: bool = False,
        measured: bool = True,
    ) -> "Sweep":
        end = 60e9 if measured else None
        window = StageWindow(
            name, "concurrency", 0, end, 0, end, cut, "window_s", 1, None, "A rule."
        )
        self.windows.append(window)
        values = {"output_tok_s": output, "slo_met_ratio": met, "goodput_rps": good}
        metrics = {key: Figure(value, "1") for key, value in values.items()}
        self.figures[name] = StageFigures(metrics, {}, None, None)
        return self

    def headline(self, asked: str | None = None, slos: Slos = SLOS) -> tuple[str, str]:
        found = choose(asked, self.windows, self.figures, slos)
        assert found is not None
        assert found.reason
        return found.stage, found.rule


@pytest.fixture(name="sweep")
def _sweep() -> Sweep:
    """Throughput rises with load, the SLO is met up to c64; goodput is highest at c128."""
    sweep = Sweep()
    sweep.add("c16", 100, 1.0, 1.0).add("c64", 300, 0.9, 3.0)
    return sweep.add("c128", 400, 0.89, 3.5).add("c256", 390, 0.1, 0.4)


@pytest.mark.parametrize(
    ("asked", "slos", "expected"),
    [
        (None, SLOS, ("c64", "best_under_slo")),
        (None, NONE, ("c128", "highest_throughput")),
        ("best_under_slo", SLOS, ("c64", "best_under_slo")),
        ("highest_throughput", SLOS, ("c128", "highest_throughput")),
        ("last", SLOS, ("c256", "last")),
        ("c16", SLOS, ("c16", "c16")),
        ("c512", SLOS, ("c128", "c512")),
    ],
)
def test_rule(sweep: Sweep, asked: str | None, slos: Slos, expected: tuple[str, str]) -> None:
    assert sweep.headline(asked, slos) == expected


def test_highest_goodput_where_no_stage_meets_the_slos() -> None:
    sweep = Sweep().add("a", 500, 0.2, 2.0).add("b", 100, 0.5, 2.0).add("c", 900, 0.7, 1.0)
    assert sweep.headline() == ("b", "best_under_slo")


def test_of_stages_that_meet_the_slos_without_throughput_the_one_with_most_goodput() -> None:
    sweep = Sweep().add("a", None, 0.95, 1.0).add("b", None, 0.92, 2.0).add("c", None, 0.1, 9.0)
    assert sweep.headline() == ("b", "best_under_slo")


def test_cut_stage_loses_to_complete_ones_and_wins_alone() -> None:
    sweep = (
        Sweep().add("a", 100, 1.0, 1.0).add("b", 200, 1.0, 2.0).add("c", 900, 1.0, 9.0, cut=True)
    )
    assert sweep.headline() == ("b", "best_under_slo")
    assert sweep.headline("last") == ("c", "last")
    alone = Sweep().add("a", measured=False).add("b", 9, 1.0, 1.0, cut=True)
    assert alone.headline() == ("b", "best_under_slo")


def test_without_values_or_windows_there_is_still_a_stage() -> None:
    assert Sweep().add("a").add("b").headline() == ("b", "best_under_slo")
    assert Sweep().add("a", measured=False).headline("last") == ("a", "last")
    assert choose(None, [], {}, SLOS) is None


def _stages() -> st.SearchStrategy[Sweep]:
    value = st.none() | st.floats(0, 1e6)
    row = st.tuples(value, st.none() | st.floats(0, 1), value, st.booleans(), st.booleans())

    def build(rows: list[tuple[float | None, float | None, float | None, bool, bool]]) -> Sweep:
        sweep = Sweep()
        for i, (output, met, good, cut, measured) in enumerate(rows):
            sweep.add(f"s{i}", output, met, good, cut=cut, measured=measured)
        return sweep

    return st.lists(row, min_size=1, max_size=6).map(build)


@given(_stages(), st.sampled_from([None, *HeadlineRule, "s0", "elsewhere"]))
def test_no_stage_that_qualifies_is_better_than_the_headline(
    sweep: Sweep, asked: str | None
) -> None:
    chosen, rule = sweep.headline(asked)
    assert sweep.headline(asked) == (chosen, rule)
    measured = [one for one in sweep.windows if one.end is not None]
    assert not measured or chosen in {one.name for one in measured}
    complete = [one for one in measured if not one.cut] or measured

    def value(name: str, key: str) -> float | None:
        return sweep.figures[name].metrics[key].value

    good = [
        one.name
        for one in complete
        if (value(one.name, "slo_met_ratio") or 0) >= SLO_SHARE
        and value(one.name, "output_tok_s") is not None
    ]
    if len(measured) > 1 and rule == HeadlineRule.BEST_UNDER_SLO and good:
        assert chosen in good
        best = max(value(name, "output_tok_s") or 0 for name in good)
        assert value(chosen, "output_tok_s") == best
        assert all(value(name, "output_tok_s") != best for name in good[: good.index(chosen)])
    outputs = [value(one.name, "output_tok_s") for one in complete]
    known = [one for one in outputs if one is not None]
    if len(measured) > 1 and rule == HeadlineRule.HIGHEST_THROUGHPUT and known:
        assert value(chosen, "output_tok_s") == max(known)
