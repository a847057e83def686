import re
from dataclasses import fields

import pytest

from harness.core.errors import ProfileError
from harness.fleet.site.catalog import (
    PARTS,
    SITE_COLUMNS,
    Sourced,
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

GOOD = """
ours:
  gpu: {value: H100, source: us, date: 2026-01}
  gpus: {value: 1000, source: us, date: 2026-01-05}
  power_mw: {value: 2, source: us, date: 2026-01}
"""


def sourced(item):
    for field in fields(item):
        value = getattr(item, field.name)
        for found in value.values() if isinstance(value, dict) else [value]:
            if isinstance(found, Sourced):
                yield found


def test_every_shipped_number_has_a_source_and_a_date():
    numbers = [number for item in (*gpus().values(), *list_sites()) for number in sourced(item)]
    numbers += [other.figure for site in list_sites() for other in site.also_said]
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
    ("change", "fault"),
    [
        (("value: 2,", "value: -2,"), "ours.power_mw.value must be above 0"),
        (("value: 2,", "value: .nan,"), "ours.power_mw.value must be a number"),
        (("value: 2,", "value: true,"), "ours.power_mw.value must be a number"),
        (("value: 1000,", "value: 0,"), "ours.gpus.value must be at least 1"),
        (("value: H100", "value: H1000"), "ours.gpu must be"),
        (
            ("power_mw: {value: 2, source: us, date: 2026-01}", "power_mw: 2"),
            "a number without its source is not taken",
        ),
        (("source: us, date: 2026-01-05", "date: 2026-01-05"), "ours.gpus.source must be text"),
        (("date: 2026-01-05", "date: 2026-13"), "ours.gpus.date must be a date"),
        (("power_mw", "power_kw"), "ours.power_kw is no key here"),
        (("power_mw", "power"), "ours.power is no key here; name its unit: power_mw"),
        (
            (
                "  gpu: {value: H100",
                "  mix: {H100: {value: 0.5, source: us, date: 2026-01}}\n  gpu: {value: H100",
            ),
            "ours.mix stands beside gpu",
        ),
        (
            (
                "  gpu: {value: H100, source: us, date: 2026-01}",
                "  mix: {H100: {value: 0.5, source: us, date: 2026-01}}",
            ),
            "add up to 1",
        ),
        (
            ("  power_mw", "  notice_days: {value: -1, source: us, date: 2026-01}\n  power_mw"),
            "ours.notice_days.value must be at least 0",
        ),
        (
            ("  power_mw", "  pue: {value: 0.9, source: us, date: 2026-01}\n  power_mw"),
            "ours.pue.value must be at least 1",
        ),
        (("gpus: {value: 1000, source: us, date: 2026-01-05}", "title: x"), "ours.gpus is needed"),
        (("value: 1000,", "value: 10.5,"), "ours.gpus.value must be a whole number"),
        (("value: 1000,", "value: 1.0e+9,"), "ours.gpus.value must be at most 100,000,000"),
        (("value: 2,", "value: 1.0e+300,"), "ours.power_mw.value must be at most"),
        (("date: 2026-01-05", "date: 2026-02-30"), "ours.gpus.date must be a date"),
        (
            ("  power_mw", "  available: 2030-01\n  until: 2028-01\n  power_mw"),
            "ours.until is 2028-01, before the site is available (2030-01)",
        ),
    ],
)
def test_a_fault_in_a_site_file_is_told_by_its_key(tmp_path, change, fault):
    path = tmp_path / "site.yaml"
    assert change[0] in GOOD
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(ProfileError) as error:
        load_site(path)
    assert error.value.exit_code == 2
    assert fault in error.value.details


def test_all_faults_are_told_at_once(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(GOOD.replace("value: 2,", "value: -2,").replace("value: 1000,", "value: 0,"))
    with pytest.raises(ProfileError, match="2 faults"):
        load_site(path)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "a: 1", GOOD + GOOD.replace("ours", "others")])
def test_what_is_no_site_file_is_refused(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError):
        load_site(path)


@pytest.mark.parametrize(
    ("text", "cause", "step"),
    [
        (b"ours:\n\tgpus: {value: 1}\n", "in line 2, column 1", "spaces, not with tabs"),
        (GOOD.encode() + GOOD.encode(), "duplicate key", "mend that line"),
        (
            b"ours: !!python/object/apply:os.system ['id']\n",
            "could not determine a constructor",
            "mend that line",
        ),
        (b"\xff\xfe", "codec can't decode", "in UTF-8"),
    ],
)
def test_what_is_no_yaml_is_told_in_a_line_with_its_place(tmp_path, text, cause, step):
    path = tmp_path / "site.yaml"
    path.write_bytes(text)
    with pytest.raises(ProfileError) as error:
        load_site(path)
    assert cause in error.value.cause
    assert "\n" not in error.value.cause
    assert step in error.value.next_step


def test_an_unknown_site_names_those_there_are(tmp_path):
    with pytest.raises(ProfileError) as error:
        load_site("colossus-9")
    assert "colossus-1" in error.value.next_step
    with pytest.raises(ProfileError, match="cannot be read"):
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
