"""The ladder of boundaries: board, node, critical IT, facility. Each rung is measured, modelled
from the one below it, or absent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.artifacts.run_summary import Rung
from harness.core.power_boundaries import HOST_POWER_SHARE, NETWORK_STORAGE_RATIO, PUE, host_rated_w
from harness.core.records import Basis, Boundary, Gpu
from harness.profile.recorded import RecordedEnergy, RecordedFactor
from harness.reduce.energy.devices import GPU_BOUNDARIES, Energy

RUNGS: Final = ("board", "node", "critical_it", "facility")


@dataclass(frozen=True, slots=True)
class Factor:
    """What turns one rung into the next, with a range where its source gives one.

    Attributes:
        value: watts to add for each GPU (node), or the factor on the rung below.
        what: in words, with its unit.
        source: who says so.
        stated: by the profile; else a default of the harness.
    """

    value: float
    low: float
    high: float
    what: str
    source: str
    stated: bool


def ladder(
    energies: Sequence[Energy], gpus: Sequence[Gpu], settings: RecordedEnergy, length_s: float
) -> tuple[Rung, ...]:
    """The four rungs.

    Args:
        energies: of the window, one a boundary.
        gpus: `hardware.gpus` of the manifest.
        settings: `energy` of the profile.
        length_s: of the window.
    """
    by_boundary = {energy.boundary: energy for energy in energies}
    boards = next((by_boundary[b] for b in GPU_BOUNDARIES if b in by_boundary), None)
    none = _absent("board", Boundary.GPU_BOARD, "no board's power was read")
    board = none if boards is None else _measured("board", boards, length_s)
    node = _measured_or(by_boundary.get(Boundary.NODE), "node", length_s) or _node(
        board, boards, gpus, settings, length_s
    )
    network = _stated(settings.network_storage_ratio) or _default(NETWORK_STORAGE_RATIO, "")
    it = _measured_or(by_boundary.get(Boundary.RACK), "critical_it", length_s) or _times(
        "critical_it",
        node,
        _plus_one(network, "x (1 + storage, switches and optics over servers)"),
        length_s,
    )
    pue = _stated(settings.pue) or _default(PUE, "")
    facility = _measured_or(by_boundary.get(Boundary.FACILITY), "facility", length_s) or _times(
        "facility",
        it,
        Factor(pue.value, pue.low, pue.high, "x PUE", pue.source, pue.stated),
        length_s,
    )
    return board, node, it, facility


def _stated(by: RecordedFactor) -> Factor | None:
    if by.value is None:
        return None
    return Factor(by.value, by.value, by.value, "", f"the profile: {by.source}", stated=True)


def _default(published: Any, what: str) -> Factor:  # noqa: ANN401 - a PublishedFactor
    return Factor(
        published.value, published.low, published.high, what, published.cite(), stated=False
    )


def _plus_one(factor: Factor, what: str) -> Factor:
    return Factor(
        1 + factor.value, 1 + factor.low, 1 + factor.high, what, factor.source, factor.stated
    )


def _absent(rung: str, boundary: str, note: str) -> Rung:
    return Rung(rung=rung, boundary=boundary, note=note)


def _measured(rung: str, energy: Energy, length_s: float) -> Rung:
    if energy.joules is None:
        return _absent(rung, energy.boundary, energy.reason or "not known")
    note = None
    if rung == "node":
        note = "the node's meter covers everything in it, boards of others included"
    if rung == "critical_it":
        note = "the rack's meter covers everything in it"
    return Rung(
        rung=rung,
        boundary=energy.boundary,
        watts=energy.joules / length_s,
        joules=energy.joules,
        basis=energy.basis,
        devices=energy.devices,
        systematic_ratio=energy.systematic_ratio,
        source=energy.source,
        note=note,
    )


def _measured_or(energy: Energy | None, rung: str, length_s: float) -> Rung | None:
    """The rung where its meter gave joules; None where it has to be modelled."""
    return (
        _measured(rung, energy, length_s)
        if energy is not None and energy.joules is not None
        else None
    )


def _node(
    board: Rung,
    boards: Energy | None,
    gpus: Sequence[Gpu],
    settings: RecordedEnergy,
    length_s: float,
) -> Rung:
    """Boards plus their share of the host: a host's power is additive, not a multiple of the
    boards'.
    """
    if board.watts is None:
        return _absent("node", "node", f"no node meter, and nothing to model it from: {board.note}")
    stated = _stated(settings.host_w_per_gpu)
    if stated is not None:
        host = Factor(
            stated.value,
            stated.value,
            stated.value,
            "W of host added for each GPU",
            stated.source,
            stated=True,
        )
    elif boards is not None and boards.boundary == Boundary.MODULE:
        note = (
            "no node meter; a module's power holds its CPU, so what the rest of the node adds must"
            " be stated (energy.host_w_per_gpu)"
        )
        return _absent("node", "node", note)
    else:
        names = {str(gpu.name) for gpu in gpus}
        rated = host_rated_w(next(iter(names))) if len(names) == 1 else None
        if rated is None:
            note = (
                "no node meter, and nobody published what the host of"
                f" {', '.join(sorted(names)) or 'these boards'} draws: state it"
            )
            return _absent("node", "node", f"{note} (energy.host_w_per_gpu)")
        share = HOST_POWER_SHARE
        host = Factor(
            rated.value * share.value,
            rated.value * share.low,
            rated.value * share.high,
            "W of host added for each GPU",
            f"{rated.cite()}, at {share.value:g} of it: {share.cite()}",
            stated=False,
        )
    count = board.devices or 0
    return _modelled(
        "node", board, host, length_s, count=count, apply=lambda watts, w: watts + w * count
    )


def _times(rung: str, below: Rung, factor: Factor, length_s: float) -> Rung:
    if below.watts is None:
        return _absent(rung, rung, "no meter there, and the rung below is absent")
    return _modelled(
        rung, below, factor, length_s, count=below.devices, apply=lambda watts, x: watts * x
    )


def _modelled(
    rung: str,
    below: Rung,
    factor: Factor,
    length_s: float,
    *,
    count: int | None,
    apply: Callable[[float, float], float],
) -> Rung:
    """A rung from the one below it, whose watts are known, and a factor."""
    assert below.watts is not None
    watts = apply(below.watts, factor.value)
    return Rung(
        rung=rung,
        boundary=rung,
        watts=watts,
        low_w=apply(below.watts if below.low_w is None else below.low_w, factor.low),
        high_w=apply(below.watts if below.high_w is None else below.high_w, factor.high),
        joules=watts * length_s,
        basis=Basis.MODELLED,
        factor=factor.value,
        factor_low=factor.low,
        factor_high=factor.high,
        factor_is=factor.what,
        factor_stated=factor.stated,
        source=factor.source,
        devices=count,
        systematic_ratio=below.systematic_ratio,
    )
