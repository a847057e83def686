"""`harness bench`: a running endpoint and a few options as a profile.

The options become a YAML profile that is saved in the run directory, so `harness run` can repeat
the run.
"""

import io
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from harness.api.table import WIRE_APIS
from harness.checked_yaml.problems import InvalidYamlError
from harness.core.clock import wall_now
from harness.core.errors import ProfileError
from harness.core.network import Network, header_secret
from harness.core.records import Api
from harness.core.units import parse_count, parse_duration_s
from harness.profile.load import load_profile_text
from harness.profile.schema import Profile
from harness.server.detect import OPTIONS, Detected, detect

WORKLOADS: Final = ("chat", "claude-chat", "claude-code", "doc-qa", "thinking", "batch")

SHORT_IDLE_S: Final = 2.0
"""Idle is measured this long; a profile of purpose `measure` takes 30 s by default."""

SHORT_ANSWER_TOK: Final = 8
"""Output length of each response of the quality check."""

MESSAGE_TOK: Final = 64
"""Tokens reserved for what a chat template adds to one message."""

DEFAULT_ISL: Final = "1024"
DEFAULT_OSL: Final = "128"

MOST_TOK: Final = 10_000_000
"""Longest input or output; ten times the context of any model."""

_OPTIONS: Final = {
    "model": "--model",
    "price": "--price",
    "seed": "--seed",
    "server.api_key_env": "--api-key-env",
    "server.gpu_count": "--gpu-count",
    "server.gpus": "--gpus",
    "server.urls": "--url",
    "slos": "--slo",
    "traffic.api": "--api",
    "traffic.headers": "--header",
    "traffic.load": "--concurrency, --rate or --duration",
    "traffic.tls": "--ca-file",
    "traffic.workload.output_tok": "--osl",
    "traffic.workload.path": "--trace",
    "traffic.workload.user_tok": "--isl",
    "traffic.workload": "--workload",
}
"""Key of the profile -> the option that sets it; the first that fits."""

_LENGTH = re.compile(r"^\s*([0-9.]+k?)\s*(?:(?:±|\+-|\+/-)\s*([0-9.]+k?))?\s*$", re.IGNORECASE)
_SLOS: Final = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of the command line; None where not given.

    Attributes:
        urls: base URLs of the replicas.
        model: served name; default: the only one.
        api: wire API; default: the first that responds.
        concurrency: one stage for each number of requests in flight.
        rates: one stage for each number of starts per second.
        isl: input tokens, `1024` or `1024±128`.
        osl: output tokens, in the same form.
        workload: one of `WORKLOADS`.
        trace: a recorded trace to replay.
        duration_s: length of each stage's measurement window.
        warmup_s: time of each stage before its window.
        seed: of prompts and send times; default: that of a profile.
        slos: `ttft=1s,tpot=50ms`.
        gpu_count: GPUs that serve, on other machines.
        gpus: GPUs of this machine that serve, by index or UUID, or `all`.
        usd_per_gpu_h: price of a GPU-hour.
        api_key_env: environment variable with the API key.
        ca_file: PEM file of certificate authorities to trust.
        headers: additional headers, names and values or `env:NAME`.
    """

    urls: tuple[str, ...]
    model: str | None = None
    api: Api | None = None
    concurrency: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    isl: str | None = None
    osl: str | None = None
    workload: str | None = None
    trace: str | None = None
    duration_s: float = 30.0
    warmup_s: float | None = None
    seed: int | None = None
    slos: str | None = None
    gpu_count: int | None = None
    gpus: str | None = None
    usd_per_gpu_h: float | None = None
    api_key_env: str | None = None
    ca_file: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> Network:
        """How the endpoint is reached."""
        return Network(ca_file=self.ca_file, headers=tuple(self.headers.items()))


def numbers(text: str, option: str, kind: Callable[[str], float]) -> tuple[float, ...]:
    """Parse `1,4,16`.

    Raises:
        ProfileError: not different numbers above 0.
    """
    try:
        found = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or any(not 0 < n < float("inf") for n in found):
        raise ProfileError(
            f"{option} {text!r} must be different numbers above 0",
            next_step=f"separate numbers by commas: {option} 1,4,16",
        )
    return found


def duration_s(text: str, option: str) -> float:
    """Parse `30s` or `2m`.

    Raises:
        ProfileError: not a duration above 0.
    """
    try:
        found = parse_duration_s(text)
        if not found > 0:
            raise ValueError
    except ValueError:
        raise ProfileError(
            f"{option} {text!r} must be a duration above 0", next_step=f"write {option} 30s"
        ) from None
    return found


def length(text: str, option: str) -> int | dict[str, Any]:
    """Parse `1024`, or `1024±128` for a uniform distribution from 896 to 1152.

    Raises:
        ProfileError: neither.
    """
    match = _LENGTH.match(text)
    try:
        if match is None:
            raise ValueError
        middle = parse_count(match.group(1))
        around = parse_count(match.group(2)) if match.group(2) else 0
        if not 1 <= middle <= MOST_TOK or around >= middle:
            raise ValueError
    except ValueError:
        raise ProfileError(
            f"{option} {text!r} is not a number of tokens",
            next_step=f"write {option} 1024, or {option} 1024±128 for lengths from 896 to 1152",
        ) from None
    if not around:
        return middle
    return {"kind": "uniform", "min": middle - around, "max": middle + around}


def slos(text: str) -> dict[str, str]:
    """`ttft=1s,tpot=50ms` as a profile's `slos`.

    Raises:
        ProfileError: unknown or repeated name, or not a duration.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            if name not in _SLOS or _SLOS[name] in found or not parse_duration_s(value) > 0:
                raise ValueError
        except ValueError:
            raise ProfileError(
                f"--slo {part!r} must be one of {', '.join(_SLOS)} with a duration, each once",
                next_step=f"write {', '.join(f'{one}=1s' for one in _SLOS)}",
            ) from None
        found[_SLOS[name]] = value
    if not found:
        raise ProfileError(f"--slo {text!r} has no SLO", next_step="write --slo ttft=1s")
    return found


def base_url(url: str) -> str:
    """The base URL, without a trailing `/v1` or path of an API.

    Raises:
        ProfileError: it is not an http or https URL.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and url.isprintable() and not (parts.query or parts.fragment)
    except ValueError:  # incomplete IPv6 address, or port that is not a number
        usable = False
    if not usable:
        raise ProfileError(
            f"--url {url!r} is not an http or https base URL",
            next_step="write --url http://HOST:PORT",
        )
    base = url.rstrip("/")
    for api in WIRE_APIS.values():
        base = base.removesuffix(api.path)
    return base.removesuffix("/v1").rstrip("/")


def headers(texts: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` of each text.

    Raises:
        ProfileError: no name or value, or a name twice. Messages never contain the value.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if not name or not value or name in found:
            raise ProfileError(
                f"--header {name!r} must be a name, `=` and a value, each name once",
                next_step="write --header X-Tenant=a, or --header X-Api-Key=env:VARIABLE",
            )
        found[name] = value
    return found


def existing(path: Path, option: str, *, folder: bool = False) -> str:
    """The absolute path of a file, or also of a folder.

    Raises:
        ProfileError: it does not exist, or is of another kind.
    """
    if not (path.is_file() or (folder and path.is_dir())):
        kind = "a file or folder" if folder else "a file"
        raise ProfileError(f"{option} {str(path)!r} is not {kind}", next_step="check the path")
    return str(path.absolute())


def load(text: str) -> Profile:
    """Read the profile of the options.

    Raises:
        ProfileError: an option has an unusable value; names the option, in place of the key.
    """
    try:
        return load_profile_text(text, source="the profile of these options", name="bench")
    except InvalidYamlError as error:
        first, *others = [f"{_option(one.keys)}: {one.what}" for one in error.problems]
        raise ProfileError(
            first, next_step=error.problems[0].fix, details="\n".join(others) or None
        ) from error


def _option(keys: Sequence[str | int]) -> str:
    """The option that set a key of the profile."""
    dotted = ".".join(map(str, keys))
    return next((one for key, one in _OPTIONS.items() if dotted.startswith(key)), dotted)


def api_key(variable: str) -> str:
    """The API key in an environment variable. Messages never contain it.

    Raises:
        ProfileError: not set, empty, or not usable in a header.
    """
    key = header_secret(variable)
    if key is None:
        raise ProfileError(
            f"--api-key-env: environment variable {variable!r} has no usable API key",
            cause="it is not set, empty, or has characters that headers do not allow",
            next_step=f"export {variable}=…, or name another variable",
        )
    return key


def document(options: BenchOptions, probed: Detected) -> dict[str, Any]:
    """The options as a profile.

    Raises:
        ProfileError: invalid or contradictory options.
    """
    kinds = [
        name
        for name, given in (
            ("--isl/--osl", options.isl or options.osl),
            ("--workload", options.workload),
            ("--trace", options.trace),
        )
        if given
    ]
    if len(kinds) > 1:
        raise ProfileError(f"{' and '.join(kinds)} exclude each other", next_step="choose one")
    server: dict[str, Any] = {"kind": "attach", "urls": [base_url(url) for url in options.urls]}
    if options.gpus is not None:
        server["gpus"] = options.gpus if options.gpus == "all" else _gpus(options.gpus)
    if options.gpu_count is not None:
        server["gpu_count"] = options.gpu_count
    if options.api_key_env is not None:
        server["api_key_env"] = options.api_key_env
    _check_context(options, probed)
    model: dict[str, Any] = {"id": probed.model, "served_name": probed.model}
    if probed.max_context_tok is not None:
        model["max_context_tok"] = probed.max_context_tok
    single = not kinds or options.isl is not None or options.osl is not None
    found: dict[str, Any] = {
        "name": "bench",
        "purpose": "measure",
        "model": model,
        "server": server,
        "traffic": {
            "api": probed.api.value,
            "output_length": "forced" if probed.forced else "natural",
            "workload": _workload(options),
            "load": _load(options, over="requests" if single else "sessions"),
        },
        "energy": {"idle_s": SHORT_IDLE_S},
        "quality": {"max_output_tok": SHORT_ANSWER_TOK},
    }
    if options.ca_file is not None:
        found["traffic"]["tls"] = {"ca_file": options.ca_file}
    if options.headers:
        found["traffic"]["headers"] = dict(options.headers)
    if options.seed is not None:
        found["seed"] = options.seed
    if options.slos:
        found["slos"] = slos(options.slos)
    if options.usd_per_gpu_h is not None:
        found["price"] = {
            "usd_per_gpu_h": options.usd_per_gpu_h,
            "source": "--price of harness bench",
            "date": wall_now().date().isoformat(),
        }
    return found


def _gpus(text: str) -> list[int | str]:
    return [
        int(part) if part.isascii() and part.isdigit() else part
        for part in (p.strip() for p in text.split(","))
    ]


def _workload(options: BenchOptions) -> dict[str, Any]:
    if options.trace is not None:
        return {"kind": "replay", "path": options.trace}
    if options.workload is not None:
        if options.workload not in WORKLOADS:
            raise ProfileError(
                f"unknown workload {options.workload!r} (--workload)",
                next_step=f"choose one of {', '.join(WORKLOADS)}",
            )
        return {"kind": options.workload}
    isl, osl = _lengths(options)
    longest = _longest(isl) + _longest(osl)
    return {
        "kind": "chat",
        "system_tok": 0,
        "user_tok": isl,
        "output_tok": osl,
        "turns": 1,
        "context_limit_tok": longest + max(MESSAGE_TOK, longest // 8),
    }


def _lengths(options: BenchOptions) -> tuple[int | dict[str, Any], int | dict[str, Any]]:
    return length(options.isl or DEFAULT_ISL, "--isl"), length(options.osl or DEFAULT_OSL, "--osl")


def _longest(one: int | dict[str, Any]) -> int:
    return one if isinstance(one, int) else int(one["max"])


def _check_context(options: BenchOptions, probed: Detected) -> None:
    """Refuse lengths that the endpoint cannot serve: scaled ones would answer another question."""
    if options.workload or options.trace or probed.max_context_tok is None:
        return
    isl, osl = map(_longest, _lengths(options))
    needed = isl + osl + MESSAGE_TOK
    if needed > probed.max_context_tok:
        option = (
            f"--isl {options.isl or DEFAULT_ISL}"
            if isl >= osl
            else f"--osl {options.osl or DEFAULT_OSL}"
        )
        raise ProfileError(
            f"{option}: {isl} input and {osl} output tokens, and {MESSAGE_TOK} for the chat"
            f" template, exceed the endpoint's context of {probed.max_context_tok}",
            next_step=f"choose --isl and --osl of at most {probed.max_context_tok - MESSAGE_TOK}"
            " together",
        )


def _load(options: BenchOptions, *, over: str) -> list[dict[str, Any]]:
    window = {"window_s": options.duration_s}
    if options.warmup_s is not None:
        window["warmup_s"] = options.warmup_s
    if options.trace is not None and not (options.concurrency or options.rates):
        return [{"kind": "replay", **window}]
    stages: list[dict[str, Any]] = [
        {"name": f"c{n}", "kind": "concurrency", "concurrency": n, "over": over, **window}
        for n in options.concurrency
    ]
    stages += [
        {"name": f"r{rate:g}", "kind": "arrival_rate", "rate_per_s": rate, "over": over, **window}
        for rate in options.rates
    ]
    return stages or [
        {"name": "c8", "kind": "concurrency", "concurrency": 8, "over": over, **window}
    ]


def to_yaml(profile: Mapping[str, Any], command: Sequence[str]) -> str:
    """The profile as YAML, with the command in a comment on top."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(dict(profile), stream)
    made_by = shlex.join(" ".join(part.split()) for part in command)
    return f"# Made by: {made_by}\n{stream.getvalue()}"


def bench_profile(options: BenchOptions, command: Sequence[str]) -> tuple[Profile, str]:
    """Probe the endpoint and turn the options into a profile; also its YAML, headed by `command`.

    Raises:
        HarnessError: as `detect` and `document`.
    """
    key = None if options.api_key_env is None else api_key(options.api_key_env)
    probed = detect(options.urls[0], options.model, options.api, key, options.network, OPTIONS)
    text = to_yaml(document(options, probed), command)
    return load(text), text
