"""Power boundaries from GPU to node, critical IT and facility. Each is measured, modeled from the
one inside it, or absent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from harness.artifacts.run_summary import Rung
from harness.core.power_boundaries import (
    HOST_POWER_SHARE,
    NETWORK_STORAGE_RATIO,
    PUE,
    PublishedFactor,
    host_rated_w,
)
from harness.core.records import Basis, Boundary, Gpu
from harness.profile.recorded import RecordedEnergy, RecordedFactor
from harness.reduce.energy.devices import GPU_BOUNDARIES, Energy

RUNGS: Final = ("board", "node", "critical_it", "facility")

_WHOLE_METERS: Final = {
    "node": "the node's meter covers everything in it, including GPUs of other users",
    "critical_it": "the rack's meter covers everything in it",
}


@dataclass(frozen=True, slots=True)
class Factor:
    """What leads from one boundary to the next, with a range if its source gives one.

    Attributes:
        value: watts to add per GPU (node), or a multiple of the boundary inside.
        stated: by the profile; else a default of the harness.
        what: in words, with its unit.
    """

    value: float
    low: float
    high: float
    source: str
    stated: bool
    what: str = ""


def ladder(
    energies: Sequence[Energy], gpus: Sequence[Gpu], settings: RecordedEnergy, length_s: float
) -> tuple[Rung, ...]:
    """The four boundaries of a window, innermost first."""
    by_boundary = {energy.boundary: energy for energy in energies}
    gpu = next((by_boundary[b] for b in GPU_BOUNDARIES if b in by_boundary), None)
    if gpu is None:
        board = _absent("board", Boundary.GPU_BOARD, "no GPU power was read")
    else:
        board = _measured("board", gpu, length_s)
    node = _measured_or(by_boundary.get(Boundary.NODE), "node", length_s) or _node(
        board, gpu, gpus, settings, length_s
    )
    network = _stated(settings.network_storage_ratio) or _default(NETWORK_STORAGE_RATIO)
    network = replace(
        network,
        value=1 + network.value,
        low=1 + network.low,
        high=1 + network.high,
        what="x (1 + storage, switches and optics over servers)",
    )
    it = _measured_or(by_boundary.get(Boundary.RACK), "critical_it", length_s) or _times(
        "critical_it", node, network, length_s
    )
    pue = replace(_stated(settings.pue) or _default(PUE), what="x PUE")
    facility = _measured_or(by_boundary.get(Boundary.FACILITY), "facility", length_s) or _times(
        "facility", it, pue, length_s
    )
    return board, node, it, facility


def _stated(by: RecordedFactor) -> Factor | None:
    if by.value is None:
        return None
    return Factor(by.value, by.value, by.value, f"the profile: {by.source}", stated=True)


def _default(published: PublishedFactor) -> Factor:
    return Factor(published.value, published.low, published.high, published.cite(), stated=False)


def _absent(rung: str, boundary: str, note: str) -> Rung:
    return Rung(rung=rung, boundary=boundary, note=note)


def _measured(rung: str, energy: Energy, length_s: float) -> Rung:
    if energy.joules is None:
        return _absent(rung, energy.boundary, energy.reason or "unknown")
    return Rung(
        rung=rung,
        boundary=energy.boundary,
        watts=energy.joules / length_s,
        joules=energy.joules,
        basis=energy.basis,
        devices=energy.devices,
        systematic_ratio=energy.systematic_ratio,
        source=energy.source,
        note=_WHOLE_METERS.get(rung),
    )


def _measured_or(energy: Energy | None, rung: str, length_s: float) -> Rung | None:
    """The boundary as metered; None if it has to be modeled."""
    return None if energy is None or energy.joules is None else _measured(rung, energy, length_s)


def _node(
    board: Rung,
    gpu: Energy | None,
    gpus: Sequence[Gpu],
    settings: RecordedEnergy,
    length_s: float,
) -> Rung:
    """GPUs plus host power per GPU: a host's power is additive, not a multiple of the GPUs'."""
    if board.watts is None:
        note = f"no node meter, and it cannot be modeled: {board.note or 'no GPU power'}"
        return _absent("node", "node", note)
    host = _stated(settings.host_w_per_gpu)
    if host is None and gpu is not None and gpu.boundary == Boundary.MODULE:
        note = (
            "no node meter; module power includes its CPU, so the rest of the node must be stated"
            " (energy.host_w_per_gpu)"
        )
        return _absent("node", "node", note)
    if host is None:
        names = {str(one.name) for one in gpus}
        rated = host_rated_w(next(iter(names))) if len(names) == 1 else None
        if rated is None:
            note = (
                "no node meter and no published host power for"
                f" {', '.join(sorted(names)) or 'these GPUs'}: set energy.host_w_per_gpu"
            )
            return _absent("node", "node", note)
        share = HOST_POWER_SHARE
        host = Factor(
            rated.value * share.value,
            rated.value * share.low,
            rated.value * share.high,
            f"{rated.cite()}, at {share.value:g} of it: {share.cite()}",
            stated=False,
        )
    host = replace(host, what="W of host added per GPU")
    count = board.devices or 0
    return _modelled("node", board, host, length_s, count, lambda watts, w: watts + w * count)


def _times(rung: str, below: Rung, factor: Factor, length_s: float) -> Rung:
    if below.watts is None:
        return _absent(rung, rung, "no meter there, and the boundary inside is absent")
    return _modelled(rung, below, factor, length_s, below.devices, lambda watts, x: watts * x)


def _modelled(
    rung: str,
    below: Rung,
    factor: Factor,
    length_s: float,
    count: int | None,
    apply: Callable[[float, float], float],
) -> Rung:
    """A boundary from the one inside it, whose power is known, and a factor."""
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
