"""Ready-made profiles, and new profiles from them or for a running endpoint."""

import difflib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from harness.commands import bench
from harness.core.errors import ProfileError
from harness.core.network import Network
from harness.profile import schema
from harness.profile.load import load_profile, load_profile_text, shipped_profiles
from harness.server.detect import OPTIONS, Detected, detect
from harness.server.one_request import DIRECT

DEFAULT_TEMPLATE = "cpu-smoke"
"""Runs on any machine."""

_SCHEMA_LINE = re.compile(r"^# yaml-language-server: .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ReadyMade:
    """A profile that comes with the package, under the name that `harness run` takes."""

    name: str
    purpose: str
    description: str


def ready_made() -> list[ReadyMade]:
    """All ready-made profiles, by name."""
    return [
        ReadyMade(path.stem, profile.purpose.value, profile.description or "")
        for path in sorted(shipped_profiles().glob("*.yaml"))
        for profile in (load_profile(path),)
    ]


def from_template(name: str) -> str:
    """Text of a ready-made profile with its comments.

    Raises:
        ProfileError: there is no such profile.
    """
    path = shipped_profiles() / f"{name}.yaml"
    if name != path.stem or not path.is_file():
        names = sorted(one.stem for one in shipped_profiles().glob("*.yaml"))
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        raise ProfileError(
            f"--template {name!r} is not a ready-made profile",
            next_step=f"use {near[0]}" if near else f"use one of {', '.join(names)}",
        )
    return _SCHEMA_LINE.sub(lambda _: _schema_line(), path.read_text(encoding="utf-8"), count=1)


def for_endpoint(
    url: str,
    model: str | None,
    api_key_env: str | None,
    ca_file: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Text of a profile for a running endpoint, which is asked for its model and API.

    Raises:
        ProfileError: not an address, or no key in the variable.
        InvalidYamlError: the endpoint reported values that no profile can have.
        HarnessError: as for `harness.server.detect.detect`.
    """
    base = bench.base_url(url)
    key = None if api_key_env is None else bench.api_key(api_key_env)
    network = Network(ca_file=ca_file, headers=tuple((headers or {}).items()))
    probed = detect(base, model, None, key, network, OPTIONS)
    text = endpoint_text(base, probed, api_key_env, network)
    load_profile_text(text, source="the profile for this endpoint")
    return text


def endpoint_text(
    url: str, probed: Detected, api_key_env: str | None = None, network: Network = DIRECT
) -> str:
    """The profile of `for_endpoint`. Every line that is commented out can be used as it is."""
    name = _quoted(probed.model)
    limit = probed.max_context_tok
    keyed = api_key_env is not None
    key = _quoted("API_KEY" if api_key_env is None else api_key_env)
    return f"""\
{_schema_line()}
# Benchmark of a running endpoint; docs/reference/profile.md explains every key.
purpose: measure             # smoke: check function only, without performance results
description: Fixed input and output lengths at rising concurrency.
model:
  id: {name}                 # or a folder or hub id, whose tokenizer gives exact prompt lengths
  served_name: {name}        # name that requests carry
  {"" if limit else "# "}max_context_tok: {limit or 32768}
server:
  kind: attach
  urls: [{_quoted(url)}]  # one per replica
  {"" if keyed else "# "}api_key_env: {key}     # environment variable with the API key
  # gpu_count: 8             # GPUs that serve, for results per GPU
  # metrics_urls: [{_quoted(url + "/metrics")}]
traffic:
  api: {probed.api.value}                  # chat, completions, messages or responses
  output_length: {"forced" if probed.forced else "natural"}      # forced sends ignore_eos
{_reached(network)}\
  workload:
    kind: chat               # chat, claude-chat, claude-code, doc-qa, thinking, batch, replay
    system_tok: 0
    user_tok: 1024           # input tokens; {{kind: uniform, min: 896, max: 1152}} varies them
    output_tok: 128
    turns: 1
    context_limit_tok: 1300
  load:                      # stages; windows below 10m give a preliminary verdict
    - {{name: c1, kind: concurrency, concurrency: 1, over: requests, window_s: 60s}}
    - {{name: c8, kind: concurrency, concurrency: 8, over: requests, window_s: 60s}}
    - {{name: c32, kind: concurrency, concurrency: 32, over: requests, window_s: 60s}}
    # - {{name: r2, kind: arrival_rate, rate_per_s: 2, over: requests, window_s: 60s}}
slos:                        # goodput counts the requests that meet all of them
  ttft_s: 1s
  tpot_s: 50ms
# price: {{usd_per_gpu_h: 2.5, source: "contract", date: "2026-11"}}
# thresholds: ["ttft_s.p99 < 2"]   # a failed one exits with 99
# repeats: 5                       # runs with new seeds, for confidence intervals between runs
"""


def _reached(network: Network) -> str:
    """Keys of `traffic` on how to reach the endpoint, those not used as comments."""
    headers = dict(network.headers) or {"X-Tenant": "a"}
    given = ", ".join(f"{_quoted(name)}: {_quoted(value)}" for name, value in headers.items())
    ca_file = _quoted(network.ca_file or "ca.pem")
    return (
        f"  {'' if network.headers else '# '}headers: {{{given}}}     # env:NAME for a secret\n"
        f"  {'' if network.ca_file else '# '}tls: {{ca_file: {ca_file}}}\n"
    )


def _quoted(text: str) -> str:
    """A YAML scalar in double quotes, on one line."""
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = len(text) * 10 + 100
    yaml.dump([DoubleQuotedScalarString(text)], stream)
    return stream.getvalue().removeprefix("- ").rstrip("\n")


def write_new(path: Path, text: str, *, force: bool) -> None:
    """Write a profile.

    Raises:
        ProfileError: the file exists and `force` is not set, or cannot be written.
    """
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ProfileError(
            f"{path} exists", next_step="choose another file, or pass --force to replace it"
        ) from None
    except OSError as error:
        raise ProfileError(
            f"cannot write {path}: {error.strerror or error}", next_step="choose another file"
        ) from error


def _schema_line() -> str:
    path = Path(schema.__file__).with_name("profile.schema.json")
    return f"# yaml-language-server: $schema={path}"
