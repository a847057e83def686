import re

import pytest

from harness.checked_yaml.problems import InvalidYamlError
from harness.core.errors import ProfileError
from harness.fleet.site.catalog import (
    check_overlap,
    contradictions,
    gpu_type,
    gpus,
    list_sites,
    load_site,
    overridden,
    priors,
    sanity,
)
from harness.fleet.site.types import PARTS, SITE_COLUMNS, Sourced

US = "source: us, date: 2026-01"
GOOD = """
ours:
  gpu: {value: H100, source: us, date: 2026-01}
  gpus: {value: 1000, source: us, date: 2026-01-05}
  power_mw: {value: 2, source: us, date: 2026-01}
"""


def sourced(item):
    for _, value in item:
        for found in value.values() if isinstance(value, dict) else [value]:
            if isinstance(found, Sourced):
                yield found


def test_every_shipped_number_has_a_source_and_a_date():
    numbers = [number for item in (*gpus().values(), *list_sites()) for number in sourced(item)]
    numbers += [other for site in list_sites() for other in site.also_said]
    assert len(numbers) > 30
    for number in (*numbers, *priors().values()):
        assert number.source
        assert re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", number.date)


def test_every_constant_of_power_says_what_it_includes():
    for spec in gpus().values():
        for constant in (
            spec.board_power_w,
            spec.board_idle_w,
            spec.host_rated_w,
            spec.all_in_kw,
            spec.all_in_it_kw,
        ):
            assert constant is None or set(constant.includes) <= set(PARTS)
            assert constant is None or constant.includes


def test_the_sites_are_there_and_show_as_rows():
    assert [site.name for site in list_sites()] == ["colossus-1", "google-110k"]
    rows = {site.name: dict(zip(SITE_COLUMNS, site.row(), strict=True)) for site in list_sites()}
    assert rows["colossus-1"]["$/GPU-h implied"] == "8.56"
    assert rows["google-110k"]["$/GPU-h implied"] == "11.45"
    assert rows["google-110k"]["type"] == "not stated"


def test_contradictions_are_shown_with_their_arithmetic():
    found = "\n".join(contradictions(load_site("colossus-1")))
    assert "346 MW against 300 MW" in found
    assert "173,410" in found
    assert "220,000 GPUs against 200,000" in found
    assert "$7.78" in found
    assert "274 MW of IT power" in found
    assert contradictions(load_site("google-110k")) == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA GB300", "GB300"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", None),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVML TEST DOUBLE", "TEST-DOUBLE"),
        (None, None),
    ],
)
def test_a_board_is_known_by_the_name_that_nvml_gives_it(name, kind):
    assert gpu_type(name) == kind


def test_constants_that_cover_the_same_part_are_refused_by_name():
    check_overlap({"boards": ("gpu",), "hosts": ("host",), "pue": ("pue",)})
    with pytest.raises(ProfileError, match="all_in_kw and pue both include pue"):
        check_overlap({"all_in_kw": gpus()["H100"].all_in_kw.includes, "pue": ("pue",)})


def test_a_site_file_of_ones_own(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(GOOD)
    site = load_site(path)
    assert (site.name, site.gpus.value, site.power_mw.value, site.pue) == (
        "ours",
        1000.0,
        2.0,
        None,
    )


@pytest.mark.parametrize(
    ("change", "where", "path", "what", "fix"),
    [
        (("value: 2,", "value: -2,"), "5:14", "power_mw.value", "it is -2", "above 0"),
        (("value: 2,", "value: .nan,"), "5:14", "power_mw.value", "it is nan", "a number"),
        (("value: 2,", "value: true,"), "5:14", "power_mw.value", "it is true", "a number"),
        (("value: 2,", "value: 1.0e+300,"), "5:14", "power_mw.value", "it is 1e+300", "at most"),
        (("value: 1000,", "value: 0,"), "4:10", "gpus.value", "it is 0", "at least 1"),
        (("value: 1000,", "value: 10.5,"), "4:10", "gpus.value", "it is 10.5", "a number"),
        (("value: 1000,", "value: 1.0e+9,"), "4:10", "gpus.value", "it is 1000000000", "at most"),
        (("value: H100", "value: H1000"), "3:9", "gpu.value", "'H1000'", "did you mean `H100`?"),
        (
            ("power_mw: {value: 2, source: us, date: 2026-01}", "power_mw: 2"),
            "5:3",
            "power_mw",
            "it is 2",
            "{value: …, source: …, date: …}",
        ),
        (
            ("source: us, date: 2026-01-05", "date: 2026-01-05"),
            "4:3",
            "gpus.source",
            "is missing",
            "add `source`",
        ),
        (("date: 2026-01-05", "date: 2026-13"), "4:35", "gpus.date", "2026-13", "YYYY-MM"),
        (("date: 2026-01-05", "date: 2026-02-30"), "4:35", "gpus.date", "2026-02-30", "YYYY-MM"),
        (("date: 2026-01-05", "date: 5 May"), "4:35", "gpus.date", "'5 May'", "YYYY-MM"),
        (("power_mw", "power_kw"), "5:3", "power_kw", "key", "did you mean `power_mw`?"),
        (("power_mw", "power"), "5:3", "power", "key", "did you mean `power_mw`?"),
        (("power_mw", "name"), "5:3", "name", "key", "the name above"),
        (
            ("  power_mw", "  notice_days: {value: -1, source: us, date: 2026-01}\n  power_mw"),
            "5:17",
            "notice_days.value",
            "it is -1",
            "at least 0",
        ),
        (
            ("  power_mw", "  pue: {value: 0.9, source: us, date: 2026-01}\n  power_mw"),
            "5:9",
            "pue.value",
            "it is 0.9",
            "at least 1",
        ),
        (
            ("gpus: {value: 1000, source: us, date: 2026-01-05}", "title: x"),
            "2:1",
            "gpus",
            "is missing",
            "add `gpus`",
        ),
        (
            (f"gpu: {{value: H100, {US}}}", f"mix: {{H100: {{value: 0.5, {US}}}}}"),
            "3:3",
            "mix",
            "must add up to 1, not 0.5",
            "all GPUs",
        ),
        (
            ("  power_mw", f"  mix: {{H100: {{value: 1, {US}}}}}\n  power_mw"),
            "5:3",
            "mix",
            "gpu",
            "one of",
        ),
        (
            ("  power_mw", "  available: 2030-01\n  until: 2028-01\n  power_mw"),
            "6:3",
            "until",
            "before the site is available (2030-01)",
            "last month",
        ),
        (
            ("  power_mw", f"  also_said: [{{what: [a], value: 1, {US}}}]\n  power_mw"),
            "5:16",
            "also_said.0.what",
            "it is a list",
            "`gpus` or `power_mw`",
        ),
        (
            ("  power_mw", f"  also_said: {{what: gpus, value: 1, {US}}}\n  power_mw"),
            "5:3",
            "also_said",
            "it is a mapping",
            "a list",
        ),
    ],
)
def test_an_error_in_a_site_file_has_place_key_and_fix(tmp_path, change, where, path, what, fix):
    file = tmp_path / "site.yaml"
    assert change[0] in GOOD
    file.write_text(GOOD.replace(*change, 1))
    with pytest.raises(InvalidYamlError) as error:
        load_site(file)
    assert error.value.exit_code == 2
    found = {problem.path: problem for problem in error.value.problems}
    assert f"ours.{path}" in found, found
    problem = found[f"ours.{path}"]
    assert problem.where == f"{file}:{where}"
    assert what in problem.what
    assert fix in problem.fix


def test_all_errors_of_a_site_file_come_at_once(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(GOOD.replace("value: 2,", "value: -2,").replace("value: 1000,", "value: 0,"))
    with pytest.raises(InvalidYamlError) as error:
        load_site(path)
    assert [problem.path for problem in error.value.problems] == [
        "ours.gpus.value",
        "ours.power_mw.value",
    ]


def test_a_file_of_two_sites_is_refused(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(GOOD + GOOD.replace("ours", "others"))
    with pytest.raises(ProfileError, match="2 sites"):
        load_site(path)


def test_an_unknown_site_names_those_there_are(tmp_path):
    with pytest.raises(ProfileError) as error:
        load_site("colossus-9")
    assert "colossus-1" in error.value.next_step
    with pytest.raises(ProfileError, match="none"):
        load_site(tmp_path / "none.yaml")


def test_a_mix_of_types_and_a_price_by_the_hour(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "mixed:\n  gpus: {value: 1000, source: us, date: 2026-01}\n  usd_per_gpu_h: {value: 2,"
        " source: us, date: 2026-01}\n  mix: {H100: {value: 0.75, source: us, date: 2026-01}, H200:"
        " {value: 0.25, source: us, date: 2026-01}}\n"
    )
    site = load_site(path)
    assert site.types == ("H100", "H200")
    assert site.monthly_usd() == pytest.approx(2 * 1000 * 730.5)
    assert dict(zip(SITE_COLUMNS, site.row(), strict=True))["type"] == "H100 + H200"


def test_assumptions_replace_priors_by_value_or_range():
    found = overridden(["pue=1.2", "load_factor=0.6:0.8"])
    assert (found["pue"].kind, found["pue"].value) == ("fixed", 1.2)
    assert (found["load_factor"].kind, found["load_factor"].low, found["load_factor"].value) == (
        "uniform",
        0.6,
        pytest.approx(0.7),
    )
    assert found["availability"] is priors()["availability"]


NO_ASSUMPTIONS = (
    "pue=0.9 pue=1.4:1.1 nothing=1 pue pue=x pue=-1 load_factor=1e pue=inf pue=nan pue=1.1:1e400"
    " load_factor=0 load_factor=1.1 availability=0 availability=2 reserved_spares=1"
    " multi_replica_efficiency=0 slo_headroom=0 idle_power_share=2 price_spread=0"
)


@pytest.mark.parametrize("text", NO_ASSUMPTIONS.split())
def test_an_assumption_that_makes_no_sense_is_refused(text):
    with pytest.raises(ProfileError, match=text.split("=")[0]):
        overridden([text])


def test_what_a_factor_may_be_is_taken_to_its_ends():
    found = overridden(
        ["co2_kg_per_kwh=0", "reserved_spares=0", "availability=1", "pue=1", "network_storage=0:3"]
    )
    assert [
        found[key].value
        for key in ("co2_kg_per_kwh", "reserved_spares", "availability", "pue", "network_storage")
    ] == [
        0,
        0,
        1,
        1,
        1.5,
    ]


def test_published_throughput_is_there_for_ratios():
    assert len(sanity()) == 5
    assert all(value > 0 for row in sanity() for value in row.tok_s_per_gpu.values())
