"""Inputs of an estimate from a measured run, and refusals."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final

from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Figure
from harness.core.errors import InvalidRunError, NotComparableError, ProfileError
from harness.core.records import Basis, Boundary, Purpose, Severity, Status
from harness.fleet.estimate.results import Work
from harness.fleet.site.catalog import gpu_type, gpus
from harness.fleet.site.types import GpuSpec, Site
from harness.reduce.figures.headline import SLO_SHARE

SAME_LENGTH: Final = 0.1
"""Larger relative differences of context lengths are different work."""

WEIGHT_BYTES: Final[Mapping[str, float]] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "int8": 1,
    "fp4": 0.5,
}
"""Bytes of one weight by type."""

USED_SHARE: Final = 0.9
"""Share of GPU memory that vLLM uses by default (`gpu_memory_utilization`)."""


# --- refusals ---


DOUBLE: Final = "double_hardware"
"""Code of the concern that a run's GPUs are a test double."""


def is_demonstration(run: RunResult) -> bool:
    """Whether the run's GPUs are a test double and nothing else makes it invalid (in a smoke run,
    the double does not).
    """
    invalid = {concern.code for concern in run.concerns if concern.severity is Severity.INVALID}
    return DOUBLE in {concern.code for concern in run.concerns} and invalid <= {DOUBLE}


def measured_tokens(run: RunResult, *, demonstrate: bool = False) -> Figure:
    """The run's output tokens per second per GPU.

    Args:
        run: the run.
        demonstrate: accept a run whose GPUs are a test double if nothing else makes it invalid;
            also a smoke run, since no result applies to hardware then.

    Raises:
        InvalidRunError: the run is invalid, proves function only, or ran without GPUs.
    """
    double = is_demonstration(run)
    shown = "--demonstrate shows the page, with meaningless results"
    if run.status is Status.INVALID and not (demonstrate and double):
        reasons = [c.message for c in run.concerns if c.severity is Severity.INVALID]
        raise InvalidRunError(
            f"{run.path} is invalid and cannot be scaled to a site",
            cause=reasons[0] if reasons else "its summary has no verdict",
            next_step=shown if double else "fix what made the run invalid and repeat it",
        )
    if not run.gpus and not run.profile.server.gpu_count:
        raise InvalidRunError(
            f"{run.path} ran without a GPU and cannot be scaled to a site of GPUs",
            cause="the server ran on CPU, or the deployment's GPUs were not recorded (server.gpus)",
            next_step="measure on a GPU of the site's type, with purpose: measure",
        )
    smoke = run.status is Status.FUNCTIONAL or run.purpose == Purpose.SMOKE
    if smoke and not (demonstrate and double):
        raise InvalidRunError(
            f"{run.path} is a smoke run: it proves function only and cannot be scaled",
            next_step="run a profile with purpose: measure" + (f"; {shown}" if double else ""),
        )
    if run.manifest.endpoints == ():
        raise InvalidRunError(
            f"{run.path} has no replica", next_step="measure with one server or more"
        )
    figure = run.figure("output_tok_s_per_gpu")
    if figure.value is None or figure.value <= 0:
        raise InvalidRunError(
            f"{run.path} has no output tokens per second per GPU to scale",
            cause=figure.note,
            next_step="see the report's concerns and run again",
        )
    return figure


def check_good(run: RunResult, least: float = SLO_SHARE) -> None:
    """Refuse a run whose requests miss the SLOs: a site at its load would miss them too.

    Args:
        run: the run.
        least: smallest share of its requests within every SLO; runs without SLOs have none.

    Raises:
        InvalidRunError: the share is smaller, or no token is of a request within the SLOs.
    """
    slos = ", ".join(f"{key} <= {value:g}" for key, value in run.slos.items())
    if good_share(run) == 0:
        raise InvalidRunError(
            f"{run.path} has no request that met every SLO ({slos})",
            cause="only tokens of requests within the SLOs are scaled",
            next_step="measure at a lower load, or state SLOs that the deployment can meet",
        )
    share = run.figure("slo_met_ratio").value
    if run.slos and share is not None and share < least:
        raise InvalidRunError(
            f"{share:.1%} of the requests of {run.path} met every SLO ({slos}), fewer than"
            f" {least:.0%}",
            cause="a site at the load of this run would miss its SLOs",
            next_step="measure at a lower load (`harness sweep` finds it), or accept it with"
            f" --min-attainment {math.floor(share * 100) / 100:g}",
        )


def type_of(run: RunResult) -> GpuSpec:
    """The type of the run's GPUs.

    Raises:
        NotComparableError: several types, or an unknown one.
    """
    names = _names(run)
    types = {gpu_type(gpu.name) for gpu in run.gpus} or {None}
    if len(types) > 1:
        raise NotComparableError(
            f"{run.path} used GPUs of several types ({', '.join(names)}); results per GPU of a mix"
            " cannot be scaled",
            next_step="measure one type at a time",
        )
    kind = next(iter(types))
    if kind is None:
        raise NotComparableError(
            f"unknown type of the run's GPU: {', '.join(names)}",
            cause=f"known are: {', '.join(gpus())} (an H100 PCIe or NVL is not an H100 SXM)",
            next_step="measure on the site's type of GPU",
        )
    return gpus()[kind]


def check_type(run: RunResult, kind: GpuSpec, site: Site) -> None:
    """Raise NotComparableError if the site's GPUs are of another type than the run's."""
    if site.types and kind.name not in site.types:
        raise NotComparableError(
            f"the run's GPU is {', '.join(_names(run))}, the site {site.name} has"
            f" {' + '.join(site.types)}",
            cause="scaling across GPU types needs a model of their ratio",
            next_step="measure on the site's type of GPU, or state a ratio (--modelled)",
        )


def work_of(run: RunResult) -> Work:
    """The measured work."""
    inputs, outputs = run.figure("mean_input_tok").value, run.figure("mean_output_tok").value
    model, traffic = run.model, run.profile.traffic
    return Work(
        model=model.model_id or None,
        precision=_first(run.settings.get("quantization"), run.settings.get("dtype"), model.dtype),
        workload=traffic.workload_kind,
        api=traffic.api,
        context_tok=None if inputs is None else inputs + (outputs or 0.0),
        mean_input_tok=inputs,
        mean_output_tok=outputs,
        kv_bytes_per_tok=model.kv_bytes_per_tok,
        parameters=model.parameters,
    )


def check_work(run: RunResult, planned: Mapping[str, str]) -> None:
    """Refuse work that was not measured: `model`, `precision`, `workload` or `context_tok`.

    Raises:
        ProfileError: unknown key, or not a number.
        NotComparableError: the run measured other work, or did not record it.
    """
    work = asdict(work_of(run))
    for key, value in planned.items():
        if key not in {"model", "precision", "workload", "context_tok"}:
            raise ProfileError(
                f"--work {key}: unknown key",
                next_step="use model, precision, workload or context_tok",
            )
        had = work[key]
        if key == "context_tok":
            try:
                asked = float(value)
            except ValueError:
                raise ProfileError(
                    f"--work context_tok={value}: must be a number of tokens"
                ) from None
            same = had is not None and asked > 0 and abs(had - asked) <= SAME_LENGTH * asked
        else:
            same = had is not None and str(had) == value
        if not same:
            raise NotComparableError(
                f"the site is to serve {key} {value}; the run measured {key}"
                f" {'unknown' if had is None else had}",
                cause=(
                    "results do not scale across models, precisions and lengths: tokens per watt"
                    " halve as contexts double (2603.17280)"
                ),
                next_step="measure that work",
            )


# --- measured values; None: not measured or recorded ---


def board_power_w(run: RunResult) -> float | None:
    """Watts of all GPU boards together."""
    return _power_at(run, Boundary.GPU_BOARD)


def module_power_w(run: RunResult) -> float | None:
    """Watts of all superchip modules (GPUs with their processors), if that is the run's plain power
    or its only one.
    """
    plain = run.figure("power_w").boundary == Boundary.MODULE
    return _power_at(run, Boundary.MODULE) if plain or board_power_w(run) is None else None


def gpu_power_w(run: RunResult) -> tuple[float, Boundary] | None:
    """Watts of modules or GPU boards, by which the run is scaled, and their boundary."""
    if (watts := module_power_w(run)) is not None:
        return watts, Boundary.MODULE
    watts = board_power_w(run)
    return None if watts is None else (watts, Boundary.GPU_BOARD)


def stated_host_w(run: RunResult) -> tuple[float, str] | None:
    """Watts of host per GPU, in addition to the measured power, as stated in the run's profile, and
    the source.
    """
    stated = run.profile.energy.host_w_per_gpu
    if stated.value is None:
        return None
    return stated.value, f"stated in the run's profile: {stated.source}"


def node_power_w(run: RunResult) -> float | None:
    """Watts of the node."""
    return _power_at(run, Boundary.NODE)


def _power_at(run: RunResult, boundary: Boundary) -> float | None:
    for key in ("power_w", f"power_w@{boundary}"):
        found = run.figure(key)
        measured = found.basis is Basis.MEASURED and found.boundary == boundary
        if measured and found.value is not None and found.value > 0:
            return found.value
    return None


def power_error(run: RunResult, boundary: Boundary) -> float | None:
    """Half of the 95% interval of the systematic error of the run's power, relative to it."""
    for key in ("power_w", f"power_w@{boundary}"):
        found = run.figure(key)
        if found.boundary == boundary and found.systematic_ratio is not None:
            return found.systematic_ratio
    return None


def unloaded_share(run: RunResult) -> tuple[float, str] | None:
    """Power of GPU boards (or modules) of the ready server without load over that of the window,
    and its source.
    """
    scaled, ready = gpu_power_w(run), run.figure("ready_power_w")
    if (
        scaled is None
        or ready.value is None
        or ready.boundary != scaled[1]
        or not 0 < ready.value <= scaled[0]
    ):
        return None
    what = "modules" if scaled[1] == Boundary.MODULE else "GPUs"
    source = f"{what} with the model loaded but idle, {ready.value:.4g} W, over those under load"
    return ready.value / scaled[0], f"{source}; host assumed alike"


def good_share(run: RunResult) -> float | None:
    """Share of output tokens of requests within every SLO; None without SLOs.

    Good tokens are of requests scheduled in the window, so they are compared with the tokens of all
    requests scheduled in it (failed ones count with mean length). Tokens that arrived in the window
    are another set, whose edges would look like missed SLOs.
    """
    good, arrived = run.figure("goodput_tok_s").value, run.figure("output_tok_s").value
    if not run.slos or good is None:
        return None
    met, rate, mean = (
        run.figure(key).value for key in ("slo_met_ratio", "goodput_rps", "mean_output_tok")
    )
    of_all = rate / met * mean if met and rate and mean else arrived
    return min(1.0, good / of_all) if of_all else None


def tok_s_per_session(run: RunResult) -> tuple[float | None, str]:
    """Measured output tokens per second of one live session, and its workload; or None and a
    reason.
    """
    kind = run.profile.traffic.workload_kind
    live = [stage.concurrency for stage in run.profile.traffic.load]
    tokens = run.figure("output_tok_s").value
    if kind is None or tokens is None or len(live) != 1 or not live[0]:
        return None, "live sessions are counted in runs of one load of kind concurrency"
    return tokens / live[0], kind


def kv_text(run: RunResult, spec: GpuSpec) -> str | None:
    """Text on the most contexts of this work that fit in a GPU's memory; None if the model's KV
    cache is unknown.
    """
    work = work_of(run)
    per_tok, context, memory = work.kv_bytes_per_tok, work.context_tok, spec.memory_gb
    if not per_tok or not context or memory is None:
        return None
    weight_bytes, parameters = WEIGHT_BYTES.get(str(work.precision)), work.parameters
    room, rest = memory.value * 1e9, "nothing else"
    if weight_bytes is not None and parameters:
        room = room * USED_SHARE - parameters * weight_bytes
        rest = f"{parameters * weight_bytes / 1e9:.3g} GB of weights"
    return (
        f"A context of {context:,.0f} tokens at {per_tok / 1024:.3g} KiB per token needs"
        f" {per_tok * context / 1e9:.3g} GB of KV cache: {memory.value:g} GB have room for"
        f" {max(0.0, room / (per_tok * context)):,.2g} of them and {rest}, without prefix sharing."
    )


def _names(run: RunResult) -> list[str]:
    names = sorted({gpu.name or "unknown" for gpu in run.gpus})
    return names or ["unknown (not on the measuring machine)"]


def _first(*values: object) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)
