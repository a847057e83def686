"""`harness fleet`: estimates for runs at sites, with a simulation over time on request."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.artifacts.run_result import load_result
from harness.artifacts.sweep.index import is_sweep
from harness.core.errors import HarnessError, NotComparableError
from harness.fleet.cases import Case, FleetAnswer, Refusal
from harness.fleet.estimate import aiconfigurator
from harness.fleet.estimate.estimate import Options, estimate
from harness.fleet.estimate.gpu_ratio import Ratio, check_ratio, parse_ratio
from harness.fleet.estimate.measured import type_of
from harness.fleet.over_time.forecast import TimeOptions, forecast
from harness.fleet.site.catalog import list_sites, load_site
from harness.fleet.site.types import Site
from harness.sweeps.best import site_evidence
from harness.sweeps.points import load_sweep


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """Arguments of `fleet`.

    Attributes:
        runs: run directories or folders of sweeps; the page is about the first.
        sites: names or files.
        compare_sites: all known sites, in addition to `sites`.
        options: options of the estimates.
        time: options of the simulation; None for no simulation.
    """

    runs: Sequence[Path]
    sites: Sequence[str]
    compare_sites: bool = False
    options: Options | None = None
    time: TimeOptions | None = None
    modelled: str | None = None
    """Throughput ratio between GPU types: `table`, a number, LOW:HIGH, `aiconfigurator` or
    `aiconfigurator:MODEL`.
    """
    modelled_source: str | None = None
    """Source of that ratio."""


def fleet(request: FleetRequest) -> FleetAnswer:
    """Estimate every run at every site; only the first successful case is simulated over time.

    Raises:
        HarnessError: that of the first case, if no case succeeds.
    """
    sites = [_site(name) for name in dict.fromkeys(request.sites)]
    runs = {run.resolve(): run for run in request.runs}.values()  # without duplicates
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
                path, mine = _from_sweep(run, options)
                ratio = _ratio(path, site, request)
                estimated = estimate(path, site, options=replace(mine, modelled=ratio))
                # Simulations are slow, and the page shows the first only.
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


def _from_sweep(path: Path, options: Options) -> tuple[Path, Options]:
    """The run of a sweep's best point, with other points as further evidence; or a run itself."""
    if not is_sweep(path):
        return path, options
    found = site_evidence(load_sweep(path))
    return found.run, replace(
        options,
        loads=(*options.loads, *found.loads),
        limits=(*options.limits, *found.limits),
        replicas=(*options.replicas, *found.replicas),
    )


def _site(name: str) -> Site:
    return load_site(Path(name) if name.endswith((".yaml", ".yml")) else name)


def _ratio(run: Path, site: Site, request: FleetRequest) -> Ratio | None:
    """The stated ratio between the run's GPU type and the site's; None if they are equal or none
    is stated.
    """
    if request.modelled is None or not site.types:
        return None
    result = load_result(run)
    kind = type_of(result)
    if kind.name in site.types:
        return None
    if len(site.types) > 1:
        raise NotComparableError(
            f"{site.name} has several GPU types ({' + '.join(site.types)}):"
            " a ratio to a mix is not defined"
        )
    tool, _, model = request.modelled.partition(":")
    if tool == aiconfigurator.NAME:
        demonstrate = request.options is not None and request.options.demonstrate
        return aiconfigurator.ratio_between(
            result, kind.name, site.types[0], model=model or None, demonstrate=demonstrate
        )
    return parse_ratio(request.modelled, request.modelled_source, kind.name, site.types[0])
