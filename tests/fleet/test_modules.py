"""Superchips: a run whose power is that of modules (GPUs with their processors) counts no processor
twice.
"""

import pytest

from harness.core.errors import ProfileError
from harness.core.records import Basis
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.estimate.gpu_ratio import Ratio
from harness.fleet.site.catalog import check_overlap, gpus, priors
from harness.fleet.site.types import Site

GB200 = ("NVIDIA GB200",) * 4
MODULES = {"module": 4 * 1300.0}


def site(gpu="GB200", *, pue=1.2, includes=()):
    return Site(
        name="ours",
        title="ours",
        gpus={"value": 1000, "source": "us", "date": "2026-01"},
        gpu={"value": gpu, "source": "us", "date": "2026-01"},
        pue={"value": pue, "source": "us", "date": "2026-01", "includes": includes},
    )


def power(found):
    return [step for step in found.waterfall if step.part == "power"]


@pytest.mark.parametrize("name", ["GB200", "GB300"])
def test_a_module_holds_its_processor_and_only_the_rest_of_the_host_is_added(make_run, name):
    found = estimate(make_run(gpus=(f"NVIDIA {name}",) * 4, power=MODULES), site(name))
    p = priors()
    rest = (
        gpus()[name].host_rated_w.value
        * p["host_power_share"].value
        * p["host_beside_module"].value
    )
    each_w = (1300.0 + rest) * (1 + p["network_storage"].value) * 1.2
    assert found.figure("power_peak_mw").value == pytest.approx(each_w * 1000 / 1e6)
    module, host = power(found)[:2]
    assert (module.label, module.result, module.basis) == (
        "measured module power (GPU and processor)",
        1300.0,
        Basis.MEASURED,
    )
    assert (host.operation, host.factor, host.result) == (
        "+",
        pytest.approx(rest),
        pytest.approx(1300.0 + rest),
    )
    assert host.p5 < host.factor < host.p95
    assert not any("board power" in step.label for step in power(found))


def test_the_same_watts_of_boards_take_the_whole_host(make_run):
    modules, boards = (
        estimate(make_run(gpus=GB200, power={scope: 4 * 1300.0}), site())
        for scope in ("module", "gpu_board")
    )
    assert modules.figure("power_peak_mw").value < boards.figure("power_peak_mw").value
    assert "host_beside_module" not in boards.factors


def test_boards_are_scaled_and_a_node_meter_replaces_them(
    make_run,
):
    """Boards with modules beside them are scaled as boards and a node meter replaces both."""
    both = estimate(make_run(gpus=GB200, power={"gpu_board": 4 * 1000.0, **MODULES}), site())
    assert power(both)[0].label == "measured GPU board power"
    metered = estimate(make_run(gpus=GB200, power={**MODULES, "node": 4 * 1700.0}), site())
    assert metered.figure("power_peak_mw").value == pytest.approx(1700.0 * 1.1 * 1.2 * 1000 / 1e6)


@pytest.mark.parametrize("scope", ["module", "gpu_board"])
def test_host_watts_that_the_profile_states_replace_the_rated_ones(make_run, scope):
    found = estimate(make_run(gpus=GB200, power={scope: 4 * 1300.0}, host_w_per_gpu=250.0), site())
    assert found.figure("power_peak_mw").value == pytest.approx(
        (1300.0 + 250.0) * 1.1 * 1.2 * 1000 / 1e6
    )
    assert "our meter" in power(found)[1].source
    assert power(found)[1].p5 is None


def test_power_without_load_is_taken_at_the_same_scope(make_run):
    at_modules = estimate(
        make_run(gpus=GB200, power=MODULES, ready_power=(4 * 390.0, "module")), site()
    )
    assert at_modules.factors["idle_power_share"].value == pytest.approx(0.3)
    assert at_modules.factors["idle_power_share"].basis is Basis.MEASURED
    at_boards = estimate(
        make_run(gpus=GB200, power=MODULES, ready_power=(4 * 390.0, "gpu_board")), site()
    )
    assert at_boards.factors["idle_power_share"].basis is Basis.MODELLED


def test_loads_measured_at_another_scope_give_no_line(make_run):
    loads = (make_run(gpus=GB200, power={"gpu_board": 4 * 700.0}, tok_s_per_gpu=500.0),)
    found = estimate(make_run(gpus=GB200, power=MODULES), site(), options=Options(loads=loads))
    assert any("measured power at gpu_board" in flag for flag in found.flags)


def test_modules_are_not_scaled_to_another_type(make_run):
    found = estimate(
        make_run(gpus=GB200, power=MODULES),
        site("B200"),
        options=Options(modelled=Ratio(0.9, "us")),
    )
    assert found.figure("power_peak_mw").value is None
    assert "modules" in found.figure("power_peak_mw").note
    assert found.figure("output_tok_s").value > 0


# --- nothing twice ---


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("cpu", "measured power of the modules"),
        ("gpu", "measured power of the modules"),
        ("host", "host_beside_module"),
    ],
)
def test_a_constant_that_covers_what_the_module_holds_is_refused_and_both_are_named(
    make_run, part, other
):
    with pytest.raises(ProfileError, match=f"{other} and pue both include {part}"):
        estimate(make_run(gpus=GB200, power=MODULES), site(includes=(part, "pue")))


def test_a_modules_power_and_a_whole_hosts_overlap_in_the_processor():
    with pytest.raises(ProfileError, match="module and host_rated_w both include cpu"):
        check_overlap(
            {"module": ("gpu", "cpu"), "host_rated_w": gpus()["GB200"].host_rated_w.includes}
        )
