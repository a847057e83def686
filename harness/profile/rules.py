"""Impossible combinations of keys, each with its fix.

Impossible is an error; unwise is not (`check` and the report's concerns cover that). Rules get a
profile whose keys are each valid by themselves, and all of them run, so that one pass reports
everything.
"""

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from harness.api.table import WIRE_APIS, wire
from harness.checked_yaml import shape
from harness.checked_yaml.fields import Strict
from harness.checked_yaml.problems import Path, Violation
from harness.core.metrics import METRICS
from harness.core.network import FROM_ENVIRONMENT
from harness.core.records import CANARY, Boundary, HeadlineRule, OutputLength
from harness.profile.distributions import AnyDistribution
from harness.profile.schema import BUILTIN_MODELS, Profile
from harness.profile.search import parse_condition
from harness.profile.serving import TorchServer, VllmServer
from harness.profile.stages import stage_name
from harness.profile.sweep import axes
from harness.profile.thresholds import CAPACITY, EVERY_STAGE, Threshold, parse_threshold
from harness.profile.workloads import Workload

Found: TypeAlias = Iterator[tuple[Path, str, str]]
"""Path of the key to change, what is wrong, and the fix."""

# Arguments that the harness passes itself, with the key that sets them. Given twice, the profile
# and the server would differ.
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
_SECRET_HEADER: Final = re.compile(
    r"authorization|cookie|key|token|secret|passw|credential|signature", re.IGNORECASE
)
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_OWN_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "anthropic-version",
        "connection",
        "content-length",
        "content-type",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "user-agent",
        "x-harness-request-id",
    }
)
_MATCHER: Final = r"[a-zA-Z_][a-zA-Z0-9_]*\s*(?:=~|!~|!=|=)\s*\"(?:[^\"\\]|\\.)*\""
_MATCHERS: Final = re.compile(rf"\s*{_MATCHER}\s*(?:,\s*{_MATCHER}\s*)*,?\s*")
_NEEDS_SLOS: Final = frozenset({"goodput_rps", "goodput_tok_s", "slo_met_ratio"})
_NEEDS_PRICE: Final = frozenset({"usd_per_mtok"})
_STORED: Final = "and a profile is stored with every run"
_NOT_ABOVE_0: Final = "must be greater than 0"
_DURATION: Final = "write a duration above 0"
_NAME_GPUS: Final = "drop it, or list GPUs in server.gpus"
_NO_STARTS: Final = "no session would ever start"


def violations(profile: Profile) -> tuple[Violation, ...]:
    """Everything that is impossible about a profile whose keys are each valid by themselves."""
    return tuple(Violation(*found, rests_on) for rule, rests_on in RULES for found in rule(profile))


def _model_id(profile: Profile) -> Found:
    """No `model.id`, unless the server is attached."""
    if profile.model.id is None and profile.server.kind != "attach":
        fix = "add `id`: a hub id, a folder or `builtin:tiny`; only `kind: attach` needs none"
        yield ("model", "id"), "is missing", fix


def _builtin(profile: Profile) -> Found:
    """A `builtin:` model that does not exist."""
    model = profile.model_id
    if model.startswith("builtin:") and model not in BUILTIN_MODELS:
        near = difflib.get_close_matches(model, BUILTIN_MODELS, n=1, cutoff=0.0)[0]
        fix = f"did you mean `{near}`? Built-in models are {_names(BUILTIN_MODELS)}"
        yield ("model", "id"), f"unknown built-in model {model!r}", fix


def _how_served(profile: Profile) -> Found:
    """`load_format: dummy` or `quantization` with `server.kind: attach`; `quantization` with
    `torch`.
    """
    model, kind = profile.model, profile.server.kind
    if kind == "attach" and model.load_format == "dummy":
        yield (
            ("model", "load_format"),
            "`dummy` applies when the harness starts the server; server.kind is `attach`",
            "drop it, and start that server with dummy weights yourself",
        )
    if kind in {"attach", "torch"} and model.quantization is not None:
        what = f"is only for vLLM; server.kind is `{kind}`"
        yield ("model", "quantization"), what, "drop it, or use `server.kind: vllm`"


def _output_length(profile: Profile) -> Found:
    """Forced output lengths over the Messages API, unless the model cannot end by itself
    (`builtin:tiny`, `load_format: dummy`). `purpose: measure` forces lengths unless
    `output_length: natural` is set.
    """
    # The Messages API has neither `ignore_eos` nor `min_tokens`: a length is forced there only on
    # a model that never ends by itself.
    model = profile.model
    if profile.output_length is not OutputLength.FORCED or wire(profile.api).forces_output:
        return
    if model.id == "builtin:tiny" or model.load_format == "dummy":
        return
    key, why = "output_length", "`output_length: forced`"
    if profile.traffic.output_length is None:
        key, why = "api", "purpose `measure` forces output lengths by default, which"
    what = (
        f"{why} is impossible over the Messages API: {profile.model_id!r} may end a response early"
    )
    fix = (
        "write `output_length: natural`, or `api: chat`; or serve a model that cannot end by itself"
        " (`builtin:tiny`, `load_format: dummy`)"
    )
    yield ("traffic", key), what, fix


def _secrets(profile: Profile) -> Found:
    """Both `api_key_env` and `api_key_file`; names in `server.env` that look like secrets."""
    server = profile.server
    if server.api_key_env is not None and server.api_key_file is not None:
        what = "the API key is set twice, by api_key_env and by api_key_file"
        yield ("server", "api_key_file"), what, "keep one of the two"
    for name in () if server.kind == "attach" else server.env:
        path = ("server", "env", name)
        if not name or "=" in name or "\0" in name:
            what = f"{name!r} is not a valid name of an environment variable"
            yield path, what, "use letters, digits and _"
        elif _SECRET_NAME.search(name):
            fix = (
                "export it in the shell (the server inherits the environment); for the server's API"
                " key use api_key_env or api_key_file"
            )
            yield path, f"looks like a secret, {_STORED}", fix


def _vllm_args(profile: Profile) -> Found:
    """`server.extra_args` that repeat what a key sets (`--port`, `--max-model-len`, …)."""
    for index, arg in enumerate(profile.server.extra_args if profile.server.kind == "vllm" else ()):
        name = arg.split("=", 1)[0]
        key = OWN_ARGS.get(name.replace("_", "-") if arg.startswith("--") else arg)
        if key is not None:
            what = f"{name} is passed by the harness itself"
            yield ("server", "extra_args", index), what, f"set `{key}`"


def _gpus(profile: Profile) -> Found:
    """`server.gpus: none` with `device: cuda` or with more than one GPU per replica; GPUs with
    `device: cpu`; more replicas than the listed GPUs can serve; a GPU listed twice; `gpu_count`
    together with local `gpus`; ports past 65535.
    """
    server = profile.server
    if server.kind == "auto":
        return
    path: Path = ("server", "gpus")
    if isinstance(server.gpus, tuple):
        if not server.gpus:
            yield path, "is an empty list", "write `none`, `all` or a list of GPUs"
        if len({str(gpu) for gpu in server.gpus}) != len(server.gpus):
            yield path, "lists a GPU twice", "list each GPU once"
        for index, gpu in enumerate(server.gpus):
            if isinstance(gpu, int) and gpu < 0:
                what = f"{gpu} is not a GPU index"
                yield (*path, index), what, "count GPUs from 0, or give UUIDs"
    if server.kind != "attach":
        yield from _started_gpus(server)
    elif server.gpu_count is not None and server.gpus != "none":
        what = "counts GPUs elsewhere, but server.gpus lists GPUs of this machine"
        yield ("server", "gpu_count"), what, "keep one of the two"


def _started_gpus(server: VllmServer | TorchServer) -> Found:
    listed = len(server.gpus) if isinstance(server.gpus, tuple) else 0
    if server.device == "cuda" and server.gpus == "none":
        what = "`none` leaves no GPU for `device: cuda`"
        yield ("server", "gpus"), what, "write `gpus: all`, or `device: cpu`"
    if server.device == "cpu" and listed:
        what = "lists GPUs, but `device: cpu` uses none"
        yield ("server", "gpus"), what, "drop gpus, or write `device: cuda`"
    per_replica = 1
    if server.kind == "vllm":
        per_replica = server.tensor_parallel_size * server.data_parallel_size
        if server.gpus == "none" and server.device != "cpu" and per_replica > 1:
            key = (
                "tensor_parallel_size" if server.tensor_parallel_size > 1 else "data_parallel_size"
            )
            what = f"needs {per_replica} GPUs, but `gpus: none` gives none"
            yield ("server", key), what, "write `gpus: all`, or `device: cpu`"
    if listed and server.device != "cpu":
        replicas = 1 if server.replicas == "auto" else server.replicas
        needed = replicas * per_replica
        if needed > listed:
            key = "replicas" if replicas > 1 else "tensor_parallel_size"
            what = f"{replicas} replica(s) with {per_replica} GPU(s) each need {needed} GPUs"
            fix = f"list more GPUs in `gpus` (it lists {listed}), or lower this value"
            yield ("server", key), what, fix
    if server.port and server.replicas != "auto" and server.port + server.replicas - 1 > 65535:
        what = f"{server.replicas} replicas from port {server.port} on pass 65535"
        yield ("server", "port"), what, "choose a lower port"


def _attach(profile: Profile) -> Found:
    """`attach`: URLs with `/v1`, with a user or password, or duplicates; another number of
    `metrics_urls` than `urls`.
    """
    server = profile.server
    if server.kind != "attach":
        return
    for index, url in enumerate(server.urls):
        path = ("server", "urls", index)
        if url.endswith("/v1"):
            yield path, f"{url!r} must be the base URL", f"write {url.removesuffix('/v1')!r}"
        if url in server.urls[:index]:
            yield path, f"{url!r} is a duplicate", "list each replica once"
    for key, urls in (("urls", server.urls), ("metrics_urls", server.metrics_urls or ())):
        for index, url in enumerate(urls):
            if "@" in urlsplit(url).netloc:
                what = f"contains a user or password, {_STORED}"
                yield ("server", key, index), what, "use api_key_env"
    if server.metrics_urls and len(server.metrics_urls) != len(server.urls):
        yield (
            ("server", "metrics_urls"),
            f"has {len(server.metrics_urls)} entries for {len(server.urls)} urls",
            "give one for each url in the same order, or [] if the servers have none",
        )


def _network(profile: Profile) -> Found:
    """A `traffic.proxy` other than `http://HOST:PORT`; `tls.ca_file` with `verify: false`."""
    traffic = profile.traffic
    if traffic.proxy.startswith("https://"):
        yield ("traffic", "proxy"), "TLS to a proxy is not supported", "write http://HOST:PORT"
    elif "@" in traffic.proxy:
        yield (
            ("traffic", "proxy"),
            f"contains a user or password, {_STORED}",
            "write `environment`, and set HTTP_PROXY and HTTPS_PROXY",
        )
    if not traffic.tls.verify and traffic.tls.ca_file is not None:
        what = "is not used with `verify: false`"
        yield ("traffic", "tls", "ca_file"), what, "keep one of the two"


def _headers(profile: Profile) -> Found:
    """`traffic.headers` to a server that the harness starts; headers that the harness sets itself;
    values that look like secrets, or that no header can have.
    """
    traffic, path = profile.traffic, ("traffic", "headers")
    if traffic.headers and profile.server.kind != "attach":
        yield path, "are sent to attached servers only", "drop them, or use `server.kind: attach`"
    keyed = getattr(profile.server, "api_key_env", None) or getattr(
        profile.server, "api_key_file", None
    )
    for name, value in traffic.headers.items():
        at, lower = (*path, name), name.lower()
        if not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            fix = "use ASCII letters, digits and `-` in the name, and printable ASCII in the value"
            yield at, "is not a valid header", fix
        elif lower in _OWN_HEADERS or (keyed and lower in {"authorization", "x-api-key"}):
            yield at, f"{name!r} is set by the harness itself", "drop it"
        elif not _VARIABLE.fullmatch(value) and _SECRET_HEADER.search(name):
            fix = "export the value in the shell and write `env:NAME` with the variable's name"
            yield at, f"looks like a secret, {_STORED}", fix
        elif value.startswith(FROM_ENVIRONMENT) and not _VARIABLE.fullmatch(value):
            yield at, f"{value!r} has no name of a variable", "write `env:NAME`"
    if len({name.lower() for name in traffic.headers}) < len(traffic.headers):
        yield path, "has a header twice", "give each header once"


def _stages(profile: Profile) -> Found:
    """A load stage with neither `window_s` nor `sessions`; a window of length 0; two stages with
    the same name; `replay` without a trace.
    """
    seen: dict[str, int] = {}
    for index, stage in enumerate(profile.traffic.load):
        path: Path = ("traffic", "load", index)
        if stage.kind == "replay" and profile.traffic.workload.kind != "replay":
            fix = "use `traffic.workload.kind: replay`, or another kind of load"
            yield path, "there is no trace to take times from", fix
        # a trace ends by itself
        if stage.window_s is None and stage.sessions is None and stage.kind != "replay":
            yield path, "would never end", "give it `window_s` or `sessions`"
        if stage.window_s is not None and stage.window_s <= 0:
            yield (*path, "window_s"), _NOT_ABOVE_0, "write a duration such as 10m"
        name = stage_name(stage, index)
        if name in seen:
            what = f"{name!r} is also the name of stage {seen[name]}"
            yield (*path, "name"), what, "give each stage its own name"
        seen.setdefault(name, index)


def _schedules(profile: Profile) -> Found:
    """`process: gamma` without `cv`, `weibull` without `weibull_shape`, and either with another
    process; loads whose rate is always 0; ramps and steps of length 0; an hour twice in a `curve`;
    `start: steady` over single requests.
    """
    for index, stage in enumerate(profile.traffic.load):
        path: Path = ("traffic", "load", index)
        if stage.kind == "concurrency":
            if stage.start == "steady" and stage.over == "requests":
                fix = "drop it, or write `over: sessions`"
                yield (*path, "start"), "single requests cannot start midway", fix
            continue
        if stage.kind == "all_at_once" or stage.kind == "replay":
            continue
        for key, law in (("cv", "gamma"), ("weibull_shape", "weibull")):
            given = getattr(stage, key) is not None
            if given and stage.process != law:
                what = f"is for process `{law}`; this one is `{stage.process}`"
                yield (*path, key), what, f"write `process: {law}`"
            if not given and stage.process == law:
                yield (*path, "process"), f"`{law}` needs `{key}`", f"add `{key}`"
        if stage.kind == "ramp":
            if stage.ramp_s <= 0:
                yield (*path, "ramp_s"), _NOT_ABOVE_0, f"{_DURATION}, or use `kind: step`"
            if stage.from_per_s == stage.to_per_s == 0:
                yield (*path, "to_per_s"), _NO_STARTS, "write a rate above 0"
        if stage.kind == "step":
            for at, step in enumerate(stage.steps):
                if step.for_s <= 0:
                    yield (*path, "steps", at, "for_s"), _NOT_ABOVE_0, _DURATION
            if not any(step.rate_per_s for step in stage.steps):
                yield (*path, "steps"), _NO_STARTS, "give one step a rate above 0"
        if stage.kind == "diurnal" and stage.curve:
            if not any(point.factor for point in stage.curve):
                yield (*path, "curve"), _NO_STARTS, "give one hour a factor above 0"
            if len({point.hour for point in stage.curve}) < len(stage.curve):
                yield (*path, "curve"), "has an hour twice", "give each hour one factor"


def _workload(profile: Profile) -> Found:
    """`cache_control` with another API than Messages; SLOs for `batch` alone; two parts of a `mix`
    with the same name.
    """
    traffic = profile.traffic
    if traffic.cache_control and not wire(profile.api).cache_breakpoints:
        what = f"is only for the Messages API; the API is `{profile.api}`"
        yield ("traffic", "cache_control"), what, "drop it, or write `api: messages`"
    if traffic.workload.kind == "batch" and any(value is not None for _, value in profile.slos):
        fix = "drop it; in a `mix`, SLOs apply to all classes"
        yield ("slos",), "batch work has no deadlines", fix
    if traffic.workload.kind == "mix":
        labels: dict[str, int] = {}
        for index, part in enumerate(traffic.workload.parts):
            label = part.name or part.workload.kind
            if label in labels:
                what = f"{label!r} is also the name of part {labels[label]}"
                path = ("traffic", "workload", "parts", index)
                yield path, what, "give each part its own `name`"
            labels.setdefault(label, index)


def _thinking(profile: Profile) -> Found:
    """A `thinking` mode that the API does not have, or that applies to no class of the workload;
    `thinking: effort` without `thinking_effort`.
    """
    traffic = profile.traffic
    apis = [api.name for api in WIRE_APIS.values() if traffic.thinking in api.thinking]
    path: Path = ("traffic", "thinking")
    if apis and profile.api not in apis:
        names = _names(api.value for api in apis)
        what = f"`{traffic.thinking}` is only for {names}; the API is `{profile.api}`"
        yield path, what, "write `off`, or a mode that API has"
    if apis and not reasons(traffic.workload):
        fix = "drop it, or use `thinking` or a `claude-code` with a thinking_share"
        yield path, "no class of this workload reasons", fix
    effort, effort_path = traffic.thinking_effort, ("traffic", "thinking_effort")
    if traffic.thinking == "effort" and effort is None:
        yield path, "`effort` needs `thinking_effort`", "add `thinking_effort`"
    if effort is not None and traffic.thinking not in {"effort", "adaptive"}:
        what = f"has no effect with `thinking: {traffic.thinking}`"
        yield effort_path, what, "write `thinking: effort` or `adaptive`"
    if effort in {"none", "minimal"} and traffic.thinking == "adaptive":
        what = f"{effort!r} is not an effort of the Messages API"
        yield effort_path, what, "write `low`, `medium`, `high`, `xhigh` or `max`"


def reasons(workload: Workload) -> bool:
    """Whether any class of the workload has responses with reasoning."""
    if workload.kind == "mix":
        return any(reasons(part.workload) for part in workload.parts)
    return workload.kind == "thinking" or (
        workload.kind == "claude-code" and workload.thinking_share > 0
    )


def _canary(profile: Profile) -> Found:
    """A part of a `mix` with the name of the load generator's own requests (`canary`)."""
    # Records of that class are the load generator's own and count in no metric.
    workload = profile.traffic.workload
    for index, part in enumerate(workload.parts if workload.kind == "mix" else ()):
        if part.name == CANARY:
            yield (
                ("traffic", "workload", "parts", index, "name"),
                f"{CANARY!r} is reserved for requests that measure the load generator's own error",
                "give the part another name",
            )


def _times(profile: Profile) -> Found:
    """Timeouts or SLOs of 0; telemetry intervals below 10 ms."""
    for name, value in profile.traffic.timeouts:
        if value <= 0:
            yield ("traffic", "timeouts", name), _NOT_ABOVE_0, _DURATION
    for name, value in profile.slos:
        if value is not None and value <= 0:
            yield ("slos", name), _NOT_ABOVE_0, f"{_DURATION}, or drop the key"
    if profile.server.ready_timeout_s <= 0:
        yield ("server", "ready_timeout_s"), _NOT_ABOVE_0, _DURATION
    for name, value in profile.telemetry:
        if isinstance(value, float) and value < 0.01:
            yield ("telemetry", name), f"{value:g} s is too short", "write at least 10ms"


def _distributions(profile: Profile) -> Found:
    """Distributions with `max` below `min`; lengths, turns or requests that are never at least 1;
    tables of quantiles whose shares do not rise from 0 to 1, or whose values fall.
    """
    yield from _distributions_of(profile.traffic.workload, ("traffic", "workload"))


def _distributions_of(section: object, path: Path) -> Found:
    if isinstance(section, AnyDistribution):
        yield from _distribution(section, path)
    elif isinstance(section, Strict | tuple):
        for key, value in section if isinstance(section, Strict) else enumerate(section):
            yield from _distributions_of(value, (*path, key))


def _distribution(value: AnyDistribution, path: Path) -> Found:
    low, high = getattr(value, "min", None), getattr(value, "max", None)
    if low is not None and high is not None and high < low:
        what = f"{high:g} is below min, {low:g}"
        yield (*path, "max"), what, "write min and max in order"
    most = value.value if value.kind == "constant" else high
    if value.kind == "quantiles":
        at, values = value.at, value.values
        if len(at) != len(values):
            what = f"has {len(values)} values for {len(at)} shares"
            yield (*path, "values"), what, "give one value for each share"
        if at[0] != 0 or at[-1] != 1 or any(b <= a for a, b in itertools.pairwise(at)):
            yield (*path, "at"), "shares must rise from 0 to 1", "write for example [0, 0.5, 1]"
        if values[0] <= 0 or any(b < a for a, b in itertools.pairwise(values)):
            yield (*path, "values"), "must be above 0 and must not fall", "write them in order"
        most = values[-1] if high is None else min(high, values[-1])
    if not str(path[-1]).endswith("_s") and most is not None and most < 1:
        yield path, f"is never more than {most:g}", "give it a largest value of at least 1"


def _watched(profile: Profile) -> Found:
    """`telemetry.require` of something that this server cannot have."""
    server, require = profile.server, profile.telemetry.require
    elsewhere = {"dcgm", "replay"}  # sources that report GPUs without NVML on this machine
    power = profile.telemetry.power
    reported = not isinstance(power, str) and any(source.kind in elsewhere for source in power)
    if "gpu_power" in require and _no_local_gpus(profile) and not reported:
        yield (
            ("telemetry", "require", require.index("gpu_power")),
            "no GPU of this machine serves, so there is no GPU power to read",
            _NAME_GPUS,
        )
    if "server_metrics" in require and server.kind == "attach" and server.metrics_urls == ():
        what = "server.metrics_urls is empty"
        path = ("telemetry", "require", require.index("server_metrics"))
        yield path, what, "drop one of the two"


def _prometheus(profile: Profile) -> Found:
    """A Prometheus by URL without `telemetry.selectors`; selectors that are not label matchers or
    are for an unknown endpoint; selectors or `prometheus_auth_env` without a URL.
    """
    telemetry = profile.telemetry
    by_url = telemetry.prometheus not in {"embedded", "managed"}
    if by_url and not telemetry.selectors:
        example = """`{replica-0: 'job="vllm", instance="gpu-7:8000"'}`"""
        yield (
            ("telemetry", "prometheus"),
            "is a URL, but no selectors name the targets that are this run's servers",
            f"add `telemetry.selectors`, such as {example}",
        )
    for key in () if by_url else ("selectors", "prometheus_auth_env"):
        if getattr(telemetry, key):
            what = f"is only for a URL; telemetry.prometheus is `{telemetry.prometheus}`"
            yield ("telemetry", key), what, "drop it"
    server = profile.server
    names = [f"replica-{at}" for at in range(len(server.urls))] if server.kind == "attach" else None
    for name, selector in telemetry.selectors.items():
        path = ("telemetry", "selectors", name)
        if not _MATCHERS.fullmatch(selector):
            fix = 'write them as in PromQL: `job="vllm", instance="gpu-7:8000"`'
            yield path, f"{selector!r} is not a list of label matchers", fix
        if names is not None and name not in names:
            yield path, "is not an endpoint of this profile", f"use one of {_names(names)}"


def _threshold_grammar(profile: Profile) -> Found:
    """Thresholds that do not parse, or are on capacities that the profile does not search."""
    for index, text in enumerate(profile.thresholds):
        try:
            threshold = parse_threshold(text)
            if threshold.metric == CAPACITY:
                for what, fix in _capacity_needs(profile, threshold):
                    yield ("thresholds", index), what, fix
        except ValueError as error:
            fix = "write it as in `ttft_s.p99 < 1.5` or `output_tok_s >= 100`"
            yield ("thresholds", index), str(error), fix


def _capacity_needs(profile: Profile, threshold: Threshold) -> Iterator[tuple[str, str]]:
    tier = threshold.statistic
    if profile.search is None:
        yield (
            f"names the capacity at tier {tier!r}, but there is no `search`",
            "add `search`, or drop it",
        )
    elif tier not in (names := [one.name for one in profile.search.tiers]):
        yield f"the search has no tier {tier!r}", f"write one of: {', '.join(names)}"
    if threshold.relative:
        fix = "compare two searches instead: harness compare SEARCH SEARCH --gate FILE"
        yield "is relative to a baseline, which a search does not have", fix


def _threshold_needs(profile: Profile) -> Found:
    """Thresholds whose metric needs SLOs, a price or GPUs that the profile does not have."""
    for index, text in enumerate(profile.thresholds):
        path: Path = ("thresholds", index)
        try:
            threshold = parse_threshold(text)
        except ValueError:
            continue  # reported by _threshold_grammar
        metric = threshold.metric
        if metric == CAPACITY:
            continue
        if metric in _NEEDS_SLOS and all(value is None for _, value in profile.slos):
            what = f"{metric} counts requests that meet every SLO, but the profile has no SLOs"
            yield path, what, "add `slos`"
        if metric in _NEEDS_PRICE and profile.price is None:
            yield path, f"{metric} needs a price", "add `price`"
        boundary, gpu = METRICS[metric].boundary, threshold.boundary in {None, Boundary.GPU_BOARD}
        if (boundary == "power" and gpu and _no_local_gpus(profile)) or (
            boundary == "deployment" and _no_gpus(profile)
        ):
            yield path, f"{metric} is not available if no GPU serves", _NAME_GPUS


def _stage_names(profile: Profile) -> Found:
    """A stage in `headline` or `thresholds` that the load does not have; `headline` that is both a
    rule and a stage's name; `headline: best_under_slo` without SLOs.
    """
    stages, headline = profile.stage_names, profile.headline
    if headline in set(HeadlineRule):
        if headline in stages:
            what = f"`{headline}` is a rule and the name of a stage"
            yield ("headline",), what, "rename the stage"
        if headline == HeadlineRule.BEST_UNDER_SLO and all(v is None for _, v in profile.slos):
            fix = f"add `slos`, or write `{HeadlineRule.HIGHEST_THROUGHPUT}`"
            yield ("headline",), "needs SLOs", fix
    elif headline is not None and headline not in stages:
        yield ("headline",), *_unknown_stage(headline, (*stages, *HeadlineRule))
    for index, text in enumerate(profile.thresholds):
        with suppress(ValueError):  # reported by _threshold_grammar
            stage = parse_threshold(text).stage
            if stage not in {None, EVERY_STAGE, *stages}:
                yield ("thresholds", index), *_unknown_stage(str(stage), stages)


def _unknown_stage(name: str, known: Sequence[str]) -> tuple[str, str]:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    return f"unknown stage {name!r}", f"did you mean `{near}`? Use one of {_names(known)}"


def _energy(profile: Profile) -> Found:
    """`energy.pue` below 1; a grid factor without its source, or the source alone; `attribute`
    with a single load stage.
    """
    energy = profile.energy
    if energy.pue is not None and energy.pue.value < 1:
        what = f"{energy.pue.value:g} means that a facility draws less power than its IT load"
        yield ("energy", "pue", "value"), what, "write at least 1"
    if energy.grid_kgco2_per_kwh is not None and energy.grid_source is None:
        fix = "name the publisher of the factor, the place and the year"
        yield ("energy", "grid_source"), "is required with a grid factor", fix
    if energy.grid_source is not None and energy.grid_kgco2_per_kwh is None:
        fix = "give the factor, or drop the source"
        yield ("energy", "grid_kgco2_per_kwh"), "there is a source but no factor", fix
    if energy.attribute and len(profile.traffic.load) < 2:
        what = "one stage is not enough to separate the energy of time, input and output"
        fix = "use stages as in loadprofiles/gpu-energy-attribution.yaml"
        yield ("energy", "attribute"), what, fix


def _stage_parts(profile: Profile) -> Found:
    """A load stage with a `part` that the workload does not have."""
    workload = profile.traffic.workload
    parts = workload.parts if workload.kind == "mix" else ()
    names = sorted({part.name or part.workload.kind for part in parts})
    fix = f"parts: {_names(names)}" if names else "drop it, or use a workload of `kind: mix`"
    for index, stage in enumerate(profile.traffic.load):
        if stage.part is not None and stage.part not in names:
            what = f"`{stage.part}` is not a part of the workload"
            yield ("traffic", "load", index, "part"), what, fix


def _sweep(profile: Profile) -> Found:
    """A sweep without a varied key; a key varied twice, or that is not of the profile; groups of
    `zip` of unequal lengths; a varied `seed`, `name` or model; `repeats` with a sweep.
    """
    sweep = profile.sweep
    if sweep is None:
        return
    if profile.repeats > 1:
        yield ("repeats",), "and `sweep` exclude each other", "set `sweep.repeats` instead"
    if not sweep.over and not any(sweep.zip):
        fix = "add `over: {traffic.load.0.concurrency: [1, 2, 4]}`"
        yield ("sweep",), "varies no key", fix
    seen: set[str] = set()
    for key, _, group in axes(sweep):
        path: Path = ("sweep", "over", key) if group is None else ("sweep", "zip", group, key)
        if key in seen:
            yield path, "is varied twice", "keep one of the two"
        seen.add(key)
        if (wrong := _not_varied(key)) is not None:
            yield path, *wrong
    for number, one in enumerate(sweep.zip):
        if len(set(map(len, one.values()))) > 1:
            what = "has keys with " + " and ".join(f"{len(values)}" for values in one.values())
            fix = "give each key of the group as many values"
            yield ("sweep", "zip", number), f"{what} values", fix


def _not_varied(key: str) -> tuple[str, str] | None:
    """Why a key cannot be varied, and the fix; None if it can."""
    if key in _NOT_VARIED:
        return "cannot be varied", _NOT_VARIED[key]
    parts = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if parts[0] in _NOT_OF_A_RUN:
        return "cannot be varied", "it is not a setting of a single run"
    if shape.annotations_at(parts, Profile):
        return None
    known = {dotted for places in shape.keys_by_name(Profile).values() for dotted, _ in places}
    numbers = iter([str(part) for part in parts if isinstance(part, int)])
    plain = ".".join(shape.ITEM if isinstance(part, int) else part for part in parts)
    near = difflib.get_close_matches(plain, sorted(known), n=1, cutoff=0.6)
    if not near:
        return "unknown key", "write a dotted key as for --set, as in traffic.load.0.concurrency"
    meant = [next(numbers, "0") if part == shape.ITEM else part for part in near[0].split(".")]
    return "unknown key", f"did you mean `{'.'.join(meant)}`?"


_ONE_MODEL: Final = "runs of different models do not compare: make one sweep for each model"
_NOT_VARIED: Final = {
    "seed": "each run has its own seed already; for several of them set `sweep.repeats`",
    "name": "the varied keys already identify the runs",
    "model.id": _ONE_MODEL,
    "model.served_name": _ONE_MODEL,
}
_NOT_OF_A_RUN: Final = frozenset(
    {"sweep", "search", "repeats", "cooldown_s", "purpose", "description"}
)


def _no_local_gpus(profile: Profile) -> bool:
    """Whether it is certain that no GPU of this machine serves."""
    server = profile.server
    if server.kind == "auto":
        return False
    return server.gpus == "none" or (server.kind != "attach" and server.device == "cpu")


def _no_gpus(profile: Profile) -> bool:
    """Whether it is certain that no GPU serves, here or elsewhere."""
    return _no_local_gpus(profile) and (
        profile.server.kind != "attach" or profile.server.gpu_count is None
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _search_range(profile: Profile) -> Found:
    """`search` with several load stages, a stage of another kind than `search.load`, `from` not
    below `to`, concurrencies that are not whole, or more than the stage's `sessions` allow.
    """
    search = profile.search
    if search is None:
        return
    stages = profile.traffic.load
    if len(stages) != 1:
        what = f"searches with one load stage; traffic.load has {len(stages)}"
        yield ("search",), what, "keep the stage whose load is to be searched"
    elif stages[0].kind != search.load:
        what = f"is `{search.load}`, but the load stage's kind is `{stages[0].kind}`"
        yield (
            ("search", "load"),
            what,
            f"write `load: {stages[0].kind}`, or change the stage's kind",
        )
    elif stages[0].sessions is not None and search.whole and stages[0].sessions < search.to:
        sessions = stages[0].sessions
        what = f"is {search.to:g}, but the load stage ends after {sessions} sessions"
        yield ("search", "to"), what, "remove `sessions` from the stage, or lower `to`"
    if search.lowest >= search.to:
        what = f"is {search.lowest:g}, which is not below `to`, {search.to:g}"
        yield ("search", "from"), what, "lower `from`, or raise `to`"
    for key, value in (("from", search.lowest), ("to", search.to)):
        if search.whole and value != int(value):
            what = f"must be a whole number of sessions; it is {value:g}"
            yield ("search", key), what, "write a whole number, or `load: arrival_rate`"


def _search_tiers(profile: Profile) -> Found:
    """A tier of a search without conditions and without `slos`, with both `share` and conditions,
    with a condition that cannot be parsed, or with the name of another tier.
    """
    search = profile.search
    names: set[str] = set()
    for index, tier in enumerate(() if search is None else search.tiers):
        path: Path = ("search", "tiers", index)
        if tier.name in names:
            yield (*path, "name"), f"{tier.name!r} is the name of two tiers", "rename one of them"
        names.add(tier.name)
        if tier.conditions and tier.share is not None:
            what = "`share` is of `slos`, but the tier has conditions of its own"
            yield (*path, "share"), what, "drop it: the percentiles of the conditions are shares"
        for number, text in enumerate(tier.conditions):
            try:
                parse_condition(text)
            except ValueError as error:
                what, _, fix = str(error).partition("; ")
                yield (*path, "conditions", number), what, fix or "write another condition"
        if not tier.conditions and not any(profile.slos.model_dump().values()):
            what = f"tier {tier.name!r} has no conditions, and the profile has no `slos`"
            yield ("search", "tiers"), what, "add `conditions` to the tier, or add `slos`"
    if search is not None and not search.tiers:
        yield ("search", "tiers"), "is empty", "add a tier, or drop the key for 95% of `slos`"


RULES: Final[tuple[tuple[Callable[[Profile], Found], tuple[Path, ...]], ...]] = (
    (_model_id, (("server", "kind"),)),
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
    (_gpus, (("server",),)),
    (_attach, (("server",),)),
    (_network, ()),
    (_headers, (("server",),)),
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
    (_stage_names, (("traffic", "load"), ("slos",))),
    (_energy, ()),
    (_stage_parts, (("traffic", "workload"),)),
    (_sweep, ()),
    (_search_range, (("traffic", "load"),)),
    (_search_tiers, (("slos",),)),
)
"""Each rule with the keys that it reads besides the one that it reports. Its docstring is its entry
in docs/reference/profile.md.
"""
