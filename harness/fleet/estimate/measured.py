"""What a measured run gives to an estimate, and what may not be taken from it: refusals and
measured figures.
"""

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

SAME_LENGTH: Final = 0.1
"""Context lengths further apart than this are another work."""

WEIGHT_BYTES: Final[Mapping[str, float]] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "int8": 1,
    "fp4": 0.5,
}
"""Bytes of one weight by the name of its type."""

USED_SHARE: Final = 0.9
"""Share of a board's memory that vLLM uses unless told otherwise (`gpu_memory_utilization`)."""


# --- what may be scaled ---


DOUBLE: Final = "double_hardware"
"""Code of the concern that a run's boards are a test double."""


def is_demonstration(run: RunResult) -> bool:
    """Whether the run's boards are a test double and nothing else makes it invalid (in a smoke run
    the double does not).
    """
    invalid = {concern.code for concern in run.concerns if concern.severity is Severity.INVALID}
    return DOUBLE in {concern.code for concern in run.concerns} and invalid <= {DOUBLE}


def measured_tokens(run: RunResult, *, demonstrate: bool = False) -> Figure:
    """The run's output tokens per second per GPU, if it may be scaled at all.

    Args:
        run: the run.
        demonstrate: take a run whose boards are a test double, where nothing else makes it invalid;
            a smoke run too, since no figure means anything then.

    Raises:
        InvalidRunError: the run is invalid, proves function only, or ran without GPUs.
    """
    if run.status is Status.INVALID and not (demonstrate and is_demonstration(run)):
        reasons = [c.message for c in run.concerns if c.severity is Severity.INVALID]
        raise InvalidRunError(
            f"{run.path} is invalid and cannot be scaled to a site",
            cause=reasons[0] if reasons else "its summary has no verdict",
            next_step=(
                "--demonstrate shows the page with figures that mean nothing"
                if is_demonstration(run)
                else "repeat the run and remove what made it invalid"
            ),
        )
    if not run.gpus and not run.profile.server.gpu_count:
        raise InvalidRunError(
            f"{run.path} ran without a GPU: its tokens per second say nothing about a site of GPUs",
            cause="the server ran on CPU, or the deployment's GPUs were not recorded (server.gpus)",
            next_step="measure on a GPU of the site's type, with purpose: measure",
        )
    if (run.status is Status.FUNCTIONAL or run.purpose == Purpose.SMOKE) and not (
        demonstrate and is_demonstration(run)
    ):
        raise InvalidRunError(
            f"{run.path} is a smoke run: it proves function and makes no performance claim that"
            " could be scaled",
            next_step="run a profile with purpose: measure"
            + (
                "; --demonstrate shows the page with figures that mean nothing"
                if is_demonstration(run)
                else ""
            ),
        )
    if run.manifest.endpoints == ():
        raise InvalidRunError(
            f"{run.path} has no replica: nothing served its load",
            next_step="measure with one server or more",
        )
    figure = run.figure("output_tok_s_per_gpu")
    if figure.value is None or figure.value <= 0:
        raise InvalidRunError(
            f"{run.path} has no output tokens per second per GPU to scale",
            cause=figure.note,
            next_step="see the report's concerns and run again",
        )
    return figure


def check_good(run: RunResult) -> None:
    """Refuse a run of which no request met its SLOs: a site that must keep them would serve nothing
    at this load.

    Raises:
        InvalidRunError: it is one.
    """
    if good_share(run) == 0:
        raise InvalidRunError(
            f"{run.path} has no request that met every SLO"
            f" ({', '.join(f'{key} <= {value:g}' for key, value in run.slos.items())})",
            cause=(
                "tokens count as far as they belong to requests within the SLO: here none does, so"
                " a site would serve nothing"
            ),
            next_step="measure at a lower load, or state SLOs that the deployment can keep",
        )


def type_of(run: RunResult) -> GpuSpec:
    """The type of the run's GPUs.

    Raises:
        NotComparableError: several types, or none that is known.
    """
    names = _names(run)
    types = {gpu_type(gpu.name) for gpu in run.gpus} or {None}
    if len(types) > 1:
        raise NotComparableError(
            f"{run.path} used GPUs of several types ({', '.join(names)}), and a per-GPU figure of a"
            " mix scales to no site",
            next_step="measure one type at a time",
        )
    kind = next(iter(types))
    if kind is None:
        raise NotComparableError(
            f"the run's GPU is {', '.join(names)}, which is no type that is known",
            cause=(
                f"the GPU is none of: {', '.join(gpus())} (an H100 PCIe or NVL is not an H100 SXM)"
            ),
            next_step="measure on the site's type of GPU",
        )
    return gpus()[kind]


def check_type(run: RunResult, kind: GpuSpec, site: Site) -> None:
    """Refuse a site whose GPUs are of another type than the run's.

    Raises:
        NotComparableError: they are.
    """
    if site.types and kind.name not in site.types:
        raise NotComparableError(
            f"the run's GPU is {', '.join(_names(run))}, the site {site.name} has"
            f" {' + '.join(site.types)}",
            cause="nothing is scaled across GPU types without a model of their ratio",
            next_step=(
                "measure on the site's type of GPU, choose a site of this type, or state a ratio"
                " (--modelled)"
            ),
        )


def work_of(run: RunResult) -> Work:
    """What was measured: the keys across which nothing is scaled."""
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


def check_work(run: RunResult, wanted: Mapping[str, str]) -> None:
    """Refuse work that was not measured.

    Args:
        run: the measured run.
        wanted: `model`, `precision`, `workload` or `context_tok` of what the site is to serve.

    Raises:
        ProfileError: no such key, or no number.
        NotComparableError: the run measured something else, or did not record what it measured.
    """
    work = asdict(work_of(run))
    for key, value in wanted.items():
        if key not in {"model", "precision", "workload", "context_tok"}:
            raise ProfileError(
                f"--work {key}: no such key",
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
                    "nothing is scaled across models, precisions and lengths: tokens per watt halve"
                    " as contexts double (2603.17280)"
                ),
                next_step="measure that work",
            )


# --- measured figures ---


def board_power_w(run: RunResult) -> float | None:
    """Watts of all boards together; None where they were not measured."""
    return _power_at(run, Boundary.GPU_BOARD)


def module_power_w(run: RunResult) -> float | None:
    """Watts of all superchip modules (GPUs with their processors), where that is the run's plain
    power or its only one; else None.
    """
    watts = _power_at(run, Boundary.MODULE)
    return (
        watts
        if run.figure("power_w").boundary == Boundary.MODULE or board_power_w(run) is None
        else None
    )


def gpu_power_w(run: RunResult) -> tuple[float, Boundary] | None:
    """Watts of modules or boards, whichever the run is scaled by, and which of the two; None where
    neither was measured.
    """
    for boundary, watts in (
        (Boundary.MODULE, module_power_w(run)),
        (Boundary.GPU_BOARD, board_power_w(run)),
    ):
        if watts is not None:
            return watts, boundary
    return None


def stated_host_w(run: RunResult) -> tuple[float, str] | None:
    """Watts of host that the run's profile states for each GPU, beside what was measured, and who
    says so; None where it has none.
    """
    stated = run.profile.energy.host_w_per_gpu
    if stated.value is None:
        return None
    return stated.value, f"stated in the run's profile: {stated.source}"


def node_power_w(run: RunResult) -> float | None:
    """Watts of the node; None where it was not measured."""
    return _power_at(run, Boundary.NODE)


def _power_at(run: RunResult, boundary: Boundary) -> float | None:
    for key in ("power_w", f"power_w@{boundary}"):
        figure = run.figure(key)
        if (
            figure.value is not None
            and figure.value > 0
            and figure.basis is Basis.MEASURED
            and figure.boundary == boundary
        ):
            return figure.value
    return None


def power_error(run: RunResult, boundary: Boundary) -> float | None:
    """Half of the 95 % interval of the systematic error of the run's power over its value; None
    where the run does not tell it.
    """
    for key in ("power_w", f"power_w@{boundary}"):
        figure = run.figure(key)
        if figure.boundary == boundary and figure.systematic_ratio is not None:
            return figure.systematic_ratio
    return None


def unloaded_share(run: RunResult) -> tuple[float, str] | None:
    """Power of boards (or modules) of the ready server without load over that of the window; None
    where it was not measured.
    """
    scaled, ready = gpu_power_w(run), run.figure("ready_power_w")
    if (
        scaled is None
        or ready.value is None
        or ready.boundary != scaled[1]
        or not 0 < ready.value <= scaled[0]
    ):
        return None
    what = "modules" if scaled[1] == Boundary.MODULE else "boards"
    return (
        ready.value / scaled[0],
        (
            f"{what} of the ready server without load, {ready.value:.4g} W, over those under load;"
            " host taken alike"
        ),
    )


def good_share(run: RunResult) -> float | None:
    """Share of output tokens that belong to requests within every SLO; None without SLOs.

    Good tokens are those of requests intended in the window, so they are held against the tokens of
    all requests intended in it (a failed one counts as of mean length). Tokens that arrived in the
    window are another set: its edges would pass for missed SLOs.
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
    """Measured output tokens per second of one live session, and its workload; None with the reason
    where none is counted.
    """
    kind = run.profile.traffic.workload_kind
    live = [stage.concurrency for stage in run.profile.traffic.load]
    tokens = run.figure("output_tok_s").value
    if kind is None or tokens is None or len(live) != 1 or not live[0]:
        return None, "live sessions are counted in runs of one load of kind concurrency"
    return tokens / live[0], kind


def kv_text(run: RunResult, spec: GpuSpec) -> str | None:
    """How many contexts of this work a board's memory could hold at most, in words; None where the
    model's cache is not known.
    """
    work = work_of(run)
    per_tok, context, memory = work.kv_bytes_per_tok, work.context_tok, spec.memory_gb
    if not per_tok or not context or memory is None:
        return None
    number_bytes, parameters = WEIGHT_BYTES.get(str(work.precision)), work.parameters
    room, beside = memory.value * 1e9, "nothing else"
    if number_bytes is not None and parameters:
        room, beside = (
            room * USED_SHARE - parameters * number_bytes,
            f"{parameters * number_bytes / 1e9:.3g} GB of weights",
        )
    return (
        f"A context of {context:,.0f} tokens at {per_tok / 1024:.3g} KiB a token is"
        f" {per_tok * context / 1e9:.3g} GB of keys and values: {memory.value:g} GB hold"
        f" {max(0.0, room / (per_tok * context)):,.2g} of them beside {beside}, before any sharing"
        " of prefixes."
    )


def _names(run: RunResult) -> list[str]:
    return sorted({gpu.name or "unknown" for gpu in run.gpus}) or [
        "unknown (not on the machine that measured)"
    ]


def _first(*values: object) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)
