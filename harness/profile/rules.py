"""What single keys cannot say: combinations that are impossible, each with the fix. All of them, in
one place.

Impossible is an error; unwise is not (`check` and the report's concerns speak of that). Every rule
sees a profile whose keys are each right by themselves, and all rules are asked, so that one reading
tells everything.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from harness.api.table import WIRE_APIS, wire
from harness.checked_yaml.problems import Path, Violation
from harness.core.metrics import METRICS
from harness.core.records import CANARY, Boundary, OutputLength
from harness.profile.schema import BUILTIN_MODELS, Profile
from harness.profile.serving import AttachServer, TorchServer, VllmServer
from harness.profile.thresholds import parse_threshold
from harness.profile.workloads import Workload

# Arguments that the harness passes itself, with the key that sets them: given twice, the profile
# would say one thing and the server do another.
OWN_ARGS: Final = {
    "--model": "model.id",
    "--served-model-name": "model.served_name",
    "--load-format": "model.load_format",
    "--dtype": "model.dtype",
    "--quantization": "model.quantization",
    "-q": "model.quantization",
    "--max-model-len": "model.max_context_tok",
    "--trust-remote-code": "model.trust_remote_code",
    "--host": "server.host",
    "--port": "server.port",
    "--tensor-parallel-size": "server.tensor_parallel_size",
    "-tp": "server.tensor_parallel_size",
    "--data-parallel-size": "server.data_parallel_size",
    "-dp": "server.data_parallel_size",
    "--gpu-memory-utilization": "server.gpu_memory_utilization",
    "--max-num-seqs": "server.max_num_seqs",
    "--max-num-batched-tokens": "server.max_num_batched_tok",
    "--enable-prefix-caching": "server.prefix_caching",
    "--no-enable-prefix-caching": "server.prefix_caching",
    "--enforce-eager": "server.enforce_eager",
    "--no-enforce-eager": "server.enforce_eager",
    "--tool-call-parser": "server.tool_call_parser",
    "--reasoning-parser": "server.reasoning_parser",
    "--seed": "seed",
    "--api-key": "server.api_key_env or server.api_key_file",
}

_SECRET_NAME: Final = re.compile(
    r"(^|_)(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE
)
_MATCHER: Final = r"[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\""
_MATCHERS: Final = re.compile(rf"\s*{_MATCHER}\s*(?:,\s*{_MATCHER}\s*)*,?\s*")
_NEEDS_SLOS: Final = frozenset({"goodput_rps", "goodput_tok_s", "slo_met_ratio"})
_NEEDS_PRICE: Final = frozenset({"usd_per_mtok"})


def violations(profile: Profile) -> tuple[Violation, ...]:
    """Everything that is impossible about a profile whose keys are each right by themselves."""
    return tuple(
        replace(violation, rests_on=rests_on)
        for rule, rests_on in RULES
        for violation in rule(profile)
    )


def _builtin(profile: Profile) -> Iterator[Violation]:
    """A `builtin:` model that does not exist."""
    model = profile.model
    if model.id.startswith("builtin:") and model.id not in BUILTIN_MODELS:
        near = difflib.get_close_matches(model.id, BUILTIN_MODELS, n=1, cutoff=0.0)[0]
        yield Violation(
            ("model", "id"),
            f"there is no built-in model {model.id!r}",
            f"did you mean `{near}`? Built in are {_names(BUILTIN_MODELS)}",
        )


def _how_served(profile: Profile) -> Iterator[Violation]:
    """`load_format: dummy` or `quantization` with `server.kind: attach`; `quantization` with
    `torch`.
    """
    model, server = profile.model, profile.server
    if server.kind == "attach" and model.load_format == "dummy":
        yield Violation(
            ("model", "load_format"),
            "`dummy` says how a server is started, and server.kind `attach` starts none",
            "drop it, and start that server with dummy weights yourself",
        )
    if server.kind in {"attach", "torch"} and model.quantization is not None:
        yield Violation(
            ("model", "quantization"),
            f"is vLLM's, and server.kind is `{server.kind}`",
            "drop it, or use `server.kind: vllm`",
        )


def _output_length(profile: Profile) -> Iterator[Violation]:
    """Forced output lengths over the Messages API, unless the model cannot end by itself
    (`builtin:tiny`, `load_format: dummy`). `purpose: measure` forces lengths unless `output_length:
    natural` says otherwise.
    """
    # The Messages API has neither `ignore_eos` nor `min_tokens`: a length is forced there only on
    # a model that never ends by itself.
    model = profile.model
    if profile.output_length is not OutputLength.FORCED or wire(profile.traffic.api).forces_output:
        return
    if model.id == "builtin:tiny" or model.load_format == "dummy":
        return
    said = profile.traffic.output_length is not None
    why = (
        "`output_length: forced`"
        if said
        else "purpose `measure` forces output lengths unless told otherwise, and that"
    )
    yield Violation(
        ("traffic", "output_length" if said else "api"),
        f"{why} cannot be had over the Messages API: {model.id!r} may end an answer early",
        "write `output_length: natural`, or `api: chat`; or serve a model that cannot end by itself"
        " (`builtin:tiny`, `load_format: dummy`)",
    )


def _secrets(profile: Profile) -> Iterator[Violation]:
    """Both `api_key_env` and `api_key_file`; names in `server.env` that look like secrets."""
    server = profile.server
    if server.api_key_env is not None and server.api_key_file is not None:
        yield Violation(
            ("server", "api_key_file"),
            "the API key is named twice, by api_key_env and by api_key_file",
            "keep one of the two",
        )
    if server.kind == "attach":
        return
    for name in server.env:
        if not name or "=" in name or "\0" in name:
            yield Violation(
                ("server", "env", name),
                f"{name!r} cannot be the name of an environment variable",
                "use letters, digits and _",
            )
        elif _SECRET_NAME.search(name):
            yield Violation(
                ("server", "env", name),
                "looks like a secret, and a profile is stored with every run",
                "export it in the shell (the server inherits the environment); for the server's API"
                " key use api_key_env or api_key_file",
            )


def _vllm_args(profile: Profile) -> Iterator[Violation]:
    """`server.extra_args` that repeat what a key sets (`--port`, `--max-model-len`, …)."""
    if profile.server.kind != "vllm":
        return
    for index, arg in enumerate(profile.server.extra_args):
        key = OWN_ARGS.get(arg.split("=", 1)[0].replace("_", "-") if arg.startswith("--") else arg)
        if key is not None:
            yield Violation(
                ("server", "extra_args", index),
                f"{arg.split('=', 1)[0]} is passed by the harness itself",
                f"set `{key}`",
            )


def _boards(profile: Profile) -> Iterator[Violation]:
    """`server.gpus: none` with `device: cuda` or with more than one GPU per replica; GPUs with
    `device: cpu`; more replicas than the named GPUs hold; a GPU named twice; `gpu_count` together
    with local `gpus`; ports past 65535.
    """
    server = profile.server
    if server.kind == "vllm" or server.kind == "torch":
        yield from _started_boards(server)
    if server.kind == "attach":
        yield from _board_list(server.gpus)
        if server.gpu_count is not None and server.gpus != "none":
            yield Violation(
                ("server", "gpu_count"),
                "counts GPUs elsewhere, and server.gpus names boards on this machine",
                "keep one of the two",
            )


def _board_list(gpus: str | tuple[str | int, ...]) -> Iterator[Violation]:
    if isinstance(gpus, str):
        return
    if not gpus:
        yield Violation(("server", "gpus"), "is an empty list", "write `none`, `all` or the boards")
    if len({str(gpu) for gpu in gpus}) != len(gpus):
        yield Violation(("server", "gpus"), "names a board twice", "name each board once")
    for index, gpu in enumerate(gpus):
        if isinstance(gpu, int) and gpu < 0:
            yield Violation(
                ("server", "gpus", index),
                f"{gpu} is no board",
                "count boards from 0, or give UUIDs",
            )


def _started_boards(server: VllmServer | TorchServer) -> Iterator[Violation]:
    yield from _board_list(server.gpus)
    if server.device == "cuda" and server.gpus == "none":
        yield Violation(
            ("server", "gpus"),
            "`none` leaves nothing for `device: cuda`",
            "write `gpus: all`, or `device: cpu`",
        )
    if server.device == "cpu" and isinstance(server.gpus, tuple) and server.gpus:
        yield Violation(
            ("server", "gpus"),
            "names boards, and `device: cpu` uses none",
            "drop gpus, or write `device: cuda`",
        )
    per_replica = (
        server.tensor_parallel_size * server.data_parallel_size if server.kind == "vllm" else 1
    )
    if (
        server.kind == "vllm"
        and server.gpus == "none"
        and server.device != "cpu"
        and per_replica > 1
    ):
        key = "tensor_parallel_size" if server.tensor_parallel_size > 1 else "data_parallel_size"
        yield Violation(
            ("server", key),
            f"asks for {per_replica} GPUs, and `gpus: none` gives none",
            "write `gpus: all`, or `device: cpu`",
        )
    if isinstance(server.gpus, tuple) and server.gpus and server.device != "cpu":
        replicas = 1 if server.replicas == "auto" else server.replicas
        needed = replicas * per_replica
        if needed > len(server.gpus):
            key = "replicas" if replicas > 1 else "tensor_parallel_size"
            yield Violation(
                ("server", key),
                f"{replicas} replica(s) of {per_replica} GPU(s) need {needed} boards; gpus names"
                f" {len(server.gpus)}",
                "name more boards, or ask for fewer",
            )
    if (
        server.port is not None
        and server.replicas != "auto"
        and server.port + server.replicas - 1 > 65535
    ):
        yield Violation(
            ("server", "port"),
            f"{server.replicas} replicas from port {server.port} on pass 65535",
            "choose a lower port",
        )


def _attach(profile: Profile) -> Iterator[Violation]:
    """`attach`: URLs with `/v1`, with a user or password, or twice the same; another number of
    `metrics_urls` than `urls`.
    """
    server: AttachServer
    if profile.server.kind != "attach":
        return
    server = profile.server
    for index, url in enumerate(server.urls):
        if url.endswith("/v1"):
            yield Violation(
                ("server", "urls", index),
                f"{url!r} must be the base URL",
                f"write {url.removesuffix('/v1')!r}",
            )
        if url in server.urls[:index]:
            yield Violation(
                ("server", "urls", index), f"{url!r} is there twice", "name each replica once"
            )
    for key, urls in (("urls", server.urls), ("metrics_urls", server.metrics_urls or ())):
        for index, url in enumerate(urls):
            try:
                parts = urlsplit(url)
                secret, usable = "@" in parts.netloc, bool(parts.hostname) and parts.port != 0
            except ValueError:
                secret, usable = False, False
            if secret:
                yield Violation(
                    ("server", key, index),
                    "carries a user or password, and a profile is stored with every run",
                    "use api_key_env",
                )
            elif not usable:
                yield Violation(
                    ("server", key, index),
                    f"{url!r} has no usable host and port",
                    "write http://HOST:PORT",
                )
    if server.metrics_urls and len(server.metrics_urls) != len(server.urls):
        yield Violation(
            ("server", "metrics_urls"),
            f"{len(server.metrics_urls)} of them for {len(server.urls)} urls",
            "give one for each url in the same order, or [] where the servers have none",
        )


def _network(profile: Profile) -> Iterator[Violation]:
    """A `traffic.proxy` other than `http://HOST:PORT`; `tls.ca_file` with `verify: false`."""
    traffic = profile.traffic
    if traffic.proxy.startswith("https://"):
        yield Violation(
            ("traffic", "proxy"),
            "names a proxy that speaks TLS itself",
            "name one as http://HOST:PORT",
        )
    elif "@" in traffic.proxy:
        yield Violation(
            ("traffic", "proxy"),
            "carries a user or password, and a profile is stored with every run",
            "write `environment`, and name it in HTTP_PROXY and HTTPS_PROXY",
        )
    if not traffic.tls.verify and traffic.tls.ca_file is not None:
        yield Violation(
            ("traffic", "tls", "ca_file"),
            "names authorities, and `verify: false` asks none",
            "keep one of the two",
        )


def _stages(profile: Profile) -> Iterator[Violation]:
    """A load stage with neither `window_s` nor `sessions`; a window of no length; two stages of one
    name; `replay` without a trace.
    """
    seen: dict[str, int] = {}
    for index, stage in enumerate(profile.traffic.load):
        path: Path = ("traffic", "load", index)
        if stage.kind == "replay" and profile.traffic.workload.kind != "replay":
            yield Violation(
                path,
                "there is no trace to take times from",
                "use `traffic.workload.kind: replay`, or another kind of load",
            )
        if (
            stage.window_s is None and stage.sessions is None and stage.kind != "replay"
        ):  # a trace ends by itself
            yield Violation(path, "would never end", "give it `window_s` or `sessions`")
        if stage.window_s is not None and stage.window_s <= 0:
            yield Violation(
                (*path, "window_s"),
                "a window of no length measures nothing",
                "write a length of time such as 10m",
            )
        name = stage.name or f"{index}-{stage.kind}"  # what the plan calls a stage without a name
        if name in seen:
            yield Violation(
                (*path, "name"),
                f"stage {seen[name]} is called {name!r} too",
                "give each stage a name of its own",
            )
        seen.setdefault(name, index)


def _schedules(profile: Profile) -> Iterator[Violation]:
    """`process: gamma` without `cv`, `weibull` without `weibull_shape`, and either with another
    process; loads whose rate is always 0; ramps and steps of no length; an hour twice in a `curve`;
    `start: steady` over single requests.
    """
    for index, stage in enumerate(profile.traffic.load):
        path: Path = ("traffic", "load", index)
        if stage.kind == "concurrency":
            if stage.start == "steady" and stage.over == "requests":
                yield Violation(
                    (*path, "start"),
                    "single requests have no middle to start in",
                    "drop it, or write `over: sessions`",
                )
            continue
        if stage.kind == "all_at_once" or stage.kind == "replay":
            continue
        for key, law in (("cv", "gamma"), ("weibull_shape", "weibull")):
            given = getattr(stage, key) is not None
            if given and stage.process != law:
                yield Violation(
                    (*path, key),
                    f"belongs to process `{law}`, and this one is `{stage.process}`",
                    f"write `process: {law}`",
                )
            if not given and stage.process == law:
                yield Violation((*path, "process"), f"`{law}` needs `{key}`", f"add `{key}`")
        if stage.kind == "ramp" and stage.ramp_s <= 0:
            yield Violation(
                (*path, "ramp_s"),
                "a ramp of no length",
                "write a length of time, or use `kind: step`",
            )
        if stage.kind == "ramp" and stage.from_per_s == stage.to_per_s == 0:
            yield Violation((*path, "to_per_s"), "nothing would ever start", "write a rate above 0")
        if stage.kind == "step":
            for at, step in enumerate(stage.steps):
                if step.for_s <= 0:
                    yield Violation(
                        (*path, "steps", at, "for_s"),
                        "a step of no length",
                        "write a length of time above 0",
                    )
            if not any(step.rate_per_s for step in stage.steps):
                yield Violation(
                    (*path, "steps"), "nothing would ever start", "give one step a rate above 0"
                )
        if stage.kind == "diurnal" and stage.curve:
            if not any(point.factor for point in stage.curve):
                yield Violation(
                    (*path, "curve"), "nothing would ever start", "give one hour a factor above 0"
                )
            if len({point.hour for point in stage.curve}) < len(stage.curve):
                yield Violation((*path, "curve"), "has an hour twice", "give each hour one factor")


def _workload(profile: Profile) -> Iterator[Violation]:
    """`cache_control` with another API than Messages; SLOs for `batch` alone; two parts of a `mix`
    with one name.
    """
    traffic = profile.traffic
    if traffic.cache_control and not wire(traffic.api).cache_breakpoints:
        what = f"is of the Messages API, and the api is `{traffic.api}`"
        yield Violation(("traffic", "cache_control"), what, "drop it, or write `api: messages`")
    if traffic.workload.kind == "batch" and any(value is not None for _, value in profile.slos):
        yield Violation(
            ("slos",),
            "batch work has no deadlines",
            "drop it; in a `mix`, SLOs hold for all classes",
        )
    if traffic.workload.kind == "mix":
        labels: dict[str, int] = {}
        for index, part in enumerate(traffic.workload.parts):
            label = part.name or part.workload.kind
            if label in labels:
                fix = "give each part a `name` of its own"
                yield Violation(
                    ("traffic", "workload", "parts", index),
                    f"part {labels[label]} is called {label!r} too",
                    fix,
                )
            labels.setdefault(label, index)


def _thinking(profile: Profile) -> Iterator[Violation]:
    """Ways to ask for reasoning that the API does not have, or that no class of the workload would
    carry; `thinking: effort` without `thinking_effort`.
    """
    traffic = profile.traffic
    apis = [api.name for api in WIRE_APIS.values() if traffic.thinking in api.thinking]
    path: Path = ("traffic", "thinking")
    if apis and traffic.api not in apis:
        names = _names(tuple(api.value for api in apis))
        yield Violation(
            path,
            f"`{traffic.thinking}` is of {names}, and the api is `{traffic.api}`",
            "write `off`, or what that API has",
        )
    if apis and not reasons(traffic.workload):
        yield Violation(
            path,
            "no class of this workload reasons",
            "drop it, or use `thinking` or a `claude-code` with a thinking_share",
        )
    effort, effort_path = traffic.thinking_effort, ("traffic", "thinking_effort")
    if traffic.thinking == "effort" and effort is None:
        yield Violation(path, "`effort` needs `thinking_effort`", "add `thinking_effort`")
    if effort is not None and traffic.thinking not in {"effort", "adaptive"}:
        yield Violation(
            effort_path,
            f"means nothing with `thinking: {traffic.thinking}`",
            "write `thinking: effort` or `adaptive`",
        )
    if effort in {"none", "minimal"} and traffic.thinking == "adaptive":
        yield Violation(
            effort_path,
            f"{effort!r} is none of the Messages API's",
            "write `low`, `medium`, `high`, `xhigh` or `max`",
        )


def reasons(workload: Workload) -> bool:
    """Whether answers of a class of it hold reasoning."""
    if workload.kind == "mix":
        return any(reasons(part.workload) for part in workload.parts)
    return workload.kind == "thinking" or (
        workload.kind == "claude-code" and workload.thinking_share > 0
    )


def _canary(profile: Profile) -> Iterator[Violation]:
    """A part of a `mix` with the name of the load generator's own requests (`canary`)."""
    # Records of that class are the load generator's own and are left out of every figure.
    workload = profile.traffic.workload
    for index, part in enumerate(workload.parts if workload.kind == "mix" else ()):
        if part.name == CANARY:
            yield Violation(
                ("traffic", "workload", "parts", index, "name"),
                f"{CANARY!r} is the class of the requests that measure the load generator's own"
                " error, which count in no figure",
                "give the part another name",
            )


def _times(profile: Profile) -> Iterator[Violation]:
    """Timeouts or SLOs of 0; intervals of telemetry below 10 ms."""
    for name, value in profile.traffic.timeouts:
        if value <= 0:
            yield Violation(
                ("traffic", "timeouts", name),
                "no request can be done in no time",
                "write a length of time above 0",
            )
    for name, value in profile.slos:
        if value is not None and value <= 0:
            yield Violation(
                ("slos", name),
                "no request can meet 0",
                "write a length of time above 0, or drop the key",
            )
    if profile.server.ready_timeout_s <= 0:
        yield Violation(
            ("server", "ready_timeout_s"),
            "no server is ready in no time",
            "write a length of time above 0",
        )
    for name, value in profile.telemetry:
        if isinstance(value, float) and value < 0.01:
            yield Violation(("telemetry", name), f"{value:g} s is too short", "write at least 10ms")


def _distributions(profile: Profile) -> Iterator[Violation]:
    """Distributions with `max` below `min`; lengths, turns or requests that are never at least 1;
    tables of quantiles whose shares do not rise from 0 to 1, or whose values fall.
    """
    yield from _distributions_of(profile.traffic.workload, ("traffic", "workload"))


def _distributions_of(section: object, path: Path) -> Iterator[Violation]:
    """All distributions of a section and of those in it."""
    if isinstance(section, tuple):
        for index, item in enumerate(section):
            yield from _distributions_of(item, (*path, index))
        return
    if isinstance(section, str) or not isinstance(section, Iterable):
        return
    kind = getattr(section, "kind", None)
    if kind in {"constant", "uniform", "lognormal", "geometric", "quantiles"}:
        yield from _distribution(section, str(kind), path)
        return
    for name, value in section:
        yield from _distributions_of(value, (*path, name))


def _distribution(value: object, kind: str, path: Path) -> Iterator[Violation]:
    low, high = getattr(value, "min", None), getattr(value, "max", None)
    if low is not None and high is not None and high < low:
        yield Violation(
            (*path, "max"), f"{high:g} is below min, {low:g}", "write min and max in order"
        )
    most = high
    if kind == "constant":
        most = getattr(value, "value", None)
    if kind == "quantiles":
        at: tuple[float, ...] = getattr(value, "at", ())
        values: tuple[float, ...] = getattr(value, "values", ())
        if len(at) != len(values):
            yield Violation(
                (*path, "values"),
                f"{len(values)} values for {len(at)} shares",
                "give one value for each share",
            )
        if at[0] != 0 or at[-1] != 1 or any(b <= a for a, b in itertools.pairwise(at)):
            yield Violation(
                (*path, "at"), "shares must rise from 0 to 1", "write for example [0, 0.5, 1]"
            )
        if values[0] <= 0 or any(b < a for a, b in itertools.pairwise(values)):
            yield Violation(
                (*path, "values"), "must be above 0 and must not fall", "write them in order"
            )
        most = values[-1] if high is None else min(high, values[-1])
    if not str(path[-1]).endswith("_s") and most is not None and most < 1:
        yield Violation(
            path, f"is never more than {most:g}", "give it a largest value of at least 1"
        )


def _watched(profile: Profile) -> Iterator[Violation]:
    """`telemetry.require` of what this server cannot have."""
    server, require = profile.server, profile.telemetry.require
    elsewhere = {"dcgm", "replay"}  # sources that tell of boards without NVML on this machine
    power = profile.telemetry.power
    told = not isinstance(power, str) and any(source.kind in elsewhere for source in power)
    if "gpu_power" in require and _no_boards(profile) and not told:
        yield Violation(
            ("telemetry", "require", require.index("gpu_power")),
            "no board on this machine serves here, so there is no GPU power to read",
            "drop it, or name boards in server.gpus",
        )
    if "server_metrics" in require and server.kind == "attach" and server.metrics_urls == ():
        yield Violation(
            ("telemetry", "require", require.index("server_metrics")),
            "server.metrics_urls says there are none",
            "drop one of the two",
        )


def _prometheus(profile: Profile) -> Iterator[Violation]:
    """A Prometheus by URL without `telemetry.selectors`; selectors that are not label matchers or
    are of no endpoint; either without a URL.
    """
    telemetry = profile.telemetry
    by_url = telemetry.prometheus not in {"embedded", "managed"}
    if by_url and not telemetry.selectors:
        yield Violation(
            ("telemetry", "prometheus"),
            "is a URL, and nothing says which of its targets are this run's servers",
            'add `telemetry.selectors`, such as `{replica-0: \'job="vllm",'
            ' instance="gpu-7:8000"\'}`',
        )
    if not by_url:
        for key in ("selectors", "prometheus_auth_env"):
            if getattr(telemetry, key):
                yield Violation(
                    ("telemetry", key),
                    f"is for a URL, and telemetry.prometheus is `{telemetry.prometheus}`",
                    "drop it",
                )
    for name, selector in telemetry.selectors.items():
        if not _MATCHERS.fullmatch(selector):
            yield Violation(
                ("telemetry", "selectors", name),
                f"{selector!r} are no label matchers",
                'write them as PromQL does: `job="vllm", instance="gpu-7:8000"`',
            )
    if profile.server.kind == "attach":
        names = [f"replica-{position}" for position in range(len(profile.server.urls))]
        for name in telemetry.selectors:
            if name not in names:
                yield Violation(
                    ("telemetry", "selectors", name),
                    "is no endpoint of this profile",
                    f"there are {_names(tuple(names))}",
                )


def _threshold_grammar(profile: Profile) -> Iterator[Violation]:
    """Thresholds that do not parse."""
    for index, text in enumerate(profile.thresholds):
        try:
            parse_threshold(text)
        except ValueError as error:
            yield Violation(
                ("thresholds", index),
                str(error),
                "write it as in `ttft_s.p99 < 1.5` or `output_tok_s >= 100`",
            )


def _threshold_needs(profile: Profile) -> Iterator[Violation]:
    """Thresholds whose metric needs SLOs, a price or GPUs that the profile does not have."""
    for index, text in enumerate(profile.thresholds):
        path: Path = ("thresholds", index)
        try:
            threshold = parse_threshold(text)
        except ValueError:
            continue  # told by _threshold_grammar
        metric = threshold.metric
        if metric in _NEEDS_SLOS and all(value is None for _, value in profile.slos):
            yield Violation(
                path,
                f"{metric} counts requests that meet every SLO, and the profile has none",
                "add `slos`",
            )
        if metric in _NEEDS_PRICE and profile.price is None:
            yield Violation(path, f"{metric} needs a price", "add `price`")
        gpu_power = METRICS[metric].boundary == "power" and threshold.boundary in {
            None,
            Boundary.GPU_BOARD,
        }
        per_gpu = METRICS[metric].boundary == "deployment"
        if (gpu_power and _no_boards(profile)) or (per_gpu and _no_gpus(profile)):
            yield Violation(
                path,
                f"{metric} is absent where no GPU serves",
                "drop it, or name boards in server.gpus",
            )


def _energy(profile: Profile) -> Iterator[Violation]:
    """`energy.pue` below 1; a grid's factor without its source, or the source alone; `attribute`
    with a single load stage.
    """
    energy = profile.energy
    if energy.pue is not None and energy.pue.value < 1:
        what = f"{energy.pue.value:g} says that a facility draws less than the IT in it"
        yield Violation(("energy", "pue", "value"), what, "write at least 1")
    if energy.grid_kgco2_per_kwh is not None and energy.grid_source is None:
        yield Violation(
            ("energy", "grid_source"),
            "a grid's factor without its source is not taken",
            "name who says so, the place and the year",
        )
    if energy.grid_source is not None and energy.grid_kgco2_per_kwh is None:
        yield Violation(
            ("energy", "grid_kgco2_per_kwh"),
            "there is a source, and no factor",
            "give the factor, or drop the source",
        )
    if energy.attribute and len(profile.traffic.load) < 2:
        what = "one stage alone cannot tell time, input and output apart"
        yield Violation(
            ("energy", "attribute"),
            what,
            "use stages as in loadprofiles/gpu-energy-attribution.yaml",
        )


def _stage_parts(profile: Profile) -> Iterator[Violation]:
    """A load stage of a `part` that the workload does not have."""
    workload = profile.traffic.workload
    names = (
        {part.name or part.workload.kind for part in workload.parts}
        if workload.kind == "mix"
        else set()
    )
    for index, stage in enumerate(profile.traffic.load):
        if stage.part is None or stage.part in names:
            continue
        what = f"`{stage.part}` is no part of the workload"
        fix = (
            f"parts: {_names(tuple(sorted(names)))}"
            if names
            else "drop it, or use a workload of `kind: mix`"
        )
        yield Violation(("traffic", "load", index, "part"), what, fix)


def _no_boards(profile: Profile) -> bool:
    """Whether it is certain that no board on this machine serves."""
    server = profile.server
    if server.kind == "auto":
        return False
    return server.gpus == "none" or (server.kind != "attach" and server.device == "cpu")


def _no_gpus(profile: Profile) -> bool:
    """Whether it is certain that no GPU serves, here or elsewhere."""
    return _no_boards(profile) and (
        profile.server.kind != "attach" or profile.server.gpu_count is None
    )


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


RULES: Final[tuple[tuple[Callable[[Profile], Iterator[Violation]], tuple[Path, ...]], ...]] = (
    (_builtin, ()),
    (_how_served, (("server", "kind"),)),
    (
        _output_length,
        (
            ("purpose",),
            ("model", "id"),
            ("model", "load_format"),
            ("traffic", "api"),
            ("traffic", "output_length"),
        ),
    ),
    (_secrets, (("server", "kind"),)),
    (_vllm_args, (("server", "kind"),)),
    (_boards, (("server",),)),
    (_attach, (("server",),)),
    (_network, ()),
    (_stages, ()),
    (_schedules, ()),
    (_workload, (("traffic", "api"),)),
    (_thinking, (("traffic", "api"), ("traffic", "workload"), ("traffic", "thinking_effort"))),
    (_canary, (("traffic", "workload"),)),
    (_times, ()),
    (_distributions, ()),
    (_watched, (("server",),)),
    (_prometheus, (("server",),)),
    (_threshold_grammar, ()),
    (_threshold_needs, (("server",), ("slos",), ("price",))),
    (_energy, ()),
    (_stage_parts, (("traffic", "workload"),)),
)
"""Each rule with the keys that it reads besides the one that it complains of. Its docstring is its
entry in docs/profile-reference.md.
"""
