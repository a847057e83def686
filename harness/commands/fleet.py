"""`harness fleet` as one call: runs at sites, over time where that is asked for, written and shown
on loopback.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.run_result import load_result
from harness.core.errors import HarnessError, NotComparableError
from harness.fleet.cases import Case, FleetAnswer, Refusal
from harness.fleet.estimate import aiconfigurator
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.estimate.gpu_ratio import Ratio, check_ratio, parse_ratio
from harness.fleet.estimate.measured import type_of
from harness.fleet.over_time.forecast import TimeOptions, forecast
from harness.fleet.site.catalog import list_sites, load_site
from harness.fleet.site.types import Site


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """What is asked.

    Attributes:
        runs: run directories; the first fills the page.
        sites: names or files.
        compare_sites: all shipped sites beside those.
        options: of the estimates.
        time: of the simulation; None simulates nothing.
        modelled: ratio between types of GPU as text: table, a number, LOW:HIGH, aiconfigurator or
            aiconfigurator:MODEL.
        modelled_source: who says so.
    """

    runs: Sequence[Path]
    sites: Sequence[str]
    compare_sites: bool = False
    options: Options | None = None
    time: TimeOptions | None = None
    modelled: str | None = None
    modelled_source: str | None = None


def fleet(request: FleetRequest) -> FleetAnswer:
    """Estimate every run at every site; only the first case with an answer is simulated over time.

    Raises:
        HarnessError: of the first case, where not one has an answer.
    """
    sites = [_site(name) for name in dict.fromkeys(request.sites)]
    runs = {run.resolve(): run for run in request.runs}.values()  # one that is named twice is one
    if request.compare_sites:
        sites += [site for site in list_sites() if site.name not in {known.name for known in sites}]
    if request.modelled is not None:
        check_ratio(request.modelled)
    cases: list[Case] = []
    refused: list[Refusal] = []
    first: HarnessError | None = None
    options = request.options or Options()
    for site in sites:
        for run in runs:
            try:
                ratio = _ratio(run, site, request)
                estimated = estimate(run, site, options=replace(options, modelled=ratio))
                # Several simulations would cost much and fill no page: the first stands for the
                # site.
                over_time = (
                    forecast(estimated, request.time)
                    if request.time is not None and not cases
                    else None
                )
                cases.append(Case(estimated, over_time))
            except HarnessError as error:
                first = first or error
                refused.append(
                    Refusal(str(run), site.name, " ".join(filter(None, (error.what, error.cause))))
                )
    if not cases:
        assert first is not None
        raise first
    return FleetAnswer(tuple(cases), tuple(refused))


def _site(name: str) -> Site:
    return load_site(Path(name) if name.endswith((".yaml", ".yml")) else name)


def _ratio(run: Path, site: Site, request: FleetRequest) -> Ratio | None:
    """The stated model between the run's type of GPU and the site's; None where they are the same
    or none is stated.
    """
    if request.modelled is None or not site.types:
        return None
    result = load_result(run)
    kind = type_of(result)
    if kind.name in site.types:
        return None
    if len(site.types) > 1:
        raise NotComparableError(
            f"{site.name} is a mix of {' + '.join(site.types)}: a ratio to a mix is none"
        )
    tool, _, model = request.modelled.partition(":")
    if tool == aiconfigurator.NAME:
        demonstrate = request.options is not None and request.options.demonstrate
        return aiconfigurator.ratio_between(
            result, kind.name, site.types[0], model=model or None, demonstrate=demonstrate
        )
    return parse_ratio(request.modelled, request.modelled_source, kind.name, site.types[0])
